//! MP4 with H.264, encoded by OpenH264.

mod comment;
mod yuv;

use std::num::NonZeroU32;

use asyncdiff_models::image::Image;
use openh264::encoder::{
    BitRate, Complexity, Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod, Profile,
    QpRange, RateControlMode, VuiConfig,
};
use openh264::{OpenH264API, Timestamp};
use shiguredo_mp4::TrackKind;
use shiguredo_mp4::bitstream::h264::{
    H264NalUnitType, H264SampleEntryConfig, LengthSize, build_avc1_box_from_annexb,
    parse_annexb_nal_units,
};
use shiguredo_mp4::boxes::SampleEntry;
use shiguredo_mp4::mux::{
    Mp4FileMuxer, Mp4FileMuxerOptions, Sample, estimate_maximum_moov_box_size,
};

use self::yuv::Yuv;
use crate::error::WriteProblem;

/// The step of the quantiser, of 0 (none) to 51: nothing to be seen of it, at a few hundred kilobytes a second.
const QUANTISER: u8 = 16;
/// Chooses the level that is announced to players, not the size: the quantiser is fixed.
const BITS_PER_SECOND: u32 = 20_000_000;
/// Frames from one that stands alone to the next, from which players can start.
const KEY_FRAME_PERIOD: u32 = 250;
/// Ticks of the clock a frame; a clock of very few ticks a second makes some players round.
const TICKS: u32 = 512;

pub(super) fn encode(
    frames: &[Image],
    frames_per_second: u32,
    text: &str,
) -> Result<Vec<u8>, WriteProblem> {
    let mut encoder =
        Encoder::with_api_config(OpenH264API::from_source(), config(frames_per_second))
            .map_err(refused)?;
    let user_data = comment::user_data(text);
    let mut file = File::new(frames.len(), frames_per_second, user_data)?;
    for (index, frame) in frames.iter().enumerate() {
        let milliseconds = super::begins(index, 1000, frames_per_second) as u64;
        let encoded = encoder
            .encode_at(&Yuv::new(frame), Timestamp::from_millis(milliseconds))
            .map_err(refused)?;
        let key_frame = match encoded.frame_type() {
            FrameType::IDR => true,
            FrameType::I | FrameType::P => false,
            other => return Err(refused(format!("frame {index} came out as {other:?}"))),
        };
        file.push(&encoded.to_vec(), key_frame)?;
    }
    file.finish()
}

fn refused(error: impl ToString) -> WriteProblem {
    WriteProblem::Encoder(error.to_string())
}

fn config(frames_per_second: u32) -> EncoderConfig {
    EncoderConfig::new()
        .profile(Profile::High)
        .complexity(Complexity::High)
        // Of the modes with a fixed quantiser, the one that leaves out no frame and says nothing on standard error.
        .rate_control_mode(RateControlMode::Bufferbased)
        .skip_frames(false)
        .qp(QpRange::new(QUANTISER, QUANTISER))
        .adaptive_quantization(false)
        .background_detection(false)
        .scene_change_detect(false)
        .bitrate(BitRate::from_bps(BITS_PER_SECOND))
        .max_frame_rate(FrameRate::from_hz(frames_per_second as f32))
        .intra_frame_period(IntraFramePeriod::from_num_frames(KEY_FRAME_PERIOD))
        // Several would slice the picture, for nothing at these sizes.
        .num_threads(1)
        .vui(VuiConfig::bt709())
}

/// An MP4 file with one track.
struct File {
    muxer: Mp4FileMuxer,
    bytes: Vec<u8>,
    ticks_per_second: NonZeroU32,
    /// The box that goes into the index, or nothing.
    user_data: Vec<u8>,
}

impl File {
    fn new(
        frames: usize,
        frames_per_second: u32,
        user_data: Vec<u8>,
    ) -> Result<Self, WriteProblem> {
        let index = estimate_maximum_moov_box_size(&[frames]);
        let muxer = Mp4FileMuxer::with_options(Mp4FileMuxerOptions {
            // Room for the index before the frames, so that a browser can play before it has everything.
            reserved_moov_box_size: index + user_data.len(),
            ..Mp4FileMuxerOptions::default()
        })
        .map_err(refused)?;
        Ok(Self {
            bytes: muxer.initial_boxes_bytes().to_owned(),
            muxer,
            ticks_per_second: NonZeroU32::new(frames_per_second * TICKS).unwrap_or(NonZeroU32::MIN),
            user_data,
        })
    }

    /// Adds a frame that comes as NAL units between start codes (H.264, annex B).
    fn push(&mut self, encoded: &[u8], keyframe: bool) -> Result<(), WriteProblem> {
        let start = self.bytes.len();
        for unit in parse_annexb_nal_units(encoded).map_err(refused)? {
            // The parameters are in the index.
            if !matches!(
                unit.nal_unit_type,
                H264NalUnitType::Sps | H264NalUnitType::Pps
            ) {
                self.bytes.extend((unit.data.len() as u32).to_be_bytes());
                self.bytes.extend(unit.data);
            }
        }
        // The first sample describes them all.
        let sample_entry = if start == self.muxer.initial_boxes_bytes().len() {
            let config = H264SampleEntryConfig {
                length_size: LengthSize::FourBytes,
            };
            let description = build_avc1_box_from_annexb(encoded, &config).map_err(refused)?;
            Some(SampleEntry::Avc1(description))
        } else {
            None
        };
        let sample = Sample {
            track_kind: TrackKind::Video,
            sample_entry,
            keyframe,
            timescale: self.ticks_per_second,
            duration: TICKS,
            composition_time_offset: None,
            data_offset: start as u64,
            data_size: self.bytes.len() - start,
        };
        self.muxer.append_sample(&sample).map_err(refused)
    }

    fn finish(mut self) -> Result<Vec<u8>, WriteProblem> {
        let boxes = self.muxer.finalize().map_err(refused)?;
        for (offset, bytes) in boxes.offset_and_bytes_pairs() {
            let start = offset as usize;
            let end = start + bytes.len();
            // Only a muxer that had too little room in front writes behind the frames.
            self.bytes.resize(self.bytes.len().max(end), 0);
            self.bytes[start..end].copy_from_slice(bytes);
        }
        if !self.user_data.is_empty() {
            comment::append(&mut self.bytes, &self.user_data)
                .ok_or_else(|| refused("the settings do not fit into the file's index"))?;
        }
        Ok(self.bytes)
    }
}

//! Animated WebP: lossless pictures in the container of the WebP specification, section "Extended File Format".

use asyncdiff_models::image::Image;

use super::duration;
use crate::error::WriteProblem;
use crate::exif;
use crate::picture::{Format, to_bytes};

/// The flag of an animation in the header.
const ANIMATION: u8 = 0x02;
/// The flag of Exif data in the header.
const EXIF: u8 = 0x08;
/// The flag of a frame that replaces what was there instead of being blended with it.
const DO_NOT_BLEND: u8 = 0x02;
/// Length of a file's `RIFF`, size and `WEBP`.
const FILE_HEADER: usize = 12;

pub(super) fn encode(
    frames: &[Image],
    frames_per_second: u32,
    text: &str,
) -> Result<Vec<u8>, WriteProblem> {
    let size = [frames[0].width, frames[0].height].map(|side| three_bytes(side - 1));
    let flags = match text {
        "" => ANIMATION,
        _ => ANIMATION | EXIF,
    };
    let header = [&[flags, 0, 0, 0], &*size.concat()].concat();
    // The background, which is never seen, and 0 plays, which is forever.
    let animation = [0; 6];
    let mut chunks = b"WEBP".to_vec();
    push_chunk(&mut chunks, b"VP8X", &header);
    push_chunk(&mut chunks, b"ANIM", &animation);
    for (index, frame) in frames.iter().enumerate() {
        let picture = to_bytes(Format::WebP, frame, "", None)?;
        let at_the_origin = [0; 6];
        let content = [
            &at_the_origin,
            &*size.concat(),
            &three_bytes(duration(index, 1000, frames_per_second)),
            &[DO_NOT_BLEND],
            &picture[FILE_HEADER..],
        ];
        push_chunk(&mut chunks, b"ANMF", &content.concat());
    }
    if !text.is_empty() {
        push_chunk(&mut chunks, b"EXIF", &exif::user_comment(text));
    }
    if u32::try_from(chunks.len()).is_err() {
        return Err(WriteProblem::Encoder(
            "the video takes more than the 4 GiB that WebP can hold, write MP4".to_owned(),
        ));
    }
    let mut output = Vec::with_capacity(chunks.len() + 8);
    push_chunk(&mut output, b"RIFF", &chunks);
    Ok(output)
}

/// The lowest 24 bits.
fn three_bytes(number: usize) -> [u8; 3] {
    let [first, second, third, _] = (number as u32).to_le_bytes();
    [first, second, third]
}

/// A name, a length, the content, and a byte more where the length is odd.
fn push_chunk(output: &mut Vec<u8>, name: &[u8; 4], content: &[u8]) {
    output.extend(name);
    output.extend((content.len() as u32).to_le_bytes());
    output.extend(content);
    if content.len() % 2 == 1 {
        output.push(0);
    }
}

//! MP4: the boxes by the standard (ISO/IEC 14496-12 and -15), the pictures by a decoder.

use std::fs;

use asyncdiff_media::video;
use asyncdiff_models::image::Image;
use openh264::decoder::Decoder;
use openh264::formats::YUVSource;

use super::{moving, psnr};

/// The name of the box of a comment: ©cmt in Latin-1.
const COMMENT: &str = "\u{a9}cmt";

/// Name and content of every box, in order; names are Latin-1.
fn boxes(mut bytes: &[u8]) -> Vec<(String, &[u8])> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (header, size) = match number(bytes, 0, 4) {
            1 => (16, number(bytes, 8, 8)),
            size => (8, size),
        };
        let name = bytes[4..8].iter().copied().map(char::from).collect();
        found.push((name, &bytes[header..size]));
        bytes = &bytes[size..];
    }
    found
}

/// The content of the box that the names lead to.
fn find<'a>(bytes: &'a [u8], names: &[&str]) -> &'a [u8] {
    names.iter().fold(bytes, |bytes, name| {
        let mut all = boxes(bytes).into_iter();
        all.find(|(found, _)| found == name)
            .unwrap_or_else(|| panic!("{name} in {names:?}"))
            .1
    })
}

fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    let fold = |sum: usize, byte: &u8| sum << 8 | usize::from(*byte);
    bytes[at..at + length].iter().fold(0, fold)
}

/// Reads the fields of an H.264 parameter set (ITU-T H.264, clause 9.1).
struct Bits {
    bits: Vec<bool>,
    at: usize,
}

impl Bits {
    fn new(unit: &[u8]) -> Self {
        let mut bits = Vec::new();
        let mut zeros = 0;
        for &byte in unit {
            // A three after two zeros only keeps them from looking like a start code.
            if !(zeros >= 2 && byte == 3) {
                bits.extend((0..8).rev().map(|bit| byte >> bit & 1 == 1));
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
        }
        Self { bits, at: 0 }
    }

    fn take(&mut self, count: usize) -> usize {
        let bits = &self.bits[self.at..self.at + count];
        self.at += count;
        bits.iter().fold(0, |sum, bit| sum << 1 | usize::from(*bit))
    }

    /// An Exp-Golomb number.
    fn golomb(&mut self) -> usize {
        let zeros = self.bits[self.at..].iter().take_while(|bit| !**bit).count();
        self.at += zeros;
        self.take(zeros + 1) - 1
    }
}

struct Parameters {
    profile: usize,
    size: (usize, usize),
    full_range: usize,
    /// Primaries, transfer, matrix.
    color: [usize; 3],
}

/// Clauses 7.3.2.1.1 and E.1.1, of what the encoder writes.
fn parameters(unit: &[u8]) -> Parameters {
    let mut bits = Bits::new(unit);
    assert_eq!(bits.take(8) & 31, 7);
    let profile = bits.take(8);
    bits.take(16);
    bits.golomb();
    if profile == 100 {
        assert_eq!(bits.golomb(), 1, "4:2:0");
        assert_eq!([bits.golomb(), bits.golomb()], [0, 0], "8 bits");
        assert_eq!(bits.take(2), 0);
    }
    bits.golomb();
    match bits.golomb() {
        0 => drop(bits.golomb()),
        order => assert_eq!(order, 2),
    }
    bits.golomb();
    bits.take(1);
    let mut size = [bits.golomb(), bits.golomb()].map(|blocks| (blocks + 1) * 16);
    assert_eq!(bits.take(1), 1, "progressive");
    bits.take(1);
    if bits.take(1) == 1 {
        for side in &mut size {
            *side -= 2 * (bits.golomb() + bits.golomb());
        }
    }
    assert_eq!(bits.take(1), 1, "usability information");
    assert_eq!([bits.take(1), bits.take(1)], [0, 0]);
    assert_eq!(bits.take(1), 1, "signal type");
    bits.take(3);
    let full_range = bits.take(1);
    assert_eq!(bits.take(1), 1, "colour description");
    Parameters {
        profile,
        size: size.into(),
        full_range,
        color: [bits.take(8), bits.take(8), bits.take(8)],
    }
}

/// What a player shows: BT.709 in limited range (ITU-T H.273), every chroma sample for four pixels.
fn to_rgb(frame: &impl YUVSource) -> Image {
    let (width, height) = frame.dimensions();
    let strides = frame.strides();
    let pixel = |x: usize, y: usize| {
        let luma = (f32::from(frame.y()[y * strides.0 + x]) - 16.0) / 219.0;
        let chroma = |plane: &[u8], stride: usize| {
            (f32::from(plane[y / 2 * stride + x / 2]) - 128.0) / 224.0
        };
        let (blue, red) = (chroma(frame.u(), strides.1), chroma(frame.v(), strides.2));
        let blue = luma + 1.8556 * blue;
        let red = luma + 1.5748 * red;
        let green = (luma - 0.2126 * red - 0.0722 * blue) / 0.7152;
        [red, green, blue].map(|value| (value * 255.0).round().clamp(0.0, 255.0) as u8)
    };
    let rgb = (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .flat_map(|(x, y)| pixel(x, y))
        .collect();
    Image { width, height, rgb }
}

/// Without what is between the rows.
fn luma(frame: &impl YUVSource) -> Vec<u8> {
    let (width, height) = frame.dimensions();
    let rows = frame.y().chunks(frame.strides().0).take(height);
    rows.flat_map(|row| row[..width].to_owned()).collect()
}

/// BT.709 in limited range (ITU-T H.273).
fn luma_of(image: &Image) -> Vec<u8> {
    let luma = |pixel: &[u8; 3]| {
        let [red, green, blue] = pixel.map(f32::from);
        (16.0 + 219.0 / 255.0 * (0.2126 * red + 0.7152 * green + 0.0722 * blue)).round() as u8
    };
    image.rgb.as_chunks().0.iter().map(luma).collect()
}

/// The last row and column again where the size is odd.
fn padded(image: &Image) -> Image {
    let (width, height) = (
        image.width.next_multiple_of(2),
        image.height.next_multiple_of(2),
    );
    let rgb = (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .flat_map(|(x, y)| {
            let at = (y.min(image.height - 1) * image.width + x.min(image.width - 1)) * 3;
            image.rgb[at..at + 3].to_owned()
        })
        .collect();
    Image { width, height, rgb }
}

#[test]
fn mp4_plays_as_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    for (width, height, count, frames_per_second) in [
        (64, 64, 16, 8),
        (1024, 576, 5, 7),
        (65, 47, 9, 30),
        (16, 16, 1, 1),
        (70, 130, 3, 240),
    ] {
        let frames = moving(width, height, count);
        // None, a short one, and one longer than what is reserved for the index without it.
        let text = "猫, seed 7".repeat([0, 1, 500][count % 3]);
        video::write(&path, &frames, frames_per_second, &text).unwrap();
        let file = fs::read(&path).unwrap();
        let even = padded(&frames[0]);

        let comment = boxes(find(&file, &["moov"]))
            .into_iter()
            .find(|(name, _)| *name == "udta");
        assert_eq!(comment.is_none(), text.is_empty());
        if let Some((_, user_data)) = comment {
            let meta = find(user_data, &["meta"]);
            // A box with a version in front, and the kind of the data that follows.
            assert_eq!(&find(&meta[4..], &["hdlr"])[8..12], b"mdir");
            let data = find(&meta[4..], &["ilst", COMMENT, "data"]);
            assert_eq!(data[..8], [0, 0, 0, 1, 0, 0, 0, 0]);
            assert_eq!(&data[8..], text.as_bytes());
        }

        // Everything that a player must know comes before the frames.
        let order: Vec<_> = boxes(&file)
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| name != "free")
            .collect();
        assert_eq!(order, ["ftyp", "moov", "mdat"]);

        let moov = find(&file, &["moov"]);
        let header = find(moov, &["mvhd"]);
        assert_eq!(header[0], 0, "version");
        // Duration times frame rate is the number of frames times the clock.
        assert_eq!(
            number(header, 16, 4) * frames_per_second as usize,
            count * number(header, 12, 4)
        );
        let track = find(moov, &["trak", "tkhd"]);
        let size = [track.len() - 8, track.len() - 4].map(|at| number(track, at, 2));
        assert_eq!(size, [even.width, even.height]);

        let media = find(moov, &["trak", "mdia"]);
        let clock = number(find(media, &["mdhd"]), 12, 4);
        let table = find(media, &["minf", "stbl"]);
        // All frames are shown equally long.
        let times = find(table, &["stts"]);
        assert_eq!(number(times, 4, 4), 1);
        assert_eq!(number(times, 8, 4), count);
        assert_eq!(number(times, 12, 4) * frames_per_second as usize, clock);
        // The first frame stands alone. (Without a table all would.)
        if count > 1 {
            let alone = find(table, &["stss"]);
            assert_eq!([number(alone, 4, 4), number(alone, 8, 4)], [1, 1]);
        }

        let entry = find(&find(table, &["stsd"])[8..], &["avc1"]);
        assert_eq!(
            [number(entry, 24, 2), number(entry, 26, 2)],
            [even.width, even.height]
        );
        let config = find(&entry[78..], &["avcC"]);
        assert_eq!(config[4] & 3, 3, "lengths of four bytes");
        let length = number(config, 6, 2);
        let sequence = &config[8..8 + length];
        let picture = &config[8 + length + 3..][..number(config, 8 + length + 1, 2)];
        let found = parameters(sequence);
        assert_eq!(found.profile, 100);
        assert_eq!(found.size, (even.width, even.height));
        assert_eq!((found.full_range, found.color), (0, [1, 1, 1]), "BT.709");

        // One frame after the other, from the first chunk on.
        let sizes = find(table, &["stsz"]);
        assert_eq!(number(sizes, 8, 4), count);
        let mut at = number(find(table, &["stco"]), 8, 4);
        let start = [0, 0, 0, 1];
        let mut stream = [&start, sequence, &start, picture].concat();
        let mut decoder = Decoder::new().unwrap();
        for (index, frame) in frames.iter().enumerate() {
            let size = number(sizes, 12 + 4 * index, 4);
            let mut sample = &file[at..at + size];
            while !sample.is_empty() {
                let length = number(sample, 0, 4);
                stream.extend(start);
                stream.extend(&sample[4..4 + length]);
                sample = &sample[4 + length..];
            }
            at += size;
            let decoded = decoder.decode(&stream).unwrap().expect("a frame");
            stream.clear();
            let frame = padded(frame);
            // The quantiser's step is 4 at 16, and the encoder rounds towards zero from 5/6 of it at most. Were every
            // coefficient off by that, it would be 37.7 dB.
            let found = psnr(&luma(&decoded), &luma_of(&frame));
            assert!(
                found > 37.7,
                "{width} by {height}, frame {index}: {found} dB"
            );
            // A disc's edge loses colour to 4:2:0; here it is one pixel in 300.
            if width == 1024 {
                let found = psnr(&to_rgb(&decoded).rgb, &frame.rgb);
                assert!(found > 36.0, "frame {index}: {found} dB");
            }
        }
    }
}

/// Without edges there is nothing that 4:2:0 would lose.
#[test]
fn colours_survive_mp4() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    for color in [[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 180, 40]] {
        let image = Image {
            width: 32,
            height: 32,
            rgb: color.repeat(32 * 32),
        };
        video::write(&path, &[image], 8, "").unwrap();
        let file = fs::read(&path).unwrap();
        let table = find(&file, &["moov", "trak", "mdia", "minf", "stbl"]);
        let entry = find(&find(table, &["stsd"])[8..], &["avc1"]);
        let config = find(&entry[78..], &["avcC"]);
        let length = number(config, 6, 2);
        let picture = &config[8 + length + 3..][..number(config, 8 + length + 1, 2)];
        let at = number(find(table, &["stco"]), 8, 4);
        let sample = &file[at + 4..][..number(&file, at, 4)];
        let start = [0, 0, 0, 1];
        let units = [&config[8..8 + length], picture, sample];
        let stream = units.map(|unit| [&start, unit].concat()).concat();
        let mut decoder = Decoder::new().unwrap();
        let decoded = to_rgb(&decoder.decode(&stream).unwrap().unwrap());
        for pixel in decoded.rgb.as_chunks::<3>().0 {
            for (found, expected) in pixel.iter().zip(&color) {
                assert!(found.abs_diff(*expected) <= 3, "{pixel:?} for {color:?}");
            }
        }
    }
}

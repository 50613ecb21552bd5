//! Pictures to files and back.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use asyncdiff_media::{MediaError, ReadProblem, WriteProblem, picture};
use asyncdiff_models::image::Image;
use serde_json::Value;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Noise that is the same every time (a linear congruential generator's upper bits).
fn noise(width: usize, height: usize) -> Image {
    let mut state = 7_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let rgb = (0..width * height * 3).map(|_| byte()).collect();
    Image { width, height, rgb }
}

fn psnr(left: &Image, right: &Image) -> f64 {
    assert_eq!((left.width, left.height), (right.width, right.height));
    let square = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
    let sum: f64 = left.rgb.iter().zip(&right.rgb).map(square).sum();
    10.0 * (255.0 * 255.0 / (sum / left.rgb.len() as f64)).log10()
}

fn texts(path: &Path) -> png::Info<'static> {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path).unwrap()))
        .read_info()
        .unwrap();
    reader.finish().unwrap();
    reader.info().clone()
}

#[test]
fn png_and_webp_come_back_as_they_were() {
    let folder = folder();
    for (width, height) in [(1, 1), (3, 2), (64, 64), (257, 31)] {
        let image = noise(width, height);
        for name in ["a.png", "b.PNG", "c.webp"] {
            let path = folder.path().join(name);
            fs::write(&path, "old").unwrap();
            picture::write(&path, &image, "").unwrap();
            assert_eq!(picture::read(&path).unwrap(), image, "{name}");
        }
    }
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        3,
        "the temporary files are gone"
    );
}

/// At quality 95 the steps of the quantiser are at most 12. Were every coefficient off by an error uniform within a step
/// of 12, and every channel of RGB made of Y and 1.772 Cb (the largest coefficients there are), the mean square error would
/// be 12² / 12 * (1 + 1.772²) = 50, which is 31 dB: the least to be expected, even of noise. Smooth pictures lose but the
/// rounding.
#[test]
fn jpeg_comes_back_close() {
    let folder = folder();
    let path = folder.path().join("a.jpeg");
    let smooth = |width: usize, height: usize| Image {
        width,
        height,
        rgb: (0..width * height)
            .flat_map(|index| [(index % width) as u8, (index / width) as u8, 90])
            .collect(),
    };
    for (image, least) in [
        (noise(64, 48), 31.0),
        (noise(17, 33), 31.0),
        (smooth(200, 100), 45.0),
    ] {
        picture::write(&path, &image, "").unwrap();
        let psnr = psnr(&picture::read(&path).unwrap(), &image);
        assert!(psnr > least && psnr < 99.0, "{psnr} dB");
    }
}

#[test]
fn the_text_is_where_web_interfaces_look_for_it() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let image = noise(3, 2);
    picture::write(&path("latin.png"), &image, "café, seed 7").unwrap();
    let info = texts(&path("latin.png"));
    assert_eq!(info.uncompressed_latin1_text[0].keyword, "parameters");
    assert_eq!(info.uncompressed_latin1_text[0].text, "café, seed 7");
    picture::write(&path("other.png"), &image, "猫 🐈").unwrap();
    let info = texts(&path("other.png"));
    assert_eq!(info.utf8_text[0].keyword, "parameters");
    assert_eq!(info.utf8_text[0].get_text().unwrap(), "猫 🐈");
    picture::write(&path("silent.png"), &image, "").unwrap();
    let info = texts(&path("silent.png"));
    assert!(info.uncompressed_latin1_text.is_empty() && info.utf8_text.is_empty());

    let utf16: Vec<u8> = "猫 🐈".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let comment = [b"UNICODE\0", &*utf16].concat();
    for name in ["a.jpg", "a.webp"] {
        picture::write(&path(name), &image, "猫 🐈").unwrap();
        let bytes = fs::read(path(name)).unwrap();
        assert!(
            bytes.windows(comment.len()).any(|window| window == comment),
            "{name}"
        );
        assert_eq!(picture::read(&path(name)).unwrap().width, 3);
    }
}

/// Expected: Pillow, see `pictures/make.py`.
#[test]
fn pictures_are_read_as_diffusers_reads_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    let expected: Value =
        serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let files = expected["files"].as_object().unwrap();
    assert!(files.len() > 25);
    for (name, expected) in files {
        let image = picture::read(&folder.join(name)).unwrap();
        let mask = picture::read_mask(&folder.join(name)).unwrap();
        let size = [image.width, image.height].map(|side| Value::from(side as u64));
        assert_eq!(
            size,
            [expected["width"].clone(), expected["height"].clone()],
            "{name}"
        );
        assert_eq!((mask.width, mask.height), (image.width, image.height));
        // Decoders of lossy formats may round differently: the inverse cosine transform by one, which is up to 1.772 after
        // the conversion to RGB.
        let lossy = name.ends_with(".jpg") || name.starts_with("lossy");
        let most = if lossy { 2 } else { 0 };
        for (key, found) in [("rgb", &image.rgb), ("grey", &mask.grey)] {
            let expected = bytes(&expected[key]);
            assert_eq!(expected.len(), found.len(), "{name}");
            let difference = expected
                .iter()
                .zip(found)
                .map(|(expected, found)| expected.abs_diff(*found))
                .max();
            assert!(
                difference <= Some(most),
                "{name}, {key}: off by {difference:?}"
            );
        }
    }
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// Unlike Pillow, which makes white of whatever is above 255 of 65535.
#[test]
fn of_16_bit_grey_the_upper_8_bits_are_taken() {
    let folder = folder();
    let path = folder.path().join("grey.png");
    let mut encoder = png::Encoder::new(File::create(&path).unwrap(), 3, 1);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    let mut writer = encoder.write_header().unwrap();
    let samples = [0_u16, 0x1234, 0xffff].map(u16::to_be_bytes).concat();
    writer.write_image_data(&samples).unwrap();
    writer.finish().unwrap();
    assert_eq!(picture::read_mask(&path).unwrap().grey, [0x00, 0x12, 0xff]);
}

#[test]
fn files_that_are_no_pictures_are_named_with_what_is_wrong() {
    let folder = folder();
    let path = folder.path().join("a.png");
    let fails = || match picture::read(&path) {
        Err(MediaError::Read { problem, path }) => {
            assert!(path.ends_with("a.png"));
            problem
        }
        other => panic!("{other:?}"),
    };
    assert!(matches!(fails(), ReadProblem::Io(_)));
    for content in ["", "hello", "GIF89a", "RIFF1234WAVE"] {
        fs::write(&path, content).unwrap();
        assert!(matches!(fails(), ReadProblem::NotAPicture), "{content}");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(fails(), ReadProblem::Io(_)));

    let error = picture::read(&folder.path().join("b.png")).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("cannot read /")
            && text.ends_with("b.png: there is no such file, check its name"),
        "{text}"
    );
}

/// Every beginning of every kind of file: an error, never a panic, and never half a picture.
#[test]
fn truncated_files_are_errors() {
    let folder = folder();
    let image = noise(40, 30);
    for name in ["a.png", "a.jpg", "a.webp"] {
        let path = folder.path().join(name);
        picture::write(&path, &image, "").unwrap();
        let whole = fs::read(&path).unwrap();
        // The last bytes may say nothing about the pixels: PNG's end chunk, JPEG's end marker, WebP's padding.
        let lengths = (0..whole.len() - 24)
            .step_by(whole.len() / 97)
            .chain([whole.len() - 25]);
        let mut kinds = BTreeSet::new();
        for length in lengths {
            fs::write(&path, &whole[..length]).unwrap();
            match picture::read(&path) {
                Err(MediaError::Read { problem, .. }) => match problem {
                    ReadProblem::NotAPicture => kinds.insert("none"),
                    ReadProblem::Damaged { .. } => kinds.insert("damaged"),
                    other => panic!("{name}, {length} bytes: {other}"),
                },
                _ => panic!("{name}: {length} of {} bytes are enough", whole.len()),
            };
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(kinds, BTreeSet::from(["damaged", "none"]));
    }
}

/// Single bytes changed: a picture or an error, never a panic.
#[test]
fn damaged_files_do_no_harm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    let target = self::folder();
    let path = target.path().join("a");
    let mut errors = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let whole = fs::read(&file).unwrap();
        if whole.starts_with(b"{") || whole.starts_with(b"\"\"\"") {
            continue;
        }
        for at in (0..whole.len()).step_by(5) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            fs::write(&path, damaged).unwrap();
            errors += usize::from(picture::read(&path).is_err());
            // File systems take their time to write over a file, but not to forget one.
            fs::remove_file(&path).unwrap();
        }
    }
    assert!(errors > 100, "{errors}");
}

/// A header of 33 bytes that promises 36 GB.
#[test]
fn a_picture_that_would_fill_the_memory_is_refused() {
    let folder = folder();
    let path = folder.path().join("a.png");
    picture::write(&path, &noise(3, 2), "").unwrap();
    let mut bytes = fs::read(&path).unwrap();
    // Width and height at bytes 16 to 23, the checksum of the chunk at 29 to 32.
    bytes[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    fs::write(&path, bytes).unwrap();
    let error = picture::read(&path).unwrap_err().to_string();
    assert!(error.contains("100000 by 100000 pixels"), "{error}");
}

/// PNG's checksum, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc))
    })
}

#[test]
fn paths_that_cannot_be_written_are_told_before() {
    let folder = folder();
    let problem = |path: PathBuf| match picture::check_path(&path) {
        Err(MediaError::Write { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    let path = folder.path().join("missing").join("a.png");
    let error = picture::check_path(&path).unwrap_err().to_string();
    assert!(error.contains("missing does not exist"), "{error}");
    assert!(picture::write(&path, &noise(3, 2), "").is_err());
    assert!(matches!(
        problem(folder.path().to_owned()),
        WriteProblem::Folder
    ));
    for name in ["a.bmp", "a", "png", "a.mp4", ".png"] {
        let path = folder.path().join(name);
        assert!(
            matches!(problem(path), WriteProblem::PictureExtension),
            "{name}"
        );
    }
    for name in ["a.png", "a.jpg", "a.jpeg", "a.WebP"] {
        picture::check_path(&folder.path().join(name)).unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_failure_leaves_nothing_behind_and_spares_the_old_file() {
    let folder = folder();
    let torn = Image {
        rgb: vec![0; 5],
        ..noise(3, 2)
    };
    let empty = Image {
        width: 0,
        height: 0,
        rgb: Vec::new(),
    };
    let wide = noise(70_000, 1);
    let long = "a".repeat(33_000);
    let cases = [
        ("a.png", &torn, "a"),
        ("a.png", &empty, "a"),
        ("a.png", &noise(3, 2), "a\0b"),
        ("a.jpg", &torn, "a"),
        ("a.jpg", &wide, "a"),
        ("a.jpg", &noise(3, 2), &long),
        ("a.webp", &empty, "a"),
        ("a.webp", &wide, "a"),
    ];
    for (name, image, text) in cases {
        let path = folder.path().join(name);
        fs::write(&path, "old").unwrap();
        // The first of two is sound, and is not written either.
        let other = folder.path().join("other.png");
        let images = [noise(3, 2), image.clone()];
        let texts = ["a", text].map(str::to_owned);
        let error = picture::write_all(&[other, path.clone()], &images, &texts).unwrap_err();
        let (error, name) = (error.to_string(), format!("{name}: "));
        assert!(error.contains(&name) || text.contains('\0'), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        fs::remove_file(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    let directory = folder.path().join("d.png");
    fs::create_dir(&directory).unwrap();
    assert!(picture::write(&directory, &noise(3, 2), "").is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

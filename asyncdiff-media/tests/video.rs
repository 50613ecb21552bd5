//! Videos to files and back.

#[path = "video/mp4.rs"]
#[cfg(feature = "mp4")]
mod mp4;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use asyncdiff_media::{MediaError, WriteProblem, picture, video};
use asyncdiff_models::image::Image;

/// A disc that moves over a background that brightens, in colours that differ from frame to frame.
fn moving(width: usize, height: usize, frames: usize) -> Vec<Image> {
    let frame = |time: usize| {
        let radius = width.min(height) as f32 / 4.0;
        let center = (width as f32 / 4.0 + time as f32, height as f32 / 2.0);
        let pixel = |x: usize, y: usize| {
            let away = (x as f32 - center.0).hypot(y as f32 - center.1);
            if away < radius {
                [220, 40 + 2 * time as u8, 60]
            } else {
                let across = (x * 120 / width) as u8;
                let down = (y * 80 / height) as u8;
                [40 + across, 60 + down, 180 - across]
            }
        };
        let rgb = (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| pixel(x, y)))
            .collect();
        Image { width, height, rgb }
    };
    (0..frames).map(frame).collect()
}

/// Moving, in at most 8 colours.
fn flat(width: usize, height: usize, frames: usize) -> Vec<Image> {
    let mut images = moving(width, height, frames);
    for byte in images.iter_mut().flat_map(|image| &mut image.rgb) {
        *byte = if *byte > 110 { 200 } else { 30 };
    }
    images
}

fn psnr(left: &[u8], right: &[u8]) -> f64 {
    assert_eq!(left.len(), right.len());
    let square = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
    let sum: f64 = left.iter().zip(right).map(square).sum();
    10.0 * (255.0 * 255.0 / (sum / left.len() as f64)).log10()
}

/// Frames of a GIF with their delays in hundredths of a second, and whether it plays forever.
fn read_gif(path: &Path) -> (Vec<Vec<u8>>, Vec<usize>, bool) {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    let mut reader = options
        .read_info(BufReader::new(File::open(path).unwrap()))
        .unwrap();
    let (mut frames, mut delays) = (Vec::new(), Vec::new());
    while let Some(frame) = reader.read_next_frame().unwrap() {
        delays.push(frame.delay.into());
        let opaque = frame.buffer.as_chunks::<4>().0.iter();
        frames.push(opaque.flat_map(|&[r, g, b, _]| [r, g, b]).collect());
    }
    (frames, delays, reader.repeat() == gif::Repeat::Infinite)
}

#[test]
fn a_gif_of_few_colours_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gif");
    for (width, height) in [(64, 64), (31, 17), (1, 1)] {
        let frames = flat(width, height, 7);
        video::write(&path, &frames, 8, "").unwrap();
        let (found, delays, forever) = read_gif(&path);
        let expected: Vec<_> = frames.iter().map(|frame| frame.rgb.clone()).collect();
        assert_eq!(found, expected);
        assert!(forever);
        // 8 frames a second are 12.5 hundredths each.
        assert_eq!(delays, [13, 12, 13, 12, 13, 12, 13]);
    }
}

/// With 256 colours of its own, a frame that uses some 5000 close to each other is off by a few of 255 everywhere; dithering
/// doubles that for a pixel and takes it away from an area.
#[test]
fn a_gif_of_many_colours_comes_back_close() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gif");
    let frames = moving(200, 120, 3);
    video::write(&path, &frames, 25, "").unwrap();
    let (found, delays, _) = read_gif(&path);
    assert_eq!(delays, [4; 3]);
    for (found, frame) in found.iter().zip(&frames) {
        let pixels = psnr(found, &frame.rgb);
        assert!(pixels > 33.0, "{pixels} dB");
        let area = |rgb: &[u8]| {
            let mean = |at: usize| {
                let corner = (at / 50 * 4 * 200 + at % 50 * 4) * 3;
                (0..3).map(move |channel| (corner, channel))
            };
            (0..30 * 50)
                .flat_map(mean)
                .map(|(corner, channel)| {
                    let rows = (0..4).flat_map(|y| (0..4).map(move |x| (y * 200 + x) * 3));
                    let sum: u32 = rows
                        .map(|offset| u32::from(rgb[corner + offset + channel]))
                        .sum();
                    (sum / 16) as u8
                })
                .collect::<Vec<_>>()
        };
        let areas = psnr(&area(found), &area(&frame.rgb));
        assert!(areas > 42.0, "{areas} dB");
    }
}

#[test]
fn an_animated_webp_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.webp");
    for (width, height) in [(64, 64), (31, 17), (1, 1)] {
        let frames = moving(width, height, 7);
        video::write(&path, &frames, 30, "").unwrap();
        let file = BufReader::new(File::open(&path).unwrap());
        let mut decoder = image_webp::WebPDecoder::new(file).unwrap();
        assert_eq!(decoder.dimensions(), (width as u32, height as u32));
        assert_eq!(decoder.num_frames(), 7);
        assert_eq!(decoder.loop_count(), image_webp::LoopCount::Forever);
        let mut total = 0;
        for frame in &frames {
            let mut rgb = vec![0; decoder.output_buffer_size().unwrap()];
            let milliseconds = decoder.read_frame(&mut rgb).unwrap();
            assert!((33..=34).contains(&milliseconds));
            total += milliseconds;
            assert_eq!(rgb, frame.rgb);
        }
        assert_eq!(total, 233);
        // Whoever reads pictures only gets the first frame.
        assert_eq!(picture::read(&path).unwrap(), frames[0]);
    }
}

#[test]
fn an_animated_png_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    for (width, height) in [(64, 64), (31, 17), (1, 1)] {
        let frames = moving(width, height, 7);
        video::write(&path, &frames, 7, "").unwrap();
        let file = BufReader::new(File::open(&path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let control = reader.info().animation_control.unwrap();
        assert_eq!((control.num_frames, control.num_plays), (7, 0));
        for frame in &frames {
            let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut rgb).unwrap();
            let control = reader.info().frame_control.unwrap();
            assert_eq!((control.delay_num, control.delay_den), (1, 7));
            assert_eq!(rgb, frame.rgb);
        }
        assert_eq!(picture::read(&path).unwrap(), frames[0]);
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_folder_holds_numbered_frames_and_nothing_of_an_earlier_video() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames/");
    for count in [12, 3] {
        let frames = moving(20, 10, count);
        video::check_path(&path).unwrap();
        video::write(&path, &frames, 8, "").unwrap();
        let expected: Vec<_> = (0..count)
            .map(|index| format!("frame-{index:04}.png"))
            .collect();
        assert_eq!(names(&path), expected);
        for (name, frame) in expected.iter().zip(&frames) {
            assert_eq!(&picture::read(&path.join(name)).unwrap(), frame);
        }
        assert_eq!(
            names(folder.path()),
            ["frames"],
            "no temporary folder is left"
        );
    }
    // A folder that is there needs no / at the end.
    let slashless = folder.path().join("frames");
    video::write(&slashless, &moving(20, 10, 1), 8, "").unwrap();
    assert_eq!(names(&path), ["frame-0000.png"]);

    fs::write(path.join("notes.txt"), "precious").unwrap();
    for result in [
        video::check_path(&path),
        video::write(&path, &moving(20, 10, 1), 8, ""),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("holds notes.txt"), "{error}");
    }
    assert_eq!(names(&path), ["frame-0000.png", "notes.txt"]);
    assert_eq!(names(folder.path()), ["frames"]);
}

#[test]
fn only_a_folder_with_a_frame_holds_frames() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames/");
    assert!(!video::holds_frames(&path));
    fs::create_dir(&path).unwrap();
    assert!(!video::holds_frames(&path));
    fs::write(path.join("frame-1.png"), "not one of ours").unwrap();
    assert!(!video::holds_frames(&path));
    fs::write(path.join("frame-0001.png"), "").unwrap();
    assert!(video::holds_frames(&path));
    assert!(!video::holds_frames(&path.join("frame-0001.png")));
}

/// The text of a GIF's comments (GIF89a, section 24), which lie in front of the first picture.
fn gif_comment(bytes: &[u8]) -> Vec<u8> {
    let picture = bytes.iter().position(|&byte| byte == 0x2c).unwrap();
    let start = bytes.windows(2).position(|pair| pair == [0x21, 0xfe]);
    let start = start.unwrap();
    assert!(start < picture);
    let (mut text, mut rest) = (Vec::new(), &bytes[start + 2..]);
    while let Some((length @ 1.., block)) = rest.split_first() {
        let (block, after) = block.split_at(usize::from(*length));
        text.extend(block);
        rest = after;
    }
    text
}

fn png_text(path: &Path) -> String {
    let file = BufReader::new(File::open(path).unwrap());
    let reader = png::Decoder::new(file).read_info().unwrap();
    let text = &reader.info().utf8_text[0];
    assert_eq!(text.keyword, "parameters");
    text.get_text().unwrap()
}

/// MP4 is in `video/mp4.rs`.
#[test]
fn videos_carry_their_settings() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // Longer than a block of a GIF, and not Latin-1.
    let text = "a cat 猫\nSteps: 3, Seed: 7".repeat(30);
    let frames = flat(20, 10, 2);
    for name in ["a.gif", "a.webp", "a.png", "frames/"] {
        video::write(&path(name), &frames, 8, &text).unwrap();
    }
    assert_eq!(
        gif_comment(&fs::read(path("a.gif")).unwrap()),
        text.as_bytes()
    );
    assert_eq!(read_gif(&path("a.gif")).0.len(), 2);

    let file = BufReader::new(File::open(path("a.webp")).unwrap());
    let mut decoder = image_webp::WebPDecoder::new(file).unwrap();
    assert_eq!(decoder.num_frames(), 2);
    let exif = decoder.exif_metadata().unwrap().unwrap();
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    assert!(exif.ends_with(&[b"UNICODE\0", &*utf16].concat()));

    assert_eq!(png_text(&path("a.png")), text);
    for frame in names(&path("frames")) {
        assert_eq!(png_text(&path("frames").join(frame)), text);
    }

    let found = problem(video::write(&path("b.png"), &frames, 8, "a\0b"));
    assert!(matches!(found, WriteProblem::Text(_)));
    assert!(!path("b.png").exists());
}

fn problem(result: Result<(), MediaError>) -> WriteProblem {
    match result {
        Err(MediaError::Write { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn paths_that_cannot_hold_a_video_are_told_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["a.jpg", "a.avi", "a", "mp4", ".gif"] {
        let found = problem(video::check_path(&path(name)));
        assert!(matches!(found, WriteProblem::VideoExtension), "{name}");
        let text = found.to_string();
        assert!(text.contains(".mp4, .gif, .webp, .png or /"), "{text}");
    }
    for name in ["missing/a.gif", "missing/frames/"] {
        let found = problem(video::check_path(&path(name)));
        assert!(matches!(found, WriteProblem::MissingFolder(_)), "{name}");
    }
    fs::write(path("file"), "").unwrap();
    let found = problem(video::check_path(&path("file/")));
    assert!(matches!(found, WriteProblem::File));
    for name in ["..", "/"] {
        let found = problem(video::check_path(Path::new(name)));
        assert!(matches!(found, WriteProblem::Nameless), "{name}");
    }
    for name in ["a.GIF", "a.webp", "a.png", "frames/", "frames.mp4/"] {
        video::check_path(&path(name)).unwrap();
    }
    let mp4 = video::check_path(&path("a.mp4"));
    if cfg!(feature = "mp4") {
        mp4.unwrap();
    } else {
        assert!(matches!(problem(mp4), WriteProblem::NoMp4));
    }
    assert_eq!(names(folder.path()), ["file"], "nothing is left behind");
}

#[test]
fn a_failure_leaves_nothing_behind_and_spares_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let good = moving(20, 16, 3);
    let mut torn = good.clone();
    torn[2].rgb.pop();
    let mut mixed = good.clone();
    mixed[1] = moving(20, 18, 1).remove(0);
    let mp4 = cfg!(feature = "mp4").then_some("a.mp4");
    for name in ["a.gif", "a.webp", "a.png"].into_iter().chain(mp4) {
        let path = folder.path().join(name);
        fs::write(&path, "old").unwrap();
        let fails = |frames: &[Image], fps| problem(video::write(&path, frames, fps, ""));
        assert!(matches!(fails(&[], 8), WriteProblem::NoFrames));
        assert!(matches!(fails(&torn, 8), WriteProblem::Torn { .. }));
        let found = fails(&mixed, 8);
        assert!(matches!(found, WriteProblem::FrameSizes { index: 1, .. }));
        for fps in [0, 1000] {
            assert!(matches!(fails(&good, fps), WriteProblem::FrameRate { .. }));
        }
        assert_eq!(fs::read(&path).unwrap(), b"old");
        fs::remove_file(&path).unwrap();
        assert_eq!(names(folder.path()), [""; 0]);
    }
    let path = folder.path().join("frames/");
    video::write(&path, &good, 8, "").unwrap();
    assert!(matches!(
        problem(video::write(&path, &torn, 8, "")),
        WriteProblem::Torn { .. }
    ));
    assert_eq!(names(&path).len(), 3, "the old frames are still there");
    assert_eq!(names(folder.path()), ["frames"]);
}

#[test]
fn shapes_that_a_format_cannot_hold_are_told_before() {
    let check = |name: &str, width, height, fps| {
        video::check_shape(Path::new(name), width, height, fps).map_err(|error| error.to_string())
    };
    assert_eq!(check("a.gif", 65_535, 1, 50), Ok(()));
    assert!(check("a.gif", 65_536, 1, 50).unwrap_err().contains("65535"));
    assert!(check("a.gif", 9, 9, 51).unwrap_err().contains("1 to 50"));
    assert!(check("a.webp", 16_385, 1, 8).unwrap_err().contains("16384"));
    assert_eq!(check("a/", 1, 1, 1000), Ok(()));
    if cfg!(feature = "mp4") {
        assert_eq!(check("a.mp4", 3840, 2160, 60), Ok(()));
        for (width, height) in [(3841, 16), (15, 16), (3000, 3000)] {
            assert!(check("a.mp4", width, height, 60).is_err());
        }
    }
}

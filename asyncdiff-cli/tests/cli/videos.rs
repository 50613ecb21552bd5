//! Videos from motion adapters and from pictures.

use std::fs;
use std::path::Path;

use asyncdiff_media::picture;
use asyncdiff_models::image::Image;

use super::sandbox::{Sandbox, fixture};

/// Frames that a folder of pictures holds.
fn frames(folder: &Path) -> Vec<Image> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| picture::read(file).unwrap())
        .collect()
}

/// A sandbox with `picture.png`, 80 by 64 pixels.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let image = Image {
        width: 80,
        height: 64,
        rgb: (0..80 * 64 * 3).map(|index| (index % 251) as u8).collect(),
    };
    picture::write(&sandbox.path("picture.png"), &image, "").unwrap();
    sandbox
}

#[test]
fn a_motion_adapter_makes_the_same_video_on_one_device_and_on_two() {
    let sandbox = Sandbox::new();
    let model = fixture("animatediff/checkpoint");
    let adapter = fixture("animatediff/checkpoint/motion_adapter");
    let base = [
        "generate",
        "a cat",
        "--model",
        &model,
        "--motion-adapter",
        &adapter,
    ];
    let size = [
        "--width", "64", "--height", "64", "--steps", "3", "--frames", "4",
    ];
    let video = |more: &[&str], folder: &str| {
        let text = sandbox.ok(&[&base[..], &size, more, &["-o", folder]].concat());
        assert!(text.contains("4 frames of 64x64 pixels"), "{text}");
        frames(&sandbox.path(folder))
    };
    let alone = video(&[], "alone/");
    assert_eq!(alone.len(), 4);
    assert_ne!(alone[0], alone[3]);
    let two = video(&["--segments", "2", "--warm-up", "3"], "two/");
    assert_eq!(two, alone);
    // Several videos: a folder each, and the first is that of its seed alone.
    let seeds = ["--seed", "0,1"];
    sandbox.ok(&[&base[..], &size, &seeds, &["-o", "list/"]].concat());
    assert_eq!(frames(&sandbox.path("list-0")), alone);
    assert_ne!(frames(&sandbox.path("list-1")), alone);
    // One frame is a picture, and needs no adapter.
    let one = [
        "--width", "64", "--height", "64", "--steps", "3", "--frames", "1", "-o", "one.png",
    ];
    sandbox.ok(&[&base[..], &one].concat());
    let with = picture::read(&sandbox.path("one.png")).unwrap();
    sandbox.ok(&[&base[..4], &one].concat());
    assert_eq!(picture::read(&sandbox.path("one.png")).unwrap(), with);
}

/// How far to the right of the left edge a picture's ink is in the mean, in pixels.
fn middle(image: &Image) -> f64 {
    let (mut ink, mut sum) = (0.0, 0.0);
    for (index, pixel) in image.rgb.chunks(3).enumerate() {
        let dark = pixel
            .iter()
            .map(|&value| f64::from(255 - value))
            .sum::<f64>();
        ink += dark;
        sum += dark * (index % image.width) as f64;
    }
    sum / ink
}

#[test]
fn the_embedded_model_moves() {
    let sandbox = Sandbox::new();
    let prompt = "red apple, fluent style, sliding left";
    let generate = |more: &[&str]| {
        let text = sandbox.ok(&[&["generate", prompt, "--json"], more].concat());
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        report["motion_adapter"].clone()
    };
    let adapter = generate(&["--frames", "16", "--steps", "12", "-o", "apple/"]);
    assert_eq!(adapter, "embedded");
    let video = frames(&sandbox.path("apple"));
    assert_eq!(video.len(), 16);
    // Training asked for 16 pixels to either side of the middle (`SLIDE_PIXELS` in training/motions.py).
    let (first, last) = (middle(&video[0]), middle(&video[15]));
    assert!(
        first > 37.0 && last < 27.0,
        "the apple went from {first} to {last}"
    );
    // A picture needs no adapter, and has none.
    let adapter = generate(&["--steps", "2", "-o", "one.png"]);
    assert!(adapter.is_null(), "{adapter}");
}

#[test]
fn a_video_of_a_picture_in_every_format_and_compared() {
    let sandbox = sandbox();
    let model = fixture("svd/checkpoint");
    let base = ["--model", &model, "--image", "picture.png", "--frames", "3"];
    let size = ["--width", "64", "--height", "64", "--steps", "4"];
    let run = |command, more: &[&str]| sandbox.ok(&[&[command], &base[..], &size, more].concat());
    for (file, begins) in [
        ("a.gif", &b"GIF89a"[..]),
        ("a.webp", b"RIFF"),
        ("a.png", b"\x89PNG"),
    ] {
        let text = run("generate", &["-o", file]);
        assert!(text.contains(&format!("wrote {file}")), "{text}");
        assert!(fs::read(sandbox.path(file)).unwrap().starts_with(begins));
    }
    #[cfg(feature = "mp4")]
    {
        run("generate", &[]);
        let bytes = fs::read(sandbox.path("asyncdiff.mp4")).unwrap();
        assert_eq!(&bytes[4..8], b"ftyp");
    }
    let text = run(
        "compare",
        &["--segments", "2", "--repeat", "1", "-o", "both/"],
    );
    assert!(text.contains("n=2 stride 1"), "{text}");
    let both = frames(&sandbox.path("both"));
    assert_eq!((both.len(), both[0].width, both[0].height), (3, 128, 64));
    // Frames by frames are decoded in chunks; a chunk of all is the default.
    run("generate", &["--decode-chunk-size", "3", "-o", "whole/"]);
    run("generate", &["-o", "default/"]);
    assert_eq!(
        frames(&sandbox.path("whole")),
        frames(&sandbox.path("default"))
    );
}

#[test]
fn videos_that_cannot_be_made_are_errors() {
    let sandbox = sandbox();
    let svd = fixture("svd/checkpoint");
    let animatediff = fixture("animatediff/checkpoint");
    let adapter = fixture("animatediff/checkpoint/motion_adapter");
    let unet = fixture("animatediff/checkpoint/unet");
    fs::write(sandbox.path("torn.png"), "no picture").unwrap();
    let moving = ["x", "--model", &animatediff, "--motion-adapter", &adapter];
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["x", "--model", &svd],
            &["a video of a picture", "leave out the prompt"],
        ),
        (
            &["--image", "picture.png"],
            &["no video of a picture", "Stable Video Diffusion"],
        ),
        (
            &["--image", "none.png", "--model", &svd],
            &["none.png", "no such file"],
        ),
        (&["--image", "torn.png", "--model", &svd], &["torn.png"]),
        (
            &["--image", "picture.png", "--model", &svd, "--frames", "0"],
            &["frames 0", "use 1 to"],
        ),
        (
            &["x", "--model", &animatediff, "--frames", "4"],
            &["4 frames", "motion adapter"],
        ),
        (
            &["x", "--frames", "17"],
            &["17 frames", "at most 16", "--frames"],
        ),
        (
            &[&moving[..], &["--frames", "33"]].concat(),
            &["33 frames", "at most 32", "motion_max_seq_length"],
        ),
        (
            &[&moving[..], &["-o", "a.jpg"]].concat(),
            &["a.jpg", ".mp4, .gif, .webp, .png"],
        ),
        (
            &["x", "-o", "a.gif"],
            &["a.gif", "one frame", "--frames", ".png, .jpg"],
        ),
        (
            &["x", "-o", "a.avi"],
            &["a.avi", ".webp for a picture", ".mp4, .gif"],
        ),
        (
            &["x", "--motion-adapter", &adapter],
            &["does not fit this UNet", "block_out_channels"],
        ),
        (
            &["x", "--model", &animatediff, "--motion-adapter", &unet],
            &["UNet2DConditionModel", "not of a MotionAdapter"],
        ),
        (
            &["x", "--motion-adapter", "none"],
            &["no motion adapter none", "--motion-adapter"],
        ),
        (&["x", "--fps", "12"], &["--fps is for videos", "--frames"]),
        (
            &["x", "--motion-bucket-id", "12"],
            &["--motion-bucket-id", "give a picture with --image"],
        ),
        (
            &["x", "--frames", "2", "--decode-chunk-size", "1"],
            &["--decode-chunk-size", "--image"],
        ),
    ];
    for (args, expected) in cases {
        let error = sandbox.fails(&[&["generate"], *args].concat());
        for part in *expected {
            assert!(
                error.contains(part),
                "{args:?}: {error:?} should contain {part:?}"
            );
        }
    }
    let both = ["generate", "x", "--image", "picture.png", "--model", &svd];
    assert_eq!(sandbox.run(&both).status.code(), Some(2));
}

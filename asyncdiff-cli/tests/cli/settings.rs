//! What files say of how they were made.

use std::fs;

use super::sandbox::{Sandbox, fixture, png, quick};

fn contains(parameters: &str, expected: &[&str]) {
    for part in expected {
        assert!(
            parameters.contains(part),
            "{parameters:?} should contain {part:?}"
        );
    }
}

#[test]
fn a_pictures_parameters_name_plan_dtype_and_files() {
    let sandbox = Sandbox::new();
    sandbox.ok(&quick(&["-o", "a, start.png"]));
    let parameters = |more: &[&str]| {
        sandbox.ok(&quick(&[more, &["-o", "a.png"]].concat()));
        png(&sandbox.path("a.png")).2
    };
    let found = parameters(&["--segments", "2", "--warm-up", "1", "--dtype", "bf16"]);
    contains(
        &found,
        &[
            "Dtype: bf16",
            "Plan: n=2 stride 1 warm-up 1 forecast 0, Version",
        ],
    );
    let found = parameters(&["--init-image", "a, start.png", "--scheduler", "euler"]);
    // A comma would end the value.
    contains(
        &found,
        &["Scheduler: euler", r#"Init image: "a, start.png""#],
    );
    let found = parameters(&["--literal-prompts", "--vae-tiling"]);
    contains(&found, &["Literal prompts: true, VAE tiling: true"]);
}

/// Where the formats keep it is tested with the formats; here, that it gets there.
#[test]
fn videos_and_folders_of_frames_carry_their_settings() {
    let sandbox = Sandbox::new();
    let base = ["--frames", "2", "--steps", "2", "--seed", "9", "-o"];
    for file in ["a.gif", "a.png", "frames/"] {
        sandbox.ok(&quick(&[&base[..], &[file]].concat()));
    }
    let expected = "Seed: 9, Size: 64x64, Model: embedded, Dtype: f32, Frames: 2, FPS: 8, Motion adapter: embedded";
    for file in ["a.png", "frames/frame-0000.png", "frames/frame-0001.png"] {
        contains(&png(&sandbox.path(file)).2, &[expected]);
    }
    let gif = fs::read(sandbox.path("a.gif")).unwrap();
    // Comments are cut into blocks of 255 bytes, each with its length in front.
    let start = "red apple, fluent style\nSteps: 2";
    assert!(
        gif.windows(start.len())
            .any(|part| part == start.as_bytes())
    );
    #[cfg(feature = "mp4")]
    {
        sandbox.ok(&quick(&[&base[..], &["a.mp4"]].concat()));
        let file = fs::read(sandbox.path("a.mp4")).unwrap();
        let found = String::from_utf8_lossy(&file).into_owned();
        contains(&found, &["udta", expected]);
    }
}

#[test]
fn a_video_of_a_picture_names_the_picture_and_its_motion() {
    let sandbox = Sandbox::new();
    sandbox.ok(&quick(&["-o", "start.png"]));
    let model = fixture("svd/checkpoint");
    let base = [
        "generate",
        "--model",
        &model,
        "--image",
        "start.png",
        "--frames",
        "2",
    ];
    let size = [
        "--width",
        "64",
        "--height",
        "64",
        "--steps",
        "2",
        "--motion-bucket-id",
        "99",
    ];
    sandbox.ok(&[&base[..], &size, &["-o", "a.png"]].concat());
    contains(
        &png(&sandbox.path("a.png")).2,
        &["Image: start.png, Motion bucket: 99, Noise augmentation: 0.02, Min CFG scale: 1"],
    );
}

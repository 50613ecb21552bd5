//! Requests that cannot be met.

use std::fs;

use super::sandbox::{Sandbox, quick};

#[test]
fn a_prompt_that_is_too_long_is_cut_with_a_warning() {
    let sandbox = Sandbox::new();
    let prompt = format!("red apple{} and a blue whale", ", very red".repeat(20));
    let output = sandbox.run(&["generate", &prompt, "--steps", "2", "--quiet"]);
    assert!(output.status.success());
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(
        warning.contains("32 tokens") && warning.contains("blue whale"),
        "{warning}"
    );
}

#[test]
fn impossible_requests_are_one_clear_sentence() {
    let sandbox = Sandbox::new();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--segments", "0"], &["0 segments", "at least 1"]),
        (
            &["--segments", "5"],
            &["5 segments", "[2, 3, 4]", "balanced"],
        ),
        (&["--segments", "500"], &["500 segments", "46 blocks"]),
        (
            &["--segments", "2", "--stride", "3"],
            &["stride 3", "1 or 2"],
        ),
        (
            &["--segments", "2", "--warm-up", "0"],
            &["warm-up of 0", "1 to 3"],
        ),
        (
            &["--segments", "2", "--warm-up", "4"],
            &["warm-up of 4", "1 to 3"],
        ),
        (
            &["--segments", "2", "--forecast", "2"],
            &["forecast order 2", "0"],
        ),
        (&["--width", "66"], &["width 66", "multiple of 4", "68"]),
        (&["--height", "0"], &["height 0", "multiple of 4"]),
        (
            &["--warm-up", "2"],
            &["--warm-up", "--segments", "--look-ahead"],
        ),
        (
            &["--look-ahead", "ring", "--warm-up", "1"],
            &["warm-up of 1", "2 to 3"],
        ),
        (
            &["--look-ahead", "ring", "--forecast", "1"],
            &["--forecast", "leave it out"],
        ),
        (
            &["--look-ahead", "2", "--segments", "3"],
            &["--look-ahead 3", "--segments 3"],
        ),
        (
            &["--guidance-split", "--guidance-scale", "1"],
            &["no guidance to split", "raise the scale"],
        ),
        (
            &[
                "--devices",
                "cpu:2",
                "--guidance-split",
                "--look-ahead",
                "ring",
            ],
            &["4 devices are needed", "2 are given"],
        ),
        (
            &["--machine", "none.json"],
            &["none.json", "asyncdiff measure"],
        ),
        (
            &["--width", "4611686018427387904"],
            &["width", "at most 16384"],
        ),
        (
            &["--num-images", "9223372036854775808"],
            &["number of images", "at most 1024"],
        ),
        (&["--steps", "0"], &["0 inference steps", "1 to 1000"]),
        (&["--steps", "1001"], &["1001 inference steps", "1 to 1000"]),
        (&["--num-images", "0"], &["0 images", "at least 1"]),
        (&["--guidance-scale", "nan"], &["guidance scale NaN"]),
        (
            &["--scheduler", "magic"],
            &["magic", "ddim", "pndm", "euler"],
        ),
        (&["--devices", "abacus"], &["abacus", "cpu"]),
        (&["--devices", "cpu:0"], &["cpu:0"]),
        (&["--threads", "0"], &["0 CPU threads"]),
        (
            &["--threads", "100000"],
            &["100000 CPU threads", "at most 512"],
        ),
        (
            &["--guidance-scale", "1e300"],
            &["not finite", "guidance scale"],
        ),
        (
            &["--devices", "cpu:2", "--segments", "3"],
            &["3 devices are needed", "2 are given"],
        ),
        (
            &["--devices", "cpu:2", "--segments", "2", "--stride", "2"],
            &["3 devices are needed", "2 are given"],
        ),
        (&["-o", "nowhere/apple.png"], &["nowhere", "does not exist"]),
        (
            &["-o", "apple.bmp"],
            &["apple.bmp", ".png, .jpg, .jpeg or .webp"],
        ),
        (&["--latents", "none.safetensors"], &["none.safetensors"]),
        (&["--model", "none"], &["none", "no model folder"]),
    ];
    for (args, expected) in cases {
        let error = sandbox.fails(&quick(args));
        for part in *expected {
            assert!(
                error.contains(part),
                "{args:?}: {error:?} should contain {part:?}"
            );
        }
    }
    #[cfg(not(feature = "cuda"))]
    assert!(
        sandbox
            .fails(&quick(&["--devices", "cuda:0"]))
            .contains("--features cuda")
    );
    let error = sandbox.fails(&[
        "compare",
        "x",
        "--devices",
        "cpu:2",
        "--segments",
        "2,4",
        "--steps",
        "4",
    ]);
    assert!(error.contains("4 devices are needed"), "{error}");
    // Unknown flags are told by the parser, with its usual exit code.
    assert_eq!(
        sandbox
            .run(&["generate", "x", "--sseed", "1"])
            .status
            .code(),
        Some(2)
    );
    assert_eq!(sandbox.run(&["generate"]).status.code(), Some(2));
}

#[test]
fn a_failed_run_keeps_the_picture_that_was_there() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("old.png"), "precious").unwrap();
    sandbox.fails(&quick(&[
        "--segments",
        "2",
        "--warm-up",
        "9",
        "-o",
        "old.png",
    ]));
    assert_eq!(fs::read(sandbox.path("old.png")).unwrap(), b"precious");
}

//! `--lora`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::sandbox::{Sandbox, fixture, png};

fn generate<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = [
        "generate",
        "a red boat",
        "--steps",
        "2",
        "--width",
        "64",
        "--height",
        "64",
    ];
    [&fixed[..], &["--model", model], more].concat()
}

#[test]
fn strengths_follow_the_last_colon_and_0_changes_nothing() {
    let sandbox = Sandbox::new();
    let model = fixture("sd15/checkpoint");
    // A path with colons of its own.
    let file = "v1:2.safetensors";
    fs::copy(fixture("lora/sd15_peft.safetensors"), sandbox.path(file)).unwrap();
    let kohya = fixture("lora/sd15_kohya.safetensors");
    let picture = |name: &str, loras: &[&str]| {
        let mut args = generate(&model, &["--json", "-o", name]);
        for lora in loras {
            args.extend(["--lora", lora]);
        }
        let report: Value = serde_json::from_str(&sandbox.ok(&args)).unwrap();
        let pixels = image_bytes(&sandbox.path(name));
        (report, pixels)
    };
    let (_, none) = picture("none.png", &[]);
    let (report, zero) = picture("zero.png", &["v1:2.safetensors:0"]);
    assert_eq!(report["loras"], json!([{"file": file, "strength": 0.0}]));
    assert_eq!(none, zero);
    let (_, whole) = picture("whole.png", &[file]);
    assert_ne!(none, whole);
    let (report, both) = picture("both.png", &[file, &format!("{kohya}:0.5")]);
    assert_eq!(report["loras"][1]["strength"], 0.5);
    assert_ne!(whole, both);
    let (_, _, text) = png(&sandbox.path("both.png"));
    assert!(text.contains("LoRA: v1:2.safetensors:1"), "{text}");
}

fn image_bytes(path: &Path) -> Vec<u8> {
    let file = std::io::BufReader::new(fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

#[test]
fn loras_that_cannot_be_used_are_one_clear_sentence() {
    let sandbox = Sandbox::new();
    let (sd15, sdxl) = (fixture("sd15/checkpoint"), fixture("sdxl/checkpoint"));
    let lora = fixture("lora/sd15_peft.safetensors");
    for (args, expected) in [
        (
            generate(&sd15, &["--lora", "nothing.safetensors"]),
            "nothing.safetensors",
        ),
        (
            generate(&sdxl, &["--lora", &lora]),
            "made for another architecture",
        ),
        (
            generate(&sd15, &["--lora", &format!("{lora}:nan")]),
            "use a finite number",
        ),
        // Said before anything is loaded, and also where nothing would be.
        (
            vec!["plan", "--model", &sdxl, "--lora", &lora],
            "made for another architecture",
        ),
    ] {
        let error = sandbox.fails(&args);
        assert!(error.contains(expected), "{error}");
    }
}

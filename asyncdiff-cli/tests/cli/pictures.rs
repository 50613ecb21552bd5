//! `generate` and `compare`.

use std::fs;

use serde_json::{Value, json};

use super::sandbox::{Sandbox, edit_json, pixels, png, quick};

#[test]
fn generate_writes_a_picture_with_its_parameters() {
    let sandbox = Sandbox::new();
    let text = sandbox.ok(&[
        "generate",
        "red apple, fluent style",
        "--steps",
        "4",
        "--seed",
        "7",
        "--negative-prompt",
        "blue",
        "-o",
        "apple.png",
    ]);
    assert!(
        text.contains("wrote apple.png") && text.contains("sequential"),
        "{text}"
    );
    let (width, height, parameters) = png(&sandbox.path("apple.png"));
    assert_eq!((width, height), (64, 64));
    assert_eq!(
        parameters,
        format!(
            "red apple, fluent style\nNegative prompt: blue\nSteps: 4, Sampler: DDIMScheduler, CFG scale: 3, Seed: 7, \
             Size: 64x64, Model: embedded, Dtype: f32, Plan: sequential, Version: asyncdiff {}",
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[test]
fn the_extension_chooses_the_format() {
    let sandbox = Sandbox::new();
    let read = |name: &str| {
        sandbox.ok(&quick(&["--steps", "1", "-o", name]));
        asyncdiff_media::picture::read(&sandbox.path(name)).unwrap()
    };
    let png = read("a.png");
    assert_eq!(read("a.webp"), png);
    let jpeg = read("a.JPG");
    assert_eq!((jpeg.width, jpeg.height), (64, 64));
    let begins = |name: &str| fs::read(sandbox.path(name)).unwrap()[..4].to_owned();
    assert_eq!(begins("a.png"), b"\x89PNG");
    assert_eq!(begins("a.webp"), b"RIFF");
    assert_eq!(begins("a.JPG"), b"\xff\xd8\xff\xe0");
}

#[test]
fn the_same_command_gives_the_same_file_and_another_seed_another() {
    let sandbox = Sandbox::new();
    for devices in ["cpu", "cpu:2"] {
        let file = |name: &str, seed: &str| {
            sandbox.ok(&quick(&["--devices", devices, "--seed", seed, "-o", name]));
            fs::read(sandbox.path(name)).unwrap()
        };
        let first = file("a.png", "1");
        assert_eq!(first, file("b.png", "1"));
        assert_ne!(first, file("c.png", "2"));
    }
}

#[test]
fn generate_reports_in_json_and_runs_asynchronously_on_every_named_device() {
    let sandbox = Sandbox::new();
    let text = sandbox.ok(&[
        "generate",
        "--prompt",
        "pizza, flat style",
        "--steps",
        "5",
        "--devices",
        "cpu:3",
        "--segments",
        "2",
        "--stride",
        "2",
        "--json",
        "-o",
        "p.png",
    ]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["files"], json!(["p.png"]));
    assert_eq!(report["devices"], json!(["cpu:0", "cpu:1", "cpu:2"]));
    assert_eq!(
        report["strategy"],
        json!({"guidance_split": false, "spread": {"async_diff": {
            "partition": {"published": 2},
            "parameters": {"stride": 2, "warm_up": 3, "time_shift": false, "forecast": 0},
        }}})
    );
    assert!(report["seconds"]["denoise"].as_f64().unwrap() > 0.0);
    // What was announced is what was loaded, and no rank has everything.
    let ranks = report["summary"]["ranks"].as_array().unwrap();
    let announced: Vec<_> = ranks
        .iter()
        .map(|rank| rank["weight_bytes"].clone())
        .collect();
    assert_eq!(report["loaded_weight_bytes"], json!(announced));
    let whole = 4 * 6_431_972;
    assert!(
        announced
            .iter()
            .all(|bytes| bytes.as_u64().unwrap() < whole)
    );
}

#[test]
fn several_images_get_numbers() {
    let sandbox = Sandbox::new();
    sandbox.ok(&quick(&["--num-images", "2", "-o", "two.png"]));
    let [first, second] =
        ["two-0.png", "two-1.png"].map(|name| fs::read(sandbox.path(name)).unwrap());
    assert_ne!(first, second);
    assert!(!sandbox.path("two.png").exists());
}

#[test]
fn given_latents_replace_the_seed() {
    let sandbox = Sandbox::new();
    let write = |name: &str, values: usize| {
        let data: Vec<u8> = (0..values)
            .flat_map(|index| ((index as f32).sin() * 1.4).to_le_bytes())
            .collect();
        let shape = vec![1, 4, 16, values / 64];
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &data).unwrap();
        fs::write(
            sandbox.path(name),
            safetensors::serialize([("latents", view)], None).unwrap(),
        )
        .unwrap();
    };
    write("noise.safetensors", 1024);
    for (seed, name) in [("1", "a.png"), ("2", "b.png")] {
        sandbox.ok(&quick(&[
            "--latents",
            "noise.safetensors",
            "--seed",
            seed,
            "-o",
            name,
        ]));
    }
    let [first, second] = ["a.png", "b.png"].map(|name| pixels(&sandbox.path(name)));
    assert_eq!(first, second);

    let seeds = ["--latents", "noise.safetensors", "--seed", "1,2"];
    let error = sandbox.fails(&quick(&seeds));
    assert!(error.contains("name one seed"), "{error}");

    write("small.safetensors", 512);
    let error = sandbox.fails(&quick(&["--latents", "small.safetensors", "-o", "c.png"]));
    assert!(
        error.contains("[1, 4, 16, 8]") && error.contains("[1, 4, 16, 16]"),
        "{error}"
    );
}

#[test]
fn compare_prints_a_table_and_writes_the_pictures_side_by_side() {
    let sandbox = Sandbox::new();
    let text = sandbox.ok(&[
        "compare",
        "red apple, fluent style",
        "--steps",
        "12",
        "--segments",
        "2,3",
        "--forecast",
        "0,1",
        "--repeat",
        "1",
        "--json",
    ]);
    let report: Value = serde_json::from_str(&text).unwrap();
    for (key, expected) in [
        ("seed", json!(0)),
        ("steps", json!(12)),
        ("guidance_scale", json!(3.0)),
        ("frames", json!(1)),
        ("fps", Value::Null),
        ("width", json!(64)),
        ("scheduler", json!("DDIMScheduler")),
    ] {
        assert_eq!(report[key], expected, "{key}");
    }
    let rows = report["rows"].as_array().unwrap();
    let asynchronous: Vec<_> = rows
        .iter()
        .filter(|row| !row["strategy"].is_null())
        .collect();
    assert_eq!(asynchronous.len(), 4);
    assert_eq!(rows[0]["latent_error"], 0.0);
    for row in &asynchronous {
        assert_eq!(row["sound"], true);
        assert!(row["psnr"].as_f64().unwrap() > 20.0, "{row}");
        assert!(row["ideal_speed_up"].as_f64().unwrap() > 1.2, "{row}");
    }
    // Forecasting comes closer to the sequential result than reuse.
    for pair in asynchronous.chunks(2) {
        assert!(
            pair[1]["latent_error"].as_f64() < pair[0]["latent_error"].as_f64(),
            "{pair:?}"
        );
    }
    assert_eq!(png(&sandbox.path("compare.png")).0, 5 * 64);
}

#[test]
fn several_devices_are_used_as_chosen_and_several_prompts_compared() {
    let sandbox = Sandbox::new();
    let base = ["generate", "red apple, fluent style", "--steps", "12"];
    sandbox.ok(&[&base[..], &["-o", "one.png"]].concat());
    let text = sandbox.ok(&[&base[..], &["--devices", "cpu:2", "-o", "two.png"]].concat());
    assert!(
        text.contains("guidance split, on 2 devices, ideal speed-up 2.00; chosen for 2 devices"),
        "{text}"
    );
    let text = sandbox.ok(&[&base[..], &["--devices", "cpu:3", "-o", "three.png"]].concat());
    assert!(
        text.contains("guidance split x ring with one deep rank, warm-up 2, on 3 devices"),
        "{text}"
    );

    fs::write(
        sandbox.path("prompts.txt"),
        "red apple, fluent style\nrocket, flat style\n",
    )
    .unwrap();
    let text = sandbox.ok(&[
        "compare",
        "--prompts",
        "prompts.txt",
        "--guidance-split",
        "on,off",
        "--look-ahead",
        "1,2,ring",
        "--steps",
        "12",
        "--repeat",
        "1",
        "--json",
    ]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["prompts"].as_array().unwrap().len(), 2);
    let spread: Vec<_> = report["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| !row["strategy"].is_null())
        .collect();
    let names: Vec<_> = spread
        .iter()
        .map(|row| row["run"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "guidance split",
            "guidance split x 2 copies, warm-up 2",
            "2 copies, warm-up 2",
            "guidance split x ring, warm-up 2",
            "ring, warm-up 2",
        ]
    );
    let output = sandbox.run(&[
        "compare",
        "red apple",
        "--devices",
        "cpu:2",
        "--guidance-split",
        "on,off",
        "--look-ahead",
        "1,ring",
        "--steps",
        "12",
        "--repeat",
        "1",
    ]);
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{notes}");
    assert!(
        notes.contains("guidance split x ring, warm-up 2 needs more than the 2 devices that are named: left out"),
        "{notes}"
    );
    for row in &spread {
        assert_eq!(row["sound"], true);
        // Split guidance is exact: equal within rounding, or to the last bit, which JSON has no number for.
        let (mean, worst) = (row["psnr"].as_f64(), row["worst_psnr"].as_f64());
        if row["run"] == "guidance split" {
            assert!(worst.is_none_or(|worst| worst > 90.0), "{row}");
        } else {
            assert!(worst.unwrap() > 30.0 && worst <= mean, "{row}");
        }
    }
}

#[test]
fn stable_diffusion_xl_takes_its_defaults_from_its_pipeline_class() {
    let sandbox = Sandbox::new();
    let model = sandbox.model("sdxl");
    // As in checkpoints that leave the size to the pipeline; 128 latents are 1024 pixels.
    edit_json(&model.join("unet/config.json"), |config| {
        config["sample_size"] = Value::Null
    });
    let text = sandbox.ok(&["plan", "--model", "model", "--segments", "3"]);
    for part in ["1024x1024 pixels", "1x4x128x128", "50 steps", "scale 5"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        text.contains("n=3 stride 1 warm-up 3 forecast 0, on 3 devices"),
        "{text}"
    );
}

#[test]
fn an_empty_negative_prompt_means_zeros_if_the_model_says_so() {
    let sandbox = Sandbox::new();
    let model = sandbox.model("sdxl");
    let generate = |name: &str, more: &[&str]| {
        let base = [
            "generate", "x", "--model", "model", "--steps", "2", "--quiet",
        ];
        sandbox.ok(&[&base, more, &["-o", name]].concat());
        pixels(&sandbox.path(name))
    };
    let strong = ["--guidance-scale", "30"];
    let zeros = generate("zeros.png", &strong);
    let unguided = generate("unguided.png", &["--guidance-scale", "1"]);
    edit_json(&model.join("model_index.json"), |index| {
        index["force_zeros_for_empty_prompt"] = json!(false)
    });
    assert_ne!(generate("empty.png", &strong), zeros);
    assert_eq!(generate("same.png", &["--guidance-scale", "1"]), unguided);
    // diffusers' default.
    edit_json(&model.join("model_index.json"), |index| {
        let index = index.as_object_mut().unwrap();
        index.remove("force_zeros_for_empty_prompt");
    });
    assert_eq!(generate("default.png", &strong), zeros);
}

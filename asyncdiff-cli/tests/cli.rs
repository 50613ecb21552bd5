//! The program as a person uses it: the real binary, in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

struct Sandbox(TempDir);

impl Sandbox {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_asyncdiff"))
            .args(args)
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// Standard output of a run that succeeds.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The error message of a run that fails; it must be one line and leave nothing behind.
    fn fails(&self, args: &[&str]) -> String {
        let before = self.files();
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{args:?} should fail");
        let lines: Vec<_> = error
            .lines()
            .filter(|line| !line.starts_with("note: "))
            .collect();
        assert_eq!(lines.len(), 1, "{args:?}: {error}");
        assert!(lines[0].starts_with("error: "), "{error}");
        assert!(!error.contains("panicked"), "{error}");
        assert_eq!(self.files(), before, "{args:?} left something behind");
        lines[0].to_owned()
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = walk(self.0.path());
        files.sort();
        files
    }

    /// A copy of a fixture's checkpoint, to be damaged.
    fn model(&self, fixture: &str) -> PathBuf {
        let target = self.path("model");
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let source = fixtures.join(fixture).join("checkpoint");
        for file in walk(&source) {
            let to = target.join(file.strip_prefix(&source).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(file, to).unwrap();
        }
        target
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

fn edit_json(path: &Path, edit: impl Fn(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Reads a safetensors file, changes its tensors' names or shapes, and writes it back.
fn edit_weights(path: &Path, edit: impl Fn(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&bytes[8 + length..]);
    fs::write(path, out).unwrap();
}

fn png(path: &Path) -> (u32, u32, String) {
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap()));
    let reader = decoder.read_info().unwrap();
    let info = reader.info();
    let latin = info
        .uncompressed_latin1_text
        .iter()
        .find(|chunk| chunk.keyword == "parameters");
    let text = match latin {
        Some(chunk) => chunk.text.clone(),
        None => info.utf8_text[0].get_text().unwrap(),
    };
    (info.width, info.height, text)
}

const QUICK: [&str; 3] = ["generate", "red apple, fluent style", "--quiet"];

fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let steps: &[&str] = if more.contains(&"--steps") {
        &[]
    } else {
        &["--steps", "3"]
    };
    [&QUICK, steps, more].concat()
}

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
             Size: 64x64, Model: embedded, Segments: 1, Version: asyncdiff {}",
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[test]
fn the_same_command_gives_the_same_file_and_another_seed_another() {
    let sandbox = Sandbox::new();
    for devices in ["cpu", "cpu:2"] {
        let file = |name: &str, seed: &str| {
            sandbox.ok(&quick(&[
                "--devices",
                devices,
                "--warm-up",
                "1",
                "--seed",
                seed,
                "-o",
                name,
            ]));
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
        json!({"stride": 2, "warm_up": 3, "time_shift": false, "forecast": 0})
    );
    assert_eq!(report["summary"]["segments"], 2);
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
    // The first of several is the picture of the seed, as in diffusers; batches may round differently.
    sandbox.ok(&quick(&["-o", "one.png"]));
    assert_eq!(png(&sandbox.path("one.png")).0, 64);
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
    let pixels = |name: &str| {
        let bytes = fs::read(sandbox.path(name)).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        pixels
    };
    assert_eq!(pixels("a.png"), pixels("b.png"));

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
fn plan_shows_ranks_edges_and_speed_up_and_draws() {
    let sandbox = Sandbox::new();
    let args = [
        "plan",
        "--segments",
        "3",
        "--stride",
        "2",
        "--warm-up",
        "3",
        "--steps",
        "12",
    ];
    let text = sandbox.ok(&[&args[..], &["--svg", "plan.svg"]].concat());
    for part in [
        "3 segments on 4 devices",
        "staleness",
        "conv_in",
        "moved per denoiser call",
        "ideal speed-up",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let svg = fs::read_to_string(sandbox.path("plan.svg")).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.contains("rank 3") && svg.trim_end().ends_with("</svg>")
    );
    let report: Value =
        serde_json::from_str(&sandbox.ok(&[&args[..], &["--json"]].concat())).unwrap();
    assert_eq!(report["plan"]["ranks"].as_array().unwrap().len(), 4);
    assert_eq!(
        report["schedule"]["timesteps"].as_array().unwrap().len(),
        12
    );
}

#[test]
fn a_partition_of_ones_own_is_taken_from_a_file() {
    let sandbox = Sandbox::new();
    let map =
        json!({"conv_in": 1, "down_blocks": 0, "mid_block": 0, "up_blocks": 1, "conv_out": 1});
    fs::write(sandbox.path("map.json"), map.to_string()).unwrap();
    let text = sandbox.ok(&["plan", "--segments", "2", "--partition", "map.json"]);
    assert!(text.contains("custom partition"), "{text}");
    let text = sandbox.ok(&["plan", "--partition", "map.json"]);
    assert!(text.contains("2 segments on 2 devices"), "{text}");
    let error = sandbox.fails(&["plan", "--segments", "3", "--partition", "map.json"]);
    assert!(error.contains("map.json has 2 segments, not 3"), "{error}");
    sandbox.ok(&["plan", "--segments", "5", "--partition", "balanced"]);

    fs::write(sandbox.path("map.json"), json!({"conv_inn": 0}).to_string()).unwrap();
    let error = sandbox.fails(&["plan", "--partition", "map.json"]);
    assert!(error.contains("conv_inn"), "{error}");
    let error = sandbox.fails(&["plan", "--segments", "2", "--partition", "none.json"]);
    assert!(error.contains("none.json"), "{error}");
}

#[test]
fn completions_and_man_page_know_every_flag() {
    let sandbox = Sandbox::new();
    let (bash, man) = (sandbox.ok(&["completions", "bash"]), sandbox.ok(&["man"]));
    for flag in [
        "guidance-scale",
        "warm-up",
        "time-shift",
        "num-images",
        "forecast",
        "svg",
    ] {
        assert!(bash.contains(&format!("--{flag}")), "{flag}");
        assert!(man.contains(&flag.replace('-', "\\-")), "{flag}");
    }
}

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
        (&["--warm-up", "0"], &["warm-up of 0", "1 to 3"]),
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
        (&["-o", "apple.bmp"], &["apple.bmp", ".png"]),
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

/// A Stable Diffusion 1.5 model folder, damaged in one place, and what the error must name.
fn damaged(damage: impl Fn(&Path), expected: &[&str]) {
    damaged_fixture("sd15", damage, expected);
}

fn damaged_fixture(fixture: &str, damage: impl Fn(&Path), expected: &[&str]) {
    let sandbox = Sandbox::new();
    let model = sandbox.model(fixture);
    damage(&model);
    let error = sandbox.fails(&[
        "generate", "x", "--model", "model", "--steps", "2", "--quiet",
    ]);
    for part in expected {
        assert!(error.contains(part), "{error:?} should contain {part:?}");
    }
}

#[test]
fn damaged_models_are_one_clear_sentence() {
    let unet = "unet/diffusion_pytorch_model.safetensors";
    damaged(
        |model| fs::remove_file(model.join("model_index.json")).unwrap(),
        &["model_index.json"],
    );
    damaged(
        |model| {
            edit_json(&model.join("model_index.json"), |index| {
                index["_class_name"] = json!("MagicPipeline")
            })
        },
        &["MagicPipeline", "StableDiffusionPipeline"],
    );
    damaged(
        |model| fs::write(model.join("unet/config.json"), "{").unwrap(),
        &["unet/config.json"],
    );
    damaged(
        |model| fs::remove_file(model.join("vae/config.json")).unwrap(),
        &["vae/config.json"],
    );
    damaged(|model| fs::remove_file(model.join(unet)).unwrap(), &[unet]);
    damaged(
        |model| {
            let bytes = fs::read(model.join(unet)).unwrap();
            fs::write(model.join(unet), &bytes[..bytes.len() / 2]).unwrap();
        },
        &[unet, "truncated or damaged"],
    );
    damaged(
        |model| fs::write(model.join("text_encoder/model.safetensors"), [0; 100]).unwrap(),
        &["text_encoder/model.safetensors", "truncated or damaged"],
    );
    damaged(
        |model| {
            edit_weights(&model.join(unet), |header| {
                header
                    .as_object_mut()
                    .unwrap()
                    .remove("mid_block.attentions.0.norm.weight");
            })
        },
        // The parser refuses a file with a hole; see the next case for a tensor under another name.
        &[unet],
    );
    damaged(
        |model| {
            edit_weights(&model.join(unet), |header| {
                let header = header.as_object_mut().unwrap();
                let moved = header.remove("mid_block.attentions.0.norm.weight").unwrap();
                header.insert("mid_block.attentions.0.norm.wait".to_owned(), moved);
            })
        },
        &[unet, "no tensor mid_block.attentions.0.norm.weight", "[32]"],
    );
    damaged(
        |model| {
            edit_weights(&model.join(unet), |header| {
                let shape = &mut header["conv_in.weight"]["shape"];
                *shape = json!([4, 16, 3, 3]);
            })
        },
        &[unet, "conv_in.weight", "[4, 16, 3, 3]", "[16, 4, 3, 3]"],
    );
    damaged(
        |model| {
            edit_weights(&model.join(unet), |header| {
                header["conv_in.bias"]["dtype"] = json!("I16")
            })
        },
        &[unet, "conv_in.bias", "I16", "F16"],
    );
    damaged(
        |model| {
            edit_json(&model.join("unet/config.json"), |config| {
                config["down_block_types"][3] = json!("CrossAttnDownBlock2D")
            })
        },
        &[unet, "down_blocks.3.attentions.0"],
    );
    damaged(
        |model| {
            edit_json(&model.join("unet/config.json"), |config| {
                config["act_fn"] = json!("mish")
            })
        },
        &["act_fn", "mish", "silu"],
    );
    damaged(
        |model| {
            edit_json(&model.join("unet/config.json"), |config| {
                config["cross_attention_dim"] = json!(64)
            })
        },
        &["cross_attention_dim", "64", "32"],
    );
    damaged(
        |model| {
            edit_json(&model.join("scheduler/scheduler_config.json"), |config| {
                config["_class_name"] = json!("MagicScheduler")
            })
        },
        &["MagicScheduler", "DDIMScheduler"],
    );
    // Settings that nothing could be built from.
    for (file, key, value) in [
        ("vae/config.json", "block_out_channels", json!([])),
        ("vae/config.json", "norm_num_groups", json!(5)),
        ("vae/config.json", "act_fn", json!("gelu")),
        ("text_encoder/config.json", "num_attention_heads", json!(0)),
        ("text_encoder/config.json", "num_attention_heads", json!(5)),
        ("text_encoder/config.json", "vocab_size", json!(100)),
    ] {
        damaged(
            |model| edit_json(&model.join(file), |config| config[key] = value.clone()),
            &[file, key],
        );
    }
    // More weights than the structure has: fewer layers in the config.
    damaged(
        |model| {
            edit_json(&model.join("vae/config.json"), |config| {
                config["mid_block_add_attention"] = json!(false)
            })
        },
        &[
            "vae/diffusion_pytorch_model.safetensors",
            "mid_block.attentions.0",
        ],
    );
}

#[test]
fn damaged_xl_models_are_one_clear_sentence() {
    let damaged = |damage: &dyn Fn(&Path), expected: &[&str]| {
        damaged_fixture("sdxl", damage, expected);
    };
    let set = |file: &'static str, key: &'static str, value: Value| {
        move |model: &Path| edit_json(&model.join(file), |config| config[key] = value.clone())
    };
    damaged(
        &|model| fs::remove_dir_all(model.join("tokenizer_2")).unwrap(),
        &["cannot read", "tokenizer_2/vocab.json"],
    );
    damaged(
        &|model| fs::write(model.join("tokenizer_2/merges.txt"), "a b c\n").unwrap(),
        &["tokenizer_2", "merges.txt", "line 1"],
    );
    damaged(
        &|model| fs::remove_file(model.join("text_encoder_2/config.json")).unwrap(),
        &["text_encoder_2/config.json"],
    );
    damaged(
        &|model| fs::remove_file(model.join("text_encoder_2/model.safetensors")).unwrap(),
        &["text_encoder_2/model.safetensors"],
    );
    // The first encoder's weights in the place of the second's.
    damaged(
        &|model| {
            let file = "model.safetensors";
            let from = model.join("text_encoder").join(file);
            fs::copy(from, model.join("text_encoder_2").join(file)).unwrap();
        },
        &["text_encoder_2/model.safetensors", "[2000, 40]"],
    );
    damaged(
        &set("text_encoder_2/config.json", "hidden_size", json!(45)),
        &["cross_attention_dim is 64", "text encoders together is 69"],
    );
    damaged(
        &set("text_encoder_2/config.json", "projection_dim", json!(32)),
        &["projection_class_embeddings_input_dim is 88", "is 80"],
    );
    damaged(
        &set(
            "tokenizer_2/tokenizer_config.json",
            "model_max_length",
            json!(64),
        ),
        &["model_max_length of text_encoder_2's tokenizer is 64", "77"],
    );
    damaged(
        &set(
            "unet/config.json",
            "addition_embed_type",
            json!("text_image"),
        ),
        &["addition_embed_type is text_image", "text_time"],
    );
    damaged(
        &set("unet/config.json", "addition_time_embed_dim", Value::Null),
        &["addition_time_embed_dim is null"],
    );
    damaged(
        &set("unet/config.json", "addition_embed_type", Value::Null),
        &["addition_embed_type is null", "StableDiffusionXLPipeline"],
    );
    damaged(
        &set("vae/config.json", "latents_mean", json!([0.0, 0.0])),
        &["latents_mean", "is 2", "latent_channels is 4"],
    );
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
    assert!(text.contains("published partition"), "{text}");
}

#[test]
fn an_empty_negative_prompt_means_zeros_if_the_model_says_so() {
    let sandbox = Sandbox::new();
    let model = sandbox.model("sdxl");
    let pixels = |name: &str, more: &[&str]| {
        let base = [
            "generate", "x", "--model", "model", "--steps", "2", "--quiet",
        ];
        sandbox.ok(&[&base, more, &["-o", name]].concat());
        let file = fs::File::open(sandbox.path(name)).unwrap();
        let mut reader = png::Decoder::new(std::io::BufReader::new(file))
            .read_info()
            .unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut bytes).unwrap();
        bytes
    };
    let strong = ["--guidance-scale", "30"];
    let zeros = pixels("zeros.png", &strong);
    let unguided = pixels("unguided.png", &["--guidance-scale", "1"]);
    edit_json(&model.join("model_index.json"), |index| {
        index["force_zeros_for_empty_prompt"] = json!(false)
    });
    assert_ne!(pixels("empty.png", &strong), zeros);
    assert_eq!(pixels("same.png", &["--guidance-scale", "1"]), unguided);
    // diffusers' default.
    edit_json(&model.join("model_index.json"), |index| {
        let index = index.as_object_mut().unwrap();
        index.remove("force_zeros_for_empty_prompt");
    });
    assert_eq!(pixels("default.png", &strong), zeros);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::io::Read;
    let mut child = Command::new(env!("CARGO_BIN_EXE_asyncdiff"))
        .args(["plan", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut start = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
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

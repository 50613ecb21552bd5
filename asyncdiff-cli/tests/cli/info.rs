//! `asyncdiff info`

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::sandbox::{Sandbox, edit_json};

fn describe(sandbox: &Sandbox) -> Value {
    let report: Value = serde_json::from_str(&sandbox.ok(&["info", "model", "--json"])).unwrap();
    assert_eq!(report["model"], "model");
    report["description"].clone()
}

fn parameters(file: &Path) -> usize {
    let bytes = fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .tensors()
        .iter()
        .map(|(_, tensor)| tensor.shape().iter().product::<usize>())
        .sum()
}

#[test]
fn info_agrees_with_the_files_and_with_what_is_loaded() {
    for fixture in ["sd15", "sd21", "sdxl"] {
        let sandbox = Sandbox::new();
        let model = sandbox.model(fixture);
        let found = describe(&sandbox);
        assert_eq!(found["reads_mask"], false);
        let index: Value =
            serde_json::from_slice(&fs::read(model.join("model_index.json")).unwrap()).unwrap();
        assert_eq!(found["class"], index["_class_name"]);
        assert_eq!(found["scheduler"], index["scheduler"][1]);
        let scheduler = fs::read(model.join("scheduler/scheduler_config.json")).unwrap();
        let scheduler: Value = serde_json::from_slice(&scheduler).unwrap();
        let predicts = &scheduler["prediction_type"];
        assert_eq!(
            found["prediction_type"],
            predicts.as_str().unwrap_or("epsilon")
        );

        let parts = found["parts"].as_array().unwrap();
        let encoders = found["text_encoders"].as_array().unwrap();
        assert_eq!(parts.len(), encoders.len() + 2);
        for part in parts {
            let folder = part["folder"].as_str().unwrap();
            let stem = if folder.starts_with("text") {
                "model"
            } else {
                "diffusion_pytorch_model"
            };
            let count = parameters(&model.join(folder).join(format!("{stem}.safetensors")));
            assert_eq!(part["parameters"], count, "{folder}");
            assert_eq!(part["stored"], json!({ "F16": count }), "{folder}");
        }

        let partitions = found["partitions"].as_array().unwrap();
        let segments: Vec<_> = partitions
            .iter()
            .map(|way| way["segments"].clone())
            .collect();
        assert_eq!(segments, [1, 2, 3, 4]);
        for way in partitions {
            let count = way["segments"].to_string();
            let steps = ["--steps", "4", "--json"];
            let base = ["generate", "x", "--model", "model", "--segments", &count];
            let text = sandbox.ok(&[&base, &steps[..]].concat());
            let report: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(way["weight_bytes"], report["loaded_weight_bytes"]);
            let shares: Vec<_> = way["macs_shares"].as_array().unwrap().clone();
            let ranks = report["summary"]["ranks"].as_array().unwrap();
            assert_eq!(shares.len(), ranks.len());
            for (share, rank) in shares.iter().zip(ranks) {
                let difference = share.as_f64().unwrap() - rank["macs_share"].as_f64().unwrap();
                assert!(difference.abs() < 1e-12, "{fixture} {count}: {difference}");
            }
            let expected = if count == "1" { "single" } else { "published" };
            assert_eq!(way["partition"], expected);
        }
    }
}

#[test]
fn info_knows_models_that_only_inpaint() {
    let sandbox = Sandbox::new();
    sandbox.model("sdxl_inpaint");
    assert_eq!(describe(&sandbox)["reads_mask"], true);
    assert!(sandbox.ok(&["info", "model"]).contains("reads a mask"));
}

#[test]
fn info_in_words_names_every_part_and_partition() {
    let sandbox = Sandbox::new();
    let text = sandbox.ok(&["info"]);
    for part in [
        "embedded",
        "StableDiffusionPipeline",
        "64x64 pixels, latents 4x16x16",
        "DDIMScheduler, the denoiser predicts epsilon",
        "32 tokens of 2014",
        "F16",
        "published",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn info_knows_the_embedded_motion_adapter() {
    let sandbox = Sandbox::new();
    assert!(sandbox.ok(&["info"]).contains("up to 16 frames"));
    let report: Value = serde_json::from_str(&sandbox.ok(&["info", "--json"])).unwrap();
    // Two bytes a weight, and the header.
    let file = "../asyncdiff-models/embedded/motion_adapter/diffusion_pytorch_model.safetensors";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let bytes = fs::read(file).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let weights = (bytes.len() as u64 - header) / 2;
    assert_eq!(
        report["motion_adapter"],
        json!({"most_frames": 16, "parameters": weights, "stored": {"F16": weights}})
    );
    // It is the embedded model's.
    sandbox.model("sd15");
    let text = sandbox.ok(&["info", "model", "--json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(report["motion_adapter"].is_null());
}

#[test]
fn info_counts_weights_in_the_type_that_is_asked_for() {
    let sandbox = Sandbox::new();
    let bytes = |more: &[&str]| {
        let text = sandbox.ok(&[&["info", "--json"], more].concat());
        let report: Value = serde_json::from_str(&text).unwrap();
        report["description"]["partitions"][0]["weight_bytes"][0]
            .as_u64()
            .unwrap()
    };
    assert_eq!(bytes(&[]), 2 * bytes(&["--dtype", "f16"]));
    let text = sandbox.ok(&["info", "--dtype", "bf16"]);
    assert!(text.contains("on each device, in bf16"), "{text}");
}

#[test]
fn a_denoiser_that_no_published_partition_fits_gets_balanced_ones() {
    let sandbox = Sandbox::new();
    let model = sandbox.model("sd15");
    // Three levels of convolutional projections: no published table.
    edit_json(&model.join("unet/config.json"), |config| {
        for key in ["block_out_channels", "down_block_types"] {
            config[key].as_array_mut().unwrap().remove(1);
        }
        config["up_block_types"].as_array_mut().unwrap().remove(1);
    });
    let partitions = &describe(&sandbox)["partitions"];
    for (index, way) in partitions.as_array().unwrap().iter().enumerate().skip(1) {
        assert_eq!(
            (&way["partition"], &way["segments"]),
            (&json!("balanced"), &json!(index + 1))
        );
    }
}

#[test]
fn info_reads_the_headers_of_weights_only() {
    let sandbox = Sandbox::new();
    let model = sandbox.model("sd15");
    // A file with a hole of a tebibyte, more than any machine that runs this has memory.
    let count: u64 = 1 << 39;
    let header = json!({
        "w": {"dtype": "F16", "shape": [count], "data_offsets": [0, 2 * count]}
    })
    .to_string();
    let mut file = File::create(model.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + 2 * count).unwrap();
    let found = describe(&sandbox);
    let parts = found["parts"].as_array().unwrap();
    let vae = parts.iter().find(|part| part["folder"] == "vae").unwrap();
    assert_eq!(vae["parameters"], count);
}

#[test]
fn info_on_what_is_no_checkpoint_is_one_clear_sentence() {
    let sandbox = Sandbox::new();
    assert!(
        sandbox
            .fails(&["info", "none"])
            .contains("no model folder or file none")
    );
    let model = sandbox.model("sd15");
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    let error = sandbox.fails(&["info", "model"]);
    assert!(
        error.contains("unet/diffusion") && error.contains("truncated"),
        "{error}"
    );
    fs::remove_file(&weights).unwrap();
    assert!(sandbox.fails(&["info", "model"]).contains("unet/diffusion"));
}

//! Checkpoints in one file of the original layout.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asyncdiff_burn::weights::WeightError;
use asyncdiff_models::lora::Lora;
use asyncdiff_models::{
    Checkpoint, CheckpointError, Error, FitError, NamedTensor, StableDiffusion,
};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use super::files::{
    Plain, Tensors, checkpoint, checkpoints, copy, latents, latents_of, makes_pictures_from_text,
    write,
};
use super::original::{add_leftovers, to_original};

/// The folder without its weights.
fn configurations(checkpoint: &Path, to: &Path) -> PathBuf {
    copy(checkpoint, to);
    for part in fs::read_dir(to).unwrap() {
        for file in fs::read_dir(part.unwrap().path()).into_iter().flatten() {
            let file = file.unwrap().path();
            if file
                .extension()
                .is_some_and(|extension| extension == "safetensors")
            {
                fs::remove_file(file).unwrap();
            }
        }
    }
    to.to_owned()
}

fn all(checkpoint: &Checkpoint, part: &str, stem: &str) -> Vec<NamedTensor> {
    let files = checkpoint.weights(part, stem).unwrap();
    let weights = files.read().unwrap();
    let tensors = weights
        .shapes()
        .map(|(name, _)| weights.plain(name).unwrap());
    tensors.collect()
}

#[test]
fn a_lora_fits_the_single_file_as_it_fits_the_folder() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    for model in ["sd15", "sdxl"] {
        let checkpoint = fixtures.join(model).join("checkpoint");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write(&path, &to_original(&checkpoint), &[]);
        let config = configurations(&checkpoint, &folder.path().join("config"));
        let changed = |checkpoint: Checkpoint| {
            let file = fixtures.join(format!("lora/{model}_kohya.safetensors"));
            let pipeline = StableDiffusion::open(checkpoint)
                .unwrap()
                .with_loras(vec![(Lora::open(&file).unwrap(), 1.0)])
                .unwrap();
            latents_of(&Arc::new(pipeline))
        };
        let single = Checkpoint::single_file(&path, Some(&config)).unwrap();
        let whole = Checkpoint::folder(&checkpoint).unwrap();
        let plain = latents(whole.clone());
        let whole = changed(whole);
        assert_eq!(changed(single), whole, "{model}");
        assert_ne!(whole, plain, "{model}");
    }
}

#[test]
fn to_the_original_layout_and_back_is_the_same_model() {
    for checkpoint in checkpoints() {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors = to_original(&checkpoint);
        add_leftovers(&mut tensors);
        let path = folder.path().join("any name");
        write(&path, &tensors, &[("format", "pt")]);
        let config = configurations(&checkpoint, &folder.path().join("config"));
        let open = || Checkpoint::single_file(&path, Some(&config)).unwrap();
        let diffusers = || Checkpoint::folder(&checkpoint).unwrap();
        let mut parts = vec![
            ("unet", "diffusion_pytorch_model"),
            ("vae", "diffusion_pytorch_model"),
            ("text_encoder", "model"),
        ];
        if checkpoint.join("text_encoder_2").is_dir() {
            parts.push(("text_encoder_2", "model"));
        }
        for (part, stem) in parts {
            let (back, before) = (all(&open(), part, stem), all(&diffusers(), part, stem));
            let names = |tensors: &[NamedTensor]| -> Vec<_> {
                tensors.iter().map(|tensor| tensor.name.clone()).collect()
            };
            assert_eq!(
                names(&back),
                names(&before),
                "{part} of {}",
                checkpoint.display()
            );
            assert!(back == before, "{part} of {}", checkpoint.display());
        }
        if makes_pictures_from_text(&checkpoint) {
            let (back, before) = (latents(open()), latents(diffusers()));
            assert_eq!(back, before, "{}", checkpoint.display());
        }
    }
}

fn refusal(path: &Path, config: Option<&Path>) -> CheckpointError {
    match Checkpoint::single_file(path, config) {
        Ok(_) => panic!("{} is no checkpoint", path.display()),
        Err(error) => error,
    }
}

fn original() -> (tempfile::TempDir, PathBuf, Tensors) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    (folder, path, to_original(&checkpoint()))
}

fn number() -> Plain {
    Plain {
        dtype: Dtype::F32,
        shape: vec![1],
        bytes: vec![0; 4],
    }
}

#[test]
fn files_that_are_no_such_checkpoint_are_refused_in_one_sentence() {
    let (_folder, path, tensors) = original();
    let refused = |change: &dyn Fn(&mut Tensors), expected: &[&str]| {
        let mut changed = tensors.clone();
        change(&mut changed);
        write(&path, &changed, &[]);
        let error = refusal(&path, None).to_string();
        for part in expected {
            assert!(error.contains(part), "{error:?} should contain {part:?}");
        }
    };
    let add = |name: &str| {
        let name = name.to_owned();
        move |tensors: &mut Tensors| {
            tensors.insert(name.clone(), number());
        }
    };
    refused(
        &add("surplus.weight"),
        &["surplus.weight", "not understood"],
    );
    for inside in [
        "model.diffusion_model.input_blocks.1.0.in_layers.9.weight",
        "model.diffusion_model.input_blocks.99.0.in_layers.0.weight",
        "model.diffusion_model.magic",
        "first_stage_model.encoder.down.0.block.0",
        "first_stage_model.decoder.up.9.block.0.conv1.weight",
        "first_stage_model.encoder.magic.weight",
        "cond_stage_model.transformer.text_model.magic.weight",
    ] {
        refused(&add(inside), &[inside, "not understood"]);
    }
    refused(&add("edm_mean"), &["EDM", "not supported"]);
    let without = |prefix: &'static str| {
        move |tensors: &mut Tensors| tensors.retain(|name, _| !name.starts_with(prefix))
    };
    refused(&without("first_stage_model."), &["no VAE"]);
    refused(&without("cond_stage_model."), &["no text encoder"]);
    refused(
        &without("model.diffusion_model."),
        &["original layout", "first tensor is"],
    );
    refused(
        &without("model.diffusion_model.out.2.weight"),
        &["model.diffusion_model.out.2.weight"],
    );
    let only = |name: &'static str| {
        move |tensors: &mut Tensors| {
            *tensors = [(name.to_owned(), number())].into();
        }
    };
    refused(&only("lora_unet_down_blocks_0.lora_down.weight"), &["LoRA"]);
    refused(
        &only("down_blocks.0.resnets.0.conv1.weight"),
        &["one part", "model_index.json"],
    );
}

#[test]
fn damaged_files_and_pickles_are_refused() {
    let (_folder, path, tensors) = original();
    write(&path, &tensors, &[]);
    let bytes = fs::read(&path).unwrap();
    for length in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        let error = refusal(&path, None);
        assert!(
            matches!(error, CheckpointError::Weights(_)),
            "{length}: {error}"
        );
    }
    for start in [&b"PK\x03\x04..."[..], b"\x80\x02}q\x00."] {
        fs::write(&path, start).unwrap();
        let error = refusal(&path, None);
        assert!(
            matches!(error, CheckpointError::Weights(WeightError::Pickle { .. })),
            "{error}"
        );
        assert!(error.to_string().contains("save_file"));
    }
}

#[test]
fn a_folder_of_configurations_goes_before_what_is_inferred() {
    let (folder, path, tensors) = original();
    write(&path, &tensors, &[]);
    let config = folder.path().join("config");
    fs::create_dir(&config).unwrap();
    let error = refusal(&path, Some(&config));
    assert!(matches!(error, CheckpointError::NoConfiguration(_)));
    // The number of heads of a tiny text encoder is not that of a published one.
    fs::create_dir(config.join("scheduler")).unwrap();
    let scheduler = config.join("scheduler/scheduler_config.json");
    fs::write(
        &scheduler,
        json!({"_class_name": "DDIMScheduler"}).to_string(),
    )
    .unwrap();
    let error = refusal(&path, Some(&config));
    assert!(matches!(&error, CheckpointError::Heads { .. }), "{error}");
    for part in ["text_encoder", "unet", "vae"] {
        copy(&checkpoint().join(part), &config.join(part));
    }
    let open = Checkpoint::single_file(&path, Some(&config)).unwrap();
    let name = "scheduler/scheduler_config.json";
    assert_eq!(&*open.read(name).unwrap(), fs::read(&scheduler).unwrap());
    assert!(open.has("tokenizer/vocab.json") && open.has("model_index.json"));
    assert!(!open.has("tokenizer/tokenizer.json") && !open.has("scheduler/other.json"));
    // And its vocabulary is smaller than CLIP's.
    let error = StableDiffusion::open(open).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Fit(FitError::Setting {
                key: "vocab_size",
                ..
            })
        ),
        "{error}"
    );
}

#[test]
fn the_step_of_the_training_tells_the_two_versions_of_stable_diffusion_2_apart() {
    let has_open_clip =
        |tensors: &Tensors| tensors.contains_key("cond_stage_model.model.ln_final.weight");
    for checkpoint in checkpoints() {
        let mut tensors = to_original(&checkpoint);
        if !has_open_clip(&tensors) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let config = configurations(&checkpoint, &folder.path().join("config"));
        let mut prediction = |step: i64| {
            let number = Plain {
                dtype: Dtype::I64,
                shape: vec![],
                bytes: step.to_le_bytes().to_vec(),
            };
            tensors.insert("global_step".to_owned(), number);
            write(&path, &tensors, &[]);
            let file = Checkpoint::single_file(&path, Some(&config)).unwrap();
            let scheduler: Value = file.json("scheduler/scheduler_config.json").unwrap();
            (
                scheduler["prediction_type"].clone(),
                file.assumption().is_some(),
            )
        };
        // The folder of configurations says it.
        assert_eq!(prediction(110_000), (json!("v_prediction"), false));
        fs::remove_dir_all(config.join("scheduler")).unwrap();
        assert_eq!(prediction(875_000), (json!("epsilon"), false));
        assert_eq!(prediction(110_000), (json!("v_prediction"), true));
    }
}

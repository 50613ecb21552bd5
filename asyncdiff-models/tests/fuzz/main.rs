//! Strangers' bytes: every target is given changed forms of right inputs, for two seconds each, or for
//! `ASYNCDIFF_FUZZ_SECONDS`. `ASYNCDIFF_FUZZ_SEED` makes others of them. An input that a target does not stand is kept; what is in
//! `crashes/TARGET-*` is tried first.
#![cfg(feature = "flex")]

#[path = "../sources/files.rs"]
#[allow(dead_code, reason = "most of it is for other tests")]
mod files;
mod mutate;
#[path = "../sources/original.rs"]
#[allow(dead_code, reason = "most of it is for other tests")]
mod original;
mod targets;

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mutate::Mutator;
use targets::{CONFIGURATIONS, fixtures};

/// What no input may take longer than, on a slow and busy machine.
const LONGEST: Duration = Duration::from_secs(30);

/// When an input was given to a target, and the input.
type Started = (Instant, Vec<u8>);

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Keeps an input, and says where.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", input.len()));
    fs::write(&path, input).unwrap();
    path
}

fn fuzz(name: &'static str, target: fn(&[u8]), seeds: Vec<Vec<u8>>) {
    assert!(!seeds.is_empty());
    if let Some(corpus) = env::var_os("ASYNCDIFF_FUZZ_CORPUS") {
        let folder = Path::new(&corpus).join(name);
        fs::create_dir_all(&folder).unwrap();
        for (index, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{index}")), seed).unwrap();
        }
    }
    let current: Arc<Mutex<Option<Started>>> = Arc::default();
    let watched = Arc::clone(&current);
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(1));
            if let Some((start, input)) = &*watched.lock().unwrap()
                && start.elapsed() > LONGEST
            {
                let path = keep(name, input);
                eprintln!("{name} takes too long for {}", path.display());
                std::process::abort();
            }
        }
    });
    let run = |input: &[u8]| {
        *current.lock().unwrap() = Some((Instant::now(), input.to_vec()));
        let result = catch_unwind(AssertUnwindSafe(|| target(input)));
        *current.lock().unwrap() = None;
        if result.is_err() {
            panic!("{name} does not stand {}", keep(name, input).display());
        }
    };
    let crashes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/crashes");
    for crash in fs::read_dir(crashes).into_iter().flatten() {
        let path = crash.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        if file.starts_with(&format!("{name}-")) {
            run(&fs::read(&path).unwrap());
        }
    }
    for seed in &seeds {
        run(seed);
    }
    let mut mutator = Mutator::new(number("ASYNCDIFF_FUZZ_SEED", 1));
    let time = Duration::from_secs(number("ASYNCDIFF_FUZZ_SECONDS", 2));
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < time {
        let seed = mutator.below(seeds.len());
        let other = mutator.below(seeds.len());
        run(&mutator.mutate(&seeds[seed], &seeds[other]));
        count += 1;
    }
    println!(
        "{name}: {count} inputs in {:.0} s",
        start.elapsed().as_secs_f64()
    );
}

fn read(paths: &[&str]) -> Vec<Vec<u8>> {
    let read = |path: &&str| fs::read(fixtures().join(path)).unwrap();
    paths.iter().map(read).collect()
}

fn below(folder: &str, extension: &str) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(fixtures().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(fs::read(path).unwrap());
        }
    }
    files
}

/// A file of a few tensors: a header is worth more than megabytes behind it.
fn small_weights() -> Vec<u8> {
    let path = fixtures().join("sd15/checkpoint/vae/diffusion_pytorch_model.safetensors");
    let tensors = files::read(&path).into_iter();
    let few = tensors
        .filter(|(_, tensor)| tensor.bytes.len() < 512)
        .take(12)
        .collect();
    written(&few, &[("format", "pt")])
}

fn written(tensors: &files::Tensors, metadata: &[(&str, &str)]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    files::write(&path, tensors, metadata);
    fs::read(path).unwrap()
}

#[test]
fn safetensors_headers() {
    let mut seeds = vec![small_weights()];
    seeds.extend(
        below("lora", "safetensors")
            .into_iter()
            .filter(|file| file.len() < 1 << 17),
    );
    fuzz("safetensors_headers", targets::safetensors_headers, seeds);
}

#[test]
fn unet_configurations() {
    let seeds = read(&[
        "sd15/checkpoint/unet/config.json",
        "sd21/checkpoint/unet/config.json",
        "sdxl/checkpoint/unet/config.json",
        "svd/checkpoint/unet/config.json",
    ]);
    fuzz("unet_configurations", targets::unet_configurations, seeds);
}

#[test]
fn scheduler_configurations() {
    let mut seeds = read(&[
        "sd15/checkpoint/scheduler/scheduler_config.json",
        "sdxl/checkpoint/scheduler/scheduler_config.json",
        "svd/checkpoint/scheduler/scheduler_config.json",
    ]);
    let trained = r#"{"_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 4, "trained_betas": [0.1, 0.2, 0.3, 0.4],
        "solver_order": 3, "algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "sigma_min", "use_karras_sigmas": true,
        "lambda_min_clipped": -5.1, "euler_at_final": true, "clip_sample": false}"#;
    let unipc = r#"{"_class_name": "UniPCMultistepScheduler", "solver_order": 4, "solver_type": "bh1", "predict_x0": false,
        "disable_corrector": [0, 1], "use_exponential_sigmas": true, "timestep_spacing": "trailing", "steps_offset": 1}"#;
    seeds.extend([trained, unipc].map(|text| text.as_bytes().to_vec()));
    fuzz(
        "scheduler_configurations",
        targets::scheduler_configurations,
        seeds,
    );
}

#[test]
fn model_configurations() {
    let folder = fixtures().join("sd15/checkpoint");
    let seed = |(index, name): (usize, &&str)| {
        let mut seed = vec![index as u8];
        seed.extend(fs::read(folder.join(name)).unwrap_or_else(|_| b"{}".to_vec()));
        seed
    };
    let seeds = CONFIGURATIONS.iter().enumerate().map(seed).collect();
    fuzz("model_configurations", targets::model_configurations, seeds);
}

#[test]
fn lora_names() {
    let seeds = below("lora", "safetensors");
    fuzz("lora_names", targets::lora_names, seeds);
}

#[test]
fn prompts() {
    let seeds = [
        "a ((red)) [blue:0.5] (apple:1.3), \\(really\\)",
        "(((((((((((a)))))))))))",
        "é漢字🙂 <|endoftext|> <|startoftext|> don't 12345 _-~",
        "[[[[ (a:) (b:x) (c:1e999) (d:-1) ::: ]]",
    ];
    let seeds = seeds.map(|text| text.as_bytes().to_vec()).to_vec();
    fuzz("prompts", targets::prompts, seeds);
}

#[test]
fn partition_files() {
    let seeds = [
        r#"{"conv_in": 0, "down_blocks": 0, "mid_block": 1, "up_blocks": 1, "conv_out": 1}"#,
        r#"{"conv_in": 0, "down_blocks.0": 1, "down_blocks.1.resnets.0": 2, "down_blocks": 0, "mid_block": 3, "up_blocks": 2, "conv_out": 4}"#,
    ];
    let seeds = seeds.map(|text| text.as_bytes().to_vec()).to_vec();
    fuzz("partition_files", targets::partition_files, seeds);
}

#[test]
fn single_files() {
    let seeds = ["sd15", "sd21", "sdxl"].map(|fixture| {
        let mut tensors = original::to_original(&fixtures().join(fixture).join("checkpoint"));
        if fixture == "sd15" {
            original::add_leftovers(&mut tensors);
        }
        written(&tensors, &[("modelspec.prediction_type", "epsilon")])
    });
    fuzz("single_files", targets::single_files, seeds.to_vec());
}

#[test]
fn motion_adapters() {
    let seeds = read(&["animatediff/checkpoint/motion_adapter/config.json"]);
    fuzz("motion_adapters", targets::motion_adapters, seeds);
}

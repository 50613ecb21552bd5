//! What strangers' bytes come to. A target takes any bytes: it may refuse them, in one printable sentence that is not long, and may
//! do nothing else, least of all panic or take long.

use std::cell::OnceCell;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use asyncdiff_burn::weights::{WeightFile, Weights, read_tensors};
use asyncdiff_core::scheduler::{SCHEDULERS, SchedulerConfig};
use asyncdiff_core::unet::{SpatioTemporalConfig, UNet2d, UNet2dConfig};
use asyncdiff_core::{Machine, Partition, Schedule, SegmentGraph};
use asyncdiff_models::lora::Lora;
use asyncdiff_models::prompt;
use asyncdiff_models::{Checkpoint, Error, MotionAdapter, StableDiffusion, Strategy, json};
use burn::tensor::{Device, FloatDType};

/// The project's fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

thread_local! {
    static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
    static MODEL: OnceCell<StableDiffusion> = const { OnceCell::new() };
}

/// A file of this thread's own with these contents.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().unwrap());
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    })
}

/// Does something with a small model.
fn with_model<T>(what: impl FnOnce(&StableDiffusion) -> T) -> T {
    let open = || {
        let folder = fixtures().join("sd15/checkpoint");
        StableDiffusion::open(Checkpoint::folder(folder).unwrap()).unwrap()
    };
    MODEL.with(|model| what(model.get_or_init(open)))
}

/// What came of it; a refusal must be fit to be read.
fn check<T, E: Display>(result: Result<T, E>) -> Option<T> {
    let error = match result {
        Ok(value) => return Some(value),
        Err(error) => error.to_string(),
    };
    assert!(!error.is_empty() && error.len() < 2000, "{error}");
    assert!(!error.contains(char::is_control), "{error:?}");
    None
}

fn look_at(weights: &Weights<'_>) {
    let stored = weights.parameters_by_dtype();
    assert!(stored.values().sum::<u64>() < 1 << 40);
    let device = Device::default();
    let loader = weights.on(&device, FloatDType::F32);
    for (name, shape) in weights.shapes().take(8) {
        check(weights.shape(name));
        if shape.iter().product::<usize>() < 1 << 20 {
            check(weights.plain(name));
            if let &[rows, columns] = &shape[..] {
                check(loader.tensor(name, [rows, columns]));
            }
        }
        let (module, _) = name.rsplit_once('.').unwrap_or((name, ""));
        let _ = loader.has(module);
    }
    check(weights.finish(|name| name.len() < 10));
}

pub fn safetensors_headers(bytes: &[u8]) {
    let path = file("weights.safetensors", bytes);
    let Some(file) = check(WeightFile::open(&path)) else {
        return;
    };
    check(file.metadata());
    if let Some(weights) = check(file.read()) {
        look_at(&weights);
    }
    if bytes.len() < 1 << 16 {
        check(read_tensors(&path));
    }
}

/// The graph of a configuration's blocks, in both ways to read one.
fn unets(bytes: &[u8]) -> Vec<UNet2d> {
    let flat = json::from_slice::<UNet2dConfig>(bytes).ok();
    let flat = flat.and_then(|config| check(UNet2d::new(&config)));
    let temporal = json::from_slice::<SpatioTemporalConfig>(bytes).ok();
    let temporal = temporal.and_then(|config| check(UNet2d::spatio_temporal(&config)));
    flat.into_iter().chain(temporal).collect()
}

pub fn unet_configurations(bytes: &[u8]) {
    for unet in unets(bytes) {
        let graph = unet.video_graph(2, 2, [2, 64, 64], 77);
        assert!(graph.blocks.len() <= 1024);
        for segments in [2, 3] {
            check(Partition::published(&graph, segments));
        }
        if graph.blocks.len() < 128 {
            check(Partition::balanced(&graph, &Machine::ideal(&graph), 2));
        }
    }
}

pub fn scheduler_configurations(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some(config) = check(text.parse::<SchedulerConfig>()) else {
        return;
    };
    let look_at = |config: &SchedulerConfig| {
        check(config.alphas_cumprod());
        for steps in [1, 4, 20] {
            if let Some(schedule) = check(Schedule::new(config, steps)) {
                let terms = schedule.steps.iter().flat_map(|step| &step.combines);
                let mut weights = terms.flat_map(|combine| &combine.terms);
                assert!(weights.all(|term| term.weight.is_finite()));
            }
        }
        check(Schedule::part_way(config, 10, 3));
    };
    look_at(&config);
    for scheduler in SCHEDULERS {
        look_at(&config.with_class(scheduler.name).unwrap());
    }
}

/// The files of a model that are not weights.
pub const CONFIGURATIONS: [&str; 9] = [
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "scheduler/scheduler_config.json",
];

/// A pipeline, as far as it goes without weights.
fn look_at_model(checkpoint: Checkpoint) {
    let Some(pipeline) = check(StableDiffusion::open(checkpoint)) else {
        return;
    };
    let mut shape = pipeline.shape();
    shape.steps = 6;
    if let Some(run) = check(pipeline.plan(&shape, &Strategy::segments(2))) {
        check(run.plan.validate(&run.graph));
    }
    check(pipeline.describe());
    let _ = pipeline.truncated("a (red:1.2) apple, é漢🙂", true);
}

/// The first byte says which file it is.
pub fn model_configurations(bytes: &[u8]) {
    let Some((index, bytes)) = bytes.split_first() else {
        return;
    };
    let name = CONFIGURATIONS[usize::from(*index) % CONFIGURATIONS.len()];
    let source = fixtures().join("sd15/checkpoint");
    let folder = FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().unwrap());
        folder.path().join("model")
    });
    if !folder.exists() {
        super::files::copy(&source, &folder);
    }
    let path = folder.join(name);
    let kept = fs::read(source.join(name)).unwrap_or_default();
    fs::write(&path, bytes).unwrap();
    if let Some(checkpoint) = check(Checkpoint::folder(&folder)) {
        look_at_model(checkpoint);
    }
    fs::write(&path, kept).unwrap();
}

pub fn lora_names(bytes: &[u8]) {
    let path = file("lora.safetensors", bytes);
    let Some(lora) = check(Lora::open(&path)) else {
        return;
    };
    let open = || {
        let folder = fixtures().join("sd15/checkpoint");
        StableDiffusion::open(Checkpoint::folder(folder)?)
    };
    let merge = |pipeline: StableDiffusion| pipeline.with_loras(vec![(lora, 0.5)]);
    check(open().and_then(merge).map(drop));
}

pub fn prompts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pieces = prompt::parse(&text);
    assert!(pieces.iter().all(|piece| piece.weight.is_finite()));
    with_model(|model| {
        for weighting in [false, true] {
            if let Some(cut) = model.truncated(&text, weighting) {
                assert!(!cut.is_empty());
            }
        }
    });
}

pub fn partition_files(bytes: &[u8]) {
    let Ok(map) = json::from_slice(bytes) else {
        return;
    };
    let graph: SegmentGraph = with_model(|model| model.unet().graph(2, [1, 8, 8], 77));
    check(Partition::from_map(&graph, &map));
}

pub fn single_files(bytes: &[u8]) {
    let path = file("model.safetensors", bytes);
    let Some(checkpoint) = check(Checkpoint::single_file(path, None)) else {
        return;
    };
    look_at_model(checkpoint);
}

pub fn motion_adapters(bytes: &[u8]) {
    let source = fixtures().join("animatediff/checkpoint/motion_adapter");
    let folder = FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().unwrap());
        folder.path().join("adapter")
    });
    if !folder.exists() {
        super::files::copy(&source, &folder);
    }
    fs::write(folder.join("config.json"), bytes).unwrap();
    let put = || -> Result<(), Error> {
        let adapter = MotionAdapter::open(Checkpoint::part(&folder)?)?;
        let model = fixtures().join("animatediff/checkpoint");
        let pipeline = StableDiffusion::open(Checkpoint::folder(model)?)?;
        pipeline.with_motion(adapter).map(drop)
    };
    check(put());
}

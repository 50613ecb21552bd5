//! From what was typed to what it means.

use std::collections::BTreeMap;
use std::path::Path;

use asyncdiff_burn::device::{Worker, workers};
use asyncdiff_burn::weights::read_tensors;
use asyncdiff_models::lora::Lora;
use asyncdiff_models::{Checkpoint, NamedTensor, PartitionChoice, Request, StableDiffusion};

use crate::args::{Devices, Prompt, Sample};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Opens the model that the flags name, with its LoRAs.
pub fn open(sample: &Sample) -> Result<StableDiffusion> {
    let checkpoint = match &sample.model {
        Some(folder) => Checkpoint::folder(folder)?,
        None => embedded()?,
    };
    let loras = sample.lora.iter().map(|flag| {
        let lora = Lora::open(&flag.file)?;
        Ok((lora, flag.strength))
    });
    let loras = loras.collect::<Result<Vec<_>>>()?;
    let pipeline = StableDiffusion::open(checkpoint)?.with_loras(loras)?;
    Ok(pipeline.with_dtype(sample.dtype))
}

#[cfg(feature = "embedded")]
fn embedded() -> Result<Checkpoint> {
    Ok(Checkpoint::embedded())
}

#[cfg(not(feature = "embedded"))]
fn embedded() -> Result<Checkpoint> {
    Err("this program was built without the embedded model: name a folder with --model, or build it with --features embedded".into())
}

/// What the model is called in reports.
pub fn model_name(sample: &Sample) -> String {
    match &sample.model {
        Some(folder) => folder.display().to_string(),
        None => "embedded".to_owned(),
    }
}

/// The request that the flags describe; says what is cut off prompts that are too long.
pub fn request(
    pipeline: &StableDiffusion,
    sample: &Sample,
    prompt: Option<&Prompt>,
) -> Result<Request> {
    let text = prompt.and_then(|prompt| prompt.prompt.as_ref().or(prompt.prompt_flag.as_ref()));
    let mut request = pipeline.request(text.cloned().unwrap_or_default());
    if let Some(prompt) = prompt {
        request.negative_prompt.clone_from(&prompt.negative_prompt);
    }
    request.steps = sample.steps.unwrap_or(request.steps);
    request.guidance_scale = sample.guidance_scale.unwrap_or(request.guidance_scale);
    request.seed = sample.seed;
    request.width = sample.width.unwrap_or(request.width);
    request.height = sample.height.unwrap_or(request.height);
    request.scheduler.clone_from(&sample.scheduler);
    request.num_images = sample.num_images;
    request.latents = sample.latents.as_deref().map(latents).transpose()?;
    for (name, text) in [
        ("prompt", &request.prompt),
        ("negative prompt", &request.negative_prompt),
    ] {
        if let Some(cut) = pipeline.truncated(text) {
            eprintln!(
                "warning: the {name} is longer than the {} tokens that the model reads; cut off: {cut:?}",
                pipeline.text_encoders().tokens()
            );
        }
    }
    Ok(request)
}

fn latents(path: &Path) -> Result<NamedTensor> {
    let mut tensors = read_tensors(path)?;
    match tensors.pop() {
        Some(only) if tensors.is_empty() => Ok(only),
        _ => Err(format!(
            "{} should hold one tensor, the initial noise",
            path.display()
        )
        .into()),
    }
}

/// What `--partition` and `--segments` mean; `default` is the number of segments where neither says it.
pub fn partition(name: &str, segments: Option<usize>, default: usize) -> Result<PartitionChoice> {
    let count = segments.unwrap_or(default);
    let file = match name {
        "published" => return Ok(PartitionChoice::Published(count)),
        "balanced" => return Ok(PartitionChoice::Balanced(count)),
        file => file,
    };
    let text = std::fs::read(file).map_err(|error| {
        format!(
            "cannot read the partition {file}: {error}; use published, balanced, or a JSON file"
        )
    })?;
    let map: BTreeMap<String, usize> = serde_json::from_slice(&text)
        .map_err(|error| format!("{file} is no map of block names to segment numbers: {error}"))?;
    let found = map.values().max().map_or(0, |last| last.saturating_add(1));
    match segments {
        Some(asked) if asked != found => Err(format!(
            "the partition {file} has {found} segments, not {asked}: leave out --segments, or change the file"
        )
        .into()),
        _ => Ok(PartitionChoice::Map(map)),
    }
}

/// The workers that `--devices` names, if it is given.
pub fn named_devices(devices: &Devices) -> Result<Option<Vec<Worker>>> {
    let spec = devices.devices.as_deref();
    Ok(spec
        .map(|spec| workers(spec, devices.threads))
        .transpose()?)
}

/// As many CPU workers as a plan needs.
pub fn cpu_workers(devices: &Devices, needed: usize) -> Result<Vec<Worker>> {
    Ok(workers(&format!("cpu:{needed}"), devices.threads)?)
}

/// Says so if CPU workers have to share cores: their times then say nothing about as many devices.
pub fn shared_cores(workers: &[Worker]) -> Option<String> {
    let threads: usize = workers.iter().filter_map(Worker::threads).sum();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (threads > cores).then(|| {
        format!("{threads} CPU threads share {cores} cores: times of runs that use more than {cores} of them say little about as many devices")
    })
}

//! From what was typed to what it means.

use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;

use asyncdiff_burn::device::{Worker, workers};
use asyncdiff_burn::weights::read_tensors;
use asyncdiff_comm::launch::{Rendezvous, lent};
use asyncdiff_comm::network::Secret;
use asyncdiff_core::quoted;
use asyncdiff_media::picture;
use asyncdiff_models::files::{self, MOST_BYTES_OF_TEXT};
use asyncdiff_models::lora::Lora;
use asyncdiff_models::{
    Content, ImageToVideo, InitImage, MeasuredMachine, NamedTensor, Request, StableDiffusion, json,
};

use crate::args::{Devices, Prompt, Sample, Video};
use crate::model;

pub use crate::result::Result;

/// Opens the model that the flags name, with its LoRAs and in its type; `quiet` hides how far a download is.
pub fn pipeline(sample: &Sample, quiet: bool) -> Result<Arc<StableDiffusion>> {
    let loras = sample.lora.iter().map(|flag| {
        let lora = Lora::open(&flag.file)?;
        Ok((lora, flag.strength))
    });
    let loras = loras.collect::<Result<_>>()?;
    let pipeline = model::open(sample.model.as_deref(), &sample.files, quiet)?.with_loras(loras)?;
    let pipeline = match model::motion_source(sample) {
        Some(adapter) => pipeline.with_motion(model::open_adapter(adapter, quiet)?)?,
        None => pipeline,
    };
    Ok(Arc::new(pipeline.with_dtype(sample.dtype)))
}

/// The request that the flags describe, for the first of several prompts and seeds.
pub fn request(
    pipeline: &StableDiffusion,
    sample: &Sample,
    seed: u64,
    prompt: Option<(&str, &Prompt)>,
) -> Result<Request> {
    let mut request = pipeline.request("");
    if let Some((text, prompt)) = prompt {
        let content = &mut request.content;
        text.clone_into(&mut content.prompt);
        content.negative_prompt.clone_from(&prompt.negative_prompt);
        content.prompt_weighting = !prompt.literal_prompts;
    }
    if let Some(init) = init_image(sample)? {
        request.start_from(init);
    }
    let Request { shape, content } = &mut request;
    if let Some(strength) = sample.strength {
        shape.start = shape.start.with_strength(strength);
    }
    shape.steps = sample.steps.unwrap_or(shape.steps);
    shape.guidance_scale = sample.guidance_scale.unwrap_or(shape.guidance_scale);
    shape.min_guidance_scale = sample.video.min_guidance_scale.or(shape.min_guidance_scale);
    shape.width = sample.width.unwrap_or(shape.width);
    shape.height = sample.height.unwrap_or(shape.height);
    shape.scheduler.clone_from(&sample.scheduler);
    shape.num_images = sample.num_images;
    content.batch_noise = sample.batch_noise;
    shape.frames = sample.video.frames.unwrap_or(shape.frames);
    content.seed = seed;
    content.vae_tiling = sample.vae_tiling;
    content.latents = sample.latents.as_deref().map(latents).transpose()?;
    content.fps = sample.video.fps.unwrap_or(content.fps);
    content.image_to_video = image_to_video(&sample.video)?;
    if sample.video.fps.is_some() && shape.frames == 1 {
        return Err("--fps is for videos, and this is a picture: leave it out, or ask for more frames with --frames".into());
    }
    Ok(request)
}

/// Says what is cut off prompts that are too long: each name and text, and the negative prompt.
pub fn warn_of_truncation<'a>(
    pipeline: &StableDiffusion,
    content: &'a Content,
    prompts: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    let Some(encoders) = pipeline.text_encoders() else {
        return;
    };
    let negative = [("negative prompt", content.negative_prompt.as_str())];
    for (name, text) in prompts.into_iter().chain(negative) {
        let Some(cut) = pipeline.truncated(text, content.prompt_weighting) else {
            continue;
        };
        complain!(
            "warning: the {name} is longer than the {} tokens that the model reads; cut off: {:?}",
            encoders.tokens(),
            quoted(&cut)
        );
    }
}

/// The picture to start from.
fn init_image(sample: &Sample) -> Result<Option<InitImage>> {
    let Some(path) = &sample.init_image else {
        return Ok(None);
    };
    let image = picture::read(path)?;
    let init = match &sample.mask {
        Some(mask) => InitImage::inpaint(image, picture::read_mask(mask)?),
        None => InitImage::new(image),
    };
    Ok(Some(init))
}

/// The picture that a video is made of.
fn image_to_video(flags: &Video) -> Result<Option<ImageToVideo>> {
    let Some(path) = &flags.image else {
        return match flags.about_a_picture() {
            Some(flag) => Err(format!("{flag} is for a video that is made of a picture: leave it out, or give a picture with --image").into()),
            None => Ok(None),
        };
    };
    let mut video = ImageToVideo::new(picture::read(path)?);
    video.motion_bucket_id = flags.motion_bucket_id.unwrap_or(video.motion_bucket_id);
    video.noise_aug_strength = flags.noise_aug_strength.unwrap_or(video.noise_aug_strength);
    video.decode_chunk_size = flags.decode_chunk_size.map(NonZero::get);
    Ok(Some(video))
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

/// What `asyncdiff measure` has written.
pub fn machine(path: Option<&Path>) -> Result<Option<MeasuredMachine>> {
    let Some(path) = path else {
        return Ok(None);
    };
    let name = path.display();
    let text = files::read(path, MOST_BYTES_OF_TEXT).map_err(|error| {
        format!("cannot read the machine {name}: {error}; write one with asyncdiff measure -o FILE")
    })?;
    let measured = json::from_slice(&text).map_err(|error| {
        let reason = error.to_string();
        let reason = quoted(&reason);
        format!("{name} is not what asyncdiff measure writes: {reason}; measure again")
    })?;
    Ok(Some(measured))
}

/// The workers that `--devices` names, if it is given: all of this machine.
pub fn named_devices(devices: &Devices) -> Result<Option<Vec<Worker>>> {
    match lent_devices(devices)? {
        (_, lent) if !lent.is_empty() => Err(format!(
            "tcp://{} is a device of another process, which only generate and plan use: leave it out",
            lent[0]
        )
        .into()),
        (own, _) => Ok(own
            .map(|spec| workers(&spec, devices.threads))
            .transpose()?),
    }
}

/// Those of the devices that `--devices` names that are this machine's, and where the others are.
pub fn lent_devices(devices: &Devices) -> Result<(Option<String>, Vec<Rendezvous>)> {
    match &devices.devices {
        Some(names) => Ok(lent(names)?),
        None => Ok((None, Vec::new())),
    }
}

/// How many devices `--devices` names, here and elsewhere, if it is given.
pub fn count_devices(devices: &Devices) -> Result<Option<usize>> {
    let (own, lent) = lent_devices(devices)?;
    let own = own
        .map(|spec| workers(&spec, devices.threads))
        .transpose()?;
    Ok(match (own, lent.len()) {
        (None, 0) => None,
        (own, lent) => Some(own.map_or(0, |own| own.len()) + lent),
    })
}

/// What all ranks of a run know, and nobody else: from a file or, without one, `ASYNCDIFF_SECRET`.
pub fn secret(file: Option<&Path>) -> Result<Option<Secret>> {
    let (name, text) = match (file, std::env::var("ASYNCDIFF_SECRET")) {
        (Some(file), _) => {
            let name = file.display().to_string();
            let text = files::read(file, MOST_BYTES_OF_TEXT)
                .map_err(|error| format!("cannot read the secret {name}: {error}"))?;
            (name, String::from_utf8_lossy(&text).trim().to_owned())
        }
        (None, Ok(text)) => ("ASYNCDIFF_SECRET".to_owned(), text),
        (None, Err(_)) => return Ok(None),
    };
    match Secret::new(text) {
        Some(secret) => Ok(Some(secret)),
        None => Err(format!(
            "{name} is too short to be a secret: use {} or more characters that nobody can guess",
            Secret::SHORTEST
        )
        .into()),
    }
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

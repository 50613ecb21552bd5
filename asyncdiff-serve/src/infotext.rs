//! The settings of a picture, as its file carries them.

use asyncdiff_core::scheduler::SCHEDULERS;
use asyncdiff_media::Parameters;
use asyncdiff_models::{Content, Run};

use crate::automatic1111::samplers;
use crate::catalog::Catalog;
use crate::job::Task;

/// What makes picture `index` of a round again, alone.
pub(crate) fn write(
    catalog: &Catalog,
    task: &Task,
    (run, content): (&Run, &Content),
    index: usize,
) -> String {
    let shape = &run.shape;
    let mut settings = Parameters::new(&*task.prompt, &*content.negative_prompt);
    settings.add("Steps", shape.steps);
    settings.add("Sampler", &run.scheduler);
    settings.add("CFG scale", shape.guidance_scale);
    settings.add("Seed", content.seed_of(index));
    settings.add("Size", format_args!("{}x{}", shape.width, shape.height));
    settings.add("Model", &task.model.name);
    settings.add("Dtype", run.dtype);
    if let Some(scheduler) = &shape.scheduler {
        settings.add("Scheduler", scheduler);
    }
    for (lora, weight) in &task.loras {
        settings.add(
            "LoRA",
            format_args!("{}:{weight}", catalog.loras[*lora].name),
        );
    }
    if shape.frames > 1 {
        settings.add("Frames", shape.frames);
        settings.add("FPS", content.fps);
    }
    if let Some(strength) = shape.start.strength() {
        settings.add("Denoising strength", strength);
    }
    if content.vae_tiling {
        settings.add("VAE tiling", true);
    }
    settings.add("Plan", &run.strategy);
    settings.add("Version", concat!("asyncdiff ", env!("CARGO_PKG_VERSION")));
    settings.to_string()
}

/// The scheduler that a text names: ours, a web UI's sampler, or one of diffusers' classes.
pub(crate) fn scheduler(parameters: &Parameters) -> Option<&'static str> {
    if let Some(own) = parameters.get("Scheduler")
        && let Some(known) = SCHEDULERS.iter().find(|known| known.name == own)
    {
        return Some(known.name);
    }
    let sampler = parameters.get("Sampler")?;
    let kind = parameters.get("Schedule type");
    if let Ok(found) = samplers::scheduler(Some(sampler), kind) {
        return found;
    }
    by_class(sampler)
}

/// Our first name of one of diffusers' classes.
pub(crate) fn by_class(class: &str) -> Option<&'static str> {
    let known = SCHEDULERS.iter().find(|known| known.class == class);
    known.map(|known| known.name)
}

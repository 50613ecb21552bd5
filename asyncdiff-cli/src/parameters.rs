//! The settings of a picture or video, as its file carries them.

use std::path::Path;

use asyncdiff_media::Parameters;
use asyncdiff_models::{Content, Run};

use crate::args::Generate;
use crate::model;

/// What makes again, alone, picture or video `index` of a run: the prompt, the negative prompt, and a line of settings.
pub fn parameters(run: &Run, content: &Content, args: &Generate, index: usize) -> String {
    let (shape, sample) = (&run.shape, &args.sample);
    let mut settings = Parameters::new(&*content.prompt, &*content.negative_prompt);
    settings.add("Steps", shape.steps);
    settings.add("Sampler", &run.scheduler);
    settings.add("CFG scale", shape.guidance_scale);
    settings.add("Seed", content.seed_of(index));
    settings.add("Size", format_args!("{}x{}", shape.width, shape.height));
    settings.add("Model", model::name(sample.model.as_deref()));
    settings.add("Dtype", run.dtype);
    if content.batch_noise && shape.num_images > 1 {
        settings.add(
            "Batch noise",
            format_args!("{} of {}", index + 1, shape.num_images),
        );
    }
    if let Some(scheduler) = &shape.scheduler {
        settings.add("Scheduler", scheduler);
    }
    for lora in &sample.lora {
        settings.add(
            "LoRA",
            format_args!("{}:{}", lora.file.display(), lora.strength),
        );
    }
    if shape.frames > 1 {
        settings.add("Frames", shape.frames);
        settings.add("FPS", content.fps);
    }
    if let Some(adapter) = model::adapter_name(sample, shape) {
        settings.add("Motion adapter", adapter);
    }
    if let Some(video) = &content.image_to_video {
        add_file(&mut settings, "Image", sample.video.image.as_deref());
        settings.add("Motion bucket", video.motion_bucket_id);
        settings.add("Noise augmentation", video.noise_aug_strength);
        if let Some(scale) = shape.min_guidance_scale {
            settings.add("Min CFG scale", scale);
        }
        if let Some(chunk) = video.decode_chunk_size {
            settings.add("Decode chunk", chunk);
        }
    }
    if let Some(strength) = shape.start.strength() {
        settings.add("Denoising strength", strength);
        add_file(&mut settings, "Init image", sample.init_image.as_deref());
        add_file(&mut settings, "Mask", sample.mask.as_deref());
    }
    add_file(&mut settings, "Initial noise", sample.latents.as_deref());
    if !content.prompt_weighting {
        settings.add("Literal prompts", true);
    }
    if content.vae_tiling {
        settings.add("VAE tiling", true);
    }
    settings.add("Plan", &run.strategy);
    settings.add("Version", concat!("asyncdiff ", env!("CARGO_PKG_VERSION")));
    settings.to_string()
}

fn add_file(settings: &mut Parameters, name: &str, path: Option<&Path>) {
    if let Some(path) = path {
        settings.add(name, path.display());
    }
}

//! The settings of a picture or video, as web UIs write them into their files, and read them from there.

use std::fmt::Display;
use std::path::Path;

use asyncdiff_models::{Content, Run};

use crate::args::Generate;
use crate::model;

/// What makes again, alone, picture or video `index` of a run: the prompt, the negative prompt, and a line of settings.
pub fn parameters(run: &Run, content: &Content, args: &Generate, index: usize) -> String {
    let (shape, sample) = (&run.shape, &args.sample);
    let mut settings = Settings::default();
    settings.add("Steps", shape.steps);
    settings.add("Sampler", &run.scheduler);
    settings.add("CFG scale", shape.guidance_scale);
    settings.add("Seed", content.seed_of(index));
    settings.add("Size", format_args!("{}x{}", shape.width, shape.height));
    settings.text("Model", &model::name(sample.model.as_deref()));
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
        settings.text(
            "LoRA",
            &format!("{}:{}", lora.file.display(), lora.strength),
        );
    }
    if shape.frames > 1 {
        settings.add("Frames", shape.frames);
        settings.add("FPS", content.fps);
    }
    if let Some(adapter) = model::adapter_name(sample, shape) {
        settings.text("Motion adapter", &adapter);
    }
    if let Some(video) = &content.image_to_video {
        settings.file("Image", sample.video.image.as_deref());
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
        settings.file("Init image", sample.init_image.as_deref());
        settings.file("Mask", sample.mask.as_deref());
    }
    settings.file("Initial noise", sample.latents.as_deref());
    if !content.prompt_weighting {
        settings.add("Literal prompts", true);
    }
    if content.vae_tiling {
        settings.add("VAE tiling", true);
    }
    settings.text("Plan", &run.strategy.to_string());
    settings.add("Version", concat!("asyncdiff ", env!("CARGO_PKG_VERSION")));

    let mut text = content.prompt.clone();
    if !content.negative_prompt.is_empty() {
        text += &format!("\nNegative prompt: {}", content.negative_prompt);
    }
    format!("{text}\n{}", settings.0.join(", "))
}

/// `Name: value` each.
#[derive(Default)]
struct Settings(Vec<String>);

impl Settings {
    fn add(&mut self, name: &str, value: impl Display) {
        self.0.push(format!("{name}: {value}"));
    }

    /// A value that may hold anything: in quotation marks, as in JSON, where it would be taken for several.
    fn text(&mut self, name: &str, value: &str) {
        match value.contains([',', '\n', '"']) {
            true => self.add(name, serde_json::Value::from(value)),
            false => self.add(name, value),
        }
    }

    fn file(&mut self, name: &str, path: Option<&Path>) {
        if let Some(path) = path {
            self.text(name, &path.display().to_string());
        }
    }
}

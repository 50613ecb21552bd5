//! From what a client asks for to what is to be made.

use asyncdiff_models::image::{Image, Mask};
use asyncdiff_models::{ImageToVideo, InitImage, Shape, StableDiffusion};

use crate::catalog::Loras;
use crate::job::Task;
use crate::lora_tag;
use crate::pictures;
use crate::plans::{self, AUTO};
use crate::refusal::Refusal;
use crate::service::Service;

/// What a client asks for. Whatever is `None` is as the model's makers recommend.
#[derive(Debug, Default)]
pub(crate) struct Order {
    pub model: Option<String>,
    /// May name LoRAs.
    pub prompt: String,
    pub negative_prompt: String,
    pub width: Option<usize>,
    pub height: Option<usize>,
    pub steps: Option<usize>,
    pub guidance_scale: Option<f64>,
    /// A name of [`SCHEDULERS`](asyncdiff_core::scheduler::SCHEDULERS).
    pub scheduler: Option<String>,
    /// Random if it is `None`.
    pub seed: Option<u64>,
    pub plan: Option<String>,
    /// Pictures at a time, one entry for each time.
    pub rounds: Vec<usize>,
    pub frames: Option<usize>,
    pub fps: Option<usize>,
    pub init: Option<Init>,
    /// Pictures to be shown on the way.
    pub partial_images: usize,
    /// Bytes of pictures that wait beside it.
    pub beside: usize,
}

impl Order {
    /// Bytes of what waits with it.
    pub fn bytes(&self) -> usize {
        let init = self.init.as_ref().map_or(0, |init| {
            let mask = init.mask.as_ref().map_or(0, |mask| mask.grey.len());
            init.image.rgb.len() + mask
        });
        self.beside + init + self.prompt.len() + self.negative_prompt.len()
    }
}

/// What it starts from.
#[derive(Debug)]
pub(crate) struct Init {
    pub image: Image,
    /// White is repainted.
    pub mask: Option<Mask>,
    pub strength: Option<f64>,
}

/// The most LoRAs of one request.
const MOST_LORAS: usize = 8;

/// The most bytes of a text: models read some hundred.
const MOST_TEXT: usize = 16 << 10;

impl Service {
    /// What is to be made; takes a while.
    pub(crate) fn task(&self, order: Order) -> Result<Task, Refusal> {
        for (field, text) in [
            ("prompt", &order.prompt),
            ("negative_prompt", &order.negative_prompt),
        ] {
            if text.len() > MOST_TEXT {
                return Err(Refusal::field(
                    field,
                    format!(
                        "{} bytes of {field} are more than this service reads: send at most {MOST_TEXT}",
                        text.len()
                    ),
                ));
            }
        }
        let model = match &order.model {
            Some(name) => self.catalog.model(name)?,
            None => self.model(),
        };
        let model = std::sync::Arc::clone(model);
        let pipeline = model.pipeline()?;
        let (prompt, tags) = lora_tag::take(&order.prompt)?;
        let loras = self.loras(tags)?;
        let mut content = pipeline.content(prompt);
        content.negative_prompt = order.negative_prompt;
        content.prompt_weighting = true;
        content.vae_tiling = self.vae_tiling;
        content.fps = order.fps.unwrap_or(content.fps);
        content.seed = match order.seed {
            Some(seed) => seed,
            None => random_seed()?,
        };

        for text in [&content.prompt, &content.negative_prompt] {
            if let Some(cut) = pipeline.truncated(text, content.prompt_weighting) {
                let cut = asyncdiff_core::quoted(&cut).to_string();
                tracing::warn!(cut, "a prompt is longer than the model reads");
            }
        }

        let mut shape = default_shape(&pipeline);
        let own = (shape.width, shape.height);
        let limits = self.limits.of_model(own);
        let multiple = pipeline.size_multiple();
        let (width, height) = match &order.init {
            Some(init) if pipeline.image_encoder().is_none() => {
                size_of(&init.image, multiple, limits.pixels)
            }
            _ => own,
        };
        shape.width = order.width.unwrap_or(width);
        shape.height = order.height.unwrap_or(height);
        shape.steps = order.steps.unwrap_or(shape.steps);
        shape.guidance_scale = order.guidance_scale.unwrap_or(shape.guidance_scale);
        shape.scheduler = order.scheduler;
        shape.frames = order.frames.unwrap_or(shape.frames);
        if shape.steps == 0 {
            return Err(Refusal::field(
                "steps",
                "0 steps are not possible: ask for at least 1",
            ));
        }
        // Before anything is computed for it.
        let pictures = order
            .rounds
            .iter()
            .try_fold(0_usize, |sum, round| sum.checked_add(*round));
        limits.check(&shape, pictures.unwrap_or(usize::MAX))?;

        if let Some(Init {
            image,
            mask,
            strength,
        }) = order.init
        {
            if pipeline.image_encoder().is_some() {
                content.image_to_video = Some(ImageToVideo::new(image));
            } else {
                let size = (shape.width, shape.height);
                let image = pictures::resized(image, size)?;
                let init = match mask {
                    Some(mask) => InitImage::inpaint(image, pictures::resized_mask(mask, size)?),
                    None => InitImage::new(image),
                };
                shape.start = init.start();
                if let Some(strength) = strength {
                    shape.start = shape.start.with_strength(strength);
                }
                content.init_image = Some(init);
            }
        }
        let plan = order.plan.as_deref().unwrap_or(AUTO);
        let mut rounds = Vec::with_capacity(order.rounds.len());
        for num_images in order.rounds {
            shape.num_images = num_images;
            rounds.push(self.planner.plan(&model, &shape, plan)?);
        }
        pipeline
            .check_complete(&shape, &content)
            .map_err(|error| plans::wrong(&error.into()))?;
        Ok(Task {
            model,
            loras,
            prompt: order.prompt,
            content,
            rounds,
            partial_images: order.partial_images,
        })
    }

    fn loras(&self, tags: Vec<(String, f64)>) -> Result<Loras, Refusal> {
        let mut loras = Loras::new();
        for (name, weight) in tags {
            let index = self.catalog.lora(&name)?;
            match loras.iter_mut().find(|(other, _)| *other == index) {
                Some((_, sum)) => *sum += weight,
                None => loras.push((index, weight)),
            }
        }
        loras.retain(|(_, weight)| *weight != 0.0);
        if loras.len() > MOST_LORAS {
            return Err(Refusal::field(
                "prompt",
                format!(
                    "{} LoRAs are more than the {MOST_LORAS} that a prompt may name: leave some out",
                    loras.len()
                ),
            ));
        }
        Ok(loras)
    }
}

/// The shape of one picture, or of one video of a model that makes nothing else.
pub(crate) fn default_shape(pipeline: &StableDiffusion) -> Shape {
    let mut shape = pipeline.shape();
    if pipeline.image_encoder().is_none() {
        shape.frames = 1;
    }
    shape
}

/// The size of a picture's result: its own, as far as it is possible and allowed.
fn size_of(image: &Image, multiple: usize, most: usize) -> (usize, usize) {
    let (width, height) = (image.width as f64, image.height as f64);
    let scale = (most as f64 / (width * height)).sqrt().min(1.0);
    let side = |side: f64| ((side * scale) as usize / multiple).max(1) * multiple;
    (side(width), side(height))
}

/// A seed that nobody has chosen. Of a seed, the generator takes 32 bits.
fn random_seed() -> Result<u64, Refusal> {
    getrandom::u32()
        .map(u64::from)
        .map_err(|error| Refusal::internal("the system has no random numbers", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_size_of_their_picture_as_far_as_it_is_possible() {
        let image = |width, height| Image {
            width,
            height,
            rgb: Vec::new(),
        };
        assert_eq!(size_of(&image(64, 48), 8, 1 << 20), (64, 48));
        assert_eq!(size_of(&image(67, 7), 8, 1 << 20), (64, 8));
        let (width, height) = size_of(&image(4000, 3000), 8, 1 << 20);
        assert!(width * height <= 1 << 20, "{width}x{height}");
        assert!(width.is_multiple_of(8) && height.is_multiple_of(8));
        assert!((width as f64 / height as f64 - 4.0 / 3.0).abs() < 0.02);
    }
}

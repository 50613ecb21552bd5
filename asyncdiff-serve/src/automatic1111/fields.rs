//! The fields that both kinds of request have, and their answer.

use asyncdiff_media::picture::Format;
use asyncdiff_models::image::Image;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::samplers;
use crate::job::{Interface, Job, Made};
use crate::openai::seed as seed_of;
use crate::order::Order;
use crate::pictures::{self, to_base64};
use crate::refusal::Refusal;
use crate::service::Service;

/// For metrics.
pub(super) const INTERFACE: Interface = Interface::Automatic1111;

/// What to make. Fields that are not known change nothing.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = automatic1111::Generation)]
pub(crate) struct Generation {
    /// What to draw. `<lora:name:weight>` takes a LoRA of the service.
    pub prompt: Option<String>,
    /// What to avoid.
    pub negative_prompt: Option<String>,
    /// Of the first picture; -1 is random. Picture `i` has the seed `seed + i`.
    #[serde(deserialize_with = "whole")]
    pub seed: Option<i64>,
    /// Such as `DPM++ 2M`, or `DPM++ 2M Karras`.
    pub sampler_name: Option<String>,
    /// The older name of the same field.
    pub sampler_index: Option<String>,
    /// Noise levels: `Automatic` or `Karras`.
    pub scheduler: Option<String>,
    /// Pictures at a time.
    #[serde(deserialize_with = "whole")]
    pub batch_size: Option<i64>,
    /// How many times.
    #[serde(deserialize_with = "whole")]
    pub n_iter: Option<i64>,
    /// Inference steps.
    #[serde(deserialize_with = "whole")]
    pub steps: Option<i64>,
    /// Strength of classifier-free guidance.
    #[serde(deserialize_with = "number")]
    pub cfg_scale: Option<f64>,
    /// Pixels per row.
    #[serde(deserialize_with = "whole")]
    pub width: Option<i64>,
    /// Number of rows.
    #[serde(deserialize_with = "whole")]
    pub height: Option<i64>,
    /// `sd_model_checkpoint` takes another model of the service, for this request.
    pub override_settings: Option<Overrides>,
    /// A second pass at a larger size, which this service does not do.
    pub enable_hr: Option<bool>,
    /// Leaves the pictures out of the answer if it is false.
    pub send_images: Option<bool>,
    /// How the devices are used, which only this service knows: `auto`, or another name of the page's list.
    pub plan: Option<String>,
}

/// Settings for one request.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub(crate) struct Overrides {
    /// A model's title or name.
    pub sd_model_checkpoint: Option<String>,
}

/// A number, perhaps in quotation marks.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    use serde::de::Error;
    let value = Value::deserialize(deserializer)?;
    let number = match &value {
        Value::Null => return Ok(None),
        Value::String(text) => text.trim().parse().ok(),
        value => value.as_f64(),
    };
    let number = number.ok_or_else(|| D::Error::custom("expected a number"))?;
    Ok(Some(number))
}

/// A whole number, written as clients do: also with a fraction of zero, or in quotation marks.
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    use serde::de::Error;
    let value = Value::deserialize(deserializer)?;
    let number = match &value {
        Value::Null => return Ok(None),
        Value::String(text) => text.trim().parse::<f64>().ok(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => return Ok(Some(whole)),
            None => number.as_f64(),
        },
        _ => None,
    };
    let number = number.filter(|number| number.fract() == 0.0 && number.abs() < 9e15);
    let number = number.ok_or_else(|| D::Error::custom("expected a whole number"))?;
    Ok(Some(number as i64))
}

impl Generation {
    /// What is to be made.
    pub fn order(&self) -> Result<Order, Refusal> {
        if self.enable_hr == Some(true) {
            return Err(Refusal::field(
                "enable_hr",
                "enable_hr asks for a second pass at a larger size, which this service does not do: leave it out, and ask for the size itself",
            ));
        }
        let batch_size = count("batch_size", self.batch_size)?.unwrap_or(1);
        let times = count("n_iter", self.n_iter)?.unwrap_or(1);
        // More than any limit allows is refused by its sum.
        let times = times.min(10_000);
        let sampler = self
            .sampler_name
            .as_deref()
            .or(self.sampler_index.as_deref());
        let overrides = self.override_settings.as_ref();
        let model = overrides.and_then(|settings| settings.sd_model_checkpoint.as_deref());
        Ok(Order {
            model: model
                .filter(|name| !name.is_empty())
                .map(|name| model_name(name).to_owned()),
            prompt: self.prompt.clone().unwrap_or_default(),
            negative_prompt: self.negative_prompt.clone().unwrap_or_default(),
            width: count("width", self.width)?,
            height: count("height", self.height)?,
            steps: count("steps", self.steps)?,
            guidance_scale: self.cfg_scale,
            scheduler: samplers::scheduler(sampler, self.scheduler.as_deref())?.map(str::to_owned),
            seed: seed_of(self.seed)?,
            plan: self.plan.clone(),
            rounds: vec![batch_size; times],
            ..Order::default()
        })
    }
}

/// A title is a model's name with a hash behind it.
pub(super) fn model_name(title: &str) -> &str {
    title.split_once(" [").map_or(title, |(name, _)| name)
}

/// A number of something, 1 or more.
fn count(field: &'static str, value: Option<i64>) -> Result<Option<usize>, Refusal> {
    match value {
        None => Ok(None),
        Some(value) => match usize::try_from(value) {
            Ok(value @ 1..) => Ok(Some(value)),
            _ => Err(Refusal::field(
                field,
                format!("{field} is {value}: use 1 or more"),
            )),
        },
    }
}

/// The answer: pictures, what was asked for, and how they were made.
pub(super) fn answer(
    service: &Service,
    job: &Job,
    made: &[Made],
    (images, send): (Vec<Image>, bool),
    parameters: Value,
) -> Result<Value, Refusal> {
    let encode = |(image, made): (&Image, &Made)| {
        pictures::encode(Format::Png, image, &made.infotext, None).map(|bytes| to_base64(&bytes))
    };
    let encoded = match send {
        true => images
            .iter()
            .zip(made)
            .map(encode)
            .collect::<Result<_, _>>()?,
        false => Vec::new(),
    };
    Ok(
        json!({ "images": encoded, "parameters": parameters, "info": info(service, job, made).to_string() }),
    )
}

/// How pictures were made.
fn info(service: &Service, job: &Job, made: &[Made]) -> Value {
    let task = &job.task;
    let shape = &task.rounds[0].shape;
    let first = made.first();
    let seeds: Vec<_> = made.iter().map(|made| made.seed).collect();
    let texts: Vec<_> = made.iter().map(|made| &made.infotext).collect();
    let (sampler, levels) = sampler_of(job);
    json!({
        "prompt": task.prompt,
        "all_prompts": vec![&task.prompt; made.len()],
        "negative_prompt": task.content.negative_prompt,
        "all_negative_prompts": vec![&task.content.negative_prompt; made.len()],
        "seed": first.map_or(task.content.seed, |made| made.seed),
        "all_seeds": seeds,
        "subseed": 0,
        "all_subseeds": vec![0; made.len()],
        "subseed_strength": 0,
        "width": shape.width,
        "height": shape.height,
        "sampler_name": sampler,
        "scheduler": levels,
        "cfg_scale": shape.guidance_scale,
        "steps": shape.steps,
        "batch_size": shape.num_images,
        "restore_faces": false,
        "face_restoration_model": null,
        "sd_model_name": task.model.name,
        "sd_model_hash": "",
        "sd_vae_name": null,
        "sd_vae_hash": null,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": shape.start.strength(),
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "job_timestamp": "",
        "clip_skip": 1,
        "is_using_inpainting_conditioning": shape.start.is_masked(),
        "version": concat!("asyncdiff ", env!("CARGO_PKG_VERSION")),
        "devices": service.devices,
    })
}

/// The sampler of a job, by its name there.
fn sampler_of(job: &Job) -> (&'static str, &'static str) {
    let run = &job.task.rounds[0];
    let named = run.shape.scheduler.as_deref();
    let own = named.or_else(|| crate::infotext::by_class(&run.scheduler));
    samplers::name(own.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_many_ways() {
        let read = |text: &str| serde_json::from_str::<Generation>(text);
        let all = read(
            r#"{"steps": 20.0, "width": "512", "height": 512, "seed": -1, "n_iter": null, "unknown": {}}"#,
        );
        let all = all.unwrap();
        assert_eq!(
            (all.steps, all.width, all.height),
            (Some(20), Some(512), Some(512))
        );
        assert_eq!((all.seed, all.n_iter), (Some(-1), None));
        for bad in [
            r#"{"steps": 1.5}"#,
            r#"{"steps": "many"}"#,
            r#"{"steps": 1e300}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

//! The fields of a request, and what its answer is made of.

use asyncdiff_media::picture::Format;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::job::{Interface, Made};
use crate::order::{Init, Order};
use crate::pictures::{self, to_base64};
use crate::refusal::Refusal;
use crate::service::Service;

/// A request for pictures. Other fields (`quality`, `style`, `background`, `moderation`, `user`, …) are accepted and change nothing.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = openai::Generation)]
pub(crate) struct Generation {
    /// What to draw. `<lora:name:weight>` takes a LoRA of the service.
    pub prompt: String,
    /// A name of `/v1/models`.
    pub model: Option<String>,
    /// Pictures, 1 to 10. Picture `i` has the seed `seed + i`.
    pub n: Option<usize>,
    /// As `512x512`, or `auto`.
    pub size: Option<String>,
    /// `b64_json` or `url`.
    pub response_format: Option<String>,
    /// `png`, `jpeg` or `webp`.
    pub output_format: Option<String>,
    /// The quality of a JPEG, 0 to 100; WebP is without loss.
    pub output_compression: Option<u8>,
    /// Answers with server-sent events.
    pub stream: Option<bool>,
    /// Pictures on the way, 0 to 3, with `stream`.
    pub partial_images: Option<usize>,
    /// What to avoid.
    pub negative_prompt: Option<String>,
    /// Inference steps.
    pub num_inference_steps: Option<usize>,
    /// Strength of classifier-free guidance.
    pub guidance_scale: Option<f64>,
    /// Of the first picture; -1 or nothing is random.
    pub seed: Option<i64>,
    /// A name such as `dpmpp-2m-karras`.
    pub scheduler: Option<String>,
    /// How the devices are used: `auto`, or another name of the page's list.
    pub plan: Option<String>,
    /// How much of the picture is replaced, for edits.
    pub strength: Option<f64>,
}

/// How the answer is to look.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub format: Format,
    pub jpeg_quality: Option<u8>,
    /// Whether addresses are sent in place of pictures.
    pub urls: bool,
    pub stream: bool,
    pub first_event: &'static str,
}

/// The most pictures that clients ask for.
const MOST: usize = 10;
const MOST_PARTIAL: usize = 3;

impl Generation {
    /// What is to be made, and how the answer is to look.
    pub(super) fn order(self, init: Option<Init>) -> Result<(Order, Wanted), Refusal> {
        if self.prompt.trim().is_empty() {
            return Err(Refusal::field(
                "prompt",
                "prompt is missing: say what to draw",
            ));
        }
        let n = self.n.unwrap_or(1);
        if !(1..=MOST).contains(&n) {
            return Err(Refusal::field(
                "n",
                format!("n is {n}: ask for 1 to {MOST} pictures"),
            ));
        }
        let size = match self.size.as_deref() {
            None | Some("auto" | "") => None,
            Some(size) => Some(parse_size(size)?),
        };
        let stream = self.stream.unwrap_or(false);
        let partial_images = self.partial_images.unwrap_or(0);
        if partial_images > MOST_PARTIAL {
            return Err(Refusal::field(
                "partial_images",
                format!("partial_images is {partial_images}: ask for 0 to {MOST_PARTIAL}"),
            ));
        }
        let wanted = Wanted {
            format: format(self.output_format.as_deref())?,
            jpeg_quality: self.output_compression,
            urls: match self.response_format.as_deref() {
                None | Some("b64_json") => false,
                Some("url") => true,
                Some(_) => {
                    return Err(Refusal::field(
                        "response_format",
                        "response_format is neither b64_json nor url: use one of them",
                    ));
                }
            },
            stream,
            first_event: match init {
                None => "image_generation",
                Some(_) => "image_edit",
            },
        };
        if self.output_compression.is_some_and(|quality| quality > 100) {
            return Err(Refusal::field(
                "output_compression",
                "output_compression is above 100: use 0 to 100",
            ));
        }
        let order = Order {
            model: self.model.filter(|model| !model.is_empty()),
            prompt: self.prompt,
            negative_prompt: self.negative_prompt.unwrap_or_default(),
            width: size.map(|(width, _)| width),
            height: size.map(|(_, height)| height),
            steps: self.num_inference_steps,
            guidance_scale: self.guidance_scale,
            scheduler: self.scheduler,
            seed: seed(self.seed)?,
            plan: self.plan,
            // One after the other: each as it is alone.
            rounds: vec![1; n],
            init,
            partial_images: if stream { partial_images } else { 0 },
            ..Order::default()
        };
        Ok((order, wanted))
    }
}

/// A seed that is a number from 0 on, or -1 for a random one.
pub(crate) fn seed(seed: Option<i64>) -> Result<Option<u64>, Refusal> {
    match seed {
        None | Some(-1) => Ok(None),
        Some(seed) => u64::try_from(seed).map(Some).map_err(|_| {
            Refusal::field(
                "seed",
                format!("seed is {seed}: use 0 or more, or -1 for a random one"),
            )
        }),
    }
}

fn parse_size(size: &str) -> Result<(usize, usize), Refusal> {
    let sides = size.split_once('x');
    let sides = sides.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    sides.ok_or_else(|| Refusal::field("size", "size is no size: write it as 512x512, or auto"))
}

fn format(name: Option<&str>) -> Result<Format, Refusal> {
    match name {
        None | Some("png") => Ok(Format::Png),
        Some("jpeg" | "jpg") => Ok(Format::Jpeg),
        Some("webp") => Ok(Format::WebP),
        Some(_) => Err(Refusal::field(
            "output_format",
            "output_format is none of png, jpeg and webp: use one of them",
        )),
    }
}

impl Wanted {
    /// The file of a picture.
    pub fn encode(&self, made: &Made) -> Result<Vec<u8>, Refusal> {
        // Of a video, which this interface does not know, its first frame.
        let image = &made.frames[0];
        pictures::encode(self.format, image, &made.infotext, self.jpeg_quality)
    }

    /// `png`, …
    pub fn format_name(&self) -> &'static str {
        match self.format {
            Format::Png => "png",
            Format::Jpeg => "jpeg",
            Format::WebP => "webp",
        }
    }

    /// The answer with all pictures.
    pub fn answer(&self, service: &Service, host: &str, all: &[Made]) -> Result<Value, Refusal> {
        let data = all.iter().map(|made| {
            let bytes = self.encode(made)?;
            Ok(match self.urls {
                false => json!({ "b64_json": to_base64(&bytes), "revised_prompt": null }),
                true => {
                    let path = service.files.keep(self.format.media_type(), bytes)?;
                    json!({ "url": format!("http://{host}{path}"), "revised_prompt": null })
                }
            })
        });
        let data = data.collect::<Result<Vec<_>, Refusal>>()?;
        let first = all.first().map(|made| &made.frames[0]);
        Ok(json!({
            "created": super::now(),
            "data": data,
            "output_format": self.format_name(),
            "size": first.map(|image| format!("{}x{}", image.width, image.height)),
            // What OpenAI counts; here nothing is charged for.
            "usage": usage(),
            "seed": all.first().map(|made| made.seed),
        }))
    }
}

/// Nothing is counted here.
pub(super) fn usage() -> Value {
    json!({
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 0,
        "input_tokens_details": { "text_tokens": 0, "image_tokens": 0 },
    })
}

/// For metrics.
pub(super) const INTERFACE: Interface = Interface::OpenAi;

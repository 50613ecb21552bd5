//! The Stable Diffusion pipeline: what a checkpoint is, and what a request asks of it. Weights come later, with
//! [`Session`](crate::Session).

use std::collections::BTreeMap;

use asyncdiff_burn::weights::NamedTensor;
use asyncdiff_core::scheduler::SchedulerConfig;
use asyncdiff_core::unet::{UNet2d, UNet2dConfig};
use asyncdiff_core::{AsyncDiff, Partition, PartitionError, Plan, Schedule, SegmentGraph, Summary};
use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::clip::ClipTextConfig;
use crate::error::Error;
use crate::tokenizer::ClipTokenizer;
use crate::vae::VaeConfig;

/// Bytes of an element of the denoiser's tensors and weights: the compute type is `f32`.
const ELEMENT_BYTES: u64 = 4;

/// A text-to-image checkpoint (diffusers' `StableDiffusionPipeline`), without its weights.
#[derive(Debug)]
pub struct StableDiffusion {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) tokenizer: ClipTokenizer,
    pub(crate) text_encoder: ClipTextConfig,
    pub(crate) unet: UNet2d,
    pub(crate) vae: VaeConfig,
    scheduler: SchedulerConfig,
    defaults: GenerationConfig,
}

/// `generation_config.json`, which a checkpoint may have: what its makers recommend.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
struct GenerationConfig {
    guidance_scale: f64,
    num_inference_steps: usize,
}

impl Default for GenerationConfig {
    /// diffusers' defaults.
    fn default() -> Self {
        Self {
            guidance_scale: 7.5,
            num_inference_steps: 50,
        }
    }
}

/// The picture that is wanted. [`StableDiffusion::request`] fills in the model's defaults.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Request {
    /// What to draw.
    pub prompt: String,
    /// What to avoid.
    pub negative_prompt: String,
    /// Inference steps.
    pub steps: usize,
    /// Strength of classifier-free guidance; at 1 or less there is none.
    pub guidance_scale: f64,
    /// Seed of the noise, as for PyTorch's CPU generator.
    pub seed: u64,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Pictures of this prompt, made as one batch.
    pub num_images: usize,
    /// A noise scheduler in place of the checkpoint's, by a name of
    /// [`SCHEDULERS`](asyncdiff_core::scheduler::SCHEDULERS).
    pub scheduler: Option<String>,
    /// Initial noise in place of the seed's: standard normal, `[num_images, channels, height, width]` of the latents.
    pub latents: Option<NamedTensor>,
}

/// How a run is spread over ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Strategy {
    /// Segments of the denoiser. One segment with stride 1 is the sequential run.
    pub segments: usize,
    /// Which segment owns which block.
    pub partition: PartitionChoice,
    /// Warm-up, stride, time shift, forecast.
    pub asyncdiff: AsyncDiff,
}

/// Where the partition comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionChoice {
    /// The published table, or the balanced partition where no table fits the denoiser's structure.
    Published,
    /// Contiguous segments of equal cost.
    Balanced,
    /// Block names, or prefixes of them, to segments. The number of segments must agree.
    Map(BTreeMap<String, usize>),
}

impl PartitionChoice {
    /// `published`, `balanced` or `custom`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            PartitionChoice::Published => "published",
            PartitionChoice::Balanced => "balanced",
            PartitionChoice::Map(_) => "custom",
        }
    }
}

impl Strategy {
    /// One rank, one segment.
    #[must_use]
    pub fn sequential() -> Self {
        Self::segments(1)
    }

    /// That many segments of the published partition, with the default parameters.
    #[must_use]
    pub fn segments(segments: usize) -> Self {
        Self {
            segments,
            partition: PartitionChoice::Published,
            asyncdiff: AsyncDiff::default(),
        }
    }
}

/// A request, planned: everything that will be done, and what it should cost.
#[derive(Clone, Debug)]
pub struct Run {
    /// The denoiser's blocks at the request's size.
    pub graph: SegmentGraph,
    /// The noise scheduler's coefficients.
    pub schedule: Schedule,
    /// Who does what.
    pub plan: Plan,
    /// The plan in figures.
    pub summary: Summary,
    /// The noise scheduler's class in diffusers.
    pub scheduler: String,
    /// Whether no published partition fits, and the balanced one was taken.
    pub fell_back: bool,
}

fn scheduler(checkpoint: &Checkpoint) -> Result<SchedulerConfig, Error> {
    let name = "scheduler/scheduler_config.json";
    String::from_utf8_lossy(&checkpoint.read(name)?)
        .parse()
        .map_err(|source| Error::SchedulerFile {
            file: checkpoint.describe(name),
            source,
        })
}

impl StableDiffusion {
    /// Reads a checkpoint's configurations and tokenizer.
    ///
    /// # Errors
    ///
    /// [`Error`] if a file is missing or broken, or the checkpoint is of a kind that is not supported.
    pub fn open(checkpoint: Checkpoint) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct ModelIndex {
            _class_name: String,
        }
        let index = "model_index.json";
        let class = checkpoint.json::<ModelIndex>(index)?._class_name;
        if class != "StableDiffusionPipeline" {
            return Err(Error::UnknownPipeline {
                file: checkpoint.describe(index),
                found: class,
                supported: "StableDiffusionPipeline",
            });
        }
        let special = "tokenizer/special_tokens_map.json";
        let special = checkpoint
            .has(special)
            .then(|| checkpoint.read(special))
            .transpose()?;
        let tokenizer = ClipTokenizer::new(
            &checkpoint.read("tokenizer/vocab.json")?,
            &checkpoint.read("tokenizer/merges.txt")?,
            &checkpoint.read("tokenizer/tokenizer_config.json")?,
            special.as_deref(),
        )?;
        let generation = "generation_config.json";
        let defaults = if checkpoint.has(generation) {
            checkpoint.json(generation)?
        } else {
            GenerationConfig::default()
        };
        let pipeline = Self {
            tokenizer,
            text_encoder: checkpoint.json("text_encoder/config.json")?,
            unet: UNet2d::new(&checkpoint.json::<UNet2dConfig>("unet/config.json")?)?,
            vae: checkpoint.json("vae/config.json")?,
            scheduler: scheduler(&checkpoint)?,
            defaults,
            checkpoint,
        };
        pipeline.check_parts()?;
        Ok(pipeline)
    }

    fn check_parts(&self) -> Result<(), Error> {
        let unet = &self.unet.config;
        let fits = [
            (
                "unet in_channels",
                unet.in_channels,
                "vae latent_channels",
                self.vae.latent_channels,
            ),
            (
                "unet out_channels",
                unet.out_channels,
                "vae latent_channels",
                self.vae.latent_channels,
            ),
            (
                "unet cross_attention_dim",
                unet.cross_attention_dim,
                "text_encoder hidden_size",
                self.text_encoder.hidden_size,
            ),
            (
                "tokenizer model_max_length",
                self.tokenizer.model_max_length(),
                "text_encoder max_position_embeddings",
                self.text_encoder.max_position_embeddings,
            ),
        ];
        match fits
            .into_iter()
            .find(|(_, found, _, expected)| found != expected)
        {
            Some((what, found, other, expected)) => Err(Error::Mismatch {
                what,
                found,
                other,
                expected,
            }),
            None => Ok(()),
        }
    }

    /// A request for one picture with the model's defaults: its training size, and the steps and guidance scale of its
    /// `generation_config.json` where it has one (otherwise 50 and 7.5).
    #[must_use]
    pub fn request(&self, prompt: impl Into<String>) -> Request {
        let side = self.unet.config.sample_size.unwrap_or(64) * self.vae.scale_factor();
        Request {
            prompt: prompt.into(),
            negative_prompt: String::new(),
            steps: self.defaults.num_inference_steps,
            guidance_scale: self.defaults.guidance_scale,
            seed: 0,
            width: side,
            height: side,
            num_images: 1,
            scheduler: None,
            latents: None,
        }
    }

    /// Plans a request, without loading weights.
    ///
    /// # Errors
    ///
    /// [`Error`] for a request that the model cannot meet, or a strategy that is not possible.
    pub fn plan(&self, request: &Request, strategy: &Strategy) -> Result<Run, Error> {
        let shape = self.latents_shape(request)?;
        if let Some(latents) = request
            .latents
            .as_ref()
            .filter(|latents| latents.shape != shape)
        {
            return Err(Error::Latents {
                found: latents.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let [batch, _, height, width] = shape;
        let guidance = self.guidance(request)?;
        let passes = if guidance.is_some() { 2 } else { 1 };
        let graph = self.unet.graph(
            passes,
            [batch, height, width],
            self.tokenizer.model_max_length(),
        );
        let scheduler = match &request.scheduler {
            Some(name) => self.scheduler.with_class(name)?,
            None => self.scheduler.clone(),
        };
        let schedule = Schedule::new(&scheduler, request.steps)?;
        let sequential = Plan::sequential(&graph, &schedule, guidance)?;
        let (partition, fell_back) = self.partition(&graph, strategy)?;
        let plan = if partition.segments() == 1 && strategy.asyncdiff.stride == 1 {
            sequential.clone()
        } else {
            Plan::asyncdiff(&graph, &partition, &schedule, guidance, &strategy.asyncdiff)?
        };
        Ok(Run {
            summary: Summary::new(&plan, &sequential, &graph, ELEMENT_BYTES),
            graph,
            schedule,
            plan,
            scheduler: scheduler.class_name,
            fell_back,
        })
    }

    fn partition(
        &self,
        graph: &SegmentGraph,
        strategy: &Strategy,
    ) -> Result<(Partition, bool), Error> {
        let segments = strategy.segments;
        Ok(match &strategy.partition {
            PartitionChoice::Published => match Partition::published(graph, segments) {
                Err(PartitionError::NoFit) => (Partition::balanced(graph, segments)?, true),
                other => (other?, false),
            },
            PartitionChoice::Balanced => (Partition::balanced(graph, segments)?, false),
            PartitionChoice::Map(map) => {
                let partition = Partition::from_map(graph, map)?;
                if partition.segments() != segments {
                    return Err(Error::Mismatch {
                        what: "the number of segments in the partition",
                        found: partition.segments(),
                        other: "the number asked for",
                        expected: segments,
                    });
                }
                (partition, false)
            }
        })
    }

    /// `[batch, channels, height, width]` of the request's latents.
    fn latents_shape(&self, request: &Request) -> Result<[usize; 4], Error> {
        if request.num_images == 0 {
            return Err(Error::NoImages);
        }
        let factor = self.vae.scale_factor();
        let side = |side, found: usize| {
            if found == 0 || !found.is_multiple_of(factor) {
                return Err(Error::Size {
                    side,
                    found,
                    factor,
                    nearest: ((found + factor / 2) / factor).max(1) * factor,
                });
            }
            Ok(found / factor)
        };
        Ok([
            request.num_images,
            self.vae.latent_channels,
            side("height", request.height)?,
            side("width", request.width)?,
        ])
    }

    pub(crate) fn guidance(&self, request: &Request) -> Result<Option<f64>, Error> {
        let scale = request.guidance_scale;
        if !scale.is_finite() {
            return Err(Error::Guidance(scale));
        }
        Ok((scale > 1.0).then_some(scale))
    }

    /// The part of a prompt that is longer than the text encoder takes, if there is one. Generation cuts it off.
    #[must_use]
    pub fn truncated(&self, prompt: &str) -> Option<String> {
        self.tokenizer.encode(prompt).truncated
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.tokenizer
    }

    /// The denoiser's structure.
    #[must_use]
    pub fn unet(&self) -> &UNet2d {
        &self.unet
    }
}

//! Loaded weights, and the making of pictures.

mod animate;
mod start;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncdiff_burn::device::Worker;
use asyncdiff_burn::exchange::OnDevice;
use asyncdiff_burn::ranks::{RankError, on_each};
use asyncdiff_burn::weights::WeightSet;
use asyncdiff_comm::{CommError, local};
use asyncdiff_core::plan::{Value, Versioned};
use asyncdiff_core::{BlockId, Engine, EngineError};
use burn::tensor::{FloatDType, Tensor, TensorData};

use crate::encoders::LoadedEncoders;
use crate::error::Error;
use crate::image::Image;
use crate::lora::{Part, PartDeltas};
use crate::pipeline::{Content, Run, Shape, StableDiffusion};
use crate::preview::{Decoding, PictureDecoder, Previewer};
use crate::text::LoadedTextEncoders;
use crate::unet::{AddedConditioning, Conditioning, UNet};
use crate::vae::AutoencoderKl;
use start::{Beside, Start, noise, start};

/// How long a rank waits for another before it gives up: longer than any denoiser call, or any callback, should take.
const DEADLINE: Duration = Duration::from_secs(600);

/// Latents on a device: `[batch, channels, height, width]`.
pub type Latents = Tensor<4>;

/// Is told how far a run is.
pub trait Progress: Send {
    /// Called in order on the rank that holds the latents, whenever they have advanced: `done` of `calls` denoiser calls are
    /// done, and `latents` is what they have made so far. The run waits for the answer; breaking off cancels it on all ranks.
    fn step(&mut self, done: usize, calls: usize, latents: &Latents) -> ControlFlow<()>;
}

/// No report.
impl Progress for () {
    fn step(&mut self, _: usize, _: usize, _: &Latents) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// How long the parts of a generation took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timings {
    /// Tokenizers and encoders, and what is made of a picture that is given.
    pub encode: Duration,
    /// All denoising steps: the part that is spread over the ranks.
    pub denoise: Duration,
    /// The autoencoder's decoder.
    pub decode: Duration,
}

/// What a generation has made.
#[derive(Clone, Debug)]
pub struct Output {
    /// The pictures; the frames of each video next to each other.
    pub images: Vec<Image>,
    /// Frames of each video; 1 for pictures.
    pub frames: usize,
    /// The final latents, `[batch, channels, height, width]`, row-major, with a row for each of `images`.
    pub latents: Vec<f32>,
    /// How long it took.
    pub timings: Timings,
}

impl Output {
    /// The frames of each video; a picture is a video of one frame.
    pub fn videos(&self) -> impl Iterator<Item = &[Image]> {
        self.images.chunks(self.frames)
    }
}

/// A pipeline with its weights on workers.
///
/// The encoders and the autoencoder live on the first worker. The denoiser's blocks are loaded for the run at hand,
/// each rank's own only, and kept for the next run with the same distribution.
pub struct Session<'a> {
    pipeline: &'a StableDiffusion,
    workers: Vec<Worker>,
    encoders: LoadedEncoders<'a>,
    vae: Arc<AutoencoderKl>,
    ranks: Vec<(Vec<BlockId>, UNet)>,
}

impl<'a> Session<'a> {
    /// Loads the encoders and the autoencoder on the first of `workers`.
    ///
    /// # Errors
    ///
    /// [`Error::NotEnoughWorkers`] without a worker, [`Error::Dtype`] if one does not compute in the pipeline's type,
    /// [`Error::Weights`] for weights that do not fit.
    pub fn new(pipeline: &'a StableDiffusion, workers: Vec<Worker>) -> Result<Self, Error> {
        let Some(first) = workers.first() else {
            return Err(Error::NotEnoughWorkers {
                needed: 1,
                found: 0,
            });
        };
        let dtype = pipeline.dtype.of_tensors();
        if let Some(unable) = workers
            .iter()
            .find(|worker| !worker.device().supports_dtype(dtype))
        {
            return Err(Error::Dtype {
                device: unable.name().to_owned(),
                dtype: pipeline.dtype,
            });
        }
        let (encoders, vae) = first.install(|| -> Result<_, Error> {
            let encoders = LoadedEncoders::load(
                &pipeline.encoders,
                &pipeline.checkpoint,
                &pipeline.loras,
                (first.device(), dtype),
            )?;
            let file = pipeline
                .checkpoint
                .weights("vae", "diffusion_pytorch_model")?;
            let weights = file.read()?;
            let dtype = if pipeline.vae.force_upcast {
                FloatDType::F32
            } else {
                dtype
            };
            let vae = AutoencoderKl::load(&pipeline.vae, &weights.on(first.device(), dtype))?;
            weights.finish(|name| pipeline.vae.leaves_out(name))?;
            Ok((encoders, vae))
        })?;
        Ok(Self {
            pipeline,
            workers,
            encoders,
            vae: Arc::new(vae),
            ranks: Vec::new(),
        })
    }

    /// The workers.
    #[must_use]
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// What makes pictures of the unfinished latents of `run`, of this session's pipeline.
    #[must_use]
    pub fn previewer(&self, run: &Run, content: &Content) -> Previewer {
        Previewer::new(self.decoder(), run, content)
    }

    fn decoder(&self) -> PictureDecoder {
        PictureDecoder {
            vae: Arc::clone(&self.vae),
            device: self.workers[0].device().clone(),
        }
    }

    /// Loads the denoiser's blocks that each rank of `run` owns, unless they are loaded already.
    ///
    /// # Errors
    ///
    /// [`Error::NotEnoughWorkers`], [`Error::Weights`].
    pub fn prepare(&mut self, run: &Run) -> Result<(), Error> {
        let needed = run.plan.ranks.len();
        if self.workers.len() < needed {
            return Err(Error::NotEnoughWorkers {
                needed,
                found: self.workers.len(),
            });
        }
        // All ranks together have all blocks of a UNet, so those of pictures and of videos are not taken for each other.
        if self
            .ranks
            .iter()
            .map(|(blocks, _)| blocks)
            .eq(&run.plan.blocks)
        {
            return Ok(());
        }
        self.ranks.clear();
        let file = self
            .pipeline
            .checkpoint
            .weights("unet", "diffusion_pytorch_model")?;
        let motion = self.pipeline.motion(&run.shape);
        let unet = motion.map_or(&self.pipeline.unet, |motion| &motion.unet);
        let motion_file = motion.map(|motion| motion.adapter.weights()).transpose()?;
        for (worker, blocks) in self.workers.iter().zip(&run.plan.blocks) {
            let unet = worker.install(|| {
                let loras = self.pipeline.loras.iter();
                let loras = loras.chain(motion.and_then(|motion| motion.lora.as_ref()));
                let deltas = PartDeltas::new(loras, Part::UNet)?;
                let motion = motion_file.as_ref().map(WeightSet::read).transpose()?;
                UNet::load(
                    unet,
                    &file.read()?.with_deltas(&deltas),
                    motion.as_ref(),
                    blocks,
                    worker.device(),
                    self.pipeline.dtype.of_tensors(),
                )
            })?;
            self.ranks.push((blocks.clone(), unet));
        }
        Ok(())
    }

    /// Bytes of denoiser weights on each rank, after [`Session::prepare`].
    #[must_use]
    pub fn loaded_bytes(&self) -> Vec<u64> {
        let bytes = self.pipeline.dtype.bytes();
        self.ranks
            .iter()
            .map(|(_, unet)| unet.parameters() * bytes)
            .collect()
    }

    /// Makes pictures of `content` as `run`, of this session's pipeline, was planned.
    ///
    /// On the CPU, the same run and number of threads for each worker give the same picture bit for bit.
    ///
    /// # Errors
    ///
    /// [`Error`] of [`StableDiffusion::check_complete`] and [`Session::prepare`]; [`Error::Cancelled`]; [`Error::NotFinite`];
    /// [`Error::Rank`] if a rank fails.
    pub fn generate(
        &mut self,
        run: &Run,
        content: &Content,
        progress: &mut dyn Progress,
    ) -> Result<Output, Error> {
        self.pipeline.check_complete(&run.shape, content)?;
        self.prepare(run)?;
        let start = Instant::now();
        let mut conditioning = self.encode(&run.shape, content)?;
        let (initial, beside) = self.start(run, content, &conditioning);
        conditioning.concat = beside.concat;
        conditioning.mask = beside.mask;
        let encode = start.elapsed();

        let start = Instant::now();
        let tensor = self.denoise(run, conditioning, initial, progress)?;
        // A GPU computes behind the program's back: only when the values are here has the time passed.
        let latents = values(tensor.clone());
        let denoise = start.elapsed();
        if latents.iter().any(|value| !value.is_finite()) {
            return Err(Error::NotFinite);
        }

        let start = Instant::now();
        let decoding = Decoding::of(run, content);
        let images = self.workers[0].install(|| self.decoder().pictures(tensor, decoding))?;
        let decode = start.elapsed();
        Ok(Output {
            images,
            frames: run.shape.frames,
            latents,
            timings: Timings {
                encode,
                denoise,
                decode,
            },
        })
    }

    /// What the denoiser is told of a content, for `passes · num_images` samples; with guidance, that of the negative prompt,
    /// or of no picture, first. It is on the first worker's device.
    ///
    /// # Errors
    ///
    /// [`Error::Guidance`], [`Error::NeedsPicture`].
    pub fn encode(&self, shape: &Shape, content: &Content) -> Result<Conditioning, Error> {
        let guided = self.pipeline.guidance(shape)?.is_some();
        let worker = &self.workers[0];
        match (&self.encoders, &content.image_to_video) {
            (LoadedEncoders::Texts(encoders), _) => {
                let ids = self.pipeline.class.time_ids(shape.height, shape.width);
                Ok(worker.install(|| encode_texts(encoders, (shape, content), guided, ids)))
            }
            (LoadedEncoders::Picture(encoder, model), Some(video)) => Ok(worker.install(|| {
                let fps = content.fps;
                animate::encode(encoder, model, (shape, fps), video, guided, worker.device())
            })),
            (LoadedEncoders::Picture(..), None) => Err(Error::NeedsPicture),
        }
    }

    /// What the run starts from.
    fn start(&self, run: &Run, content: &Content, conditioning: &Conditioning) -> (Start, Beside) {
        let worker = &self.workers[0];
        let passes = conditioning.context.dims()[0] / run.shape.num_images;
        let reads_mask = self.pipeline.reads_mask();
        worker.install(|| start(run, content, passes, reads_mask, &self.vae, worker.device()))
    }

    /// Runs the plan: initial latents to final latents, `[batch, channels, height, width]` on the first worker's device.
    /// [`Session::prepare`] must have loaded the blocks of `run`.
    fn denoise(
        &self,
        run: &Run,
        conditioning: Conditioning,
        start: Start,
        progress: &mut dyn Progress,
    ) -> Result<Tensor<4>, Error> {
        let plan = &run.plan;
        let shape = run.graph.latents;
        let [_, _, height, width] = shape;
        // Only one rank advances the latents: it alone starts with them, reports, and draws noise.
        let mut lead = Some((start, progress));
        let peers = local::world(plan.ranks.len(), DEADLINE);
        let states: Vec<_> = peers
            .into_iter()
            .enumerate()
            .map(|(rank, peer)| {
                (
                    peer,
                    if rank == plan.latents_rank {
                        lead.take()
                    } else {
                        None
                    },
                )
            })
            .collect();
        let results = on_each(&self.workers, states, |rank, (peer, lead)| {
            let device = self.workers[rank].device();
            let tensor = |values| Tensor::<4>::from_data(TensorData::new(values, shape), device);
            let (latents, mut source, mut progress) = match lead {
                Some((Start { latents, kept, rng }, progress)) => {
                    (Some(tensor(latents)), Some((kept, rng)), Some(progress))
                }
                None => (None, None, None),
            };
            let given = Box::new(move |what: Versioned| match (&mut source, what.value) {
                (Some((_, rng)), Value::Noise) => tensor(noise(rng, run)),
                (Some((Some(kept), _)), Value::Image) => tensor(kept.image.clone()),
                (Some((Some(kept), _)), Value::ImageNoise) => tensor(kept.noise.clone()),
                _ => unreachable!("only the rank that advances the latents reads {what}"),
            });
            let conditioning = conditioning.clone().to_device(device);
            let unet = &self.ranks[rank].1;
            let mut denoiser = unet.denoiser(conditioning, [height, width], given);
            let mut peers = OnDevice::new(peer, device);
            Engine::new(plan, rank).run(&mut denoiser, &mut peers, latents, &mut |what, tensor| {
                match (&mut progress, what.value) {
                    (Some(progress), Value::Latents) => {
                        progress.step(what.version, plan.calls, tensor)
                    }
                    _ => ControlFlow::Continue(()),
                }
            })
        });
        let mut latents = None;
        let mut errors = Vec::new();
        for result in results {
            match result {
                Ok(result) => latents = latents.or(result),
                Err(error) => errors.push(error),
            }
        }
        // The rank that failed first says why; the others say only that it did.
        errors.sort_by_key(is_consequence);
        match (errors.into_iter().next(), latents) {
            (
                Some(RankError::Failed {
                    source: EngineError::Cancelled,
                    ..
                }),
                _,
            ) => Err(Error::Cancelled),
            (Some(error), _) => Err(error.into()),
            (None, Some(latents)) => Ok(latents.to_device(self.workers[0].device())),
            (None, None) => unreachable!("a valid plan ends with the final latents"),
        }
    }
}

/// What the denoiser is told of prompts, and of `ids`, the numbers that go with them if it reads any.
fn encode_texts(
    encoders: &LoadedTextEncoders<'_>,
    (shape, content): (&Shape, &Content),
    guided: bool,
    ids: Option<[f64; 6]>,
) -> Conditioning {
    let negative = guided.then_some(content.negative_prompt.as_str());
    let prompts = encoders.encode(negative, &content.prompt, content.prompt_weighting);
    let context = repeat_each(prompts.context, shape.num_images);
    let samples = context.dims()[0];
    let added = prompts
        .pooled
        .zip(ids)
        .map(|(pooled, ids)| AddedConditioning {
            text_embeds: Some(repeat_each(pooled, shape.num_images)),
            time_ids: vec![ids.to_vec(); samples],
        });
    Conditioning {
        context,
        added,
        concat: None,
        mask: None,
        frames: shape.frames,
    }
}

fn is_consequence(error: &RankError<EngineError<std::convert::Infallible>>) -> bool {
    matches!(
        error,
        RankError::Failed {
            source: EngineError::Comm(CommError::PeerFailed { .. }),
            ..
        }
    )
}

/// Every row of the batch, `times` times in a row.
fn repeat_each<const D: usize>(tensor: Tensor<D>, times: usize) -> Tensor<D> {
    let rows = tensor.dims()[0];
    let each = tensor.chunk(rows, 0).into_iter();
    Tensor::cat(each.map(|row| row.repeat_dim(0, times)).collect(), 0)
}

/// The elements of a tensor, row-major.
pub(crate) fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

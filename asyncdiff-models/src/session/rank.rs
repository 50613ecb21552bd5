//! One rank: a worker, the blocks that it has loaded, and its part of a plan.

use std::borrow::Borrow;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;

use asyncdiff_burn::device::Worker;
use asyncdiff_burn::exchange::{OnDevice, Parcel};
use asyncdiff_burn::weights::WeightSet;
use asyncdiff_comm::PeerExchange;
use asyncdiff_core::plan::{Action, Value, Versioned};
use asyncdiff_core::{BlockId, Engine, EngineError};
use burn::tensor::{Tensor, TensorData};

use super::progress::Progress;
use super::start::{Start, noise};
use super::timeline::Timeline;
use crate::cancel::Cancel;
use crate::error::Error;
use crate::lora::{Part, PartDeltas};
use crate::pipeline::{Run, StableDiffusion};
use crate::tensors::{Clean, Latents};
use crate::unet::{Conditioning, EMBEDDINGS, UNet};

/// One rank: a worker, and the denoiser's blocks that it has loaded.
///
/// It needs nothing of the others but their messages, so each may be in a process of its own. What is loaded stays: runs after
/// one another load only what they need and the ones before did not.
#[derive(Debug)]
pub struct Rank {
    pipeline: Arc<StableDiffusion>,
    worker: Worker,
    loaded: Option<Loaded>,
    cancel: Cancel,
    timeline: Option<Timeline>,
}

#[derive(Debug)]
struct Loaded {
    /// Whether this is the denoiser with motion modules.
    moves: bool,
    unet: UNet,
}

/// What the rank that advances the latents has beside the others.
pub struct Lead<'a> {
    /// What the run starts from.
    pub start: Start,
    /// Is told how far it is.
    pub progress: &'a mut dyn Progress,
}

impl Rank {
    /// A rank that has loaded nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Dtype`] if the worker does not compute in the pipeline's type.
    pub fn new(pipeline: &Arc<StableDiffusion>, worker: Worker) -> Result<Self, Error> {
        if !worker.device().supports_dtype(pipeline.dtype.of_tensors()) {
            return Err(Error::Dtype {
                device: worker.name().to_owned(),
                dtype: pipeline.dtype,
            });
        }
        Ok(Self {
            pipeline: Arc::clone(pipeline),
            worker,
            loaded: None,
            cancel: Cancel::default(),
            timeline: None,
        })
    }

    /// Lets runs from now on end with [`EngineError::Cancelled`] after the block at which `cancel` asks for it.
    pub fn heed(&mut self, cancel: Cancel) {
        self.cancel = cancel;
    }

    /// Lets runs from now on write what they do on a time line, or on none.
    pub fn write_on(&mut self, timeline: Option<Timeline>) {
        self.timeline = timeline;
    }

    /// Its worker.
    #[must_use]
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Loads those blocks of rank `rank` of `run` that are not there yet.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] and [`Error::Checkpoint`] for weights that do not fit or are not there.
    ///
    /// # Panics
    ///
    /// If the plan has no such rank.
    pub fn prepare(&mut self, run: &Run, rank: usize) -> Result<(), Error> {
        self.load(run, &run.plan.blocks[rank])
    }

    /// Shares with `other` those blocks of rank `rank` of `run` that are not there yet and are there, if both are on one device, and
    /// of one pipeline or of clones of it. Blocks that a LoRA of either changes are its own.
    ///
    /// # Panics
    ///
    /// If the plan has no such rank.
    pub fn share(&mut self, other: &Self, run: &Run, rank: usize) {
        self.drop_others(run);
        let moves = self.pipeline.motion(&run.shape).is_some();
        let there = other
            .loaded
            .as_ref()
            .filter(|there| there.moves == moves && self.worker.device() == other.worker.device());
        let Some(there) = there else { return };
        let same = |modules: &[&str]| self.pipeline.shares_modules(&other.pipeline, modules);
        if !same(&EMBEDDINGS) {
            return;
        }
        let blocks = run.plan.blocks[rank].iter().copied();
        let blocks: Vec<_> = blocks
            .filter(|block| same(&there.unet.modules(*block)))
            .collect();
        match &mut self.loaded {
            None => {
                self.loaded = Some(Loaded {
                    moves: there.moves,
                    unet: there.unet.shared(&blocks),
                });
            }
            Some(here) => here.unet.take_from(&there.unet, &blocks),
        }
    }

    /// Loads those of some blocks of the denoiser of `run` that are not there yet.
    pub(super) fn load(&mut self, run: &Run, blocks: &[BlockId]) -> Result<(), Error> {
        self.drop_others(run);
        let missing = |loaded: &Loaded| blocks.iter().any(|block| !loaded.unet.holds(*block));
        if self.loaded.as_ref().is_none_or(missing) {
            self.read(run, blocks)?;
        }
        Ok(())
    }

    /// What is loaded.
    ///
    /// # Panics
    ///
    /// If nothing is.
    pub(super) fn unet(&self) -> &UNet {
        let loaded = self.loaded.as_ref();
        &loaded.expect("the blocks are loaded before they run").unet
    }

    fn read(&mut self, run: &Run, blocks: &[BlockId]) -> Result<(), Error> {
        let (pipeline, device) = (&self.pipeline, self.worker.device());
        let file = pipeline
            .checkpoint
            .weights("unet", "diffusion_pytorch_model")?;
        pipeline.check_parameters(&file)?;
        let motion = pipeline.motion(&run.shape);
        let motion_file = motion.map(|motion| motion.adapter.weights()).transpose()?;
        let loaded = &mut self.loaded;
        self.worker.install(|| {
            let loras = pipeline.loras.iter().map(Arc::as_ref);
            let loras = loras.chain(motion.and_then(|motion| motion.lora.as_ref()));
            let deltas = PartDeltas::new(loras, Part::UNet)?;
            let weights = file.read()?.with_deltas(&deltas);
            let of_motion = motion_file.as_ref().map(WeightSet::read).transpose()?;
            match loaded {
                Some(loaded) => loaded.unet.add(&weights, of_motion.as_ref(), blocks)?,
                None => {
                    let spec = motion.map_or(&pipeline.unet, |motion| &motion.unet);
                    let dtype = pipeline.dtype.of_tensors();
                    let unet =
                        UNet::load(spec, &weights, of_motion.as_ref(), blocks, device, dtype)?;
                    *loaded = Some(Loaded {
                        moves: motion.is_some(),
                        unet,
                    });
                }
            }
            Ok(())
        })
    }

    /// Drops the blocks of another denoiser than that of `run`: pictures and videos have different ones.
    pub fn drop_others(&mut self, run: &Run) {
        let moves = self.pipeline.motion(&run.shape).is_some();
        self.loaded.take_if(|loaded| loaded.moves != moves);
    }

    /// Drops the blocks that rank `rank` of `run` does not need; all of them if the plan has no such rank.
    pub fn trim(&mut self, run: &Run, rank: usize) {
        self.drop_others(run);
        match run.plan.blocks.get(rank) {
            Some(blocks) => self.keep(blocks),
            None => self.loaded = None,
        }
    }

    /// Drops all blocks but some.
    pub(super) fn keep(&mut self, blocks: &[BlockId]) {
        if let Some(loaded) = &mut self.loaded {
            loaded.unet.keep(blocks);
        }
    }

    /// Bytes of the denoiser's weights that are loaded.
    #[must_use]
    pub fn loaded_bytes(&self) -> u64 {
        let parameters = self.loaded.as_ref().map(|loaded| loaded.unet.parameters());
        parameters.unwrap_or(0) * self.pipeline.dtype.bytes()
    }

    /// Does its part of a plan on the calling thread, which should be [the worker's](Worker::install). Returns the final latents on
    /// the rank that advances them; that rank, and no other, is given `lead`.
    ///
    /// # Errors
    ///
    /// [`EngineError`]; all other ranks are told.
    ///
    /// # Panics
    ///
    /// If [`Rank::prepare`] has not loaded the blocks of rank `rank` of `run`.
    pub fn run<P: PeerExchange<Parcel<4>>>(
        &self,
        run: &Run,
        rank: usize,
        conditioning: Conditioning,
        lead: Option<Lead<'_>>,
        peers: P,
    ) -> Result<Option<Latents>, EngineError<Infallible>> {
        let plan = &run.plan;
        let shape = run.graph.latents;
        let [_, _, height, width] = shape;
        let device = self.worker.device();
        let tensor = |values| Tensor::<4>::from_data(TensorData::new(values, shape), device);
        let (latents, mut source, mut progress) = match lead {
            Some(Lead { start, progress }) => {
                let Start {
                    latents,
                    kept,
                    generators,
                } = start;
                let latents = tensor(latents);
                (
                    Some(latents.clone()),
                    Some((kept, generators)),
                    Some(Watched {
                        progress,
                        latents,
                        prediction: None,
                    }),
                )
            }
            None => (None, None, None),
        };
        let given = Box::new(move |what: Versioned| match (&mut source, what.value) {
            (Some((_, generators)), Value::Noise) => tensor(noise(generators, run)),
            (Some((Some(kept), _)), Value::Image) => tensor(kept.image.clone()),
            (Some((Some(kept), _)), Value::ImageNoise) => tensor(kept.noise.clone()),
            _ => unreachable!("only the rank that advances the latents reads {what}"),
        });
        let conditioning = conditioning.to_device(device);
        let mut denoiser = self.unet().denoiser(conditioning, [height, width], given);
        let mut peers = OnDevice::new(peers, device);
        let forms = |what| run.form(what);
        let note = |action: &Action, begun| {
            if let Some(timeline) = &self.timeline {
                timeline.note(rank, action, begun);
            }
        };
        let engine = Engine::new(plan, rank, &forms);
        let engine = match self.timeline {
            Some(_) => engine.timed(&note),
            None => engine,
        };
        engine.run(
            &mut denoiser,
            &mut peers,
            latents,
            &mut |what, tensor| match &mut progress {
                _ if self.cancel.is_asked() => ControlFlow::Break(()),
                Some(progress) => progress.see(run, what, tensor),
                None => ControlFlow::Continue(()),
            },
        )
    }
}

/// Progress, with what it takes to say where a run is going.
struct Watched<'a> {
    progress: &'a mut dyn Progress,
    /// Of the call under way.
    latents: Latents,
    prediction: Option<Latents>,
}

impl Watched<'_> {
    /// Tells what has come of a value: neither those of one branch nor those that are predicted are what has been made.
    fn see(&mut self, run: &Run, what: Versioned, tensor: &Latents) -> ControlFlow<()> {
        let calls = run.plan.calls;
        if what == Value::Prediction.at(what.version) {
            self.prediction = Some(tensor.clone());
        } else if what == Value::Latents.at(what.version) {
            if let (Some(prediction), Some(call)) = (&self.prediction, what.version.checked_sub(1))
            {
                let clean = Clean {
                    latents: &self.latents,
                    prediction,
                    factors: run.schedule.data_prediction(call),
                };
                self.progress.predicted(what.version, calls, &clean)?;
            }
            self.latents = tensor.clone();
            return self.progress.step(what.version, calls, tensor);
        }
        ControlFlow::Continue(())
    }
}

/// Ranks are run where their workers are.
impl Borrow<Worker> for Rank {
    fn borrow(&self) -> &Worker {
        &self.worker
    }
}

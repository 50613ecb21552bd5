//! Loaded weights, and the making of pictures.

mod animate;
mod generators;
mod measure;
mod member;
mod parts;
mod progress;
mod rank;
mod start;
mod timeline;

use std::convert::Infallible;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncdiff_burn::device::Worker;
use asyncdiff_burn::exchange::to_device;
use asyncdiff_burn::ranks::{RankError, on_each};
use asyncdiff_comm::{CommError, local};
use asyncdiff_core::EngineError;
use burn::tensor::Device;

use crate::cancel::Cancel;
use crate::error::Error;
use crate::image::Image;
use crate::pipeline::{Run, StableDiffusion};
use crate::preview::Previewer;
use crate::request::{Content, RequestError, Shape};
use crate::tensors::Latents;
use crate::unet::Conditioning;

pub use member::Member;
pub use parts::Parts;
pub use progress::Progress;
pub use rank::{Lead, Rank};
pub use start::Start;
pub use timeline::{Doing, Span, Timeline};

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
    /// The same before it was rounded to bytes: `[batch, 3, height, width]`, row-major, from -1 to 1.
    pub samples: Vec<f32>,
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

    /// The samples of the first picture or video.
    pub(crate) fn first_samples(&self) -> &[f32] {
        &self.samples[..self.samples.len() / self.images.len() * self.frames]
    }
}

/// A pipeline with its weights on workers: one [`Rank`] for each, and the [`Parts`] beside the denoiser on the first.
///
/// The denoiser's blocks are loaded for the run at hand, each rank's own only, and once for all ranks on a device: CPU workers
/// share them. What is loaded stays, so that runs after one another load only what differs.
#[derive(Debug)]
pub struct Session {
    pipeline: Arc<StableDiffusion>,
    parts: Parts,
    ranks: Vec<Rank>,
}

impl Session {
    /// Loads the encoders and the autoencoder on the first of `workers`.
    ///
    /// # Errors
    ///
    /// [`Error::NotEnoughWorkers`] without a worker, [`Error::Dtype`] if one does not compute in the pipeline's type,
    /// [`Error::Weights`] for weights that do not fit.
    pub fn new(pipeline: &Arc<StableDiffusion>, workers: Vec<Worker>) -> Result<Self, Error> {
        Self::with_parts(pipeline, workers, |device| Parts::load(pipeline, device))
    }

    /// A session of `pipeline` beside this one. Where both pipelines are [clones](StableDiffusion::clone) of one, with other
    /// [LoRAs](StableDiffusion::with_loras), what these do not change is shared: encoders and the autoencoder now, and the
    /// denoiser's blocks by [`Session::share`].
    ///
    /// # Errors
    ///
    /// As [`Session::new`].
    pub fn beside(
        &self,
        pipeline: &Arc<StableDiffusion>,
        workers: Vec<Worker>,
    ) -> Result<Self, Error> {
        Self::with_parts(pipeline, workers, |device| {
            self.parts.beside(pipeline, device)
        })
    }

    fn with_parts(
        pipeline: &Arc<StableDiffusion>,
        workers: Vec<Worker>,
        load: impl FnOnce(&Device) -> Result<Parts, Error> + Send,
    ) -> Result<Self, Error> {
        let ranks = workers
            .into_iter()
            .map(|worker| Rank::new(pipeline, worker))
            .collect::<Result<Vec<_>, _>>()?;
        let Some(first) = ranks.first().map(Rank::worker) else {
            return Err(Error::NotEnoughWorkers {
                needed: 1,
                found: 0,
            });
        };
        Ok(Self {
            pipeline: Arc::clone(pipeline),
            parts: first.install(|| load(first.device()))?,
            ranks,
        })
    }

    /// The pipeline.
    #[must_use]
    pub fn pipeline(&self) -> &Arc<StableDiffusion> {
        &self.pipeline
    }

    /// The workers, by rank.
    pub fn workers(&self) -> impl ExactSizeIterator<Item = &Worker> + Clone {
        self.ranks.iter().map(Rank::worker)
    }

    /// What makes pictures of the unfinished latents of a run of this session.
    #[must_use]
    pub fn previewer(&self) -> Previewer {
        self.parts.previewer()
    }

    /// Loads those of the denoiser's blocks that each rank of `run` owns and has not loaded yet. Blocks that it does not own stay
    /// too, unless `run` is for another denoiser: pictures and videos have different ones.
    ///
    /// # Errors
    ///
    /// [`Error::NotEnoughWorkers`], [`Error::Weights`].
    pub fn prepare(&mut self, run: &Run) -> Result<(), Error> {
        let (needed, found) = (run.plan.ranks.len(), self.ranks.len());
        if found < needed {
            return Err(Error::NotEnoughWorkers { needed, found });
        }
        // All of them before the first is loaded anew: workers may share their memory.
        for rank in &mut self.ranks {
            rank.drop_others(run);
        }
        for index in 0..needed {
            let (before, rest) = self.ranks.split_at_mut(index);
            let (rank, behind) = rest.split_first_mut().expect("as many ranks as needed");
            for other in before.iter().chain(&*behind) {
                rank.share(other, run, index);
            }
            rank.prepare(run, index)?;
        }
        Ok(())
    }

    /// Takes from `other` those blocks that `run` needs, and that are there, and not here: of a session [beside](Session::beside)
    /// this one, on the same devices. Otherwise there are none.
    pub fn share(&mut self, other: &Self, run: &Run) {
        let needed = run.plan.ranks.len();
        for (index, rank) in self.ranks.iter_mut().enumerate().take(needed) {
            for other in &other.ranks {
                rank.share(other, run, index);
            }
        }
    }

    /// Drops the blocks that `run` does not need.
    pub fn trim(&mut self, run: &Run) {
        for (index, rank) in self.ranks.iter_mut().enumerate() {
            rank.trim(run, index);
        }
    }

    /// Bytes of the denoiser's weights that are loaded on each worker.
    #[must_use]
    pub fn loaded_bytes(&self) -> Vec<u64> {
        self.ranks.iter().map(Rank::loaded_bytes).collect()
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
        self.generate_together(run, from_ref(content), progress)
    }

    /// Makes pictures of several contents in one batch, as many of each: `run.shape.num_images` in all, those of the first content
    /// first. Each is, within rounding, what it is alone.
    ///
    /// # Errors
    ///
    /// As [`Session::generate`]; [`RequestError::Together`] for contents that share no batch.
    pub fn generate_together(
        &mut self,
        run: &Run,
        contents: &[Content],
        progress: &mut dyn Progress,
    ) -> Result<Output, Error> {
        check_together(run, contents)?;
        for content in contents {
            self.pipeline.check_complete(&run.shape, content)?;
        }
        self.prepare(run)?;
        let timeline = progress.timeline();
        self.heed(&progress.cancel(), timeline.as_ref());
        let made = self.make(run, contents, progress);
        // What comes next has nothing to do with who could end this run, or looked at it.
        self.heed(&Cancel::default(), None);
        if let Some(timeline) = timeline {
            timeline.close();
        }
        made
    }

    fn heed(&mut self, cancel: &Cancel, timeline: Option<&Timeline>) {
        self.parts.heed(cancel.clone());
        for rank in &mut self.ranks {
            rank.heed(cancel.clone());
            rank.write_on(timeline.cloned());
        }
    }

    /// Makes the pictures with what is loaded.
    fn make(
        &self,
        run: &Run,
        contents: &[Content],
        progress: &mut dyn Progress,
    ) -> Result<Output, Error> {
        let start = Instant::now();
        let (parts, first) = (&self.parts, self.ranks[0].worker());
        let (conditioning, initial) = first.install(|| parts.begin(run, contents))?;
        let encode = start.elapsed();
        let start = Instant::now();
        let latents = self.denoise(run, conditioning, initial, progress)?;
        first.install(|| parts.finish(run, &contents[0], latents, (encode, start)))
    }

    /// [`Parts::encode`], on the first worker's device.
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    pub fn encode(&self, shape: &Shape, content: &Content) -> Result<Conditioning, Error> {
        let first = self.ranks[0].worker();
        first.install(|| self.parts.encode(shape, from_ref(content)))
    }

    /// Runs the plan: initial latents to final latents, `[batch, channels, height, width]` on the first worker's device.
    /// [`Session::prepare`] must have loaded the blocks of `run`.
    fn denoise(
        &self,
        run: &Run,
        conditioning: Conditioning,
        start: Start,
        progress: &mut dyn Progress,
    ) -> Result<Latents, Error> {
        // Only one rank advances the latents: it alone starts with them, reports, and draws noise.
        let mut lead = Some(Lead { start, progress });
        let peers = local::world(run.plan.ranks.len());
        let states = peers.into_iter().enumerate().map(|(rank, peer)| {
            let leads = rank == run.plan.latents_rank;
            (peer, lead.take_if(|_| leads))
        });
        let results = on_each(&self.ranks, states.collect(), |rank, (peer, lead)| {
            self.ranks[rank].run(run, rank, conditioning.clone(), lead, peer)
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
            (None, Some(latents)) => Ok(to_device(latents, self.ranks[0].worker().device())),
            (None, None) => unreachable!("a valid plan ends with the final latents"),
        }
    }
}

/// Whether contents can share the batch of a run. Alone, any content can have it.
fn check_together(run: &Run, contents: &[Content]) -> Result<(), RequestError> {
    let images = run.shape.num_images;
    let [first, others @ ..] = contents else {
        return Err(RequestError::NoImages);
    };
    let plain = |content: &Content| {
        content.latents.is_none()
            && content.init_image.is_none()
            && content.image_to_video.is_none()
    };
    let fits = images.is_multiple_of(contents.len())
        && contents.iter().all(plain)
        && others.iter().all(|other| {
            (other.vae_tiling, other.batch_noise) == (first.vae_tiling, first.batch_noise)
        });
    match others.is_empty() || fits {
        true => Ok(()),
        false => Err(RequestError::Together {
            contents: contents.len(),
            images,
        }),
    }
}

fn is_consequence(error: &RankError<EngineError<Infallible>>) -> bool {
    matches!(
        error,
        RankError::Failed {
            source: EngineError::Comm(CommError::PeerFailed { .. }),
            ..
        }
    )
}

//! One rank in a process of its own.

mod help;
mod told;
mod wire;

use std::slice::from_ref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncdiff_burn::device::Worker;
use asyncdiff_burn::exchange::Parcel;
use asyncdiff_burn::ranks::{RankError, on_each};
use asyncdiff_comm::{CommError, Form, PeerExchange};
use asyncdiff_core::EngineError;

use super::Output;
use super::parts::Parts;
use super::progress::Progress;
use super::rank::{Lead, Rank};
use crate::cancel::Cancel;
use crate::error::Error;
use crate::pipeline::{Run, StableDiffusion};
use crate::preview::Previewer;
use crate::request::Content;
use crate::unet::Conditioning;
use wire::Wire;

/// How long ranks wait for each other where nobody knows how long it takes: while weights are loaded, and texts encoded. A rank
/// that dies meanwhile is noticed at once, by its transport.
const LONG: Duration = Duration::from_secs(3600);

/// How long a process waits that the plan has no rank for, if nobody ends it before.
const REST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Tags of what does not belong to a plan. A plan's have the version of a value in their upper half.
const WIRE: u64 = u64::MAX;
const TOLD: u64 = u64::MAX - 1;

/// One rank of a run whose ranks are processes: its blocks, and its peers.
///
/// Process 0 leads: it encodes, tells the others what the denoiser is told, advances the latents, and decodes. The others
/// [serve](Member::serve) it, whatever it makes with the run that all of them have planned. Processes that the plan has no rank
/// for, the last ones, load nothing and rest until all is made.
pub struct Member<P> {
    pipeline: Arc<StableDiffusion>,
    rank: Rank,
    /// Only where process 0 is.
    parts: Option<Parts>,
    peers: Seated<P>,
    wire: Wire,
}

impl<P: PeerExchange<Parcel<4>> + Send> Member<P> {
    /// Loads what process `peers.rank()` needs for `run`, on `worker`, and tells process 0 when that is done. On an error all
    /// other processes are told.
    ///
    /// # Errors
    ///
    /// [`Error::NotEnoughWorkers`] if the plan has more ranks than there are processes; [`Error::TooMuchMemory`]; [`Error`] of
    /// [`Rank::prepare`] and [`Parts::load`]; [`Error::Peer`] if another process fails.
    pub fn join(
        pipeline: &Arc<StableDiffusion>,
        worker: Worker,
        run: &Run,
        peers: P,
    ) -> Result<Self, Error> {
        let mut peers = Seated {
            leading: run.plan.latents_rank,
            peers,
        };
        let loaded = Self::load(pipeline, worker, run, &mut peers);
        let (rank, parts, wire) = loaded.inspect_err(|error| peers.fail(&error.to_string()))?;
        Ok(Self {
            pipeline: Arc::clone(pipeline),
            rank,
            parts,
            peers,
            wire,
        })
    }

    fn load(
        pipeline: &Arc<StableDiffusion>,
        worker: Worker,
        run: &Run,
        peers: &mut Seated<P>,
    ) -> Result<(Rank, Option<Parts>, Wire), Error> {
        let (needed, found) = (run.plan.ranks.len(), peers.world_size());
        if needed > found {
            return Err(Error::NotEnoughWorkers { needed, found });
        }
        let mut rank = Rank::new(pipeline, worker)?;
        let seat = peers.rank();
        if seat >= needed {
            return Ok((rank, None, Wire::network()));
        }
        pipeline.check_memory_of_rank(run, seat, rank.worker())?;
        let leads = seat == run.plan.latents_rank;
        let parts = leads.then(|| {
            let worker = rank.worker();
            worker.install(|| Parts::load(pipeline, worker.device()))
        });
        let parts = parts.transpose()?;
        rank.prepare(run, seat)?;
        let wire = Wire::meet(peers, needed, rank.worker())?;
        Ok((rank, parts, wire))
    }

    /// What the plan's messages go through, in words, where this process's device is an NVIDIA GPU and the program was built with
    /// `nccl`.
    #[must_use]
    pub fn wire(&self) -> Option<&str> {
        self.wire.words()
    }

    /// Bytes of the denoiser's weights that are loaded here.
    #[must_use]
    pub fn loaded_bytes(&self) -> u64 {
        self.rank.loaded_bytes()
    }

    /// What makes pictures of unfinished latents, on process 0.
    ///
    /// # Panics
    ///
    /// On another process.
    #[must_use]
    pub fn previewer(&self) -> Previewer {
        let parts = self.parts.as_ref().expect("process 0 leads");
        parts.previewer()
    }

    /// Makes pictures of `content`, on process 0, as [`Session::generate`](super::Session::generate) does.
    ///
    /// # Errors
    ///
    /// [`Error`] of [`StableDiffusion::check_complete`]; [`Error::Cancelled`]; [`Error::NotFinite`]; [`Error::Peer`] if another
    /// process fails, [`Error::Rank`] if this one does. All others are told.
    ///
    /// # Panics
    ///
    /// On another process.
    pub fn generate(
        &mut self,
        run: &Run,
        content: &Content,
        progress: &mut dyn Progress,
    ) -> Result<Output, Error> {
        self.heed(&progress.cancel());
        let made = self.lead(run, content, progress);
        // What comes next has nothing to do with who could end this run.
        self.heed(&Cancel::default());
        made.inspect_err(|error| self.peers.fail(&error.to_string()))
    }

    fn heed(&mut self, cancel: &Cancel) {
        self.rank.heed(cancel.clone());
        if let Some(parts) = &mut self.parts {
            parts.heed(cancel.clone());
        }
    }

    fn lead(
        &mut self,
        run: &Run,
        content: &Content,
        progress: &mut dyn Progress,
    ) -> Result<Output, Error> {
        self.pipeline.check_complete(&run.shape, content)?;
        let start = Instant::now();
        let (conditioning, initial) =
            self.on_worker(|parts| parts.begin(run, from_ref(content)))?;
        told::tell(&mut self.peers, run, &conditioning)?;
        let encode = start.elapsed();
        let start = Instant::now();
        let lead = Lead {
            start: initial,
            progress,
        };
        let latents = self.run_plan(run, conditioning, Some(lead))?;
        let latents = latents.expect("a valid plan ends with the final latents");
        self.on_worker(|parts| parts.finish(run, content, latents, (encode, start)))
    }

    /// Does something with what only process 0 has.
    fn on_worker<T: Send>(&self, job: impl FnOnce(&Parts) -> T + Send) -> T {
        let parts = self.parts.as_ref().expect("process 0 leads");
        self.rank.worker().install(|| job(parts))
    }

    /// Tells the other processes that nothing more will be made, on process 0.
    ///
    /// # Errors
    ///
    /// [`Error::Peer`] if another process has failed.
    pub fn finish(mut self) -> Result<(), Error> {
        Ok(told::tell_the_end(&mut self.peers)?)
    }

    /// Does its part of whatever process 0 makes with `run`, until that has [finished](Member::finish).
    ///
    /// # Errors
    ///
    /// [`Error::Peer`] if another process fails, [`Error::Rank`] if this one does. All others are told.
    pub fn serve(&mut self, run: &Run) -> Result<(), Error> {
        let leading = run.plan.latents_rank;
        let device = self.rank.worker().device().clone();
        let rests = self.peers.rank() >= run.plan.ranks.len();
        let within = if rests { REST } else { LONG };
        let result = loop {
            let conditioning = match told::hear(&mut self.peers, leading, &device, within) {
                Ok(Some(conditioning)) => conditioning,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            };
            if let Err(error) = self.run_plan(run, conditioning, None) {
                break Err(error);
            }
        };
        result.inspect_err(|error: &Error| self.peers.fail(&error.to_string()))
    }

    /// Does this rank's part of the plan, inside its worker's pool; a panic becomes an error, which the others are told.
    fn run_plan(
        &mut self,
        run: &Run,
        conditioning: Conditioning,
        lead: Option<Lead<'_>>,
    ) -> Result<Option<crate::Latents>, Error> {
        let Self {
            rank, peers, wire, ..
        } = self;
        let (seat, process) = (peers.rank(), peers.peers.rank());
        let mut peers = wire.between(peers, run, rank.worker());
        let state = vec![(conditioning, lead, &mut *peers)];
        let results = on_each(from_ref(rank), state, |_, (conditioning, lead, peers)| {
            rank.run(run, seat, conditioning, lead, peers)
        });
        let only = results.into_iter().next().expect("there is one");
        only.map_err(|error| match error {
            RankError::Failed { source, .. } => match source {
                EngineError::Cancelled => Error::Cancelled,
                EngineError::Comm(error) => error.into(),
                source => Error::Rank(RankError::Failed {
                    rank: process,
                    worker: rank.worker().name().to_owned(),
                    source,
                }),
            },
            RankError::Panicked {
                worker, message, ..
            } => Error::Rank(RankError::Panicked {
                rank: process,
                worker,
                message,
            }),
            other => other.into(),
        })
    }
}

/// Processes as ranks of the plan: process 0 takes the rank that advances the latents. Errors name processes.
struct Seated<P> {
    leading: usize,
    peers: P,
}

impl<P> Seated<P> {
    /// The process of a rank, and the rank of a process.
    fn other(&self, number: usize) -> usize {
        match number {
            0 => self.leading,
            number if number == self.leading => 0,
            number => number,
        }
    }
}

impl<P: PeerExchange<Parcel<4>>> PeerExchange<Parcel<4>> for Seated<P> {
    fn rank(&self) -> usize {
        self.other(self.peers.rank())
    }

    fn world_size(&self) -> usize {
        self.peers.world_size()
    }

    fn send(&mut self, to: usize, tag: u64, message: Parcel<4>) -> Result<(), CommError> {
        self.peers.send(self.other(to), tag, message)
    }

    fn recv(
        &mut self,
        from: usize,
        tag: u64,
        expected: &Form,
        within: Duration,
    ) -> Result<Parcel<4>, CommError> {
        self.peers.recv(self.other(from), tag, expected, within)
    }

    fn check(&mut self) -> Result<(), CommError> {
        self.peers.check()
    }

    fn fail(&mut self, reason: &str) {
        self.peers.fail(reason);
    }
}

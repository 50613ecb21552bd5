//! A thread that owns devices and what is loaded on them, and makes one picture after the other.

mod sessions;
mod watching;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncdiff_models::{Error, Output};
use tokio::runtime::Handle;

use crate::infotext;
use crate::job::{Job, Made, Outcome, Stop};
use crate::plans;
use crate::refusal::Refusal;
use crate::service::Service;
pub use sessions::Devices;
use sessions::Sessions;
use watching::Watching;

/// Makes what waits in the queue, on its own devices.
pub(crate) struct Engine {
    service: Arc<Service>,
    sessions: Sessions,
    runtime: Handle,
}

/// What has come of the rounds of a job.
enum Rounds {
    All,
    Stopped(Stop),
}

impl Engine {
    /// Loads the first model on the devices; up to `loaded` models, or models with LoRAs, stay there.
    pub fn new(
        service: &Arc<Service>,
        devices: Devices,
        loaded: usize,
        runtime: Handle,
    ) -> Result<Self, Refusal> {
        let mut sessions = Sessions::new(devices, loaded);
        sessions.get(&service.catalog, service.model(), &[])?;
        Ok(Self {
            service: Arc::clone(service),
            sessions,
            runtime,
        })
    }

    /// Works until the queue is closed.
    pub fn work(mut self) {
        while let Some(job) = self.service.queue.take() {
            let span = tracing::info_span!(
                parent: &job.span,
                "job",
                id = &job.id[..8],
                model = job.task.model.name,
                pictures = job.pictures(),
                calls = job.calls(),
            );
            let _entered = span.enter();
            self.service.start(&job);
            self.service.metrics.waited(job.accepted.elapsed());
            // Whatever goes wrong in a picture is no reason to make no other.
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| self.make(&job)));
            let outcome = outcome.unwrap_or_else(|_| {
                self.sessions.clear();
                Outcome::Failed(Refusal::internal(
                    "this picture has met a fault of this service: see its log",
                ))
            });
            self.service
                .running()
                .retain(|running| !Arc::ptr_eq(running, &job));
            let result = match &outcome {
                Outcome::Made(made) => {
                    self.service.metrics.made(made.len());
                    "made"
                }
                Outcome::Cancelled(_) => "cancelled",
                Outcome::Failed(refusal) => {
                    tracing::warn!(reason = refusal.message, "failed");
                    "failed"
                }
            };
            self.service.metrics.ended(job.interface, result);
            job.finish(outcome);
            let state = job.state();
            tracing::info!(
                result,
                seconds = state.took.map(|took| took.as_secs_f64()),
                denoising = state.denoising.as_secs_f64(),
                "ended"
            );
        }
    }

    fn make(&mut self, job: &Arc<Job>) -> Outcome {
        let limit = self.service.limits.time;
        let guarded = Arc::clone(job);
        let guard = self.runtime.spawn(async move {
            tokio::time::sleep(limit).await;
            guarded.stop(Stop::Refused(Refusal::time_limit(limit.as_secs())));
        });
        let mut made = Vec::new();
        let rounds = self.rounds(job, &mut made);
        guard.abort();
        match rounds {
            Ok(Rounds::All) => Outcome::Made(made.into()),
            Ok(Rounds::Stopped(Stop::Asked)) => Outcome::Cancelled(made.into()),
            Ok(Rounds::Stopped(Stop::Refused(refusal))) => Outcome::Failed(refusal),
            Err(refusal) => Outcome::Failed(refusal),
        }
    }

    fn rounds(&mut self, job: &Arc<Job>, made: &mut Vec<Made>) -> Result<Rounds, Refusal> {
        let task = &job.task;
        if let Some(stop) = job.stopped() {
            return Ok(Rounds::Stopped(stop));
        }
        let session = self
            .sessions
            .get(&self.service.catalog, &task.model, &task.loras)?;
        let first = &task.rounds[0];
        session
            .prepare(first)
            .map_err(|error| plans::wrong(&error))?;
        let lanes = session.workers().take(first.plan.ranks.len());
        let lanes = lanes.map(|worker| worker.name().to_owned()).collect();
        job.change(|state| {
            state.started = Some(Instant::now());
            state.lanes = lanes;
        });
        let mut watching = Watching::new(job);
        let mut content = task.content.clone();
        for (index, run) in task.rounds.iter().enumerate() {
            if let Some(stop) = job.stopped() {
                return Ok(Rounds::Stopped(stop));
            }
            watching.begin(index, session.previewer());
            match session.generate(run, &content, &mut watching) {
                Ok(output) => {
                    let denoising = output.timings.denoise;
                    self.service.metrics.denoised(denoising, run.plan.calls);
                    watching.end(run, denoising);
                    let text = |index| {
                        infotext::write(&self.service.catalog, task, (run, &content), index)
                    };
                    made.extend(pictures(output, |index| {
                        (content.seed_of(index), text(index))
                    }));
                }
                Err(Error::Cancelled) => {
                    if let Some(stop) = job.stopped() {
                        return Ok(Rounds::Stopped(stop));
                    }
                    // This round only is not wanted.
                    watching.end(run, Duration::ZERO);
                }
                Err(error) => return Err(plans::wrong(&error)),
            }
            content.seed = content.seed.wrapping_add(run.shape.num_images as u64);
        }
        Ok(Rounds::All)
    }
}

/// The pictures or videos of a round, each with its seed and text.
fn pictures(output: Output, about: impl Fn(usize) -> (u64, String)) -> impl Iterator<Item = Made> {
    let frames = output.frames;
    let mut images = output.images.into_iter();
    let mut index = 0;
    std::iter::from_fn(move || {
        let frames: Vec<_> = images.by_ref().take(frames).collect();
        if frames.is_empty() {
            return None;
        }
        let (seed, infotext) = about(index);
        index += 1;
        Some(Made {
            frames,
            seed,
            infotext,
        })
    })
}

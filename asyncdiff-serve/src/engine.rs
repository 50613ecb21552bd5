//! A thread that owns devices and what is loaded on them, and makes one picture after the other.

mod batches;
mod sessions;
mod watching;

use std::panic::{self, AssertUnwindSafe};
use std::slice::from_ref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncdiff_models::Error;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::infotext;
use crate::job::{Job, Made, Outcome, State, Stop};
use crate::plans;
use crate::refusal::Refusal;
use crate::service::Service;
use batches::Batches;
pub use sessions::Devices;
use sessions::Sessions;
use watching::Watching;

/// Makes what waits in the queue, on its own devices.
pub(crate) struct Engine {
    service: Arc<Service>,
    sessions: Sessions,
    batches: Batches,
    runtime: Handle,
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
        sessions.get(&service.catalog, (service.model(), &[]), None)?;
        Ok(Self {
            service: Arc::clone(service),
            sessions,
            batches: Batches::new(service.limits.together),
            runtime,
        })
    }

    /// Works until the queue is closed.
    pub fn work(mut self) {
        let service = Arc::clone(&self.service);
        while let Some(jobs) = service
            .queue
            .take(|task, agreeing, waiting| self.batches.size(task, agreeing, waiting))
        {
            for job in &jobs {
                service.start(job);
                service.metrics.waited(job.accepted.elapsed());
            }
            // One limit for both attempts.
            let guards: Vec<_> = jobs.iter().map(|job| self.guard(job)).collect();
            if jobs.len() > 1 {
                self.make(&jobs);
            }
            for job in &jobs {
                if job.outcome().is_none() {
                    self.make(from_ref(job));
                }
            }
            for guard in guards {
                guard.abort();
            }
        }
    }

    /// Makes a job, or several together. What cannot be made together is left to be made alone.
    fn make(&mut self, jobs: &[Arc<Job>]) {
        let first = &jobs[0];
        let span = tracing::info_span!(
            parent: &first.span,
            "job",
            id = &first.id[..8],
            model = first.task.model.name,
            pictures = first.pictures(),
            calls = first.calls(),
            together = jobs.len(),
        );
        let _entered = span.enter();
        // Whatever goes wrong in a picture is no reason to make no other.
        let made = panic::catch_unwind(AssertUnwindSafe(|| self.rounds(jobs)));
        let made = made.unwrap_or_else(|_| {
            self.sessions.clear();
            Err(Refusal::fault())
        });
        match made {
            Ok(all) => {
                for (job, made) in jobs.iter().zip(all) {
                    self.service.end(job, job.ending(made));
                }
            }
            Err(refusal) if jobs.len() > 1 => {
                tracing::warn!(reason = refusal.message, "not made together");
                self.batches.refuse(&first.task, jobs.len());
                for job in jobs {
                    job.change(State::begin_anew);
                }
            }
            Err(refusal) => self.service.end(first, Outcome::Failed(refusal)),
        }
    }

    /// Stops a job that takes too long.
    fn guard(&self, job: &Arc<Job>) -> JoinHandle<()> {
        let (limit, job) = (self.service.limits.time, Arc::clone(job));
        self.runtime.spawn(async move {
            tokio::time::sleep(limit).await;
            job.stop(Stop::Refused(Refusal::time_limit(limit.as_secs())));
        })
    }

    /// What was made of each job until it was stopped, or all was made.
    fn rounds(&mut self, jobs: &[Arc<Job>]) -> Result<Vec<Vec<Made>>, Refusal> {
        let (service, task) = (&self.service, &jobs[0].task);
        let mut made: Vec<_> = jobs.iter().map(|_| Vec::new()).collect();
        let is_over = || jobs.iter().all(|job| job.stopped().is_some());
        if is_over() {
            return Ok(made);
        }
        let wanted = (&*task.model, &*task.loras);
        let session = self.sessions.get(
            &service.catalog,
            wanted,
            task.rounds.first().map(Arc::as_ref),
        )?;
        let mut contents: Vec<_> = jobs.iter().map(|job| job.task.content.clone()).collect();
        let rounds = match jobs.len() {
            1 => task.rounds.clone(),
            _ => {
                let run = self
                    .batches
                    .run(task, &contents, (&service.planner, &*session));
                vec![run.map_err(|error| plans::wrong(&error))?]
            }
        };
        session
            .prepare(&rounds[0])
            .map_err(|error| plans::wrong(&error))?;
        let lanes = session.workers().take(rounds[0].plan.ranks.len());
        let lanes: Vec<_> = lanes.map(|worker| worker.name().to_owned()).collect();
        for job in jobs {
            job.change(|state| {
                state.started.get_or_insert_with(Instant::now);
                state.lanes.clone_from(&lanes);
            });
        }
        let mut watching = Watching::new(service, jobs);
        for (index, run) in rounds.iter().enumerate() {
            if is_over() {
                break;
            }
            watching.begin(index, session.previewer());
            let begun = Instant::now();
            match session.generate_together(run, &contents, &mut watching) {
                Ok(output) => {
                    let denoising = output.timings.denoise;
                    self.batches.note(task, jobs.len(), begun.elapsed());
                    service.metrics.denoised(denoising, run.plan.calls);
                    watching.end(run, denoising);
                    let mut videos = output.images.chunks(output.frames);
                    for ((job, content), made) in jobs.iter().zip(&contents).zip(&mut made) {
                        let (task, run) = (&job.task, &job.task.rounds[index]);
                        let videos = videos.by_ref().take(run.shape.num_images);
                        made.extend(videos.enumerate().map(|(index, frames)| Made {
                            frames: frames.to_vec(),
                            seed: content.seed_of(index),
                            infotext: infotext::write(
                                &service.catalog,
                                task,
                                (run, content),
                                index,
                            ),
                        }));
                    }
                }
                // Nobody wants this round, or the others neither.
                Err(Error::Cancelled) => watching.end(run, Duration::ZERO),
                Err(error) => return Err(plans::wrong(&error)),
            }
            for content in &mut contents {
                content.seed = content.seed.wrapping_add(run.shape.num_images as u64);
            }
        }
        Ok(made)
    }
}

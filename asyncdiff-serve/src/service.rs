//! What all requests share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::body::Held;
use crate::catalog::{Catalog, Model};
use crate::files::Files;
use crate::job::{Interface, Job, Made, Outcome, Stop};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::order::Order;
use crate::plans::Planner;
use crate::queue::Queue;
use crate::refusal::Refusal;

/// Jobs of the page that are kept for readers that come late.
const KEPT: usize = 8;

/// Bodies that are read at the same time.
const BODIES: usize = 16;

/// The unit in which memory is held.
pub(crate) const KIB: usize = 1 << 10;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Service {
    pub catalog: Catalog,
    pub planner: Planner,
    pub limits: Limits,
    pub queue: Queue,
    pub metrics: Metrics,
    pub files: Files,
    pub vae_tiling: bool,
    /// Bodies that are read at the same time: each may be as large as the limit.
    pub bodies: Semaphore,
    /// KiB that requests may take still.
    memory: Arc<Semaphore>,
    /// Names of the devices of the first set.
    pub devices: Vec<String>,
    /// The model that is taken where a request names none.
    model: AtomicUsize,
    closing: AtomicBool,
    /// Closing, and what is at work is ended.
    stopping: AtomicBool,
    running: Mutex<Vec<Arc<Job>>>,
    of_page: Mutex<VecDeque<Arc<Job>>>,
}

impl Service {
    pub fn new(catalog: Catalog, planner: Planner, limits: Limits, devices: Vec<String>) -> Self {
        Self {
            catalog,
            planner,
            limits,
            queue: Queue::new(limits.queue),
            metrics: Metrics::default(),
            files: Files::default(),
            vae_tiling: false,
            bodies: Semaphore::new(BODIES),
            // One body always fits.
            memory: Arc::new(Semaphore::new(
                limits.held_bytes.max(limits.body_bytes).div_ceil(KIB),
            )),
            devices,
            model: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            running: Mutex::default(),
            of_page: Mutex::default(),
        }
    }

    /// The model that is taken where a request names none.
    pub fn model(&self) -> &Arc<Model> {
        &self.catalog.models()[self.model.load(Ordering::Relaxed)]
    }

    /// Takes another one.
    pub fn set_model(&self, model: &Model) {
        self.model.store(model.index, Ordering::Relaxed);
    }

    /// Holds memory for a request, until that is dropped.
    pub fn hold(&self, bytes: usize) -> Result<Held, Refusal> {
        let memory = Arc::clone(&self.memory);
        let wanted = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX);
        memory
            .try_acquire_many_owned(wanted)
            .map_err(|_| Refusal::full(self.limits.held_bytes))
    }

    /// Puts what a client asks for into the queue. Whoever drops the ticket does not want it any more.
    pub async fn submit(
        self: &Arc<Self>,
        interface: Interface,
        order: Order,
    ) -> Result<Ticket, Refusal> {
        let submitted = self.accept(interface, order).await;
        if let Err(refusal) = &submitted {
            self.metrics.refused(interface, refusal.status);
        }
        submitted
    }

    async fn accept(
        self: &Arc<Self>,
        interface: Interface,
        order: Order,
    ) -> Result<Ticket, Refusal> {
        if self.is_closing() {
            return Err(Refusal::closing());
        }
        let held = self.hold(order.bytes())?;
        let service = Arc::clone(self);
        let task = blocking(move || service.task(order)).await?;
        let job = Arc::new(Job::new(interface, new_id()?, task, held));
        self.queue.push(&job)?;
        Ok(Ticket {
            service: Arc::clone(self),
            job,
            kept: false,
        })
    }

    /// Ends a job because of `why`, wherever it is.
    pub fn stop(&self, job: &Arc<Job>, why: Stop) {
        if self.queue.remove(job) {
            self.metrics.ended(job.interface, "cancelled");
            job.finish(match why {
                Stop::Asked => Outcome::Cancelled(Arc::default()),
                Stop::Refused(refusal) => Outcome::Failed(refusal),
            });
        } else {
            job.stop(why);
        }
    }

    /// Puts a job among what is at work.
    pub fn start(&self, job: &Arc<Job>) {
        self.running().push(Arc::clone(job));
        // Between the queue and this list, nobody could stop it.
        if self.stopping.load(Ordering::SeqCst) {
            job.stop(Stop::Refused(Refusal::closing()));
        }
    }

    /// Takes a job from what is at work. Its first end counts.
    pub fn end(&self, job: &Arc<Job>, outcome: Outcome) {
        self.running().retain(|running| !Arc::ptr_eq(running, job));
        if job.outcome().is_some() {
            return;
        }
        let _entered = job.span.enter();
        let result = match &outcome {
            Outcome::Made(made) => {
                self.metrics.made(made.len());
                "made"
            }
            Outcome::Cancelled(_) => "cancelled",
            Outcome::Failed(refusal) => {
                tracing::warn!(reason = refusal.message, "failed");
                "failed"
            }
        };
        self.metrics.ended(job.interface, result);
        job.finish(outcome);
        let state = job.state();
        tracing::info!(
            id = &job.id[..8],
            result,
            seconds = state.took.map(|took| took.as_secs_f64()),
            denoising = state.denoising.as_secs_f64(),
            "ended"
        );
    }

    /// Ends the service: nobody waits any more, and what is at work ends as soon as it can, or as it was going to.
    pub fn close(&self, drain: bool) {
        self.closing.store(true, Ordering::Relaxed);
        self.queue.close();
        if !drain {
            self.stopping.store(true, Ordering::SeqCst);
            for job in self.running().iter() {
                job.stop(Stop::Refused(Refusal::closing()));
            }
        }
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// What is at work.
    pub fn running(&self) -> MutexGuard<'_, Vec<Arc<Job>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a job for the page's readers; the oldest that is done makes room.
    pub fn keep(&self, job: &Arc<Job>) {
        let mut jobs = self.of_page();
        jobs.push_back(Arc::clone(job));
        while jobs.len() > KEPT {
            let Some(oldest) = jobs.iter().position(|job| job.outcome().is_some()) else {
                break;
            };
            jobs.remove(oldest);
        }
    }

    /// The page's job of that name.
    pub fn kept(&self, id: &str) -> Result<Arc<Job>, Refusal> {
        let jobs = self.of_page();
        let job = jobs.iter().find(|job| job.id == id);
        job.cloned().ok_or_else(|| {
            Refusal::missing("there is no such picture on its way: ask for it again")
        })
    }

    fn of_page(&self) -> MutexGuard<'_, VecDeque<Arc<Job>>> {
        self.of_page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue. A job that is not done when its ticket is dropped is cancelled.
#[derive(Debug)]
pub(crate) struct Ticket {
    service: Arc<Service>,
    pub job: Arc<Job>,
    kept: bool,
}

impl Ticket {
    /// Leaves it to others to cancel the job.
    pub fn keep(mut self) -> Arc<Job> {
        self.kept = true;
        Arc::clone(&self.job)
    }

    /// What was asked for, as soon as it is there.
    pub async fn made(self) -> Result<Arc<Vec<Made>>, Refusal> {
        match self.job.end().await {
            Outcome::Made(made) => Ok(made),
            Outcome::Cancelled(_) => Err(Refusal::cancelled()),
            Outcome::Failed(refusal) => Err(refusal),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.kept && self.job.outcome().is_none() {
            self.service.stop(&self.job, Stop::Asked);
        }
    }
}

/// Pictures that are decoded, resized or encoded, and plans that are made, at the same time: each takes memory.
static COMPUTING: Semaphore = Semaphore::const_new(4);

/// Computes on a thread that may be kept busy, when it is its turn.
pub(crate) async fn blocking<T: Send + 'static>(
    compute: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let span = tracing::Span::current();
    // It is never closed.
    let turn = COMPUTING.acquire().await;
    let computed = tokio::task::spawn_blocking(move || {
        // For as long as it takes, whether or not anybody waits for it still.
        let _turn = turn;
        span.in_scope(compute)
    });
    computed.await.unwrap_or_else(|_| Err(Refusal::fault()))
}

/// A name that nobody guesses.
pub(crate) fn new_id() -> Result<String, Refusal> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Refusal::internal("the system has no random numbers", error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How long a reader of the page may be away before its picture is given up.
pub(crate) const AWAY: Duration = Duration::from_secs(3);

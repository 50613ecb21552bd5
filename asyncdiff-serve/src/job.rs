//! A request on its way: waiting, at work, done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use asyncdiff_models::image::Image;
use asyncdiff_models::{Cancel, Content, Run, Span, StartFrom};
use tokio::sync::watch;

use crate::body::Held;
use crate::catalog::{Loras, Model};
use crate::refusal::Refusal;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    OpenAi,
    Automatic1111,
    Page,
}

impl Interface {
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Automatic1111 => "automatic1111",
            Self::Page => "page",
        }
    }
}

/// What is to be made.
#[derive(Debug)]
pub(crate) struct Task {
    pub model: Arc<Model>,
    pub loras: Loras,
    /// The prompt as it came, with the tags of its LoRAs.
    pub prompt: String,
    pub content: Content,
    /// One after the other, each with the seeds behind those before.
    pub rounds: Vec<Arc<Run>>,
    /// Pictures to be shown on the way to the first one, evenly.
    pub partial_images: usize,
}

impl Task {
    /// Whether one batch can make both: pictures of texts that differ in texts and seeds only.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let ([own], [others]) = (&self.rounds[..], &other.rounds[..]) else {
            return false;
        };
        let shape = &own.shape;
        self.model.index == other.model.index
            && self.loras == other.loras
            && shape.frames == 1
            && shape.start == StartFrom::Noise
            && *shape == others.shape
            && own.strategy == others.strategy
    }
}

/// A picture or a video.
#[derive(Debug)]
pub(crate) struct Made {
    /// One for a picture.
    pub frames: Vec<Image>,
    pub seed: u64,
    /// How it was made, as its file says it.
    pub infotext: String,
}

/// What has come of a job.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Made(Arc<Vec<Made>>),
    /// Somebody does not want it any more; what was made until then.
    Cancelled(Arc<Vec<Made>>),
    Failed(Refusal),
}

/// How far a job is.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// In the line, from 1; 0 when it is not in it.
    pub place: usize,
    pub started: Option<Instant>,
    /// Names of the devices at work.
    pub lanes: Vec<String>,
    /// Which round, from 0.
    pub round: usize,
    /// Denoiser calls of this round that are done.
    pub done: usize,
    /// Denoiser calls of all rounds that are done.
    pub done_of_all: usize,
    /// The newest preview.
    pub preview: Option<Arc<Image>>,
    /// Pictures on the way that were asked for.
    pub partial_images: Vec<Arc<Image>>,
    pub spans: Vec<Span>,
    /// Of all rounds that are done.
    pub denoising: Duration,
    /// How long one device would have computed for them, by what the devices together have computed.
    pub alone: f64,
    pub outcome: Option<Outcome>,
    /// From its start to its end.
    pub took: Option<Duration>,
    /// Why it is to end, if it is.
    stop: Option<Stop>,
    /// Ends the round that is at work.
    wish: Wish,
    /// Streams that look at it.
    pub watchers: usize,
    /// When somebody last asked for a preview.
    looked: Option<Instant>,
}

impl State {
    /// Forgets how far a batch came that will not be finished, as if it had not been begun.
    pub fn begin_anew(&mut self) {
        (self.round, self.done, self.done_of_all) = (0, 0, 0);
        (self.preview, self.denoising, self.alone) = (None, Duration::ZERO, 0.0);
        self.partial_images.clear();
        self.spans.clear();
    }
}

/// The wish to end a round, which may be that of several jobs: it ends when none of them wants it any more.
#[derive(Clone, Debug, Default)]
struct Wish {
    own: Cancel,
    all: Arc<[Cancel]>,
    round: Cancel,
}

impl Wish {
    fn ask(&self) {
        self.own.ask();
        if self.all.iter().all(Cancel::is_asked) {
            self.round.ask();
        }
    }
}

/// Why a job is to end before its end.
#[derive(Clone, Debug)]
pub(crate) enum Stop {
    /// Somebody has asked for it, or is not there any more.
    Asked,
    /// The service says so.
    Refused(Refusal),
}

/// How long a preview is made for somebody who asks from time to time.
const LOOKS_FOR: Duration = Duration::from_secs(10);

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Job {
    pub id: String,
    pub interface: Interface,
    pub task: Task,
    pub accepted: Instant,
    #[expect(dead_code, reason = "it is held")]
    held: Held,
    /// The request's span, for those of the engine.
    pub span: tracing::Span,
    state: Mutex<State>,
    /// Counts changes.
    changes: watch::Sender<u64>,
}

impl Job {
    /// `held` is the memory of its pictures.
    pub fn new(interface: Interface, id: String, task: Task, held: Held) -> Self {
        Self {
            id,
            interface,
            task,
            accepted: Instant::now(),
            held,
            span: tracing::Span::current(),
            state: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Denoiser calls of all rounds.
    pub fn calls(&self) -> usize {
        self.task.rounds.iter().map(|run| run.plan.calls).sum()
    }

    /// Pictures or videos of all rounds.
    pub fn pictures(&self) -> usize {
        self.task
            .rounds
            .iter()
            .map(|run| run.shape.num_images)
            .sum()
    }

    /// Tells of every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and tells whoever waits for it.
    pub fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state());
        self.changes.send_modify(|count| *count += 1);
        result
    }

    /// Moves it up in the line.
    pub fn set_place(&self, place: usize) {
        if self.state().place != place {
            self.change(|state| state.place = place);
        }
    }

    /// Whether anybody wants to see how it becomes.
    pub fn is_watched(&self) -> bool {
        let state = self.state();
        state.watchers > 0
            || state
                .looked
                .is_some_and(|looked| looked.elapsed() < LOOKS_FOR)
    }

    /// Notes that somebody wants to see how it becomes.
    pub fn look(&self) {
        self.state().looked = Some(Instant::now());
    }

    /// Ends what is at work, and what comes after it.
    pub fn stop(&self, why: Stop) {
        let mut state = self.state();
        state.stop.get_or_insert(why);
        state.wish.ask();
    }

    /// Ends the round that is at work.
    pub fn skip(&self) {
        self.state().wish.ask();
    }

    /// Whether nobody wants the round that is at work.
    pub fn is_skipped(&self) -> bool {
        self.state().wish.own.is_asked()
    }

    /// Why it is to end, if it is.
    pub fn stopped(&self) -> Option<Stop> {
        self.state().stop.clone()
    }

    /// Begins a round of all of these jobs; what ends it.
    pub fn begin(jobs: &[Arc<Self>], round: usize) -> Cancel {
        let wish = Wish {
            all: jobs.iter().map(|_| Cancel::default()).collect(),
            ..Wish::default()
        };
        for (job, own) in jobs.iter().zip(&*wish.all) {
            job.change(|state| {
                state.round = round;
                state.done = 0;
                state.wish = Wish {
                    own: own.clone(),
                    ..wish.clone()
                };
                if state.stop.is_some() {
                    state.wish.ask();
                }
            });
        }
        wish.round
    }

    /// What comes of a job that has made so much, and makes no more.
    pub fn ending(&self, made: Vec<Made>) -> Outcome {
        let whole = made.len() == self.pictures();
        match self.stopped().filter(|_| !whole) {
            None => Outcome::Made(made.into()),
            Some(Stop::Asked) => Outcome::Cancelled(made.into()),
            Some(Stop::Refused(refusal)) => Outcome::Failed(refusal),
        }
    }

    /// Ends it. The first end counts.
    pub fn finish(&self, outcome: Outcome) {
        self.change(|state| {
            state.place = 0;
            state.took = state.started.map(|started| started.elapsed());
            state.outcome.get_or_insert(outcome);
        });
    }

    pub fn outcome(&self) -> Option<Outcome> {
        self.state().outcome.clone()
    }

    /// Waits for its end.
    pub async fn end(&self) -> Outcome {
        let mut changes = self.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            // The sender is the job's own, so it is there.
            if changes.changed().await.is_err() {
                return Outcome::Failed(Refusal::fault());
            }
        }
    }
}

impl State {
    /// Seconds until the end, by what was done so far.
    pub fn seconds_left(&self, calls: usize) -> Option<f64> {
        let started = self.started?;
        let left = calls.saturating_sub(self.done_of_all);
        match self.done_of_all {
            0 => None,
            done => Some(started.elapsed().as_secs_f64() / done as f64 * left as f64),
        }
    }

    /// How many times sooner it was done than one device would have done it; `None` before anything is done.
    pub fn speed_up(&self) -> Option<f64> {
        let wall = self.denoising.as_secs_f64();
        (wall > 0.0).then(|| self.alone / wall)
    }
}

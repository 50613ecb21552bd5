//! Tells jobs how far they are.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_core::plan::{Action, Branch};
use asyncdiff_models::image::Image;
use asyncdiff_models::{Cancel, Clean, Doing, Latents, Previewer, Progress, Run, Timeline};

use crate::job::Job;
use crate::service::Service;

/// Tells the jobs of a run how far they are, and ends them when they are not wanted any more.
pub(super) struct Watching<'a> {
    service: &'a Service,
    jobs: &'a [Arc<Job>],
    timeline: Timeline,
    /// Of its spans, those that the job knows.
    told: usize,
    /// Its spans before this round.
    before_round: usize,
    round: Option<Round>,
}

struct Round {
    index: usize,
    previewer: Previewer,
    cancel: Cancel,
    /// Calls of the rounds before.
    before: usize,
    /// Of each job.
    previews: Vec<Option<Arc<Image>>>,
}

impl<'a> Watching<'a> {
    /// Of one job, or of several that are made together in one round.
    pub fn new(service: &'a Service, jobs: &'a [Arc<Job>]) -> Self {
        Self {
            service,
            jobs,
            timeline: Timeline::new(),
            told: 0,
            before_round: 0,
            round: None,
        }
    }

    /// A round begins.
    pub fn begin(&mut self, index: usize, previewer: Previewer) {
        let cancel = Job::begin(self.jobs, index);
        let before = self.jobs[0].task.rounds[..index].iter();
        self.round = Some(Round {
            index,
            previewer: previewer.heeding(cancel.clone()),
            cancel,
            before: before.map(|run| run.plan.calls).sum(),
            previews: vec![None; self.jobs.len()],
        });
    }

    /// It has ended, as `run` was planned.
    pub fn end(&mut self, run: &Run, denoising: Duration) {
        let spans = self.timeline.after(self.told);
        self.told += spans.len();
        let all = self.timeline.after(self.before_round);
        self.before_round += all.len();
        let calls = all.iter().filter(|span| span.doing == Doing::Call);
        let computing: f64 = calls.map(|span| span.to - span.from).sum();
        for job in self.jobs {
            job.change(|state| {
                state.denoising += denoising;
                state.alone += computing * needed(run);
                state.spans.extend_from_slice(&spans);
            });
        }
    }
}

impl Round {
    /// The preview after so many of the calls of a round that begins with `row` for this job; and how many times it is one of those
    /// that were asked for.
    fn preview(
        &self,
        job: &Job,
        row: usize,
        (done, calls): (usize, usize),
        clean: &Clean<'_>,
    ) -> Option<(Arc<Image>, usize)> {
        let partial = job.task.partial_images;
        let due = |index: &usize| (calls * (index + 1) / (partial + 1)).max(1) == done;
        // Of several rounds, the first is shown.
        let times = match self.index {
            0 => (0..partial).filter(due).count(),
            _ => 0,
        };
        // After the last call comes the picture itself.
        let seen = done < calls && job.is_watched();
        if times == 0 && !seen || job.is_skipped() {
            return None;
        }
        // One frame of a video at a time, so that the preview moves while it comes; of several pictures, the first.
        let frames = job.task.rounds[self.index].shape.frames;
        // One that fails is not shown; whatever it fails by, the picture itself will say.
        let shown = self.previewer.picture(clean, row + done % frames).ok()?;
        Some((Arc::new(shown), times))
    }
}

/// The share of what a plan computes that one device would compute, too: some plans compute blocks twice.
fn needed(run: &Run) -> f64 {
    let macs = |action: &Action| match action {
        Action::Run(block) => {
            let macs = run.graph.block(block.block).macs as f64;
            // A branch is half of the batch.
            match block.branch {
                Branch::Both => macs,
                Branch::Negative | Branch::Positive => macs / 2.0,
            }
        }
        _ => 0.0,
    };
    let actions = run.plan.ranks.iter().flatten();
    let computed: f64 = actions.map(|instruction| macs(&instruction.action)).sum();
    run.graph.macs() as f64 * run.plan.calls as f64 / computed
}

impl Progress for Watching<'_> {
    fn step(&mut self, done: usize, calls: usize, _: &Latents) -> ControlFlow<()> {
        let Some(round) = &mut self.round else {
            return ControlFlow::Continue(());
        };
        let spans = self.timeline.after(self.told);
        self.told += spans.len();
        debug_assert!(done <= calls);
        for (job, preview) in self.jobs.iter().zip(&mut round.previews) {
            // One of several that is not wanted any more does not wait for the others; a single one ends with its rounds.
            if self.jobs.len() > 1 && job.is_skipped() {
                self.service.end(job, job.ending(Vec::new()));
                continue;
            }
            let preview = preview.take();
            job.change(|state| {
                state.done = done;
                state.done_of_all = round.before + done;
                state.spans.extend_from_slice(&spans);
                if let Some(preview) = preview {
                    state.preview = Some(preview);
                }
            });
        }
        match round.cancel.is_asked() || self.jobs.iter().all(|job| job.is_skipped()) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn predicted(&mut self, done: usize, calls: usize, clean: &Clean<'_>) -> ControlFlow<()> {
        let Some(round) = &mut self.round else {
            return ControlFlow::Continue(());
        };
        let mut row = 0;
        for (index, job) in self.jobs.iter().enumerate() {
            if let Some((shown, times)) = round.preview(job, row, (done, calls), clean) {
                if times > 0 {
                    let all = std::iter::repeat_n(Arc::clone(&shown), times);
                    job.change(|state| state.partial_images.extend(all));
                }
                round.previews[index] = Some(shown);
            }
            let shape = &job.task.rounds[round.index].shape;
            row += shape.num_images * shape.frames;
        }
        ControlFlow::Continue(())
    }

    fn cancel(&self) -> Cancel {
        let round = self.round.as_ref();
        round.map(|round| round.cancel.clone()).unwrap_or_default()
    }

    fn timeline(&self) -> Option<Timeline> {
        Some(self.timeline.clone())
    }
}

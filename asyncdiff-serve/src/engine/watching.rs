//! Tells a job how far it is.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_core::plan::{Action, Branch};
use asyncdiff_models::image::Image;
use asyncdiff_models::{Cancel, Clean, Doing, Latents, Previewer, Progress, Run, Timeline};

use crate::job::Job;

/// Tells a job how far it is, and ends it when it is not wanted any more.
pub(super) struct Watching<'a> {
    job: &'a Arc<Job>,
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
    preview: Option<Arc<Image>>,
}

impl<'a> Watching<'a> {
    pub fn new(job: &'a Arc<Job>) -> Self {
        Self {
            job,
            timeline: Timeline::new(),
            told: 0,
            before_round: 0,
            round: None,
        }
    }

    /// A round begins.
    pub fn begin(&mut self, index: usize, previewer: Previewer) {
        let cancel = self.job.begin(index);
        let before = self.job.task.rounds[..index].iter();
        self.round = Some(Round {
            index,
            previewer: previewer.heeding(cancel.clone()),
            cancel,
            before: before.map(|run| run.plan.calls).sum(),
            preview: None,
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
        self.job.change(|state| {
            state.denoising += denoising;
            state.alone += computing * needed(run);
            state.spans.extend(spans);
        });
    }

    /// The call after which picture `index` of those on the way is shown.
    fn due(&self, calls: usize, index: usize) -> usize {
        (calls * (index + 1) / (self.job.task.partial_images + 1)).max(1)
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
        let preview = round.preview.take();
        self.job.change(|state| {
            state.done = done;
            state.done_of_all = round.before + done;
            state.spans.extend(spans);
            if let Some(preview) = preview {
                state.preview = Some(preview);
            }
        });
        debug_assert!(done <= calls);
        match round.cancel.is_asked() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn predicted(&mut self, done: usize, calls: usize, clean: &Clean<'_>) -> ControlFlow<()> {
        let partial = self.job.task.partial_images;
        let Some(round) = &self.round else {
            return ControlFlow::Continue(());
        };
        // Of several rounds, the first is shown.
        let due = round.index == 0 && (0..partial).any(|index| self.due(calls, index) == done);
        // After the last call comes the picture itself.
        let seen = done < calls && self.job.is_watched();
        if !due && !seen {
            return ControlFlow::Continue(());
        }
        // One that fails is not shown; whatever it fails by, the picture itself will say.
        let Ok(pictures) = round.previewer.pictures(clean) else {
            return ControlFlow::Continue(());
        };
        // One frame of a video at a time, so that the preview moves while it comes; of several pictures, the first.
        let frames = self.job.task.rounds[round.index].shape.frames;
        let Some(shown) = pictures.into_iter().nth(done % frames) else {
            return ControlFlow::Continue(());
        };
        let shown = Arc::new(shown);
        if due {
            let times = (0..partial).filter(|index| self.due(calls, *index) == done);
            let all = std::iter::repeat_n(Arc::clone(&shown), times.count());
            self.job.change(|state| state.partial_images.extend(all));
        }
        if let Some(round) = &mut self.round {
            round.preview = Some(shown);
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

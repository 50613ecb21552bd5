//! What every rank does when.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use asyncdiff_core::plan::Action;
use serde::Serialize;

/// What a rank does with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// It computes blocks of a denoiser call, or sums of their results.
    Call,
    /// It hands a value to another rank.
    Send,
    /// It waits for a value of another rank.
    Wait,
}

/// A stretch of time in which a rank does one thing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Span {
    /// Which rank.
    pub rank: usize,
    /// What it does.
    pub doing: Doing,
    /// For which denoiser call, from 0.
    pub call: usize,
    /// When it begins with it, in seconds since the time line began.
    pub from: f64,
    /// When it is done with it.
    pub to: f64,
}

/// Shorter stretches are not worth a bar: a message that is there already, seconds.
const SHORT: f64 = 0.0005;

/// A time line that the ranks of a run write while they work. All clones are one.
///
/// What a GPU computes behind the program's back is counted where the program waits for it.
#[derive(Clone, Debug)]
pub struct Timeline {
    start: Instant,
    lanes: Arc<Mutex<Lanes>>,
}

#[derive(Debug, Default)]
struct Lanes {
    done: Vec<Span>,
    /// What each rank is at, and may go on with.
    open: Vec<Option<Span>>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new()
    }
}

impl Timeline {
    /// An empty one that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            lanes: Arc::default(),
        }
    }

    /// The spans behind the first `count`, in the order in which they ended.
    #[must_use]
    pub fn after(&self, count: usize) -> Vec<Span> {
        let lanes = self.lanes();
        lanes.done.get(count..).unwrap_or_default().to_vec()
    }

    /// Ends what is still open.
    pub(super) fn close(&self) {
        let mut lanes = self.lanes();
        let open = std::mem::take(&mut lanes.open);
        lanes.done.extend(open.into_iter().flatten());
    }

    /// Notes what a rank has done since `begun`.
    pub(super) fn note(&self, rank: usize, action: &Action, begun: Instant) {
        let (doing, call) = match action {
            Action::Run(run) => (Doing::Call, Some(run.version)),
            // Sums belong to whatever call the rank is at.
            Action::Combine(_) => (Doing::Call, None),
            Action::Send { what, .. } => (Doing::Send, Some(what.version)),
            Action::Recv { what, .. } => (Doing::Wait, Some(what.version)),
        };
        let seconds = |at: Instant| at.saturating_duration_since(self.start).as_secs_f64();
        let (from, to) = (seconds(begun), seconds(Instant::now()));
        let mut lanes = self.lanes();
        if lanes.open.len() <= rank {
            lanes.open.resize(rank + 1, None);
        }
        let Lanes { done, open } = &mut *lanes;
        let open = &mut open[rank];
        let call = call.or(open.map(|span| span.call)).unwrap_or(0);
        match open {
            Some(span) if span.doing == doing && span.call == call => span.to = to,
            _ if doing != Doing::Call && to - from < SHORT => {}
            _ => {
                let next = Span {
                    rank,
                    doing,
                    call,
                    from,
                    to,
                };
                done.extend(open.replace(next));
            }
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

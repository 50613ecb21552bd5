//! How far a run is.

use std::ops::ControlFlow;

use super::timeline::Timeline;
use crate::cancel::Cancel;
use crate::tensors::{Clean, Latents};

/// Is told how far a run is.
pub trait Progress: Send {
    /// Called in order on the rank that holds the latents, whenever they have advanced: `done` of `calls` denoiser calls are
    /// done, and `latents` is what they have made so far. The run waits for the answer; breaking off cancels it on all ranks.
    fn step(&mut self, done: usize, calls: usize, latents: &Latents) -> ControlFlow<()>;

    /// Called before every [`step`](Progress::step), with what the last of the `done` calls says that the result will be.
    fn predicted(&mut self, _done: usize, _calls: usize, _clean: &Clean<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// What may ask for the end of the run while it is between two steps: all ranks look at it before every block, and encoding and
    /// decoding look at it, too. Asked once, before the run.
    fn cancel(&self) -> Cancel {
        Cancel::default()
    }

    /// Where the ranks are to write what they do when, if anybody wants to know. Asked once, before the run.
    fn timeline(&self) -> Option<Timeline> {
        None
    }
}

/// No report.
impl Progress for () {
    fn step(&mut self, _: usize, _: usize, _: &Latents) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

//! How far a run is.

use std::ops::ControlFlow;

use burn::tensor::FloatDType;

use crate::tensors::Latents;

/// Is told how far a run is.
pub trait Progress: Send {
    /// Called in order on the rank that holds the latents, whenever they have advanced: `done` of `calls` denoiser calls are
    /// done, and `latents` is what they have made so far. The run waits for the answer; breaking off cancels it on all ranks.
    fn step(&mut self, done: usize, calls: usize, latents: &Latents) -> ControlFlow<()>;

    /// Called before every [`step`](Progress::step), with what the last of the `done` calls says that the result will be.
    fn predicted(&mut self, _done: usize, _calls: usize, _clean: &Clean<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// No report.
impl Progress for () {
    fn step(&mut self, _: usize, _: usize, _: &Latents) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// The latents without noise that a denoiser call points to, if anybody asks for them.
#[derive(Clone, Copy, Debug)]
pub struct Clean<'a> {
    /// Before the call.
    pub(super) latents: &'a Latents,
    /// The call's.
    pub(super) prediction: &'a Latents,
    /// The factors on both ([`Schedule::data_prediction`](asyncdiff_core::Schedule::data_prediction)).
    pub(super) factors: (f64, f64),
}

impl Clean<'_> {
    /// The latents, `[batch, channels, height, width]`: blurred at first, and ever more like the result.
    #[must_use]
    pub fn latents(&self) -> Latents {
        let part = |tensor: &Latents, factor| tensor.clone().cast(FloatDType::F32) * factor;
        part(self.latents, self.factors.0) + part(self.prediction, self.factors.1)
    }
}

//! A machine that was measured, and what for.

use asyncdiff_core::{BlockId, Machine, SegmentGraph};
use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;

/// A [`Machine`] with what it was measured for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredMachine {
    /// The names of the denoiser's blocks, in graph order.
    pub blocks: Vec<String>,
    /// Shape of the latents: `[batch, channels, height, width]`.
    pub latents: [usize; 4],
    /// Whether a call works on both halves of a guidance batch.
    pub guided: bool,
    /// What was computed in.
    pub dtype: Dtype,
    /// The devices, by rank.
    pub devices: Vec<String>,
    /// Block times and latency in seconds, bandwidth in bytes per second.
    pub machine: Machine,
}

/// Why a measured machine says nothing about a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// It was measured with another denoiser.
    #[error("the machine was measured with another denoiser: measure it with this model")]
    Blocks,
    /// It was measured at another size.
    #[error(
        "the machine was measured with latents of {measured:?}{}, this run's are {run:?}{}: measure it at this size",
        if *.measured_guided { " and guidance" } else { "" },
        if *.run_guided { " and guidance" } else { "" }
    )]
    Latents {
        /// Shape of the latents then.
        measured: [usize; 4],
        /// Whether there was guidance.
        measured_guided: bool,
        /// Shape of the run's latents.
        run: [usize; 4],
        /// Whether it has guidance.
        run_guided: bool,
    },
    /// It was measured in another type.
    #[error(
        "the machine was measured in {measured}, this run computes in {run}: measure it in that type"
    )]
    Dtype {
        /// The type then.
        measured: Dtype,
        /// The run's.
        run: Dtype,
    },
    /// Numbers that no measurement gives.
    #[error("the machine's {0} are no measurement: measure it again")]
    Numbers(&'static str),
}

impl MeasuredMachine {
    /// The machine, for runs of a graph.
    ///
    /// # Errors
    ///
    /// [`MeasureError`] if it was measured for other runs.
    pub fn machine_for(
        &self,
        graph: &SegmentGraph,
        dtype: Dtype,
    ) -> Result<&Machine, MeasureError> {
        let names = graph.iter().map(|(_, block)| &block.name);
        if !names.eq(&self.blocks) {
            return Err(MeasureError::Blocks);
        }
        let guided = passes(graph) == 2;
        if (self.latents, self.guided) != (graph.latents, guided) {
            return Err(MeasureError::Latents {
                measured: self.latents,
                measured_guided: self.guided,
                run: graph.latents,
                run_guided: guided,
            });
        }
        if self.dtype != dtype {
            return Err(MeasureError::Dtype {
                measured: self.dtype,
                run: dtype,
            });
        }
        let machine = &self.machine;
        let positive = |number: &f64| number.is_finite() && *number > 0.0;
        let count = self.blocks.len();
        for (what, times) in [
            ("block times", &machine.block_time),
            ("half times", &machine.half_time),
        ] {
            if times.len() != count || !times.iter().all(positive) {
                return Err(MeasureError::Numbers(what));
            }
        }
        if !machine.speed.iter().all(positive) {
            return Err(MeasureError::Numbers("speeds"));
        }
        let link = machine.latency.is_finite() && machine.latency >= 0.0;
        if !(link && machine.bandwidth > 0.0) {
            return Err(MeasureError::Numbers("latency and bandwidth"));
        }
        Ok(machine)
    }
}

/// Passes of a call over the latents' batch: 2 with guidance.
pub(crate) fn passes(graph: &SegmentGraph) -> usize {
    graph.block(BlockId(0)).output[0] / graph.latents[0]
}

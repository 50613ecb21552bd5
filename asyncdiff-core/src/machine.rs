//! What ranks and the links between them can do.

use serde::{Deserialize, Serialize};

use crate::graph::SegmentGraph;
use crate::value::{BlockId, Branch};

/// Bytes of one element of latents and of what is combined of them: `f32` on every machine, or their rounding errors would
/// add up over the steps.
pub const LATENT_BYTES: u64 = 4;

/// What the ranks and the links between them can do. Times are in any unit, as long as it is the same everywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Time that each block takes, in graph order, on a rank of speed 1.
    pub block_time: Vec<f64>,
    /// The same for half of the guidance batch.
    pub half_time: Vec<f64>,
    /// Relative speed of each rank; a rank beyond the end of the list has speed 1.
    pub speed: Vec<f64>,
    /// Time from the start of a transfer until its first byte arrives.
    pub latency: f64,
    /// Bytes per unit of time of each link; a link carries one value after the other.
    pub bandwidth: f64,
    /// Bytes of one element of what blocks compute. Latents and what is combined of them are [`LATENT_BYTES`] wide.
    pub element_bytes: u64,
}

impl Machine {
    /// Equal ranks whose time is counted in multiply-accumulate operations, linked at no cost, with `f32` tensors. The
    /// speed-up of a plan on it is the ideal one.
    #[must_use]
    pub fn ideal(graph: &SegmentGraph) -> Self {
        let macs = graph.blocks.iter().map(|block| block.macs as f64);
        Self {
            half_time: macs.clone().map(|macs| macs / 2.0).collect(),
            block_time: macs.collect(),
            speed: Vec::new(),
            latency: 0.0,
            bandwidth: f64::INFINITY,
            element_bytes: 4,
        }
    }

    /// Time that a block takes for a branch, on a rank of speed 1.
    #[must_use]
    pub fn time(&self, block: BlockId, branch: Branch) -> f64 {
        match branch {
            Branch::Both => self.block_time[block.0],
            Branch::Negative | Branch::Positive => self.half_time[block.0],
        }
    }
}

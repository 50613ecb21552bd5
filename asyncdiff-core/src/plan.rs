//! The plan: for every rank, the ordered list of actions that make up a denoising run.
//!
//! Four kinds of [`Action`] are enough. A [`Plan`] is built from a graph, a partition and a noise schedule by one of the
//! builders ([`Plan::sequential`], [`Plan::asyncdiff`]), proved by [`Plan::validate`] before anything runs, costed by
//! [`simulate`](crate::simulate()), and executed by [`Engine`](crate::Engine).

mod build;
mod validate;

use std::fmt;

use serde::Serialize;

use crate::graph::BlockId;

pub use build::AsyncDiff;

/// What a tensor is, apart from its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// The noisy latents before denoiser call `version`; version 0 is given, version `calls` is the result.
    Latents,
    /// The noise prediction of a denoiser call, after guidance.
    Prediction,
    /// Standard normal noise for a stochastic scheduler's step; every rank draws the same.
    Noise,
    /// Latents that a scheduler corrected after the fact (UniPC).
    Corrected,
    /// The latents of the picture that an inpainting run keeps outside its mask; version 0 only.
    Image,
    /// The noise that was added to the picture's latents at the start; version 0 only.
    ImageNoise,
    /// The output of a block of the denoiser.
    Block(BlockId),
}

/// One version of a value. The version counts denoiser calls: a block output of version `k` serves call `k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Versioned {
    /// Which value.
    pub value: Value,
    /// The denoiser call that it belongs to.
    pub version: usize,
}

impl fmt::Display for Versioned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version;
        match self.value {
            Value::Latents => write!(f, "the latents before call {version}"),
            Value::Prediction => write!(f, "the noise prediction of call {version}"),
            Value::Noise => write!(f, "the noise of call {version}"),
            Value::Corrected => write!(f, "the corrected latents of call {version}"),
            Value::Image => write!(f, "the picture's latents"),
            Value::ImageNoise => write!(f, "the noise on the picture's latents"),
            Value::Block(BlockId(index)) => write!(f, "block {index}'s output of call {version}"),
        }
    }
}

impl Value {
    /// Whether the rank that advances the latents has this value without computing it.
    #[must_use]
    pub fn is_given(self) -> bool {
        matches!(self, Value::Noise | Value::Image | Value::ImageNoise)
    }

    /// This value as of `version`.
    #[must_use]
    pub fn at(self, version: usize) -> Versioned {
        Versioned {
            value: self,
            version,
        }
    }
}

/// What of a value a [`Term`] takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// The first half of the batch: the samples of the negative prompt.
    Unconditional,
    /// The second half of the batch: the samples of the prompt.
    Conditional,
    /// What is inside the mask of an inpainting run: the value times the mask.
    Inside,
    /// What is outside: the value times one minus the mask.
    Outside,
}

/// One summand of a linear combination: `weight · of`, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Term {
    /// The version of a value.
    pub of: Versioned,
    /// What of it.
    #[serde(skip_serializing_if = "Part::is_whole")]
    pub part: Part,
    /// The factor.
    pub weight: f64,
    /// The factor at a video's last frame, if it is not that of the first: in between it changes linearly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_frame: Option<f64>,
}

impl Part {
    fn is_whole(&self) -> bool {
        *self == Part::Whole
    }
}

impl Term {
    /// `weight · of`.
    #[must_use]
    pub fn new(of: Versioned, weight: f64) -> Self {
        Self {
            of,
            part: Part::Whole,
            weight,
            last_frame: None,
        }
    }
}

/// The scale of classifier-free guidance: the same for all frames, or changing linearly over a video's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Guidance {
    /// The scale for pictures, and for a video's first frame.
    pub first: f64,
    /// The scale for a video's last frame.
    pub last: f64,
}

impl From<f64> for Guidance {
    /// The same for all frames.
    fn from(scale: f64) -> Self {
        Self {
            first: scale,
            last: scale,
        }
    }
}

/// One thing that a rank does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// Compute a block.
    Run {
        /// Which block.
        block: BlockId,
        /// The version of its output.
        version: usize,
        /// The timestep whose embedding the block gets.
        timestep: f64,
        /// One source for each input of the block: a linear combination of versions of that input's value.
        inputs: Vec<Vec<Term>>,
    },
    /// A linear combination of latents, noise predictions and noise.
    Combine {
        /// The result.
        out: Versioned,
        /// The summands.
        terms: Vec<Term>,
    },
    /// Hand a value to another rank. Does not wait for the receiver.
    Send {
        /// What.
        what: Versioned,
        /// The receiving rank.
        to: usize,
    },
    /// Wait for a value from another rank.
    Recv {
        /// What.
        what: Versioned,
        /// The sending rank.
        from: usize,
    },
}

impl Action {
    /// The versions that this action reads.
    pub fn reads(&self) -> impl Iterator<Item = Versioned> + '_ {
        let (terms, sent): (Vec<&Term>, _) = match self {
            Action::Run { inputs, .. } => (inputs.iter().flatten().collect(), None),
            Action::Combine { terms, .. } => (terms.iter().collect(), None),
            Action::Send { what, .. } => (Vec::new(), Some(*what)),
            Action::Recv { .. } => (Vec::new(), None),
        };
        terms.into_iter().map(|term| term.of).chain(sent)
    }

    /// The version that this action makes available on its rank.
    #[must_use]
    pub fn writes(&self) -> Option<Versioned> {
        match self {
            Action::Run { block, version, .. } => Some(Value::Block(*block).at(*version)),
            Action::Combine { out, .. } => Some(*out),
            Action::Recv { what, .. } => Some(*what),
            Action::Send { .. } => None,
        }
    }
}

/// An action and the values that nobody on the rank reads after it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Instruction {
    /// What to do.
    #[serde(flatten)]
    pub action: Action,
    /// What to drop afterwards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub release: Vec<Versioned>,
}

/// A whole denoising run: who computes what, from which versions, and who sends what to whom.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The instructions of every rank, in order.
    pub ranks: Vec<Vec<Instruction>>,
    /// For every rank, the blocks that it computes and so must hold the weights of, in graph order.
    pub blocks: Vec<Vec<BlockId>>,
    /// Number of denoiser calls.
    pub calls: usize,
    /// The strategy that the plan follows; `None` for the sequential plan.
    pub strategy: Option<AsyncDiff>,
    /// Which segment owns each block, in graph order.
    pub segment_of: Vec<usize>,
    /// The rank that is given the initial latents and ends with the final ones.
    pub latents_rank: usize,
}

/// Why a plan cannot be built, or is not right.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Only strides 1 and 2 are published.
    #[error("stride {0} is not possible: use 1 or 2")]
    Stride(usize),
    /// Warm-up outside `1 ..= calls`.
    #[error(
        "warm-up of {warm_up} steps is not possible with {calls} denoiser calls: use 1 to {calls}"
    )]
    WarmUp {
        /// The warm-up asked for.
        warm_up: usize,
        /// The number of denoiser calls.
        calls: usize,
    },
    /// Forecast orders other than 0 and 1.
    #[error("forecast order {0} is not possible: use 0 (reuse) or 1 (linear)")]
    Forecast(usize),
    /// The partition was made for another graph.
    #[error("the partition has {partition} blocks, the graph has {graph}")]
    Partition {
        /// Blocks in the partition.
        partition: usize,
        /// Blocks in the graph.
        graph: usize,
    },
    /// A rank reads something that it neither computed nor received before.
    #[error("rank {rank}, action {index}: {what} is read before it is there")]
    Missing {
        /// The rank.
        rank: usize,
        /// The index of its action.
        index: usize,
        /// What is missing.
        what: Versioned,
    },
    /// The same version appears twice on a rank.
    #[error("rank {rank}, action {index}: {what} is there already")]
    Duplicate {
        /// The rank.
        rank: usize,
        /// The index of its action.
        index: usize,
        /// What is produced or received again.
        what: Versioned,
    },
    /// A message that is sent and never received, or sent twice.
    #[error("{what} from rank {from} to rank {to} has {sends} sends and {receives} receives")]
    Unmatched {
        /// What is sent.
        what: Versioned,
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
        /// How often it is sent.
        sends: usize,
        /// How often it is received.
        receives: usize,
    },
    /// Ranks that wait for each other.
    #[error("rank {rank} waits for {what} from rank {from} forever")]
    CyclicWait {
        /// A waiting rank.
        rank: usize,
        /// What it waits for.
        what: Versioned,
        /// Whom it waits for.
        from: usize,
    },
    /// A prediction that is computed or used a wrong number of times, or latents that are.
    #[error("{what} is produced {produced} times and used {used} times")]
    Count {
        /// What.
        what: Versioned,
        /// How many combinations produce it.
        produced: usize,
        /// How many combinations use it.
        used: usize,
    },
    /// An input whose versions break the strategy's contract.
    #[error(
        "rank {rank} computes {block} for call {version} from an input of call {found}: the strategy asks for call {expected}"
    )]
    Staleness {
        /// The rank.
        rank: usize,
        /// The block's name.
        block: String,
        /// The version that is computed.
        version: usize,
        /// The newest version among the input's terms.
        found: usize,
        /// The version that the strategy prescribes.
        expected: usize,
    },
    /// The weights of a source do not add up to one.
    #[error(
        "rank {rank} computes {block} for call {version} from weights that add up to {sum}, not 1"
    )]
    Weights {
        /// The rank.
        rank: usize,
        /// The block's name.
        block: String,
        /// The version that is computed.
        version: usize,
        /// The sum found.
        sum: f64,
    },
    /// A block that the rank does not hold, or inputs that are not those of the graph.
    #[error(
        "rank {rank} computes {block} for call {version}, but does not hold it, or from other inputs than the graph's"
    )]
    Inputs {
        /// The rank.
        rank: usize,
        /// The block's name.
        block: String,
        /// The version that is computed.
        version: usize,
    },
    /// A combination of nothing.
    #[error("rank {rank} makes {what} from nothing")]
    Empty {
        /// The rank.
        rank: usize,
        /// The result.
        what: Versioned,
    },
}

//! Why there is no plan.

use crate::partition::PartitionError;
use crate::value::Versioned;

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
    /// A look-ahead warm-up that leaves nothing to look back on, or nothing to do.
    #[error(
        "warm-up of {warm_up} steps is not possible for look-ahead with {calls} denoiser calls: use {least} to {calls}"
    )]
    LookAheadWarmUp {
        /// The warm-up asked for.
        warm_up: usize,
        /// The least that is possible.
        least: usize,
        /// The number of denoiser calls.
        calls: usize,
    },
    /// No copy at all.
    #[error("look-ahead with 0 copies is not possible: use 1 or more")]
    NoCopies,
    /// Guidance cannot be split where there is none.
    #[error(
        "there is no guidance to split at a guidance scale of 1 or less: raise the scale, or spread the run in another way"
    )]
    NoGuidance,
    /// The denoiser does not get smaller anywhere, so it has no ring.
    #[error("this denoiser has no ring for a look-ahead: {0}")]
    NoRing(&'static str),
    /// One deep rank for both branches where there is one branch.
    #[error("one deep rank for both branches needs guidance that is split")]
    OneDeepRank,
    /// Look-ahead through segments needs segments that are contiguous.
    #[error(
        "look-ahead through segments needs contiguous segments in their order, and block {0} is out of it: use the contiguous partition"
    )]
    NotContiguous(String),
    /// The noise scheduler's latents at a call have no noise, or no signal, to look ahead with.
    #[error(
        "call {0} of this noise schedule cannot be looked ahead: its latents are pure noise or pure signal"
    )]
    Level(usize),
    /// The partition cannot be made.
    #[error(transparent)]
    Partition(#[from] PartitionError),
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
    /// An input whose versions break the method's contract.
    #[error(
        "rank {rank} computes {block} for call {version} from {found}: the method asks for {expected}"
    )]
    Staleness {
        /// The rank.
        rank: usize,
        /// The block's name.
        block: String,
        /// The version that is computed.
        version: usize,
        /// The newest version among the input's terms.
        found: Versioned,
        /// The version that the method prescribes.
        expected: Versioned,
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

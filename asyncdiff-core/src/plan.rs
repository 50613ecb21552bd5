//! The plan: for every rank, the ordered list of actions that make up a denoising run.
//!
//! Four kinds of [`Action`] are enough. A [`Plan`] is built from a [`Setting`] by one of the builders ([`Plan::sequential`],
//! [`Plan::asyncdiff`], [`Plan::ring`], [`Plan::copies`], [`Plan::through_segments`]), proved by [`Plan::validate`] before
//! anything runs, costed by [`simulate`](crate::simulate()), and executed by [`Engine`](crate::Engine). Every builder
//! composes with guidance that is [split](Setting::split).

mod action;
mod asyncdiff;
mod copies;
mod error;
mod look_ahead;
mod program;
mod ring;
mod role;
mod sequential;
mod through;
mod transfers;
mod validate;

use serde::Serialize;

use crate::graph::{BlockId, SegmentGraph};
use crate::scheduler::Schedule;

pub use crate::value::{Branch, Combine, Guidance, Part, Term, Value, Versioned};
pub use action::{Action, Instruction, Run};
pub use asyncdiff::AsyncDiff;
pub use copies::Copies;
pub use error::PlanError;
pub use ring::{Ring, RingBlocks};
pub use role::{Place, Role};
pub use through::ThroughSegments;
pub use transfers::Message;

/// What every builder starts from.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The denoiser's blocks.
    pub graph: &'a SegmentGraph,
    /// The noise scheduler's coefficients.
    pub schedule: &'a Schedule,
    /// Mixes the two halves of the batch (classifier-free guidance); `None` if the batch holds conditional samples only.
    pub guidance: Option<Guidance>,
    /// Whether the halves are computed by ranks of their own.
    pub split: bool,
}

impl<'a> Setting<'a> {
    /// Guidance, if there is any, in one batch.
    #[must_use]
    pub fn new(
        graph: &'a SegmentGraph,
        schedule: &'a Schedule,
        guidance: Option<Guidance>,
    ) -> Self {
        Self {
            graph,
            schedule,
            guidance,
            split: false,
        }
    }

    /// The same with guidance split: the negative and the positive prompt's half of the batch are computed by different ranks,
    /// and only predictions meet. The result is the same within rounding.
    #[must_use]
    pub fn split(self) -> Self {
        Self {
            split: true,
            ..self
        }
    }

    fn branches(&self) -> Result<&'static [Branch], PlanError> {
        match (self.split, self.guidance) {
            (false, _) => Ok(&[Branch::Both]),
            (true, Some(_)) => Ok(&[Branch::Negative, Branch::Positive]),
            (true, None) => Err(PlanError::NoGuidance),
        }
    }
}

/// The builder that made a plan, with its parameters: what decides which version of an input a block has to read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "method")]
pub enum Method {
    /// Every input fresh, one call after the other.
    Sequential,
    /// The published method: segments that compute at once, on values of the calls before.
    AsyncDiff(AsyncDiff),
    /// Two ranks, of which the deep one works a call ahead.
    Ring(Ring),
    /// Several calls at once, on predicted latents.
    Copies(Copies),
    /// Several calls at once, one behind the other through the segments, on predicted latents.
    ThroughSegments(ThroughSegments),
}

impl Method {
    /// Denoiser calls at the start that are run with every input fresh; all of them for the sequential plan.
    #[must_use]
    pub fn warm_up(&self) -> usize {
        match self {
            Method::Sequential => usize::MAX,
            Method::AsyncDiff(AsyncDiff { warm_up, .. })
            | Method::Ring(Ring { warm_up, .. })
            | Method::Copies(Copies { warm_up, .. })
            | Method::ThroughSegments(ThroughSegments { warm_up, .. }) => *warm_up,
        }
    }
}

/// A whole denoising run: who computes what, from which versions, and who sends what to whom.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The instructions of every rank, in order.
    pub ranks: Vec<Vec<Instruction>>,
    /// For every rank, the blocks that it computes and so must hold the weights of, in graph order.
    pub blocks: Vec<Vec<BlockId>>,
    /// What every rank is there for.
    pub roles: Vec<Role>,
    /// Number of denoiser calls.
    pub calls: usize,
    /// What the plan follows.
    pub method: Method,
    /// The rank that is given the initial latents and ends with the final ones.
    pub latents_rank: usize,
}

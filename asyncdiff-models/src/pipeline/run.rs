//! A shape, planned.

use asyncdiff_core::{Plan, Schedule, SegmentGraph, Strategy, Summary};

use crate::dtype::Dtype;
use crate::request::Shape;

/// A shape, planned: everything that will be done, and what it should cost. With any [`Content`](crate::Content) of that shape
/// it is the same.
#[derive(Clone, Debug)]
pub struct Run {
    /// What is to be made.
    pub shape: Shape,
    /// The denoiser's blocks at the shape's size.
    pub graph: SegmentGraph,
    /// The noise scheduler's coefficients.
    pub schedule: Schedule,
    /// How it was to be spread.
    pub strategy: Strategy,
    /// Who does what.
    pub plan: Plan,
    /// The plan in figures.
    pub summary: Summary,
    /// The noise scheduler's class in diffusers.
    pub scheduler: String,
    /// What the denoiser and the text encoders compute in.
    pub dtype: Dtype,
    /// Whether no published partition fits, and the balanced one was taken.
    pub fell_back: bool,
}

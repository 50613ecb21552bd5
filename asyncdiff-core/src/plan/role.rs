//! A rank's place among the ranks of a plan.

use std::fmt;

use serde::Serialize;

use crate::value::Branch;

/// What a rank is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Role {
    /// Whose half of the guidance batch it computes.
    pub branch: Branch,
    /// Which part of the denoiser, or which of several calls.
    #[serde(flatten)]
    pub place: Place,
}

/// A rank's place within its branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case", tag = "place", content = "index")]
pub enum Place {
    /// The whole denoiser, for every call.
    Whole,
    /// The whole denoiser, for the calls of that number in their round.
    Copy(usize),
    /// One segment.
    Segment(usize),
    /// Another copy of the last segment, for the first call of a round of two (AsyncDiff with stride 2).
    Second,
    /// The ring and the tail of a ring look-ahead: what works on the true latents.
    Outer,
    /// The ring again and the deep blocks of a ring look-ahead: what works on predicted latents.
    Deep,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Whole => write!(f, "all blocks")?,
            Place::Copy(index) => write!(f, "copy {index}")?,
            Place::Segment(index) => write!(f, "segment {index}")?,
            Place::Second => write!(f, "last segment, second copy")?,
            Place::Outer => write!(f, "outer")?,
            Place::Deep => write!(f, "deep")?,
        }
        match self.branch {
            Branch::Both => Ok(()),
            branch => write!(f, ", {branch}"),
        }
    }
}

//! What a rank does.

use serde::Serialize;

use crate::graph::BlockId;
use crate::value::{Branch, Combine, Term, Value, Versioned};

/// One thing that a rank does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// Compute a block.
    Run(Run),
    /// A linear combination of latents, predictions and noise.
    Combine(Combine),
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

/// A block to compute.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Which block.
    pub block: BlockId,
    /// For which half of the batch.
    pub branch: Branch,
    /// Whether from predicted latents.
    pub ahead: bool,
    /// The version of its output.
    pub version: usize,
    /// The timestep whose embedding the block gets.
    pub timestep: f64,
    /// One source for each input of the block: a linear combination of values.
    pub inputs: Vec<Vec<Term>>,
}

impl Run {
    /// What it makes.
    #[must_use]
    pub fn out(&self) -> Versioned {
        let out = Value::Block(self.block).at(self.version);
        out.of(self.branch).ahead_if(self.ahead)
    }
}

impl Action {
    /// The versions that this action reads.
    pub fn reads(&self) -> impl Iterator<Item = Versioned> + '_ {
        let (terms, sent): (Vec<&Term>, _) = match self {
            Action::Run(run) => (run.inputs.iter().flatten().collect(), None),
            Action::Combine(combine) => (combine.terms.iter().collect(), None),
            Action::Send { what, .. } => (Vec::new(), Some(*what)),
            Action::Recv { .. } => (Vec::new(), None),
        };
        terms.into_iter().map(|term| term.of).chain(sent)
    }

    /// The version that this action makes available on its rank.
    #[must_use]
    pub fn writes(&self) -> Option<Versioned> {
        match self {
            Action::Run(run) => Some(run.out()),
            Action::Combine(combine) => Some(combine.out),
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

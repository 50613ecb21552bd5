//! Runs one rank's part of a plan.

mod patience;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Instant;

use asyncdiff_comm::{CommError, Form, PeerExchange};

use crate::graph::BlockId;
use crate::plan::{Action, Branch, Combine, Part, Plan, Run, Term, Value, Versioned};
use patience::Patience;

/// What the engine needs of a denoiser and of the tensors it works on.
pub trait Denoiser {
    /// A tensor. Cloning it should not copy its elements.
    type Tensor: Clone;
    /// Why a computation failed.
    type Error: std::error::Error;

    /// Computes a block from its inputs, in the graph's order, for both halves of the guidance batch or one of them. An input
    /// from the latents has their batch; where the denoiser works on a larger one (guidance), it repeats them.
    ///
    /// # Errors
    ///
    /// Whatever keeps the block from being computed.
    fn run(
        &mut self,
        block: BlockId,
        branch: Branch,
        timestep: f64,
        inputs: Vec<Self::Tensor>,
    ) -> Result<Self::Tensor, Self::Error>;

    /// `Σ weight · tensor`, or of the part of the tensor that the term takes.
    ///
    /// # Errors
    ///
    /// Whatever keeps the sum from being computed.
    fn combine(&mut self, terms: &[(Term, Self::Tensor)]) -> Result<Self::Tensor, Self::Error>;

    /// A value that [is given](Value::is_given): standard normal noise for the scheduler's step after a call, or what an
    /// inpainting run keeps. Noise is asked for once for each stochastic step, in their order, on the rank that advances the
    /// latents; so every plan draws the same.
    ///
    /// # Errors
    ///
    /// Whatever keeps the value from being there.
    fn given(&mut self, what: Versioned) -> Result<Self::Tensor, Self::Error>;
}

/// Is shown every tensor that a rank computes or receives, as soon as it is there; breaking off cancels the run on all ranks.
pub type Observer<'a, T> = dyn FnMut(Versioned, &T) -> ControlFlow<()> + 'a;

/// Why a rank stopped before the end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError<E: std::error::Error> {
    /// A computation failed on this rank.
    #[error("{0}")]
    Compute(E),
    /// Another rank failed, or a message did not come.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// The observer broke off.
    #[error("cancelled")]
    Cancelled,
    /// The plan reads what is not there; [`Plan::validate`] would have said so.
    #[error("{0} is missing: the plan is not valid")]
    Missing(Versioned),
}

/// Says which shape and element type a value has when another rank sends it.
pub type Forms<'a> = dyn Fn(Versioned) -> Form + 'a;

/// Is told of every action that a rank has done, and when it began with it.
pub type Clock<'a> = dyn Fn(&Action, Instant) + 'a;

/// Runs the actions of one rank.
pub struct Engine<'a> {
    plan: &'a Plan,
    rank: usize,
    forms: &'a Forms<'a>,
    clock: Option<&'a Clock<'a>>,
}

impl<'a> Engine<'a> {
    /// An engine for one rank of a valid plan, whose messages are of these forms.
    ///
    /// # Panics
    ///
    /// If the plan has no such rank.
    #[must_use]
    pub fn new(plan: &'a Plan, rank: usize, forms: &'a Forms<'a>) -> Self {
        assert!(
            rank < plan.ranks.len(),
            "rank {rank} of {}",
            plan.ranks.len()
        );
        Self {
            plan,
            rank,
            forms,
            clock: None,
        }
    }

    /// The same, that tells `clock` of every action.
    #[must_use]
    pub fn timed(self, clock: &'a Clock<'a>) -> Self {
        Self {
            clock: Some(clock),
            ..self
        }
    }

    /// Runs all actions. `latents` are the initial latents, for the rank that starts from them
    /// ([`Plan::latents_rank`]); on that rank the result is the final latents, elsewhere it is `None`.
    ///
    /// # Errors
    ///
    /// [`EngineError`]; all other ranks are told.
    pub fn run<D, P>(
        &self,
        denoiser: &mut D,
        peers: &mut P,
        latents: Option<D::Tensor>,
        observer: &mut Observer<'_, D::Tensor>,
    ) -> Result<Option<D::Tensor>, EngineError<D::Error>>
    where
        D: Denoiser,
        P: PeerExchange<D::Tensor>,
    {
        let result = self.run_actions(denoiser, peers, latents, observer);
        if let Err(error) = &result {
            peers.fail(&error.to_string());
        }
        result
    }

    fn run_actions<D, P>(
        &self,
        denoiser: &mut D,
        peers: &mut P,
        latents: Option<D::Tensor>,
        observer: &mut Observer<'_, D::Tensor>,
    ) -> Result<Option<D::Tensor>, EngineError<D::Error>>
    where
        D: Denoiser,
        P: PeerExchange<D::Tensor>,
    {
        let mut values: HashMap<Versioned, D::Tensor> = latents
            .map(|latents| (Value::Latents.at(0), latents))
            .into_iter()
            .collect();
        let mut patience = Patience::new();
        for instruction in &self.plan.ranks[self.rank] {
            let begun = self.clock.map(|clock| (clock, Instant::now()));
            for read in instruction.action.reads() {
                if read.value.is_given() && !values.contains_key(&read) {
                    values.insert(read, denoiser.given(read).map_err(EngineError::Compute)?);
                }
            }
            // Whatever is read for the last time leaves the store first, so that the computation may reuse its memory.
            let written = match &instruction.action {
                Action::Run(Run {
                    block,
                    branch,
                    timestep,
                    inputs,
                    ..
                }) => {
                    let inputs = inputs
                        .iter()
                        .map(|source| resolve(source, &values, denoiser))
                        .collect::<Result<_, _>>()?;
                    release(&mut values, &instruction.release);
                    // A block may take long: a rank that has failed is noticed before each.
                    peers.check()?;
                    Some(
                        denoiser
                            .run(*block, *branch, *timestep, inputs)
                            .map_err(EngineError::Compute)?,
                    )
                }
                Action::Combine(Combine { terms, .. }) => {
                    let terms = gather(terms, &values)?;
                    release(&mut values, &instruction.release);
                    Some(denoiser.combine(&terms).map_err(EngineError::Compute)?)
                }
                Action::Send { what, to } => {
                    let value = get(&values, *what)?.clone();
                    release(&mut values, &instruction.release);
                    peers.send(*to, what.tag(), value)?;
                    None
                }
                Action::Recv { what, from } => {
                    let form = (self.forms)(*what);
                    let tensor = peers.recv(*from, what.tag(), &form, patience.deadline())?;
                    if observer(*what, &tensor).is_break() {
                        return Err(EngineError::Cancelled);
                    }
                    values.insert(*what, tensor);
                    None
                }
            };
            if let Some((clock, begun)) = begun {
                clock(&instruction.action, begun);
            }
            if let Some(what) = instruction.action.writes() {
                patience.see(what.version, Instant::now());
            }
            if let (Some(tensor), Some(what)) = (written, instruction.action.writes()) {
                if observer(what, &tensor).is_break() {
                    return Err(EngineError::Cancelled);
                }
                values.insert(what, tensor);
            }
        }
        Ok(values.remove(&Value::Latents.at(self.plan.calls)))
    }
}

fn get<T, E: std::error::Error>(
    values: &HashMap<Versioned, T>,
    what: Versioned,
) -> Result<&T, EngineError<E>> {
    values.get(&what).ok_or(EngineError::Missing(what))
}

fn gather<T: Clone, E: std::error::Error>(
    terms: &[Term],
    values: &HashMap<Versioned, T>,
) -> Result<Vec<(Term, T)>, EngineError<E>> {
    terms
        .iter()
        .map(|term| Ok((*term, get(values, term.of)?.clone())))
        .collect()
}

/// A single term of weight one is the tensor itself; anything else has to be computed.
fn resolve<D: Denoiser>(
    source: &[Term],
    values: &HashMap<Versioned, D::Tensor>,
    denoiser: &mut D,
) -> Result<D::Tensor, EngineError<D::Error>> {
    match source {
        [only] if only.weight == 1.0 && only.part == Part::Whole => get(values, only.of).cloned(),
        _ => denoiser
            .combine(&gather(source, values)?)
            .map_err(EngineError::Compute),
    }
}

fn release<T>(values: &mut HashMap<Versioned, T>, done: &[Versioned]) {
    for what in done {
        values.remove(what);
    }
}

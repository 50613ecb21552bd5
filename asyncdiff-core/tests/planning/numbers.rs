//! A denoiser of plain numbers, so that what plans must compute can be worked out by hand.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::thread;

use asyncdiff_comm::{Element, Form, local};
use asyncdiff_core::plan::{Branch, Part, Term, Value, Versioned};
use asyncdiff_core::{BlockId, Denoiser, Engine, Plan};

/// The latents that every run starts from.
pub const START: f64 = 1.5;

/// A block adds its inputs and numbers of its own, a different one for each half of the guidance batch. Latents are one number,
/// outputs one for each half.
pub struct Numbers {
    /// Halves in the batch: 2 with guidance.
    pub passes: usize,
}

/// What a block makes of the sum of its inputs, for one half of the batch.
pub fn block(id: BlockId, half: usize, timestep: f64, inputs: f64) -> f64 {
    let own = 0.01 * (id.0 as f64 + 7.0 * half as f64).sin();
    0.5 * inputs + own + 1e-5 * timestep
}

/// The noise of a call.
pub fn noise(call: usize) -> f64 {
    (call as f64).cos()
}

impl Denoiser for Numbers {
    type Tensor = Vec<f64>;
    type Error = Infallible;

    fn run(
        &mut self,
        id: BlockId,
        branch: Branch,
        timestep: f64,
        inputs: Vec<Vec<f64>>,
    ) -> Result<Vec<f64>, Infallible> {
        let halves = match branch {
            Branch::Both => 0..self.passes,
            Branch::Negative => 0..1,
            Branch::Positive => 1..2,
        };
        let first = halves.start;
        Ok(halves
            .map(|half| {
                let of = |input: &Vec<f64>| input[if input.len() == 1 { 0 } else { half - first }];
                block(id, half, timestep, inputs.iter().map(of).sum())
            })
            .collect())
    }

    fn combine(&mut self, terms: &[(Term, Vec<f64>)]) -> Result<Vec<f64>, Infallible> {
        let parts = terms.iter().map(|(term, value)| {
            let part = match term.part {
                Part::Unconditional => &value[..1],
                Part::Conditional => &value[1..],
                // A mask that paints all.
                Part::Whole | Part::Inside => &value[..],
                Part::Outside => &[0.0],
            };
            part.iter().map(|number| term.weight * number).collect()
        });
        let sum = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(&b).map(|(a, b)| a + b).collect();
        Ok(parts.reduce(sum).unwrap())
    }

    fn given(&mut self, what: Versioned) -> Result<Vec<f64>, Infallible> {
        Ok(vec![noise(what.version)])
    }
}

/// How many numbers a value is.
pub fn form(what: Versioned, passes: usize) -> Form {
    let numbers = match (what.value, what.branch) {
        (Value::Block(_), Branch::Both) => passes,
        _ => 1,
    };
    Form::new([numbers], Element::F64)
}

/// What a plan computes, its predictions beside it as they come.
pub fn watched(plan: &Plan, passes: usize) -> (f64, Vec<(Versioned, f64)>) {
    let world = local::world(plan.ranks.len());
    let results: Vec<_> = thread::scope(|scope| {
        let ranks: Vec<_> = world
            .into_iter()
            .enumerate()
            .map(|(rank, mut peer)| {
                scope.spawn(move || {
                    let latents = (rank == plan.latents_rank).then_some(vec![START]);
                    let mut seen = Vec::new();
                    let mut watch = |what: Versioned, value: &Vec<f64>| {
                        seen.push((what, value[0]));
                        ControlFlow::Continue(())
                    };
                    let mut numbers = Numbers { passes };
                    let end = Engine::new(plan, rank, &|what| form(what, passes))
                        .run(&mut numbers, &mut peer, latents, &mut watch)
                        .unwrap();
                    (end, seen)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|(end, _)| end.is_some()).count(), 1);
    let end = results[plan.latents_rank].0.as_ref().unwrap()[0];
    let seen = results.into_iter().flat_map(|(_, seen)| seen).collect();
    (end, seen)
}

/// What a plan computes.
pub fn run(plan: &Plan, passes: usize) -> f64 {
    watched(plan, passes).0
}

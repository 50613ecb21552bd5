//! Latents that are predicted before they are there, and predictions that were made from them.

use std::collections::HashMap;

use super::PlanError;
use super::program::Program;
use crate::scheduler::{NoiseLevel, Schedule};
use crate::value::{Combine, Part, Term, Value, Versioned};

/// A data prediction that is expected of the calls to come: a combination of those that were made.
#[derive(Clone, Debug)]
pub(super) struct Held(Vec<(Versioned, f64)>);

impl Held {
    /// What calls from `call` on are expected to say: what the call before said, and `share` of the way on, along the line
    /// through the two before, that leads to the latents of `call`.
    pub(super) fn before(schedule: &Schedule, call: usize, share: f64) -> Self {
        let of = |version| Value::Data.at(version);
        let position = |call| schedule.log_signal_to_noise(call);
        let ratio = if call < 2 || share == 0.0 {
            0.0
        } else {
            let newest = position(call - 1) - position(call - 2);
            share * (position(call) - position(call - 1)) / newest
        };
        // Levels that stand twice (Heun's method, PNDM) have no line through them.
        if ratio.is_finite() && ratio != 0.0 {
            let older = (of(call - 2), -ratio);
            Self(vec![(of(call - 1), 1.0 + ratio), older])
        } else {
            Self(vec![(of(call - 1), 1.0)])
        }
    }

    fn times(&self, weight: f64) -> impl Iterator<Item = Term> + '_ {
        self.0
            .iter()
            .map(move |(of, share)| Term::new(*of, weight * share))
    }
}

/// That every call has latents with both signal and noise, so that any can be predicted and looked back from.
pub(super) fn check_levels(schedule: &Schedule) -> Result<(), PlanError> {
    let levels = schedule.levels.iter().take(schedule.calls()).enumerate();
    for (call, NoiseLevel { signal, noise }) in levels {
        let (latents, prediction) = schedule.data_prediction(call);
        let (back, _) = schedule.prediction_of_data(call);
        let numbers = [latents, prediction, back];
        if *noise <= 0.0 || *signal < 0.0 || numbers.iter().any(|number| !number.is_finite()) {
            return Err(PlanError::Level(call));
        }
    }
    Ok(())
}

impl Program<'_> {
    /// The data prediction of a call, from its latents and its prediction.
    pub(super) fn data(&mut self, call: usize) {
        let (latents, prediction) = self.schedule.data_prediction(call);
        let terms = vec![
            Term::new(Value::Latents.at(call), latents),
            Term::new(Value::Prediction.at(call), prediction),
        ];
        self.combine(Value::Data.at(call), terms);
    }

    /// The latents before call `to`, ahead, by the noise scheduler's own updates of the calls from `from` on, on the
    /// expectation that these say `held`.
    pub(super) fn expect(&mut self, from: usize, to: usize, held: &Held) {
        let mut known: HashMap<Versioned, Vec<Term>> = HashMap::new();
        let steps = self.schedule.steps.iter().enumerate();
        for (_, step) in steps.take(to).skip(from) {
            for Combine { out, terms } in &step.combines {
                let mut sum = Vec::new();
                for term in terms {
                    let of = term.of;
                    if of.value == Value::Prediction && of.version >= from {
                        let (latents, data) = self.schedule.prediction_of_data(of.version);
                        let latents = Term::new(Value::Latents.at(of.version), latents);
                        for inner in held.times(data).chain([latents]) {
                            add(&mut sum, *term, inner, &known);
                        }
                    } else {
                        add(&mut sum, *term, Term::new(of, 1.0), &known);
                    }
                }
                known.insert(*out, sum);
            }
        }
        let latents = Value::Latents.at(to);
        if let Some(mut terms) = known.remove(&latents) {
            // Noise is drawn in the order in which it is read.
            terms.sort_by_key(|term| term.of);
            self.combine(latents.ahead(), terms);
        }
    }

    /// The latents before call `to`, ahead: one first-order jump (DDIM) from those of `from`, on the expectation that the
    /// calls from there on say `held`. A stochastic scheduler's own updates are run instead, as its steps add noise.
    pub(super) fn jump(&mut self, from: usize, to: usize, held: &Held) {
        if self.schedule.is_stochastic() {
            return self.expect(from, to, held);
        }
        let (start, end) = (self.schedule.levels[from], self.schedule.levels[to]);
        let ratio = end.noise / start.noise;
        let mut terms: Vec<Term> = held.times(end.signal - ratio * start.signal).collect();
        terms.push(Term::new(Value::Latents.at(from), ratio));
        if self.schedule.keeps_outside() {
            terms.iter_mut().for_each(|term| term.part = Part::Inside);
            terms.extend(end.outside());
        }
        self.combine(Value::Latents.at(to).ahead(), terms);
    }

    /// A prediction that was made from latents ahead, said anew of the true latents, so that its data prediction is kept.
    pub(super) fn keep_data(&mut self, call: usize) {
        let (latents, _) = self.schedule.prediction_of_data(call);
        let terms = vec![
            Term::new(Value::Prediction.at(call).ahead(), 1.0),
            Term::new(Value::Latents.at(call), latents),
            Term::new(Value::Latents.at(call).ahead(), -latents),
        ];
        self.combine(Value::Prediction.at(call), terms);
    }
}

/// Adds `of` in the place of what `term` is of, written out in what is known.
fn add(sum: &mut Vec<Term>, term: Term, of: Term, known: &HashMap<Versioned, Vec<Term>>) {
    if let Some(terms) = known.get(&of.of) {
        let weight = term.weight * of.weight;
        for inner in terms {
            add(sum, Term { weight, ..term }, *inner, &HashMap::new());
        }
        return;
    }
    // Masks are of zeros and ones: what is inside of what is outside is nothing.
    let part = match (term.part, of.part) {
        (part, Part::Whole) | (Part::Whole, part) => part,
        (outer, inner) if outer == inner => outer,
        _ => return,
    };
    let weight = term.weight * of.weight;
    match sum
        .iter_mut()
        .find(|own| own.of == of.of && own.part == part)
    {
        Some(own) => own.weight += weight,
        None => sum.push(Term {
            part,
            ..Term::new(of.of, weight)
        }),
    }
}

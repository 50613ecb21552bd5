//! Linear combinations under construction.

use crate::value::{Combine, Term, Versioned};

/// A linear combination of versioned values, every version at most once.
#[derive(Clone, Debug, Default)]
pub(super) struct Linear(Vec<Term>);

impl Linear {
    /// The value itself.
    pub(super) fn of(value: Versioned) -> Self {
        Self(vec![Term::new(value, 1.0)])
    }

    /// `self + weight · other`.
    pub(super) fn plus(mut self, weight: f64, other: &Self) -> Self {
        for term in &other.0 {
            let weight = weight * term.weight;
            match self.0.iter_mut().find(|own| own.of == term.of) {
                Some(own) => own.weight += weight,
                None => self.0.push(Term::new(term.of, weight)),
            }
        }
        self
    }

    /// `weight · self`.
    pub(super) fn times(&self, weight: f64) -> Self {
        Self::default().plus(weight, self)
    }

    /// The combination that makes `out`, without terms of weight 0.
    pub(super) fn into_combine(mut self, out: Versioned) -> Combine {
        self.0.retain(|term| term.weight != 0.0);
        Combine { out, terms: self.0 }
    }
}

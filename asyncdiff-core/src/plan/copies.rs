//! Look-ahead with copies: several calls at once, the later ones on predicted latents.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::look_ahead::{Held, check_levels};
use super::program::Program;
use super::role::Place;
use super::{Method, Plan, PlanError, Setting};

/// The parameters of a look-ahead with copies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copies {
    /// Calls that one round evaluates at once, each by a copy of the denoiser.
    pub copies: usize,
    /// Calls at the start that are evaluated alone, at least 1.
    pub warm_up: usize,
    /// How far the data prediction that a round expects is moved on along the line through the last two, as a share of the way
    /// to the round's start: 0 holds the last one.
    pub trend: f64,
}

impl Copies {
    /// That many copies, with the parameters that have proved best.
    #[must_use]
    pub fn new(copies: usize) -> Self {
        Self {
            copies,
            warm_up: 2,
            trend: trend(copies),
        }
    }

    /// The rounds behind one another: the warm-up's calls alone; then the fewest rounds that do, of sizes as equal as possible,
    /// the larger ones first; and the last call alone, where an error would go straight into the result.
    #[must_use]
    pub fn rounds(&self, calls: usize) -> Vec<Range<usize>> {
        let mut rounds: Vec<_> = (0..self.warm_up.min(calls))
            .map(|call| call..call + 1)
            .collect();
        let mut start = rounds.len();
        while start < calls {
            let together = calls - 1 - start;
            let size = match together.div_ceil(self.copies.max(1)) {
                0 => 1,
                // Rounding up takes the larger sizes first.
                count => together.div_ceil(count),
            };
            rounds.push(start..start + size);
            start += size;
        }
        rounds
    }
}

/// The best-proved share of the trend where that many calls are under way. With two, the trend comes from a call on true latents
/// and one on predicted ones; with more, from two on predicted ones, and their difference is mostly error.
pub(super) fn trend(calls: usize) -> f64 {
    if calls <= 2 { 0.5 } else { 0.0 }
}

impl Plan {
    /// Look-ahead with copies. In a round that starts from the latents of call `i`, copy `j` evaluates call `i + j` on latents
    /// that are predicted from those of `i` and the data predictions made so far. When all predictions are there, the noise
    /// scheduler's own updates run, on predictions whose data prediction is kept (ParaStep and DRiffusion are relatives).
    ///
    /// # Errors
    ///
    /// [`PlanError::NoCopies`], [`PlanError::LookAheadWarmUp`], [`PlanError::Level`], [`PlanError::NoGuidance`].
    pub fn copies(setting: &Setting<'_>, strategy: &Copies) -> Result<Self, PlanError> {
        let Copies {
            copies,
            warm_up,
            trend,
        } = *strategy;
        let calls = setting.schedule.calls();
        if copies == 0 {
            return Err(PlanError::NoCopies);
        }
        if !(1..=calls).contains(&warm_up) {
            return Err(PlanError::LookAheadWarmUp {
                warm_up,
                least: 1,
                calls,
            });
        }
        if copies > 1 {
            check_levels(setting.schedule)?;
        }
        let mut program = Program::new(setting, 0)?;
        for round in strategy.rounds(calls) {
            let start = round.start;
            if round.len() > 1 {
                let held = Held::before(setting.schedule, start, trend);
                for call in round.clone().skip(1) {
                    program.jump(start, call, &held);
                }
            }
            for (copy, call) in round.clone().enumerate() {
                let ahead = call > start;
                program.whole(|branch| branch * copies + copy, call, ahead);
                program.predict(copy, call, ahead);
            }
            for call in round {
                if call > start {
                    program.keep_data(call);
                }
                program.data(call);
                program.advance(call);
            }
        }
        let places: Vec<_> = (0..copies).map(Place::Copy).collect();
        let roles = program.roles(&places);
        program.finish(roles, Method::Copies(*strategy))
    }
}

//! Which plan to take on so many ranks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::plan::{Plan, PlanError, Setting};
use crate::simulate::simulate;
use crate::strategy::{Spread, Strategy};
use crate::summary::Summary;

/// The fewest denoiser calls that a look-ahead is chosen for. Below, its steps are so large that nobody has measured whether
/// fewer of them would do as well.
const LEAST_CALLS: usize = 10;

/// Which of two plans is taken where one is more alike to the sequential run and the other one sooner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// The one that is more alike.
    #[default]
    Likeness,
    /// The one that is done sooner.
    Speed,
}

impl fmt::Display for Preference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Preference::Likeness => "likeness",
            Preference::Speed => "speed",
        })
    }
}

impl FromStr for Preference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "likeness" => Ok(Preference::Likeness),
            "speed" => Ok(Preference::Speed),
            other => Err(format!("{other:?} is no preference: use likeness or speed")),
        }
    }
}

/// What a plan is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// Ranks that there are.
    pub ranks: usize,
    /// What matters more.
    pub preference: Preference,
    /// Bytes that each rank has for weights and activations of the denoiser, if that is known.
    pub memory: Option<u64>,
    /// Bytes of an element of weights and activations.
    pub element_bytes: u64,
}

/// A plan that is possible.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// How it spreads the run.
    pub strategy: Strategy,
    /// The plan itself.
    #[serde(skip)]
    pub plan: Plan,
    /// The plan in figures.
    pub summary: Summary,
    /// How many times sooner than the sequential plan it should be done on the machine.
    pub speed_up: f64,
    /// Whether every rank has the memory that it takes.
    pub fits: bool,
}

impl Candidate {
    /// Bytes of the denoiser's weights and activations on the rank that has the most.
    #[must_use]
    pub fn most_memory(&self) -> u64 {
        let ranks = self.summary.ranks.iter();
        let bytes = ranks.map(|rank| rank.weight_bytes + rank.activation_bytes);
        bytes.max().unwrap_or(0)
    }
}

/// Every way to spread a run over up to that many ranks, with default parameters: the sequential plan first, then by the number
/// of ranks. What a schedule or a denoiser does not allow is left out.
///
/// # Errors
///
/// [`PlanError`] of the sequential plan.
pub fn candidates(
    setting: &Setting<'_>,
    machine: &Machine,
    wish: &Wish,
) -> Result<Vec<Candidate>, PlanError> {
    let sequential = Plan::sequential(&Setting {
        split: false,
        ..*setting
    })?;
    let baseline = simulate(&sequential, setting.graph, machine).makespan;
    let mut strategies = spreads(wish.ranks);
    if setting.guidance.is_some() {
        let halves = spreads(wish.ranks / 2).into_iter().map(Strategy::split);
        strategies.extend(halves);
        if wish.ranks >= 3 {
            let ring = Spread::Ring {
                warm_up: 2,
                one_deep: true,
            };
            strategies.push(Strategy::from(ring).split());
        }
    }
    let candidate = |strategy: Strategy| {
        let plan = strategy.plan(setting, machine).ok()?;
        let summary = Summary::new(&plan, &sequential, setting.graph, wish.element_bytes);
        let mut candidate = Candidate {
            speed_up: baseline / simulate(&plan, setting.graph, machine).makespan,
            fits: true,
            strategy,
            plan,
            summary,
        };
        candidate.fits = wish
            .memory
            .is_none_or(|memory| candidate.most_memory() <= memory);
        Some(candidate)
    };
    let mut candidates: Vec<_> = strategies.into_iter().filter_map(candidate).collect();
    candidates.sort_by_key(|candidate| candidate.plan.ranks.len());
    Ok(candidates)
}

/// The ways to spread a denoiser over up to that many ranks.
fn spreads(ranks: usize) -> Vec<Strategy> {
    let mut spreads = Vec::new();
    if ranks >= 1 {
        spreads.push(Spread::Whole);
    }
    if ranks >= 2 {
        spreads.push(Spread::ring());
    }
    spreads.extend((2..=ranks).map(Spread::copies));
    spreads.extend((2..=ranks).map(Spread::through_segments));
    spreads.extend((2..=ranks.min(4)).map(Spread::segments));
    spreads.into_iter().map(Strategy::from).collect()
}

/// The candidate to take: split guidance first, as it is exact; then ring look-ahead, which holds best under strong guidance, or
/// as many copies as are sooner; segments where nothing else fits. The published method is never chosen: fewer steps are closer
/// to the sequential run in the same time. `None` if nothing fits.
#[must_use]
pub fn choose(candidates: &[Candidate], preference: Preference) -> Option<usize> {
    let fitting = || candidates.iter().enumerate().filter(|(_, one)| one.fits);
    let worth = |one: &Candidate| {
        // An exact plan always is; others have to be sooner than the fastest exact one.
        let exact = fitting()
            .filter(|(_, other)| other.strategy.spread == Spread::Whole)
            .map(|(_, other)| other.speed_up)
            .fold(0.0, f64::max);
        one.strategy.spread == Spread::Whole
            || one.plan.calls >= LEAST_CALLS && one.speed_up > 1.05 * exact
    };
    let class = |one: &Candidate| match (&one.strategy.spread, preference) {
        (Spread::AsyncDiff { .. }, _) => None,
        (Spread::ThroughSegments { .. }, _) => Some(0),
        (Spread::Whole, _) => Some(1),
        (Spread::Copies(_), Preference::Likeness) => Some(2),
        (Spread::Ring { .. }, Preference::Likeness) => Some(3),
        (Spread::Copies(_) | Spread::Ring { .. }, Preference::Speed) => Some(2),
    };
    let split = |one: &Candidate| one.strategy.guidance_split;
    let key = |one: &Candidate| {
        let class = class(one)?;
        // Of equally fast plans, that with fewer ranks.
        Some((
            split(one),
            class,
            one.speed_up,
            -(one.plan.ranks.len() as f64),
        ))
    };
    fitting()
        .filter(|(_, one)| {
            worth(one) || matches!(one.strategy.spread, Spread::ThroughSegments { .. })
        })
        .filter_map(|(index, one)| Some((index, key(one)?)))
        .max_by(|(_, a), (_, b)| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal))
        .map(|(index, _)| index)
}

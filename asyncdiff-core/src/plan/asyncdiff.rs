//! The published method (Chen et al. 2024).

use serde::{Deserialize, Serialize};

use super::program::Program;
use super::role::Place;
use super::{Method, Plan, PlanError, Setting};
use crate::graph::{BlockId, Input};
use crate::partition::Partition;
use crate::scheduler::Schedule;
use crate::value::{Term, Value, Versioned};

/// The parameters of an asynchronous run, as published (Chen et al. 2024, section 3), and the forecast, which is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsyncDiff {
    /// Denoiser calls advanced by one parallel round: 1 or 2. With 2, one more rank holds a second copy of the segment
    /// that makes the noise prediction.
    pub stride: usize,
    /// Denoiser calls at the start that are run synchronously, at least 1.
    pub warm_up: usize,
    /// After warm-up, the time embedding lags by one call.
    pub time_shift: bool,
    /// How a value of another segment, which is at least one call old, is carried to the present: 0 takes the newest
    /// version as it is (published), 1 continues the line through the newest two.
    pub forecast: usize,
}

impl Default for AsyncDiff {
    /// Stride 1, three warm-up steps, no time shift, no forecast.
    fn default() -> Self {
        Self {
            stride: 1,
            warm_up: 3,
            time_shift: false,
            forecast: 0,
        }
    }
}

impl AsyncDiff {
    /// Number of ranks for that many segments.
    #[must_use]
    pub fn world_size(&self, segments: usize) -> usize {
        segments + self.stride - 1
    }

    /// The newest call whose values another segment's blocks may read for `version`.
    pub(super) fn newest_foreign(&self, version: usize) -> usize {
        if version < self.warm_up {
            version
        } else {
            self.round_start(version) - 1
        }
    }

    /// The call whose latents the round that computes `version` starts from.
    fn round_start(&self, version: usize) -> usize {
        version - (version - self.warm_up) % self.stride
    }

    /// The call whose latents the blocks of `version` read.
    pub(super) fn latents_of(&self, version: usize, extra_rank: bool) -> usize {
        if version < self.warm_up || extra_rank {
            version
        } else {
            self.round_start(version)
        }
    }
}

impl Plan {
    /// An asynchronous run as published: `warm_up` synchronous calls, then rounds in which every segment computes at
    /// once, with its own blocks fresh and the other segments' values as of the previous round.
    ///
    /// What nobody will read is left out: in the last calls the first segments have nothing left to do.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if a parameter is out of its range, or the partition belongs to another graph.
    pub fn asyncdiff(
        setting: &Setting<'_>,
        partition: &Partition,
        strategy: &AsyncDiff,
    ) -> Result<Self, PlanError> {
        let calls = setting.schedule.calls();
        let AsyncDiff {
            stride,
            warm_up,
            forecast,
            ..
        } = *strategy;
        if !(1..=2).contains(&stride) {
            return Err(PlanError::Stride(stride));
        }
        if !(1..=calls).contains(&warm_up) {
            return Err(PlanError::WarmUp { warm_up, calls });
        }
        if forecast > 1 {
            return Err(PlanError::Forecast(forecast));
        }
        partition.check(setting.graph)?;
        let mut builder = Builder {
            program: Program::new(setting, partition.owner(BlockId(0)))?,
            partition,
            strategy: *strategy,
            forecast: forecast as f64 * trust(setting.schedule),
            published: Vec::new(),
        };
        for call in 0..warm_up {
            builder.synchronous(call);
        }
        for start in (warm_up..calls).step_by(stride) {
            builder.round(start);
        }
        let mut places: Vec<_> = (0..partition.segments()).map(Place::Segment).collect();
        if stride == 2 {
            places.push(Place::Second);
        }
        let roles = builder.program.roles(&places);
        builder.program.finish(roles, Method::AsyncDiff(*strategy))
    }
}

/// How much of a forecast is taken. A forecast puts its error into the prediction, and a scheduler that extrapolates earlier
/// predictions amplifies it once more: half of it is the most that is stable at large steps. One that corrects latents by
/// the prediction that follows (UniPC) feeds the error back, and gets none.
fn trust(schedule: &Schedule) -> f64 {
    let mut trust: f64 = 1.0;
    for (call, step) in schedule.steps.iter().enumerate() {
        for combine in &step.combines {
            let earlier =
                |term: &Term| term.of.value == Value::Prediction && term.of.version < call;
            if combine.out.value == Value::Corrected {
                return 0.0;
            }
            if combine.terms.iter().any(earlier) {
                trust = 0.5;
            }
        }
    }
    trust
}

struct Builder<'a> {
    program: Program<'a>,
    partition: &'a Partition,
    strategy: AsyncDiff,
    /// The share of a linear forecast that is taken.
    forecast: f64,
    /// The versions that other segments can read, oldest first.
    published: Vec<usize>,
}

impl Builder<'_> {
    /// The rank of a segment, or of the one behind the last, for the branch of that number.
    fn rank(&self, branch: usize, segment: usize) -> usize {
        branch * self.strategy.world_size(self.partition.segments()) + segment
    }

    /// The segment that makes the prediction.
    fn last_segment(&self) -> usize {
        self.partition.owner(self.program.graph.last())
    }

    /// One call with every input fresh.
    fn synchronous(&mut self, call: usize) {
        for (index, branch) in self.program.branches.iter().enumerate() {
            for (id, _) in self.program.graph.iter() {
                let rank = self.rank(index, self.partition.owner(id));
                self.program.fresh(rank, id, *branch, (call, false));
            }
        }
        self.published.push(call);
        let last = self.rank(0, self.last_segment());
        self.program.predict(last, call, false);
        self.program.advance(call);
    }

    /// One parallel round that starts from the latents of call `start`.
    fn round(&mut self, start: usize) {
        let calls = self.program.schedule.calls();
        let last = self.last_segment();
        // With stride 2 the segments look ahead to the round's second call, and one more rank makes the prediction of
        // the first. A last call without a successor needs the additional rank only.
        let ahead = start + self.strategy.stride - 1;
        if ahead < calls {
            self.asynchronous(start, ahead, Some);
            self.program.predict(self.rank(0, last), ahead, false);
        }
        if self.strategy.stride == 2 {
            let second = self.partition.segments();
            self.asynchronous(start, start, |segment| (segment == last).then_some(second));
            self.program.predict(self.rank(0, second), start, false);
        }
        if ahead < calls {
            self.published.push(ahead);
        }
        for call in start..=ahead.min(calls - 1) {
            self.program.advance(call);
        }
    }

    /// The blocks of `version` at the place that `place` gives their segment, from the latents of call `start`.
    fn asynchronous(
        &mut self,
        start: usize,
        version: usize,
        place: impl Fn(usize) -> Option<usize>,
    ) {
        let time = version - usize::from(self.strategy.time_shift);
        for (index, branch) in self.program.branches.iter().enumerate() {
            for (id, _) in self.program.graph.iter() {
                let owner = self.partition.owner(id);
                let Some(place) = place(owner) else { continue };
                let rank = self.rank(index, place);
                let latents = self.program.scaled(Value::Latents.at(start));
                let at = |block, version| Value::Block(block).at(version).of(*branch);
                let sources = |input| match input {
                    Input::Latents => latents.clone(),
                    Input::Block(read) if self.partition.owner(read) == owner => {
                        vec![Term::new(at(read, version), 1.0)]
                    }
                    Input::Block(read) => stale(
                        |call| at(read, call),
                        &self.published,
                        version,
                        self.forecast,
                    ),
                };
                self.program.run(rank, (id, at(id, version)), time, sources);
            }
        }
    }
}

/// A value of another segment for `version`, from the versions that exist.
fn stale(
    at: impl Fn(usize) -> Versioned,
    versions: &[usize],
    version: usize,
    forecast: f64,
) -> Vec<Term> {
    match *versions {
        [.., older, newest] if forecast > 0.0 => {
            let steps = forecast * (version - newest) as f64 / (newest - older) as f64;
            vec![
                Term::new(at(newest), 1.0 + steps),
                Term::new(at(older), -steps),
            ]
        }
        [.., newest] => vec![Term::new(at(newest), 1.0)],
        [] => Vec::new(),
    }
}

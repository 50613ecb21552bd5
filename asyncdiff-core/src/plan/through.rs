//! Look-ahead through segments: several calls under way at once, one behind the other.

use serde::{Deserialize, Serialize};

use super::copies::trend;
use super::look_ahead::{Held, check_levels};
use super::program::Program;
use super::role::Place;
use super::{Method, Plan, PlanError, Setting};
use crate::partition::Partition;
use crate::value::{Term, Value};

/// The parameters of a look-ahead through segments.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThroughSegments {
    /// Calls at the start that go through all segments before the next begins, at least 1.
    pub warm_up: usize,
    /// As for [`Copies`](super::Copies::trend).
    pub trend: f64,
}

impl ThroughSegments {
    /// The parameters that have proved best for that many segments.
    #[must_use]
    pub fn new(segments: usize) -> Self {
        Self {
            warm_up: 2,
            trend: trend(segments),
        }
    }
}

impl Plan {
    /// Look-ahead through the segments of `partition`, each on a rank of its own: when call `k` enters the first segment, its
    /// latents are predicted from the newest that are known, those of call `k - n + 1` of `n` segments. All activations are
    /// fresh, and every rank is busy.
    ///
    /// # Errors
    ///
    /// [`PlanError::NotContiguous`], [`PlanError::LookAheadWarmUp`], [`PlanError::Level`], [`PlanError::NoGuidance`].
    pub fn through_segments(
        setting: &Setting<'_>,
        partition: &Partition,
        strategy: &ThroughSegments,
    ) -> Result<Self, PlanError> {
        let ThroughSegments { warm_up, trend } = *strategy;
        let calls = setting.schedule.calls();
        if !(1..=calls).contains(&warm_up) {
            return Err(PlanError::LookAheadWarmUp {
                warm_up,
                least: 1,
                calls,
            });
        }
        partition.check(setting.graph)?;
        let out_of_order = partition
            .segment_of()
            .windows(2)
            .position(|pair| pair[0] > pair[1]);
        if let Some(index) = out_of_order {
            let name = setting.graph.blocks[index + 1].name.clone();
            return Err(PlanError::NotContiguous(name));
        }
        check_levels(setting.schedule)?;

        let segments = partition.segments();
        let mut program = Program::new(setting, 0)?;
        for call in 0..warm_up {
            for segment in 0..segments {
                program.segment(partition, segment, call, false);
            }
            program.predict(segments - 1, call, false);
            program.data(call);
            program.advance(call);
        }
        // In every slot, each segment works on the call behind that of the next segment.
        for slot in warm_up..calls + segments - 1 {
            let known = (slot + 1).saturating_sub(segments).max(warm_up);
            if slot < calls {
                if slot == known {
                    let same = vec![Term::new(Value::Latents.at(slot), 1.0)];
                    program.combine(Value::Latents.at(slot).ahead(), same);
                } else {
                    let held = Held::before(setting.schedule, known, trend);
                    program.jump(known, slot, &held);
                }
            }
            for segment in (0..segments).rev() {
                let Some(call) = slot.checked_sub(segment) else {
                    continue;
                };
                if (warm_up..calls).contains(&call) {
                    program.segment(partition, segment, call, true);
                }
            }
            if let Some(call) = (slot + 1).checked_sub(segments)
                && call >= warm_up
            {
                program.predict(segments - 1, call, true);
                program.keep_data(call);
                program.data(call);
                program.advance(call);
            }
        }
        let places: Vec<_> = (0..segments).map(Place::Segment).collect();
        let roles = program.roles(&places);
        program.finish(roles, Method::ThroughSegments(*strategy))
    }
}

impl Program<'_> {
    /// The blocks of one segment for one call.
    fn segment(&mut self, partition: &Partition, segment: usize, call: usize, ahead: bool) {
        for (index, branch) in self.branches.iter().enumerate() {
            for (block, _) in self.graph.iter() {
                if partition.owner(block) == segment {
                    let rank = index * partition.segments() + segment;
                    self.fresh(rank, block, *branch, (call, ahead));
                }
            }
        }
    }
}

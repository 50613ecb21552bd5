//! Ring look-ahead: the deep blocks work one call ahead, on predicted latents; the full-resolution ends on the true ones.

use serde::{Deserialize, Serialize};

use super::look_ahead::{Held, check_levels};
use super::program::Program;
use super::role::{Place, Role};
use super::{Method, Plan, PlanError, Setting};
use crate::graph::{BlockId, Input, SegmentGraph};
use crate::machine::Machine;
use crate::partition::running_sum;
use crate::value::{Branch, Term, Value};

/// The parameters of a ring look-ahead.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ring {
    /// Calls at the start that are run with every input fresh, at least 2.
    pub warm_up: usize,
    /// How far the data prediction that is expected is moved on along the line through the last two, as a share of the way to
    /// the call: 0 holds the last one.
    pub trend: f64,
    /// Which blocks are the ring and the tail.
    pub blocks: RingBlocks,
    /// One deep rank for both branches of split guidance: three ranks.
    pub one_deep: bool,
}

/// Where a denoiser is cut for a ring look-ahead: blocks before `ring` are the ring, those from `tail` on the tail, those in
/// between are deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingBlocks {
    /// Number of blocks of the ring.
    pub ring: usize,
    /// The first block of the tail.
    pub tail: usize,
}

impl RingBlocks {
    /// The ring that goes down to the first smaller resolution, and the tail that balances both ranks. The tail begins at the latest with the first block that reads a skip of the ring.
    ///
    /// With `one_deep`, the deep rank computes both branches and the outer ranks half of the batch, so the ring may be a
    /// smaller one, of three blocks at least.
    ///
    /// # Errors
    ///
    /// [`PlanError::NoRing`] for a denoiser that keeps one resolution throughout, or has no skips.
    pub fn balanced(
        graph: &SegmentGraph,
        machine: &Machine,
        one_deep: bool,
    ) -> Result<Self, PlanError> {
        let [.., height, width] = graph.latents;
        let shrinks = |block: &crate::graph::Block| {
            let [.., rows, columns] = block.output;
            rows * columns < height * width
        };
        let whole = graph
            .blocks
            .iter()
            .position(shrinks)
            .ok_or(PlanError::NoRing("it keeps one resolution throughout"))?
            + 1;
        let smallest = if one_deep { whole.min(3) } else { whole };
        let before = running_sum(&machine.block_time);
        let total = before[before.len() - 1];
        let share = if one_deep { 0.5 } else { 1.0 };
        let mut best: Option<(f64, Self)> = None;
        for ring in (smallest..=whole).rev() {
            let Some(latest) = first_reader(graph, ring) else {
                continue;
            };
            for tail in ring + 1..=latest {
                let outer = share * (before[ring] + total - before[tail]);
                let longest = outer.max(before[tail]);
                if best.is_none_or(|(time, _)| longest < time) {
                    best = Some((longest, Self { ring, tail }));
                }
            }
        }
        let (_, blocks) = best.ok_or(PlanError::NoRing(
            "nothing reads a skip of its first blocks",
        ))?;
        Ok(blocks)
    }

    fn is_ring(self, block: BlockId) -> bool {
        block.0 < self.ring
    }

    /// Whether the block is between the ring and the tail.
    #[must_use]
    pub fn is_deep(self, block: BlockId) -> bool {
        (self.ring..self.tail).contains(&block.0)
    }
}

/// The first block that reads an output of the first `ring` blocks, beside the one behind them.
fn first_reader(graph: &SegmentGraph, ring: usize) -> Option<usize> {
    let reads = |input: &Input| matches!(input, Input::Block(read) if read.0 < ring);
    let mut blocks = graph.iter().skip(ring + 1);
    blocks
        .find(|(_, block)| block.inputs.iter().any(reads))
        .map(|(id, _)| id.0)
}

impl Ring {
    /// The ring with its best-proved parameters for a guidance scale: the stronger guidance is, the less of the trend is
    /// trusted.
    ///
    /// # Errors
    ///
    /// As [`RingBlocks::balanced`].
    pub fn new(
        setting: &Setting<'_>,
        machine: &Machine,
        one_deep: bool,
    ) -> Result<Self, PlanError> {
        let scale = setting.guidance.map_or(1.0, |guidance| guidance.last);
        let blocks = RingBlocks::balanced(setting.graph, machine, one_deep)?;
        Ok(Self {
            warm_up: 2,
            trend: 0.5 * ((7.5 - scale) / 2.5).clamp(0.0, 1.0),
            blocks,
            one_deep,
        })
    }
}

impl Plan {
    /// Ring look-ahead. The *ring* is the shallow, full-resolution end of the denoiser on the way down; the *tail* that on the
    /// way up. In a round, the outer rank computes ring and tail of call `k` at its true latents, with the value that crosses
    /// from the deep blocks; the deep rank computes ring and deep blocks of call `k + 1` at predicted latents.
    ///
    /// # Errors
    ///
    /// [`PlanError::LookAheadWarmUp`], [`PlanError::NoRing`], [`PlanError::OneDeepRank`], [`PlanError::Level`],
    /// [`PlanError::NoGuidance`].
    pub fn ring(setting: &Setting<'_>, strategy: &Ring) -> Result<Self, PlanError> {
        let Ring {
            warm_up,
            trend,
            blocks,
            one_deep,
        } = *strategy;
        let calls = setting.schedule.calls();
        if !(2..=calls).contains(&warm_up) {
            return Err(PlanError::LookAheadWarmUp {
                warm_up,
                least: 2,
                calls,
            });
        }
        if one_deep && !setting.split {
            return Err(PlanError::OneDeepRank);
        }
        if blocks.ring == 0 || blocks.tail <= blocks.ring || blocks.tail > setting.graph.last().0 {
            return Err(PlanError::NoRing(
                "ring, deep blocks and tail need a block each",
            ));
        }
        check_levels(setting.schedule)?;
        let mut builder = Builder {
            program: Program::new(setting, 0)?,
            blocks,
            one_deep,
        };
        for call in 0..calls {
            let warm = call < warm_up;
            if call + 1 >= warm_up && call + 1 < calls {
                let held = Held::before(setting.schedule, call, trend);
                builder.program.expect(call, call + 1, &held);
            }
            builder.outer(call, |block| blocks.is_ring(block), !warm);
            if warm {
                builder.deep(call, false);
            }
            if call + 1 >= warm_up && call + 1 < calls {
                builder.deep(call + 1, true);
            }
            builder.outer(call, |block| block.0 >= blocks.tail, !warm);
            builder.program.predict(0, call, false);
            builder.program.data(call);
            builder.program.advance(call);
        }
        let roles = builder.roles();
        builder.program.finish(roles, Method::Ring(*strategy))
    }
}

struct Builder<'a> {
    program: Program<'a>,
    blocks: RingBlocks,
    one_deep: bool,
}

impl Builder<'_> {
    fn roles(&self) -> Vec<Role> {
        if !self.one_deep {
            return self.program.roles(&[Place::Outer, Place::Deep]);
        }
        let mut roles = self.program.roles(&[Place::Outer]);
        roles.push(Role {
            branch: Branch::Both,
            place: Place::Deep,
        });
        roles
    }

    /// Blocks of the outer ranks for a call, from true latents, and from deep blocks that are `ahead` or not.
    fn outer(&mut self, call: usize, own: impl Fn(BlockId) -> bool, ahead: bool) {
        let program = &mut self.program;
        let latents = program.scaled(Value::Latents.at(call));
        for (index, branch) in program.branches.iter().enumerate() {
            let rank = if self.one_deep { index } else { 2 * index };
            let at = |block| Value::Block(block).at(call).of(*branch);
            for (block, _) in program.graph.iter().filter(|(block, _)| own(*block)) {
                program.run(rank, (block, at(block)), call, |input| match input {
                    Input::Latents => latents.clone(),
                    Input::Block(read) => {
                        let ahead = ahead && self.blocks.is_deep(read);
                        vec![Term::new(at(read).ahead_if(ahead), 1.0)]
                    }
                });
            }
        }
    }

    /// Ring and deep blocks on the deep ranks, for a call, all ahead or not.
    fn deep(&mut self, call: usize, ahead: bool) {
        let (ring, tail) = (self.blocks.ring, self.blocks.tail);
        let program = &mut self.program;
        if !self.one_deep {
            for (index, branch) in program.branches.iter().enumerate() {
                for block in 0..tail {
                    program.fresh(2 * index + 1, BlockId(block), *branch, (call, ahead));
                }
            }
            return;
        }
        let rank = program.branches.len();
        for block in 0..tail {
            program.fresh(rank, BlockId(block), Branch::Both, (call, ahead));
        }
        for block in ring..tail {
            program.halve(rank, Value::Block(BlockId(block)).at(call).ahead_if(ahead));
        }
    }
}

//! The builders: how a graph, a partition and a noise schedule become a plan.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::Serialize;

use super::{Action, Guidance, Instruction, Part, Plan, PlanError, Term, Value, Versioned};
use crate::graph::{BlockId, Input, SegmentGraph};
use crate::partition::Partition;
use crate::scheduler::Schedule;

/// The parameters of an asynchronous run, as published (Chen et al. 2024, section 3), and the forecast, which is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
    /// The ordinary run: one rank computes every block of every call from fresh inputs.
    ///
    /// `guidance` mixes the two halves of the batch (classifier-free guidance); `None` if the batch holds conditional
    /// samples only.
    ///
    /// # Errors
    ///
    /// None at present; the result is checked as every plan is.
    pub fn sequential(
        graph: &SegmentGraph,
        schedule: &Schedule,
        guidance: Option<Guidance>,
    ) -> Result<Self, PlanError> {
        let partition = Partition::single(graph);
        let mut builder = Builder::new(graph, &partition, schedule, guidance);
        for call in 0..schedule.calls() {
            builder.synchronous(call);
        }
        let plan = builder.finish(1, None);
        plan.validate(graph)?;
        Ok(plan)
    }

    /// An asynchronous run as published: `warm_up` synchronous calls, then rounds in which every segment computes at
    /// once, with its own blocks fresh and the other segments' values as of the previous round.
    ///
    /// What nobody will read is left out: in the last calls the first segments have nothing left to do.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if a parameter is out of its range, or the partition belongs to another graph.
    pub fn asyncdiff(
        graph: &SegmentGraph,
        partition: &Partition,
        schedule: &Schedule,
        guidance: Option<Guidance>,
        strategy: &AsyncDiff,
    ) -> Result<Self, PlanError> {
        let calls = schedule.calls();
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
        if partition.segment_of().len() != graph.blocks.len() {
            return Err(PlanError::Partition {
                partition: partition.segment_of().len(),
                graph: graph.blocks.len(),
            });
        }
        let mut builder = Builder::new(graph, partition, schedule, guidance);
        for call in 0..warm_up {
            builder.synchronous(call);
        }
        for start in (warm_up..calls).step_by(stride) {
            builder.round(start, strategy);
        }
        let plan = builder.finish(strategy.world_size(partition.segments()), Some(*strategy));
        plan.validate(graph)?;
        Ok(plan)
    }
}

/// Writes the computations of all ranks in one global order in which everything is produced before it is read.
/// [`Builder::finish`] then drops what is not needed and adds the messages.
struct Builder<'a> {
    graph: &'a SegmentGraph,
    partition: &'a Partition,
    schedule: &'a Schedule,
    guidance: Option<Guidance>,
    latents_rank: usize,
    computations: Vec<(usize, Action)>,
    /// For every block, the versions that other segments can read, oldest first.
    published: Vec<Vec<usize>>,
}

impl<'a> Builder<'a> {
    fn new(
        graph: &'a SegmentGraph,
        partition: &'a Partition,
        schedule: &'a Schedule,
        guidance: Option<Guidance>,
    ) -> Self {
        Self {
            graph,
            partition,
            schedule,
            guidance,
            latents_rank: partition.owner(BlockId(0)),
            computations: Vec::new(),
            published: vec![Vec::new(); graph.blocks.len()],
        }
    }

    fn timestep(&self, call: usize) -> f64 {
        self.schedule.timesteps[call]
    }

    /// One call with every input fresh.
    fn synchronous(&mut self, call: usize) {
        for (id, _) in self.graph.iter() {
            let rank = self.partition.owner(id);
            self.run(rank, id, call, call, self.timestep(call), |block| {
                vec![Term::new(Value::Block(block).at(call), 1.0)]
            });
            self.published[id.0].push(call);
        }
        self.predict(self.partition.owner(self.graph.last()), call);
        self.advance(call);
    }

    /// One parallel round that starts from the latents of call `start`.
    fn round(&mut self, start: usize, strategy: &AsyncDiff) {
        let calls = self.schedule.calls();
        let last_segment = self.partition.owner(self.graph.last());
        // With stride 2 the segments look ahead to the round's second call, and one more rank makes the prediction of
        // the first. A last call without a successor needs the additional rank only.
        let ahead = start + strategy.stride - 1;
        let extra_rank = (strategy.stride == 2).then(|| self.partition.segments());
        if ahead < calls {
            for (id, _) in self.graph.iter() {
                let rank = self.partition.owner(id);
                self.asynchronous(rank, id, start, ahead, strategy);
            }
            self.predict(last_segment, ahead);
        }
        if let Some(rank) = extra_rank {
            for (id, _) in self.graph.iter() {
                if self.partition.owner(id) == last_segment {
                    self.asynchronous(rank, id, start, start, strategy);
                }
            }
            self.predict(rank, start);
        }
        if ahead < calls {
            for versions in &mut self.published {
                versions.push(ahead);
            }
        }
        for call in start..=ahead.min(calls - 1) {
            self.advance(call);
        }
    }

    fn asynchronous(
        &mut self,
        rank: usize,
        id: BlockId,
        start: usize,
        version: usize,
        strategy: &AsyncDiff,
    ) {
        let timestep = self.timestep(version - usize::from(strategy.time_shift));
        let owner = self.partition.owner(id);
        let sources: HashMap<BlockId, Vec<Term>> = self
            .graph
            .block(id)
            .inputs
            .iter()
            .filter_map(|input| match input {
                Input::Latents => None,
                Input::Block(read) if self.partition.owner(*read) == owner => {
                    Some((*read, vec![Term::new(Value::Block(*read).at(version), 1.0)]))
                }
                Input::Block(read) => Some((
                    *read,
                    stale(*read, &self.published[read.0], version, strategy.forecast),
                )),
            })
            .collect();
        self.run(rank, id, version, start, timestep, |block| {
            sources[&block].clone()
        });
    }

    fn run(
        &mut self,
        rank: usize,
        id: BlockId,
        version: usize,
        latents: usize,
        timestep: f64,
        source: impl Fn(BlockId) -> Vec<Term>,
    ) {
        let inputs = self
            .graph
            .block(id)
            .inputs
            .iter()
            .map(|input| match input {
                Input::Latents => {
                    vec![Term::new(
                        Value::Latents.at(latents),
                        self.schedule.steps[latents].input_scale,
                    )]
                }
                Input::Block(block) => source(*block),
            })
            .collect();
        let action = Action::Run {
            block: id,
            version,
            timestep,
            inputs,
        };
        self.computations.push((rank, action));
    }

    /// Guidance: the noise prediction of a call from the output of the last block.
    fn predict(&mut self, rank: usize, call: usize) {
        let output = Value::Block(self.graph.last()).at(call);
        let term = |part, first, last| Term {
            of: output,
            part,
            weight: first,
            last_frame: (first != last).then_some(last),
        };
        let terms = match self.guidance {
            Some(Guidance { first, last }) => vec![
                term(Part::Unconditional, 1.0 - first, 1.0 - last),
                term(Part::Conditional, first, last),
            ],
            None => vec![Term::new(output, 1.0)],
        };
        let out = Value::Prediction.at(call);
        self.computations
            .push((rank, Action::Combine { out, terms }));
    }

    /// The noise scheduler's update after a call.
    fn advance(&mut self, call: usize) {
        for combine in &self.schedule.steps[call].combines {
            let action = Action::Combine {
                out: combine.out,
                terms: combine.terms.clone(),
            };
            self.computations.push((self.latents_rank, action));
        }
    }

    fn finish(self, world_size: usize, strategy: Option<AsyncDiff>) -> Plan {
        let calls = self.schedule.calls();
        let computations = needed(self.computations, Value::Latents.at(calls));
        let mut home = HashMap::from([(Value::Latents.at(0), self.latents_rank)]);
        for (rank, action) in &computations {
            home.extend(action.writes().map(|written| (written, *rank)));
        }

        // Whoever reads something that was made elsewhere gets it once, and keeps it until its last reader.
        let mut receivers: HashMap<Versioned, Vec<usize>> = HashMap::new();
        for (rank, action) in &computations {
            for read in action.reads() {
                if home.get(&read).is_some_and(|from| from != rank) {
                    let to = receivers.entry(read).or_default();
                    if !to.contains(rank) {
                        to.push(*rank);
                    }
                }
            }
        }
        let mut ranks: Vec<Vec<Action>> = vec![Vec::new(); world_size];
        let mut received: HashSet<(usize, Versioned)> = HashSet::new();
        let mut blocks = vec![BTreeSet::new(); world_size];
        let sends = |what: Versioned| {
            let to = receivers.get(&what).cloned().unwrap_or_default();
            to.into_iter().map(move |to| Action::Send { what, to })
        };
        ranks[self.latents_rank].extend(sends(Value::Latents.at(0)));
        for (rank, action) in computations {
            for what in action.reads() {
                let from = home.get(&what).copied().unwrap_or(rank);
                if from != rank && received.insert((rank, what)) {
                    ranks[rank].push(Action::Recv { what, from });
                }
            }
            if let Action::Run { block, .. } = action {
                blocks[rank].insert(block);
            }
            let written = action.writes();
            ranks[rank].push(action);
            ranks[rank].extend(written.into_iter().flat_map(&sends));
        }
        Plan {
            ranks: ranks.into_iter().map(with_releases).collect(),
            blocks: blocks
                .into_iter()
                .map(|set| set.into_iter().collect())
                .collect(),
            calls,
            strategy,
            segment_of: self.partition.segment_of().to_vec(),
            latents_rank: self.latents_rank,
        }
    }
}

/// A value of another segment for `version`, from the versions that exist.
fn stale(block: BlockId, versions: &[usize], version: usize, forecast: usize) -> Vec<Term> {
    let at = |version| Value::Block(block).at(version);
    match *versions {
        [.., older, newest] if forecast == 1 => {
            let steps = (version - newest) as f64 / (newest - older) as f64;
            vec![
                Term::new(at(newest), 1.0 + steps),
                Term::new(at(older), -steps),
            ]
        }
        [.., newest] => vec![Term::new(at(newest), 1.0)],
        [] => Vec::new(),
    }
}

/// The computations that `result` depends on, in their order.
fn needed(computations: Vec<(usize, Action)>, result: Versioned) -> Vec<(usize, Action)> {
    let mut wanted = HashSet::from([result]);
    let mut kept: Vec<_> = computations
        .into_iter()
        .rev()
        .filter(|(_, action)| {
            let keep = action
                .writes()
                .is_some_and(|written| wanted.contains(&written));
            if keep {
                wanted.extend(action.reads());
            }
            keep
        })
        .collect();
    kept.reverse();
    kept
}

/// Marks every value with its last reader.
fn with_releases(actions: Vec<Action>) -> Vec<Instruction> {
    let mut seen = HashSet::new();
    let mut instructions: Vec<_> = actions
        .into_iter()
        .rev()
        .map(|action| {
            let release = action.reads().filter(|read| seen.insert(*read)).collect();
            Instruction { action, release }
        })
        .collect();
    instructions.reverse();
    instructions
}

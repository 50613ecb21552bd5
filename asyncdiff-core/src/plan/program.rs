//! What all builders share: the computations of all ranks in one global order, and how they become a plan.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::action::{Action, Instruction, Run};
use super::role::{Place, Role};
use super::{Method, Plan, PlanError, Setting};
use crate::graph::{BlockId, Input, SegmentGraph};
use crate::scheduler::Schedule;
use crate::value::{Branch, Combine, Guidance, Part, Term, Value, Versioned};

/// Writes the computations of all ranks in one global order in which everything is produced before it is read.
/// [`Program::finish`] then drops what is not needed and adds the messages.
pub(super) struct Program<'a> {
    pub(super) graph: &'a SegmentGraph,
    pub(super) schedule: &'a Schedule,
    guidance: Option<Guidance>,
    pub(super) branches: &'static [Branch],
    latents_rank: usize,
    computations: Vec<(usize, Action)>,
}

impl<'a> Program<'a> {
    pub(super) fn new(setting: &Setting<'a>, latents_rank: usize) -> Result<Self, PlanError> {
        Ok(Self {
            graph: setting.graph,
            schedule: setting.schedule,
            guidance: setting.guidance,
            branches: setting.branches()?,
            latents_rank,
            computations: Vec::new(),
        })
    }

    /// The roles of all ranks where every branch has one at each of `places`: a branch's ranks stand together.
    pub(super) fn roles(&self, places: &[Place]) -> Vec<Role> {
        let of = |branch: &Branch| {
            let branch = *branch;
            places.iter().map(move |place| Role {
                branch,
                place: *place,
            })
        };
        self.branches.iter().flat_map(of).collect()
    }

    /// A block's run, at the timestep of call `time`, from what `source` says of each input.
    pub(super) fn run(
        &mut self,
        rank: usize,
        (block, out): (BlockId, Versioned),
        time: usize,
        source: impl Fn(Input) -> Vec<Term>,
    ) {
        let run = Run {
            block,
            branch: out.branch,
            ahead: out.ahead,
            version: out.version,
            timestep: self.schedule.timesteps[time],
            inputs: self
                .graph
                .block(block)
                .inputs
                .iter()
                .map(|input| source(*input))
                .collect(),
        };
        self.computations.push((rank, Action::Run(run)));
    }

    /// The latents of a call as the denoiser takes them.
    pub(super) fn scaled(&self, latents: Versioned) -> Vec<Term> {
        let scale = self.schedule.steps[latents.version].input_scale;
        vec![Term::new(latents, scale)]
    }

    /// A block's run from inputs of the same call, all of them ahead or none.
    pub(super) fn fresh(
        &mut self,
        rank: usize,
        block: BlockId,
        branch: Branch,
        (call, ahead): (usize, bool),
    ) {
        let latents = self.scaled(Value::Latents.at(call).ahead_if(ahead));
        let at = |block| Value::Block(block).at(call).of(branch).ahead_if(ahead);
        self.run(rank, (block, at(block)), call, |input| match input {
            Input::Latents => latents.clone(),
            Input::Block(read) => vec![Term::new(at(read), 1.0)],
        });
    }

    /// Guidance: the noise prediction of a call from the outputs of the last block, on the rank that advances the latents if
    /// those of two branches meet, otherwise on `rank`, which has the output.
    pub(super) fn predict(&mut self, rank: usize, call: usize, ahead: bool) {
        let output = Value::Block(self.graph.last()).at(call).ahead_if(ahead);
        let term = |of, part, first, last| Term {
            of,
            part,
            weight: first,
            last_frame: (first != last).then_some(last),
        };
        let split = self.branches.len() > 1;
        let terms = match self.guidance {
            None => vec![Term::new(output, 1.0)],
            Some(Guidance { first, last }) => {
                let (negative, positive) = if split {
                    (
                        (output.of(Branch::Negative), Part::Whole),
                        (output.of(Branch::Positive), Part::Whole),
                    )
                } else {
                    ((output, Part::Unconditional), (output, Part::Conditional))
                };
                vec![
                    term(negative.0, negative.1, 1.0 - first, 1.0 - last),
                    term(positive.0, positive.1, first, last),
                ]
            }
        };
        let out = Value::Prediction.at(call).ahead_if(ahead);
        let rank = if split { self.latents_rank } else { rank };
        self.combine_on(rank, out, terms);
    }

    fn combine_on(&mut self, rank: usize, out: Versioned, terms: Vec<Term>) {
        let combine = Combine { out, terms };
        self.computations.push((rank, Action::Combine(combine)));
    }

    /// The halves of a value of both branches, for the ranks that compute one of them.
    pub(super) fn halve(&mut self, rank: usize, what: Versioned) {
        for (branch, part) in [
            (Branch::Negative, Part::Unconditional),
            (Branch::Positive, Part::Conditional),
        ] {
            let half = Term {
                part,
                ..Term::new(what, 1.0)
            };
            self.combine_on(rank, what.of(branch), vec![half]);
        }
    }

    /// A combination on the rank that advances the latents. Terms of weight 0 are left out.
    pub(super) fn combine(&mut self, out: Versioned, mut terms: Vec<Term>) {
        terms.retain(|term| term.weight != 0.0);
        self.combine_on(self.latents_rank, out, terms);
    }

    /// The noise scheduler's update after a call.
    pub(super) fn advance(&mut self, call: usize) {
        for combine in &self.schedule.steps[call].combines {
            self.combine_on(self.latents_rank, combine.out, combine.terms.clone());
        }
    }

    /// The plan, proved.
    pub(super) fn finish(self, roles: Vec<Role>, method: Method) -> Result<Plan, PlanError> {
        let calls = self.schedule.calls();
        let computations = needed(self.computations, Value::Latents.at(calls));
        let mut home = HashMap::from([(Value::Latents.at(0), self.latents_rank)]);
        for (rank, action) in &computations {
            if let Some(written) = action.writes() {
                home.entry(written).or_insert(*rank);
            }
        }

        // Whoever reads something that was made elsewhere gets it once, and keeps it until its last reader.
        let mut made: HashSet<(usize, Versioned)> = HashSet::new();
        made.extend(computations.iter().filter_map(|(rank, action)| {
            let written = action.writes()?;
            Some((*rank, written))
        }));
        let elsewhere = |rank: usize, what: Versioned| {
            let from = home.get(&what).copied()?;
            (from != rank && !made.contains(&(rank, what))).then_some(from)
        };
        let mut receivers: HashMap<Versioned, Vec<usize>> = HashMap::new();
        for (rank, action) in &computations {
            for read in action.reads() {
                if elsewhere(*rank, read).is_some() {
                    let to = receivers.entry(read).or_default();
                    if !to.contains(rank) {
                        to.push(*rank);
                    }
                }
            }
        }
        let mut ranks: Vec<Vec<Action>> = vec![Vec::new(); roles.len()];
        let mut received: HashSet<(usize, Versioned)> = HashSet::new();
        let mut blocks = vec![BTreeSet::new(); roles.len()];
        let sends = |rank: usize, what: Versioned| {
            let mine = home.get(&what) == Some(&rank);
            let to = receivers.get(&what).filter(|_| mine);
            let to = to.cloned().unwrap_or_default();
            to.into_iter().map(move |to| Action::Send { what, to })
        };
        ranks[self.latents_rank].extend(sends(self.latents_rank, Value::Latents.at(0)));
        for (rank, action) in computations {
            for what in action.reads() {
                if let Some(from) = elsewhere(rank, what)
                    && received.insert((rank, what))
                {
                    ranks[rank].push(Action::Recv { what, from });
                }
            }
            if let Action::Run(run) = &action {
                blocks[rank].insert(run.block);
            }
            let written = action.writes();
            ranks[rank].push(action);
            ranks[rank].extend(written.into_iter().flat_map(|what| sends(rank, what)));
        }
        let plan = Plan {
            ranks: ranks.into_iter().map(with_releases).collect(),
            blocks: blocks
                .into_iter()
                .map(|set| set.into_iter().collect())
                .collect(),
            roles,
            calls,
            method,
            latents_rank: self.latents_rank,
        };
        plan.validate(self.graph)?;
        Ok(plan)
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

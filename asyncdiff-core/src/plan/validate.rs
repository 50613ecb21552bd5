//! The proof that a plan is right, before it runs.

use std::collections::{HashMap, HashSet};

use super::role::{Place, Role};
use super::{Action, Combine, Method, Part, Plan, PlanError, Run, Term, Value, Versioned};
use crate::graph::{Input, SegmentGraph};

impl Plan {
    /// Proves that the plan can run and does what its method says: every source was produced or received earlier on
    /// its rank; every send has exactly one receive; no ranks wait for each other; no call has more than one noise prediction,
    /// every prediction is used, and none is the newest in two updates of the latents; and the versions that every block reads are those of the
    /// method's contract for the rank's role, with weights that add up to one. (Timesteps are the builders' business: a plan does not know the
    /// schedule.)
    ///
    /// # Errors
    ///
    /// The first violation found, as a [`PlanError`].
    pub fn validate(&self, graph: &SegmentGraph) -> Result<(), PlanError> {
        self.check_messages()?;
        self.check_order()?;
        self.check_predictions()?;
        self.check_versions(graph)
    }

    fn actions(&self) -> impl Iterator<Item = (usize, usize, &Action)> {
        self.ranks.iter().enumerate().flat_map(|(rank, list)| {
            list.iter()
                .enumerate()
                .map(move |(index, instruction)| (rank, index, &instruction.action))
        })
    }

    fn check_messages(&self) -> Result<(), PlanError> {
        let mut counts: HashMap<(Versioned, usize, usize), (usize, usize)> = HashMap::new();
        for (rank, _, action) in self.actions() {
            match *action {
                Action::Send { what, to } => counts.entry((what, rank, to)).or_default().0 += 1,
                Action::Recv { what, from } => counts.entry((what, from, rank)).or_default().1 += 1,
                _ => {}
            }
        }
        match counts.into_iter().find(|(_, count)| *count != (1, 1)) {
            Some(((what, from, to), (sends, receives))) => Err(PlanError::Unmatched {
                what,
                from,
                to,
                sends,
                receives,
            }),
            None => Ok(()),
        }
    }

    /// Runs the plan without computing anything.
    fn check_order(&self) -> Result<(), PlanError> {
        let mut present: Vec<HashSet<Versioned>> = vec![HashSet::new(); self.ranks.len()];
        present[self.latents_rank].insert(Value::Latents.at(0));
        let mut sent = HashSet::new();
        let mut next = vec![0; self.ranks.len()];
        loop {
            let mut progress = false;
            let mut blocked = None;
            for (rank, list) in self.ranks.iter().enumerate() {
                while let Some(instruction) = list.get(next[rank]) {
                    let index = next[rank];
                    let action = &instruction.action;
                    if let Action::Recv { what, from } = *action
                        && !sent.contains(&(what, from, rank))
                    {
                        blocked = Some(PlanError::CyclicWait { rank, what, from });
                        break;
                    }
                    for what in action.reads() {
                        if !what.value.is_given() && !present[rank].contains(&what) {
                            return Err(PlanError::Missing { rank, index, what });
                        }
                    }
                    if let Action::Send { what, to } = *action {
                        sent.insert((what, rank, to));
                    }
                    if let Some(what) = action.writes()
                        && !present[rank].insert(what)
                    {
                        return Err(PlanError::Duplicate { rank, index, what });
                    }
                    for what in &instruction.release {
                        present[rank].remove(what);
                    }
                    next[rank] += 1;
                    progress = true;
                }
            }
            match blocked {
                None => break,
                Some(error) if !progress => return Err(error),
                Some(_) => {}
            }
        }
        let result = Value::Latents.at(self.calls);
        if present[self.latents_rank].contains(&result) {
            Ok(())
        } else {
            Err(PlanError::Missing {
                rank: self.latents_rank,
                index: self.ranks[self.latents_rank].len(),
                what: result,
            })
        }
    }

    fn check_predictions(&self) -> Result<(), PlanError> {
        let mut produced: HashMap<Versioned, usize> = HashMap::new();
        // The newest prediction behind every combination; a corrected sample carries its own.
        let mut newest: HashMap<Versioned, usize> = HashMap::new();
        let mut read = HashSet::new();
        let mut moved_by: HashMap<usize, usize> = HashMap::new();
        for (_, _, action) in self.actions() {
            let Action::Combine(Combine { out, terms }) = action else {
                continue;
            };
            *produced.entry(*out).or_default() += 1;
            read.extend(terms.iter().map(|term| term.of));
            let prediction = terms
                .iter()
                .filter_map(|term| match term.of.value {
                    Value::Prediction if !term.of.ahead => Some(term.of.version),
                    Value::Corrected => newest.get(&term.of).copied(),
                    _ => None,
                })
                .max();
            if let Some(version) = prediction {
                newest.insert(*out, version);
                if out.value == Value::Latents && !out.ahead {
                    *moved_by.entry(version).or_default() += 1;
                }
            }
        }
        // A prediction may be missing, where a step weighs it with 0, and so may latents in between, where a method of
        // second order steps over them and nobody starts from them.
        for call in 0..self.calls {
            let prediction = Value::Prediction.at(call);
            let count = |what| produced.get(&what).copied().unwrap_or(0);
            let used = moved_by.get(&call).copied().unwrap_or(0);
            let unread = count(prediction) == 1 && !read.contains(&prediction);
            if count(prediction) > 1 || used > 1 || unread {
                return Err(PlanError::Count {
                    what: prediction,
                    produced: count(prediction),
                    used,
                });
            }
            let latents = Value::Latents.at(call + 1);
            if count(latents) > 1 {
                return Err(PlanError::Count {
                    what: latents,
                    produced: count(latents),
                    used,
                });
            }
        }
        Ok(())
    }

    fn check_versions(&self, graph: &SegmentGraph) -> Result<(), PlanError> {
        for (rank, _, action) in self.actions() {
            match action {
                Action::Run(run) => self.check_run(graph, rank, run)?,
                Action::Combine(Combine { out, terms }) if terms.is_empty() => {
                    return Err(PlanError::Empty { rank, what: *out });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_run(&self, graph: &SegmentGraph, rank: usize, run: &Run) -> Result<(), PlanError> {
        let name = || graph.block(run.block).name.clone();
        let version = run.version;
        let read = &graph.block(run.block).inputs;
        let fits = |(input, terms): (&Input, &Vec<Term>)| {
            let value = match *input {
                Input::Latents => Value::Latents,
                Input::Block(id) => Value::Block(id),
            };
            terms
                .iter()
                .all(|term| term.of.value == value && term.part == Part::Whole)
        };
        if read.len() != run.inputs.len()
            || !read.iter().zip(&run.inputs).all(fits)
            || !self.blocks[rank].contains(&run.block)
        {
            return Err(PlanError::Inputs {
                rank,
                block: name(),
                version,
            });
        }
        for (input, terms) in read.iter().zip(&run.inputs) {
            let expected = self.expected(rank, run, *input);
            let found = terms.iter().map(|term| term.of).max_by_key(|of| of.version);
            if found != Some(expected) {
                return Err(PlanError::Staleness {
                    rank,
                    block: name(),
                    version,
                    found: found.unwrap_or(expected),
                    expected,
                });
            }
            let sum: f64 = terms.iter().map(|term| term.weight).sum();
            if *input != Input::Latents && (sum - 1.0).abs() > 1e-9 {
                return Err(PlanError::Weights {
                    rank,
                    block: name(),
                    version,
                    sum,
                });
            }
        }
        Ok(())
    }

    /// What a rank has to read for an input of a block: the newest term of its source.
    fn expected(&self, rank: usize, run: &Run, input: Input) -> Versioned {
        let Role { branch, place } = self.roles[rank];
        let own = |block| self.blocks[rank].contains(&block);
        let call = run.version;
        let fresh = match input {
            Input::Latents => Value::Latents.at(call),
            Input::Block(read) => Value::Block(read).at(call).of(branch),
        };
        if call < self.method.warm_up() {
            return fresh;
        }
        match (&self.method, input) {
            (Method::Sequential, _) => fresh,
            (Method::AsyncDiff(parameters), Input::Latents) => {
                Value::Latents.at(parameters.latents_of(call, place == Place::Second))
            }
            (Method::AsyncDiff(_), Input::Block(read)) if own(read) => fresh,
            (Method::AsyncDiff(parameters), Input::Block(_)) => Versioned {
                version: parameters.newest_foreign(call),
                ..fresh
            },
            // The first call of a round has the true latents, the others predicted ones.
            (Method::Copies(parameters), _) => {
                let rounds = parameters.rounds(self.calls);
                fresh.ahead_if(!rounds.iter().any(|round| round.start == call))
            }
            // The outer rank reads what the deep rank has made ahead.
            (Method::Ring(ring), Input::Block(read)) if place == Place::Outer => {
                fresh.ahead_if(ring.blocks.is_deep(read))
            }
            (Method::Ring(_), _) => fresh.ahead_if(place == Place::Deep),
            (Method::ThroughSegments(_), _) => fresh.ahead(),
        }
    }
}

//! A plan in figures.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::graph::{BlockId, SegmentGraph};
use crate::machine::Machine;
use crate::memory::peak_elements;
use crate::plan::{Action, Plan, Role, Value, Versioned};
use crate::simulate::{ideal_speed_up, simulate};

/// Who computes what, how stale the inputs are, what is moved, and how much sooner the run can be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Denoiser calls.
    pub calls: usize,
    /// Every rank.
    pub ranks: Vec<RankSummary>,
    /// Every block's output that a block on another rank reads after the warm-up.
    pub edges: Vec<Edge>,
    /// Bytes sent between ranks, mean over the denoiser calls.
    pub bytes_per_call: f64,
    /// How many times sooner than the sequential run, on equal ranks and links that cost nothing, warm-up included.
    pub ideal_speed_up: f64,
    /// Share of the ranks' time in which they do not compute, under the same assumption.
    pub idle_share: f64,
}

/// One rank's part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RankSummary {
    /// What it is there for.
    #[serde(flatten)]
    pub role: Role,
    /// Names of its blocks.
    pub blocks: Vec<String>,
    /// The multiply-accumulate operations of one call of its blocks, for its half of the batch if it has one, as a share of
    /// all blocks' for the whole batch.
    pub macs_share: f64,
    /// Bytes of the denoiser's weights that it holds.
    pub weight_bytes: u64,
    /// The most bytes of activations that it holds at once ([`peak_elements`]).
    pub activation_bytes: u64,
}

/// A block's output that crosses from one rank to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// The block that makes it.
    pub from: String,
    /// The block that reads it.
    pub to: String,
    /// The rank that makes it.
    pub from_rank: usize,
    /// The rank that reads it.
    pub to_rank: usize,
    /// How many calls old it is after the warm-up: each number that occurs.
    pub staleness: Vec<usize>,
    /// Whether it comes from predicted latents.
    pub ahead: bool,
    /// Its size.
    pub bytes: u64,
}

impl Summary {
    /// The figures of `plan`; `sequential` is the plan to compare with, `element_bytes` the size of an
    /// element of weights and of what blocks compute.
    ///
    /// # Panics
    ///
    /// If the plans are of another graph.
    #[must_use]
    pub fn new(plan: &Plan, sequential: &Plan, graph: &SegmentGraph, element_bytes: u64) -> Self {
        let machine = Machine {
            element_bytes,
            ..Machine::ideal(graph)
        };
        let simulation = simulate(plan, graph, &machine);
        let total = graph.macs() as f64;
        let ranks = plan
            .blocks
            .iter()
            .zip(peak_elements(plan, graph))
            .zip(&plan.roles)
            .map(|((blocks, peak), role)| RankSummary {
                role: *role,
                blocks: blocks
                    .iter()
                    .map(|id| graph.block(*id).name.clone())
                    .collect(),
                macs_share: blocks
                    .iter()
                    .map(|id| graph.block(*id).macs as f64 / total)
                    .sum::<f64>()
                    / role.branch.divisor() as f64,
                weight_bytes: graph.parameters(blocks) * element_bytes,
                activation_bytes: peak * element_bytes,
            })
            .collect();
        Self {
            calls: plan.calls,
            ranks,
            edges: edges(plan, graph, element_bytes),
            bytes_per_call: simulation.bytes as f64 / plan.calls as f64,
            ideal_speed_up: ideal_speed_up(plan, sequential, graph),
            idle_share: simulation.idle_share,
        }
    }
}

fn edges(plan: &Plan, graph: &SegmentGraph, element_bytes: u64) -> Vec<Edge> {
    let warm_up = plan.method.warm_up();
    let mut edges: BTreeMap<(usize, usize, BlockId, BlockId), Edge> = BTreeMap::new();
    for (rank, instructions) in plan.ranks.iter().enumerate() {
        let mut received: HashMap<Versioned, usize> = HashMap::new();
        for instruction in instructions {
            let run = match &instruction.action {
                Action::Recv { what, from } => {
                    received.insert(*what, *from);
                    continue;
                }
                Action::Run(run) if run.version >= warm_up => run,
                _ => continue,
            };
            for terms in &run.inputs {
                let Some(newest) = terms.iter().map(|term| term.of).max_by_key(|of| of.version)
                else {
                    continue;
                };
                let (Value::Block(read), Some(from)) = (newest.value, received.get(&newest)) else {
                    continue;
                };
                let edge = edges
                    .entry((*from, rank, read, run.block))
                    .or_insert_with(|| Edge {
                        from: graph.block(read).name.clone(),
                        to: graph.block(run.block).name.clone(),
                        from_rank: *from,
                        to_rank: rank,
                        staleness: Vec::new(),
                        ahead: newest.ahead,
                        bytes: graph.elements(newest) * element_bytes,
                    });
                let age = run.version - newest.version;
                if !edge.staleness.contains(&age) {
                    edge.staleness.push(age);
                    edge.staleness.sort_unstable();
                }
            }
        }
    }
    edges.into_values().collect()
}

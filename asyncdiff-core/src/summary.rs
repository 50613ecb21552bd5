//! A plan in figures.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::graph::{BlockId, Input, SegmentGraph};
use crate::memory::peak_elements;
use crate::plan::{Action, Plan};
use crate::simulate::{Machine, ideal_speed_up, simulate};

/// Who computes what, how stale the inputs are, what is moved, and how much sooner the run can be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Denoiser calls.
    pub calls: usize,
    /// Number of segments.
    pub segments: usize,
    /// Every rank.
    pub ranks: Vec<RankSummary>,
    /// Every value that a block of another segment reads.
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
    /// Names of its blocks.
    pub blocks: Vec<String>,
    /// Its share of the multiply-accumulate operations of one call.
    pub macs_share: f64,
    /// Bytes of the denoiser's weights that it holds.
    pub weight_bytes: u64,
    /// The most bytes of activations that it holds at once ([`peak_elements`]).
    pub activation_bytes: u64,
}

/// A value that crosses from one segment to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// The block that makes it.
    pub from: String,
    /// The block that reads it.
    pub to: String,
    /// The segment that makes it.
    pub from_segment: usize,
    /// The segment that reads it.
    pub to_segment: usize,
    /// How many calls old it is after the warm-up: each number that occurs.
    pub staleness: Vec<usize>,
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
            .map(|(blocks, peak)| RankSummary {
                blocks: blocks
                    .iter()
                    .map(|id| graph.block(*id).name.clone())
                    .collect(),
                macs_share: blocks
                    .iter()
                    .map(|id| graph.block(*id).macs as f64 / total)
                    .sum(),
                weight_bytes: graph.parameters(blocks) * element_bytes,
                activation_bytes: peak * element_bytes,
            })
            .collect();
        Self {
            calls: plan.calls,
            segments: plan.segment_of.iter().max().map_or(0, |last| last + 1),
            ranks,
            edges: edges(plan, graph, element_bytes),
            bytes_per_call: simulation.bytes as f64 / plan.calls as f64,
            ideal_speed_up: ideal_speed_up(plan, sequential, graph),
            idle_share: simulation.idle_share,
        }
    }
}

fn edges(plan: &Plan, graph: &SegmentGraph, element_bytes: u64) -> Vec<Edge> {
    let warm_up = plan
        .strategy
        .map_or(plan.calls, |strategy| strategy.warm_up);
    let mut ages: BTreeMap<(BlockId, BlockId), Vec<usize>> = BTreeMap::new();
    for instruction in plan.ranks.iter().flatten() {
        let Action::Run {
            block,
            version,
            inputs,
            ..
        } = &instruction.action
        else {
            continue;
        };
        for (input, terms) in graph.block(*block).inputs.iter().zip(inputs) {
            let Input::Block(read) = *input else { continue };
            if plan.segment_of[read.0] == plan.segment_of[block.0] {
                continue;
            }
            let ages = ages.entry((read, *block)).or_default();
            let newest = terms.iter().map(|term| term.of.version).max();
            let age = version - newest.unwrap_or(*version);
            if *version >= warm_up && !ages.contains(&age) {
                ages.push(age);
            }
        }
    }
    ages.into_iter()
        .map(|((from, to), mut staleness)| {
            staleness.sort_unstable();
            Edge {
                from: graph.block(from).name.clone(),
                to: graph.block(to).name.clone(),
                from_segment: plan.segment_of[from.0],
                to_segment: plan.segment_of[to.0],
                staleness,
                bytes: graph.block(from).elements() * element_bytes,
            }
        })
        .collect()
}

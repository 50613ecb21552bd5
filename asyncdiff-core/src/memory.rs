//! How much memory a plan takes, known before it runs: the plan says when every value is dropped.

use std::collections::{HashMap, HashSet};

use crate::graph::SegmentGraph;
use crate::plan::{Action, Plan, Value, Versioned};

/// For every rank, the most tensor elements that it holds at once, its weights not counted: the values that are still to be
/// read, what the running block takes beside them ([`Block::working`](crate::Block)), and what blocks keep from call to call
/// ([`Block::kept`](crate::Block)).
///
/// # Panics
///
/// If the plan is of another graph.
#[must_use]
pub fn peak_elements(plan: &Plan, graph: &SegmentGraph) -> Vec<u64> {
    plan.ranks
        .iter()
        .enumerate()
        .map(|(rank, instructions)| {
            let mut held: HashMap<Versioned, u64> = HashMap::new();
            if rank == plan.latents_rank {
                held.insert(Value::Latents.at(0), graph.elements(Value::Latents.at(0)));
            }
            let mut keeping = HashSet::new();
            let mut kept = 0;
            let mut peak = 0;
            for instruction in instructions {
                let written = instruction.action.writes();
                let size = written.map_or(0, |what| graph.elements(what));
                let working = match &instruction.action {
                    Action::Run(run) => {
                        // An input of several versions is computed before the block is.
                        let forecasts = run.inputs.iter().filter(|terms| terms.len() > 1);
                        let sizes = forecasts.map(|terms| graph.elements(terms[0].of));
                        let block = graph.block(run.block);
                        let working = block.working / run.branch.divisor();
                        if keeping.insert((run.block, run.branch)) {
                            kept += block.kept / run.branch.divisor();
                        }
                        working + sizes.sum::<u64>()
                    }
                    _ => size,
                };
                peak = peak.max(held.values().sum::<u64>() + working + kept);
                held.extend(written.map(|what| (what, size)));
                for what in &instruction.release {
                    held.remove(what);
                }
            }
            peak
        })
        .collect()
}

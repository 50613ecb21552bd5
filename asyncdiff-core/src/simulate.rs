//! Predicts how long a plan takes, and how much it moves, without running it.

use std::collections::HashMap;

use serde::Serialize;

use crate::graph::{BlockId, SegmentGraph};
use crate::machine::{LATENT_BYTES, Machine};
use crate::plan::{Action, Plan, Run, Value, Versioned};

/// One computed block on the time line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bar {
    /// Who computes.
    pub rank: usize,
    /// What.
    pub block: BlockId,
    /// Whether from predicted latents.
    pub ahead: bool,
    /// For which denoiser call.
    pub version: usize,
    /// From when.
    pub start: f64,
    /// Until when.
    pub end: f64,
}

/// One transfer on the time line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Transfer {
    /// What is sent.
    pub what: Versioned,
    /// By whom.
    pub from: usize,
    /// To whom.
    pub to: usize,
    /// When it is handed over.
    pub sent: f64,
    /// When it is there.
    pub arrived: f64,
    /// How much it is.
    pub bytes: u64,
}

/// The predicted course of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulation {
    /// Time until the last rank is done.
    pub makespan: f64,
    /// Time that each rank spends computing.
    pub busy: Vec<f64>,
    /// Share of all ranks' time in which they do not compute.
    pub idle_share: f64,
    /// Bytes moved between ranks.
    pub bytes: u64,
    /// Every computed block.
    pub bars: Vec<Bar>,
    /// Every transfer.
    pub transfers: Vec<Transfer>,
}

/// Runs `plan` on an imagined machine. Combinations of latents cost nothing, as they touch a few thousand elements.
///
/// # Panics
///
/// If the plan or the machine was made for another graph, or the plan is not valid ([`Plan::validate`]).
#[must_use]
pub fn simulate(plan: &Plan, graph: &SegmentGraph, machine: &Machine) -> Simulation {
    let ranks = plan.ranks.len();
    let mut clock = vec![0.0_f64; ranks];
    let mut busy = vec![0.0; ranks];
    let mut next = vec![0; ranks];
    let mut link_free: HashMap<(usize, usize), f64> = HashMap::new();
    let mut arrivals: HashMap<(Versioned, usize), f64> = HashMap::new();
    let (mut bars, mut transfers) = (Vec::new(), Vec::new());
    let bytes_of = |what: Versioned| {
        let bytes = match what.value {
            Value::Block(_) => machine.element_bytes,
            _ => LATENT_BYTES,
        };
        graph.elements(what) * bytes
    };

    loop {
        let mut progress = false;
        for rank in 0..ranks {
            while let Some(instruction) = plan.ranks[rank].get(next[rank]) {
                match instruction.action {
                    Action::Recv { what, .. } => {
                        let Some(arrived) = arrivals.get(&(what, rank)) else {
                            break;
                        };
                        clock[rank] = clock[rank].max(*arrived);
                    }
                    Action::Send { what, to } => {
                        let bytes = bytes_of(what);
                        let free = link_free.entry((rank, to)).or_default();
                        let sent = clock[rank];
                        *free = free.max(sent) + bytes as f64 / machine.bandwidth;
                        let arrived = *free + machine.latency;
                        arrivals.insert((what, to), arrived);
                        transfers.push(Transfer {
                            what,
                            from: rank,
                            to,
                            sent,
                            arrived,
                            bytes,
                        });
                    }
                    Action::Run(Run {
                        block,
                        branch,
                        ahead,
                        version,
                        ..
                    }) => {
                        let speed = machine.speed.get(rank).copied().unwrap_or(1.0);
                        let start = clock[rank];
                        let end = start + machine.time(block, branch) / speed;
                        clock[rank] = end;
                        busy[rank] += end - start;
                        bars.push(Bar {
                            rank,
                            block,
                            ahead,
                            version,
                            start,
                            end,
                        });
                    }
                    Action::Combine(_) => {}
                }
                next[rank] += 1;
                progress = true;
            }
        }
        if !progress {
            break;
        }
    }
    let done = (0..ranks).all(|rank| next[rank] == plan.ranks[rank].len());
    assert!(done, "only a valid plan can be simulated");

    let makespan = clock.into_iter().fold(0.0, f64::max);
    let computing: f64 = busy.iter().sum();
    Simulation {
        makespan,
        idle_share: 1.0 - computing / (makespan * ranks as f64),
        busy,
        bytes: transfers.iter().map(|transfer| transfer.bytes).sum(),
        bars,
        transfers,
    }
}

/// How many times sooner `plan` is done than the sequential `baseline`, on equal ranks and links that cost nothing. Warm-up
/// is included.
#[must_use]
pub fn ideal_speed_up(plan: &Plan, baseline: &Plan, graph: &SegmentGraph) -> f64 {
    let machine = Machine::ideal(graph);
    simulate(baseline, graph, &machine).makespan / simulate(plan, graph, &machine).makespan
}

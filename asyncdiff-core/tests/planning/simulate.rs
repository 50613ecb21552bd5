//! The simulation, on a plan small enough to work out by hand.

use asyncdiff_core::graph::Structure;
use asyncdiff_core::{
    AsyncDiff, Block, BlockId, Input, Machine, Partition, Plan, SegmentGraph, Setting, simulate,
};

/// Two blocks in a row, of 1000 bytes each in `f32`.
fn chain() -> SegmentGraph {
    let block = |name: &str, input| Block {
        name: name.to_owned(),
        inputs: vec![input],
        macs: 1,
        parameters: 0,
        working: 0,
        kept: 0,
        output: [1, 1, 10, 25],
    };
    SegmentGraph {
        blocks: vec![
            block("first", Input::Latents),
            block("last", Input::Block(BlockId(0))),
        ],
        latents: [1, 1, 10, 25],
        shared_parameters: 0,
        structure: Structure::Convolution,
    }
}

#[test]
fn time_idle_share_and_bytes_are_those_worked_out_by_hand() {
    let graph = chain();
    let schedule = super::common::schedule("DDIMScheduler", 3);
    let partition = Partition::contiguous(&graph, &Machine::ideal(&graph), 2).unwrap();
    let strategy = AsyncDiff {
        warm_up: 1,
        ..AsyncDiff::default()
    };
    let plan = Plan::asyncdiff(
        &Setting::new(&graph, &schedule, None),
        &partition,
        &strategy,
    )
    .unwrap();
    let machine = Machine {
        block_time: vec![10.0, 8.0],
        half_time: vec![5.0, 4.0],
        // The second rank computes half as fast.
        speed: vec![1.0, 0.5],
        latency: 2.0,
        bandwidth: 500.0,
        element_bytes: 4,
    };
    // A transfer takes 1000 / 500 + 2 = 4.
    // Call 0: first 0 to 10, sent; last 14 to 30; its prediction is back at 34.
    // Call 1 on old values: last again 30 to 46, prediction back at 50; first 34 to 44, arrives at 48.
    // Call 2: last 48 to 64, prediction back at 68. Nobody would read a third run of the first block.
    let result = simulate(&plan, &graph, &machine);
    assert_eq!(result.makespan, 68.0);
    assert_eq!(result.busy, [20.0, 48.0]);
    assert_eq!(result.idle_share, 1.0 - 68.0 / 136.0);
    assert_eq!(result.bytes, 5 * 1000);
    assert_eq!(result.bars.len(), 5);
}

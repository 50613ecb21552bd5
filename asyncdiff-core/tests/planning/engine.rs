//! The engine runs plans on plain numbers, so that what it must compute can be worked out by hand.

use std::ops::ControlFlow;
use std::thread;

use asyncdiff_comm::{CommError, local};
use asyncdiff_core::plan::Value;
use asyncdiff_core::{
    AsyncDiff, Engine, EngineError, Partition, Plan, Schedule, SegmentGraph, Setting,
};

use super::numbers::{Numbers, START, block, form, run, watched};

/// The published algorithm, written as loops over calls instead of a plan (Chen et al. 2024, section 3).
fn published(
    graph: &SegmentGraph,
    partition: &Partition,
    schedule: &Schedule,
    strategy: &AsyncDiff,
) -> f64 {
    let calls = schedule.calls();
    let shift = usize::from(strategy.time_shift);
    let mut latents = vec![1.5];
    let mut predictions: Vec<f64> = Vec::new();
    let mut cache: Vec<f64> = Vec::new();
    let advance = |latents: &mut Vec<f64>, predictions: &[f64], call: usize| {
        let [combine] = schedule.steps[call].combines.as_slice() else {
            panic!("one update a step")
        };
        let next = combine
            .terms
            .iter()
            .map(|term| {
                term.weight
                    * match term.of.value {
                        Value::Latents => latents[term.of.version],
                        Value::Prediction => predictions[term.of.version],
                        other => panic!("{other:?}"),
                    }
            })
            .sum();
        latents.push(next);
    };
    let forward =
        |latents: f64, call: usize, timestep: f64, stale: Option<(&[f64], usize)>| -> Vec<f64> {
            let mut values: Vec<f64> = Vec::new();
            for (id, one) in graph.iter() {
                let segment = partition.owner(id);
                let inputs = one.inputs.iter().map(|input| match *input {
                    asyncdiff_core::Input::Latents => latents * schedule.steps[call].input_scale,
                    asyncdiff_core::Input::Block(from) => match stale {
                        Some((old, _)) if partition.owner(from) != segment => old[from.0],
                        _ => values[from.0],
                    },
                });
                values.push(block(id, 0, timestep, inputs.sum()));
            }
            values
        };
    let mut call = 0;
    while call < calls {
        let now = latents[call];
        if call < strategy.warm_up {
            cache = forward(now, call, schedule.timesteps[call], None);
            predictions.push(*cache.last().unwrap());
            advance(&mut latents, &predictions, call);
            call += 1;
        } else if strategy.stride == 1 {
            let next = forward(
                now,
                call,
                schedule.timesteps[call - shift],
                Some((&cache, 0)),
            );
            predictions.push(*next.last().unwrap());
            cache = next;
            advance(&mut latents, &predictions, call);
            call += 1;
        } else {
            let ahead = (call + 1).min(calls - 1);
            let present = forward(
                now,
                call,
                schedule.timesteps[call - shift],
                Some((&cache, 0)),
            );
            predictions.push(*present.last().unwrap());
            advance(&mut latents, &predictions, call);
            if call + 1 < calls {
                cache = forward(
                    now,
                    call,
                    schedule.timesteps[ahead - shift],
                    Some((&cache, 0)),
                );
                predictions.push(*cache.last().unwrap());
                advance(&mut latents, &predictions, call + 1);
            }
            call += 2;
        }
    }
    latents[calls]
}

#[test]
fn plans_compute_what_the_published_loops_compute() {
    for (graph, class) in [
        (super::common::graph(), "DDIMScheduler"),
        (super::common::graph(), "PNDMScheduler"),
        (super::common::graph(), "EulerDiscreteScheduler"),
        (super::common::sdxl(), "PNDMScheduler"),
        (super::common::sdxl(), "EulerDiscreteScheduler"),
    ] {
        for steps in [5, 8] {
            let schedule = super::common::schedule(class, steps);
            let sequential = Plan::sequential(&Setting::new(&graph, &schedule, None)).unwrap();
            let exact = run(&sequential, 1);
            for segments in 2..=4 {
                let partition = Partition::published(&graph, segments).unwrap();
                for (stride, warm_up, time_shift) in [
                    (1, 1, false),
                    (1, 3, true),
                    (2, 1, false),
                    (2, 2, true),
                    (2, 3, false),
                ] {
                    let strategy = AsyncDiff {
                        stride,
                        warm_up,
                        time_shift,
                        forecast: 0,
                    };
                    let plan = Plan::asyncdiff(
                        &Setting::new(&graph, &schedule, None),
                        &partition,
                        &strategy,
                    )
                    .unwrap();
                    let expected = published(&graph, &partition, &schedule, &strategy);
                    let found = run(&plan, 1);
                    // Sums of a few dozen numbers of order one, in two orders.
                    assert!(
                        (found - expected).abs() < 1e-9,
                        "{class} {segments} {strategy:?}: {found} {expected}"
                    );
                    assert!(
                        (expected - exact).abs() > 1e-7,
                        "{class} {segments} {strategy:?}: {expected} and {exact} cannot tell asynchronous from sequential"
                    );
                }
            }
        }
    }
}

#[test]
fn with_time_shift_the_first_call_after_warm_up_repeats_the_prediction() {
    let graph = super::common::graph();
    let schedule = super::common::schedule("DDIMScheduler", 8);
    let partition = Partition::published(&graph, 3).unwrap();
    let strategy = AsyncDiff {
        warm_up: 3,
        time_shift: true,
        ..AsyncDiff::default()
    };
    let plan = Plan::asyncdiff(
        &Setting::new(&graph, &schedule, None),
        &partition,
        &strategy,
    )
    .unwrap();
    let (_, seen) = watched(&plan, 1);
    let of = |call| {
        let prediction = Value::Prediction.at(call);
        seen.iter().find(|(what, _)| *what == prediction).unwrap().1
    };
    assert_eq!(of(3), of(2));
    assert_ne!(of(4), of(3));
}

#[test]
fn a_cancelled_rank_stops_all_others() {
    let graph = super::common::graph();
    let schedule = super::common::schedule("DDIMScheduler", 8);
    let partition = Partition::published(&graph, 2).unwrap();
    let plan = &Plan::asyncdiff(
        &Setting::new(&graph, &schedule, None),
        &partition,
        &AsyncDiff::default(),
    )
    .unwrap();
    let mut world = local::world(2);
    let (mut second, mut first) = (world.pop().unwrap(), world.pop().unwrap());
    thread::scope(|scope| {
        let other = scope.spawn(move || {
            Engine::new(plan, 1, &|what| form(what, 1)).run(
                &mut Numbers { passes: 1 },
                &mut second,
                None,
                &mut |_, _| ControlFlow::Continue(()),
            )
        });
        let result = Engine::new(plan, 0, &|what| form(what, 1)).run(
            &mut Numbers { passes: 1 },
            &mut first,
            Some(vec![START]),
            &mut |what, _| {
                if what == Value::Latents.at(4) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        );
        assert_eq!(result, Err(EngineError::Cancelled));
        assert_eq!(
            other.join().unwrap(),
            Err(EngineError::Comm(CommError::PeerFailed {
                rank: 0,
                reason: "cancelled".to_owned()
            }))
        );
    });
}

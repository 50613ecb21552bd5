//! Plans have the published semantics, and the proof notices when they do not.

use asyncdiff_core::plan::{Action, Combine, Run, Term, Value, Versioned};
use asyncdiff_core::{
    AsyncDiff, BlockId, Input, Machine, Partition, Plan, PlanError, Schedule, SegmentGraph,
    Setting, Summary, simulate,
};

fn strategies(warm_up: usize) -> impl Iterator<Item = AsyncDiff> {
    [1, 2].into_iter().flat_map(move |stride| {
        [false, true].into_iter().flat_map(move |time_shift| {
            [0, 1].into_iter().map(move |forecast| AsyncDiff {
                stride,
                warm_up,
                time_shift,
                forecast,
            })
        })
    })
}

fn build(graph: &SegmentGraph, schedule: &Schedule, segments: usize, strategy: &AsyncDiff) -> Plan {
    let partition = Partition::published(graph, segments).unwrap();
    Plan::asyncdiff(
        &Setting::new(graph, schedule, Some(7.5.into())),
        &partition,
        strategy,
    )
    .unwrap()
}

/// The sources of a block's run, by rank and version.
fn source(plan: &Plan, rank: usize, block: BlockId, of: usize) -> Option<(f64, Vec<Vec<Term>>)> {
    plan.ranks[rank]
        .iter()
        .find_map(|instruction| match &instruction.action {
            Action::Run(run) if run.block == block && run.version == of => {
                Some((run.timestep, run.inputs.clone()))
            }
            _ => None,
        })
}

#[test]
fn every_combination_of_parameters_is_valid() {
    for class in [
        "DDIMScheduler",
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "LCMScheduler",
    ] {
        for (graph, steps) in [
            (super::common::graph(), 4),
            (super::common::graph(), 7),
            (super::common::sdxl(), 5),
        ] {
            let schedule = super::common::schedule(class, steps);
            for warm_up in 1..=schedule.calls() {
                for segments in 1..=4 {
                    for strategy in strategies(warm_up) {
                        let plan = build(&graph, &schedule, segments, &strategy);
                        assert_eq!(plan.validate(&graph), Ok(()));
                        assert_eq!(plan.ranks.len(), segments + strategy.stride - 1);
                        assert!(simulate(&plan, &graph, &Machine::ideal(&graph)).makespan > 0.0);
                    }
                }
            }
        }
    }
}

/// The first rank that holds a block.
fn owner(plan: &Plan, block: BlockId) -> usize {
    let holds = |blocks: &Vec<BlockId>| blocks.contains(&block);
    plan.blocks.iter().position(holds).unwrap()
}

#[test]
fn stride_1_reads_foreign_values_of_the_call_before_and_own_ones_fresh() {
    let (sd15, sdxl) = (super::common::graph(), super::common::sdxl());
    let schedule = super::common::schedule("DDIMScheduler", 8);
    for (graph, time_shift) in [(&sd15, false), (&sd15, true), (&sdxl, false), (&sdxl, true)] {
        let strategy = AsyncDiff {
            warm_up: 3,
            time_shift,
            ..AsyncDiff::default()
        };
        let plan = build(graph, &schedule, 3, &strategy);
        for call in 0..7 {
            for (id, block) in graph.iter() {
                let rank = owner(&plan, id);
                let Some((timestep, inputs)) = source(&plan, rank, id, call) else {
                    continue;
                };
                let shifted = if call >= 3 {
                    call - usize::from(time_shift)
                } else {
                    call
                };
                assert_eq!(timestep, schedule.timesteps[shifted]);
                for (input, terms) in block.inputs.iter().zip(inputs) {
                    let (value, version) = match *input {
                        Input::Latents => (Value::Latents, call),
                        Input::Block(from) if call < 3 || owner(&plan, from) == rank => {
                            (Value::Block(from), call)
                        }
                        Input::Block(from) => (Value::Block(from), call - 1),
                    };
                    assert_eq!(
                        terms.iter().map(|term| term.of).collect::<Vec<_>>(),
                        [value.at(version)]
                    );
                }
            }
        }
    }
}

#[test]
fn the_latents_are_where_the_first_block_is_and_stay_there() {
    let graph = super::common::sdxl();
    let schedule = super::common::schedule("EulerAncestralDiscreteScheduler", 8);
    for segments in 2..=4 {
        for stride in [1, 2] {
            let strategy = AsyncDiff {
                stride,
                ..AsyncDiff::default()
            };
            let plan = build(&graph, &schedule, segments, &strategy);
            assert_eq!(plan.latents_rank, segments - 1);
            for (rank, instruction) in
                plan.ranks.iter().enumerate().flat_map(|(rank, list)| {
                    list.iter().map(move |instruction| (rank, instruction))
                })
            {
                for what in instruction.action.writes().into_iter() {
                    let receives = matches!(instruction.action, Action::Recv { .. });
                    let advances = what.value == Value::Latents && !receives;
                    assert!(!advances || rank == plan.latents_rank);
                    // With stride 2, one more rank owns the first blocks.
                    let reads_latents = what.value == Value::Latents && receives;
                    assert!(!reads_latents || (stride == 2 && rank == segments));
                }
            }
        }
    }
}

#[test]
fn stride_2_looks_ahead_with_the_segments_and_predicts_the_present_with_one_more_rank() {
    let graph = super::common::graph();
    let schedule = super::common::schedule("DDIMScheduler", 9);
    let strategy = AsyncDiff {
        stride: 2,
        warm_up: 2,
        ..AsyncDiff::default()
    };
    let plan = build(&graph, &schedule, 2, &strategy);
    let last = graph.last();
    // Rounds start at calls 2, 4, 6 and 8; the last has no second call.
    for start in [2, 4, 6] {
        let (ahead, _) = source(&plan, 1, last, start + 1).unwrap();
        let (present, _) = source(&plan, 2, last, start).unwrap();
        assert_eq!(
            (ahead, present),
            (schedule.timesteps[start + 1], schedule.timesteps[start])
        );
        let (_, inputs) = source(&plan, 0, BlockId(0), start + 1).unwrap();
        assert_eq!(inputs[0][0].of, Value::Latents.at(start));
        assert!(
            source(&plan, 1, last, start).is_none() && source(&plan, 2, last, start + 1).is_none()
        );
    }
    assert!(source(&plan, 1, last, 9).is_none() && source(&plan, 2, last, 8).is_some());
    // Rank 2 owns nothing but the last segment's blocks.
    assert_eq!(plan.blocks[2], plan.blocks[1]);
}

#[test]
fn forecasts_continue_the_line_through_two_versions() {
    let graph = super::common::graph();
    let schedule = super::common::schedule("DDIMScheduler", 10);
    let foreign = |plan: &Plan, rank: usize, version: usize| -> Vec<(usize, f64)> {
        let (id, block) = graph
            .iter()
            .find(|(id, block)| {
                owner(plan, *id) == 1
                    && matches!(block.inputs[0], Input::Block(from) if owner(plan, from) == 0)
            })
            .unwrap();
        let (_, inputs) = source(plan, rank, id, version).unwrap();
        assert_eq!(block.inputs.len(), inputs.len());
        inputs[0]
            .iter()
            .map(|term| (term.of.version, term.weight))
            .collect()
    };
    let strategy = |stride, warm_up| AsyncDiff {
        stride,
        warm_up,
        forecast: 1,
        ..AsyncDiff::default()
    };
    let plan = build(&graph, &schedule, 2, &strategy(1, 2));
    assert_eq!(foreign(&plan, 1, 5), [(4, 2.0), (3, -1.0)]);
    // One warm-up step leaves one version only.
    let plan = build(&graph, &schedule, 2, &strategy(1, 1));
    assert_eq!(foreign(&plan, 1, 1), [(0, 1.0)]);
    assert_eq!(foreign(&plan, 1, 2), [(1, 2.0), (0, -1.0)]);
    // Stride 2: versions are 1, 3, 5, … behind a warm-up of 2, two calls apart; the extra rank goes one call ahead.
    let plan = build(&graph, &schedule, 2, &strategy(2, 2));
    assert_eq!(foreign(&plan, 1, 3), [(1, 3.0), (0, -2.0)]);
    assert_eq!(foreign(&plan, 2, 2), [(1, 2.0), (0, -1.0)]);
    assert_eq!(foreign(&plan, 1, 5), [(3, 2.0), (1, -1.0)]);
    assert_eq!(foreign(&plan, 2, 4), [(3, 1.5), (1, -0.5)]);
}

#[test]
fn forecasts_move_no_more_bytes_from_call_to_call() {
    let graph = super::common::graph();
    let schedule = super::common::schedule("DDIMScheduler", 50);
    for stride in [1, 2] {
        let bytes = [0, 1].map(|forecast| {
            let strategy = AsyncDiff {
                stride,
                forecast,
                ..AsyncDiff::default()
            };
            let plan = build(&graph, &schedule, 3, &strategy);
            simulate(&plan, &graph, &Machine::ideal(&graph)).bytes as f64
        });
        // The extra rank of stride 2 sits out the warm-up, and needs the one before its last version once: at most as much
        // as one more call.
        let once = if stride == 1 { 0.0 } else { bytes[0] / 47.0 };
        assert!(bytes[1] - bytes[0] <= once, "{bytes:?}");
    }
}

#[test]
fn speed_up_and_traffic_are_those_of_the_reference() {
    let (sd15, sdxl) = (super::common::graph(), super::common::sdxl());
    let (animatediff, svd) = (super::common::animatediff(), super::common::svd());
    let schedule = super::common::schedule("DDIMScheduler", 400);
    for (graph, segments, ideal, mebibytes) in [
        (&sd15, 2, 1.79, 23.0),
        (&sd15, 3, 2.62, 28.0),
        (&sd15, 4, 3.19, 34.0),
        (&sdxl, 2, 1.78, 7.5),
        (&sdxl, 3, 2.87, 35.0),
        (&sdxl, 4, 3.45, 68.0),
        (&animatediff, 2, 1.75, 421.0),
        (&animatediff, 3, 2.28, 566.0),
        (&svd, 2, 1.81, 1480.0),
        (&svd, 3, 2.49, 1955.0),
        (&svd, 4, 2.86, 1902.0),
    ] {
        let sequential =
            Plan::sequential(&Setting::new(graph, &schedule, Some(7.5.into()))).unwrap();
        let strategy = AsyncDiff {
            warm_up: 1,
            ..AsyncDiff::default()
        };
        let plan = build(graph, &schedule, segments, &strategy);
        // The reference counts half-precision elements.
        let summary = Summary::new(&plan, &sequential, graph, 2);
        assert!(
            (summary.ideal_speed_up - ideal).abs() < 0.02,
            "{segments}: {}",
            summary.ideal_speed_up
        );
        let moved = summary.bytes_per_call / 1024.0 / 1024.0;
        assert!(
            (moved - mebibytes).abs() < 0.06 * mebibytes,
            "{segments}: {moved}"
        );
        assert!(summary.edges.iter().all(|edge| edge.staleness == [1]));
    }
}

#[test]
fn every_weight_is_on_the_ranks_that_compute_with_it_only() {
    let graph = super::common::graph();
    let schedule = super::common::schedule("DDIMScheduler", 20);
    let plan = build(&graph, &schedule, 4, &AsyncDiff::default());
    let mut all: Vec<_> = plan.blocks.concat();
    all.sort_unstable();
    assert_eq!(all, graph.iter().map(|(id, _)| id).collect::<Vec<_>>());
}

#[test]
fn parameters_out_of_range_are_errors() {
    let graph = super::common::graph();
    let schedule = super::common::schedule("DDIMScheduler", 8);
    let partition = Partition::published(&graph, 2).unwrap();
    let build = |strategy| {
        Plan::asyncdiff(
            &Setting::new(&graph, &schedule, None),
            &partition,
            &strategy,
        )
        .unwrap_err()
    };
    let base = AsyncDiff::default();
    assert_eq!(build(AsyncDiff { stride: 3, ..base }), PlanError::Stride(3));
    assert_eq!(build(AsyncDiff { stride: 0, ..base }), PlanError::Stride(0));
    assert_eq!(
        build(AsyncDiff { warm_up: 0, ..base }),
        PlanError::WarmUp {
            warm_up: 0,
            calls: 8
        }
    );
    assert_eq!(
        build(AsyncDiff { warm_up: 9, ..base }),
        PlanError::WarmUp {
            warm_up: 9,
            calls: 8
        }
    );
    assert_eq!(
        build(AsyncDiff {
            forecast: 2,
            ..base
        }),
        PlanError::Forecast(2)
    );
}

/// Plans that were tampered with, each caught by the check that is there for it.
#[test]
fn the_proof_notices_every_kind_of_damage() {
    let graph = super::common::graph();
    let schedule = super::common::schedule("DDIMScheduler", 8);
    let good = build(&graph, &schedule, 2, &AsyncDiff::default());
    let position = |plan: &Plan, rank: usize, wanted: &dyn Fn(&Action) -> bool| {
        plan.ranks[rank]
            .iter()
            .position(|instruction| wanted(&instruction.action))
            .unwrap()
    };

    let mut plan = good.clone();
    let send = position(&plan, 0, &|action| matches!(action, Action::Send { .. }));
    plan.ranks[0].remove(send);
    assert!(matches!(
        plan.validate(&graph),
        Err(PlanError::Unmatched {
            sends: 0,
            receives: 1,
            ..
        })
    ));

    let mut plan = good.clone();
    let again = plan.ranks[0][send].clone();
    plan.ranks[0].insert(send, again);
    assert!(matches!(
        plan.validate(&graph),
        Err(PlanError::Unmatched {
            sends: 2,
            receives: 1,
            ..
        })
    ));

    // Rank 0 waits for rank 1's prediction before it sends what rank 1 waits for.
    let mut plan = good.clone();
    let recv = position(&plan, 0, &|action| matches!(action, Action::Recv { .. }));
    let first = plan.ranks[0].remove(recv);
    plan.ranks[0].insert(0, first);
    assert!(matches!(
        plan.validate(&graph),
        Err(PlanError::CyclicWait { .. })
    ));

    let mut plan = good.clone();
    let run = position(&plan, 0, &|action| matches!(action, Action::Run(_)));
    let removed = plan.ranks[0].remove(run);
    assert!(matches!(
        plan.validate(&graph),
        Err(PlanError::Missing { rank: 0, .. })
    ));
    plan.ranks[0].insert(run, removed.clone());
    plan.ranks[0].insert(run, removed);
    assert!(matches!(
        plan.validate(&graph),
        Err(PlanError::Duplicate { rank: 0, .. })
    ));

    // The defect of the published code under stride 2: one prediction used for two calls.
    let mut plan = good.clone();
    for instruction in &mut plan.ranks[0] {
        if let Action::Combine(Combine { out, terms }) = &mut instruction.action
            && *out == Value::Latents.at(6)
        {
            for term in terms
                .iter_mut()
                .filter(|term| term.of.value == Value::Prediction)
            {
                term.of.version = 4;
            }
        }
        instruction.release.clear();
    }
    assert!(matches!(
        plan.validate(&graph),
        Err(PlanError::Count { .. })
    ));

    let mut plan = good.clone();
    let mut damaged = false;
    for instruction in plan.ranks[1].iter_mut() {
        instruction.release.clear();
        if let Action::Run(Run {
            version: 5, inputs, ..
        }) = &mut instruction.action
        {
            for term in inputs.iter_mut().flatten() {
                if term.of.version == 4 && !damaged {
                    term.of.version = 3;
                    damaged = true;
                }
            }
        }
    }
    assert!(matches!(
        plan.validate(&graph),
        Err(PlanError::Staleness {
            rank: 1,
            version: 5,
            found: Versioned { version: 3, .. },
            expected: Versioned { version: 4, .. },
            ..
        })
    ));

    // A block's input swapped for another block's output of the right version, and a block that another rank holds.
    let mut plan = good.clone();
    for instruction in &mut plan.ranks[0] {
        instruction.release.clear();
        if let Action::Run(Run {
            block: BlockId(3),
            version: 5,
            inputs,
            ..
        }) = &mut instruction.action
        {
            inputs[0][0].of = Value::Block(BlockId(1)).at(5);
        }
    }
    assert!(matches!(
        plan.validate(&graph),
        Err(PlanError::Inputs {
            rank: 0,
            version: 5,
            ..
        })
    ));

    let mut plan = good.clone();
    plan.blocks[0].remove(3);
    assert!(matches!(
        plan.validate(&graph),
        Err(PlanError::Inputs { rank: 0, .. })
    ));

    let mut plan = good.clone();
    for instruction in &mut plan.ranks[0] {
        if let Action::Combine(Combine { terms, .. }) = &mut instruction.action {
            terms.clear();
        }
        instruction.release.clear();
    }
    assert!(plan.validate(&graph).is_err());

    let mut plan = good;
    for instruction in &mut plan.ranks[0] {
        if let Action::Run(Run {
            block: BlockId(1),
            version: 5,
            inputs,
            ..
        }) = &mut instruction.action
        {
            inputs[0][0].weight = 0.5;
        }
    }
    assert!(matches!(
        plan.validate(&graph),
        Err(PlanError::Weights { .. })
    ));
}

/// Such a call is left out; PNDM's defaults in diffusers ask for it.
#[test]
fn a_step_that_changes_nothing_is_no_error() {
    let graph = super::common::graph();
    for class in ["DDIMScheduler", "PNDMScheduler"] {
        let schedule = super::common::offset_schedule(class, 6, 0);
        let last = schedule.calls() - 1;
        for warm_up in [1, 2, last, last + 1] {
            for strategy in strategies(warm_up) {
                let plan = build(&graph, &schedule, 2, &strategy);
                assert!(source(&plan, 1, graph.last(), last).is_none());
            }
        }
        Plan::sequential(&Setting::new(&graph, &schedule, None)).unwrap();
    }
}

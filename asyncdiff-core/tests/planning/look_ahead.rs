//! Look-ahead plans against plain loops, and properties that every plan has.

use std::collections::HashMap;

use asyncdiff_core::plan::{Copies, Guidance, Place, Ring, ThroughSegments, Value, Versioned};
use asyncdiff_core::scheduler::{PredictionType, SchedulerConfig};
use asyncdiff_core::{
    AsyncDiff, BlockId, Branch, Input, Machine, Partition, Plan, PlanError, Schedule, SegmentGraph,
    Setting, Spread, Strategy, ideal_speed_up,
};

use super::numbers::{START, block, noise, run};
use super::transfers::ends_with_one_stream_each;

/// Names of schedulers, as `SchedulerConfig::with_class` takes them.
const SCHEDULERS: [&str; 10] = [
    "ddim",
    "pndm",
    "euler",
    "euler-ancestral",
    "heun",
    "dpmpp-2m",
    "dpmpp-2m-karras",
    "dpmpp-2m-sde",
    "unipc",
    "lcm",
];

fn schedule(name: &str, prediction: &str, steps: usize) -> Schedule {
    let config: SchedulerConfig = format!(
        r#"{{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "clip_sample": false, "steps_offset": 1, "set_alpha_to_one": false, "skip_prk_steps": true,
            "prediction_type": "{prediction}"}}"#
    )
    .parse()
    .unwrap();
    Schedule::new(&config.with_class(name).unwrap(), steps).unwrap()
}

/// A run in plain loops: known latents, predictions and data predictions, and the scheduler's own updates.
struct Loop<'a> {
    graph: &'a SegmentGraph,
    schedule: &'a Schedule,
    guidance: Option<f64>,
    values: HashMap<Versioned, f64>,
    data: Vec<f64>,
}

impl<'a> Loop<'a> {
    fn new(graph: &'a SegmentGraph, schedule: &'a Schedule, guidance: Option<f64>) -> Self {
        Self {
            graph,
            schedule,
            guidance,
            values: HashMap::from([(Value::Latents.at(0), START)]),
            data: Vec::new(),
        }
    }

    fn latents(&self, call: usize) -> f64 {
        self.values[&Value::Latents.at(call)]
    }

    /// Outputs of all blocks for one half of the batch; `given` are outputs that are not computed anew.
    fn outputs(
        &self,
        latents: f64,
        call: usize,
        half: usize,
        given: impl Fn(BlockId) -> Option<f64>,
    ) -> Vec<f64> {
        let scaled = latents * self.schedule.steps[call].input_scale;
        let mut outputs: Vec<f64> = Vec::new();
        for (id, one) in self.graph.iter() {
            let inputs = one.inputs.iter().map(|input| match *input {
                Input::Latents => scaled,
                Input::Block(read) => outputs[read.0],
            });
            let sum = inputs.sum();
            let made = block(id, half, self.schedule.timesteps[call], sum);
            outputs.push(given(id).unwrap_or(made));
        }
        outputs
    }

    fn guided(&self, output: impl Fn(usize) -> f64) -> f64 {
        match self.guidance {
            None => output(0),
            Some(scale) => (1.0 - scale) * output(0) + scale * output(1),
        }
    }

    fn denoise(&self, latents: f64, call: usize) -> f64 {
        self.guided(|half| *self.outputs(latents, call, half, |_| None).last().unwrap())
    }

    /// Signal and noise of a call's latents, and of the same latents at size 1.
    fn level(&self, call: usize) -> (f64, f64, f64) {
        let level = self.schedule.levels[call];
        (level.signal, level.noise, level.signal.hypot(level.noise))
    }

    fn data_of(&self, latents: f64, prediction: f64, call: usize) -> f64 {
        let (signal, noise, size) = self.level(call);
        match self.schedule.prediction_type {
            PredictionType::Epsilon => (latents - noise * prediction) / signal,
            PredictionType::Velocity => {
                signal / size * (latents / size) - noise / size * prediction
            }
            PredictionType::Sample => prediction,
        }
    }

    fn prediction_of(&self, latents: f64, data: f64, call: usize) -> f64 {
        let (signal, noise, size) = self.level(call);
        match self.schedule.prediction_type {
            PredictionType::Epsilon => (latents - signal * data) / noise,
            PredictionType::Velocity => (signal / size * (latents / size) - data) / (noise / size),
            PredictionType::Sample => data,
        }
    }

    /// The scheduler's updates of a call.
    fn step(&self, values: &mut HashMap<Versioned, f64>, call: usize) {
        for combine in &self.schedule.steps[call].combines {
            let value = |of: Versioned| match of.value {
                Value::Noise => noise(of.version),
                _ => values[&of],
            };
            let terms = combine.terms.iter();
            let sum = terms.map(|term| term.weight * value(term.of)).sum();
            values.insert(combine.out, sum);
        }
    }

    /// Takes a prediction whose data prediction is `data`, and goes on.
    fn take(&mut self, call: usize, data: f64) {
        let prediction = self.prediction_of(self.latents(call), data, call);
        self.values.insert(Value::Prediction.at(call), prediction);
        self.data.push(data);
        let mut values = std::mem::take(&mut self.values);
        self.step(&mut values, call);
        self.values = values;
    }

    /// The data prediction that is expected of calls from `call` on.
    fn expected(&self, call: usize, trend: f64) -> f64 {
        let newest = self.data[call - 1];
        if call < 2 {
            return newest;
        }
        let position = |call| {
            let (signal, noise, _) = self.level(call);
            (signal / noise).ln()
        };
        let ratio =
            (position(call) - position(call - 1)) / (position(call - 1) - position(call - 2));
        if ratio.is_finite() {
            newest + trend * ratio * (newest - self.data[call - 2])
        } else {
            newest
        }
    }

    /// The latents of `to`, by the scheduler's own updates, where all calls from `from` on say `data`.
    fn own_updates(&self, from: usize, to: usize, data: f64) -> f64 {
        let mut values = self.values.clone();
        for call in from..to {
            // Latents that a method of second order steps over are asked for nothing.
            let latents = values.get(&Value::Latents.at(call)).copied().unwrap_or(0.0);
            values.insert(
                Value::Prediction.at(call),
                self.prediction_of(latents, data, call),
            );
            self.step(&mut values, call);
        }
        values[&Value::Latents.at(to)]
    }

    fn jump(&self, from: usize, to: usize, data: f64) -> f64 {
        if self.schedule.is_stochastic() {
            return self.own_updates(from, to, data);
        }
        let (signal, noise, _) = self.level(from);
        let direction = (self.latents(from) - signal * data) / noise;
        let (signal, noise, _) = self.level(to);
        signal * data + noise * direction
    }

    fn alone(&mut self, call: usize) {
        let latents = self.latents(call);
        let data = self.data_of(latents, self.denoise(latents, call), call);
        self.take(call, data);
    }

    fn copies(mut self, copies: usize, warm_up: usize, trend: f64) -> f64 {
        let calls = self.schedule.calls();
        for call in 0..warm_up {
            self.alone(call);
        }
        let together = calls.saturating_sub(warm_up + 1);
        let rounds = together.div_ceil(copies);
        let mut call = warm_up;
        for round in 0..rounds {
            let larger = round < together % rounds;
            let size = together / rounds + usize::from(larger);
            let data: Vec<f64> = (0..size)
                .map(|copy| {
                    let latents = if copy == 0 {
                        self.latents(call)
                    } else {
                        self.jump(call, call + copy, self.expected(call, trend))
                    };
                    let prediction = self.denoise(latents, call + copy);
                    self.data_of(latents, prediction, call + copy)
                })
                .collect();
            for data in data {
                self.take(call, data);
                call += 1;
            }
        }
        if call < calls {
            self.alone(call);
        }
        self.latents(calls)
    }

    fn through(mut self, segments: usize, warm_up: usize, trend: f64) -> f64 {
        let calls = self.schedule.calls();
        for call in 0..warm_up {
            self.alone(call);
        }
        let mut under_way: Vec<f64> = Vec::new();
        for slot in warm_up..calls + segments - 1 {
            let known = warm_up + (slot + 1).saturating_sub(segments + warm_up);
            if slot < calls {
                let latents = if slot == known {
                    self.latents(slot)
                } else {
                    self.jump(known, slot, self.expected(known, trend))
                };
                under_way.push(self.data_of(latents, self.denoise(latents, slot), slot));
            }
            if slot + 1 >= warm_up + segments {
                let call = slot + 1 - segments;
                self.take(call, under_way[call - warm_up]);
            }
        }
        self.latents(calls)
    }

    fn ring(mut self, ring: &Ring) -> f64 {
        let calls = self.schedule.calls();
        let mut deep: Option<Vec<Vec<f64>>> = None;
        for call in 0..calls {
            let latents = self.latents(call);
            let ahead = (call + 1 >= ring.warm_up && call + 1 < calls).then(|| {
                let expected = self.own_updates(call, call + 1, self.expected(call, ring.trend));
                (0..2)
                    .map(|half| self.outputs(expected, call + 1, half, |_| None))
                    .collect()
            });
            let output = self.guided(|half| {
                let given = |id: BlockId| {
                    let made = deep.as_ref().filter(|_| ring.blocks.is_deep(id))?;
                    Some(made[half][id.0])
                };
                *self.outputs(latents, call, half, given).last().unwrap()
            });
            let data = self.data_of(latents, output, call);
            self.take(call, data);
            deep = ahead;
        }
        self.latents(calls)
    }
}

/// Sums of some thousand terms of order one, in two orders; a few calls amplify what rounding leaves.
fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-8 * expected.abs().max(1.0)
}

#[test]
fn look_ahead_plans_compute_what_plain_loops_compute() {
    let graph = super::common::graph();
    let machine = Machine::ideal(&graph);
    for name in SCHEDULERS {
        for prediction in ["epsilon", "v_prediction"] {
            for (guidance, splits) in [(None, &[false][..]), (Some(3.0), &[false, true])] {
                let schedule = schedule(name, prediction, 11);
                let plain = || Loop::new(&graph, &schedule, guidance);
                let passes = 1 + usize::from(guidance.is_some());
                let unsplit = Setting::new(&graph, &schedule, guidance.map(Guidance::from));
                let exact = run(&Plan::sequential(&unsplit).unwrap(), passes);
                let check = |what: &str, plan: Result<Plan, PlanError>, expected: f64| {
                    let found = run(&plan.unwrap(), passes);
                    assert!(
                        close(found, expected),
                        "{name} {prediction} {what}: {found} {expected}"
                    );
                    assert!(
                        (found - exact).abs() > 1e-9,
                        "{name} {prediction} {what} cannot be told from sequential"
                    );
                };
                for split in splits {
                    let setting = Setting {
                        split: *split,
                        ..unsplit
                    };
                    for (copies, warm_up, trend) in [(2, 1, 0.0), (3, 2, 0.5), (5, 2, 1.0)] {
                        let parameters = Copies {
                            copies,
                            warm_up,
                            trend,
                        };
                        let expected = plain().copies(copies, warm_up, trend);
                        check("copies", Plan::copies(&setting, &parameters), expected);
                    }
                    for (segments, warm_up, trend) in [(2, 2, 0.5), (3, 1, 0.0), (4, 2, 0.5)] {
                        let parameters = ThroughSegments { warm_up, trend };
                        let partition = Partition::contiguous(&graph, &machine, segments).unwrap();
                        let plan = Plan::through_segments(&setting, &partition, &parameters);
                        let expected = plain().through(segments, warm_up, trend);
                        check("through segments", plan, expected);
                    }
                    for (warm_up, trend) in [(2, 0.5), (4, 0.0)] {
                        for one_deep in [false, true] {
                            if one_deep && !split {
                                continue;
                            }
                            let ring = Ring::new(&setting, &machine, one_deep).unwrap();
                            let ring = Ring {
                                warm_up,
                                trend,
                                ..ring
                            };
                            check("ring", Plan::ring(&setting, &ring), plain().ring(&ring));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn one_copy_is_the_sequential_plan_action_for_action() {
    let graph = super::common::graph();
    for name in SCHEDULERS {
        let schedule = schedule(name, "epsilon", 9);
        let setting = Setting::new(&graph, &schedule, Some(7.5.into()));
        let sequential = Plan::sequential(&setting).unwrap();
        let one = Plan::copies(&setting, &Copies::new(1)).unwrap();
        assert_eq!(one.ranks, sequential.ranks);
    }
}

#[test]
fn split_guidance_moves_predictions_and_latents_only() {
    let graph = super::common::graph();
    let schedule = schedule("ddim", "epsilon", 50);
    let setting = Setting::new(&graph, &schedule, Some(7.5.into()));
    let sequential = Plan::sequential(&setting).unwrap();
    let split = Plan::sequential(&setting.split()).unwrap();
    assert_eq!(ideal_speed_up(&split, &sequential, &graph), 2.0);
    for message in split.transfers() {
        let last = Value::Block(graph.last());
        assert!([Value::Latents, last].contains(&message.what.value));
    }
    assert_eq!(split.transfers().len(), 100);
    assert_eq!(
        split
            .roles
            .iter()
            .map(|role| role.branch)
            .collect::<Vec<_>>(),
        [Branch::Negative, Branch::Positive]
    );
    let unguided = Setting::new(&graph, &schedule, None).split();
    assert_eq!(Plan::sequential(&unguided), Err(PlanError::NoGuidance));
}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// Random schedules, meshes, partitions and parameters: every plan is valid (builders prove it), computes the same bits
/// again, the same as with guidance in one batch, and its global order of messages serves all ranks.
#[test]
fn random_plans_hold_what_every_plan_promises() {
    let graphs = [
        super::common::graph(),
        super::common::sdxl(),
        super::common::animatediff(),
    ];
    let mut random = Random(7);
    for case in 0..150 {
        let graph = &graphs[random.below(graphs.len())];
        let name = SCHEDULERS[random.below(SCHEDULERS.len())];
        let prediction = ["epsilon", "v_prediction"][random.below(2)];
        let schedule = schedule(name, prediction, 3 + random.below(9));
        let calls = schedule.calls();
        let setting = Setting::new(graph, &schedule, Some(3.5.into()));
        let warm_up = 1 + random.below(calls);
        let segments = 2 + random.below(4);
        let any: Vec<usize> = {
            let mut any: Vec<_> = (0..graph.blocks.len())
                .map(|_| random.below(segments))
                .collect();
            any.iter_mut()
                .take(segments)
                .enumerate()
                .for_each(|(index, one)| *one = index);
            any
        };
        let map = |segment_of: &[usize]| {
            let names = graph.blocks.iter().map(|block| block.name.clone());
            Partition::from_map(graph, &names.zip(segment_of.iter().copied()).collect()).unwrap()
        };
        let trend = random.below(3) as f64 / 2.0;
        let (stride, forecast) = (1 + random.below(2), random.below(2));
        let (time_shift, kind) = (random.below(2) == 1, random.below(5));
        let build = |setting: &Setting<'_>| match kind {
            0 => Plan::sequential(setting),
            1 => Plan::copies(
                setting,
                &Copies {
                    copies: segments,
                    warm_up,
                    trend,
                },
            ),
            2 => {
                let mut sorted = any.clone();
                sorted.sort_unstable();
                let parameters = ThroughSegments { warm_up, trend };
                Plan::through_segments(setting, &map(&sorted), &parameters)
            }
            3 => {
                let ring = Ring::new(setting, &Machine::ideal(graph), setting.split && time_shift)?;
                let warm_up = warm_up.clamp(2, calls.max(2));
                Plan::ring(
                    setting,
                    &Ring {
                        warm_up,
                        trend,
                        ..ring
                    },
                )
            }
            _ => {
                let parameters = AsyncDiff {
                    stride,
                    warm_up,
                    time_shift,
                    forecast,
                };
                Plan::asyncdiff(setting, &map(&any), &parameters)
            }
        };
        let (whole, split) = (build(&setting).unwrap(), build(&setting.split()).unwrap());
        let what = format!("case {case}: {name} {calls} calls, {:?}", split.method);
        assert_eq!(whole.validate(graph), Ok(()), "{what}");
        let found = run(&split, 2);
        assert_eq!(found.to_bits(), run(&split, 2).to_bits(), "{what}");
        // Three ranks have another ring than two.
        if !split
            .roles
            .iter()
            .any(|role| role.place == Place::Deep && role.branch == Branch::Both)
        {
            assert!(close(found, run(&whole, 2)), "{what}: {found}");
        }
        let messages = split.transfers();
        let received = split.ranks.iter().flatten().filter(|instruction| {
            matches!(instruction.action, asyncdiff_core::Action::Recv { .. })
        });
        assert_eq!(messages.len(), received.count(), "{what}");
        assert!(ends_with_one_stream_each(&split), "{what}");
        assert!(ends_with_one_stream_each(&whole), "{what}");
    }
}

#[test]
fn what_look_ahead_cannot_do_is_said() {
    let graph = super::common::graph();
    let machine = Machine::ideal(&graph);
    let schedule = schedule("ddim", "epsilon", 6);
    let setting = Setting::new(&graph, &schedule, Some(3.0.into()));
    let plan = |spread: Spread| Strategy::from(spread).plan(&setting, &machine).unwrap_err();
    let warm_up = |warm_up, least| PlanError::LookAheadWarmUp {
        warm_up,
        least,
        calls: 6,
    };
    let ring = |warm_up, one_deep| plan(Spread::Ring { warm_up, one_deep });
    assert_eq!(ring(1, false), warm_up(1, 2));
    assert_eq!(ring(7, false), warm_up(7, 2));
    assert_eq!(ring(2, true), PlanError::OneDeepRank);
    assert_eq!(plan(Spread::copies(0)), PlanError::NoCopies);
    let copies = Copies {
        warm_up: 0,
        ..Copies::new(2)
    };
    assert_eq!(plan(Spread::Copies(copies)), warm_up(0, 1));
    let circular = Partition::published(&super::common::sdxl(), 2).unwrap();
    let sdxl = super::common::sdxl();
    let setting = Setting::new(&sdxl, &schedule, None);
    assert!(matches!(
        Plan::through_segments(&setting, &circular, &ThroughSegments::new(2)),
        Err(PlanError::NotContiguous(_))
    ));
}

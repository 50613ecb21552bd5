//! Schedules against the process that they invert, the configuration, and the errors. The comparison with diffusers is
//! in asyncdiff-models' parity tests.

use std::collections::HashMap;

use serde_json::json;

use super::{SCHEDULERS, Schedule, ScheduleError, SchedulerConfig};
use crate::value::{Part, Value};

const DDIM: &str = "DDIMScheduler";
const PNDM: &str = "PNDMScheduler";
const EULER: &str = "EulerDiscreteScheduler";
const ANCESTRAL: &str = "EulerAncestralDiscreteScheduler";
const HEUN: &str = "HeunDiscreteScheduler";
const DPM_SOLVER: &str = "DPMSolverMultistepScheduler";
const UNIPC: &str = "UniPCMultistepScheduler";
const LCM: &str = "LCMScheduler";

fn parse(class: &str, settings: serde_json::Value) -> SchedulerConfig {
    let mut config = json!({
        "_class_name": class, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "clip_sample": false, "set_alpha_to_one": true, "steps_offset": 1, "skip_prk_steps": true,
    });
    config
        .as_object_mut()
        .unwrap()
        .extend(settings.as_object().unwrap().clone());
    config.to_string().parse().expect("a scheduler config")
}

/// Signal and noise of the latents that a call reads, once they are scaled for the model.
fn level(config: &SchedulerConfig, schedule: &Schedule, call: usize) -> (f64, f64) {
    let signal = match &schedule.sigmas {
        Some(sigmas) => 1.0 / (1.0 + sigmas[call] * sigmas[call]),
        None => config.alphas_cumprod().unwrap()[schedule.timesteps[call] as usize],
    };
    (signal.sqrt(), (1.0 - signal).sqrt())
}

/// Runs a schedule on vectors. `predict` makes a prediction from the scaled latents and their level.
fn denoise(
    config: &SchedulerConfig,
    schedule: &Schedule,
    initial: Vec<f64>,
    noise: impl Fn(usize) -> Vec<f64>,
    predict: impl Fn(&[f64], (f64, f64)) -> Vec<f64>,
) -> Vec<Vec<f64>> {
    let mut known = HashMap::from([(Value::Latents.at(0), initial)]);
    for (call, step) in schedule.steps.iter().enumerate() {
        let latents = known[&Value::Latents.at(call)].iter();
        let scaled: Vec<f64> = latents.map(|value| value * step.input_scale).collect();
        known.insert(
            Value::Prediction.at(call),
            predict(&scaled, level(config, schedule, call)),
        );
        known.insert(Value::Noise.at(call), noise(call));
        for combine in &step.combines {
            let mut out = vec![0.0; scaled.len()];
            for term in &combine.terms {
                out.iter_mut()
                    .zip(&known[&term.of])
                    .for_each(|(out, value)| *out += term.weight * value);
            }
            known.insert(combine.out, out);
        }
    }
    (0..=schedule.calls())
        .map(|call| known[&Value::Latents.at(call)].clone())
        .collect()
}

/// A model that always sees the same sample and the same noise makes a straight path, on which every solver is exact.
#[test]
fn deterministic_schedules_end_at_the_sample() {
    let (sample, noise) = (0.8, -1.3);
    let mut ran = 0;
    let solvers = [
        (DDIM, json!({})),
        (PNDM, json!({})),
        (PNDM, json!({"skip_prk_steps": false})),
        (EULER, json!({})),
        (EULER, json!({"use_exponential_sigmas": true})),
        (HEUN, json!({})),
        (
            HEUN,
            json!({"use_karras_sigmas": true, "sigma_min": 0.01, "sigma_max": 40.0}),
        ),
        (DPM_SOLVER, json!({"solver_order": 1})),
        (
            DPM_SOLVER,
            json!({"solver_type": "heun", "euler_at_final": true}),
        ),
        (
            DPM_SOLVER,
            json!({"solver_order": 3, "use_lu_lambdas": true}),
        ),
        (
            UNIPC,
            json!({"solver_type": "bh1", "disable_corrector": [0, 3]}),
        ),
        (UNIPC, json!({"solver_order": 3})),
        (UNIPC, json!({"solver_order": 4, "use_karras_sigmas": true})),
    ];
    for (class, settings) in solvers {
        for spacing in ["leading", "trailing", "linspace"] {
            for kind in ["epsilon", "v_prediction", "sample"] {
                // PNDM mixes predictions of different levels before it knows what they mean, and both step by the stride
                // of the other spacings here.
                let pndm = class == PNDM;
                let by_stride = pndm || class == DDIM;
                if (pndm && kind != "epsilon") || (by_stride && spacing == "linspace") {
                    continue;
                }
                let mut settings = settings.clone();
                settings["timestep_spacing"] = json!(spacing);
                settings["prediction_type"] = json!(kind);
                let config = parse(class, settings.clone());
                for steps in [4, 8, 20] {
                    let schedule = Schedule::new(&config, steps).unwrap();
                    let (alpha, sigma) = level(&config, &schedule, 0);
                    let initial = (alpha * sample + sigma * noise) / schedule.steps[0].input_scale;
                    let predict = |_: &[f64], (alpha, sigma): (f64, f64)| match kind {
                        "epsilon" => vec![noise],
                        "sample" => vec![sample],
                        _ => vec![alpha * noise - sigma * sample],
                    };
                    let path = denoise(&config, &schedule, vec![initial], |_| vec![0.0], predict);
                    let end = path[schedule.calls()][0];
                    assert!(
                        (end - sample).abs() < 1e-6,
                        "{class} {settings}, {steps} steps: {end}"
                    );
                    ran += 1;
                }
            }
        }
    }
    assert_eq!(ran, 3 * (2 * 3 + 2 * 2 + 10 * 3 * 3));
}

/// The same part-way: the latents start from the level that the schedule names, and are on its levels before every call.
/// Outside a mask, they are there whatever the model says.
#[test]
fn runs_that_start_part_way_stay_on_their_levels() {
    let (sample, noise) = (0.8, -1.3);
    for (class, calls) in [
        (DDIM, 6),
        (PNDM, 7),
        (EULER, 6),
        (HEUN, 11),
        (DPM_SOLVER, 6),
        (UNIPC, 6),
    ] {
        let config = parse(class, json!({"timestep_spacing": "leading"}));
        let whole = Schedule::new(&config, 10).unwrap();
        let schedule = Schedule::part_way(&config, 10, 4).unwrap();
        assert_eq!(schedule.calls(), calls, "{class}");
        let tail = &whole.timesteps[whole.calls() - calls + usize::from(class == PNDM)..];
        assert_eq!(schedule.timesteps.last(), whole.timesteps.last(), "{class}");
        assert!(
            tail.iter().all(|t| schedule.timesteps.contains(t)),
            "{class}"
        );

        let at = |call: usize| {
            let level = schedule.levels[call];
            level.signal * sample + level.noise * noise
        };
        let path = denoise(
            &config,
            &schedule,
            vec![at(0)],
            |_| vec![0.0],
            |_, _| vec![noise],
        );
        for (call, latents) in path.iter().enumerate() {
            assert!(
                (latents[0] - at(call)).abs() < 1e-6,
                "{class}, call {call}: {latents:?}"
            );
        }
        assert_eq!(schedule.levels.len(), calls + 1);

        let masked = schedule.clone().keeping_outside();
        for combine in masked.steps.iter().flat_map(|step| &step.combines) {
            let outside: f64 = combine
                .terms
                .iter()
                .filter(|term| term.part == Part::Outside)
                .map(|term| match term.of.value {
                    Value::Image => term.weight * sample,
                    _ => term.weight * noise,
                })
                .sum();
            let inside = combine
                .terms
                .iter()
                .filter(|term| term.part == Part::Inside);
            if combine.out.value == Value::Latents {
                assert_eq!(outside, at(combine.out.version), "{class}");
                assert!(inside.count() > 0);
            } else {
                assert_eq!((outside, inside.count()), (0.0, 0), "{class}");
            }
        }
    }
    let config = parse(EULER, json!({}));
    for skipped in [10, 11, usize::MAX] {
        let error = Schedule::part_way(&config, 10, skipped).unwrap_err();
        assert_eq!(error, ScheduleError::NothingLeft { steps: 10, skipped });
    }
}

/// With a sample of zero, the latents are nothing but noise: fresh noise must make up exactly for what a step takes away.
/// Every dimension of the vectors stands for one independent normal variable.
#[test]
fn stochastic_schedules_keep_the_variance() {
    for (class, settings) in [
        (DDIM, json!({"eta": 1.0})),
        (DDIM, json!({"eta": 0.4, "timestep_spacing": "leading"})),
        (ANCESTRAL, json!({})),
        (DPM_SOLVER, json!({"algorithm_type": "sde-dpmsolver++"})),
        (
            DPM_SOLVER,
            json!({"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": true}),
        ),
    ] {
        let config = parse(class, settings.clone());
        let schedule = Schedule::new(&config, 8).unwrap();
        let unit = |index: usize, scale: f64| {
            (0..9)
                .map(|other| if other == index { scale } else { 0.0 })
                .collect()
        };
        let (_, sigma) = level(&config, &schedule, 0);
        let predict = |latents: &[f64], (_, sigma): (f64, f64)| {
            latents.iter().map(|value| value / sigma).collect()
        };
        let initial = unit(0, sigma / schedule.steps[0].input_scale);
        let path = denoise(
            &config,
            &schedule,
            initial,
            |call| unit(call + 1, 1.0),
            predict,
        );
        for (call, step) in schedule.steps.iter().enumerate() {
            let (_, sigma) = level(&config, &schedule, call);
            let norm = path[call]
                .iter()
                .map(|value| value * value)
                .sum::<f64>()
                .sqrt()
                * step.input_scale;
            assert!(
                (norm - sigma).abs() < 1e-6,
                "{class} {settings}, call {call}: {norm}, expected {sigma}"
            );
        }
    }
}

#[test]
fn every_name_makes_a_schedule_from_every_model() {
    for model in [DDIM, PNDM, EULER, "DDPMScheduler"] {
        let config = parse(
            model,
            json!({"prediction_type": "v_prediction", "solver_order": 3}),
        );
        for scheduler in SCHEDULERS {
            let changed = config.with_class(scheduler.name).unwrap();
            assert_eq!(
                (changed.class_name.as_str(), changed.beta_end),
                (scheduler.class, Some(0.012))
            );
            let schedule = Schedule::new(&changed, 12).unwrap();
            let calls = match scheduler.name {
                "pndm" => 13,
                "heun" => 23,
                _ => 12,
            };
            assert_eq!(schedule.calls(), calls, "{}", scheduler.name);
        }
    }
}

fn refusal(class: &str, settings: serde_json::Value, steps: usize) -> ScheduleError {
    let schedule = Schedule::new(&parse(class, settings.clone()), steps);
    schedule
        .err()
        .unwrap_or_else(|| panic!("{class} {settings} is no error"))
}

fn refused(class: &str, settings: serde_json::Value, parts: [&str; 2]) {
    let message = refusal(class, settings, 5).to_string();
    assert!(
        parts.iter().all(|part| message.contains(part)),
        "{class}: {message}"
    );
}

/// Errors name the key, what was found, and the remedy.
#[test]
fn what_is_not_supported_is_an_error() {
    refused(
        DDIM,
        json!({"clip_sample": null}),
        ["`clip_sample` = true", "set it to false"],
    );
    refused(
        LCM,
        json!({"clip_sample": true}),
        ["`clip_sample` = true", "set it to false"],
    );
    refused(
        UNIPC,
        json!({"thresholding": true}),
        ["`thresholding` = true", "set it to false"],
    );
    refused(DDIM, json!({"eta": 2.0}), ["`eta` = 2", "use 0"]);
    refused(
        DDIM,
        json!({"prediction_type": "flow"}),
        ["= flow", "epsilon, v_prediction, sample"],
    );
    refused(
        PNDM,
        json!({"prediction_type": "sample"}),
        ["= sample", "epsilon, v_prediction"],
    );
    refused(
        PNDM,
        json!({"beta_schedule": "cosine"}),
        ["= cosine", "linear, scaled_linear, squared"],
    );
    refused(
        EULER,
        json!({"timestep_spacing": "log"}),
        ["= log", "linspace, trailing, leading"],
    );
    refused(
        EULER,
        json!({"use_beta_sigmas": true}),
        ["= true", "use_karras_sigmas"],
    );
    refused(
        EULER,
        json!({"trained_betas": []}),
        ["`trained_betas` = a list of 0", "each of the 1000"],
    );
    refused(
        HEUN,
        json!({"num_train_timesteps": 0}),
        ["= 0", "at least one"],
    );
    refused(
        DPM_SOLVER,
        json!({"solver_order": 4}),
        ["`solver_order` = 4", "use 1 to 3"],
    );
    refused(
        DPM_SOLVER,
        json!({"algorithm_type": "dpmsolver"}),
        ["= zero", "use sigma_min"],
    );
    refused(
        DPM_SOLVER,
        json!({"variance_type": "learned"}),
        ["= learned", "null"],
    );
    refused(
        UNIPC,
        json!({"use_flow_sigmas": true}),
        ["= true", "set it to false"],
    );
    refused(
        LCM,
        json!({"original_inference_steps": 0}),
        ["= 0", "use 1 to 1000"],
    );
    refused(
        LCM,
        json!({"original_inference_steps": 4}),
        ["5 inference steps", "use 1 to 4"],
    );
    refused(
        DDIM,
        json!({"steps_offset": 900}),
        ["timestep 1700", "smaller `steps_offset`"],
    );
    refused(
        "FlowMatchEulerDiscreteScheduler",
        json!({}),
        ["`FlowMatchEuler", "DDIMScheduler, PNDM"],
    );
    let no_signal = json!({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing"});
    refused(DDIM, no_signal, ["call 0", "v_prediction"]);
}

const ALL: [&str; 8] = [DDIM, PNDM, EULER, ANCESTRAL, HEUN, DPM_SOLVER, UNIPC, LCM];

#[test]
fn betas_that_cannot_be_are_refused_by_every_scheduler() {
    for class in ALL {
        for length in [0, 1, 999, 1001] {
            refused(
                class,
                json!({"trained_betas": vec![0.01; length]}),
                [&format!("a list of {length}"), "num_train_timesteps"],
            );
        }
        for beta in [-0.1, 1.1, 1e300] {
            let mut betas = vec![0.01; 1000];
            betas[500] = beta;
            refused(
                class,
                json!({"trained_betas": betas}),
                ["`trained_betas`", "0 to 1"],
            );
            refused(class, json!({"beta_end": beta}), ["`beta_end`", "0 to 1"]);
            refused(
                class,
                json!({"beta_start": beta}),
                ["`beta_start`", "0 to 1"],
            );
        }
        // As many as there are timesteps are well.
        let config = json!({"trained_betas": vec![0.01; 1000]});
        Schedule::new(&parse(class, config), 10).unwrap();
    }
}

#[test]
fn solver_orders_that_cannot_be_are_refused_by_every_scheduler_that_reads_them() {
    for class in [DPM_SOLVER, UNIPC] {
        for order in [0, 99, usize::MAX] {
            refused(
                class,
                json!({"solver_order": order}),
                ["`solver_order`", "use 1 to"],
            );
        }
    }
}

#[test]
fn step_counts_have_limits() {
    let steps = |steps, max| ScheduleError::Steps {
        steps,
        key: "num_train_timesteps",
        max,
    };
    assert_eq!(refusal(DDIM, json!({}), 0), steps(0, 1000));
    assert_eq!(
        refusal(PNDM, json!({"num_train_timesteps": 50}), 51),
        steps(51, 50)
    );
    let few = refusal(PNDM, json!({"skip_prk_steps": null}), 3).to_string();
    assert!(few.contains("at least 4 inference steps, not 3"), "{few}");
    let crowded = refusal(DPM_SOLVER, json!({"timestep_spacing": "leading"}), 1000);
    assert_eq!(crowded, ScheduleError::NotFinite { call: 1 });
}

#[test]
fn python_infinities_are_read() {
    let config: SchedulerConfig =
        r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "Infinity": "Infinity"}"#
            .parse()
            .unwrap();
    assert_eq!(config.lambda_min_clipped, Some(f64::MIN));
    let error = r#"{"_class_name": "DDIMScheduler", "beta_start": "a"}"#
        .parse::<SchedulerConfig>()
        .unwrap_err();
    assert!(error.to_string().contains("expected f64"), "{error}");
}

#[test]
fn a_change_of_class_keeps_what_the_file_says() {
    let config: SchedulerConfig = r#"{
        "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "use_exponential_sigmas": true,
        "interpolation_type": "linear", "solver_order": 3
    }"#
    .parse()
    .unwrap();
    let unipc = config.with_class("unipc").unwrap();
    assert_eq!(
        (unipc.timestep_spacing, unipc.solver_order),
        (Some("leading".to_owned()), Some(3))
    );
    let karras = config.with_class("dpmpp-2m-karras").unwrap();
    assert_eq!(
        (karras.use_karras_sigmas, karras.use_exponential_sigmas),
        (Some(true), None)
    );
    assert_eq!(
        (karras.solver_order, karras.algorithm_type.as_deref()),
        (Some(2), Some("dpmsolver++"))
    );
    let error = config.with_class("dpm").unwrap_err();
    assert!(
        error.to_string().contains("`dpm`") && error.to_string().contains("dpmpp-2m-karras"),
        "{error}"
    );
}

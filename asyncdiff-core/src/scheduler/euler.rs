//! `EulerDiscreteScheduler` and `EulerAncestralDiscreteScheduler`: Euler's method in the noise level, algorithm 2 of
//! Karras et al., "Elucidating the design space of diffusion-based generative models", without churn.

use super::config::{SchedulerConfig, choose};
use super::level::{Level, NOISE_PREDICTION_TYPES, PREDICTION_TYPES, PredictionType};
use super::linear::Linear;
use super::sigmas::{SigmaTable, initial_deviation, to_single};
use super::timesteps::Spacing;
use super::{NoiseLevel, Schedule, ScheduleError, Step, skip};
use crate::value::Value;

pub(super) fn schedule(
    config: &SchedulerConfig,
    steps: usize,
    skipped: usize,
) -> Result<Schedule, ScheduleError> {
    let mut known = PREDICTION_TYPES.to_vec();
    known.push(("original_sample", PredictionType::Sample));
    let kind = config.prediction_type(&known)?;
    let spacing = config.spacing(Spacing::Linspace)?;
    let continuous = choose(
        "timestep_type",
        config.timestep_type.as_deref(),
        &[("discrete", false), ("continuous", true)],
    )?;
    let log_linear = choose(
        "interpolation_type",
        config.interpolation_type.as_deref(),
        &[("linear", false), ("log_linear", true)],
    )?;
    let table = SigmaTable::new(config)?;
    let mut timesteps = to_single(config.timesteps(spacing, steps));
    let mut sigmas: Vec<f64> = if log_linear {
        // One level more than steps, as in diffusers: the run ends on the lowest level, or has one call more if the
        // timesteps follow the levels.
        table.log_spaced(steps + 1)
    } else {
        timesteps
            .iter()
            .map(|timestep| table.at(*timestep))
            .collect()
    };
    let ends = (sigmas[0], sigmas[sigmas.len() - 1]);
    if let Some(spaced) = table.spaced(config, config.sigma_spacing(false)?, ends, steps) {
        timesteps = to_single(spaced.iter().map(|sigma| table.timestep(*sigma)));
        sigmas = spaced;
    }
    sigmas.push(config.final_sigma(table.lowest())?);
    let mut sigmas = to_single(sigmas);
    if continuous && kind == PredictionType::Velocity {
        timesteps = to_single(
            sigmas[..sigmas.len() - 1]
                .iter()
                .map(|sigma| 0.25 * sigma.ln()),
        );
    }

    let init_noise_sigma = initial_deviation(&sigmas, spacing == Spacing::Leading);
    skip(skipped, &mut timesteps, &mut sigmas)?;
    let step = |call: usize| step(kind, call, sigmas[call], sigmas[call + 1], 0.0);
    Ok(Schedule {
        steps: (0..timesteps.len()).map(step).collect(),
        levels: NoiseLevel::on_top(&sigmas),
        timesteps,
        prediction_type: kind,
        init_noise_sigma,
        sigmas: Some(sigmas),
    })
}

pub(super) fn ancestral(
    config: &SchedulerConfig,
    steps: usize,
    skipped: usize,
) -> Result<Schedule, ScheduleError> {
    let kind = config.prediction_type(NOISE_PREDICTION_TYPES)?;
    let spacing = config.spacing(Spacing::Linspace)?;
    let table = SigmaTable::new(config)?;
    let mut timesteps = to_single(config.timesteps(spacing, steps));
    let levels = timesteps.iter().map(|timestep| table.at(*timestep));
    let mut sigmas = to_single(levels.chain([0.0]));
    let init_noise_sigma = initial_deviation(&sigmas, spacing == Spacing::Leading);
    skip(skipped, &mut timesteps, &mut sigmas)?;

    let step = |call: usize| {
        let (from, to) = (sigmas[call], sigmas[call + 1]);
        // As much fresh noise as the exact reverse process has; Euler's method goes below the target to make room.
        let fresh = (to * to * (from * from - to * to) / (from * from)).sqrt();
        let down = (to * to - fresh * fresh).sqrt();
        step(kind, call, from, down, fresh)
    };
    Ok(Schedule {
        steps: (0..timesteps.len()).map(step).collect(),
        levels: NoiseLevel::on_top(&sigmas),
        timesteps,
        prediction_type: kind,
        init_noise_sigma,
        sigmas: Some(sigmas),
    })
}

/// One Euler step between two noise levels, and fresh noise on top.
fn step(kind: PredictionType, call: usize, from: f64, to: f64, fresh: f64) -> Step {
    let latents = Linear::of(Value::Latents.at(call));
    let ratio = to / from;
    let next = latents
        .times(ratio)
        .plus(1.0 - ratio, &sample(kind, from, call))
        .plus(fresh, &Linear::of(Value::Noise.at(call)));
    Step {
        input_scale: Level::from_sigma(from).alpha,
        combines: vec![next.into_combine(Value::Latents.at(call + 1))],
    }
}

/// The sample that call `call` predicts, from latents that are `sample + sigma · noise`.
pub(super) fn sample(kind: PredictionType, sigma: f64, call: usize) -> Linear {
    let level = Level::from_sigma(sigma);
    let latents = Linear::of(Value::Latents.at(call)).times(level.alpha);
    level.sample(kind, &latents, &Linear::of(Value::Prediction.at(call)))
}

//! `HeunDiscreteScheduler`: Heun's method in the noise level, algorithm 1 of Karras et al., "Elucidating the design space
//! of diffusion-based generative models".

use super::config::SchedulerConfig;
use super::euler::sample;
use super::level::{Level, PREDICTION_TYPES, PredictionType};
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
    config.no_clipping(false)?;
    let kind = config.prediction_type(PREDICTION_TYPES)?;
    let spacing = config.spacing(Spacing::Linspace)?;
    let table = SigmaTable::new(config)?;
    let mut timesteps = to_single(config.timesteps(spacing, steps));
    let mut levels: Vec<f64> = timesteps
        .iter()
        .map(|timestep| table.at(*timestep))
        .collect();
    let ends = (levels[0], levels[levels.len() - 1]);
    if let Some(spaced) = table.spaced(config, config.sigma_spacing(false)?, ends, steps) {
        timesteps = to_single(spaced.iter().map(|sigma| table.timestep(*sigma)));
        levels = spaced;
    }
    let mut levels = to_single(levels);
    let init_noise_sigma = initial_deviation(&levels, spacing == Spacing::Leading);
    skip(skipped, &mut timesteps, &mut levels)?;

    // Every level but the first is visited twice: by a trial step, and to repeat that step with the mean slope. The step
    // to noise level 0 has no slope at its end, so it stays a trial step.
    let twice = |values: &[f64]| -> Vec<f64> {
        let (first, rest) = values.split_at(1);
        first
            .iter()
            .copied()
            .chain(rest.iter().flat_map(|value| [*value; 2]))
            .collect()
    };
    let timesteps = twice(&timesteps);
    let mut sigmas = twice(&levels);
    sigmas.push(0.0);

    let step = |call: usize| {
        let next = if call.is_multiple_of(2) {
            let (from, to) = (sigmas[call], sigmas[call + 1]);
            let ratio = to / from;
            latents(call)
                .times(ratio)
                .plus(1.0 - ratio, &sample(kind, from, call))
        } else {
            let (from, to) = (sigmas[call - 1], sigmas[call]);
            let half = 0.5 * (to - from);
            latents(call - 1)
                .plus(half, &slope(kind, from, call - 1))
                .plus(half, &slope(kind, to, call))
        };
        Step {
            input_scale: Level::from_sigma(sigmas[call]).alpha,
            combines: vec![next.into_combine(Value::Latents.at(call + 1))],
        }
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

fn latents(call: usize) -> Linear {
    Linear::of(Value::Latents.at(call))
}

/// The derivative of the latents by the noise level.
fn slope(kind: PredictionType, sigma: f64, call: usize) -> Linear {
    latents(call)
        .plus(-1.0, &sample(kind, sigma, call))
        .times(1.0 / sigma)
}

//! `LCMScheduler`: Luo et al., "Latent consistency models", multistep sampling.

use super::config::SchedulerConfig;
use super::level::PREDICTION_TYPES;
use super::linear::Linear;
use super::noise_table::{level_at, levels_at};
use super::{Schedule, ScheduleError, Step};
use crate::value::Value;

/// The standard deviation of the data that the boundary conditions assume.
const SIGMA_DATA: f64 = 0.5;

pub(super) fn schedule(
    config: &SchedulerConfig,
    steps: usize,
    skipped: usize,
) -> Result<Schedule, ScheduleError> {
    config.no_clipping(false)?;
    let kind = config.prediction_type(PREDICTION_TYPES)?;
    let table = config.alphas_cumprod()?;
    let mut timesteps = timesteps(config, steps)?;
    timesteps.drain(..skipped);
    let scaling = config.timestep_scaling.unwrap_or(10.0);

    let step = |call: usize| {
        let timestep = timesteps[call];
        let from = level_at(&table, timestep)?;
        let latents = Linear::of(Value::Latents.at(call));
        let sample = from.sample(kind, &latents, &Linear::of(Value::Prediction.at(call)));
        let scaled = timestep as f64 * scaling;
        let denominator = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        let denoised = sample
            .times(scaled / denominator.sqrt())
            .plus(SIGMA_DATA * SIGMA_DATA / denominator, &latents);
        let next = match timesteps.get(call + 1) {
            Some(timestep) => {
                let to = level_at(&table, *timestep)?;
                denoised
                    .times(to.alpha)
                    .plus(to.sigma, &Linear::of(Value::Noise.at(call)))
            }
            None => denoised,
        };
        Ok(Step {
            input_scale: 1.0,
            combines: vec![next.into_combine(Value::Latents.at(call + 1))],
        })
    };
    let steps = (0..timesteps.len()).map(step).collect::<Result<_, _>>()?;
    let timesteps: Vec<f64> = timesteps
        .into_iter()
        .map(|timestep| timestep as f64)
        .collect();
    Ok(Schedule {
        steps,
        levels: levels_at(&table, &timesteps)?,
        timesteps,
        prediction_type: kind,
        init_noise_sigma: 1.0,
        sigmas: None,
    })
}

/// Evenly spaced entries of the schedule that the model was distilled with, from the noisiest on.
fn timesteps(config: &SchedulerConfig, steps: usize) -> Result<Vec<i64>, ScheduleError> {
    let key = "original_inference_steps";
    let training = config.num_train_timesteps();
    let original = config.original_inference_steps.unwrap_or(50);
    if !(1..=training).contains(&original) {
        return Err(ScheduleError::setting(
            key,
            original,
            format!("use 1 to {training}"),
        ));
    }
    if steps > original {
        return Err(ScheduleError::Steps {
            steps,
            key,
            max: original,
        });
    }
    let stride = training / original;
    let spacing = original as f64 / steps as f64;
    let skipped = (0..steps).map(|index| (index as f64 * spacing) as usize);
    Ok(skipped
        .map(|skipped| ((original - skipped) * stride) as i64 - 1)
        .collect())
}

//! `DDIMScheduler`: Song et al., "Denoising diffusion implicit models", equation 12.

use super::config::SchedulerConfig;
use super::level::{Level, PREDICTION_TYPES};
use super::linear::Linear;
use super::noise_table::{level_at, levels_at};
use super::timesteps::Spacing;
use super::{Schedule, ScheduleError, Step};
use crate::value::Value;

pub(super) fn schedule(
    config: &SchedulerConfig,
    steps: usize,
    skipped: usize,
) -> Result<Schedule, ScheduleError> {
    config.no_clipping(true)?;
    let eta = config.eta.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&eta) {
        return Err(ScheduleError::setting(
            "eta",
            eta,
            "use 0 (deterministic) to 1",
        ));
    }
    let kind = config.prediction_type(PREDICTION_TYPES)?;
    let table = config.alphas_cumprod()?;
    let spacing = config.spacing(Spacing::Leading)?;
    let timesteps: Vec<f64> = config
        .timesteps(spacing, steps)
        .into_iter()
        .skip(skipped)
        .map(f64::round_ties_even)
        .collect();
    let stride = (config.num_train_timesteps() / steps) as i64;
    let end = Level::from_alphas_cumprod(if config.set_alpha_to_one.unwrap_or(true) {
        1.0
    } else {
        table[0]
    });

    let step = |(call, timestep): (usize, &f64)| {
        // Not the next timestep of the list: diffusers steps by the stride of leading spacing, whatever the spacing is.
        let next = *timestep as i64 - stride;
        let from = level_at(&table, *timestep as i64)?;
        let to = if next < 0 {
            end
        } else {
            level_at(&table, next)?
        };
        let latents = Linear::of(Value::Latents.at(call));
        let prediction = Linear::of(Value::Prediction.at(call));

        // Equation 16, the standard deviation of the fresh noise.
        let deviation =
            eta * (to.sigma / from.sigma) * (1.0 - (from.alpha / to.alpha).powi(2)).sqrt();
        let direction = (to.sigma.powi(2) - deviation.powi(2)).sqrt();
        let next_latents = Linear::default()
            .plus(to.alpha, &from.sample(kind, &latents, &prediction))
            .plus(direction, &from.noise(kind, &latents, &prediction))
            .plus(deviation, &Linear::of(Value::Noise.at(call)));
        Ok(Step {
            input_scale: 1.0,
            combines: vec![next_latents.into_combine(Value::Latents.at(call + 1))],
        })
    };
    Ok(Schedule {
        steps: timesteps
            .iter()
            .enumerate()
            .map(step)
            .collect::<Result<_, _>>()?,
        levels: levels_at(&table, &timesteps)?,
        timesteps,
        prediction_type: kind,
        init_noise_sigma: 1.0,
        sigmas: None,
    })
}

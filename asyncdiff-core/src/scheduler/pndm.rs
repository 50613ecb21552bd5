//! `PNDMScheduler`: Liu et al., "Pseudo numerical methods for diffusion models on manifolds".

use super::config::SchedulerConfig;
use super::level::{Level, NOISE_PREDICTION_TYPES, PredictionType};
use super::linear::Linear;
use super::noise_table::{level_at, levels_at};
use super::timesteps::Spacing;
use super::{Schedule, ScheduleError, Step};
use crate::value::Value;

/// Calls in one pseudo Runge-Kutta step.
const RUNGE_KUTTA_CALLS: usize = 4;

pub(super) fn schedule(
    config: &SchedulerConfig,
    steps: usize,
    skipped: usize,
) -> Result<Schedule, ScheduleError> {
    let solver = Solver::new(config, steps)?;
    let skip_runge_kutta = config.skip_prk_steps.unwrap_or(false);
    if !skip_runge_kutta && steps - skipped < RUNGE_KUTTA_CALLS {
        return Err(ScheduleError::setting(
            "skip_prk_steps",
            false,
            format!(
                "Runge-Kutta steps need at least 4 inference steps, not {}; set it to true, or use more steps",
                steps - skipped
            ),
        ));
    }
    let spacing = config.spacing(Spacing::Leading)?;
    let grid = config
        .timesteps(spacing, steps)
        .into_iter()
        // Part-way, the multistep method starts afresh: its second timestep is the one that is visited twice.
        .skip(skipped)
        .map(f64::round_ties_even);
    let grid: Vec<i64> = grid.map(|timestep| timestep as i64).collect();
    let (timesteps, steps) = if skip_runge_kutta {
        solver.multistep(&grid)?
    } else {
        solver.runge_kutta_first(&grid)?
    };
    let timesteps: Vec<f64> = timesteps
        .into_iter()
        .map(|timestep| timestep as f64)
        .collect();
    Ok(Schedule {
        levels: levels_at(&solver.table, &timesteps)?,
        timesteps,
        prediction_type: solver.kind,
        init_noise_sigma: 1.0,
        sigmas: None,
        steps,
    })
}

struct Solver {
    table: Vec<f64>,
    kind: PredictionType,
    end: Level,
    stride: i64,
}

type Steps = (Vec<i64>, Vec<Step>);

impl Solver {
    fn new(config: &SchedulerConfig, steps: usize) -> Result<Self, ScheduleError> {
        let table = config.alphas_cumprod()?;
        Ok(Self {
            kind: config.prediction_type(NOISE_PREDICTION_TYPES)?,
            end: Level::from_alphas_cumprod(if config.set_alpha_to_one.unwrap_or(false) {
                1.0
            } else {
                table[0]
            }),
            stride: (config.num_train_timesteps() / steps) as i64,
            table,
        })
    }

    /// Linear multistep from the first call on. The second timestep is visited twice: the second visit repeats the first
    /// step with the mean of both predictions, and its own prediction is not used later.
    fn multistep(&self, grid: &[i64]) -> Result<Steps, ScheduleError> {
        let mut timesteps = grid.to_vec();
        if let Some(second) = grid.get(1) {
            timesteps.insert(1, *second);
        }
        let mut steps = Vec::new();
        let mut history = Vec::new();
        for (call, timestep) in timesteps.iter().enumerate() {
            let step = if call == 1 {
                let mean = prediction(0).times(0.5).plus(0.5, &prediction(1));
                self.step(0, mean, (timestep + self.stride, *timestep), call)
            } else {
                history.push(call);
                self.step(
                    call,
                    combined(&history),
                    (*timestep, timestep - self.stride),
                    call,
                )
            };
            steps.push(step?);
        }
        Ok((timesteps, steps))
    }

    /// Three Runge-Kutta steps of four calls each, then linear multistep.
    fn runge_kutta_first(&self, grid: &[i64]) -> Result<Steps, ScheduleError> {
        let half = self.stride / 2;
        let mut timesteps = Vec::new();
        let mut steps = Vec::new();
        let mut history = Vec::new();
        for pair in grid.windows(2).take(3) {
            let first = timesteps.len();
            let middle = pair[1] + half;
            for (stage, timestep) in [pair[0], middle, middle, pair[1]].into_iter().enumerate() {
                let call = first + stage;
                let (mix, to) = match stage {
                    0 | 2 => (prediction(call), timestep - half),
                    1 => (prediction(call), timestep),
                    _ => {
                        let mix = prediction(first)
                            .times(1.0 / 6.0)
                            .plus(1.0 / 3.0, &prediction(first + 1))
                            .plus(1.0 / 3.0, &prediction(first + 2))
                            .plus(1.0 / 6.0, &prediction(first + 3));
                        (mix, timestep)
                    }
                };
                steps.push(self.step(first, mix, (pair[0], to), call)?);
                timesteps.push(timestep);
            }
            history.push(first);
        }
        for timestep in &grid[3..] {
            let call = timesteps.len();
            history.push(call);
            steps.push(self.step(
                call,
                combined(&history),
                (*timestep, timestep - self.stride),
                call,
            )?);
            timesteps.push(*timestep);
        }
        Ok((timesteps, steps))
    }

    /// The paper's transfer from one timestep to another, from the latents before call `start`, with a mix of predictions.
    /// The result is the latents after `call`.
    fn step(
        &self,
        start: usize,
        mix: Linear,
        (from, to): (i64, i64),
        call: usize,
    ) -> Result<Step, ScheduleError> {
        let from = level_at(&self.table, from)?;
        let to = if to < 0 {
            self.end
        } else {
            level_at(&self.table, to)?
        };
        let latents = Linear::of(Value::Latents.at(start));
        let noise = from.noise(self.kind, &latents, &mix);
        // The published form of `to.alpha · sample + to.sigma · noise`, which loses no digits between close levels.
        let denominator = from.alpha * (from.alpha * to.sigma + from.sigma * to.alpha);
        let weight = (from.alpha.powi(2) - to.alpha.powi(2)) / denominator;
        let next = latents.times(to.alpha / from.alpha).plus(weight, &noise);
        Ok(Step {
            input_scale: 1.0,
            combines: vec![next.into_combine(Value::Latents.at(call + 1))],
        })
    }
}

fn prediction(call: usize) -> Linear {
    Linear::of(Value::Prediction.at(call))
}

/// The Adams-Bashforth mix of the newest predictions, up to fourth order.
fn combined(history: &[usize]) -> Linear {
    let weights: &[f64] = match history.len() {
        1 => &[1.0],
        2 => &[3.0 / 2.0, -1.0 / 2.0],
        3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
        _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
    };
    let newest = history.iter().rev().zip(weights);
    newest.fold(Linear::default(), |mix, (call, weight)| {
        mix.plus(*weight, &prediction(*call))
    })
}

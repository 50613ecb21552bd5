//! `UniPCMultistepScheduler`: Zhao et al., "UniPC: a unified predictor-corrector framework", in its B(h) form.
//!
//! After every call but the first, the corrector revises the latents that the call has read
//! ([`Value::Corrected`]), and the predictor continues from there. The model is not called again for them.

use super::config::{SchedulerConfig, choose, off};
use super::level::{Level, PREDICTION_TYPES, PredictionType};
use super::linear::Linear;
use super::sigmas::{SigmaSpacing, SigmaTable, to_single};
use super::timesteps::Spacing;
use super::{Schedule, ScheduleError, Step, skip};
use crate::value::{Value, Versioned};

/// Beyond that, the equations for a step's weights have lost most of their digits.
const MOST_ORDER: usize = 8;

pub(super) fn schedule(
    config: &SchedulerConfig,
    steps: usize,
    skipped: usize,
) -> Result<Schedule, ScheduleError> {
    let (mut timesteps, mut sigmas) = noise_levels(config, steps)?;
    skip(skipped, &mut timesteps, &mut sigmas)?;
    let solver = Solver::new(config, &sigmas)?;
    Ok(Schedule {
        steps: (0..timesteps.len()).map(|call| solver.step(call)).collect(),
        levels: sigmas
            .iter()
            .map(|sigma| Level::from_sigma(*sigma).into())
            .collect(),
        timesteps,
        prediction_type: solver.kind,
        init_noise_sigma: 1.0,
        sigmas: Some(sigmas),
    })
}

/// The timesteps, and the noise levels with the final one.
fn noise_levels(
    config: &SchedulerConfig,
    steps: usize,
) -> Result<(Vec<f64>, Vec<f64>), ScheduleError> {
    let table = SigmaTable::new(config)?;
    let end = config.num_train_timesteps();
    let mut timesteps = config.multistep_timesteps(config.spacing(Spacing::Linspace)?, steps, end);
    let mut sigmas: Vec<f64> = timesteps
        .iter()
        .map(|timestep| table.at(*timestep))
        .collect();
    let mut lowest = table.lowest();
    let spacing = config.sigma_spacing(false)?;
    if let Some(spaced) = table.spaced(config, spacing, (table.highest(), lowest), steps) {
        let rounded = spacing == SigmaSpacing::Karras;
        timesteps = spaced
            .iter()
            .map(|sigma| table.whole_timestep(*sigma, rounded))
            .collect();
        lowest = spaced[spaced.len() - 1];
        sigmas = spaced;
    }
    sigmas.push(config.final_sigma(lowest)?);
    Ok((timesteps, to_single(sigmas)))
}

struct Solver {
    levels: Vec<Level>,
    calls: usize,
    kind: PredictionType,
    update: Update,
    order: usize,
    lower_order_final: bool,
    uncorrected: Vec<usize>,
}

impl Solver {
    fn new(config: &SchedulerConfig, sigmas: &[f64]) -> Result<Self, ScheduleError> {
        config.no_thresholding()?;
        off(
            "use_flow_sigmas",
            config.use_flow_sigmas,
            "flow matching is not supported; set it to false",
        )?;
        if let Some(solver) = &config.solver_p {
            return Err(ScheduleError::setting(
                "solver_p",
                solver,
                "another predictor is not supported; set it to null",
            ));
        }
        let order = config.solver_order.unwrap_or(2);
        if !(1..=MOST_ORDER).contains(&order) {
            let remedy = format!("use 1 to {MOST_ORDER}; 2 is common");
            return Err(ScheduleError::setting("solver_order", order, remedy));
        }
        let exponential = choose(
            "solver_type",
            config.solver_type.as_deref(),
            // The names of other solvers' types stand for the default, as in diffusers.
            &[
                ("bh2", true),
                ("bh1", false),
                ("midpoint", true),
                ("heun", true),
                ("logrho", true),
            ],
        )?;
        Ok(Self {
            levels: sigmas
                .iter()
                .map(|sigma| Level::from_sigma(*sigma))
                .collect(),
            calls: sigmas.len() - 1,
            kind: config.prediction_type(PREDICTION_TYPES)?,
            update: Update {
                of_sample: config.predict_x0.unwrap_or(true),
                exponential,
            },
            order,
            lower_order_final: config.lower_order_final.unwrap_or(true),
            uncorrected: config.disable_corrector.clone().unwrap_or_default(),
        })
    }

    /// The order of the predictor after a call, and of the corrector after the next call.
    fn order(&self, call: usize) -> usize {
        let left = if self.lower_order_final {
            self.calls - call
        } else {
            self.order
        };
        self.order.min(left).min(call + 1)
    }

    /// The latents at a call that the solver continues from.
    fn latents(&self, call: usize) -> Versioned {
        if call > 0 && !self.uncorrected.contains(&(call - 1)) {
            Value::Corrected.at(call)
        } else {
            Value::Latents.at(call)
        }
    }

    fn step(&self, call: usize) -> Step {
        let mut combines = Vec::new();
        let latents = self.latents(call);
        if latents.value == Value::Corrected {
            let corrected = self.multistep(call - 1, self.order(call - 1), Some(self.model(call)));
            combines.push(corrected.into_combine(latents));
        }
        combines.push(
            self.multistep(call, self.order(call), None)
                .into_combine(Value::Latents.at(call + 1)),
        );
        Step {
            input_scale: 1.0,
            combines,
        }
    }

    /// The latents one step after `call`; with a prediction `at_target`, corrected by it.
    fn multistep(&self, call: usize, order: usize, at_target: Option<Linear>) -> Linear {
        let earlier: Vec<(Level, Linear)> = (1..order)
            .map(|back| (self.levels[call - back], self.model(call - back)))
            .collect();
        let latents = Linear::of(self.latents(call));
        let levels = (self.levels[call], self.levels[call + 1]);
        self.update
            .apply(&latents, &self.model(call), levels, &earlier, at_target)
    }

    /// What is integrated, at a call. It belongs to the latents that the model has read, not to the corrected ones.
    fn model(&self, call: usize) -> Linear {
        let latents = Linear::of(Value::Latents.at(call));
        let prediction = Linear::of(Value::Prediction.at(call));
        let level = self.levels[call];
        if self.update.of_sample {
            level.sample(self.kind, &latents, &prediction)
        } else {
            level.noise(self.kind, &latents, &prediction)
        }
    }
}

/// The form of the update.
struct Update {
    /// Integrate the predicted sample rather than the predicted noise.
    of_sample: bool,
    /// B(h) is `exp(h) - 1` (bh2) rather than `h` (bh1).
    exponential: bool,
}

impl Update {
    /// The exact solution for a constant integrand, plus a correction by its differences to earlier values and, in the
    /// corrector, to the value at the target.
    fn apply(
        &self,
        latents: &Linear,
        newest: &Linear,
        (from, to): (Level, Level),
        earlier: &[(Level, Linear)],
        at_target: Option<Linear>,
    ) -> Linear {
        let step = to.lambda() - from.lambda();
        let h = if self.of_sample { -step } else { step };
        let (ratio, scale) = if self.of_sample {
            (to.sigma / from.sigma, to.alpha)
        } else {
            (to.alpha / from.alpha, to.sigma)
        };
        let constant = latents.times(ratio).plus(-scale * h.exp_m1(), newest);

        let mut positions = Vec::new();
        let mut differences = Vec::new();
        for (level, model) in earlier {
            let position = (level.lambda() - from.lambda()) / step;
            positions.push(position);
            differences.push(model.clone().plus(-1.0, newest).times(1.0 / position));
        }
        if let Some(model) = at_target {
            positions.push(1.0);
            differences.push(model.plus(-1.0, newest));
        }
        // The published shortcuts: with one difference, its weight is a half.
        let weights = match positions.len() {
            0 => return constant,
            1 => vec![0.5],
            _ => self.weights(h, &positions),
        };
        let scale = -scale * if self.exponential { h.exp_m1() } else { h };
        let terms = weights.iter().zip(&differences);
        terms.fold(constant, |sum, (weight, difference)| {
            sum.plus(scale * weight, difference)
        })
    }

    /// The weights of the differences that make the update exact for polynomials: a Vandermonde system.
    fn weights(&self, h: f64, positions: &[f64]) -> Vec<f64> {
        let b_h = if self.exponential { h.exp_m1() } else { h };
        let mut phi = h.exp_m1() / h - 1.0;
        let mut factorial = 1.0;
        let mut rows = Vec::new();
        for power in 0..positions.len() {
            let mut row: Vec<f64> = positions
                .iter()
                .map(|position| position.powi(power as i32))
                .collect();
            row.push(phi * factorial / b_h);
            rows.push(row);
            factorial *= (power + 2) as f64;
            phi = phi / h - 1.0 / factorial;
        }
        solve(rows)
    }
}

/// Solves a small linear system; every row ends with its right-hand side. A singular one has a solution that is not
/// finite.
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let count = rows.len();
    for column in 0..count {
        let pivot = (column..count)
            .max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        let pivot = rows[column].clone();
        for (index, row) in rows.iter_mut().enumerate() {
            if index != column {
                let factor = row[column] / pivot[column];
                row.iter_mut()
                    .zip(&pivot)
                    .for_each(|(entry, above)| *entry -= factor * above);
            }
        }
    }
    rows.iter()
        .enumerate()
        .map(|(index, row)| row[count] / row[index])
        .collect()
}

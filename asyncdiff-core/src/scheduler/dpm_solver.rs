//! `DPMSolverMultistepScheduler`: Lu et al., "DPM-Solver" and "DPM-Solver++", multistep, and their stochastic variants.

use super::config::{SchedulerConfig, choose, off};
use super::level::{Level, PREDICTION_TYPES, PredictionType};
use super::linear::Linear;
use super::sigmas::{SigmaSpacing, SigmaTable, to_single};
use super::timesteps::Spacing;
use super::{Schedule, ScheduleError, Step, skip};
use crate::value::Value;

/// What is integrated over the half logarithm of the signal-to-noise ratio, and whether noise is added on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    /// `dpmsolver++`, `sde-dpmsolver++`: the predicted sample.
    Sample { stochastic: bool },
    /// `dpmsolver`, `sde-dpmsolver`: the predicted noise.
    Noise { stochastic: bool },
}

/// How the difference of two predictions enters a second-order step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SolverType {
    Midpoint,
    Heun,
}

pub(super) fn schedule(
    config: &SchedulerConfig,
    steps: usize,
    skipped: usize,
) -> Result<Schedule, ScheduleError> {
    let (mut timesteps, mut sigmas) = noise_levels(config, steps)?;
    let all = timesteps.len();
    skip(skipped, &mut timesteps, &mut sigmas)?;
    let solver = Solver::new(config, all, &sigmas)?;
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
    let clip = config.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY);
    let end = config
        .num_train_timesteps()
        .saturating_sub(table.count_below(clip));
    if end == 0 {
        return Err(ScheduleError::setting(
            "lambda_min_clipped",
            clip,
            "leaves no timestep; use a lower value",
        ));
    }
    let mut timesteps = config.multistep_timesteps(config.spacing(Spacing::Linspace)?, steps, end);
    let mut sigmas: Vec<f64> = timesteps
        .iter()
        .map(|timestep| table.at(*timestep))
        .collect();
    let spacing = config.sigma_spacing(true)?;
    if let Some(spaced) = table.spaced(config, spacing, (table.highest(), table.lowest()), steps) {
        let cosine = config.trained_betas.is_none()
            && config.beta_schedule.as_deref() == Some("squaredcos_cap_v2");
        let rounded = spacing != SigmaSpacing::Exponential && !cosine;
        timesteps = spaced
            .iter()
            .map(|sigma| table.whole_timestep(*sigma, rounded))
            .collect();
        sigmas = spaced;
    }
    sigmas.push(config.final_sigma(table.lowest())?);
    Ok((timesteps, to_single(sigmas)))
}

struct Solver {
    levels: Vec<Level>,
    calls: usize,
    kind: PredictionType,
    algorithm: Algorithm,
    solver_type: SolverType,
    order: usize,
    /// The last step is of first order.
    first_at_end: bool,
    /// The last step but one is of second order at most.
    second_at_end: bool,
}

impl Solver {
    /// `all` is the number of calls of the whole schedule, `sigmas` the levels of the part that is run.
    fn new(config: &SchedulerConfig, all: usize, sigmas: &[f64]) -> Result<Self, ScheduleError> {
        config.no_thresholding()?;
        off(
            "use_flow_sigmas",
            config.use_flow_sigmas,
            "flow matching is not supported; set it to false",
        )?;
        // Other values are settings of samplers that the configuration was written for.
        if let Some(variance @ ("learned" | "learned_range")) = config.variance_type.as_deref() {
            let remedy = "models that predict a variance are not supported; set it to null if this one does not";
            return Err(ScheduleError::setting("variance_type", variance, remedy));
        }
        let algorithm = choose(
            "algorithm_type",
            config.algorithm_type.as_deref(),
            &[
                ("dpmsolver++", Algorithm::Sample { stochastic: false }),
                ("sde-dpmsolver++", Algorithm::Sample { stochastic: true }),
                ("dpmsolver", Algorithm::Noise { stochastic: false }),
                ("sde-dpmsolver", Algorithm::Noise { stochastic: true }),
                // The names of related solvers stand for the nearest one here, as in diffusers.
                ("deis", Algorithm::Sample { stochastic: false }),
            ],
        )?;
        let solver_type = choose(
            "solver_type",
            config.solver_type.as_deref(),
            &[
                ("midpoint", SolverType::Midpoint),
                ("heun", SolverType::Heun),
                ("logrho", SolverType::Midpoint),
                ("bh1", SolverType::Midpoint),
                ("bh2", SolverType::Midpoint),
            ],
        )?;
        let order = config.solver_order.unwrap_or(2);
        let most = if algorithm == (Algorithm::Noise { stochastic: true }) {
            2
        } else {
            3
        };
        if !(1..=most).contains(&order) {
            return Err(ScheduleError::setting(
                "solver_order",
                order,
                format!("use 1 to {most}"),
            ));
        }
        let ends_at_zero = sigmas.last() == Some(&0.0);
        if ends_at_zero && matches!(algorithm, Algorithm::Noise { .. }) {
            let remedy = "the dpmsolver and sde-dpmsolver algorithms cannot reach noise level 0; use sigma_min";
            return Err(ScheduleError::setting("final_sigmas_type", "zero", remedy));
        }
        let few = config.lower_order_final.unwrap_or(true) && all < 15;
        Ok(Self {
            levels: sigmas
                .iter()
                .map(|sigma| Level::from_sigma(*sigma))
                .collect(),
            calls: sigmas.len() - 1,
            kind: config.prediction_type(PREDICTION_TYPES)?,
            algorithm,
            solver_type,
            order,
            first_at_end: config.euler_at_final.unwrap_or(false) || few || ends_at_zero,
            second_at_end: few,
        })
    }

    /// The order of a step: no more than there are predictions, and lower at the end.
    fn order(&self, call: usize) -> usize {
        let left = self.calls - call;
        let most = match left {
            1 if self.first_at_end => 1,
            2 if self.second_at_end => 2,
            _ => 3,
        };
        self.order.min(call + 1).min(most)
    }

    fn step(&self, call: usize) -> Step {
        let (from, to) = (self.levels[call], self.levels[call + 1]);
        let order = self.order(call);
        let h = to.lambda() - from.lambda();
        let weights = self.weights(from, to, h, order);

        let newest = self.model(call);
        let mut next = Linear::of(Value::Latents.at(call))
            .times(weights.latents)
            .plus(weights.value, &newest)
            .plus(weights.fresh, &Linear::of(Value::Noise.at(call)));
        if order >= 2 {
            let earlier = self.model(call - 1);
            let r0 = (from.lambda() - self.levels[call - 1].lambda()) / h;
            let mut first = newest.plus(-1.0, &earlier).times(1.0 / r0);
            if order == 3 {
                let r1 = (self.levels[call - 1].lambda() - self.levels[call - 2].lambda()) / h;
                let before = earlier.plus(-1.0, &self.model(call - 2)).times(1.0 / r1);
                let change = first.clone().plus(-1.0, &before);
                first = first.plus(r0 / (r0 + r1), &change);
                next = next.plus(weights.second / (r0 + r1), &change);
            }
            next = next.plus(weights.first, &first);
        }
        Step {
            input_scale: 1.0,
            combines: vec![next.into_combine(Value::Latents.at(call + 1))],
        }
    }

    /// What is integrated, at a call.
    fn model(&self, call: usize) -> Linear {
        let latents = Linear::of(Value::Latents.at(call));
        let prediction = Linear::of(Value::Prediction.at(call));
        let level = self.levels[call];
        match self.algorithm {
            Algorithm::Sample { .. } => level.sample(self.kind, &latents, &prediction),
            Algorithm::Noise { .. } => level.noise(self.kind, &latents, &prediction),
        }
    }

    /// The exact integrals of the first terms of the Taylor series over a step of length `h`.
    fn weights(&self, from: Level, to: Level, h: f64, order: usize) -> Weights {
        let midpoint = self.solver_type == SolverType::Midpoint && order == 2;
        match self.algorithm {
            Algorithm::Sample { stochastic } => {
                // Noise that is added on the way makes the past decay twice as fast.
                let rate = if stochastic { 2.0 * h } else { h };
                let decay = (-rate).exp_m1();
                // Diffusers has this sign; the deterministic one makes the term vanish for small steps.
                let half = if stochastic { -0.5 } else { 0.5 };
                Weights {
                    latents: to.sigma / from.sigma * if stochastic { (-h).exp() } else { 1.0 },
                    value: -to.alpha * decay,
                    first: to.alpha
                        * if midpoint {
                            -0.5 * decay
                        } else {
                            decay / rate + 1.0
                        },
                    second: to.alpha * (half - (decay + rate) / (rate * rate)),
                    fresh: if stochastic {
                        to.sigma * (-(-2.0 * h).exp_m1()).sqrt()
                    } else {
                        0.0
                    },
                }
            }
            Algorithm::Noise { stochastic } => {
                let growth = h.exp_m1();
                let twice = if stochastic { 2.0 } else { 1.0 };
                Weights {
                    latents: to.alpha / from.alpha,
                    value: -twice * to.sigma * growth,
                    first: -twice
                        * to.sigma
                        * if midpoint {
                            0.5 * growth
                        } else {
                            growth / h - 1.0
                        },
                    second: -to.sigma * ((growth - h) / (h * h) - 0.5),
                    fresh: if stochastic {
                        to.sigma * (2.0 * h).exp_m1().sqrt()
                    } else {
                        0.0
                    },
                }
            }
        }
    }
}

/// The factors on the latents, on the newest value of the integrand, on its first and second derivative, and on fresh
/// noise.
struct Weights {
    latents: f64,
    value: f64,
    first: f64,
    second: f64,
    fresh: f64,
}

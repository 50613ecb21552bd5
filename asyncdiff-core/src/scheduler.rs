//! Noise schedulers as coefficients.
//!
//! Every step of a noise scheduler is a linear combination of latents, noise predictions and standard normal noise, with
//! weights that depend on the configuration and the number of steps only. So a whole run is known before it starts: a
//! [`Schedule`] lists, for every call of the denoiser, the timestep, the factor on its input, and the combinations that
//! make the next latents. Nothing here touches a tensor; all arithmetic on weights is in `f64`, and the noise tables are
//! rounded to `f32` where diffusers rounds them.
//!
//! [`SchedulerConfig`] is diffusers' `scheduler_config.json`. The classes that it may name, and the short names that
//! [`SchedulerConfig::with_class`] takes, are in [`SCHEDULERS`]. What is not linear (`clip_sample`, `thresholding`) and
//! what is not supported is a [`ScheduleError`] that names the key.
//!
//! ```
//! use asyncdiff_core::plan::{Term, Value};
//! use asyncdiff_core::scheduler::{Schedule, SchedulerConfig};
//!
//! let config: SchedulerConfig = r#"{
//!     "_class_name": "EulerDiscreteScheduler",
//!     "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
//!     "timestep_spacing": "trailing"
//! }"#.parse()?;
//! let schedule = Schedule::new(&config, 4)?;
//! assert_eq!(schedule.timesteps, [999.0, 749.0, 499.0, 249.0]);
//!
//! // Euler's method goes to noise level 0 in its last step: latents - sigma * prediction.
//! let last = &schedule.steps[3].combines[0];
//! assert_eq!(last.out, Value::Latents.at(4));
//! let sigma = schedule.sigmas.as_ref().unwrap()[3];
//! assert!((last.terms[0].weight - 1.0).abs() < 1e-12);
//! assert!((last.terms[1].weight + sigma).abs() < 1e-12);
//!
//! // The same model with another solver.
//! let solver = config.with_class("dpmpp-2m-karras")?;
//! assert_eq!(Schedule::new(&solver, 20)?.calls(), 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod ddim;
mod dpm_solver;
mod error;
mod euler;
mod heun;
mod lcm;
mod level;
mod linear;
mod noise_table;
mod pndm;
mod sigmas;
#[cfg(test)]
mod tests;
mod timesteps;
mod unipc;

use serde::Serialize;

use crate::value::{Combine, Part, Term, Value};
use config::Class;
use level::Level;

pub use config::{NamedScheduler, SCHEDULERS, SchedulerConfig};
pub use error::ScheduleError;
pub use level::PredictionType;

/// A noise scheduler, set up for a number of steps.
///
/// Versions count denoiser calls. [`Value::Latents`] at 0 is given: standard normal noise
/// times [`init_noise_sigma`](Self::init_noise_sigma). The combinations of call `k` may read the latents and corrected
/// latents up to `k`, the predictions up to `k`, and the noise of `k`; they end with the latents at `k + 1`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Schedule {
    /// The timestep of every denoiser call, in the units of the model's time embedding: mostly 0 to 999, but logarithms
    /// of noise levels for models with continuous timesteps.
    pub timesteps: Vec<f64>,
    /// What the model predicts.
    pub prediction_type: PredictionType,
    /// The standard deviation of latents that start as pure noise.
    pub init_noise_sigma: f64,
    /// What the latents before every call are made of, and at the end those of the result.
    pub levels: Vec<NoiseLevel>,
    /// The noise levels that the schedule walks through, one or more beyond the number of calls, for the classes that
    /// are defined by them (diffusers' `scheduler.sigmas`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigmas: Option<Vec<f64>>,
    /// What to do around every denoiser call.
    pub steps: Vec<Step>,
}

/// What latents are made of: `signal · clean latents + noise · standard normal noise` (diffusers' `add_noise`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NoiseLevel {
    /// The factor on the clean latents.
    pub signal: f64,
    /// The factor on the noise.
    pub noise: f64,
}

impl NoiseLevel {
    /// Clean latents.
    const NONE: Self = Self {
        signal: 1.0,
        noise: 0.0,
    };

    /// The picture that is kept outside a mask, at this level.
    pub(crate) fn outside(self) -> [Term; 2] {
        let kept = |value: Value, weight| Term {
            part: Part::Outside,
            ..Term::new(value.at(0), weight)
        };
        [
            kept(Value::Image, self.signal),
            kept(Value::ImageNoise, self.noise),
        ]
    }

    /// The levels of latents to which noise was added without making them smaller.
    fn on_top(sigmas: &[f64]) -> Vec<Self> {
        let level = |sigma: &f64| Self {
            signal: 1.0,
            noise: *sigma,
        };
        sigmas.iter().map(level).collect()
    }
}

/// Leaves out the first steps of a schedule that is defined by its noise levels.
fn skip(
    skipped: usize,
    timesteps: &mut Vec<f64>,
    sigmas: &mut Vec<f64>,
) -> Result<(), ScheduleError> {
    if skipped >= timesteps.len() {
        return Err(ScheduleError::NothingLeft {
            steps: timesteps.len(),
            skipped,
        });
    }
    timesteps.drain(..skipped);
    sigmas.drain(..skipped);
    Ok(())
}

impl From<Level> for NoiseLevel {
    fn from(level: Level) -> Self {
        Self {
            signal: level.alpha,
            noise: level.sigma,
        }
    }
}

/// One denoiser call of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// The factor on the latents that the denoiser gets (diffusers' `scale_model_input`).
    pub input_scale: f64,
    /// What follows the call, in order. The last one makes the next latents.
    pub combines: Vec<Combine>,
}

impl Schedule {
    /// Sets a scheduler up for `num_inference_steps` steps. Most classes call the denoiser once a step; PNDM
    /// makes one call more (nine more with Runge-Kutta steps), Heun's method almost twice as many.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`] if the class or a setting is not supported, if the number of steps is 0 or more than the model
    /// was trained for, or if the settings lead to weights that are not finite (several steps on one noise level, or a
    /// first level without signal for a model that predicts noise).
    pub fn new(
        config: &SchedulerConfig,
        num_inference_steps: usize,
    ) -> Result<Self, ScheduleError> {
        Self::part_way(config, num_inference_steps, 0)
    }

    /// The last part of the schedule of `num_inference_steps` steps, without the first `skipped` of them, for a run that starts
    /// from a picture with the noise of [`levels`](Self::levels)`[0]`. A method of several steps starts afresh there.
    ///
    /// For PNDM this is not what diffusers does: it cuts the list of calls, in which one timestep stands twice, and so gives all
    /// later calls the timestep of the next one.
    ///
    /// # Errors
    ///
    /// As [`Schedule::new`], and if no step is left.
    pub fn part_way(
        config: &SchedulerConfig,
        num_inference_steps: usize,
        skipped: usize,
    ) -> Result<Self, ScheduleError> {
        let class = config.class()?;
        let max = config.num_train_timesteps();
        if max == 0 {
            let remedy = "give at least one timestep";
            return Err(ScheduleError::setting("num_train_timesteps", max, remedy));
        }
        if !(1..=max).contains(&num_inference_steps) {
            return Err(ScheduleError::Steps {
                steps: num_inference_steps,
                key: "num_train_timesteps",
                max,
            });
        }
        if skipped >= num_inference_steps {
            return Err(ScheduleError::NothingLeft {
                steps: num_inference_steps,
                skipped,
            });
        }
        let build = match class {
            Class::Ddim => ddim::schedule,
            Class::Pndm => pndm::schedule,
            Class::Euler => euler::schedule,
            Class::EulerAncestral => euler::ancestral,
            Class::Heun => heun::schedule,
            Class::DpmSolver => dpm_solver::schedule,
            Class::UniPc => unipc::schedule,
            Class::Lcm => lcm::schedule,
        };
        let schedule = build(config, num_inference_steps, skipped)?;
        schedule.finite()?;
        Ok(schedule)
    }

    /// The same for a run that keeps a picture outside a mask: after every call, what is outside is the picture with the noise
    /// of that level (diffusers' inpainting pipelines, for denoisers that do not read the mask).
    #[must_use]
    pub fn keeping_outside(mut self) -> Self {
        for combine in self.steps.iter_mut().flat_map(|step| &mut step.combines) {
            if combine.out.value == Value::Latents {
                for term in &mut combine.terms {
                    term.part = Part::Inside;
                }
                let level = self.levels[combine.out.version];
                combine.terms.extend(level.outside());
                combine.terms.retain(|term| term.weight != 0.0);
            }
        }
        self
    }

    /// The factors on latents and prediction in the data prediction of a call: the clean latents that both point to.
    #[must_use]
    pub fn data_prediction(&self, call: usize) -> (f64, f64) {
        let NoiseLevel { signal, noise } = self.levels[call];
        match self.prediction_type {
            PredictionType::Epsilon => (1.0 / signal, -noise / signal),
            PredictionType::Velocity => {
                let size = signal.hypot(noise);
                (signal / (size * size), -noise / size)
            }
            PredictionType::Sample => (0.0, 1.0),
        }
    }

    /// The factors on latents and data prediction in the prediction of a call: the inverse of
    /// [`data_prediction`](Self::data_prediction).
    #[must_use]
    pub fn prediction_of_data(&self, call: usize) -> (f64, f64) {
        let (latents, prediction) = self.data_prediction(call);
        (-latents / prediction, 1.0 / prediction)
    }

    /// Half the logarithm of the signal-to-noise ratio of the latents before a call.
    #[must_use]
    pub fn log_signal_to_noise(&self, call: usize) -> f64 {
        let NoiseLevel { signal, noise } = self.levels[call];
        (signal / noise).ln()
    }

    /// Whether steps add noise of their own.
    #[must_use]
    pub fn is_stochastic(&self) -> bool {
        self.terms().any(|term| term.of.value == Value::Noise)
    }

    /// Whether a picture is [kept outside a mask](Self::keeping_outside).
    #[must_use]
    pub fn keeps_outside(&self) -> bool {
        self.terms().any(|term| term.part == Part::Outside)
    }

    fn terms(&self) -> impl Iterator<Item = &Term> {
        let combines = self.steps.iter().flat_map(|step| &step.combines);
        combines.flat_map(|combine| &combine.terms)
    }

    /// The number of denoiser calls.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.steps.len()
    }

    fn finite(&self) -> Result<(), ScheduleError> {
        for (call, (step, timestep)) in self.steps.iter().zip(&self.timesteps).enumerate() {
            let mut weights = step.combines.iter().flat_map(|combine| &combine.terms);
            let finite = weights.all(|term| term.weight.is_finite())
                && step.input_scale.is_finite()
                && timestep.is_finite()
                && self.init_noise_sigma.is_finite();
            if !finite {
                return Err(ScheduleError::NotFinite { call });
            }
        }
        Ok(())
    }
}

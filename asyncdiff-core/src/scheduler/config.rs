//! diffusers' `scheduler_config.json`, and the schedulers that we know.

use std::str::FromStr;

use serde::Deserialize;

use super::ScheduleError;
use super::level::PredictionType;

/// A scheduler that can be chosen by a short name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamedScheduler {
    /// The short name.
    pub name: &'static str,
    /// The diffusers class.
    pub class: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// The algorithm that a name of the DPM-Solver family stands for; always second order.
    algorithm_type: Option<&'static str>,
    /// Whether the name asks for Karras noise levels. If not, the configuration decides.
    karras: bool,
}

/// The supported schedulers, classes side by side.
pub const SCHEDULERS: &[NamedScheduler] = &[
    named(
        "ddim",
        "DDIMScheduler",
        "DDIM, deterministic unless `eta` is set",
    ),
    named(
        "pndm",
        "PNDMScheduler",
        "pseudo linear multistep (PLMS); starts with Runge-Kutta steps unless the config skips them",
    ),
    named("euler", "EulerDiscreteScheduler", "Euler's method"),
    named(
        "euler-ancestral",
        "EulerAncestralDiscreteScheduler",
        "Euler's method with fresh noise in every step",
    ),
    named(
        "heun",
        "HeunDiscreteScheduler",
        "Heun's method, second order, two calls a step",
    ),
    dpmpp(
        "dpmpp-2m",
        "dpmsolver++",
        false,
        "DPM-Solver++, second order multistep",
    ),
    dpmpp(
        "dpmpp-2m-karras",
        "dpmsolver++",
        true,
        "DPM-Solver++ 2M on Karras noise levels",
    ),
    dpmpp(
        "dpmpp-2m-sde",
        "sde-dpmsolver++",
        false,
        "DPM-Solver++ 2M with fresh noise in every step",
    ),
    dpmpp(
        "dpmpp-2m-sde-karras",
        "sde-dpmsolver++",
        true,
        "DPM-Solver++ 2M SDE on Karras noise levels",
    ),
    named(
        "unipc",
        "UniPCMultistepScheduler",
        "UniPC, predictor and corrector, second order multistep",
    ),
    named(
        "lcm",
        "LCMScheduler",
        "for latent consistency models, few steps",
    ),
];

const fn named(name: &'static str, class: &'static str, about: &'static str) -> NamedScheduler {
    NamedScheduler {
        name,
        class,
        about,
        algorithm_type: None,
        karras: false,
    }
}

const fn dpmpp(
    name: &'static str,
    algorithm: &'static str,
    karras: bool,
    about: &'static str,
) -> NamedScheduler {
    NamedScheduler {
        name,
        class: "DPMSolverMultistepScheduler",
        about,
        algorithm_type: Some(algorithm),
        karras,
    }
}

/// The class of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Ddim,
    Pndm,
    Euler,
    EulerAncestral,
    Heun,
    DpmSolver,
    UniPc,
    Lcm,
}

/// The settings of a scheduler, as in diffusers' `scheduler_config.json`.
///
/// A key that is missing or null takes the default of the class, so that a change of class
/// ([`with_class`](Self::with_class)) keeps what the file says and nothing else. Keys that the class does not know are
/// ignored, as diffusers ignores them. Values are checked when a [`Schedule`](super::Schedule) is made.
///
/// Parse the text of a file with [`str::parse`], which also takes the infinities that Python writes into JSON; serde
/// reads values that are already in memory.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct SchedulerConfig {
    /// The diffusers class.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Timesteps that the model was trained with; 1000.
    pub num_train_timesteps: Option<usize>,
    /// The first β, of the noise added in the first timestep.
    pub beta_start: Option<f64>,
    /// The last β.
    pub beta_end: Option<f64>,
    /// How β goes from the first to the last: `linear`, `scaled_linear`, `squaredcos_cap_v2` (and `exp` for Heun).
    pub beta_schedule: Option<String>,
    /// All β, instead of a schedule.
    pub trained_betas: Option<Vec<f64>>,
    /// Shift the noise table so that the last timestep has no signal at all.
    pub rescale_betas_zero_snr: Option<bool>,
    /// What the model predicts: `epsilon`, `v_prediction` or `sample`.
    pub prediction_type: Option<String>,
    /// How the timesteps lie in the training range: `leading`, `trailing` or `linspace`.
    pub timestep_spacing: Option<String>,
    /// Added to every timestep of leading spacing.
    pub steps_offset: Option<usize>,
    /// `discrete`, or `continuous`: a model with v-prediction gets a quarter of the logarithm of the noise level.
    pub timestep_type: Option<String>,
    /// DDIM, PNDM: end at no noise, rather than at the level of timestep 0.
    pub set_alpha_to_one: Option<bool>,
    /// DDIM, LCM, Heun: clip the predicted sample. Not linear, so it must be false.
    pub clip_sample: Option<bool>,
    /// DDIM, LCM, DPM-Solver, UniPC: dynamic thresholding. Not linear, so it must be false.
    pub thresholding: Option<bool>,
    /// DDIM: the share of fresh noise in a step, 0 (default) to 1. diffusers takes it as an argument of the pipeline.
    pub eta: Option<f64>,
    /// PNDM: start with linear multistep steps rather than with Runge-Kutta steps.
    pub skip_prk_steps: Option<bool>,
    /// Euler: how noise levels between two timesteps are found, `linear` or `log_linear`.
    pub interpolation_type: Option<String>,
    /// Space the noise levels as Karras et al. do.
    pub use_karras_sigmas: Option<bool>,
    /// Space the logarithms of the noise levels evenly.
    pub use_exponential_sigmas: Option<bool>,
    /// Space the noise levels by a β distribution. Not supported.
    pub use_beta_sigmas: Option<bool>,
    /// DPM-Solver: space the logarithms of the noise levels evenly and round the timesteps.
    pub use_lu_lambdas: Option<bool>,
    /// DPM-Solver, UniPC: noise levels of flow matching. Not supported.
    pub use_flow_sigmas: Option<bool>,
    /// The lowest of Karras or exponential noise levels.
    pub sigma_min: Option<f64>,
    /// The highest of Karras or exponential noise levels.
    pub sigma_max: Option<f64>,
    /// Where the noise levels end: `zero`, or `sigma_min`.
    pub final_sigmas_type: Option<String>,
    /// DPM-Solver, UniPC: the order, 1 to 3 (UniPC: to 8).
    pub solver_order: Option<usize>,
    /// DPM-Solver: `midpoint` or `heun`. UniPC: `bh2` or `bh1`.
    pub solver_type: Option<String>,
    /// DPM-Solver: `dpmsolver++`, `sde-dpmsolver++`, `dpmsolver` or `sde-dpmsolver`.
    pub algorithm_type: Option<String>,
    /// DPM-Solver, UniPC: fall back to lower orders at the end.
    pub lower_order_final: Option<bool>,
    /// DPM-Solver: make the last step an Euler step.
    pub euler_at_final: Option<bool>,
    /// DPM-Solver: leave out timesteps with less than this half logarithm of the signal-to-noise ratio.
    pub lambda_min_clipped: Option<f64>,
    /// DPM-Solver: for models that also predict a variance. Not supported.
    pub variance_type: Option<String>,
    /// UniPC: solve for the sample rather than for the noise.
    pub predict_x0: Option<bool>,
    /// UniPC: the calls after which the corrector is left out.
    pub disable_corrector: Option<Vec<usize>>,
    /// UniPC: another scheduler as predictor. Not supported.
    pub solver_p: Option<serde_json::Value>,
    /// LCM: steps of the schedule that the model was distilled with.
    pub original_inference_steps: Option<usize>,
    /// LCM: the factor on the timestep in the boundary conditions.
    pub timestep_scaling: Option<f64>,
}

impl SchedulerConfig {
    /// The same model with another scheduler, by a name of [`SCHEDULERS`]. Like diffusers' `from_config`: what this
    /// configuration says and the other class knows carries over, all else takes that class's defaults.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Name`] if there is no such scheduler.
    pub fn with_class(&self, name: &str) -> Result<Self, ScheduleError> {
        let scheduler = SCHEDULERS
            .iter()
            .find(|scheduler| scheduler.name == name)
            .ok_or_else(|| ScheduleError::Name(name.to_owned()))?;
        let mut config = Self {
            class_name: scheduler.class.to_owned(),
            ..self.clone()
        };
        if let Some(algorithm) = scheduler.algorithm_type {
            config.algorithm_type = Some(algorithm.to_owned());
            config.solver_order = Some(2);
        }
        if scheduler.karras {
            config.use_karras_sigmas = Some(true);
            config.use_exponential_sigmas = None;
            config.use_beta_sigmas = None;
        }
        Ok(config)
    }

    pub(super) fn class(&self) -> Result<Class, ScheduleError> {
        Ok(match self.class_name.as_str() {
            "DDIMScheduler" => Class::Ddim,
            "PNDMScheduler" => Class::Pndm,
            "EulerDiscreteScheduler" => Class::Euler,
            "EulerAncestralDiscreteScheduler" => Class::EulerAncestral,
            "HeunDiscreteScheduler" => Class::Heun,
            "DPMSolverMultistepScheduler" => Class::DpmSolver,
            "UniPCMultistepScheduler" => Class::UniPc,
            "LCMScheduler" => Class::Lcm,
            other => return Err(ScheduleError::Class(other.to_owned())),
        })
    }

    pub(super) fn num_train_timesteps(&self) -> usize {
        self.num_train_timesteps.unwrap_or(1000)
    }

    /// The prediction type, if the class can work with it.
    pub(super) fn prediction_type(
        &self,
        known: &[(&str, PredictionType)],
    ) -> Result<PredictionType, ScheduleError> {
        choose("prediction_type", self.prediction_type.as_deref(), known)
    }

    /// Refuses what would clip the predicted sample.
    pub(super) fn no_clipping(&self, clip_sample_default: bool) -> Result<(), ScheduleError> {
        self.no_thresholding()?;
        off(
            "clip_sample",
            Some(self.clip_sample.unwrap_or(clip_sample_default)),
            "clipping is not linear; set it to false (latents are not meant to be clipped)",
        )
    }

    /// Refuses dynamic thresholding.
    pub(super) fn no_thresholding(&self) -> Result<(), ScheduleError> {
        off(
            "thresholding",
            self.thresholding,
            "thresholding is not linear; set it to false (latents are not meant to be thresholded)",
        )
    }
}

impl FromStr for SchedulerConfig {
    type Err = ScheduleError;

    /// Reads the text of a `scheduler_config.json`.
    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        // What some editors put before UTF-8.
        let text = text.trim_start_matches('\u{feff}');
        serde_json::from_str(&finite_json(text))
            .map_err(|error| ScheduleError::Json(error.to_string()))
    }
}

/// Python writes `-Infinity` (the default of `lambda_min_clipped`), which is not JSON. The largest finite number does the
/// same work, or fails later with a clear error.
fn finite_json(text: &str) -> String {
    let infinity = format!("{:e}", f64::MAX);
    let mut json = String::with_capacity(text.len());
    for (index, part) in text.split('"').enumerate() {
        if index > 0 {
            json.push('"');
        }
        // Between an even and an odd quote is a string; scheduler configs have no escaped quotes.
        if index % 2 == 0 {
            json.push_str(&part.replace("Infinity", &infinity));
        } else {
            json.push_str(part);
        }
    }
    json
}

/// The meaning of a setting with named values. The first one is the default.
pub(super) fn choose<T: Copy>(
    key: &'static str,
    found: Option<&str>,
    known: &[(&str, T)],
) -> Result<T, ScheduleError> {
    let wanted = found.unwrap_or(known[0].0);
    match known.iter().find(|(name, _)| *name == wanted) {
        Some((_, meaning)) => Ok(*meaning),
        None => {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            Err(ScheduleError::setting(
                key,
                wanted,
                format!("use one of {}", names.join(", ")),
            ))
        }
    }
}

/// Refuses a setting that is on.
pub(super) fn off(
    key: &'static str,
    found: Option<bool>,
    remedy: &str,
) -> Result<(), ScheduleError> {
    match found {
        Some(true) => Err(ScheduleError::setting(key, true, remedy)),
        _ => Ok(()),
    }
}

//! Why a noise schedule cannot be made.

use super::SCHEDULERS;
use crate::quoted;

/// Why a noise schedule cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The configuration is not JSON, or a key has a value of another type.
    #[error("the scheduler config cannot be read: {found}", found = quoted(.0))]
    Json(String),
    /// The configuration's `_class_name` is none of the supported ones.
    #[error("the scheduler class `{found}` is not supported: use one of {classes}", classes = classes(), found = quoted(.0))]
    Class(String),
    /// A short name that is not in [`SCHEDULERS`].
    #[error("there is no scheduler `{found}`: use one of {names}", names = names(), found = quoted(.0))]
    Name(String),
    /// A setting that is unknown, not linear, or not possible together with the others.
    #[error("the scheduler config has `{key}` = {found}: {remedy}", found = quoted(found))]
    Setting {
        /// The key in `scheduler_config.json`.
        key: &'static str,
        /// Its value, or the default that stands for it.
        found: String,
        /// What to do about it.
        remedy: String,
    },
    /// A number of steps that is 0, or more than the model was trained for.
    #[error("{steps} inference steps are not possible: use 1 to {max} (the scheduler's `{key}`)")]
    Steps {
        /// The number asked for.
        steps: usize,
        /// The key that sets the limit.
        key: &'static str,
        /// The limit.
        max: usize,
    },
    /// A run that is to start behind its last step.
    #[error(
        "{skipped} of {steps} steps are skipped, so none is left: use more steps or a larger strength"
    )]
    NothingLeft {
        /// The steps of the whole schedule.
        steps: usize,
        /// How many of them are left out.
        skipped: usize,
    },
    /// A timestep for which the model has no noise level.
    #[error(
        "timestep {timestep} is outside the noise table of {length} entries: \
         use fewer steps, or a smaller `steps_offset`"
    )]
    Timestep {
        /// The timestep that is looked up.
        timestep: i64,
        /// The length of the table.
        length: usize,
    },
    /// Weights that are infinite or undefined.
    #[error(
        "the weights of denoiser call {call} are not finite: use fewer steps or another `timestep_spacing` if steps fall \
         on one noise level, `prediction_type` v_prediction with `rescale_betas_zero_snr`, and `final_sigmas_type` \
         sigma_min for a solver that cannot end at noise level 0"
    )]
    NotFinite {
        /// The first such call.
        call: usize,
    },
}

impl ScheduleError {
    /// A setting that is not supported.
    pub(super) fn setting(
        key: &'static str,
        found: impl ToString,
        remedy: impl Into<String>,
    ) -> Self {
        Self::Setting {
            key,
            found: found.to_string(),
            remedy: remedy.into(),
        }
    }
}

fn names() -> String {
    SCHEDULERS
        .iter()
        .map(|scheduler| scheduler.name)
        .collect::<Vec<_>>()
        .join(", ")
}

fn classes() -> String {
    let mut classes: Vec<&str> = SCHEDULERS.iter().map(|scheduler| scheduler.class).collect();
    classes.dedup();
    classes.join(", ")
}

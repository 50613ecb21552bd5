//! What a process that lends its device is told of a run.

use std::sync::Arc;

use asyncdiff_comm::network::digest;
use asyncdiff_core::{Strategy, quoted};
use serde::{Deserialize, Serialize};

use super::motion::MotionAdapter;
use super::{Run, StableDiffusion};
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::Error;
use crate::json;
use crate::lora::Part;
use crate::measured::MeasuredMachine;
use crate::request::Shape;

/// What a process that lends its device is told of a run: enough to plan it itself, with a model that it has. It names no file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    version: String,
    /// What the denoiser is told apart by.
    denoiser: String,
    dtype: Dtype,
    shape: Shape,
    strategy: Strategy,
    machine: Option<MeasuredMachine>,
}

/// The only part of it that is the same in all versions.
#[derive(Deserialize)]
struct Version {
    version: String,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why a process cannot help with a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssignmentError {
    /// The run is one of another program.
    #[error(
        "the run is one of version {found}, and this is version {VERSION}: use the same program for all ranks",
        found = quoted(found)
    )]
    Version {
        /// The version of the program that leads the run.
        found: String,
    },
    /// Not what a program of this version writes.
    #[error("the run is described in a way that this program does not understand: {0}")]
    Unreadable(String),
    /// None of the models is that of the run.
    #[error(
        "the model of the run (denoiser {denoiser}) is none of those that are here: give this process the same files",
        denoiser = quoted(denoiser)
    )]
    Model {
        /// What the run's denoiser is told apart by.
        denoiser: String,
    },
    /// LoRAs are files that only the leader has.
    #[error(
        "processes that lend their devices have no LoRA: leave it out, or start every rank with the same arguments"
    )]
    Lora,
}

impl Assignment {
    /// A run of `pipeline`.
    ///
    /// # Errors
    ///
    /// [`AssignmentError::Lora`]; [`Error`] of model files that cannot be read.
    pub fn new(
        pipeline: &StableDiffusion,
        shape: &Shape,
        strategy: &Strategy,
        machine: Option<&MeasuredMachine>,
    ) -> Result<Self, Error> {
        if !pipeline.loras.is_empty() {
            return Err(AssignmentError::Lora.into());
        }
        Ok(Self {
            version: VERSION.to_owned(),
            denoiser: pipeline.denoiser_mark(shape)?,
            dtype: pipeline.dtype,
            shape: shape.clone(),
            strategy: strategy.clone(),
            machine: machine.cloned(),
        })
    }

    /// Reads what [`Assignment::to_text`] has written, of the same version of this program.
    ///
    /// # Errors
    ///
    /// [`AssignmentError::Version`]; [`AssignmentError::Unreadable`].
    pub fn of_text(text: &str) -> Result<Self, Error> {
        let unreadable = |error: serde_json::Error| {
            AssignmentError::Unreadable(quoted(&error.to_string()).to_string())
        };
        let Version { version } = json::from_slice(text.as_bytes()).map_err(unreadable)?;
        if version != VERSION {
            return Err(AssignmentError::Version { found: version }.into());
        }
        Ok(json::from_slice(text.as_bytes()).map_err(unreadable)?)
    }

    /// As text. Numbers that come back from it may differ in their last bit: whoever leads a run plans by what it
    /// [reads](Assignment::of_text), too.
    ///
    /// # Errors
    ///
    /// [`AssignmentError::Unreadable`], which no run that can be planned leads to.
    pub fn to_text(&self) -> Result<String, Error> {
        let unreadable = |error: serde_json::Error| AssignmentError::Unreadable(error.to_string());
        Ok(serde_json::to_string(self).map_err(unreadable)?)
    }

    /// Plans the run with its model, which computes in its type.
    ///
    /// # Errors
    ///
    /// As [`StableDiffusion::plan_on`].
    pub fn plan(&self, pipeline: &StableDiffusion) -> Result<Run, Error> {
        pipeline.plan_on(self.machine.as_ref(), &self.shape, &self.strategy)
    }

    /// The one of `models` that the run is of, computing in its type.
    ///
    /// # Errors
    ///
    /// [`AssignmentError::Model`]; [`Error`] of model files that cannot be read.
    pub fn model(&self, models: &[Arc<StableDiffusion>]) -> Result<Arc<StableDiffusion>, Error> {
        for model in models {
            if model.denoiser_mark(&self.shape)? != self.denoiser {
                continue;
            }
            return match model.dtype == self.dtype {
                true => Ok(Arc::clone(model)),
                false => Ok(Arc::new(model.reopen()?.with_dtype(self.dtype))),
            };
        }
        Err(AssignmentError::Model {
            denoiser: self.denoiser.clone(),
        }
        .into())
    }
}

impl StableDiffusion {
    /// What the denoiser for a shape is told apart by: a digest of its configuration, of the names, types and shapes of its weights,
    /// and of the first bytes of each.
    fn denoiser_mark(&self, shape: &Shape) -> Result<String, Error> {
        let mut marks = self.checkpoint.read("unet/config.json")?.into_owned();
        let mut add = |bytes: &[u8]| marks.extend_from_slice(bytes);
        if let Some(weights) = self.weights(Part::UNet)? {
            weights.marks(&mut add)?;
        }
        if let Some(motion) = self.motion(shape) {
            motion.adapter.marks(&mut add)?;
        }
        Ok(digest(&marks)[..16].to_owned())
    }

    /// The same model from the same files, with its defaults.
    fn reopen(&self) -> Result<Self, Error> {
        let model = Self::open(Checkpoint::clone(&self.checkpoint))?;
        match &self.motion {
            Some(motion) => model.with_motion(MotionAdapter::open(motion.adapter.files().clone())?),
            None => Ok(model),
        }
    }
}

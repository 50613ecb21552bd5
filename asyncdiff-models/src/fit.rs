//! What can be wrong between the parts of a pipeline.

use asyncdiff_core::quoted;
use asyncdiff_core::scheduler::ScheduleError;
use asyncdiff_core::unet::MotionError;

/// Settings that nothing can be built from, and parts that do not fit each other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// A setting of a part that nothing can be built from, or that is not implemented.
    #[error("{file}: {key} is {found}, it should be {supported}", found = quoted(found))]
    Setting {
        /// The configuration.
        file: String,
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What would work.
        supported: &'static str,
    },
    /// Parts of a checkpoint that do not fit each other.
    #[error(
        "the checkpoint's parts do not fit: {what} is {found}, but {other} is {expected}: take all of them from one model"
    )]
    Mismatch {
        /// One setting.
        what: String,
        /// Its value.
        found: usize,
        /// The other setting.
        other: String,
        /// Its value.
        expected: usize,
    },
    /// A denoiser that its weight file cannot hold.
    #[error(
        "{config} describes a network of {described} weights, and {file} has only {bytes} bytes: take both files from one model"
    )]
    Parameters {
        /// The config.json.
        config: String,
        /// The weights that it describes.
        described: u64,
        /// The weight file, or the index of its shards.
        file: String,
        /// Its bytes.
        bytes: u64,
    },
    /// A UNet of another kind of pipeline.
    #[error(
        "the checkpoint's parts do not fit: unet addition_embed_type is {found}, which is not what model_index.json's {class} computes with: take both from one model",
        found = quoted(found)
    )]
    AdditionEmbedType {
        /// The UNet's setting.
        found: String,
        /// The pipeline class.
        class: &'static str,
    },
    /// A model that no motion adapter goes with.
    #[error(
        "no motion adapter goes with a model {found}: use one of Stable Diffusion 1 or 2 that makes pictures from text",
        found = quoted(.0)
    )]
    NoMotion(String),
    /// Another kind of model where a motion adapter should be.
    #[error(
        "{file} is that of a {found}, not of a MotionAdapter: give the folder of a motion adapter",
        found = quoted(found)
    )]
    NoMotionAdapter {
        /// The config.json.
        file: String,
        /// Its `_class_name`.
        found: String,
    },
    /// A motion adapter that does not fit, or is not supported.
    #[error("{file}: {source}")]
    Motion {
        /// The adapter's config.json.
        file: String,
        /// What is wrong with it.
        source: MotionError,
    },
    /// The noise scheduler's configuration.
    #[error("{file}: {source}")]
    SchedulerFile {
        /// The file.
        file: String,
        /// What is wrong with it.
        source: ScheduleError,
    },
}

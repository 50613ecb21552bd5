//! What can go wrong between a checkpoint and a picture.

use std::convert::Infallible;

use asyncdiff_burn::ranks::RankError;
use asyncdiff_burn::weights::WeightError;
use asyncdiff_core::scheduler::ScheduleError;
use asyncdiff_core::unet::{MotionError, UNetError};
use asyncdiff_core::{EngineError, PartitionError, PlanError};

use crate::checkpoint::CheckpointError;
use crate::dtype::Dtype;
use crate::image::ImageError;
use crate::lora::LoraError;
use crate::quality::QualityError;
use crate::tokenizer::TokenizerError;

/// What can go wrong between a checkpoint and a picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model's files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The Hugging Face Hub.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// A pipeline that is not implemented.
    #[error("{file}: pipeline class {found} is not supported, supported is {supported}")]
    UnknownPipeline {
        /// The model_index.json.
        file: String,
        /// Its `_class_name`.
        found: String,
        /// What is supported.
        supported: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A configuration is no valid JSON, or lacks something.
    #[error("{file} is not a configuration of this kind: {source}")]
    Json {
        /// The file.
        file: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A setting of a part that nothing can be built from, or that is not implemented.
    #[error("{file}: {key} is {found}, it should be {supported}")]
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
    #[error("the checkpoint's parts do not fit: {what} is {found}, but {other} is {expected}")]
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
    /// A UNet of another kind of pipeline.
    #[error(
        "the checkpoint's parts do not fit: unet addition_embed_type is {found}, which is not what model_index.json's {class} computes with"
    )]
    AdditionEmbedType {
        /// The UNet's setting.
        found: String,
        /// The pipeline class.
        class: &'static str,
    },
    /// A picture size that the model cannot make.
    #[error("{side} {found} is not possible: use a multiple of {factor}, such as {nearest}")]
    Size {
        /// `width` or `height`.
        side: &'static str,
        /// The size asked for.
        found: usize,
        /// What it has to be a multiple of.
        factor: usize,
        /// The nearest size that is possible.
        nearest: usize,
    },
    /// A picture or batch that no machine could hold.
    #[error("{what} {found} is not possible: use at most {most}")]
    TooLarge {
        /// Which setting.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The largest that is accepted.
        most: usize,
    },
    /// A request for no picture at all.
    #[error("0 images are not possible: ask for at least 1")]
    NoImages,
    /// A video without what moves it.
    #[error(
        "{0} frames are a video, which needs a motion adapter: give one (--motion-adapter), or ask for 1 frame"
    )]
    NeedsMotionAdapter(usize),
    /// A video longer than the motion adapter reaches.
    #[error(
        "{found} frames are not possible: the motion adapter makes at most {most} (its motion_max_seq_length); ask for no more than that (--frames)"
    )]
    TooManyFrames {
        /// The number asked for.
        found: usize,
        /// The adapter's limit.
        most: usize,
    },
    /// A video that should start from a picture.
    #[error(
        "a video of {0} frames cannot start from a picture: leave out the picture, or ask for 1 frame"
    )]
    VideoFromPicture(usize),
    /// A model that no motion adapter goes with.
    #[error(
        "no motion adapter goes with a model {0}: use one of Stable Diffusion 1 or 2 that makes pictures from text"
    )]
    NoMotion(String),
    /// Another kind of model where a motion adapter should be.
    #[error(
        "{file} is that of a {found}, not of a MotionAdapter: give the folder of a motion adapter"
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
    /// A guidance scale that is not a number.
    #[error(
        "guidance scale {0} is not possible: use a finite number; 1 or less turns guidance off"
    )]
    Guidance(f64),
    /// A strength outside its range.
    #[error("strength {0} is not possible: use more than 0 and at most 1")]
    Strength(f64),
    /// A picture or mask of another size than the result.
    #[error(
        "the {what} has {}x{} pixels, the result {}x{}: give one of that size",
        .found.0, .found.1, .expected.0, .expected.1
    )]
    PictureSize {
        /// Which of them.
        what: &'static str,
        /// Its width and height.
        found: (usize, usize),
        /// The result's.
        expected: (usize, usize),
    },
    /// A content that a run was not planned for.
    #[error(
        "the run was planned to start from {planned}, and is given {found}: plan it for that, or give what it was planned for"
    )]
    Start {
        /// What the run starts from.
        planned: &'static str,
        /// What the content has.
        found: &'static str,
    },
    /// An inpainting UNet without a mask.
    #[error(
        "this model's UNet reads a mask: give a picture and a mask to paint in it, or use a model without one"
    )]
    NeedsMask,
    /// A model that makes a video of a picture, without one.
    #[error("this model makes a video of a picture: give one")]
    NeedsPicture,
    /// A prompt for a model that reads none.
    #[error(
        "this model makes a video of a picture and reads no text: give a picture, and leave out the prompt and the negative prompt"
    )]
    ReadsNoText,
    /// A picture or mask to start from, for a model that makes a video of a picture.
    #[error(
        "this model makes a video of a picture, which it starts from noise: leave out the picture or mask to start from, or use an image model"
    )]
    StartsFromNoise,
    /// A picture to make a video of, for a model that makes none.
    #[error("this model makes no video of a picture: use a Stable Video Diffusion model for that")]
    AnimatesNoPicture,
    /// A number that no run can be made from.
    #[error("{what} {found} is not possible: use {supported}")]
    OutOfRange {
        /// Which setting.
        what: &'static str,
        /// Its value.
        found: String,
        /// What would work.
        supported: &'static str,
    },
    /// Noise for the picture that a video is made of, of another shape.
    #[error("the noise for the picture has shape {found:?}, this request needs {expected:?}")]
    PictureNoise {
        /// Its shape.
        found: Vec<usize>,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// Initial latents of another shape.
    #[error("the initial latents have shape {found:?}, this request needs {expected:?}")]
    Latents {
        /// Their shape.
        found: Vec<usize>,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// Too few workers for the plan.
    #[error(
        "{needed} devices are needed (segments + stride - 1), {found} are given: name more, as in cpu:{needed}, or use fewer segments"
    )]
    NotEnoughWorkers {
        /// How many the plan has ranks.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// A device that does not compute in the pipeline's type.
    #[error("{device} does not compute in {dtype}: use f32, or another device")]
    Dtype {
        /// The device.
        device: String,
        /// The pipeline's type.
        dtype: Dtype,
    },
    /// Infinities, or results that are no numbers.
    #[error(
        "the latents or the decoded picture are not finite, so there is no picture: check the initial latents, use a smaller guidance scale, compute in a wider type than f16, or check the checkpoint"
    )]
    NotFinite,
    /// The caller's progress report asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A tokenizer's files.
    #[error("{folder}: {source}")]
    Tokenizer {
        /// The tokenizer's folder.
        folder: String,
        /// What is wrong with them.
        source: TokenizerError,
    },
    /// The UNet's configuration.
    #[error(transparent)]
    UNet(#[from] UNetError),
    /// The noise scheduler's configuration.
    #[error("{file}: {source}")]
    SchedulerFile {
        /// The file.
        file: String,
        /// What is wrong with it.
        source: ScheduleError,
    },
    /// The noise scheduler.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The partition.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// A LoRA.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// A decoded picture.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Results that cannot be compared.
    #[error(transparent)]
    Quality(#[from] QualityError),
    /// A rank of the run.
    #[error(transparent)]
    Rank(#[from] RankError<EngineError<Infallible>>),
}

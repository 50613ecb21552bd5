//! What can go wrong between a checkpoint and a picture.

use std::convert::Infallible;

use asyncdiff_burn::ranks::RankError;
use asyncdiff_burn::weights::WeightError;
use asyncdiff_comm::CommError;
use asyncdiff_comm::network::ConnectError;
use asyncdiff_core::scheduler::ScheduleError;
use asyncdiff_core::unet::UNetError;
use asyncdiff_core::{EngineError, PartitionError, PlanError};

use crate::checkpoint::CheckpointError;
use crate::dtype::Dtype;
use crate::fit::FitError;
use crate::image::ImageError;
use crate::lora::LoraError;
use crate::measured::MeasureError;
use crate::pipeline::AssignmentError;
use crate::quality::QualityError;
use crate::request::RequestError;
use crate::text::TextError;

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
    /// The parts of a pipeline.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// The texts' side of a pipeline.
    #[error(transparent)]
    Text(#[from] TextError),
    /// What is asked for.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Too few workers for the plan.
    #[error(
        "{needed} devices are needed, {found} are given: name more, as in cpu:{needed}, or spread the run over fewer"
    )]
    NotEnoughWorkers {
        /// How many the plan has ranks.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// No plan fits into the memory that the devices have.
    #[error(
        "no plan fits into {memory} bytes of memory on each device: the one that needs the least needs {least}; name more devices, a narrower type, or a smaller size"
    )]
    Memory {
        /// What each device has.
        memory: u64,
        /// The most that a rank needs, in the plan where that is the least.
        least: u64,
    },
    /// A device that does not compute in the pipeline's type.
    #[error("{device} does not compute in {dtype}: use f32, or another device")]
    Dtype {
        /// The device.
        device: String,
        /// The pipeline's type.
        dtype: Dtype,
    },
    /// A run that the machine cannot hold.
    #[error(
        "this run needs about {} GiB of memory ({} of them for weights), and this machine has {}: ask for fewer pictures or frames at a time, for smaller ones, or compute in a narrower type (--dtype f16)",
        gibibytes(*needed), gibibytes(*weights), gibibytes(*found)
    )]
    TooMuchMemory {
        /// Bytes that it takes, at least.
        needed: u64,
        /// Bytes of them that are weights.
        weights: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// Infinities, or results that are no numbers.
    #[error(
        "the latents or the decoded picture are not finite, so there is no picture: check the initial latents, use a smaller guidance scale, compute in a wider type than f16, or check the checkpoint"
    )]
    NotFinite,
    /// The caller's progress report asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The UNet's configuration.
    #[error(transparent)]
    UNet(#[from] UNetError),
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
    /// A measured machine.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// Results that cannot be compared.
    #[error(transparent)]
    Quality(#[from] QualityError),
    /// Another process of the run.
    #[error(transparent)]
    Peer(#[from] CommError),
    /// The connection to other processes.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// What another process asks this one to help with.
    #[error(transparent)]
    Assignment(#[from] AssignmentError),
    /// A rank of the run.
    #[error(transparent)]
    Rank(#[from] RankError<EngineError<Infallible>>),
}

/// With one decimal.
fn gibibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 30))
}

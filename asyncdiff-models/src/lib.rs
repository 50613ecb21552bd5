//! The networks and pipelines of AsyncDiff, from diffusers checkpoints.
//!
//! * [`Checkpoint`]: where a model's files come from.
//! * [`StableDiffusion`]: the text-to-image pipelines (1, 2 and XL), and Stable Video Diffusion;
//!   [`StableDiffusion::plan`] turns a [`Shape`] and a [`Strategy`] into a [`Run`] that can be inspected, [`Session`] holds the weights
//!   and makes the pictures of a [`Content`]: one [`Rank`] for each worker, and the [`Parts`] beside the denoiser.
//! * [`lora`]: low-rank changes of the weights, merged as they are loaded.
//! * [`unet`], [`text`], [`clip`], [`vision`], [`vae`], [`tokenizer`]: the parts, each usable alone.
//! * [`prompt`]: words that count more than others.
//! * [`Description`]: what a checkpoint is, without loading it.
//! * [`compare::Comparison`]: asynchronous runs beside the sequential one.
//! * [`random`]: PyTorch's random numbers; [`quality`]: how alike two pictures are.
//!
//! ```
//! # #[cfg(all(feature = "flex", feature = "embedded"))] {
//! use std::sync::Arc;
//!
//! use asyncdiff_models::device::workers;
//! use asyncdiff_models::{Checkpoint, Session, StableDiffusion, Strategy};
//!
//! let pipeline = Arc::new(StableDiffusion::open(Checkpoint::embedded())?);
//! let mut shape = pipeline.shape();
//! shape.steps = 12;
//!
//! // Two segments on two CPU workers.
//! let run = pipeline.plan(&shape, &Strategy::segments(2))?;
//! let mut session = Session::new(&pipeline, workers("cpu:2", None)?)?;
//! let content = pipeline.content("red apple, fluent style");
//! let output = session.generate(&run, &content, &mut ())?;
//! assert_eq!((output.images[0].width, output.images[0].height), (64, 64));
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

mod cancel;
mod checkpoint;
mod class;
pub mod clip;
pub mod compare;
mod decode;
mod describe;
mod dtype;
#[cfg(feature = "embedded")]
mod embedded;
mod encoders;
mod error;
mod fit;
#[cfg(feature = "hub")]
pub mod hub;
pub mod image;
pub mod json;
pub mod lora;
mod measured;
mod pipeline;
mod preview;
pub mod prompt;
pub mod quality;
pub mod random;
mod request;
mod resnet;
mod session;
mod tensors;
pub mod text;
pub mod tokenizer;
pub mod unet;
pub mod vae;
pub mod vision;

pub use asyncdiff_burn::weights::NamedTensor;
pub use asyncdiff_burn::{device, files};
pub use asyncdiff_core::{PartitionChoice, Spread, Strategy};
pub use cancel::Cancel;
pub use checkpoint::{Checkpoint, CheckpointError, HubId, Location};
pub use describe::{
    Description, MotionAdapterDescription, PartDescription, PartitionDescription,
    TextEncoderDescription,
};
pub use dtype::{Dtype, UnknownDtype};
pub use error::Error;
pub use fit::FitError;
pub use measured::{MeasureError, MeasuredMachine};
pub use pipeline::{Assignment, AssignmentError, Choices, MotionAdapter, Run, StableDiffusion};
pub use preview::Previewer;
pub use request::{Content, ImageToVideo, InitImage, Request, RequestError, Shape, StartFrom};
pub use session::{
    Doing, Lead, Member, Output, Parts, Progress, Rank, Session, Span, Start, Timeline, Timings,
};
pub use tensors::{Clean, Latents};

/// The README's example is a test.
#[cfg(all(doctest, feature = "flex", feature = "embedded"))]
#[doc = include_str!("../../README.md")]
pub struct Readme;

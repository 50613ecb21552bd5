//! The part of AsyncDiff that knows no tensor library: what is computed where, when, and from what.
//!
//! An asynchronous denoising run is a program that can be written down before it starts. This crate writes it down,
//! checks it, predicts its time, and runs it:
//!
//! * [`SegmentGraph`]: the blocks of a denoiser, the values between them, and their cost. [`unet::UNet2d`] makes one
//!   from a diffusers `config.json`.
//! * [`Partition`]: which segment owns which block (the published tables, the balanced search, or your own map).
//! * [`Strategy`]: how a run is to be spread, in a person's words; its [`Strategy::plan`] calls the builder.
//! * [`choice`]: which of all strategies to take on so many ranks.
//! * [`Schedule`]: a noise scheduler as coefficients ([`scheduler`]).
//! * [`Plan`]: the actions of every rank ([`plan`]), built by one builder for each way to spread a run, proved by
//!   [`Plan::validate`], costed by [`simulate()`], drawn by [`timeline::svg`].
//! * [`Summary`]: a plan in figures: who computes what, how stale every edge is, what moves, how much memory it takes
//!   ([`memory`]).
//! * [`Engine`]: runs one rank's actions over two traits, a [`Denoiser`] that computes blocks and a
//!   [`PeerExchange`](asyncdiff_comm::PeerExchange) that carries values.
//!
//! ```
//! use asyncdiff_core::{AsyncDiff, Partition, Plan, Schedule, Setting, ideal_speed_up};
//! use asyncdiff_core::scheduler::SchedulerConfig;
//! use asyncdiff_core::unet::{UNet2d, UNet2dConfig};
//!
//! let config: UNet2dConfig = serde_json::from_str(include_str!("../tests/planning/sd15_unet.json"))?;
//! let unet = UNet2d::new(&config)?;
//! let graph = unet.graph(2, [1, 64, 64], 77); // guidance doubles the batch; latents of 64 by 64; 77 text tokens
//! let scheduler: SchedulerConfig = serde_json::from_str(r#"{"_class_name": "DDIMScheduler", "clip_sample": false}"#)?;
//! let schedule = Schedule::new(&scheduler, 50)?;
//!
//! let partition = Partition::published(&graph, 2)?;
//! let setting = Setting::new(&graph, &schedule, Some(7.5.into()));
//! let plan = Plan::asyncdiff(&setting, &partition, &AsyncDiff::default())?;
//! let sequential = Plan::sequential(&setting)?;
//! plan.validate(&graph)?;
//! let ideal = ideal_speed_up(&plan, &sequential, &graph);
//! assert!(ideal > 1.6 && ideal < 2.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

pub mod choice;
pub mod engine;
pub mod graph;
pub mod machine;
pub mod memory;
pub mod partition;
pub mod plan;
mod quoted;
pub mod scheduler;
pub mod simulate;
pub mod strategy;
pub mod summary;
pub mod timeline;
pub mod unet;
pub mod value;

pub use engine::{Clock, Denoiser, Engine, EngineError, Forms};
pub use graph::{Block, Input, SegmentGraph};
pub use machine::{LATENT_BYTES, Machine};
pub use partition::{Partition, PartitionError};
pub use plan::{Action, AsyncDiff, Plan, PlanError, Setting};
pub use quoted::{Quoted, quoted};
pub use scheduler::{Schedule, ScheduleError};
pub use simulate::{Simulation, ideal_speed_up, simulate};
pub use strategy::{PartitionChoice, Spread, Strategy};
pub use summary::Summary;
pub use value::{BlockId, Branch, Term, Value, Versioned};

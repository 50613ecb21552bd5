//! Everything of AsyncDiff that knows Burn, and nothing about diffusion.
//!
//! * [`device::workers`]: from `cpu:2` or `cuda:0,1` to the [`Worker`](device::Worker)s that compute.
//! * [`WeightFile`](weights::WeightFile), [`Weights`](weights::Weights), [`Loader`](weights::Loader): safetensors files to
//!   tensors, strictly and only what is asked for.
//! * [`files`]: files that were named by somebody, refused by kind.
//! * [`layers`]: the layers of networks, filled from PyTorch weights; on the CPU they run on `asyncdiff-kernels`.
//! * [`latents::OnLatents`]: from the [`Blocks`](latents::Blocks) of a network to what the engine runs.
//! * [`memory::total`]: how much memory there is.
//! * [`ranks::on_each`]: one thread for each rank; [`exchange::OnDevice`]: tensors between them.
//!
//! ```
//! # #[cfg(feature = "flex")] {
//! use asyncdiff_burn::{device, ranks};
//! use burn::tensor::Tensor;
//!
//! let workers = device::workers("cpu:2", None)?;
//! let sums = ranks::on_each(&workers, vec![1.0, 2.0], |rank, value| {
//!     let ones = Tensor::<1>::ones([4], workers[rank].device());
//!     Ok::<f32, std::convert::Infallible>((ones * value).sum().into_scalar())
//! });
//! assert_eq!(sums, [Ok(4.0), Ok(8.0)]);
//! # }
//! # Ok::<(), asyncdiff_burn::device::DeviceError>(())
//! ```

#![deny(missing_docs)]

pub mod device;
pub mod exchange;
pub mod files;
#[cfg(feature = "nccl")]
pub mod gpu_memory;
pub mod latents;
pub mod layers;
pub mod memory;
pub mod ranks;
pub mod weights;

//! CPU kernels on slices: matrix products with packed weights, convolutions, attention, norms and activations.
//!
//! * [`Packed`] holds weights in the order in which [`product`] and [`convolution`] read them; [`Finish`] says what is done to
//!   each number on its way out.
//! * [`winograd`] is a convolution of 3x3 with fewer products.
//! * [`attention`], [`group_norm`], [`layer_norm`], [`activate`] need no weights of their own.
//! * [`Level`] is the set of instructions in use. Every kernel is written once for all of them.
//! * [`narrow`] and [`widen`] change numbers to 16 bits and back.
//!
//! Feature maps have their channels side by side, `[batch, height, width, channels]`: then pixels are tokens, a convolution of
//! 1x1 is a product, and no convolution needs a copy of its input.
//!
//! Kernels split their work among the threads of the rayon pool that they are called in, by the result alone: its numbers are
//! the same bits for any number of threads.
//!
//! ```
//! use asyncdiff_kernels::{Finish, Packed, Storage, product};
//!
//! // Two rows of three numbers, times a matrix that sums them and picks the last, plus a bias.
//! let weights = [1.0, 1.0, 1.0, 0.0, 0.0, 1.0];
//! let packed = Packed::new(Storage::F32, [2, 1, 3], Some(&[0.5, 0.0]), &weights);
//! let mut out = [0.0; 4];
//! product(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &packed, &Finish::default(), &mut out);
//! assert_eq!(out, [6.5, 3.0, 15.5, 6.0]);
//! ```

#![deny(missing_docs)]

mod attention;
mod convolution;
mod huge;
mod level;
mod maps;
mod math;
mod norm;
mod packed;
mod product;
pub mod reference;
mod scratch;
mod simd;
mod split;
mod winograd;

pub use attention::{Heads, Strides, Tokens, attention};
pub use convolution::{Window, convolution};
pub use huge::zeros;
pub use level::{Level, LevelError, VARIABLE};
pub use maps::{Narrow, activate, join, narrow, widen};
pub use math::Activation;
pub use norm::{Affine, Groups, group_norm, layer_norm};
pub use packed::{Packed, Storage};
pub use product::{Finish, Shift, product};
pub use winograd::{Square, Winograd, winograd};

//! The type that networks compute in.

use asyncdiff_core::quoted;
use std::fmt;
use std::str::FromStr;

use asyncdiff_comm::Element;
use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};

/// The type that the denoiser and the text encoders compute in, and in which their weights are held and the denoiser's
/// values travel between ranks. A CPU's layers compute in `f32` between narrow weights, and, where the processor multiplies
/// pairs of `bf16`, round what they multiply.
///
/// Latents, the noise scheduler's steps and guidance are always `f32`: they are sums of large terms that nearly cancel, with
/// coefficients that differ by less than the narrower types can tell from 1, and what is rounded away in one step is missing
/// in all that follow. The autoencoder is `f32` where its configuration says `force_upcast`, because its activations leave
/// the range of `f16`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, of which 10 are of the fraction; up to 65504.
    F16,
    /// 16 bits, of which 7 are of the fraction; the range of [`Dtype::F32`].
    Bf16,
}

/// A name that is no [`Dtype`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no type {found:?}: use f32, f16 or bf16", found = quoted(.0))]
pub struct UnknownDtype(String);

impl Dtype {
    /// All of them.
    pub const ALL: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

    /// Bytes of a number.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// The same for tensors.
    #[must_use]
    pub fn of_tensors(self) -> FloatDType {
        match self {
            Dtype::F32 => FloatDType::F32,
            Dtype::F16 => FloatDType::F16,
            Dtype::Bf16 => FloatDType::BF16,
        }
    }

    /// The same for messages.
    #[must_use]
    pub fn element(self) -> Element {
        match self {
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::Bf16 => Element::Bf16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Dtype {
    type Err = UnknownDtype;

    fn from_str(name: &str) -> Result<Self, UnknownDtype> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| UnknownDtype(name.to_owned()))
    }
}

//! What plans are about: values, their versions, and linear combinations of them.

use std::fmt;

use serde::Serialize;

/// A block's position in evaluation order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct BlockId(pub usize);

/// What a tensor is, apart from its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// The noisy latents before denoiser call `version`; version 0 is given, version `calls` is the result.
    Latents,
    /// The noise prediction of a denoiser call, after guidance.
    Prediction,
    /// The data prediction of a denoiser call: the clean latents that its latents and its prediction point to.
    Data,
    /// Standard normal noise for a stochastic scheduler's step; every rank draws the same.
    Noise,
    /// Latents that a scheduler corrected after the fact (UniPC).
    Corrected,
    /// The latents of the picture that an inpainting run keeps outside its mask; version 0 only.
    Image,
    /// The noise that was added to the picture's latents at the start; version 0 only.
    ImageNoise,
    /// The output of a block of the denoiser.
    Block(BlockId),
}

/// The half of the guidance batch that a value is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Branch {
    /// Both halves, or all there is without guidance.
    #[default]
    Both,
    /// The negative prompt's half.
    Negative,
    /// The prompt's half.
    Positive,
}

/// One version of a value. The version counts denoiser calls: a block output of version `k` serves call `k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Versioned {
    /// Which value.
    pub value: Value,
    /// Of which half of the batch.
    #[serde(skip_serializing_if = "Branch::is_both")]
    pub branch: Branch,
    /// Whether it comes from latents that were predicted, as the true ones were not there yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ahead: bool,
    /// The denoiser call that it belongs to.
    pub version: usize,
}

impl Branch {
    fn is_both(&self) -> bool {
        *self == Branch::Both
    }

    /// `1 / divisor` of the batch is in this branch, of a batch that guidance doubles.
    #[must_use]
    pub fn divisor(self) -> u64 {
        match self {
            Branch::Both => 1,
            Branch::Negative | Branch::Positive => 2,
        }
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Branch::Both => "both prompts",
            Branch::Negative => "negative prompt",
            Branch::Positive => "prompt",
        })
    }
}

impl fmt::Display for Versioned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version;
        let ahead = if self.ahead { ", ahead" } else { "" };
        let branch = match self.branch {
            Branch::Both => String::new(),
            branch => format!(" ({branch})"),
        };
        match self.value {
            Value::Latents => write!(f, "the latents before call {version}{ahead}"),
            Value::Prediction => write!(f, "the noise prediction of call {version}{ahead}"),
            Value::Data => write!(f, "the data prediction of call {version}{ahead}"),
            Value::Noise => write!(f, "the noise of call {version}"),
            Value::Corrected => write!(f, "the corrected latents of call {version}{ahead}"),
            Value::Image => write!(f, "the picture's latents"),
            Value::ImageNoise => write!(f, "the noise on the picture's latents"),
            Value::Block(BlockId(index)) => {
                write!(f, "block {index}'s output of call {version}{branch}{ahead}")
            }
        }
    }
}

impl Value {
    /// Whether the rank that advances the latents has this value without computing it.
    #[must_use]
    pub fn is_given(self) -> bool {
        matches!(self, Value::Noise | Value::Image | Value::ImageNoise)
    }

    /// This value as of `version`, of the whole batch, from the true latents.
    #[must_use]
    pub fn at(self, version: usize) -> Versioned {
        Versioned {
            value: self,
            branch: Branch::Both,
            ahead: false,
            version,
        }
    }
}

impl Versioned {
    /// A number for every version of every value, the same on all ranks: what its message is tagged with.
    #[must_use]
    pub fn tag(self) -> u64 {
        let value = match self.value {
            Value::Latents => 0,
            Value::Prediction => 1,
            Value::Data => 2,
            Value::Noise => 3,
            Value::Corrected => 4,
            Value::Image => 5,
            Value::ImageNoise => 6,
            Value::Block(BlockId(index)) => 7 + index as u64,
        };
        let branch = match self.branch {
            Branch::Both => 0,
            Branch::Negative => 1,
            Branch::Positive => 2,
        };
        (self.version as u64) << 32 | value << 3 | branch << 1 | u64::from(self.ahead)
    }

    /// That branch's half.
    #[must_use]
    pub fn of(self, branch: Branch) -> Self {
        Self { branch, ..self }
    }

    /// Its twin from predicted latents.
    #[must_use]
    pub fn ahead(self) -> Self {
        self.ahead_if(true)
    }

    /// The twin from predicted latents, or from the true ones.
    #[must_use]
    pub fn ahead_if(self, ahead: bool) -> Self {
        Self { ahead, ..self }
    }
}

/// What of a value a [`Term`] takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// The first half of the batch: the samples of the negative prompt.
    Unconditional,
    /// The second half of the batch: the samples of the prompt.
    Conditional,
    /// What is inside the mask of an inpainting run: the value times the mask.
    Inside,
    /// What is outside: the value times one minus the mask.
    Outside,
}

/// One summand of a linear combination: `weight · of`, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Term {
    /// The version of a value.
    pub of: Versioned,
    /// What of it.
    #[serde(skip_serializing_if = "Part::is_whole")]
    pub part: Part,
    /// The factor.
    pub weight: f64,
    /// The factor at a video's last frame, if it is not that of the first: in between it changes linearly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_frame: Option<f64>,
}

impl Part {
    fn is_whole(&self) -> bool {
        *self == Part::Whole
    }
}

impl Term {
    /// `weight · of`.
    #[must_use]
    pub fn new(of: Versioned, weight: f64) -> Self {
        Self {
            of,
            part: Part::Whole,
            weight,
            last_frame: None,
        }
    }
}

/// A linear combination: `out = Σ weight · of`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Combine {
    /// The result.
    pub out: Versioned,
    /// The summands: every version once, no weight 0.
    pub terms: Vec<Term>,
}

/// The scale of classifier-free guidance: the same for all frames, or changing linearly over a video's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Guidance {
    /// The scale for pictures, and for a video's first frame.
    pub first: f64,
    /// The scale for a video's last frame.
    pub last: f64,
}

impl From<f64> for Guidance {
    /// The same for all frames.
    fn from(scale: f64) -> Self {
        Self {
            first: scale,
            last: scale,
        }
    }
}

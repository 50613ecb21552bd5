//! Noise levels, and what a model's prediction says about signal and noise at one.

use serde::Serialize;

use super::linear::Linear;

/// What a model predicts (diffusers' `prediction_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// The velocity, `alpha · noise - sigma · sample` (Salimans and Ho, "Progressive distillation", section 4).
    Velocity,
    /// The sample without noise.
    Sample,
}

use PredictionType::{Epsilon, Sample, Velocity};

/// The prediction types that most classes know. The default comes first.
pub(super) const PREDICTION_TYPES: &[(&str, PredictionType)] = &[
    ("epsilon", Epsilon),
    ("v_prediction", Velocity),
    ("sample", Sample),
];

/// The same without [`Sample`], which some classes of diffusers leave out.
pub(super) const NOISE_PREDICTION_TYPES: &[(&str, PredictionType)] =
    &[("epsilon", Epsilon), ("v_prediction", Velocity)];

/// A noise level of a variance-preserving process: latents are `alpha · sample + sigma · noise`, and the squares of both
/// add up to 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) alpha: f64,
    pub(super) sigma: f64,
}

impl Level {
    /// The level with this cumulative product of `1 - β`, the square of `alpha`.
    pub(super) fn from_alphas_cumprod(alphas_cumprod: f64) -> Self {
        Self {
            alpha: alphas_cumprod.sqrt(),
            sigma: (1.0 - alphas_cumprod).sqrt(),
        }
    }

    /// The level with this ratio of noise to signal.
    pub(super) fn from_sigma(ratio: f64) -> Self {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Self {
            alpha,
            sigma: ratio * alpha,
        }
    }

    /// Half the logarithm of the signal-to-noise ratio; infinite without noise.
    pub(super) fn lambda(self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }

    /// The sample that `latents` at this level and a prediction for them point to.
    pub(super) fn sample(
        self,
        kind: PredictionType,
        latents: &Linear,
        prediction: &Linear,
    ) -> Linear {
        match kind {
            Epsilon => latents
                .times(1.0 / self.alpha)
                .plus(-self.sigma / self.alpha, prediction),
            Velocity => latents.times(self.alpha).plus(-self.sigma, prediction),
            Sample => prediction.clone(),
        }
    }

    /// The noise that `latents` at this level and a prediction for them point to.
    pub(super) fn noise(
        self,
        kind: PredictionType,
        latents: &Linear,
        prediction: &Linear,
    ) -> Linear {
        match kind {
            Epsilon => prediction.clone(),
            Velocity => latents.times(self.sigma).plus(self.alpha, prediction),
            Sample => latents
                .times(1.0 / self.sigma)
                .plus(-self.alpha / self.sigma, prediction),
        }
    }
}

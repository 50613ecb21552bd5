//! Noise levels as ratios of noise to signal, and the ways to space them.

use super::ScheduleError;
use super::config::{SchedulerConfig, choose, off};
use super::timesteps::linspace;

/// How the noise levels of a run are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SigmaSpacing {
    /// By the timesteps.
    Timesteps,
    /// As Karras et al., "Elucidating the design space of diffusion-based generative models", equation 5.
    Karras,
    /// Evenly spaced logarithms, timesteps not rounded.
    Exponential,
    /// Evenly spaced logarithms, timesteps rounded (Lu et al., "DPM-Solver").
    Lu,
}

/// The noise levels of all training timesteps, rising.
pub(super) struct SigmaTable {
    sigmas: Vec<f64>,
    logarithms: Vec<f64>,
}

impl SigmaTable {
    pub(super) fn new(config: &SchedulerConfig) -> Result<Self, ScheduleError> {
        let sigmas: Vec<f32> = config
            .alphas_cumprod()?
            .into_iter()
            .map(|signal| signal as f32)
            .map(|signal| ((1.0 - signal) / signal).sqrt())
            .collect();
        Ok(Self {
            sigmas: sigmas.iter().copied().map(f64::from).collect(),
            logarithms: sigmas
                .iter()
                .map(|sigma| f64::from(round(f64::from(*sigma).ln())))
                .collect(),
        })
    }

    /// The lowest level.
    pub(super) fn lowest(&self) -> f64 {
        self.sigmas[0]
    }

    /// The highest level.
    pub(super) fn highest(&self) -> f64 {
        self.sigmas[self.sigmas.len() - 1]
    }

    /// The number of levels whose half logarithm of the signal-to-noise ratio is below `lambda`.
    pub(super) fn count_below(&self, lambda: f64) -> usize {
        self.logarithms
            .iter()
            .filter(|logarithm| -**logarithm < lambda)
            .count()
    }

    /// The level at a timestep that may lie between two entries, or beyond the ends.
    pub(super) fn at(&self, timestep: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        if timestep >= last as f64 {
            return self.sigmas[last];
        }
        let low = timestep.max(0.0).floor();
        let index = low as usize;
        let slope = self.sigmas[index + 1] - self.sigmas[index];
        slope * (timestep.max(0.0) - low) + self.sigmas[index]
    }

    /// The timestep with this level, between two entries by the logarithm.
    pub(super) fn timestep(&self, sigma: f64) -> f64 {
        let logarithm = sigma.max(1e-10).ln();
        let below = self
            .logarithms
            .iter()
            .rposition(|entry| *entry <= logarithm)
            .unwrap_or(0);
        let index = below.min(self.logarithms.len().saturating_sub(2));
        let low = self.logarithms[index];
        let Some(high) = self.logarithms.get(index + 1) else {
            return 0.0;
        };
        let share = ((low - logarithm) / (low - high)).clamp(0.0, 1.0);
        (1.0 - share) * index as f64 + share * (index + 1) as f64
    }

    /// The whole timestep for a level: the nearest, or the one below.
    pub(super) fn whole_timestep(&self, sigma: f64, nearest: bool) -> f64 {
        let timestep = self.timestep(sigma);
        if nearest {
            timestep.round_ties_even()
        } else {
            timestep.floor()
        }
    }

    /// `count` noise levels between the ends (highest, lowest), or the limits that the configuration sets instead; `None`
    /// if the timesteps decide.
    pub(super) fn spaced(
        &self,
        config: &SchedulerConfig,
        spacing: SigmaSpacing,
        (highest, lowest): (f64, f64),
        count: usize,
    ) -> Option<Vec<f64>> {
        let high = config.sigma_max.unwrap_or(highest);
        let low = config.sigma_min.unwrap_or(lowest);
        match spacing {
            SigmaSpacing::Timesteps => None,
            SigmaSpacing::Karras => {
                let rho = 7.0;
                let (start, end) = (high.powf(1.0 / rho), low.powf(1.0 / rho));
                let ramp = linspace(0.0, 1.0, count).into_iter();
                Some(
                    ramp.map(|share| (start + share * (end - start)).powf(rho))
                        .collect(),
                )
            }
            SigmaSpacing::Exponential => Some(exponentials(high.ln(), low.ln(), count)),
            // diffusers takes the ends of the table here, whatever the configuration says.
            SigmaSpacing::Lu => Some(self.log_spaced(count)),
        }
    }

    /// `count` levels from the highest to the lowest with evenly spaced logarithms.
    pub(super) fn log_spaced(&self, count: usize) -> Vec<f64> {
        exponentials(
            self.logarithms[self.logarithms.len() - 1],
            self.logarithms[0],
            count,
        )
    }
}

impl SchedulerConfig {
    /// The spacing of noise levels that the flags ask for. `lu` is whether the class knows `use_lu_lambdas`.
    pub(super) fn sigma_spacing(&self, lu: bool) -> Result<SigmaSpacing, ScheduleError> {
        let on = |flag: Option<bool>| flag.unwrap_or(false);
        off(
            "use_beta_sigmas",
            self.use_beta_sigmas,
            "this spacing is not supported; use use_karras_sigmas or use_exponential_sigmas",
        )?;
        match (on(self.use_karras_sigmas), on(self.use_exponential_sigmas)) {
            (true, true) => Err(ScheduleError::setting(
                "use_exponential_sigmas",
                true,
                "use_karras_sigmas is true as well; set one of them to false",
            )),
            (true, false) => Ok(SigmaSpacing::Karras),
            (false, _) if lu && on(self.use_lu_lambdas) => Ok(SigmaSpacing::Lu),
            (false, true) => Ok(SigmaSpacing::Exponential),
            (false, false) => Ok(SigmaSpacing::Timesteps),
        }
    }

    /// The level after the last step: 0, or `sigma_min`.
    pub(super) fn final_sigma(&self, sigma_min: f64) -> Result<f64, ScheduleError> {
        choose(
            "final_sigmas_type",
            self.final_sigmas_type.as_deref(),
            &[("zero", 0.0), ("sigma_min", sigma_min)],
        )
    }
}

fn exponentials(start: f64, end: f64, count: usize) -> Vec<f64> {
    linspace(start, end, count)
        .into_iter()
        .map(f64::exp)
        .collect()
}

/// The standard deviation of the first latents when the latents are `sample + sigma · noise`.
///
/// With leading spacing the first timestep is not the noisiest one of training, so the sample's own variance of 1 is
/// added.
pub(super) fn initial_deviation(sigmas: &[f64], leading: bool) -> f64 {
    let highest = sigmas.iter().copied().fold(0.0, f64::max);
    if leading {
        (highest * highest + 1.0).sqrt()
    } else {
        highest
    }
}

/// To `f32` precision, in which diffusers keeps noise levels and fractional timesteps.
pub(super) fn to_single(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    values
        .into_iter()
        .map(|value| f64::from(round(value)))
        .collect()
}

fn round(value: f64) -> f32 {
    value as f32
}

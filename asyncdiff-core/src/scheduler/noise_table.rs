//! The noise levels that a model was trained on.
//!
//! diffusers keeps these tables in `f32`. At the lowest levels, where `1 - alphas_cumprod` has lost most of its digits,
//! the rounding shows in the weights, so we round in the same places.

use super::config::{Class, SchedulerConfig, choose};
use super::level::Level;
use super::{NoiseLevel, ScheduleError};

/// Stands for the noise-free signal that a schedule with zero terminal signal-to-noise ratio lacks, so that its highest
/// `sigma` is finite: the smallest positive half-precision number, as in diffusers.
const NEARLY_NO_SIGNAL: f32 = 1.0 / 16_777_216.0;

#[derive(Clone, Copy)]
enum BetaSchedule {
    Linear,
    ScaledLinear,
    Cosine,
    Exponential,
}

/// A thousand times what models are trained with; the table must fit into memory.
const MOST_TIMESTEPS: usize = 1_000_000;

impl SchedulerConfig {
    /// The cumulative products of `1 - β`: entry `t` is the share of the signal in the variance of the latents at
    /// timestep `t`. In `f32` precision; one entry for each training timestep.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`] if the class or the β schedule is unknown, or the table would be empty.
    pub fn alphas_cumprod(&self) -> Result<Vec<f64>, ScheduleError> {
        let class = self.class()?;
        let timesteps = self.num_train_timesteps();
        if timesteps > MOST_TIMESTEPS {
            let remedy = format!("use at most {MOST_TIMESTEPS}");
            return Err(ScheduleError::setting(
                "num_train_timesteps",
                timesteps.to_string(),
                &remedy,
            ));
        }
        let mut betas = self.betas(class)?;
        if betas.is_empty() {
            let remedy = "give at least one timestep";
            return Err(ScheduleError::setting("num_train_timesteps", 0, remedy));
        }
        // PNDM and Heun do not know this key.
        let zero_snr = self.rescale_betas_zero_snr.unwrap_or(false)
            && !matches!(class, Class::Pndm | Class::Heun);
        if zero_snr {
            betas = without_terminal_signal(&betas);
        }
        let mut table = cumulative_product(&betas);
        let by_sigma = matches!(
            class,
            Class::Euler | Class::EulerAncestral | Class::DpmSolver | Class::UniPc
        );
        if zero_snr
            && by_sigma
            && let Some(last) = table.last_mut()
        {
            *last = NEARLY_NO_SIGNAL;
        }
        Ok(table.into_iter().map(f64::from).collect())
    }

    fn betas(&self, class: Class) -> Result<Vec<f32>, ScheduleError> {
        if let Some(betas) = &self.trained_betas {
            let (found, expected) = (betas.len(), self.num_train_timesteps());
            if found != expected {
                return Err(ScheduleError::setting(
                    "trained_betas",
                    format!("a list of {found}"),
                    format!("give one for each of the {expected} timesteps (num_train_timesteps)"),
                ));
            }
            if let Some(beta) = betas.iter().find(|beta| !(0.0..=1.0).contains(*beta)) {
                let remedy = "use numbers from 0 to 1, which are shares of noise";
                return Err(ScheduleError::setting("trained_betas", beta, remedy));
            }
            return Ok(betas.iter().map(|beta| *beta as f32).collect());
        }
        use BetaSchedule::{Cosine, Exponential, Linear, ScaledLinear};
        let mut known = vec![
            ("linear", Linear),
            ("scaled_linear", ScaledLinear),
            ("squaredcos_cap_v2", Cosine),
        ];
        let (start, end) = match class {
            Class::Lcm | Class::Heun => (0.00085, 0.012),
            _ => (0.0001, 0.02),
        };
        match class {
            Class::Lcm => known.swap(0, 1),
            Class::Heun => known.push(("exp", Exponential)),
            _ => {}
        }
        let start = self.beta_start.unwrap_or(start);
        let end = self.beta_end.unwrap_or(end);
        for (key, beta) in [("beta_start", start), ("beta_end", end)] {
            if !(0.0..=1.0).contains(&beta) {
                let remedy = "use a number from 0 to 1, which is a share of noise";
                return Err(ScheduleError::setting(key, beta, remedy));
            }
        }
        let count = self.num_train_timesteps();
        Ok(
            match choose("beta_schedule", self.beta_schedule.as_deref(), &known)? {
                Linear => linspace(start, end, count),
                ScaledLinear => linspace(start.sqrt(), end.sqrt(), count)
                    .iter()
                    .map(|root| root * root)
                    .collect(),
                Cosine => betas_for(count, |t| {
                    ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
                        .cos()
                        .powi(2)
                }),
                Exponential => betas_for(count, |t| (-12.0 * t).exp()),
            },
        )
    }
}

/// The level at `timestep`.
pub(super) fn level_at(alphas_cumprod: &[f64], timestep: i64) -> Result<Level, ScheduleError> {
    usize::try_from(timestep)
        .ok()
        .and_then(|index| alphas_cumprod.get(index))
        .map(|alphas_cumprod| Level::from_alphas_cumprod(*alphas_cumprod))
        .ok_or(ScheduleError::Timestep {
            timestep,
            length: alphas_cumprod.len(),
        })
}

/// The levels at `timesteps`, and the end without noise.
pub(super) fn levels_at(
    alphas_cumprod: &[f64],
    timesteps: &[f64],
) -> Result<Vec<NoiseLevel>, ScheduleError> {
    let levels = timesteps
        .iter()
        .map(|timestep| level_at(alphas_cumprod, *timestep as i64).map(NoiseLevel::from));
    levels.chain([Ok(NoiseLevel::NONE)]).collect()
}

/// `torch.linspace` in `f32`, which counts from both ends.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / count.saturating_sub(1).max(1) as f32;
    (0..count)
        .map(|index| {
            if index < count / 2 || count == 1 {
                start + step * index as f32
            } else {
                end - step * (count - index - 1) as f32
            }
        })
        .collect()
}

/// The β that make `alpha_bar` of the elapsed share of time the cumulative product, capped at 0.999.
fn betas_for(count: usize, alpha_bar: impl Fn(f64) -> f64) -> Vec<f32> {
    let elapsed = |index: usize| index as f64 / count as f64;
    (0..count)
        .map(|index| 1.0 - alpha_bar(elapsed(index + 1)) / alpha_bar(elapsed(index)))
        .map(|beta| beta.min(0.999) as f32)
        .collect()
}

/// `torch.cumprod` of `1 - β`: the running product is kept in `f64`.
fn cumulative_product(betas: &[f32]) -> Vec<f32> {
    betas
        .iter()
        .scan(1.0, |product, beta| {
            *product *= f64::from(1.0 - beta);
            Some(*product as f32)
        })
        .collect()
}

/// Lin et al., "Common diffusion noise schedules and sample steps are flawed", algorithm 1: shifts the square roots of
/// the cumulative products so that the last one is 0, and scales them so that the first one stays.
fn without_terminal_signal(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumulative_product(betas)
        .into_iter()
        .map(f32::sqrt)
        .collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    let products: Vec<f32> = roots
        .iter()
        .map(|root| (root - last) * scale)
        .map(|root| root * root)
        .collect();
    let ratios = products.windows(2).map(|pair| pair[1] / pair[0]);
    std::iter::once(products[0])
        .chain(ratios)
        .map(|alpha| 1.0 - alpha)
        .collect()
}

//! Where the timesteps of a run lie in the training range, with numpy's rounding.

use super::ScheduleError;
use super::config::{SchedulerConfig, choose};

/// The spacings of Lin et al., "Common diffusion noise schedules and sample steps are flawed", table 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

use Spacing::{Leading, Linspace, Trailing};

impl SchedulerConfig {
    /// The spacing, for a class with this default.
    pub(super) fn spacing(&self, default: Spacing) -> Result<Spacing, ScheduleError> {
        let mut known = [
            ("leading", Leading),
            ("trailing", Trailing),
            ("linspace", Linspace),
        ];
        if let Some(index) = known.iter().position(|(_, spacing)| *spacing == default) {
            known.swap(0, index);
        }
        choose("timestep_spacing", self.timestep_spacing.as_deref(), &known)
    }

    /// `steps` timesteps from high to low for a one-step solver. Linear spacing is not rounded.
    pub(super) fn timesteps(&self, spacing: Spacing, steps: usize) -> Vec<f64> {
        self.spread(spacing, steps, steps, self.num_train_timesteps())
    }

    /// `steps` timesteps from high to low for a multistep solver, which lays out one point more and leaves the lowest one
    /// to the end of the run. Timesteps from `end` up are left out. Rounded.
    pub(super) fn multistep_timesteps(
        &self,
        spacing: Spacing,
        steps: usize,
        end: usize,
    ) -> Vec<f64> {
        let mut timesteps = match spacing {
            Trailing => return self.spread(spacing, steps, steps, end),
            Leading | Linspace => self.spread(spacing, steps, steps + 1, end),
        };
        timesteps.pop();
        timesteps.into_iter().map(f64::round_ties_even).collect()
    }

    fn spread(&self, spacing: Spacing, steps: usize, points: usize, end: usize) -> Vec<f64> {
        match spacing {
            Linspace => linspace(0.0, end.saturating_sub(1) as f64, points)
                .into_iter()
                .rev()
                .collect(),
            Leading => {
                let stride = end / points;
                let offset = self.steps_offset.unwrap_or(0);
                (0..points)
                    .rev()
                    .map(|index| (index * stride + offset) as f64)
                    .collect()
            }
            Trailing => {
                // numpy's arange steps by the difference of its first two values, which decides some ties.
                let end = end as f64;
                let stride = (end - self.num_train_timesteps() as f64 / steps as f64) - end;
                // For some counts rounding makes arange emit one value more, next to 0, which would be timestep -1.
                (0..steps)
                    .map(|index| (end + index as f64 * stride).round_ties_even() - 1.0)
                    .take_while(|timestep| *timestep >= 0.0)
                    .collect()
            }
        }
    }
}

/// `numpy.linspace`: `count` evenly spaced values, both ends included.
pub(super) fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = (end - start) / count.saturating_sub(1).max(1) as f64;
    let mut values: Vec<f64> = (0..count)
        .map(|index| index as f64 * step + start)
        .collect();
    if count > 1 {
        values[count - 1] = end;
    }
    values
}

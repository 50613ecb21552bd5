//! The plans that are possible on so many devices, and which to take.

use asyncdiff_core::choice::{Candidate, Preference, Wish, candidates, choose};
use asyncdiff_core::{Machine, Setting};

use super::StableDiffusion;
use crate::error::Error;
use crate::measured::MeasuredMachine;
use crate::request::Shape;

/// Every plan that is possible on so many devices, and the one to take.
#[derive(Clone, Debug)]
pub struct Choices {
    /// The plans, the sequential one first.
    pub candidates: Vec<Candidate>,
    chosen: Option<usize>,
    memory: Option<u64>,
}

impl Choices {
    /// The plan to take.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] if no plan fits into the devices' memory.
    pub fn chosen(&self) -> Result<&Candidate, Error> {
        if let Some(index) = self.chosen {
            return Ok(&self.candidates[index]);
        }
        let least = self.candidates.iter().map(Candidate::most_memory).min();
        Err(Error::Memory {
            memory: self.memory.unwrap_or(u64::MAX),
            least: least.unwrap_or(0),
        })
    }
}

impl StableDiffusion {
    /// Plans `shape` in every way that is possible on up to `devices`, and chooses: exact plans first, then what `preference`
    /// says, never a plan whose ranks need more than `memory` bytes each for the denoiser. Times are those of a machine that
    /// was measured, or count multiply-adds.
    ///
    /// # Errors
    ///
    /// As [`StableDiffusion::plan_on`] for the sequential plan.
    pub fn choices(
        &self,
        machine: Option<&MeasuredMachine>,
        shape: &Shape,
        devices: usize,
        preference: Preference,
        memory: Option<u64>,
    ) -> Result<Choices, Error> {
        let (graph, schedule, guidance, _) = self.planned(shape)?;
        let ideal = Machine::ideal(&graph);
        let machine = match machine {
            Some(measured) => measured.machine_for(&graph, self.dtype)?,
            None => &ideal,
        };
        let wish = Wish {
            ranks: devices,
            preference,
            memory,
            element_bytes: self.dtype.bytes(),
        };
        let setting = Setting::new(&graph, &schedule, guidance);
        let candidates = candidates(&setting, machine, &wish)?;
        Ok(Choices {
            chosen: choose(&candidates, preference),
            candidates,
            memory,
        })
    }
}

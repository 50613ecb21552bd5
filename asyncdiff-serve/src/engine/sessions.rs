//! The models that are loaded.

use asyncdiff_burn::device::{DeviceError, Worker, workers};
use asyncdiff_models::Session;

use crate::catalog::{Catalog, Loras, Model};
use crate::plans;
use crate::refusal::Refusal;

/// Devices that make one picture together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// As in `cpu:2` or `cuda:0,1`.
    pub names: String,
    /// CPU threads, shared out among the CPU workers; all cores if it is `None`.
    pub threads: Option<usize>,
}

impl Devices {
    pub(crate) fn workers(&self) -> Result<Vec<Worker>, DeviceError> {
        workers(&self.names, self.threads)
    }
}

/// Sessions on the same devices, the one that was used last at the end.
pub(super) struct Sessions {
    devices: Devices,
    most: usize,
    loaded: Vec<(usize, Loras, Session)>,
}

impl Sessions {
    /// None yet, and never more than `most`.
    pub fn new(devices: Devices, most: usize) -> Self {
        Self {
            devices,
            most: most.max(1),
            loaded: Vec::new(),
        }
    }

    /// That of a model with LoRAs, loaded if it is not there; then the one that was not used for the longest time makes room.
    pub fn get(
        &mut self,
        catalog: &Catalog,
        model: &Model,
        loras: &[(usize, f64)],
    ) -> Result<&mut Session, Refusal> {
        let same =
            |(index, with, _): &(usize, Loras, Session)| *index == model.index && with == loras;
        let loaded = match self.loaded.iter().position(same) {
            Some(place) => self.loaded.remove(place),
            None => {
                let pipeline = catalog.with_loras(model, loras)?;
                // Before the next one takes its memory.
                while self.loaded.len() >= self.most {
                    self.loaded.remove(0);
                }
                let workers = self.devices.workers();
                let workers = workers.map_err(|error| Refusal::internal(error.to_string()))?;
                let session = Session::new(&pipeline, workers);
                let session = session.map_err(|error| plans::wrong(&error))?;
                tracing::info!(model = model.name, ?loras, "loaded");
                (model.index, loras.to_vec(), session)
            }
        };
        self.loaded.push(loaded);
        let (.., session) = self.loaded.last_mut().expect("one was pushed just now");
        Ok(session)
    }

    /// Drops all of them.
    pub fn clear(&mut self) {
        self.loaded.clear();
    }
}

//! The models that are loaded.

use asyncdiff_burn::device::{DeviceError, Worker, workers};
use asyncdiff_models::{Run, Session};

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
    /// Of `run`, what another session of that model has and no LoRA changes is shared with it.
    pub fn get(
        &mut self,
        catalog: &Catalog,
        (model, loras): (&Model, &[(usize, f64)]),
        run: Option<&Run>,
    ) -> Result<&mut Session, Refusal> {
        let same =
            |(index, with, _): &(usize, Loras, Session)| *index == model.index && with == loras;
        let mut session = match self.loaded.iter().position(same) {
            Some(place) => self.loaded.remove(place).2,
            None => self.load(catalog, model, loras)?,
        };
        if let Some(run) = run {
            for other in self.of(model) {
                session.share(other, run);
            }
        }
        // Before the next one takes more memory.
        while self.loaded.len() >= self.most {
            self.loaded.remove(0);
        }
        self.loaded.push((model.index, loras.to_vec(), session));
        let (.., session) = self.loaded.last_mut().expect("one was pushed just now");
        Ok(session)
    }

    fn load(
        &mut self,
        catalog: &Catalog,
        model: &Model,
        loras: &[(usize, f64)],
    ) -> Result<Session, Refusal> {
        let pipeline = catalog.with_loras(model, loras)?;
        let workers = self.devices.workers();
        let workers =
            workers.map_err(|error| Refusal::internal("the devices are not there", error))?;
        let sibling = self.of(model).last();
        let session = match sibling {
            Some(sibling) => sibling.beside(&pipeline, workers),
            None => {
                // Before the next one takes its memory.
                while self.loaded.len() >= self.most {
                    self.loaded.remove(0);
                }
                Session::new(&pipeline, workers)
            }
        };
        let session = session.map_err(|error| plans::wrong(&error))?;
        tracing::info!(model = model.name, ?loras, "loaded");
        Ok(session)
    }

    /// Those of a model.
    fn of(&self, model: &Model) -> impl Iterator<Item = &Session> {
        let own = self
            .loaded
            .iter()
            .filter(|(index, ..)| *index == model.index);
        own.map(|(.., session)| session)
    }

    /// Drops all of them.
    pub fn clear(&mut self) {
        self.loaded.clear();
    }
}

//! The models and LoRAs that requests may name. Nothing else is ever opened.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use asyncdiff_models::StableDiffusion;
use asyncdiff_models::lora::Lora;

use crate::refusal::Refusal;

/// Opens a model.
pub type Open = dyn Fn() -> Result<StableDiffusion, Box<dyn Error + Send + Sync>> + Send + Sync;

/// A model that requests may name.
#[derive(Clone)]
pub struct ModelSource {
    /// What requests call it.
    pub name: String,
    /// Opens it.
    pub open: Arc<Open>,
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelSource")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A LoRA that requests may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraSource {
    /// What requests call it.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

impl LoraSource {
    /// Every `.safetensors` file of a folder, called by its name without the ending, in alphabetical order.
    ///
    /// # Errors
    ///
    /// Whatever keeps the folder from being read.
    pub fn all_in(folder: &Path) -> std::io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let ends = path.extension().is_some_and(|end| end == "safetensors");
            if let (true, true, Some(name)) = (ends, path.is_file(), path.file_stem()) {
                let name = name.to_string_lossy().into_owned();
                found.push(Self { name, path });
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}

/// Which LoRAs of the catalogue, and how strong.
pub(crate) type Loras = Vec<(usize, f64)>;

/// A model of the catalogue.
#[derive(Debug)]
pub(crate) struct Model {
    /// Its place in the catalogue.
    pub index: usize,
    pub name: String,
    source: ModelSource,
    opened: Mutex<Option<Arc<StableDiffusion>>>,
}

impl Model {
    /// The pipeline without LoRAs; opened when it is first asked for, which reads no weights.
    pub fn pipeline(&self) -> Result<Arc<StableDiffusion>, Refusal> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = &*opened {
            return Ok(Arc::clone(pipeline));
        }
        let pipeline = Arc::new(self.open().map_err(|error| self.unusable(error))?);
        *opened = Some(Arc::clone(&pipeline));
        Ok(pipeline)
    }

    /// Whether all of its files are there, as far as can be told without reading the weights.
    pub fn check(&self) -> Result<(), Refusal> {
        let checked = self.pipeline()?.check_weights();
        checked.map_err(|error| self.unusable(error))
    }

    fn unusable(&self, error: impl fmt::Display) -> Refusal {
        Refusal::internal(
            format_args!("the model {} cannot be opened", self.name),
            error,
        )
    }

    /// Whether it makes videos only, if it was opened before.
    pub fn kind(&self) -> Option<bool> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let pipeline = opened.as_ref()?;
        Some(pipeline.image_encoder().is_some())
    }

    fn open(&self) -> Result<StableDiffusion, Box<dyn Error + Send + Sync>> {
        (self.source.open)()
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Catalog {
    models: Vec<Arc<Model>>,
    /// Other names of the first model.
    aliases: Vec<String>,
    pub loras: Vec<LoraSource>,
}

impl Catalog {
    pub fn new(models: Vec<ModelSource>, aliases: Vec<String>, loras: Vec<LoraSource>) -> Self {
        let model = |(index, source): (usize, ModelSource)| {
            Arc::new(Model {
                index,
                name: source.name.clone(),
                source,
                opened: Mutex::default(),
            })
        };
        Self {
            models: models.into_iter().enumerate().map(model).collect(),
            aliases,
            loras,
        }
    }

    /// The models, the one first that is taken where a request names none.
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// The model of that name.
    pub fn model(&self, name: &str) -> Result<&Arc<Model>, Refusal> {
        if self.aliases.iter().any(|alias| alias == name) {
            return Ok(&self.models[0]);
        }
        let named = self.models.iter().find(|model| model.name == name);
        named.ok_or_else(|| Refusal {
            code: Some("model_not_found"),
            ..Refusal::field(
                "model",
                format!(
                    "this service has no model {}: it has {}",
                    quote(name),
                    list(self.models.iter().map(|model| &*model.name))
                ),
            )
        })
    }

    /// The LoRA of that name.
    pub fn lora(&self, name: &str) -> Result<usize, Refusal> {
        let place = self.loras.iter().position(|lora| lora.name == name);
        place.ok_or_else(|| {
            let has = match self.loras.is_empty() {
                true => "none".to_owned(),
                false => list(self.loras.iter().map(|lora| &*lora.name)),
            };
            Refusal::field(
                "prompt",
                format!("this service has no LoRA {}: it has {has}", quote(name)),
            )
        })
    }

    /// A model with LoRAs merged into it.
    pub fn with_loras(
        &self,
        model: &Model,
        loras: &[(usize, f64)],
    ) -> Result<Arc<StableDiffusion>, Refusal> {
        if loras.is_empty() {
            return model.pipeline();
        }
        let plain = StableDiffusion::clone(&*model.pipeline()?);
        let merge = || -> Result<_, asyncdiff_models::Error> {
            let read = loras
                .iter()
                .map(|(index, weight)| Ok((Lora::open(&self.loras[*index].path)?, *weight)));
            plain.with_loras(read.collect::<Result<_, asyncdiff_models::Error>>()?)
        };
        merge().map(Arc::new).map_err(|error| match error {
            asyncdiff_models::Error::Lora(error) => {
                // Where they are, is nobody's business.
                let named = loras.iter().fold(error.to_string(), |text, (index, _)| {
                    let LoraSource { name, path } = &self.loras[*index];
                    text.replace(&*path.to_string_lossy(), name)
                });
                Refusal::field("prompt", named)
            }
            error => model.unusable(error),
        })
    }
}

/// What a client has typed, as far as a message needs it.
fn quote(text: &str) -> String {
    format!("{:?}", asyncdiff_core::quoted(text).to_string())
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_has_a_name() {
        let source = |name: &str| ModelSource {
            name: name.to_owned(),
            open: Arc::new(|| Err("not opened here".into())),
        };
        let lora = LoraSource {
            name: "ink".to_owned(),
            path: "/loras/ink.safetensors".into(),
        };
        let models = vec![source("one"), source("two")];
        let catalog = Catalog::new(models, vec!["dall-e-3".to_owned()], vec![lora]);
        assert_eq!(catalog.model("two").unwrap().index, 1);
        assert_eq!(catalog.model("dall-e-3").unwrap().index, 0);
        let refusal = catalog.model("../two").unwrap_err();
        assert_eq!(refusal.code, Some("model_not_found"));
        assert!(
            refusal.message.ends_with("it has one, two"),
            "{}",
            refusal.message
        );
        assert_eq!(catalog.lora("ink").unwrap(), 0);
        assert!(catalog.lora("/loras/ink.safetensors").is_err());
    }
}

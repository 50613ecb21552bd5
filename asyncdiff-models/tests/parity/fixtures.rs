//! The reference data: folders of safetensors files, each described by a manifest.json.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asyncdiff_burn::weights::read_tensors;
use asyncdiff_models::device::{Worker, available, workers};
use asyncdiff_models::{CheckpointError, Error, StableDiffusion};
use serde_json::Value;

use super::animatediff;

/// `ASYNCDIFF_FIXTURES`, or the project's own. A relative path starts at the workspace, where the command was typed, not at
/// this package, where Cargo runs its tests.
pub fn root() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match std::env::var_os("ASYNCDIFF_FIXTURES") {
        Some(folder) => workspace.join(folder),
        None => workspace.join("fixtures"),
    }
}

/// A folder of reference data that belongs to no model. Only the project's own data must have it.
pub fn folder(name: &str) -> Option<PathBuf> {
    let folder = root().join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("ASYNCDIFF_FIXTURES").is_some(),
        "no {}",
        folder.display()
    );
    println!("passing over {name}: no such folder");
    None
}

/// So many workers on each kind of device that this build finds on this machine: what is compared with reference tensors is so on all.
pub fn workers_of_each_kind(count: usize) -> impl Iterator<Item = Vec<Worker>> {
    let names = available().into_iter();
    // One GPU of a kind is as good as another.
    let index = |name: &str| name.rsplit(':').next()?.parse().ok();
    let first = names.filter(move |name| index(name).is_none_or(|index: usize| index == 0));
    first.map(move |name| {
        let spec = match name.strip_suffix(":0") {
            Some(kind) => format!("{kind}:{}", vec!["0"; count].join(",")),
            None => format!("{name}:{count}"),
        };
        workers(&spec, None).unwrap()
    })
}

/// One of each.
pub fn each_worker() -> impl Iterator<Item = Worker> {
    workers_of_each_kind(1).flatten()
}

/// A model's folder, opened.
pub struct Model {
    pub name: String,
    pub folder: PathBuf,
    pub manifest: Value,
    pub pipeline: Arc<StableDiffusion>,
}

/// One file of reference tensors.
pub struct Reference {
    pub params: Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    atol: f32,
    rtol: f32,
}

/// Every model folder of a pipeline class that is implemented; says which it passes over.
pub fn models() -> Vec<Model> {
    let mut folders: Vec<_> = fs::read_dir(root())
        .unwrap_or_else(|error| panic!("{}: {error}", root().display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("checkpoint/model_index.json").is_file())
        .collect();
    folders.sort();
    let models: Vec<_> = folders
        .into_iter()
        .filter_map(|folder| {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let manifest: Value =
                serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
            match animatediff::open(&folder.join("checkpoint"), &manifest) {
                Ok(pipeline) => Some(Model {
                    name,
                    manifest,
                    folder,
                    pipeline: Arc::new(pipeline),
                }),
                Err(Error::Checkpoint(error @ CheckpointError::UnknownPipeline { .. })) => {
                    println!("passing over {name}: {error}");
                    None
                }
                Err(error) => panic!("{name}: {error}"),
            }
        })
        .collect();
    // Reference data of schedulers or tokenizers alone is fine, an empty folder is not.
    let others = ["schedulers", "tokenizer_clip"]
        .iter()
        .any(|name| root().join(name).is_dir());
    assert!(
        others || !models.is_empty(),
        "no model that is implemented in {}",
        root().display()
    );
    models
}

/// Data of a model that is not implemented would be passed over without a word in a test that passes.
#[test]
fn every_checkpoint_of_the_data_is_checked() {
    if std::env::var_os("ASYNCDIFF_FIXTURES").is_some() {
        return;
    }
    let folders = fs::read_dir(root()).unwrap();
    let checkpoints = folders.filter(|entry| {
        let folder = entry.as_ref().unwrap().path();
        folder.join("checkpoint/model_index.json").is_file()
    });
    assert_eq!(models().len(), checkpoints.count());
}

impl Model {
    /// The reference tensors of `<stem>.safetensors`, or `None` where the manifest has no such file.
    pub fn reference(&self, stem: &str) -> Option<Reference> {
        let file = format!("{stem}.safetensors");
        let entry = self.manifest["files"].get(&file)?;
        Some(Reference::open(&self.folder.join(file), entry))
    }
}

/// Reference files hold integers too, which weights never do.
fn read_or_convert(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    if let Ok(tensors) = read_tensors(path) {
        return tensors
            .into_iter()
            .map(|tensor| (tensor.name, (tensor.shape, tensor.values)))
            .collect();
    }
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| {
            let data = view.data();
            let values = match view.dtype() {
                safetensors::Dtype::U8 => data.iter().map(|byte| f32::from(*byte)).collect(),
                safetensors::Dtype::I32 => data
                    .chunks_exact(4)
                    .map(|four| i32::from_le_bytes(four.try_into().unwrap()) as f32)
                    .collect(),
                safetensors::Dtype::F32 => data
                    .chunks_exact(4)
                    .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
                    .collect(),
                other => panic!("{}: {name} is {other:?}", path.display()),
            };
            (name.to_owned(), (view.shape().to_vec(), values))
        })
        .collect()
}

impl Reference {
    /// The tensors of a file, with its entry in the manifest.
    pub fn open(path: &Path, entry: &Value) -> Self {
        let tolerance = |key: &str| entry["tolerance"][key].as_f64().unwrap() as f32;
        Self {
            params: entry["params"].clone(),
            tensors: read_or_convert(path),
            atol: tolerance("atol"),
            rtol: tolerance("rtol"),
        }
    }

    /// The file `<stem>.safetensors` of a folder that belongs to no model.
    pub fn of_folder(folder: &Path, stem: &str) -> Self {
        let manifest: Value =
            serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
        let file = format!("{stem}.safetensors");
        Self::open(&folder.join(&file), &manifest["files"][&file])
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn shape(&self, name: &str) -> &[usize] {
        &self.tensors[name].0
    }

    pub fn values(&self, name: &str) -> &[f32] {
        &self.tensors[name].1
    }

    /// Fails unless `found` is the reference tensor within the manifest's tolerance.
    pub fn check(&self, what: &str, name: &str, found: &[f32]) {
        self.check_part(what, self.values(name), found);
    }

    /// The same for a part of a reference tensor.
    pub fn check_part(&self, what: &str, expected: &[f32], found: &[f32]) {
        assert_eq!(found.len(), expected.len(), "{what}: number of elements");
        let mut worst = (0.0, 0, 0.0, 0.0);
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let excess = (found - expected).abs() / (self.atol + self.rtol * expected.abs());
            if excess.is_nan() || excess > worst.0 {
                worst = (excess, index, *found, *expected);
            }
        }
        let (excess, index, found, expected) = worst;
        assert!(
            excess <= 1.0,
            "{what}: element {index} is {found}, should be {expected}: {excess:.2} tolerances off"
        );
    }
}

pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    squares.sum::<f64>().sqrt()
}

//! Fixture checkpoints, and safetensors files to take apart and put together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asyncdiff_models::device::workers;
use asyncdiff_models::{Checkpoint, Session, StableDiffusion, Strategy};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

/// The Stable Diffusion checkpoints of the project's fixtures, or of `ASYNCDIFF_FIXTURES`.
pub fn checkpoints() -> Vec<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = match std::env::var_os("ASYNCDIFF_FIXTURES") {
        Some(folder) => workspace.join(folder),
        None => workspace.join("fixtures"),
    };
    let mut folders: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("checkpoint"))
        .filter(|folder| {
            let is_stable_diffusion = |index: Value| {
                let class = index["_class_name"].as_str().unwrap_or_default();
                class.starts_with("StableDiffusion") && !folder.join("motion_adapter").is_dir()
            };
            let index = folder.join("model_index.json");
            index.is_file() && is_stable_diffusion(json(&index))
        })
        .collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
}

/// One of them that makes pictures from nothing but text.
pub fn checkpoint() -> PathBuf {
    let mut folders = checkpoints().into_iter();
    folders
        .find(|folder| makes_pictures_from_text(folder))
        .unwrap()
}

/// Whether the denoiser reads nothing but latents, unlike those for inpainting.
pub fn makes_pictures_from_text(checkpoint: &Path) -> bool {
    json(&checkpoint.join("unet/config.json"))["in_channels"] == 4
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A folder with all of another's contents.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            fs::copy(&entry, &target).unwrap();
        }
    }
}

/// The contents of all files in a folder and the folders in it, by path with `/` between.
#[cfg(feature = "hub")]
pub fn every_file(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            for (file, bytes) in every_file(&entry.path()) {
                files.insert(format!("{name}/{file}"), bytes);
            }
        } else {
            files.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    files
}

/// A tensor in plain memory, in the type in which a file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub type Tensors = BTreeMap<String, Plain>;

pub fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let plain = |view: TensorView<'_>| Plain {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, plain(view)))
        .collect()
}

pub fn write(path: &Path, tensors: &Tensors, metadata: &[(&str, &str)]) {
    fn view(plain: &Plain) -> TensorView<'_> {
        TensorView::new(plain.dtype, plain.shape.clone(), &plain.bytes).unwrap()
    }
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, plain)| (name.clone(), view(plain)))
        .collect();
    let metadata = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    safetensors::serialize_to_file(views, Some(metadata), path).unwrap();
}

/// The final latents of two steps with guidance.
pub fn latents(checkpoint: Checkpoint) -> Vec<f32> {
    latents_of(&Arc::new(StableDiffusion::open(checkpoint).unwrap()))
}

pub fn latents_of(pipeline: &Arc<StableDiffusion>) -> Vec<f32> {
    let mut request = pipeline.request("a small test");
    request.shape.steps = 2;
    (request.shape.width, request.shape.height) = (64, 64);
    let run = pipeline
        .plan(&request.shape, &Strategy::sequential())
        .unwrap();
    let mut session = Session::new(pipeline, workers("cpu", None).unwrap()).unwrap();
    session
        .generate(&run, &request.content, &mut ())
        .unwrap()
        .latents
}

/// The sentence with which a model cannot be loaded.
pub fn refusal(checkpoint: Checkpoint) -> String {
    let load = || {
        let pipeline = Arc::new(StableDiffusion::open(checkpoint)?);
        let run = pipeline.plan(&pipeline.shape(), &Strategy::sequential())?;
        Session::new(&pipeline, workers("cpu", None).unwrap())?.prepare(&run)
    };
    load().unwrap_err().to_string()
}

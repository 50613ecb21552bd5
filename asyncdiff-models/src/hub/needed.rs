//! Which files of a model are read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use asyncdiff_burn::files::{self, MOST_BYTES_OF_TEXT};
use serde_json::Value;

use super::error::HubError;
use crate::checkpoint::{CheckpointError, WeightFiles, choose_weights, has_variant, shards};
use crate::json;

const MODEL_INDEX: &str = "model_index.json";
const CONFIG: &str = "config.json";

/// What a model of the Hub is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A folder for each part.
    Pipeline,
    /// One part.
    Part,
}

impl Kind {
    /// The file without which it is no such model.
    pub fn first_file(self) -> &'static str {
        match self {
            Kind::Pipeline => MODEL_INDEX,
            Kind::Part => CONFIG,
        }
    }
}

/// Parts that a `model_index.json` may name and no pipeline here has.
const NOT_READ: [&str; 1] = ["safety_checker"];

/// Endings of the classes of parts that have no weights.
const WITHOUT_WEIGHTS: [&str; 5] = [
    "Tokenizer",
    "TokenizerFast",
    "Scheduler",
    "Processor",
    "FeatureExtractor",
];

/// Gets every file that is read of a model called `id`, beside its [first](Kind::first_file), which is in `folder` already.
///
/// `names` are the files that there are, relative to the model's root; `get` fetches one and says where it is.
pub(super) fn get_all(
    folder: &Path,
    id: &str,
    kind: Kind,
    names: &[String],
    variant: Option<&str>,
    get: &mut dyn FnMut(&str) -> Result<PathBuf, HubError>,
) -> Result<(), HubError> {
    for name in names.iter().filter(|name| !name.contains('/')) {
        // The README of a model is for people, and its other files are for other programs.
        if name == "generation_config.json" {
            get(name)?;
        }
    }
    let mut weights = Vec::new();
    let parts = match kind {
        Kind::Pipeline => parts(&folder.join(MODEL_INDEX))?,
        Kind::Part => {
            let files = names.iter().filter(|name| !name.contains('/'));
            weights.push((
                String::new(),
                "diffusion_pytorch_model",
                files.cloned().collect(),
            ));
            // The noise scheduler that a motion adapter may bring.
            vec![("scheduler".to_owned(), None)]
        }
    };
    for (part, stem) in parts {
        let files: Vec<String> = names
            .iter()
            .filter_map(|name| name.strip_prefix(&part)?.strip_prefix('/'))
            .map(str::to_owned)
            .collect();
        for name in files.iter().filter(|name| is_configuration(name)) {
            get(&in_part(&part, name))?;
        }
        if let Some(stem) = stem {
            weights.push((part, stem, files));
        }
    }
    let has = |variant: &str| {
        let mut all = weights.iter();
        all.any(|(_, stem, files)| has_variant(files, stem, variant))
    };
    if let Some(variant) = variant.filter(|variant| !has(variant)) {
        return Err(CheckpointError::NoVariant {
            model: id.to_owned(),
            variant: variant.to_owned(),
            found: Vec::new(),
        }
        .into());
    }
    // All choices before the first big download.
    let mut chosen = Vec::new();
    for (part, stem, files) in &weights {
        let files = choose_weights(&in_part(id, part), files, stem, variant)?;
        chosen.push((part, files));
    }
    for (part, files) in chosen {
        match files {
            WeightFiles::Whole(name) => {
                get(&in_part(part, &name))?;
            }
            WeightFiles::Sharded(index) => {
                let name = in_part(part, &index);
                let path = get(&name)?;
                let bytes = files::read(&path, MOST_BYTES_OF_TEXT).map_err(|source| {
                    CheckpointError::Read {
                        file: path.display().to_string(),
                        source,
                    }
                })?;
                for shard in shards(&path.display().to_string(), &bytes)?.files {
                    get(&in_part(part, &shard))?;
                }
            }
        }
    }
    Ok(())
}

/// The name of a part's file; the part without a name is the model itself.
fn in_part(part: &str, file: &str) -> String {
    match part {
        "" => file.to_owned(),
        part => format!("{part}/{file}"),
    }
}

/// The parts that `model_index.json` names, each with the stem of its weight files if it has weights.
fn parts(model_index: &Path) -> Result<Vec<(String, Option<&'static str>)>, CheckpointError> {
    let file = || model_index.display().to_string();
    let bytes =
        files::read(model_index, MOST_BYTES_OF_TEXT).map_err(|source| CheckpointError::Read {
            file: file(),
            source,
        })?;
    let index: BTreeMap<String, Value> =
        json::from_slice(&bytes).map_err(|source| CheckpointError::Json {
            file: file(),
            source,
        })?;
    let part = |(name, value): (String, Value)| {
        // [library, class], or two nulls for a part that is left out.
        let library = value.get(0)?.as_str()?;
        let class = value.get(1)?.as_str()?;
        if NOT_READ.contains(&name.as_str()) || name.contains(['/', '\\', '.']) {
            return None;
        }
        let stem = match library {
            "transformers" => "model",
            _ => "diffusion_pytorch_model",
        };
        let without = WITHOUT_WEIGHTS.iter().any(|end| class.ends_with(end));
        Some((name, (!without).then_some(stem)))
    };
    Ok(index.into_iter().filter_map(part).collect())
}

/// Configurations and vocabularies, but neither indices of shards nor the tokenizer in the form that is not read.
fn is_configuration(name: &str) -> bool {
    (name.ends_with(".json") || name.ends_with(".txt"))
        && !name.contains(".index.")
        && name != "tokenizer.json"
        && !name.contains('/')
}

/// The files in a folder and the folders in it, with `/` between.
pub(super) fn files_below(folder: &Path) -> Vec<String> {
    let list = |folder: &Path| -> Vec<_> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let entries = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((name, entry.path()))
        });
        entries.collect()
    };
    let mut files = Vec::new();
    for (name, path) in list(folder) {
        if path.is_dir() {
            let below = list(&path).into_iter();
            files.extend(below.map(|(file, _)| format!("{name}/{file}")));
        } else {
            files.push(name);
        }
    }
    files
}

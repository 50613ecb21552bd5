//! Which files hold the weights of one part of a model: whole, in shards, or in a variant of the name.
//!
//! diffusers and transformers name them after a stem, such as `diffusion_pytorch_model` or `model`:
//! `STEM.safetensors`, or `STEM.safetensors.index.json` and the shards that it names; for a variant such as `fp16`,
//! `STEM.fp16.safetensors` or `STEM.safetensors.index.fp16.json`.

use std::collections::BTreeMap;

use asyncdiff_burn::weights::{WeightFile, WeightSet};
use asyncdiff_core::quoted;
use serde::Deserialize;

use super::error::CheckpointError;
use crate::json;

/// The file to read first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WeightFiles {
    /// All weights.
    Whole(String),
    /// The index of the shards.
    Sharded(String),
}

/// Chooses among `names`, the files in the folder of a part (called `folder` in messages).
///
/// With a `variant`, the files of that variant, or the plain ones if this part has none of it. Without, the plain ones, or
/// the only variant there is.
pub(crate) fn choose(
    folder: &str,
    names: &[String],
    stem: &str,
    variant: Option<&str>,
) -> Result<WeightFiles, CheckpointError> {
    let mut found = BTreeMap::new();
    for name in names {
        if let Some((of, files)) = parse(name, stem) {
            // A whole file goes before shards of the same.
            let known = found.entry(of).or_insert_with(|| files.clone());
            if matches!(files, WeightFiles::Whole(_)) {
                *known = files;
            }
        }
    }
    if let Some(asked) = variant.and_then(|variant| found.remove(variant)) {
        return Ok(asked);
    }
    if let Some(plain) = found.remove("") {
        return Ok(plain);
    }
    let variants: Vec<_> = found.keys().map(|variant| (*variant).to_owned()).collect();
    match (found.pop_first(), variants.len()) {
        (Some((_, only)), 1) => Ok(only),
        (Some(_), _) => Err(CheckpointError::WhichVariant {
            folder: folder.to_owned(),
            found: variants,
        }),
        (None, _) => Err(match names.iter().find(|name| is_pickle(name)) {
            Some(pickle) => CheckpointError::PickledPart {
                folder: folder.to_owned(),
                found: pickle.clone(),
            },
            None => CheckpointError::NoWeights {
                folder: folder.to_owned(),
                stem: stem.to_owned(),
            },
        }),
    }
}

/// The variant that a file's name stands for: empty for the plain files, none for files that are no weights.
pub(crate) fn variant<'n>(name: &'n str, stem: &str) -> Option<&'n str> {
    parse(name, stem).map(|(variant, _)| variant)
}

/// Whether some of `names` are of this variant.
#[cfg(feature = "hub")]
pub(crate) fn has_variant(names: &[String], stem: &str, variant: &str) -> bool {
    let mut found = names.iter().filter_map(|name| parse(name, stem));
    found.any(|(known, _)| known == variant)
}

fn parse<'n>(name: &'n str, stem: &str) -> Option<(&'n str, WeightFiles)> {
    let rest = name.strip_prefix(stem)?.strip_prefix('.')?;
    let whole = || WeightFiles::Whole(name.to_owned());
    let index = || WeightFiles::Sharded(name.to_owned());
    let plain = |variant: &&str| !variant.is_empty() && !variant.contains(['.', '-']);
    if rest == "safetensors" {
        Some(("", whole()))
    } else if rest == "safetensors.index.json" {
        Some(("", index()))
    } else if let Some(middle) = rest.strip_prefix("safetensors.index.") {
        let variant = middle.strip_suffix(".json").filter(plain)?;
        Some((variant, index()))
    } else {
        // With a "-" in it, it is one of the shards.
        let variant = rest.strip_suffix(".safetensors").filter(plain)?;
        Some((variant, whole()))
    }
}

/// Whether a name is that of a file in Python's pickle format, which runs programs when it is read.
fn is_pickle(name: &str) -> bool {
    let extensions = [".bin", ".ckpt", ".pt", ".pth", ".pkl"];
    extensions.iter().any(|extension| name.ends_with(extension))
}

/// What an index of shards says.
#[derive(Debug)]
pub(crate) struct Shards {
    /// The shards' names.
    pub files: Vec<String>,
    /// For each tensor, the position of its shard in `files`.
    pub tensors: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct IndexFile {
    weight_map: BTreeMap<String, String>,
}

/// Reads the index called `file`.
pub(crate) fn shards(file: &str, bytes: &[u8]) -> Result<Shards, CheckpointError> {
    let wrong = |fault: String| CheckpointError::Index {
        file: file.to_owned(),
        fault,
    };
    let index: IndexFile =
        json::from_slice(bytes).map_err(|source| wrong(quoted(&source.to_string()).to_string()))?;
    if index.weight_map.is_empty() {
        return Err(wrong("its weight_map is empty".to_owned()));
    }
    let mut files: Vec<String> = index.weight_map.values().cloned().collect();
    files.sort();
    files.dedup();
    // A shard lies beside its index; a name that leads elsewhere was not written by diffusers.
    let elsewhere =
        |name: &&String| name.contains(['/', '\\', ':']) || !name.ends_with(".safetensors");
    if let Some(name) = files.iter().find(elsewhere) {
        return Err(wrong(format!(
            "the shard {:?} is no safetensors file beside it",
            quoted(name)
        )));
    }
    let tensors = index
        .weight_map
        .into_iter()
        .map(|(tensor, file)| (tensor, files.partition_point(|known| *known < file)))
        .collect();
    Ok(Shards { files, tensors })
}

/// The weights in the shards of the index called `index`, whose folder has the files `names`.
pub(super) fn sharded(
    index: String,
    bytes: &[u8],
    names: &[String],
    open: impl Fn(&str) -> Result<WeightFile, CheckpointError>,
) -> Result<WeightSet, CheckpointError> {
    let shards = shards(&index, bytes)?;
    if let Some(missing) = shards.files.iter().find(|shard| !names.contains(shard)) {
        return Err(CheckpointError::MissingShard {
            index,
            shard: missing.clone(),
        });
    }
    let files = shards.files.iter().map(|shard| open(shard));
    let files = files.collect::<Result<_, _>>()?;
    Ok(WeightSet::sharded(index, files, shards.tensors))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], variant: Option<&str>) -> Result<WeightFiles, CheckpointError> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        choose("model/unet", &names, "model", variant)
    }

    #[test]
    fn plain_files_go_first_unless_a_variant_is_asked_for() {
        let whole = |name: &str| WeightFiles::Whole(name.to_owned());
        let sharded = |name: &str| WeightFiles::Sharded(name.to_owned());
        let both = ["model.fp16.safetensors", "model.safetensors", "config.json"];
        assert_eq!(chosen(&both, None).unwrap(), whole(both[1]));
        assert_eq!(chosen(&both, Some("fp16")).unwrap(), whole(both[0]));
        // A part that has no such variant.
        assert_eq!(chosen(&both[1..], Some("fp16")).unwrap(), whole(both[1]));
        // The only one there is.
        assert_eq!(chosen(&both[..1], None).unwrap(), whole(both[0]));
        let shards = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "model.fp16-00001-of-00001.safetensors",
            "model.safetensors.index.fp16.json",
        ];
        assert_eq!(chosen(&shards, None).unwrap(), sharded(shards[2]));
        assert_eq!(chosen(&shards, Some("fp16")).unwrap(), sharded(shards[4]));
        assert_eq!(chosen(&shards[3..], None).unwrap(), sharded(shards[4]));
    }

    #[test]
    fn what_cannot_be_chosen_is_explained() {
        let error = |names: &[&str]| chosen(names, None).unwrap_err().to_string();
        assert!(error(&["config.json"]).contains("no model/unet/model.safetensors"));
        let pickle = error(&["model.bin"]);
        assert!(pickle.contains("model.bin") && pickle.contains("save_pretrained"));
        let several = error(&["model.fp16.safetensors", "model.bf16.safetensors"]);
        assert!(several.contains("bf16, fp16"));
        // Shards without their index.
        assert!(error(&["model-00001-of-00002.safetensors"]).contains("index.json"));
    }

    #[test]
    fn an_index_names_shards_beside_it() {
        let read = |text: &str| shards("model.safetensors.index.json", text.as_bytes());
        let found =
            read(r#"{"weight_map": {"a": "2.safetensors", "b": "1.safetensors"}}"#).unwrap();
        assert_eq!(found.files, ["1.safetensors", "2.safetensors"]);
        assert_eq!(found.tensors["a"], 1);
        assert_eq!(found.tensors["b"], 0);
        for bad in [
            "",
            "{}",
            r#"{"weight_map": {}}"#,
            r#"{"weight_map": {"a": "../other.safetensors"}}"#,
            r#"{"weight_map": {"a": "C:other.safetensors"}}"#,
            r#"{"weight_map": {"a": "model.bin"}}"#,
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(
                error.contains("model.safetensors.index.json"),
                "{bad}: {error}"
            );
        }
    }
}

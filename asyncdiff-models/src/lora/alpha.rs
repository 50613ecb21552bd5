//! The settings that diffusers writes into a LoRA file's metadata.

use std::collections::BTreeMap;

use asyncdiff_burn::weights::WeightFile;
use serde_json::{Map, Value};

use super::LoraError;
use super::key::{Part, underscored};

const METADATA: &str = "lora_adapter_metadata";

/// How much each layer of a file counts, where its tensors do not say it.
#[derive(Clone, Debug, Default)]
pub(super) struct Alphas(BTreeMap<Part, OfPart>);

#[derive(Clone, Debug, Default)]
struct OfPart {
    alpha: Option<f64>,
    /// For modules whose path, with underscores for dots, ends with the name.
    exceptions: Vec<(String, f64)>,
    /// Rank-stabilised: the change is divided by the root of the rank.
    rslora: bool,
}

impl Alphas {
    /// # Errors
    ///
    /// [`LoraError::Metadata`] for settings that change what is computed and are not implemented.
    pub fn of(file: &WeightFile) -> Result<Self, LoraError> {
        let metadata = file.metadata()?;
        let Some(text) = metadata.get(METADATA) else {
            return Ok(Self::default());
        };
        let unsupported = |key: &str, found: &str| LoraError::Metadata {
            file: file.name().to_owned(),
            key: key.to_owned(),
            found: found.to_owned(),
        };
        let settings: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| unsupported("a text that is no JSON", &error.to_string()))?;
        let mut parts: BTreeMap<Part, OfPart> = BTreeMap::new();
        for (key, value) in &settings {
            let named = Part::ALL.into_iter().find_map(|part| {
                let setting = key.strip_prefix(part.folder())?.strip_prefix('.')?;
                Some((part, setting))
            });
            let Some((part, setting)) = named else {
                continue;
            };
            let unsupported = || unsupported(key, &value.to_string());
            let of_part = parts.entry(part).or_default();
            match setting {
                "lora_alpha" => of_part.alpha = Some(value.as_f64().ok_or_else(unsupported)?),
                "use_rslora" => of_part.rslora = value.as_bool().unwrap_or(false),
                "use_dora" | "lora_bias" if value.as_bool() == Some(true) => {
                    return Err(unsupported());
                }
                "alpha_pattern" => {
                    for (module, alpha) in value.as_object().into_iter().flatten() {
                        // PEFT takes them for regular expressions; diffusers writes paths, at most with an anchor.
                        let path = module.strip_prefix('^').unwrap_or(module);
                        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
                        let alpha = alpha.as_f64().filter(|_| path.chars().all(plain));
                        let exception = (underscored(path), alpha.ok_or_else(unsupported)?);
                        of_part.exceptions.push(exception);
                    }
                }
                _ => {}
            }
        }
        Ok(Self(parts))
    }

    /// `alpha / rank` of a layer. Where nothing is said, `alpha` is the rank.
    pub fn scale(&self, part: Part, module: &str, rank: usize) -> f64 {
        let rank = rank as f64;
        let Some(of_part) = self.0.get(&part) else {
            return 1.0;
        };
        let is_at = |name: &str| {
            let before = module.strip_suffix(name);
            before.is_some_and(|before| before.is_empty() || before.ends_with('_'))
        };
        let exception = of_part.exceptions.iter().find(|(name, _)| is_at(name));
        let alpha = exception
            .map(|(_, alpha)| *alpha)
            .or(of_part.alpha)
            .unwrap_or(rank);
        alpha / if of_part.rslora { rank.sqrt() } else { rank }
    }
}

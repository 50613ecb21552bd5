//! The text encoders of an original checkpoint, in the two layouts that they come in.

use asyncdiff_burn::weights::Form;
use serde_json::{Value, json};

use super::super::error::CheckpointError;
use super::part::{Names, Part, rename};

/// Channels of an attention head in every text encoder that Stable Diffusion has been trained with.
const PER_HEAD: usize = 64;

/// Layers of OpenCLIP's ViT-H. Stable Diffusion 2 reads what the last but one gives, so diffusers leaves the last one out.
const VIT_H_LAYERS: usize = 24;

/// What is in a text encoder's file and not computed with, where only its hidden states are read.
pub(super) fn is_surplus(name: &str) -> bool {
    name.ends_with("position_ids")
        || name.ends_with("logit_scale")
        || name.starts_with("text_projection")
        || name.starts_with("vision_model.")
        || name.starts_with("visual_projection.")
}

/// The same for a text encoder whose projected text is read too.
pub(super) fn is_surplus_beside_projection(name: &str) -> bool {
    is_surplus(name) && name != "text_projection"
}

/// OpenAI's text encoder: the names are those of transformers already.
pub(super) mod clip {
    use super::*;

    pub fn names(part: &Part<'_>) -> Result<Names, CheckpointError> {
        part.names()
            .map(|name| {
                let inner = name.strip_prefix("text_model.").unwrap_or(name);
                if !["embeddings.", "encoder.layers.", "final_layer_norm."]
                    .iter()
                    .any(|module| inner.starts_with(module))
                {
                    return Err(part.not_understood(name));
                }
                Ok((format!("text_model.{inner}"), part.stored(name, Form::Same)))
            })
            .collect()
    }

    fn root(part: &Part<'_>) -> &'static str {
        if part.has_module("text_model") {
            "text_model."
        } else {
            ""
        }
    }

    /// The longest text.
    pub fn positions(part: &Part<'_>) -> Result<usize, CheckpointError> {
        let root = root(part);
        let [positions, _] = part.dims(&format!("{root}embeddings.position_embedding.weight"))?;
        Ok(positions)
    }

    pub fn config(part: &Part<'_>) -> Result<Value, CheckpointError> {
        let root = root(part);
        let table = format!("{root}embeddings.token_embedding.weight");
        let [vocabulary, width] = part.dims(&table)?;
        let [inner, _] = part.dims(&format!("{root}encoder.layers.0.mlp.fc1.weight"))?;
        Ok(json!({
            "architectures": ["CLIPTextModel"],
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": part.count(&format!("{root}encoder.layers")),
            "num_attention_heads": part.heads(width, PER_HEAD)?,
            "max_position_embeddings": positions(part)?,
            "projection_dim": width,
            "hidden_act": "quick_gelu",
        }))
    }
}

/// OpenCLIP's text encoder.
pub(super) mod open_clip {
    use super::*;

    const OUTSIDE: &[(&str, &str)] = &[
        ("token_embedding", "text_model.embeddings.token_embedding"),
        ("ln_final", "text_model.final_layer_norm"),
    ];

    const LAYER: &[(&str, &str)] = &[
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("attn.out_proj", "self_attn.out_proj"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ];

    /// transformers' names of all tensors of the first `layers` layers.
    pub fn names(part: &Part<'_>, layers: usize) -> Result<Names, CheckpointError> {
        let mut names = Names::new();
        for name in part.names() {
            let mut add = |renamed: String, form| {
                names.insert(renamed, part.stored(name, form));
            };
            if let Some(renamed) = rename(name, OUTSIDE) {
                add(renamed, Form::Same);
            } else if name == "positional_embedding" {
                let renamed = "text_model.embeddings.position_embedding.weight";
                add(renamed.to_owned(), Form::Same);
            } else if name == "text_projection" {
                add("text_projection.weight".to_owned(), Form::Transposed);
            } else {
                let not_understood = || part.not_understood(name);
                let (index, rest) = name
                    .strip_prefix("transformer.resblocks.")
                    .and_then(|name| name.split_once('.'))
                    .ok_or_else(not_understood)?;
                let index: usize = index.parse().map_err(|_| not_understood())?;
                if index >= layers {
                    continue;
                }
                let layer = format!("text_model.encoder.layers.{index}");
                if let Some(renamed) = rename(rest, LAYER) {
                    add(format!("{layer}.{renamed}"), Form::Same);
                    continue;
                }
                let kind = rest
                    .strip_prefix("attn.in_proj_")
                    .filter(|kind| ["weight", "bias"].contains(kind))
                    .ok_or_else(not_understood)?;
                for (third, projection) in ["q_proj", "k_proj", "v_proj"].iter().enumerate() {
                    add(
                        format!("{layer}.self_attn.{projection}.{kind}"),
                        Form::Third(third),
                    );
                }
            }
        }
        Ok(names)
    }

    /// The number of layers in the file.
    pub fn layers(part: &Part<'_>) -> usize {
        part.count("transformer.resblocks")
    }

    /// The number of layers that are read where the denoiser gets the last hidden states.
    pub fn layers_read(part: &Part<'_>) -> usize {
        match layers(part) {
            VIT_H_LAYERS => VIT_H_LAYERS - 1,
            layers => layers,
        }
    }

    pub fn config(part: &Part<'_>, layers: usize) -> Result<Value, CheckpointError> {
        let [vocabulary, width] = part.dims("token_embedding.weight")?;
        let [positions, _] = part.dims("positional_embedding")?;
        let [inner, _] = part.dims("transformer.resblocks.0.mlp.c_fc.weight")?;
        let mut config = json!({
            "architectures": ["CLIPTextModel"],
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": part.heads(width, PER_HEAD)?,
            "max_position_embeddings": positions,
            "hidden_act": "gelu",
        });
        if part.has("text_projection") {
            let [_, projected] = part.dims("text_projection")?;
            config["architectures"] = json!(["CLIPTextModelWithProjection"]);
            config["projection_dim"] = json!(projected);
        }
        Ok(config)
    }
}

//! The autoencoder of an original checkpoint: `first_stage_model.*`.

use asyncdiff_burn::weights::Form;
use serde_json::{Value, json};

use super::super::error::CheckpointError;
use super::part::{Names, Part, rename};

const OUTSIDE: &[(&str, &str)] = &[
    ("quant_conv", "quant_conv"),
    ("post_quant_conv", "post_quant_conv"),
];

/// The modules of the middle block and of the end, in encoder and decoder.
const ENDS: &[(&str, &str)] = &[
    ("conv_in", "conv_in"),
    ("conv_out", "conv_out"),
    ("norm_out", "conv_norm_out"),
    ("mid.block_1", "mid_block.resnets.0"),
    ("mid.block_2", "mid_block.resnets.1"),
    ("mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
];

/// Convolutions of 1x1 in the original, linear layers in diffusers.
const PROJECTIONS: &[(&str, &str)] = &[
    ("mid.attn_1.q", "mid_block.attentions.0.to_q"),
    ("mid.attn_1.k", "mid_block.attentions.0.to_k"),
    ("mid.attn_1.v", "mid_block.attentions.0.to_v"),
    ("mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
];

/// Training needs them, or an older copy of the weights; nothing here does.
pub(super) fn is_surplus(name: &str) -> bool {
    name.starts_with("loss.") || name.starts_with("model_ema.")
}

/// diffusers' names of all tensors.
pub(super) fn names(part: &Part<'_>) -> Result<Names, CheckpointError> {
    let levels = part.count("decoder.up");
    part.names()
        .map(|name| {
            let (renamed, form) = convert(name, levels).ok_or_else(|| part.not_understood(name))?;
            Ok((renamed, part.stored(name, form)))
        })
        .collect()
}

fn convert(name: &str, levels: usize) -> Option<(String, Form)> {
    if let Some(renamed) = rename(name, OUTSIDE) {
        return Some((renamed, Form::Same));
    }
    let (half, rest) = name.split_once('.')?;
    let (renamed, form) = match (half, rest) {
        ("encoder" | "decoder", rest) => {
            if let Some(renamed) = rename(rest, PROJECTIONS) {
                let form = if rest.ends_with(".weight") {
                    Form::Pointwise
                } else {
                    Form::Same
                };
                (renamed, form)
            } else if let Some(renamed) = rename(rest, ENDS) {
                (renamed, Form::Same)
            } else {
                (level(half, rest, levels)?, Form::Same)
            }
        }
        _ => return None,
    };
    Some((format!("{half}.{renamed}"), form))
}

/// A tensor of a level, such as `down.1.block.0.conv1.weight`. The original counts a decoder's levels from the end.
fn level(half: &str, name: &str, levels: usize) -> Option<String> {
    let (list, name) = name.split_once('.')?;
    let (index, name) = name.split_once('.')?;
    let index: usize = index.parse().ok()?;
    let (blocks, index, sampler) = match (half, list) {
        ("encoder", "down") => ("down_blocks", index, ("downsample", "downsamplers.0")),
        ("decoder", "up") => {
            let index = levels.checked_sub(index + 1)?;
            ("up_blocks", index, ("upsample", "upsamplers.0"))
        }
        _ => return None,
    };
    if let Some(renamed) = rename(name, &[sampler]) {
        return Some(format!("{blocks}.{index}.{renamed}"));
    }
    let (resnet, rest) = name.strip_prefix("block.")?.split_once('.')?;
    let rest = rename(rest, &[("nin_shortcut", "conv_shortcut")]).unwrap_or(rest.to_owned());
    Some(format!("{blocks}.{index}.resnets.{resnet}.{rest}"))
}

/// Its `config.json`, for a UNet that was trained on latents of `sample_size`.
pub(super) fn config(
    part: &Part<'_>,
    scaling_factor: f64,
    sample_size: usize,
) -> Result<Value, CheckpointError> {
    let channels = (0..part.count("encoder.down"))
        .map(|level| {
            let [width, _, _, _] =
                part.dims(&format!("encoder.down.{level}.block.0.conv1.weight"))?;
            Ok(width)
        })
        .collect::<Result<Vec<_>, CheckpointError>>()?;
    let [_, in_channels, _, _] = part.dims("encoder.conv_in.weight")?;
    let [out_channels, _, _, _] = part.dims("decoder.conv_out.weight")?;
    let [_, latent_channels, _, _] = part.dims("decoder.conv_in.weight")?;
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "in_channels": in_channels,
        "out_channels": out_channels,
        "latent_channels": latent_channels,
        // In pixels: every level but the last halves the picture.
        "sample_size": sample_size << channels.len().saturating_sub(1),
        "block_out_channels": channels,
        "layers_per_block": part.count("encoder.down.0.block"),
        "norm_num_groups": 32,
        "scaling_factor": scaling_factor,
        "force_upcast": true,
        "mid_block_add_attention": part.has_module("decoder.mid.attn_1"),
        "use_quant_conv": part.has_module("quant_conv"),
        "use_post_quant_conv": part.has_module("post_quant_conv"),
    }))
}

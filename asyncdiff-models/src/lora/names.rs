//! Every name by which LoRA files call a model's modules.

use std::collections::{BTreeMap, HashMap};

use asyncdiff_burn::weights::Weights;
use asyncdiff_core::unet::{BlockKind, UNet2d};

use super::key::{Part, underscored};
use crate::unet::original::{OUTSIDE, RESNET, SAMPLER};

/// A weight that can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The tensor's name, as it is loaded.
    pub tensor: String,
    pub shape: Vec<usize>,
}

/// The weights of a part, by each of their modules' names with underscores for dots.
#[derive(Debug)]
pub(super) struct Names(HashMap<String, Target>);

impl Names {
    /// The matrices and convolutions that `weights`, of `part`, has.
    pub fn of(part: Part, weights: &Weights<'_>, unet: &UNet2d) -> Self {
        let blocks = original_blocks(unet);
        let mut names = HashMap::new();
        for (tensor, shape) in weights.shapes() {
            let Some(module) = tensor.strip_suffix(".weight") else {
                continue;
            };
            if !matches!(shape.len(), 2 | 4) {
                continue;
            }
            let aliases = match part {
                Part::UNet => unet_names(module, &blocks),
                Part::TextEncoder | Part::TextEncoder2 => text_names(module),
            };
            for alias in aliases {
                let target = Target {
                    tensor: tensor.to_owned(),
                    shape: shape.clone(),
                };
                names.insert(underscored(&alias), target);
            }
        }
        Self(names)
    }

    pub fn find(&self, module: &str) -> Option<&Target> {
        self.0.get(module)
    }
}

fn unet_names(module: &str, blocks: &BTreeMap<String, String>) -> Vec<String> {
    let mut names = vec![module.to_owned()];
    names.extend(original_name(module, blocks));
    // diffusers' attention processors called the output projection without its place in the list.
    let processors = module.strip_suffix(".to_out.0");
    names.extend(processors.map(|attention| format!("{attention}.to_out")));
    names
}

fn text_names(module: &str) -> Vec<String> {
    // Checkpoints and files differ in whether they begin with it.
    let module = module.strip_prefix("text_model.").unwrap_or(module);
    let mut names = vec![module.to_owned()];
    // diffusers' first files called the projections as in the UNet.
    for (own, processors) in [
        ("q_proj", "to_q"),
        ("k_proj", "to_k"),
        ("v_proj", "to_v"),
        ("out_proj", "to_out"),
    ] {
        let attention = module.strip_suffix(own);
        names.extend(attention.map(|attention| format!("{attention}{processors}")));
    }
    let whole: Vec<_> = names
        .iter()
        .map(|name| format!("text_model.{name}"))
        .collect();
    names.extend(whole);
    names
}

/// A module's name in the original Stable Diffusion code, by which kohya's files for SDXL go.
fn original_name(module: &str, blocks: &BTreeMap<String, String>) -> Option<String> {
    let original = |table: &[(&str, &str)], name: &str| {
        let pair = table.iter().find(|(_, diffusers)| *diffusers == name);
        pair.map(|(original, _)| (*original).to_owned())
    };
    if let Some(name) = original(OUTSIDE, module) {
        return Some(name);
    }
    let (block, original_block) = blocks.iter().find(|(block, _)| {
        module
            .strip_prefix(*block)
            .is_some_and(|rest| rest.starts_with('.'))
    })?;
    let inner = &module[block.len() + 1..];
    let inner = if block.contains(".resnets.") {
        original(RESNET, inner)?
    } else if block.contains(".downsamplers.") {
        original(SAMPLER, inner)?
    } else {
        inner.to_owned()
    };
    Some(format!("{original_block}.{inner}"))
}

/// The blocks between the first and the last convolution, by diffusers' names, and what the original code calls them: there
/// every resnet and every resampler begins an entry of a flat list, and an attention belongs to the resnet before it.
fn original_blocks(unet: &UNet2d) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let (mut side, mut entry, mut place) = ("input_blocks", 0, 0);
    for block in &unet.blocks {
        let next = match block.name.split('.').next() {
            Some("mid_block") => "middle_block",
            Some("up_blocks") => "output_blocks",
            _ => "input_blocks",
        };
        // An upsampler ends an entry, a downsampler is one.
        let begins = matches!(
            block.kind,
            BlockKind::Resnet { .. } | BlockKind::Downsample { .. }
        );
        if next != side {
            (side, entry, place) = (next, 0, 0);
        } else if begins && side != "middle_block" {
            (entry, place) = (entry + 1, 0);
        }
        let name = match block.kind {
            BlockKind::ConvIn { .. } | BlockKind::ConvOut { .. } => continue,
            _ if side == "middle_block" => format!("{side}.{place}"),
            _ => format!("{side}.{entry}.{place}"),
        };
        names.insert(block.name.clone(), name);
        place += 1;
    }
    names
}

//! The published partitions, as data. An entry stands for the module of that name and all below it; the norm before
//! `conv_out` belongs to that block.

use crate::graph::Structure::{self, Convolution, Linear, Motion, SpatioTemporal};

type Table = (Structure, &'static [&'static [&'static str]]);

/// Four levels of two layers: Stable Diffusion 1.5 (1x1 convolutions) and 2.1 (linear), AnimateDiff, Stable Video Diffusion.
/// Three levels: XL.
#[rustfmt::skip]
pub(super) const TABLES: &[Table] = &[
    (Convolution, &[
        &["conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1.resnets.0", "up_blocks.1.attentions.0", "up_blocks.1.resnets.1"],
        &["up_blocks.1.attentions.1", "up_blocks.1.resnets.2", "up_blocks.1.attentions.2", "up_blocks.1.upsamplers", "up_blocks.2", "up_blocks.3", "conv_out"],
    ]),
    (Convolution, &[
        &["conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2", "down_blocks.3"],
        &["mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2.resnets.0", "up_blocks.2.attentions.0", "up_blocks.2.resnets.1", "up_blocks.2.attentions.1", "up_blocks.2.resnets.2"],
        &["up_blocks.2.attentions.2", "up_blocks.2.upsamplers", "up_blocks.3", "conv_out"],
    ]),
    (Convolution, &[
        &["conv_in", "down_blocks.0", "down_blocks.1"],
        &["down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1.resnets.0", "up_blocks.1.attentions.0", "up_blocks.1.resnets.1"],
        &["up_blocks.1.attentions.1", "up_blocks.1.resnets.2", "up_blocks.1.attentions.2", "up_blocks.1.upsamplers", "up_blocks.2"],
        &["up_blocks.3", "conv_out"],
    ]),
    (Linear, &[
        &["conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1.resnets.0", "up_blocks.1.attentions.0", "up_blocks.1.resnets.1", "up_blocks.1.attentions.1", "up_blocks.1.resnets.2"],
        &["up_blocks.1.attentions.2", "up_blocks.1.upsamplers", "up_blocks.2", "up_blocks.3", "conv_out"],
    ]),
    (Linear, &[
        &["conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2", "down_blocks.3"],
        &["mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2"],
        &["up_blocks.3", "conv_out"],
    ]),
    (Linear, &[
        &["conv_in", "down_blocks.0", "down_blocks.1"],
        &["down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1"],
        &["up_blocks.2", "up_blocks.3.resnets.0"],
        &["up_blocks.3.attentions.0", "up_blocks.3.resnets.1", "up_blocks.3.attentions.1", "up_blocks.3.resnets.2", "up_blocks.3.attentions.2", "conv_out"],
    ]),
    (Linear, &[
        &["down_blocks.2", "mid_block", "up_blocks.0.resnets.0", "up_blocks.0.attentions.0", "up_blocks.0.resnets.1", "up_blocks.0.attentions.1"],
        &["conv_in", "down_blocks.0", "down_blocks.1", "up_blocks.1", "up_blocks.2", "conv_out", "up_blocks.0.resnets.2", "up_blocks.0.attentions.2", "up_blocks.0.upsamplers"],
    ]),
    (Linear, &[
        &["down_blocks.2", "mid_block", "up_blocks.0.resnets.0"],
        &["up_blocks.0.attentions.0", "up_blocks.0.resnets.1", "up_blocks.0.attentions.1", "up_blocks.0.resnets.2", "up_blocks.0.attentions.2", "up_blocks.0.upsamplers"],
        &["conv_in", "down_blocks.0", "down_blocks.1", "up_blocks.1", "up_blocks.2", "conv_out"],
    ]),
    (Linear, &[
        &["down_blocks.1.attentions.0", "down_blocks.1.resnets.1", "down_blocks.1.attentions.1", "down_blocks.1.downsamplers", "down_blocks.2"],
        &["mid_block", "up_blocks.0.resnets.0", "up_blocks.0.attentions.0"],
        &["up_blocks.0.resnets.1", "up_blocks.0.attentions.1", "up_blocks.0.resnets.2", "up_blocks.0.attentions.2", "up_blocks.0.upsamplers"],
        &["conv_in", "down_blocks.0", "down_blocks.1.resnets.0", "up_blocks.1", "up_blocks.2", "conv_out"],
    ]),
    (Motion, &[
        &["conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1"],
        &["up_blocks.2", "up_blocks.3", "conv_out"],
    ]),
    (Motion, &[
        &["conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2", "down_blocks.3"],
        &["mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2"],
        &["up_blocks.3", "conv_out"],
    ]),
    (SpatioTemporal, &[
        &["conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1"],
        &["up_blocks.2", "up_blocks.3", "conv_out"],
    ]),
    (SpatioTemporal, &[
        &["conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2"],
        &["down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2"],
        &["up_blocks.3", "conv_out"],
    ]),
    (SpatioTemporal, &[
        &["conv_in", "down_blocks.0", "down_blocks.1.resnets.0", "down_blocks.1.attentions.0"],
        &["down_blocks.1.resnets.1", "down_blocks.1.attentions.1", "down_blocks.1.downsamplers", "down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1"],
        &["up_blocks.2", "up_blocks.3.resnets.0", "up_blocks.3.attentions.0"],
        &["up_blocks.3.resnets.1", "up_blocks.3.attentions.1", "up_blocks.3.resnets.2", "up_blocks.3.attentions.2", "conv_out"],
    ]),
];

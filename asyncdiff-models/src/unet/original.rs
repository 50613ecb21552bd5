//! What the original Stable Diffusion code calls the modules of a UNet, and diffusers' names for them.

/// Inside a resnet.
pub(crate) const RESNET: &[(&str, &str)] = &[
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// Inside a sampler: of the first name there where it makes things smaller, of the second where larger.
pub(crate) const SAMPLER: &[(&str, &str)] = &[("op", "conv"), ("conv", "conv")];

/// Outside the lists of blocks, or the same in every UNet.
pub(crate) const OUTSIDE: &[(&str, &str)] = &[
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

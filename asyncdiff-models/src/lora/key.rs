//! What the names of a LoRA file's tensors say.

/// A part of a pipeline that a LoRA can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    UNet,
    TextEncoder,
    TextEncoder2,
}

/// What a tensor is to its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// From the layer's input to the rank.
    Down,
    /// From the rank to the layer's output.
    Up,
    /// A convolution between the two.
    Mid,
    /// A number: the change is multiplied with it and divided by the rank.
    Alpha,
}

/// A tensor's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub part: Part,
    /// The module's path with underscores for dots: kohya's files have no dots, and no two modules of a model have paths
    /// that differ in nothing else.
    pub module: String,
    pub role: Role,
}

/// Why a name cannot be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It belongs to an adapter of another kind.
    Kind(&'static str),
    /// It is no name of an adapter's tensor.
    Unknown,
}

impl Part {
    pub const ALL: [Part; 3] = [Part::UNet, Part::TextEncoder, Part::TextEncoder2];

    /// Its folder in a checkpoint.
    pub fn folder(self) -> &'static str {
        match self {
            Part::UNet => "unet",
            Part::TextEncoder => "text_encoder",
            Part::TextEncoder2 => "text_encoder_2",
        }
    }

    /// The beginning of a name that says which part it is about, and the rest. Names that do not say it are of a file for
    /// the UNet alone.
    fn of(name: &str) -> (Self, &str) {
        const PREFIXES: [(&str, Part); 8] = [
            ("lora_unet_", Part::UNet),
            ("lora_te1_", Part::TextEncoder),
            ("lora_te2_", Part::TextEncoder2),
            ("lora_te_", Part::TextEncoder),
            ("unet.", Part::UNet),
            ("diffusion_model.", Part::UNet),
            ("text_encoder.", Part::TextEncoder),
            ("text_encoder_2.", Part::TextEncoder2),
        ];
        PREFIXES
            .into_iter()
            .find_map(|(prefix, part)| Some((part, name.strip_prefix(prefix)?)))
            .unwrap_or((Part::UNet, name))
    }
}

/// Marks of adapters that are no LoRA: what they add is not the product of two matrices.
const OTHER_KINDS: [(&str, &str); 8] = [
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("oft_", "OFT"),
    ("on_input", "IA3"),
    ("diff", "full-difference"),
    ("diff_b", "full-difference"),
];

impl Key {
    pub fn parse(name: &str) -> Result<Self, Fault> {
        // The path may hold anything (`diffusion_model`): only what follows it tells the kind.
        let mut last_words = name.rsplit('.').take(3);
        let other = |word: &str| {
            OTHER_KINDS
                .iter()
                .find(|(mark, _)| match mark.strip_suffix('_') {
                    Some(_) => word.starts_with(mark),
                    None => word == *mark,
                })
        };
        if let Some((_, kind)) = last_words.find_map(other) {
            return Err(Fault::Kind(kind));
        }
        let (path, role) = split(name).ok_or(Fault::Unknown)?;
        let (part, path) = Part::of(path);
        Ok(Self {
            part,
            module: underscored(&path.replace(".processor.", ".")),
            role,
        })
    }
}

/// A module's path as [`Key::module`] has it.
pub(super) fn underscored(path: &str) -> String {
    path.replace('.', "_")
}

/// The module's path, and what the tensor is to it.
fn split(name: &str) -> Option<(&str, Role)> {
    // kohya, PEFT, and PEFT with the adapter's name left in.
    for (mark, role) in [
        (".lora_down.", Role::Down),
        (".lora_up.", Role::Up),
        (".lora_mid.", Role::Mid),
        (".lora_A.", Role::Down),
        (".lora_B.", Role::Up),
    ] {
        if let Some((path, rest)) = name.split_once(mark) {
            let adapter = rest.strip_suffix("weight")?.strip_suffix('.');
            return (rest == "weight" || adapter.is_some_and(|name| !name.contains('.')))
                .then_some((path, role));
        }
    }
    // diffusers before PEFT.
    [
        (".down.weight", Role::Down),
        (".up.weight", Role::Up),
        (".alpha", Role::Alpha),
    ]
    .into_iter()
    .find_map(|(end, role)| {
        let path = name.strip_suffix(end)?;
        let layer = [".lora_linear_layer", ".lora", "_lora"]
            .into_iter()
            .find_map(|layer| path.strip_suffix(layer));
        match layer {
            Some(path) => Some((path, role)),
            None => (role == Role::Alpha).then_some((path, role)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_names_the_same_layer() {
        let module = "down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q";
        for (name, role) in [
            (
                "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q.lora_down.weight",
                Role::Down,
            ),
            (
                "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q.lora_mid.weight",
                Role::Mid,
            ),
            (
                "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q.alpha",
                Role::Alpha,
            ),
            (
                "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.lora_A.weight",
                Role::Down,
            ),
            (
                "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.lora_B.default_0.weight",
                Role::Up,
            ),
            (
                "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.alpha",
                Role::Alpha,
            ),
            (
                "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.lora.up.weight",
                Role::Up,
            ),
            (
                "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
                Role::Down,
            ),
            (
                "down_blocks.0.attentions.1.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
                Role::Up,
            ),
            (
                "down_blocks.0.attentions.1.transformer_blocks.0.attn1.processor.to_q_lora.alpha",
                Role::Alpha,
            ),
        ] {
            let expected = Key {
                part: Part::UNet,
                module: module.to_owned(),
                role,
            };
            assert_eq!(Key::parse(name), Ok(expected), "{name}");
        }
    }

    #[test]
    fn text_encoders_are_told_apart() {
        for (name, part) in [
            (
                "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
                Part::TextEncoder,
            ),
            (
                "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha",
                Part::TextEncoder,
            ),
            (
                "lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha",
                Part::TextEncoder2,
            ),
            (
                "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.up.weight",
                Part::TextEncoder,
            ),
            (
                "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
                Part::TextEncoder2,
            ),
        ] {
            let key = Key::parse(name).unwrap();
            assert_eq!(
                (key.part, key.module.as_str()),
                (part, "text_model_encoder_layers_0_mlp_fc1"),
                "{name}"
            );
        }
    }

    #[test]
    fn other_adapters_and_other_tensors_are_not_taken_for_lora() {
        for (name, fault) in [
            (
                "lora_unet_mid_block_attentions_0_proj_in.dora_scale",
                Fault::Kind("DoRA"),
            ),
            (
                "unet.mid_block.attentions.0.proj_in.lora_magnitude_vector.weight",
                Fault::Kind("DoRA"),
            ),
            (
                "lora_unet_mid_block_attentions_0_proj_in.hada_w1_a",
                Fault::Kind("LoHa"),
            ),
            (
                "lora_unet_mid_block_attentions_0_proj_in.lokr_w2",
                Fault::Kind("LoKr"),
            ),
            (
                "lora_unet_mid_block_attentions_0_proj_in.diff",
                Fault::Kind("full-difference"),
            ),
            ("unet.conv_in.lora_B.bias", Fault::Unknown),
            ("conv_in.weight", Fault::Unknown),
            ("mid_block.down.weight", Fault::Unknown),
            ("", Fault::Unknown),
        ] {
            assert_eq!(Key::parse(name), Err(fault), "{name}");
        }
    }
}

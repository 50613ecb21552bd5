//! `config.json` of a `UNet2DConditionModel`.

use serde::Deserialize;
use serde_json::Value;

use super::UNetError;

/// A setting that is one value for all levels, or a list with one for each.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum PerBlock<T> {
    /// The same for all.
    One(T),
    /// One for each level, outermost first.
    Each(Vec<T>),
}

impl<T> PerBlock<T> {
    /// The value of a level.
    ///
    /// # Panics
    ///
    /// If the list is shorter; a checked configuration has one entry for each level.
    pub fn at(&self, level: usize) -> &T {
        match self {
            PerBlock::One(value) => value,
            PerBlock::Each(values) => &values[level],
        }
    }

    pub(super) fn check(&self, key: &'static str, levels: usize) -> Result<(), UNetError> {
        match self {
            PerBlock::Each(values) => length(key, values.len(), levels),
            PerBlock::One(_) => Ok(()),
        }
    }
}

pub(super) fn length(key: &'static str, found: usize, expected: usize) -> Result<(), UNetError> {
    if found == expected {
        Ok(())
    } else {
        Err(UNetError::Length {
            key,
            found,
            expected,
        })
    }
}

/// The settings of a `UNet2DConditionModel` that decide its structure. Missing keys take diffusers' defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct UNet2dConfig {
    /// Channels of the model input.
    pub in_channels: usize,
    /// Channels of the noise prediction.
    pub out_channels: usize,
    /// Latent height and width that the model was trained for.
    pub sample_size: Option<usize>,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Classes of the down blocks.
    pub down_block_types: Vec<String>,
    /// Class of the middle block.
    pub mid_block_type: Option<String>,
    /// Classes of the up blocks.
    pub up_block_types: Vec<String>,
    /// Resnets in each down block; an up block has one more.
    pub layers_per_block: PerBlock<usize>,
    /// Number of attention heads, in spite of its name, where `num_attention_heads` is missing.
    pub attention_head_dim: PerBlock<usize>,
    /// Number of attention heads.
    pub num_attention_heads: Option<PerBlock<usize>>,
    /// Transformer layers in each attention block.
    pub transformer_layers_per_block: PerBlock<usize>,
    /// Features of a text token.
    pub cross_attention_dim: usize,
    /// What is added to the time embedding: nothing, `text_time`, or a spatio-temporal UNet's `added_time_ids`
    /// ([`UNet2dConfig::added`]).
    pub addition_embed_type: Option<String>,
    /// Features of each number that is embedded.
    pub addition_time_embed_dim: Option<usize>,
    /// Features that go into `add_embedding`: those of the pooled text, and of all embedded numbers.
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// Whether transformers project tokens with linear layers.
    pub use_linear_projection: bool,
    /// Groups of the group norms.
    pub norm_num_groups: usize,
    /// Epsilon of the group norms.
    pub norm_eps: f64,
    /// Order of cosine and sine in the timestep embedding.
    pub flip_sin_to_cos: bool,
    /// Shift of the timestep embedding's frequencies.
    pub freq_shift: f64,
    /// Everything else, checked against what is implemented.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

impl Default for UNet2dConfig {
    fn default() -> Self {
        let types = |first: &str, middle: &str, last: &str| {
            [first, middle, middle, last].map(str::to_owned).to_vec()
        };
        let cross = "CrossAttnDownBlock2D";
        let up = "CrossAttnUpBlock2D";
        Self {
            in_channels: 4,
            out_channels: 4,
            sample_size: None,
            block_out_channels: vec![320, 640, 1280, 1280],
            down_block_types: types(cross, cross, "DownBlock2D"),
            mid_block_type: Some("UNetMidBlock2DCrossAttn".to_owned()),
            up_block_types: types("UpBlock2D", up, up),
            layers_per_block: PerBlock::One(2),
            attention_head_dim: PerBlock::One(8),
            num_attention_heads: None,
            transformer_layers_per_block: PerBlock::One(1),
            cross_attention_dim: 1280,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            use_linear_projection: false,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            other: serde_json::Map::new(),
        }
    }
}

/// The `add_embedding` of a UNet: a few numbers about the result, each embedded as the timestep is, become one vector that is
/// added to the time embedding. Where `addition_embed_type` is `text_time` (Stable Diffusion XL), the pooled text goes into it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedEmbedding {
    /// Features of each number.
    pub number_features: usize,
    /// Features of all numbers together, and of the pooled text.
    pub input_features: usize,
}

/// Keys that are implemented for one value only; `null` and a missing key mean that value too.
const FIXED: &[(&str, &str)] = &[
    ("act_fn", "\"silu\""),
    ("attention_type", "\"default\""),
    ("center_input_sample", "false"),
    ("class_embed_type", "null"),
    ("conv_in_kernel", "3"),
    ("conv_out_kernel", "3"),
    ("cross_attention_norm", "null"),
    ("downsample_padding", "1"),
    ("dual_cross_attention", "false"),
    ("encoder_hid_dim", "null"),
    ("encoder_hid_dim_type", "null"),
    ("mid_block_scale_factor", "1"),
    ("num_class_embeds", "null"),
    ("only_cross_attention", "false"),
    ("resnet_out_scale_factor", "1.0"),
    ("resnet_skip_time_act", "false"),
    ("resnet_time_scale_shift", "\"default\""),
    ("reverse_transformer_layers_per_block", "null"),
    ("time_cond_proj_dim", "null"),
    ("time_embedding_act_fn", "null"),
    ("time_embedding_dim", "null"),
    ("time_embedding_type", "\"positional\""),
    ("timestep_post_act", "null"),
];

/// Halving a picture so many times leaves nothing of it.
const MOST_LEVELS: usize = 16;
/// Ten times those of the largest networks of this kind. Plans and partitions take longer than in proportion.
const MOST_BLOCKS: usize = 1024;
/// Ten times those of the largest networks of this kind.
pub(super) const MOST_FEATURES: usize = 1 << 16;

impl UNet2dConfig {
    /// Features of the time embedding.
    #[must_use]
    pub fn time_embed_dim(&self) -> usize {
        4 * self.block_out_channels[0]
    }

    /// What is added to the time embedding, beside the time.
    #[must_use]
    pub fn added(&self) -> Option<AddedEmbedding> {
        self.addition_embed_type.as_ref()?;
        Some(AddedEmbedding {
            number_features: self.addition_time_embed_dim?,
            input_features: self.projection_class_embeddings_input_dim?,
        })
    }

    /// Attention heads of a level.
    #[must_use]
    pub fn heads(&self, level: usize) -> usize {
        *self
            .num_attention_heads
            .as_ref()
            .unwrap_or(&self.attention_head_dim)
            .at(level)
    }

    fn heads_key(&self) -> &'static str {
        match self.num_attention_heads {
            Some(_) => "num_attention_heads",
            None => "attention_head_dim",
        }
    }

    pub(super) fn down_attention(&self, level: usize) -> bool {
        self.down_block_types[level] == "CrossAttnDownBlock2D"
    }

    pub(super) fn up_attention(&self, index: usize) -> bool {
        self.up_block_types[index] == "CrossAttnUpBlock2D"
    }

    pub(super) fn check(&self) -> Result<(), UNetError> {
        let levels = self.block_out_channels.len();
        if !(1..=MOST_LEVELS).contains(&levels) {
            let found = format!("a list of {levels}");
            let supported = "a list of 1 to 16, one for each level";
            return Err(unsupported("block_out_channels", &found, supported));
        }
        self.check_features()?;
        length("down_block_types", self.down_block_types.len(), levels)?;
        length("up_block_types", self.up_block_types.len(), levels)?;
        self.layers_per_block.check("layers_per_block", levels)?;
        self.attention_head_dim
            .check("attention_head_dim", levels)?;
        self.transformer_layers_per_block
            .check("transformer_layers_per_block", levels)?;
        for (key, layers) in [
            ("layers_per_block", &self.layers_per_block),
            (
                "transformer_layers_per_block",
                &self.transformer_layers_per_block,
            ),
        ] {
            if let Some(count) = (0..levels)
                .map(|level| *layers.at(level))
                .find(|count| !(1..=64).contains(count))
            {
                return Err(unsupported(key, &count.to_string(), "1 to 64"));
            }
        }
        // On the way down and up a resnet and perhaps a transformer for each layer, one layer more on the way up, and a change of
        // size each way; at the bottom three, and one at either end.
        let blocks: usize = (0..levels)
            .map(|level| 4 * self.layers_per_block.at(level) + 4)
            .sum::<usize>()
            + 5;
        if blocks > MOST_BLOCKS {
            let found = format!("so much that there may be {blocks} blocks");
            let supported = "one with which there are at most 1024";
            return Err(unsupported("layers_per_block", &found, supported));
        }
        if let Some(heads) = &self.num_attention_heads {
            heads.check("num_attention_heads", levels)?;
        }
        for (key, types, supported) in [
            (
                "down_block_types",
                &self.down_block_types,
                ["CrossAttnDownBlock2D", "DownBlock2D"],
            ),
            (
                "up_block_types",
                &self.up_block_types,
                ["CrossAttnUpBlock2D", "UpBlock2D"],
            ),
        ] {
            if let Some(other) = types
                .iter()
                .find(|name| !supported.contains(&name.as_str()))
            {
                let supported = match key {
                    "down_block_types" => "CrossAttnDownBlock2D and DownBlock2D",
                    _ => "CrossAttnUpBlock2D and UpBlock2D",
                };
                return Err(unsupported(key, other, supported));
            }
        }
        let mid = self.mid_block_type.as_deref().unwrap_or("null");
        if mid != "UNetMidBlock2DCrossAttn" {
            return Err(unsupported(
                "mid_block_type",
                mid,
                "UNetMidBlock2DCrossAttn",
            ));
        }
        self.check_added()?;
        for (level, channels) in self.block_out_channels.iter().enumerate() {
            for (key, divisor) in [
                ("norm_num_groups", self.norm_num_groups),
                (self.heads_key(), self.heads(level)),
            ] {
                if divisor == 0 || channels % divisor != 0 {
                    return Err(unsupported(
                        key,
                        &divisor.to_string(),
                        "a divisor of every entry of block_out_channels",
                    ));
                }
            }
        }
        for (key, only) in FIXED {
            let found = self.other.get(*key).unwrap_or(&Value::Null);
            let expected: Value = only.parse().unwrap_or_default();
            // 1 and 1.0 are the same setting.
            let same =
                *found == expected || (found.is_number() && found.as_f64() == expected.as_f64());
            if !found.is_null() && !same {
                return Err(unsupported(key, &found.to_string(), only));
            }
        }
        Ok(())
    }

    /// Whether every number of features can be that of a tensor; no product of a few of them overflows then.
    fn check_features(&self) -> Result<(), UNetError> {
        let mut features = vec![
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("cross_attention_dim", self.cross_attention_dim),
        ];
        features.extend(
            self.block_out_channels
                .iter()
                .map(|channels| ("block_out_channels", *channels)),
        );
        let optional = [
            ("sample_size", self.sample_size),
            ("addition_time_embed_dim", self.addition_time_embed_dim),
            (
                "projection_class_embeddings_input_dim",
                self.projection_class_embeddings_input_dim,
            ),
        ];
        features.extend(
            optional
                .iter()
                .filter_map(|(key, found)| Some((*key, (*found)?))),
        );
        match features
            .iter()
            .find(|(_, found)| !(1..=MOST_FEATURES).contains(found))
        {
            Some((key, found)) => Err(unsupported(key, &found.to_string(), "1 to 65536")),
            None => Ok(()),
        }
    }

    fn check_added(&self) -> Result<(), UNetError> {
        match self.addition_embed_type.as_deref() {
            None => return Ok(()),
            Some("text_time") => {}
            Some(other) => {
                return Err(unsupported(
                    "addition_embed_type",
                    other,
                    "null and text_time",
                ));
            }
        }
        for (key, found) in [
            ("addition_time_embed_dim", self.addition_time_embed_dim),
            (
                "projection_class_embeddings_input_dim",
                self.projection_class_embeddings_input_dim,
            ),
        ] {
            if found.unwrap_or(0) == 0 {
                let found = found.map_or("null".to_owned(), |found| found.to_string());
                let supported = "a number above 0 where addition_embed_type is text_time";
                return Err(unsupported(key, &found, supported));
            }
        }
        Ok(())
    }
}

pub(super) fn unsupported(key: &'static str, found: &str, supported: &'static str) -> UNetError {
    UNetError::Unsupported {
        key,
        found: found.to_owned(),
        supported,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{SpatioTemporalConfig, UNet2d, UNet2dConfig};

    fn levels(count: usize, layers: usize) -> Value {
        let mut config = json!({
            "block_out_channels": vec![32; count], "layers_per_block": layers,
            "down_block_types": vec!["DownBlock2D"; count], "up_block_types": vec!["UpBlock2D"; count],
        });
        config["attention_head_dim"] = json!(8);
        config
    }

    fn refusal(config: Value) -> String {
        let config: UNet2dConfig = serde_json::from_value(config).unwrap();
        UNet2d::new(&config).unwrap_err().to_string()
    }

    #[test]
    fn configurations_of_a_hundred_thousand_blocks_are_refused_at_once() {
        for config in [levels(100_000, 1), levels(17, 1)] {
            let error = refusal(config);
            assert!(
                error.contains("block_out_channels is a list of 1"),
                "{error}"
            );
        }
        for config in [levels(16, 64), levels(8, 32)] {
            let error = refusal(config);
            assert!(error.contains("at most 1024"), "{error}");
        }
        let config: UNet2dConfig = serde_json::from_value(levels(16, 14)).unwrap();
        let blocks = UNet2d::new(&config).unwrap().blocks.len();
        assert!((256..=1024).contains(&blocks), "{blocks}");
        let config = json!({
            "block_out_channels": vec![32; 100_000], "num_attention_heads": 8,
            "down_block_types": vec!["DownBlockSpatioTemporal"; 100_000],
            "up_block_types": vec!["UpBlockSpatioTemporal"; 100_000],
        });
        let config: SpatioTemporalConfig = serde_json::from_value(config).unwrap();
        let error = UNet2d::spatio_temporal(&config).unwrap_err().to_string();
        assert!(error.contains("block_out_channels"), "{error}");
    }

    #[test]
    fn features_whose_products_overflow_are_refused() {
        for key in [
            "in_channels",
            "out_channels",
            "cross_attention_dim",
            "sample_size",
            "addition_time_embed_dim",
            "projection_class_embeddings_input_dim",
        ] {
            for value in [65_537, usize::MAX] {
                let mut config = levels(4, 2);
                config[key] = json!(value);
                let error = refusal(config);
                assert!(
                    error.contains(key) && error.contains("1 to 65536"),
                    "{error}"
                );
            }
        }
        let mut config = levels(4, 2);
        config["block_out_channels"] = json!([32, 64, 1_usize << 40, 64]);
        assert!(refusal(config).contains("1 to 65536"));
    }
}

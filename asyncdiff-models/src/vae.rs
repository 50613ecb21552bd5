//! The variational autoencoder between pictures and latents (diffusers' `AutoencoderKL` and
//! `AutoencoderKLTemporalDecoder`).

mod temporal;
mod tiled;

use asyncdiff_burn::layers::{Conv2d, GroupNorm, Heads, Linear, Mask, Reuse, feature_map, tokens};
use asyncdiff_burn::weights::{Loader, WeightError};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use serde::Deserialize;

use crate::cancel::{Cancel, unasked};
use crate::error::Error;
use crate::resnet::{Norm, Resnet};
use temporal::TemporalDecoder;

/// `config.json` of an autoencoder.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// `AutoencoderKL`, or `AutoencoderKLTemporalDecoder`, whose decoder also looks along the frames of a video.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Channels of a picture.
    pub in_channels: usize,
    /// Channels of a decoded picture.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Height and width in pixels that the autoencoder was trained for: the size of a tile.
    pub sample_size: Option<usize>,
    /// Resnets in each down block; an up block has one more.
    pub layers_per_block: usize,
    /// Groups of the group norms.
    pub norm_num_groups: usize,
    /// What the encoder's latents are multiplied with for the denoiser.
    pub scaling_factor: f64,
    /// What is subtracted from the encoder's latents before that.
    pub shift_factor: Option<f64>,
    /// The mean of each channel of the encoder's latents, where the denoiser's are normalised.
    pub latents_mean: Option<Vec<f64>>,
    /// The standard deviation of each channel, likewise.
    pub latents_std: Option<Vec<f64>>,
    /// Activation of the resnets.
    pub act_fn: String,
    /// Whether the middle blocks attend.
    pub mid_block_add_attention: bool,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether pipelines load it in `f32` whatever else they compute in.
    pub force_upcast: bool,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            class_name: PICTURES.to_owned(),
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![64],
            sample_size: None,
            layers_per_block: 1,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            act_fn: "silu".to_owned(),
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            force_upcast: true,
        }
    }
}

const PICTURES: &str = "AutoencoderKL";
const VIDEOS: &str = "AutoencoderKLTemporalDecoder";
/// Each level halves the picture once more.
const MOST_LEVELS: usize = 8;

impl VaeConfig {
    /// How many pixels a latent's side stands for.
    #[must_use]
    pub fn scale_factor(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// The first setting that no autoencoder can be built from: its key, its value, and what would work.
    pub(crate) fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        if ![PICTURES, VIDEOS].contains(&self.class_name.as_str()) {
            let supported = "AutoencoderKL or AutoencoderKLTemporalDecoder";
            return Some(("_class_name", self.class_name.clone(), supported));
        }
        let widths = &self.block_out_channels;
        if !(1..=MOST_LEVELS).contains(&widths.len()) {
            return Some((
                "block_out_channels",
                format!("{widths:?}"),
                "a list of 1 to 8 numbers",
            ));
        }
        let groups = self.norm_num_groups;
        if groups == 0
            || widths
                .iter()
                .any(|width| *width == 0 || !width.is_multiple_of(groups))
        {
            let supported = "a divisor of every entry of block_out_channels";
            return Some(("norm_num_groups", groups.to_string(), supported));
        }
        if self.act_fn != "silu" {
            return Some(("act_fn", format!("{:?}", self.act_fn), "\"silu\""));
        }
        if !self.scaling_factor.is_normal() {
            return Some((
                "scaling_factor",
                self.scaling_factor.to_string(),
                "a number other than 0",
            ));
        }
        for (key, channels, only) in [
            ("in_channels", self.in_channels, "3"),
            ("out_channels", self.out_channels, "3"),
        ] {
            if channels != 3 {
                return Some((key, channels.to_string(), only));
            }
        }
        None
    }

    /// Whether the decoder takes the frames of a video together.
    #[must_use]
    pub fn is_temporal(&self) -> bool {
        self.class_name == VIDEOS
    }

    /// Whether a tensor of the weight file belongs to a module that is never computed with: of the middle of a temporal decoder,
    /// the first two resnets and the attention between them are run, however many it has.
    #[must_use]
    pub fn leaves_out(&self, name: &str) -> bool {
        let middle = name.strip_prefix("decoder.mid_block.");
        self.is_temporal()
            && middle.is_some_and(|module| {
                self.layers_per_block == 1 && module.starts_with("attentions.")
                    || self.layers_per_block > 2 && module.starts_with("resnets.")
            })
    }

    fn norm(&self) -> Norm {
        // Not in the config: diffusers fixes it for autoencoders.
        Norm {
            groups: self.norm_num_groups,
            epsilon: 1e-6,
        }
    }
}

/// The autoencoder on a device.
#[derive(Debug)]
pub struct AutoencoderKl {
    config: VaeConfig,
    dtype: FloatDType,
    encoder: Encoder,
    decoder: AnyDecoder,
}

#[derive(Debug)]
enum AnyDecoder {
    Pictures(Box<Decoder>),
    Videos(Box<TemporalDecoder>),
}

/// The encoder's normal distribution over latents, each `[batch, latent_channels, height, width]`.
#[derive(Clone, Debug)]
pub struct LatentDistribution {
    /// Its mean.
    pub mean: Tensor<4>,
    /// The logarithm of its variance, between -30 and 20.
    pub log_variance: Tensor<4>,
}

impl LatentDistribution {
    /// The latents that standard normal `noise` of the same shape stands for.
    #[must_use]
    pub fn sample(self, noise: Tensor<4>) -> Tensor<4> {
        self.mean + (self.log_variance * 0.5).exp() * noise
    }
}

impl AutoencoderKl {
    /// Loads encoder and decoder.
    ///
    /// # Errors
    ///
    /// [`WeightError`] for weights that do not fit `config`.
    pub fn load(config: &VaeConfig, loader: &Loader<'_>) -> Result<Self, WeightError> {
        Ok(Self {
            encoder: Encoder::load(config, loader)?,
            decoder: if config.is_temporal() {
                AnyDecoder::Videos(Box::new(TemporalDecoder::load(config, loader)?))
            } else {
                AnyDecoder::Pictures(Box::new(Decoder::load(config, loader)?))
            },
            config: config.clone(),
            dtype: loader.dtype(),
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Pictures `[batch, 3, height, width]` with values in -1 … 1 to distributions of latents, in `f32`.
    #[must_use]
    pub fn encode(&self, pictures: Tensor<4>) -> LatentDistribution {
        unasked(|cancel| self.encode_unless(pictures, false, cancel))
    }

    /// [`encode`](Self::encode) or, with `tiling`, [`encode_tiled`](Self::encode_tiled), unless somebody asks for its end.
    pub(crate) fn encode_unless(
        &self,
        pictures: Tensor<4>,
        tiling: bool,
        cancel: &Cancel,
    ) -> Result<LatentDistribution, Error> {
        let _reuse = Reuse::begin();
        let moments = match tiling {
            true => self.tiled_moments(pictures, cancel),
            false => self.moments(pictures, cancel),
        };
        Ok(self.distribution(moments?))
    }

    fn moments(&self, pictures: Tensor<4>, cancel: &Cancel) -> Result<Tensor<4>, Error> {
        let moments = self.encoder.forward(pictures.cast(self.dtype), cancel)?;
        Ok(moments.cast(FloatDType::F32))
    }

    fn distribution(&self, moments: Tensor<4>) -> LatentDistribution {
        let channels = self.config.latent_channels;
        LatentDistribution {
            mean: moments.clone().narrow(1, 0, channels),
            log_variance: moments.narrow(1, channels, channels).clamp(-30.0, 20.0),
        }
    }

    /// The encoder's latents, `[batch, latent_channels, height, width]`, to pictures with values around -1 … 1, in `f32`. A
    /// [temporal](VaeConfig::is_temporal) decoder takes the batch for consecutive frames of one video: a frame's picture
    /// depends on all of them.
    #[must_use]
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        unasked(|cancel| self.decode_unless(latents, false, cancel))
    }

    /// [`decode`](Self::decode) or, with `tiling`, [`decode_tiled`](Self::decode_tiled), unless somebody asks for its end.
    pub(crate) fn decode_unless(
        &self,
        latents: Tensor<4>,
        tiling: bool,
        cancel: &Cancel,
    ) -> Result<Tensor<4>, Error> {
        let _reuse = Reuse::begin();
        match tiling {
            true => self.decode_tiles(latents, cancel),
            false => self.pictures(latents, cancel),
        }
    }

    fn pictures(&self, latents: Tensor<4>, cancel: &Cancel) -> Result<Tensor<4>, Error> {
        let latents = latents.cast(self.dtype);
        let pictures = match &self.decoder {
            AnyDecoder::Pictures(decoder) => decoder.forward(latents, cancel),
            AnyDecoder::Videos(decoder) => decoder.forward(latents, cancel),
        };
        Ok(pictures?.cast(FloatDType::F32))
    }

    /// The encoder's latents, `[batch, latent_channels, height, width]`, to the denoiser's.
    ///
    /// # Panics
    ///
    /// As [`AutoencoderKl::unscale`].
    #[must_use]
    pub fn scale(&self, latents: Tensor<4>) -> Tensor<4> {
        let config = &self.config;
        let device = latents.device();
        let mut latents = latents;
        if let Some(means) = &config.latents_mean {
            latents = latents - self.per_channel(means, &device);
        }
        latents = (latents - config.shift_factor.unwrap_or(0.0)) * config.scaling_factor;
        if let Some(deviations) = &config.latents_std {
            latents = latents / self.per_channel(deviations, &device);
        }
        latents
    }

    fn per_channel(&self, values: &[f64], device: &Device) -> Tensor<4> {
        let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        let data = TensorData::new(values, [1, self.config.latent_channels, 1, 1]);
        Tensor::from_data(data, device)
    }

    /// The denoiser's latents, `[batch, latent_channels, height, width]`, to the decoder's.
    ///
    /// # Panics
    ///
    /// If the configuration's `latents_mean` or `latents_std` has not one entry for each channel.
    #[must_use]
    pub fn unscale(&self, latents: Tensor<4>) -> Tensor<4> {
        let config = &self.config;
        let device = latents.device();
        let mut latents = latents;
        if let Some(deviations) = &config.latents_std {
            latents = latents * self.per_channel(deviations, &device);
        }
        latents = latents / config.scaling_factor + config.shift_factor.unwrap_or(0.0);
        if let Some(means) = &config.latents_mean {
            latents = latents + self.per_channel(means, &device);
        }
        latents
    }
}

#[derive(Debug)]
struct Level {
    resnets: Vec<Resnet>,
    /// A convolution that halves or doubles the size, except at the end.
    resample: Option<Conv2d>,
}

#[derive(Debug)]
struct Middle {
    first: Resnet,
    attention: Option<Attention>,
    second: Resnet,
}

#[derive(Debug)]
struct Attention {
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    head: Heads,
}

#[derive(Debug)]
struct Encoder {
    conv_in: Conv2d,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    quant: Option<Conv2d>,
}

#[derive(Debug)]
struct Decoder {
    quant: Option<Conv2d>,
    conv_in: Conv2d,
    middle: Middle,
    levels: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

fn level(
    loader: &Loader<'_>,
    input: usize,
    output: usize,
    resnets: usize,
    norm: Norm,
) -> Result<Vec<Resnet>, WeightError> {
    (0..resnets)
        .map(|index| {
            let input = if index == 0 { input } else { output };
            Resnet::load(&loader.at("resnets").at(index), [input, output], norm, None)
        })
        .collect()
}

impl Encoder {
    fn load(config: &VaeConfig, root: &Loader<'_>) -> Result<Self, WeightError> {
        let loader = root.at("encoder");
        let (widths, norm) = (&config.block_out_channels, config.norm());
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let latents = 2 * config.latent_channels;
        let levels = widths.iter().enumerate().map(|(index, &width)| {
            let block = loader.at("down_blocks").at(index);
            let input = widths[index.saturating_sub(1)];
            let resample = || Conv2d::halving(&block.at("downsamplers.0.conv"), [width, width]);
            Ok(Level {
                resnets: level(&block, input, width, config.layers_per_block, norm)?,
                resample: (index + 1 < widths.len()).then(resample).transpose()?,
            })
        });
        let quant = || Conv2d::load(&root.at("quant_conv"), [latents, latents], 1, 1, 0);
        Ok(Self {
            conv_in: Conv2d::load(&loader.at("conv_in"), [config.in_channels, first], 3, 1, 1)?,
            levels: levels.collect::<Result<_, WeightError>>()?,
            middle: Middle::load(config, &loader, last)?,
            norm_out: GroupNorm::load(
                &loader.at("conv_norm_out"),
                norm.groups,
                last,
                norm.epsilon,
            )?,
            conv_out: Conv2d::load(&loader.at("conv_out"), [last, latents], 3, 1, 1)?,
            quant: config.use_quant_conv.then(quant).transpose()?,
        })
    }

    fn forward(&self, x: Tensor<4>, cancel: &Cancel) -> Result<Tensor<4>, Error> {
        let mut hidden = self.conv_in.forward(x);
        for level in &self.levels {
            for resnet in &level.resnets {
                cancel.check()?;
                hidden = resnet.forward(hidden, None);
            }
            if let Some(resample) = &level.resample {
                hidden = resample.forward(hidden);
            }
        }
        cancel.check()?;
        hidden = self.middle.forward(hidden);
        hidden = self.conv_out.forward(self.norm_out.forward_silu(hidden));
        Ok(apply(&self.quant, hidden))
    }
}

impl Decoder {
    fn load(config: &VaeConfig, root: &Loader<'_>) -> Result<Self, WeightError> {
        let loader = root.at("decoder");
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let norm = config.norm();
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let latents = config.latent_channels;
        let levels = widths.iter().enumerate().map(|(index, &width)| {
            let block = loader.at("up_blocks").at(index);
            let input = widths[index.saturating_sub(1)];
            let resample = || Conv2d::load(&block.at("upsamplers.0.conv"), [width, width], 3, 1, 1);
            Ok(Level {
                resnets: level(&block, input, width, config.layers_per_block + 1, norm)?,
                resample: (index + 1 < widths.len()).then(resample).transpose()?,
            })
        });
        let quant = || Conv2d::load(&root.at("post_quant_conv"), [latents, latents], 1, 1, 0);
        Ok(Self {
            quant: config.use_post_quant_conv.then(quant).transpose()?,
            conv_in: Conv2d::load(&loader.at("conv_in"), [latents, first], 3, 1, 1)?,
            middle: Middle::load(config, &loader, first)?,
            levels: levels.collect::<Result<_, WeightError>>()?,
            norm_out: GroupNorm::load(
                &loader.at("conv_norm_out"),
                norm.groups,
                last,
                norm.epsilon,
            )?,
            conv_out: Conv2d::load(&loader.at("conv_out"), [last, config.out_channels], 3, 1, 1)?,
        })
    }

    fn forward(&self, latents: Tensor<4>, cancel: &Cancel) -> Result<Tensor<4>, Error> {
        let mut hidden = self.conv_in.forward(apply(&self.quant, latents));
        hidden = self.middle.forward(hidden);
        for level in &self.levels {
            for resnet in &level.resnets {
                cancel.check()?;
                hidden = resnet.forward(hidden, None);
            }
            if let Some(resample) = &level.resample {
                let [_, _, height, width] = hidden.dims();
                hidden = resample.forward_enlarged(hidden, [2 * height, 2 * width]);
            }
        }
        cancel.check()?;
        Ok(self.conv_out.forward(self.norm_out.forward_silu(hidden)))
    }
}

fn apply(conv: &Option<Conv2d>, x: Tensor<4>) -> Tensor<4> {
    match conv {
        Some(conv) => conv.forward(x),
        None => x,
    }
}

impl Middle {
    fn load(config: &VaeConfig, loader: &Loader<'_>, channels: usize) -> Result<Self, WeightError> {
        let loader = loader.at("mid_block");
        let resnet = |index| {
            Resnet::load(
                &loader.at("resnets").at(index),
                [channels, channels],
                config.norm(),
                None,
            )
        };
        let attention = || Attention::load(&loader.at("attentions.0"), channels, config.norm());
        Ok(Self {
            first: resnet(0)?,
            attention: config.mid_block_add_attention.then(attention).transpose()?,
            second: resnet(1)?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut hidden = self.first.forward(x, None);
        if let Some(attention) = &self.attention {
            hidden = attention.forward(hidden);
        }
        self.second.forward(hidden, None)
    }
}

impl Attention {
    fn load(loader: &Loader<'_>, channels: usize, norm: Norm) -> Result<Self, WeightError> {
        // Checkpoints from before diffusers 0.18 have the older names.
        let [query, key, value, output] = if loader.has("query") {
            ["query", "key", "value", "proj_attn"]
        } else {
            ["to_q", "to_k", "to_v", "to_out.0"]
        };
        let projection = |name| Linear::load(&loader.at(name), channels, channels, true);
        Ok(Self {
            norm: GroupNorm::load(
                &loader.at("group_norm"),
                norm.groups,
                channels,
                norm.epsilon,
            )?,
            query: projection(query)?,
            key: projection(key)?,
            value: projection(value)?,
            output: projection(output)?,
            head: Heads::new(loader, 1, Mask::None),
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let normed = tokens(self.norm.forward(x.clone()));
        let attended = self.head.attend(
            self.query.forward(normed.clone()),
            self.key.forward(normed.clone()),
            self.value.forward(normed),
        );
        let sum = self.output.forward_onto(attended, tokens(x));
        feature_map(sum, [height, width])
    }
}

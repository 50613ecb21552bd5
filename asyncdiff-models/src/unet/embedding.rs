//! The time embedding and what is added to it: shared by all blocks of a call, so every rank holds these layers.

use asyncdiff_burn::layers::{Activation, Linear};
use asyncdiff_burn::weights::{Loader, WeightError};
use asyncdiff_core::unet::UNet2dConfig;
use burn::tensor::{Device, FloatDType, Tensor, TensorData, activation};

use super::AddedConditioning;

/// The embeddings of a UNet, on a device.
#[derive(Debug)]
pub(crate) struct Embeddings {
    time: Embedding,
    /// Features of a number, and the layers for all of them and the text.
    added: Option<(usize, Embedding)>,
    /// Features that the timestep itself becomes.
    time_features: usize,
    frequencies: Frequencies,
    device: Device,
    dtype: FloatDType,
}

/// diffusers' `TimestepEmbedding`.
#[derive(Debug)]
pub(super) struct Embedding {
    linear1: Linear,
    linear2: Linear,
}

impl Embedding {
    pub fn load(
        loader: &Loader<'_>,
        [input, hidden, output]: [usize; 3],
    ) -> Result<Self, WeightError> {
        Ok(Self {
            linear1: Linear::load(&loader.at("linear_1"), input, hidden, true)?,
            linear2: Linear::load(&loader.at("linear_2"), hidden, output, true)?,
        })
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let hidden = self.linear1.forward_activated(x, Activation::Silu);
        self.linear2.forward(hidden)
    }
}

impl Embeddings {
    pub fn load(config: &UNet2dConfig, root: &Loader<'_>) -> Result<Self, WeightError> {
        let time = config.time_embed_dim();
        let load = |name, input| Embedding::load(&root.at(name), [input, time, time]);
        let added = config.added().map(|added| {
            let layers = load("add_embedding", added.input_features)?;
            Ok((added.number_features, layers))
        });
        Ok(Self {
            time: load("time_embedding", config.block_out_channels[0])?,
            added: added.transpose()?,
            time_features: config.block_out_channels[0],
            frequencies: Frequencies {
                cosines_first: config.flip_sin_to_cos,
                shift: config.freq_shift,
            },
            device: root.device().clone(),
            dtype: root.dtype(),
        })
    }

    /// What is added to the time embedding: `[samples, features]`.
    ///
    /// # Panics
    ///
    /// If the UNet needs it and `conditioning` is `None`, or its number of features is not the configuration's.
    pub fn added(&self, conditioning: Option<AddedConditioning>) -> Option<Tensor<2>> {
        let (features, layers) = self.added.as_ref()?;
        let AddedConditioning {
            text_embeds,
            time_ids,
        } = conditioning.expect("a UNet with an add_embedding needs AddedConditioning");
        let samples = time_ids.len();
        let numbers = time_ids.concat();
        let embedded = numbers.len() * features / samples;
        let numbers = self
            .sinusoids(&numbers, *features)
            .reshape([samples, embedded]);
        Some(layers.forward(match text_embeds {
            Some(text) => Tensor::cat(vec![text.cast(self.dtype), numbers], 1),
            None => numbers,
        }))
    }

    /// The type that layers compute with.
    pub fn dtype(&self) -> FloatDType {
        self.dtype
    }

    /// The activated embedding for a call: `[1, features]`, or `[samples, features]` where something is added.
    pub fn at(&self, timestep: f64, added: Option<&Tensor<2>>) -> Tensor<2> {
        let time = self
            .time
            .forward(self.sinusoids(&[timestep], self.time_features));
        activation::silu(match added {
            Some(added) => added.clone() + time,
            None => time,
        })
    }

    fn sinusoids(&self, numbers: &[f64], features: usize) -> Tensor<2> {
        let data = self.frequencies.sinusoids(numbers, features);
        Tensor::from_data(data, (&self.device, self.dtype.into()))
    }
}

/// How a number becomes sinusoids (diffusers' `Timesteps`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Frequencies {
    /// Whether the cosines come before the sines (diffusers' `flip_sin_to_cos`).
    pub cosines_first: bool,
    /// `downscale_freq_shift`
    pub shift: f64,
}

impl Frequencies {
    /// Cosines and sines of every number at geometrically spaced frequencies, `[numbers, features]`. An odd number of features
    /// ends with a zero.
    pub fn sinusoids(self, numbers: &[f64], features: usize) -> TensorData {
        let half = features / 2;
        let frequency = |index: usize| {
            let exponent = index as f64 / (half as f64 - self.shift);
            (-10_000_f64.ln() * exponent).exp()
        };
        let frequencies: Vec<f64> = (0..half).map(frequency).collect();
        let mut values = Vec::with_capacity(numbers.len() * features);
        for number in numbers {
            let angles = frequencies.iter().map(|frequency| number * frequency);
            let (sines, cosines): (Vec<f32>, Vec<f32>) = angles
                .map(|angle| (angle.sin() as f32, angle.cos() as f32))
                .unzip();
            if self.cosines_first {
                values.extend(cosines);
                values.extend(sines);
            } else {
                values.extend(sines);
                values.extend(cosines);
            }
            values.extend((features % 2 == 1).then_some(0.0));
        }
        TensorData::new(values, [numbers.len(), features])
    }
}

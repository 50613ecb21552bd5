//! The text side of a pipeline: from prompts to what the denoiser reads of them.

use std::sync::Arc;

use asyncdiff_burn::weights::{Loader, WeightError};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::clip::{ClipTextConfig, ClipTextModel, ClipTextModelWithProjection};
use crate::lora::{Fitted, Part, PartDeltas};
use crate::prompt::{self, Piece};
use crate::tensors::repeat_each;
use crate::tokenizer::{ClipTokenizer, TokenizerError};

/// Why the texts' side of a pipeline cannot be opened or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A tokenizer's files.
    #[error("{folder}: {source}")]
    Tokenizer {
        /// The tokenizer's folder.
        folder: String,
        /// What is wrong with them.
        source: TokenizerError,
    },
    /// The model's files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightError),
}

/// A tokenizer and the text encoder that reads its ids, without the weights.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    /// The text encoder's folder in the checkpoint.
    pub folder: &'static str,
    /// The tokenizer.
    pub tokenizer: ClipTokenizer,
    /// The text encoder's configuration.
    pub config: ClipTextConfig,
}

/// The text encoders of a checkpoint, without the weights.
#[derive(Clone, Debug)]
pub enum TextEncoders {
    /// Of Stable Diffusion 1 and 2, whose denoiser reads the last hidden states.
    One(Arc<TextEncoder>),
    /// Of Stable Diffusion XL, whose denoiser reads the hidden states before the last layer of both, side by side, and the
    /// projected pooled text of the second.
    Two {
        /// The encoder whose features come first.
        first: Arc<TextEncoder>,
        /// The encoder with a projection.
        second: Arc<TextEncoder>,
        /// An empty negative prompt means embeddings of zeros (diffusers' `force_zeros_for_empty_prompt`).
        zeros_for_empty: bool,
    },
}

impl TextEncoder {
    fn open(
        checkpoint: &Checkpoint,
        folder: &'static str,
        tokenizer: &str,
    ) -> Result<Self, TextError> {
        let read = |name: &str| checkpoint.read(&format!("{tokenizer}/{name}"));
        let special = "special_tokens_map.json";
        let special = checkpoint
            .has(&format!("{tokenizer}/{special}"))
            .then(|| read(special))
            .transpose()?;
        let tokenizer = ClipTokenizer::new(
            &read("vocab.json")?,
            &read("merges.txt")?,
            &read("tokenizer_config.json")?,
            special.as_deref(),
        )
        .map_err(|source| TextError::Tokenizer {
            folder: checkpoint.describe(tokenizer),
            source,
        })?;
        Ok(Self {
            folder,
            tokenizer,
            config: checkpoint.json(&format!("{folder}/config.json"))?,
        })
    }

    /// The token ids of every text, and their weights.
    fn tokens(&self, texts: &[Vec<Piece>]) -> (Vec<Vec<u32>>, Vec<Weights>) {
        let encode = |pieces: &Vec<Piece>| {
            let texts = pieces.iter().map(|piece| piece.text.as_str());
            let (encoding, owners) = self.tokenizer.encode_pieces(texts);
            let weight = |owner: Option<usize>| owner.map_or(1.0, |index| pieces[index].weight);
            (encoding.ids, owners.into_iter().map(weight).collect())
        };
        texts.iter().map(encode).unzip()
    }
}

impl TextEncoders {
    /// The only text encoder of a checkpoint.
    pub(crate) fn one(checkpoint: &Checkpoint) -> Result<Self, TextError> {
        let only = TextEncoder::open(checkpoint, "text_encoder", "tokenizer")?;
        Ok(Self::One(Arc::new(only)))
    }

    /// Both text encoders of a checkpoint.
    pub(crate) fn two(checkpoint: &Checkpoint, zeros_for_empty: bool) -> Result<Self, TextError> {
        let first = TextEncoder::open(checkpoint, "text_encoder", "tokenizer")?;
        let second = TextEncoder::open(checkpoint, "text_encoder_2", "tokenizer_2")?;
        Ok(Self::Two {
            first: Arc::new(first),
            second: Arc::new(second),
            zeros_for_empty,
        })
    }

    /// The text encoders, in the order of their features.
    pub fn iter(&self) -> impl Iterator<Item = &TextEncoder> {
        let (first, second) = match self {
            Self::One(only) => (only, None),
            Self::Two { first, second, .. } => (first, Some(second)),
        };
        std::iter::once(first).chain(second).map(Arc::as_ref)
    }

    /// Number of token ids of a text: the same for all encoders of a checkpoint.
    #[must_use]
    pub fn tokens(&self) -> usize {
        match self {
            Self::One(first) | Self::Two { first, .. } => first.tokenizer.model_max_length(),
        }
    }

    /// Features of a token, of all encoders together.
    #[must_use]
    pub fn features(&self) -> usize {
        self.iter().map(|encoder| encoder.config.hidden_size).sum()
    }
}

/// What a pipeline's text encoders say about a batch of prompts.
#[derive(Clone, Debug)]
pub(crate) struct PromptEmbedding {
    /// `[prompts, tokens, features]`
    pub context: Tensor<3>,
    /// `[prompts, features]`, where the denoiser reads it.
    pub pooled: Option<Tensor<2>>,
}

impl PromptEmbedding {
    /// Every prompt, `times` times in a row.
    pub fn repeat_each(self, times: usize) -> Self {
        Self {
            context: repeat_each(self.context, times),
            pooled: self.pooled.map(|pooled| repeat_each(pooled, times)),
        }
    }

    /// Those of several contents as one batch: as each of them, it has its negative prompts, if there are any, before the others.
    pub fn together(all: &[Self], guided: bool) -> Self {
        fn cat<const D: usize>(all: Vec<&Tensor<D>>, guided: bool) -> Tensor<D> {
            let passes = if guided { 2 } else { 1 };
            let of_pass = |pass| {
                all.iter().map(move |tensor| {
                    let each = tensor.dims()[0] / passes;
                    (*tensor).clone().narrow(0, pass * each, each)
                })
            };
            Tensor::cat((0..passes).flat_map(of_pass).collect(), 0)
        }
        let pooled: Option<Vec<_>> = all.iter().map(|one| one.pooled.as_ref()).collect();
        Self {
            context: cat(all.iter().map(|one| &one.context).collect(), guided),
            pooled: pooled.map(|pooled| cat(pooled, guided)),
        }
    }
}

/// The text encoders of a pipeline with their weights.
#[derive(Debug)]
pub(crate) enum LoadedTextEncoders {
    One(Arc<TextEncoder>, Arc<ClipTextModel>),
    Two {
        first: (Arc<TextEncoder>, Arc<ClipTextModel>),
        second: (Arc<TextEncoder>, Arc<ClipTextModelWithProjection>),
        zeros_for_empty: bool,
    },
}

/// What text encoders are loaded from and to.
#[derive(Clone, Copy)]
struct Source<'a> {
    checkpoint: &'a Checkpoint,
    loras: &'a [Arc<Fitted>],
    target: (&'a Device, FloatDType),
}

impl LoadedTextEncoders {
    pub fn load(
        encoders: &TextEncoders,
        checkpoint: &Checkpoint,
        loras: &[Arc<Fitted>],
        target: (&Device, FloatDType),
    ) -> Result<Self, TextError> {
        let source = Source {
            checkpoint,
            loras,
            target,
        };
        Ok(match encoders {
            TextEncoders::One(only) => Self::One(Arc::clone(only), source.plain(only)?),
            TextEncoders::Two {
                first,
                second,
                zeros_for_empty,
            } => Self::Two {
                second: (Arc::clone(second), source.projecting(second)?),
                first: (Arc::clone(first), source.plain(first)?),
                zeros_for_empty: *zeros_for_empty,
            },
        })
    }

    /// The same with other LoRAs: what has the `same` weights is shared.
    pub fn beside(
        &self,
        same: impl Fn(Part) -> bool,
        checkpoint: &Checkpoint,
        loras: &[Arc<Fitted>],
        target: (&Device, FloatDType),
    ) -> Result<Self, TextError> {
        let source = Source {
            checkpoint,
            loras,
            target,
        };
        let plain = |(encoder, model): (&Arc<_>, &Arc<_>)| match same(Part::TextEncoder) {
            true => Ok(Arc::clone(model)),
            false => source.plain(encoder),
        };
        Ok(match self {
            Self::One(only, model) => Self::One(Arc::clone(only), plain((only, model))?),
            Self::Two {
                first: (first, model),
                second: (second, projecting),
                zeros_for_empty,
            } => {
                let projecting = match same(Part::TextEncoder2) {
                    true => Arc::clone(projecting),
                    false => source.projecting(second)?,
                };
                Self::Two {
                    first: (Arc::clone(first), plain((first, model))?),
                    second: (Arc::clone(second), projecting),
                    zeros_for_empty: *zeros_for_empty,
                }
            }
        })
    }

    /// Embeds a prompt, and before it in the batch the negative prompt if there is one; with or without
    /// [weights](crate::prompt) in their text.
    pub fn encode(&self, negative: Option<&str>, prompt: &str, weighting: bool) -> PromptEmbedding {
        let zeros = match self {
            Self::One(..) => false,
            Self::Two {
                zeros_for_empty, ..
            } => *zeros_for_empty && negative == Some(""),
        };
        let texts: Vec<_> = negative
            .filter(|_| !zeros)
            .into_iter()
            .chain([prompt])
            .map(|text| pieces(text, weighting))
            .collect();
        let embedding = self.forward(&texts);
        if zeros {
            PromptEmbedding {
                context: behind_zeros(embedding.context),
                pooled: embedding.pooled.map(behind_zeros),
            }
        } else {
            embedding
        }
    }

    fn forward(&self, texts: &[Vec<Piece>]) -> PromptEmbedding {
        match self {
            Self::One(encoder, model) => {
                let (ids, weights) = encoder.tokens(texts);
                PromptEmbedding {
                    context: weighted(model.encode(&ids).last_hidden_state, &weights),
                    pooled: None,
                }
            }
            Self::Two {
                first: (first, model),
                second: (second, projecting),
                ..
            } => {
                let (ids, weights) = first.tokens(texts);
                let narrow = weighted(model.encode(&ids).penultimate, &weights);
                let (ids, weights) = second.tokens(texts);
                let (wide, text_embeds) = projecting.encode(&ids);
                let wide = weighted(wide.penultimate, &weights);
                PromptEmbedding {
                    context: Tensor::cat(vec![narrow, wide], 2),
                    pooled: Some(text_embeds),
                }
            }
        }
    }
}

impl Source<'_> {
    fn plain(self, encoder: &TextEncoder) -> Result<Arc<ClipTextModel>, TextError> {
        self.load(encoder, Part::TextEncoder, ClipTextModel::load)
    }

    fn projecting(
        self,
        encoder: &TextEncoder,
    ) -> Result<Arc<ClipTextModelWithProjection>, TextError> {
        self.load(
            encoder,
            Part::TextEncoder2,
            ClipTextModelWithProjection::load,
        )
    }

    fn load<T>(
        self,
        encoder: &TextEncoder,
        part: Part,
        load: impl Fn(&ClipTextConfig, &Loader<'_>) -> Result<T, WeightError>,
    ) -> Result<Arc<T>, TextError> {
        let (device, dtype) = self.target;
        let file = self.checkpoint.weights(encoder.folder, "model")?;
        let deltas = PartDeltas::new(self.loras.iter().map(Arc::as_ref), part)?;
        let weights = file.read()?.with_deltas(&deltas);
        let model = load(&encoder.config, &weights.on(device, dtype))?;
        // A buffer that older versions of transformers saved: the numbers 0, 1, 2, …
        weights.finish(|name| name.ends_with("embeddings.position_ids"))?;
        Ok(Arc::new(model))
    }
}

/// A weight for each token of a text.
type Weights = Vec<f64>;

/// The pieces of a prompt, a single one where weights are not asked for.
pub(crate) fn pieces(prompt: &str, weighting: bool) -> Vec<Piece> {
    if weighting {
        prompt::parse(prompt)
    } else {
        vec![Piece::literal(prompt)]
    }
}

/// Hidden states `[texts, tokens, features]` times the weights of their tokens, each text rescaled to its old mean. A text
/// whose weights are all 1 stays as it is, to the last bit.
fn weighted(hidden: Tensor<3>, weights: &[Weights]) -> Tensor<3> {
    if weights.iter().flatten().all(|weight| *weight == 1.0) {
        return hidden;
    }
    let rows = hidden.chunk(weights.len(), 0).into_iter().zip(weights);
    Tensor::cat(
        rows.map(|(row, weights)| weighted_row(row, weights))
            .collect(),
        0,
    )
}

fn weighted_row(row: Tensor<3>, weights: &Weights) -> Tensor<3> {
    if weights.iter().all(|weight| *weight == 1.0) {
        return row;
    }
    let (device, dtype, shape) = (row.device(), row.dtype(), row.dims());
    // A few thousand numbers, whose mean may be much smaller than they are: in `f64`, so that it is the same everywhere.
    let before: Vec<f64> = row.into_data().iter::<f64>().collect();
    let of_token = |(index, value): (usize, &f64)| value * weights[index / shape[2]];
    let after: Vec<f64> = before.iter().enumerate().map(of_token).collect();
    let scale = before.iter().sum::<f64>() / after.iter().sum::<f64>();
    let values: Vec<f32> = after.iter().map(|value| (value * scale) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), (&device, dtype))
}

fn behind_zeros<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    Tensor::cat(vec![tensor.zeros_like(), tensor], 0)
}

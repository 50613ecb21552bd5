//! What a checkpoint is, from its configurations and the headers of its weight files.

use std::collections::BTreeMap;

use asyncdiff_burn::weights::WeightSet;
use asyncdiff_core::{BlockId, Machine, Partition, SegmentGraph};
use serde::Serialize;

use crate::dtype::Dtype;
use crate::error::Error;
use crate::pipeline::{MotionAdapter, StableDiffusion};
use crate::text::TextEncoders;
use crate::vision::ImageEncoder;

/// The numbers of segments that partitions are published for.
const SEGMENTS: [usize; 3] = [2, 3, 4];

/// What a checkpoint is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Description {
    /// The pipeline's class in diffusers.
    pub class: String,
    /// Default width in pixels.
    pub width: usize,
    /// Default height in pixels.
    pub height: usize,
    /// Default number of frames; 1 for pictures.
    pub frames: usize,
    /// Shape of a picture's or frame's latents at that size: `[channels, height, width]`.
    pub latents: [usize; 3],
    /// Default number of inference steps.
    pub steps: usize,
    /// Default strength of classifier-free guidance.
    pub guidance_scale: f64,
    /// The noise scheduler's class in diffusers.
    pub scheduler: String,
    /// What the denoiser predicts: `epsilon`, `v_prediction` or `sample`.
    pub prediction_type: String,
    /// Whether the denoiser reads a mask, so that it can only inpaint.
    pub reads_mask: bool,
    /// The text encoders, in the order of their features.
    pub text_encoders: Vec<TextEncoderDescription>,
    /// The parts that have weights.
    pub parts: Vec<PartDescription>,
    /// How the denoiser can be spread: not at all, then over 2, 3 and 4 segments as far as it has blocks.
    pub partitions: Vec<PartitionDescription>,
}

/// A text encoder of a [`Description`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TextEncoderDescription {
    /// Its folder in the checkpoint.
    pub folder: String,
    /// Transformer layers.
    pub layers: usize,
    /// Features of a token.
    pub features: usize,
    /// Token ids of a text, with its beginning and end.
    pub tokens: usize,
    /// Number of different tokens.
    pub vocabulary: usize,
}

/// The weights of one part of a [`Description`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PartDescription {
    /// Its folder in the checkpoint.
    pub folder: String,
    /// Number of weights.
    pub parameters: u64,
    /// Number of weights that are stored in each type, such as `F16`.
    pub stored: BTreeMap<String, u64>,
}

/// What a motion adapter is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MotionAdapterDescription {
    /// The most frames of a video.
    pub most_frames: usize,
    /// Number of weights.
    pub parameters: u64,
    /// Number of weights that are stored in each type, such as `F16`.
    pub stored: BTreeMap<String, u64>,
}

/// One way to spread the denoiser, of a [`Description`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PartitionDescription {
    /// Number of segments.
    pub segments: usize,
    /// `single`, `published`, or `balanced` where no published one fits.
    pub partition: String,
    /// Each segment's share of the multiply-accumulate operations of a denoiser call, at the default size.
    pub macs_shares: Vec<f64>,
    /// Bytes of the denoiser's weights that each segment's rank loads.
    pub weight_bytes: Vec<u64>,
    /// How many times sooner a long run is done on equal devices and links that cost nothing, with stride 1.
    pub ideal_speed_up: f64,
}

impl StableDiffusion {
    /// What the checkpoint is. Of the weight files, the headers are read.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] for weight files that are missing or damaged, and [`Error::Request`] for a default size
    /// that is not possible.
    pub fn describe(&self) -> Result<Description, Error> {
        let shape = self.shape();
        let graph = self.graph(&shape)?;
        let motion = self.motion(&shape);
        let [_, channels, height, width] = graph.latents;
        let text_encoders: Vec<_> = self
            .text_encoders()
            .into_iter()
            .flat_map(TextEncoders::iter)
            .map(|encoder| TextEncoderDescription {
                folder: encoder.folder.to_owned(),
                layers: encoder.config.num_hidden_layers,
                features: encoder.config.hidden_size,
                tokens: encoder.tokenizer.model_max_length(),
                vocabulary: encoder.config.vocab_size,
            })
            .collect();
        let parts = text_encoders
            .iter()
            .map(|encoder| encoder.folder.as_str())
            .chain(self.image_encoder().map(|_| ImageEncoder::FOLDER))
            .map(|folder| (folder, "model"))
            .chain(["unet", "vae"].map(|part| (part, "diffusion_pytorch_model")))
            .map(|(folder, stem)| {
                let weights = self.checkpoint.weights(folder, stem)?;
                describe_part(folder, &weights)
            })
            .chain(motion.map(|motion| describe_part("motion_adapter", &motion.adapter.weights()?)))
            .collect::<Result<_, _>>()?;
        let scheduler = self.scheduler_of(&shape);
        Ok(Description {
            class: self.class.name().to_owned(),
            width: shape.width,
            height: shape.height,
            frames: shape.frames,
            latents: [channels, height, width],
            steps: shape.steps,
            guidance_scale: shape.guidance_scale,
            scheduler: scheduler.class_name.clone(),
            prediction_type: scheduler
                .prediction_type
                .clone()
                // The default of every class.
                .unwrap_or_else(|| "epsilon".to_owned()),
            reads_mask: self.reads_mask(),
            text_encoders,
            parts,
            partitions: describe_partitions(&graph, self.dtype),
        })
    }
}

impl MotionAdapter {
    /// What the adapter is. Of the weight files, the headers are read.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] for weight files that are missing or damaged.
    pub fn describe(&self) -> Result<MotionAdapterDescription, Error> {
        let part = describe_part("motion_adapter", &self.weights()?)?;
        Ok(MotionAdapterDescription {
            most_frames: self.config().motion_max_seq_length,
            parameters: part.parameters,
            stored: part.stored,
        })
    }
}

fn describe_part(folder: &str, weights: &WeightSet) -> Result<PartDescription, Error> {
    let stored = weights.read()?.parameters_by_dtype();
    Ok(PartDescription {
        folder: folder.to_owned(),
        parameters: stored.values().sum(),
        stored,
    })
}

fn describe_partitions(graph: &SegmentGraph, dtype: Dtype) -> Vec<PartitionDescription> {
    let published = Partition::all_published(graph);
    let over = |segments| {
        let table = published.iter().find(|table| table.segments() == segments);
        match table {
            Some(table) => Some(describe_partition(graph, table, "published", dtype)),
            None => Partition::balanced(graph, &Machine::ideal(graph), segments)
                .ok()
                .map(|partition| describe_partition(graph, &partition, "balanced", dtype)),
        }
    };
    std::iter::once(describe_partition(
        graph,
        &Partition::single(graph),
        "single",
        dtype,
    ))
    .chain(SEGMENTS.into_iter().filter_map(over))
    .collect()
}

fn describe_partition(
    graph: &SegmentGraph,
    partition: &Partition,
    name: &str,
    dtype: Dtype,
) -> PartitionDescription {
    let blocks = |segment: usize| -> Vec<BlockId> {
        let ids = graph.iter().map(|(id, _)| id);
        ids.filter(|id| partition.owner(*id) == segment).collect()
    };
    let total = graph.macs() as f64;
    let share = |blocks: Vec<BlockId>| {
        let macs: u64 = blocks.iter().map(|id| graph.block(*id).macs).sum();
        macs as f64 / total
    };
    let segments = 0..partition.segments();
    let macs_shares: Vec<f64> = segments
        .clone()
        .map(|segment| share(blocks(segment)))
        .collect();
    PartitionDescription {
        segments: partition.segments(),
        partition: name.to_owned(),
        ideal_speed_up: 1.0 / macs_shares.iter().copied().fold(0.0, f64::max),
        macs_shares,
        weight_bytes: segments
            .map(|segment| graph.parameters(&blocks(segment)) * dtype.bytes())
            .collect(),
    }
}

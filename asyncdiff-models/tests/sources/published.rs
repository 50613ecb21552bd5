//! Names and shapes of the published checkpoints in the original layout: what the constructors of the original code
//! (`openaimodel.UNetModel`, `AutoencoderKL`, CLIP, OpenCLIP) make of the published configurations.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, json};

pub type Shapes = BTreeMap<String, Vec<usize>>;

/// The `unet_config` of an original model.
pub struct UNet {
    pub in_channels: usize,
    pub channel_mult: &'static [usize],
    /// Whether each level attends.
    pub attends: &'static [bool],
    pub transformer_depth: &'static [usize],
    pub context_dim: usize,
    pub use_linear_in_transformer: bool,
    pub adm_in_channels: Option<usize>,
}

const MODEL_CHANNELS: usize = 320;
const RES_BLOCKS: usize = 2;

fn with_bias(shapes: &mut Shapes, name: &str, shape: &[usize]) {
    shapes.insert(format!("{name}.weight"), shape.to_vec());
    shapes.insert(format!("{name}.bias"), vec![shape[0]]);
}

fn conv(shapes: &mut Shapes, name: &str, input: usize, output: usize, side: usize) {
    with_bias(shapes, name, &[output, input, side, side]);
}

impl UNet {
    pub fn shapes(&self) -> Shapes {
        let mut shapes = Shapes::new();
        let wide = 4 * MODEL_CHANNELS;
        with_bias(&mut shapes, "time_embed.0", &[wide, MODEL_CHANNELS]);
        with_bias(&mut shapes, "time_embed.2", &[wide, wide]);
        if let Some(features) = self.adm_in_channels {
            with_bias(&mut shapes, "label_emb.0.0", &[wide, features]);
            with_bias(&mut shapes, "label_emb.0.2", &[wide, wide]);
        }
        conv(
            &mut shapes,
            "input_blocks.0.0",
            self.in_channels,
            MODEL_CHANNELS,
            3,
        );
        let mut channels = MODEL_CHANNELS;
        let mut skips = vec![channels];
        let mut block = 1;
        let levels = self.channel_mult.len();
        for (level, mult) in self.channel_mult.iter().enumerate() {
            for _ in 0..RES_BLOCKS {
                let output = mult * MODEL_CHANNELS;
                res_block(
                    &mut shapes,
                    &format!("input_blocks.{block}.0"),
                    channels,
                    output,
                );
                channels = output;
                if self.attends[level] {
                    let depth = self.transformer_depth[level];
                    self.transformer(
                        &mut shapes,
                        &format!("input_blocks.{block}.1"),
                        channels,
                        depth,
                    );
                }
                skips.push(channels);
                block += 1;
            }
            if level + 1 < levels {
                conv(
                    &mut shapes,
                    &format!("input_blocks.{block}.0.op"),
                    channels,
                    channels,
                    3,
                );
                skips.push(channels);
                block += 1;
            }
        }
        res_block(&mut shapes, "middle_block.0", channels, channels);
        let depth = self.transformer_depth[levels - 1];
        self.transformer(&mut shapes, "middle_block.1", channels, depth);
        res_block(&mut shapes, "middle_block.2", channels, channels);
        let mut block = 0;
        for (level, mult) in self.channel_mult.iter().enumerate().rev() {
            for index in 0..=RES_BLOCKS {
                let name = format!("output_blocks.{block}");
                let output = mult * MODEL_CHANNELS;
                let input = channels + skips.pop().unwrap();
                res_block(&mut shapes, &format!("{name}.0"), input, output);
                channels = output;
                let mut last = 1;
                if self.attends[level] {
                    let depth = self.transformer_depth[level];
                    self.transformer(&mut shapes, &format!("{name}.1"), channels, depth);
                    last = 2;
                }
                if level > 0 && index == RES_BLOCKS {
                    conv(
                        &mut shapes,
                        &format!("{name}.{last}.conv"),
                        channels,
                        channels,
                        3,
                    );
                }
                block += 1;
            }
        }
        assert!(skips.is_empty());
        with_bias(&mut shapes, "out.0", &[channels]);
        conv(&mut shapes, "out.2", channels, 4, 3);
        shapes
    }

    fn transformer(&self, shapes: &mut Shapes, name: &str, channels: usize, depth: usize) {
        with_bias(shapes, &format!("{name}.norm"), &[channels]);
        for projection in ["proj_in", "proj_out"] {
            let name = format!("{name}.{projection}");
            if self.use_linear_in_transformer {
                with_bias(shapes, &name, &[channels, channels]);
            } else {
                conv(shapes, &name, channels, channels, 1);
            }
        }
        for layer in 0..depth {
            let name = format!("{name}.transformer_blocks.{layer}");
            for (attention, context) in [("attn1", channels), ("attn2", self.context_dim)] {
                for (projection, input) in
                    [("to_q", channels), ("to_k", context), ("to_v", context)]
                {
                    shapes.insert(
                        format!("{name}.{attention}.{projection}.weight"),
                        vec![channels, input],
                    );
                }
                let output = format!("{name}.{attention}.to_out.0");
                with_bias(shapes, &output, &[channels, channels]);
            }
            with_bias(
                shapes,
                &format!("{name}.ff.net.0.proj"),
                &[8 * channels, channels],
            );
            with_bias(
                shapes,
                &format!("{name}.ff.net.2"),
                &[channels, 4 * channels],
            );
            for norm in ["norm1", "norm2", "norm3"] {
                with_bias(shapes, &format!("{name}.{norm}"), &[channels]);
            }
        }
    }
}

fn res_block(shapes: &mut Shapes, name: &str, input: usize, output: usize) {
    with_bias(shapes, &format!("{name}.in_layers.0"), &[input]);
    conv(shapes, &format!("{name}.in_layers.2"), input, output, 3);
    with_bias(
        shapes,
        &format!("{name}.emb_layers.1"),
        &[output, 4 * MODEL_CHANNELS],
    );
    with_bias(shapes, &format!("{name}.out_layers.0"), &[output]);
    conv(shapes, &format!("{name}.out_layers.3"), output, output, 3);
    if input != output {
        conv(shapes, &format!("{name}.skip_connection"), input, output, 1);
    }
}

/// The autoencoder of all versions (`kl-f8`).
pub fn autoencoder() -> Shapes {
    let widths = [128, 256, 512, 512];
    let last = widths.len() - 1;
    let mut shapes = Shapes::new();
    conv(&mut shapes, "quant_conv", 8, 8, 1);
    conv(&mut shapes, "post_quant_conv", 4, 4, 1);
    conv(&mut shapes, "encoder.conv_in", 3, 128, 3);
    conv(&mut shapes, "encoder.conv_out", 512, 8, 3);
    with_bias(&mut shapes, "encoder.norm_out", &[512]);
    conv(&mut shapes, "decoder.conv_in", 4, 512, 3);
    conv(&mut shapes, "decoder.conv_out", 128, 3, 3);
    with_bias(&mut shapes, "decoder.norm_out", &[128]);
    let block = |shapes: &mut Shapes, name: &str, input, output| {
        with_bias(shapes, &format!("{name}.norm1"), &[input]);
        conv(shapes, &format!("{name}.conv1"), input, output, 3);
        with_bias(shapes, &format!("{name}.norm2"), &[output]);
        conv(shapes, &format!("{name}.conv2"), output, output, 3);
        if input != output {
            conv(shapes, &format!("{name}.nin_shortcut"), input, output, 1);
        }
    };
    for half in ["encoder", "decoder"] {
        for name in ["block_1", "block_2"] {
            block(&mut shapes, &format!("{half}.mid.{name}"), 512, 512);
        }
        with_bias(&mut shapes, &format!("{half}.mid.attn_1.norm"), &[512]);
        for name in ["q", "k", "v", "proj_out"] {
            conv(
                &mut shapes,
                &format!("{half}.mid.attn_1.{name}"),
                512,
                512,
                1,
            );
        }
    }
    let mut input = 128;
    for (level, output) in widths.into_iter().enumerate() {
        for index in 0..2 {
            block(
                &mut shapes,
                &format!("encoder.down.{level}.block.{index}"),
                input,
                output,
            );
            input = output;
        }
        if level < last {
            conv(
                &mut shapes,
                &format!("encoder.down.{level}.downsample.conv"),
                output,
                output,
                3,
            );
        }
    }
    for (level, output) in widths.into_iter().enumerate().rev() {
        for index in 0..3 {
            block(
                &mut shapes,
                &format!("decoder.up.{level}.block.{index}"),
                input,
                output,
            );
            input = output;
        }
        if level > 0 {
            conv(
                &mut shapes,
                &format!("decoder.up.{level}.upsample.conv"),
                output,
                output,
                3,
            );
        }
    }
    shapes
}

/// The text encoder of CLIP ViT-L/14.
pub fn clip() -> Shapes {
    let width = 768;
    let mut shapes = Shapes::new();
    let embeddings = "text_model.embeddings";
    shapes.insert(
        format!("{embeddings}.token_embedding.weight"),
        vec![49408, width],
    );
    shapes.insert(
        format!("{embeddings}.position_embedding.weight"),
        vec![77, width],
    );
    shapes.insert(format!("{embeddings}.position_ids"), vec![1, 77]);
    with_bias(&mut shapes, "text_model.final_layer_norm", &[width]);
    for layer in 0..12 {
        let layer = format!("text_model.encoder.layers.{layer}");
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            with_bias(
                &mut shapes,
                &format!("{layer}.self_attn.{projection}"),
                &[width, width],
            );
        }
        with_bias(&mut shapes, &format!("{layer}.layer_norm1"), &[width]);
        with_bias(&mut shapes, &format!("{layer}.layer_norm2"), &[width]);
        with_bias(
            &mut shapes,
            &format!("{layer}.mlp.fc1"),
            &[4 * width, width],
        );
        with_bias(
            &mut shapes,
            &format!("{layer}.mlp.fc2"),
            &[width, 4 * width],
        );
    }
    shapes
}

/// A text encoder of OpenCLIP: ViT-H/14 has 1024 features and 24 layers, ViT-bigG/14 has 1280 and 32.
pub fn open_clip(width: usize, layers: usize) -> Shapes {
    let mut shapes = Shapes::new();
    shapes.insert("token_embedding.weight".to_owned(), vec![49408, width]);
    shapes.insert("positional_embedding".to_owned(), vec![77, width]);
    shapes.insert("text_projection".to_owned(), vec![width, width]);
    shapes.insert("logit_scale".to_owned(), vec![]);
    with_bias(&mut shapes, "ln_final", &[width]);
    for layer in 0..layers {
        let layer = format!("transformer.resblocks.{layer}");
        shapes.insert(
            format!("{layer}.attn.in_proj_weight"),
            vec![3 * width, width],
        );
        shapes.insert(format!("{layer}.attn.in_proj_bias"), vec![3 * width]);
        with_bias(
            &mut shapes,
            &format!("{layer}.attn.out_proj"),
            &[width, width],
        );
        with_bias(&mut shapes, &format!("{layer}.ln_1"), &[width]);
        with_bias(&mut shapes, &format!("{layer}.ln_2"), &[width]);
        with_bias(
            &mut shapes,
            &format!("{layer}.mlp.c_fc"),
            &[4 * width, width],
        );
        with_bias(
            &mut shapes,
            &format!("{layer}.mlp.c_proj"),
            &[width, 4 * width],
        );
    }
    shapes
}

/// Writes a file with these tensors, of one byte for each element; the elements are a hole in the file, so it takes no space.
pub fn write_hollow(path: &Path, parts: &[(&str, Shapes)], metadata: &[(&str, &str)]) {
    let mut header = Map::new();
    let metadata: Map<_, _> = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    header.insert("__metadata__".to_owned(), metadata.into());
    let mut end = 0;
    for (prefix, shapes) in parts {
        for (name, shape) in shapes {
            let start = end;
            end += shape.iter().product::<usize>();
            let entry = json!({"dtype": "F8_E4M3", "shape": shape, "data_offsets": [start, end]});
            header.insert(format!("{prefix}{name}"), entry);
        }
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

//! From diffusers' layout to the original one: what the published conversion script of diffusers
//! (`convert_diffusers_to_original_stable_diffusion.py`) does, as arithmetic on block numbers.

use std::path::Path;

use safetensors::tensor::Dtype;

use super::files::{Plain, Tensors, json, read};

/// A checkpoint folder as one file of the original layout, without what training leaves in one.
pub fn to_original(checkpoint: &Path) -> Tensors {
    let mut file = Tensors::new();
    let part = |part: &str, stem: &str| read(&checkpoint.join(part).join(stem));
    let unet_config = json(&checkpoint.join("unet/config.json"));
    let levels = unet_config["block_out_channels"].as_array().unwrap().len();
    let layers = unet_config["layers_per_block"].as_u64().unwrap() as usize;
    let unet = part("unet", "diffusion_pytorch_model.safetensors");
    let attends = |block: &str| unet.contains_key(&format!("{block}.attentions.0.norm.weight"));
    for (name, plain) in &unet {
        let name = unet_name(name, levels, layers, &attends);
        file.insert(format!("model.diffusion_model.{name}"), plain.clone());
    }
    let vae_config = json(&checkpoint.join("vae/config.json"));
    let levels = vae_config["block_out_channels"].as_array().unwrap().len();
    for (name, mut plain) in part("vae", "diffusion_pytorch_model.safetensors") {
        let linear = name.contains("attentions") && plain.shape.len() == 2;
        if linear {
            plain.shape.extend([1, 1]);
        }
        file.insert(
            format!("first_stage_model.{}", vae_name(&name, levels)),
            plain,
        );
    }
    let text = part("text_encoder", "model.safetensors");
    if checkpoint.join("text_encoder_2").is_dir() {
        add_clip(&mut file, "conditioner.embedders.0.transformer.", text);
        let second = part("text_encoder_2", "model.safetensors");
        add_open_clip(&mut file, "conditioner.embedders.1.model.", second);
    } else if json(&checkpoint.join("text_encoder/config.json"))["hidden_act"] == "gelu" {
        add_open_clip(&mut file, "cond_stage_model.model.", text);
    } else {
        add_clip(&mut file, "cond_stage_model.transformer.", text);
    }
    file
}

/// Replaces the first `from` of `pairs` that `name` contains.
fn replace(name: &str, pairs: &[(&str, &str)]) -> String {
    match pairs.iter().find(|(from, _)| name.contains(from)) {
        Some((from, to)) => name.replacen(from, to, 1),
        None => name.to_owned(),
    }
}

/// `blocks.LEVEL.list.INDEX.rest` as its numbers and the rest.
fn numbers(name: &str) -> (usize, String, usize, String) {
    let fields: Vec<_> = name.splitn(5, '.').collect();
    let number = |field: &str| field.parse().unwrap();
    (
        number(fields[1]),
        fields[2].to_owned(),
        number(fields[3]),
        fields[4].to_owned(),
    )
}

fn unet_name(name: &str, levels: usize, layers: usize, attends: &dyn Fn(&str) -> bool) -> String {
    let resnet = |name: &str| {
        let pairs = [
            ("norm1", "in_layers.0"),
            ("conv1", "in_layers.2"),
            ("time_emb_proj", "emb_layers.1"),
            ("norm2", "out_layers.0"),
            ("conv2", "out_layers.3"),
            ("conv_shortcut", "skip_connection"),
        ];
        replace(name, &pairs)
    };
    if name.starts_with("down_blocks") {
        let (level, list, index, rest) = numbers(name);
        let first = level * (layers + 1) + 1;
        return match list.as_str() {
            "resnets" => format!("input_blocks.{}.0.{}", first + index, resnet(&rest)),
            "attentions" => format!("input_blocks.{}.1.{rest}", first + index),
            _ => format!(
                "input_blocks.{}.0.{}",
                first + layers,
                rest.replace("conv", "op")
            ),
        };
    }
    if name.starts_with("up_blocks") {
        let (level, list, index, rest) = numbers(name);
        assert!(level < levels);
        let first = level * (layers + 1);
        let last = if attends(&format!("up_blocks.{level}")) {
            2
        } else {
            1
        };
        return match list.as_str() {
            "resnets" => format!("output_blocks.{}.0.{}", first + index, resnet(&rest)),
            "attentions" => format!("output_blocks.{}.1.{rest}", first + index),
            _ => format!("output_blocks.{}.{last}.{rest}", first + layers),
        };
    }
    if let Some(rest) = name.strip_prefix("mid_block.resnets.") {
        let (index, rest) = rest.split_once('.').unwrap();
        let index: usize = index.parse().unwrap();
        return format!("middle_block.{}.{}", 2 * index, resnet(rest));
    }
    let pairs = [
        ("mid_block.attentions.0", "middle_block.1"),
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_in", "input_blocks.0.0"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
    ];
    replace(name, &pairs)
}

fn vae_name(name: &str, levels: usize) -> String {
    let Some((half, inner)) = name.split_once('.') else {
        return name.to_owned();
    };
    let resnet = |rest: &str| rest.replace("conv_shortcut", "nin_shortcut");
    let inner = if inner.starts_with("down_blocks") {
        let (level, list, index, rest) = numbers(inner);
        match list.as_str() {
            "resnets" => format!("down.{level}.block.{index}.{}", resnet(&rest)),
            _ => format!("down.{level}.downsample.{rest}"),
        }
    } else if inner.starts_with("up_blocks") {
        let (level, list, index, rest) = numbers(inner);
        let level = levels - 1 - level;
        match list.as_str() {
            "resnets" => format!("up.{level}.block.{index}.{}", resnet(&rest)),
            _ => format!("up.{level}.upsample.{rest}"),
        }
    } else {
        let attention = "mid_block.attentions.0";
        let pairs = [
            (format!("{attention}.group_norm"), "mid.attn_1.norm"),
            (format!("{attention}.to_q"), "mid.attn_1.q"),
            (format!("{attention}.to_k"), "mid.attn_1.k"),
            (format!("{attention}.to_v"), "mid.attn_1.v"),
            (format!("{attention}.to_out.0"), "mid.attn_1.proj_out"),
            (format!("{attention}.query"), "mid.attn_1.q"),
            (format!("{attention}.key"), "mid.attn_1.k"),
            (format!("{attention}.value"), "mid.attn_1.v"),
            (format!("{attention}.proj_attn"), "mid.attn_1.proj_out"),
            ("mid_block.resnets.0".to_owned(), "mid.block_1"),
            ("mid_block.resnets.1".to_owned(), "mid.block_2"),
            ("conv_norm_out".to_owned(), "norm_out"),
        ];
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(from, to)| (from.as_str(), *to))
            .collect();
        replace(inner, &pairs)
    };
    format!("{half}.{inner}")
}

fn add_clip(file: &mut Tensors, prefix: &str, text: Tensors) {
    for (name, plain) in text {
        file.insert(format!("{prefix}{name}"), plain);
    }
}

fn add_open_clip(file: &mut Tensors, prefix: &str, text: Tensors) {
    for (name, plain) in &text {
        if name.contains("self_attn.q_proj") {
            let part = |projection| text[&name.replace("q_proj", projection)].clone();
            let parts = ["q_proj", "k_proj", "v_proj"].map(part);
            let mut shape = plain.shape.clone();
            shape[0] *= 3;
            let joined = Plain {
                dtype: plain.dtype,
                shape,
                bytes: parts.iter().flat_map(|part| part.bytes.clone()).collect(),
            };
            let name = name.replace("self_attn.q_proj.", "attn.in_proj_");
            file.insert(format!("{prefix}{}", open_clip_name(&name)), joined);
        } else if name == "text_projection.weight" {
            file.insert(format!("{prefix}text_projection"), transposed(plain));
        } else if !name.contains("_proj.") || name.contains("out_proj") {
            file.insert(format!("{prefix}{}", open_clip_name(name)), plain.clone());
        }
    }
}

fn open_clip_name(name: &str) -> String {
    let name = replace(
        name,
        &[
            ("text_model.encoder.layers", "transformer.resblocks"),
            ("text_model.final_layer_norm", "ln_final"),
            ("text_model.embeddings.token_embedding", "token_embedding"),
            (
                "text_model.embeddings.position_embedding.weight",
                "positional_embedding",
            ),
        ],
    );
    replace(
        &name,
        &[
            ("layer_norm1", "ln_1"),
            ("layer_norm2", "ln_2"),
            ("self_attn.", "attn."),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
        ],
    )
}

fn transposed(plain: &Plain) -> Plain {
    let [rows, columns] = plain.shape[..] else {
        panic!("{:?}", plain.shape);
    };
    let size = plain.bytes.len() / (rows * columns);
    assert!(matches!(
        (plain.dtype, size),
        (Dtype::F16, 2) | (Dtype::F32, 4)
    ));
    let mut bytes = Vec::with_capacity(plain.bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            let start = (row * columns + column) * size;
            bytes.extend(&plain.bytes[start..start + size]);
        }
    }
    Plain {
        dtype: plain.dtype,
        shape: vec![columns, rows],
        bytes,
    }
}

/// Adds what training leaves in a file: none of it changes the model.
pub fn add_leftovers(file: &mut Tensors) {
    let numbers = |dtype, shape: &[usize], size: usize| Plain {
        dtype,
        shape: shape.to_vec(),
        bytes: vec![7; shape.iter().product::<usize>() * size],
    };
    let floats = |shape: &[usize]| numbers(Dtype::F32, shape, 4);
    for name in [
        "alphas_cumprod",
        "betas",
        "posterior_mean_coef1",
        "sqrt_recipm1_alphas_cumprod",
        "model_ema.diffusion_modelinput_blocks00weight",
        "first_stage_model.loss.discriminator.main.0.weight",
        "denoiser.sigmas",
    ] {
        file.insert(name.to_owned(), floats(&[1000]));
    }
    for name in ["model_ema.decay", "first_stage_model.loss.logvar"] {
        file.insert(name.to_owned(), floats(&[]));
    }
    let ids = "embeddings.position_ids";
    for (prefix, name) in [
        ("cond_stage_model.transformer.", format!("text_model.{ids}")),
        (
            "conditioner.embedders.0.transformer.",
            format!("text_model.{ids}"),
        ),
        ("cond_stage_model.model.", "logit_scale".to_owned()),
        ("conditioner.embedders.1.model.", "logit_scale".to_owned()),
    ] {
        if file.keys().any(|name| name.starts_with(prefix)) {
            file.insert(format!("{prefix}{name}"), numbers(Dtype::I64, &[1, 77], 8));
        }
    }
    // Stable Diffusion 2 does not read OpenCLIP's last layer and projection, which the file has all the same.
    let prefix = "cond_stage_model.model.";
    let layer = |index: usize| format!("{prefix}transformer.resblocks.{index}.");
    let layers = (0..).take_while(|index| file.keys().any(|name| name.starts_with(&layer(*index))));
    if let Some(last) = layers.last() {
        let names: Vec<_> = file
            .keys()
            .filter(|name| name.starts_with(&layer(last)))
            .cloned()
            .collect();
        for name in names {
            let mut plain = file[&name].clone();
            plain.bytes.fill(1);
            file.insert(name.replace(&layer(last), &layer(last + 1)), plain);
        }
        file.insert(format!("{prefix}text_projection"), floats(&[40, 40]));
    }
}

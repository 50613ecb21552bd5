//! Configurations that are inferred from the shapes of the published checkpoints.

use std::path::Path;

use asyncdiff_core::unet::{UNet2d, UNet2dConfig};
use asyncdiff_models::clip::{Activation, ClipTextConfig};
use asyncdiff_models::vae::VaeConfig;
use asyncdiff_models::{Checkpoint, StableDiffusion};
use serde_json::{Value, json};

use super::files;
use super::published::{Shapes, UNet, autoencoder, clip, open_clip, write_hollow};

const VERSION_1: UNet = UNet {
    in_channels: 4,
    channel_mult: &[1, 2, 4, 4],
    attends: &[true, true, true, false],
    transformer_depth: &[1, 1, 1, 1],
    context_dim: 768,
    use_linear_in_transformer: false,
    adm_in_channels: None,
};

const VERSION_2: UNet = UNet {
    context_dim: 1024,
    use_linear_in_transformer: true,
    ..VERSION_1
};

const XL: UNet = UNet {
    channel_mult: &[1, 2, 4],
    attends: &[false, true, true],
    transformer_depth: &[1, 2, 10],
    context_dim: 2048,
    use_linear_in_transformer: true,
    adm_in_channels: Some(2816),
    ..VERSION_1
};

struct Published {
    _folder: tempfile::TempDir,
    checkpoint: Checkpoint,
}

fn parts(unet: &UNet) -> Vec<(&'static str, Shapes)> {
    let mut parts = vec![
        ("model.diffusion_model.", unet.shapes()),
        ("first_stage_model.", autoencoder()),
    ];
    match unet.context_dim {
        768 => parts.push(("cond_stage_model.transformer.", clip())),
        1024 => parts.push(("cond_stage_model.model.", open_clip(1024, 24))),
        _ => parts.extend([
            ("conditioner.embedders.0.transformer.", clip()),
            ("conditioner.embedders.1.model.", open_clip(1280, 32)),
        ]),
    }
    parts
}

fn open(parts: &[(&str, Shapes)], metadata: &[(&str, &str)]) -> Published {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_hollow(&path, parts, metadata);
    Published {
        checkpoint: Checkpoint::single_file(&path, None).unwrap(),
        _folder: folder,
    }
}

/// The denoiser is that of a published `unet/config.json`, but for the number of input channels.
fn same_unet(checkpoint: &Checkpoint, published: &str, in_channels: usize) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fixtures/configs")
        .join(published);
    let mut expected: UNet2dConfig = serde_json::from_value(files::json(&file)).unwrap();
    expected.in_channels = in_channels;
    let found: UNet2dConfig = checkpoint.json("unet/config.json").unwrap();
    assert_eq!(found.cross_attention_dim, expected.cross_attention_dim);
    assert_eq!(found.use_linear_projection, expected.use_linear_projection);
    assert_eq!(found.added(), expected.added());
    assert_eq!(found.norm_num_groups, expected.norm_num_groups);
    assert_eq!(found.norm_eps, expected.norm_eps);
    let blocks = |config| UNet2d::new(config).unwrap().blocks;
    assert_eq!(blocks(&found), blocks(&expected), "{published}");
}

/// How many weights a part has.
fn parameters(checkpoint: &Checkpoint, part: &str) -> usize {
    let files = checkpoint.weights(part, "").unwrap();
    let weights = files.read().unwrap();
    let sizes = weights
        .shapes()
        .map(|(_, shape)| shape.iter().product::<usize>());
    sizes.sum()
}

fn text(checkpoint: &Checkpoint, part: &str) -> ClipTextConfig {
    checkpoint.json(&format!("{part}/config.json")).unwrap()
}

const CLIP_L: ClipTextConfig = ClipTextConfig {
    vocab_size: 49408,
    hidden_size: 768,
    intermediate_size: 3072,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    max_position_embeddings: 77,
    hidden_act: Activation::QuickGelu,
    layer_norm_eps: 1e-5,
    projection_dim: 768,
    eos_token_id: 2,
};

fn scheduler(checkpoint: &Checkpoint) -> Value {
    checkpoint.json("scheduler/scheduler_config.json").unwrap()
}

fn class(checkpoint: &Checkpoint) -> Value {
    checkpoint.json::<Value>("model_index.json").unwrap()["_class_name"].clone()
}

/// The numbers of weights are those that diffusers' and transformers' own models have with the published configurations.
#[test]
fn stable_diffusion_1() {
    let file = open(&parts(&VERSION_1), &[]);
    let checkpoint = &file.checkpoint;
    same_unet(checkpoint, "sd15_unet.json", 4);
    assert_eq!(parameters(checkpoint, "unet"), 859_520_964);
    assert_eq!(parameters(checkpoint, "vae"), 83_653_863);
    assert_eq!(parameters(checkpoint, "text_encoder"), 123_060_480);
    assert_eq!(text(checkpoint, "text_encoder"), CLIP_L);
    let vae: VaeConfig = checkpoint.json("vae/config.json").unwrap();
    assert_eq!(
        vae,
        VaeConfig {
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            // The size of a tile in tiled decoding.
            sample_size: Some(512),
            ..VaeConfig::default()
        }
    );
    assert_eq!(scheduler(checkpoint)["_class_name"], "PNDMScheduler");
    assert_eq!(scheduler(checkpoint)["prediction_type"], "epsilon");
    assert_eq!(checkpoint.assumption(), None);
    // Parts, tokenizer and scheduler fit each other.
    let pipeline = StableDiffusion::open(checkpoint.clone()).unwrap();
    let request = pipeline.request("a photo of an astronaut");
    assert_eq!((request.shape.width, request.shape.height), (512, 512));
    let tokenizer = &pipeline
        .text_encoders()
        .unwrap()
        .iter()
        .next()
        .unwrap()
        .tokenizer;
    assert_eq!(tokenizer.ids("a cat"), [49406, 320, 2368, 49407]);
    assert_eq!(tokenizer.encode("a cat").ids[4..], [49407; 73]);
}

#[test]
fn stable_diffusion_2() {
    let file = open(&parts(&VERSION_2), &[]);
    let checkpoint = &file.checkpoint;
    same_unet(checkpoint, "sd21_unet.json", 4);
    assert_eq!(parameters(checkpoint, "unet"), 865_910_724);
    assert_eq!(parameters(checkpoint, "text_encoder"), 340_387_840);
    let expected = ClipTextConfig {
        hidden_size: 1024,
        intermediate_size: 4096,
        num_hidden_layers: 23,
        num_attention_heads: 16,
        hidden_act: Activation::Gelu,
        projection_dim: 512,
        ..CLIP_L
    };
    assert_eq!(text(checkpoint, "text_encoder"), expected);
    assert_eq!(scheduler(checkpoint)["_class_name"], "DDIMScheduler");
    assert_eq!(scheduler(checkpoint)["prediction_type"], "v_prediction");
    assert!(checkpoint.assumption().unwrap().contains("v_prediction"));
    let pipeline = StableDiffusion::open(checkpoint.clone()).unwrap();
    assert_eq!(pipeline.shape().width, 768);
    let tokenizer = &pipeline
        .text_encoders()
        .unwrap()
        .iter()
        .next()
        .unwrap()
        .tokenizer;
    assert_eq!(tokenizer.encode("a cat").ids[4..], [0; 73]);
}

#[test]
fn stable_diffusion_xl() {
    let file = open(&parts(&XL), &[]);
    let checkpoint = &file.checkpoint;
    same_unet(checkpoint, "sdxl_unet.json", 4);
    assert_eq!(parameters(checkpoint, "unet"), 2_567_463_684);
    assert_eq!(parameters(checkpoint, "text_encoder"), 123_060_480);
    assert_eq!(parameters(checkpoint, "text_encoder_2"), 694_659_840);
    assert_eq!(text(checkpoint, "text_encoder"), CLIP_L);
    let second = ClipTextConfig {
        hidden_size: 1280,
        intermediate_size: 5120,
        num_hidden_layers: 32,
        num_attention_heads: 20,
        hidden_act: Activation::Gelu,
        projection_dim: 1280,
        ..CLIP_L
    };
    assert_eq!(text(checkpoint, "text_encoder_2"), second);
    let vae: VaeConfig = checkpoint.json("vae/config.json").unwrap();
    assert_eq!(vae.scaling_factor, 0.13025);
    assert_eq!(vae.sample_size, Some(1024));
    assert_eq!(
        scheduler(checkpoint)["_class_name"],
        "EulerDiscreteScheduler"
    );
    assert_eq!(scheduler(checkpoint)["prediction_type"], "epsilon");
    let pipeline = StableDiffusion::open(checkpoint.clone()).unwrap();
    assert_eq!(pipeline.shape().width, 1024);
    let pads: Vec<_> = pipeline
        .text_encoders()
        .unwrap()
        .iter()
        .map(|encoder| encoder.tokenizer.encode("").ids[76])
        .collect();
    assert_eq!(pads, [49407, 0]);
}

#[test]
fn inpainting_has_nine_input_channels() {
    for (unet, published, expected) in [
        (
            VERSION_1,
            "sd15_unet.json",
            "StableDiffusionInpaintPipeline",
        ),
        (
            VERSION_2,
            "sd21_unet.json",
            "StableDiffusionInpaintPipeline",
        ),
        (XL, "sdxl_unet.json", "StableDiffusionXLInpaintPipeline"),
    ] {
        let unet = UNet {
            in_channels: 9,
            ..unet
        };
        let file = open(&parts(&unet), &[]);
        same_unet(&file.checkpoint, published, 9);
        assert_eq!(class(&file.checkpoint), expected);
        assert_eq!(scheduler(&file.checkpoint)["prediction_type"], "epsilon");
        assert_eq!(file.checkpoint.assumption(), None);
    }
}

#[test]
fn metadata_and_marker_tensors_say_what_is_predicted() {
    let prediction = |unet: &UNet, markers: &[&str], metadata: &[(&str, &str)]| {
        let mut parts = parts(unet);
        for marker in markers {
            parts.push(("", [((*marker).to_owned(), vec![])].into()));
        }
        let file = open(&parts, metadata);
        let config = scheduler(&file.checkpoint);
        let sample_size =
            file.checkpoint.json::<Value>("unet/config.json").unwrap()["sample_size"].clone();
        let assumed = file.checkpoint.assumption().is_some();
        (
            config["prediction_type"].clone(),
            config,
            sample_size,
            assumed,
        )
    };
    let epsilon = [("modelspec.prediction_type", "epsilon")];
    let (kind, _, size, assumed) = prediction(&VERSION_2, &[], &epsilon);
    assert_eq!((kind, size, assumed), (json!("epsilon"), json!(64), false));
    let velocity = [
        ("modelspec.prediction_type", "v"),
        ("modelspec.resolution", "1536x1536"),
    ];
    let (kind, config, size, assumed) = prediction(&XL, &[], &velocity);
    assert_eq!(
        (kind, size, assumed),
        (json!("v_prediction"), json!(192), false)
    );
    assert_eq!(config["rescale_betas_zero_snr"], Value::Null);
    let (kind, config, ..) = prediction(&XL, &["v_pred"], &[]);
    assert_eq!(kind, "v_prediction");
    assert_eq!(config["timestep_spacing"], "leading");
    let (kind, config, ..) = prediction(&XL, &["v_pred", "ztsnr"], &[]);
    assert_eq!(kind, "v_prediction");
    assert_eq!(config["rescale_betas_zero_snr"], true);
    assert_eq!(config["timestep_spacing"], "trailing");
}

//! Motion modules in a picture's UNet.

use asyncdiff_core::unet::{BlockKind, MotionConfig, MotionError, PerBlock, UNet2d};
use asyncdiff_core::{Input, SegmentGraph};

use super::common::animatediff;

fn picture() -> UNet2d {
    UNet2d::new(&serde_json::from_str(include_str!("sd15_unet.json")).unwrap()).unwrap()
}

/// Name of the block that an input of `block` comes from.
fn read(graph: &SegmentGraph, block: &str) -> Vec<String> {
    let id = graph.find(block).unwrap();
    let inputs = graph.block(id).inputs.iter();
    inputs
        .map(|input| match input {
            Input::Latents => "latents".to_owned(),
            Input::Block(from) => graph.block(*from).name.clone(),
        })
        .collect()
}

#[test]
fn motion_modules_come_last_in_each_layer_and_before_the_middles_second_resnet() {
    let graph = animatediff();
    // As `UNetMotionModel` runs them.
    for (block, inputs) in [
        (
            "down_blocks.0.motion_modules.0",
            ["down_blocks.0.attentions.0", ""],
        ),
        (
            "down_blocks.0.resnets.1",
            ["down_blocks.0.motion_modules.0", ""],
        ),
        (
            "down_blocks.3.motion_modules.1",
            ["down_blocks.3.resnets.1", ""],
        ),
        ("mid_block.motion_modules.0", ["mid_block.attentions.0", ""]),
        ("mid_block.resnets.1", ["mid_block.motion_modules.0", ""]),
        (
            "up_blocks.0.resnets.0",
            ["mid_block.resnets.1", "down_blocks.3.motion_modules.1"],
        ),
        (
            "up_blocks.3.resnets.1",
            [
                "up_blocks.3.motion_modules.0",
                "down_blocks.0.motion_modules.0",
            ],
        ),
        (
            "up_blocks.3.resnets.2",
            ["up_blocks.3.motion_modules.1", "conv_in"],
        ),
        ("conv_out", ["up_blocks.3.motion_modules.2", ""]),
    ] {
        let inputs: Vec<_> = inputs.into_iter().filter(|name| !name.is_empty()).collect();
        assert_eq!(read(&graph, block), inputs, "inputs of {block}");
    }
}

#[test]
fn without_its_motion_modules_it_is_the_pictures_unet() {
    let picture = picture();
    let video = picture.with_motion(&MotionConfig::default()).unwrap();
    let own: Vec<_> = video
        .blocks
        .iter()
        .filter(|block| !matches!(block.kind, BlockKind::Motion { .. }))
        .map(|block| (&block.name, block.kind, block.level))
        .collect();
    let blocks = picture.blocks.iter();
    assert_eq!(
        own,
        blocks
            .map(|block| (&block.name, block.kind, block.level))
            .collect::<Vec<_>>()
    );
    // Two for each down block, three for each up block, and one between.
    assert_eq!(video.blocks.len(), picture.blocks.len() + 4 * 2 + 4 * 3 + 1);
}

#[test]
fn early_adapters_have_none_in_the_middle() {
    let config: MotionConfig =
        serde_json::from_str(r#"{"use_motion_mid_block": false, "motion_max_seq_length": 24}"#)
            .unwrap();
    let video = picture().with_motion(&config).unwrap();
    let graph = video.video_graph(2, 16, [16, 64, 64], 77);
    assert!(graph.find("mid_block.motion_modules.0").is_none());
    assert_eq!(
        read(&graph, "mid_block.resnets.1"),
        ["mid_block.attentions.0"]
    );
    assert!(video.blocks.iter().all(|block| match block.kind {
        BlockKind::Motion { positions, .. } => positions == 24,
        _ => true,
    }));
}

#[test]
fn adapters_that_do_not_fit_say_why() {
    let with = |change: fn(&mut MotionConfig)| {
        let mut config = MotionConfig::default();
        change(&mut config);
        picture().with_motion(&config).unwrap_err()
    };
    assert_eq!(
        with(|config| config.block_out_channels = vec![320, 640, 1280]),
        MotionError::Mismatch {
            key: "block_out_channels",
            found: vec![320, 640, 1280],
            unet_key: "block_out_channels",
            expected: vec![320, 640, 1280, 1280],
        }
    );
    let error = with(|config| config.motion_layers_per_block = PerBlock::One(3)).to_string();
    assert!(
        error.contains("motion_layers_per_block is [3, 3, 3, 3]")
            && error.contains("layers_per_block is [2, 2, 2, 2]"),
        "{error}"
    );
    for (change, key) in [
        (
            (|config| config.conv_in_channels = Some(9)) as fn(&mut MotionConfig),
            "conv_in_channels is 9",
        ),
        (
            |config| config.motion_max_seq_length = 0,
            "motion_max_seq_length is 0",
        ),
        (
            |config| config.motion_num_attention_heads = PerBlock::One(7),
            "motion_num_attention_heads is 7",
        ),
        (
            |config| config.motion_num_attention_heads = PerBlock::Each(vec![8, 8]),
            "motion_num_attention_heads is [8, 8]",
        ),
        (
            |config| config.motion_transformer_layers_per_block = PerBlock::One(65),
            "motion_transformer_layers_per_block is 65",
        ),
        (
            |config| config.motion_mid_block_layers_per_block = 2,
            "motion_mid_block_layers_per_block is 2",
        ),
    ] {
        let error = with(change).to_string();
        assert!(error.contains(key), "{error} should name {key}");
    }
}

//! The segment graph of the real Stable Diffusion UNets, against figures from elsewhere: the number of weights and of
//! multiply-accumulate operations, and the published partitions' balance (`docs/method.md`).

use std::collections::BTreeMap;

use asyncdiff_core::unet::{SpatioTemporalConfig, UNet2d, UNet2dConfig};
use asyncdiff_core::{BlockId, Machine, Partition, PartitionError, SegmentGraph};
use serde_json::{Value, json};

use super::common::{animatediff, graph as sd15, sd21, sdxl, svd};

fn weights(graph: &SegmentGraph) -> u64 {
    let all: Vec<_> = graph.iter().map(|(id, _)| id).collect();
    graph.parameters(&all)
}

/// Shares of the segments in percent, rounded.
fn balance(graph: &SegmentGraph, partition: &Partition) -> Vec<u64> {
    let mut macs = vec![0; partition.segments()];
    for (id, block) in graph.iter() {
        macs[partition.owner(id)] += block.macs;
    }
    macs.iter()
        .map(|macs| (100 * macs + graph.macs() / 2) / graph.macs())
        .collect()
}

#[test]
fn sizes_are_those_of_the_real_models() {
    for (graph, parameters, giga_macs) in [
        (sd15(), 859_520_964, 803.0),
        (sd21(), 865_910_724, 2149.0),
        (sdxl(), 2_567_463_684, 6761.0),
        // The positional encodings are no weights in diffusers, but they are in the adapter's file.
        (animatediff(), 1_312_730_244 + 604_160, 17749.0),
        (svd(), 1_524_623_082, 79948.0),
    ] {
        // The exact numbers of weights of the released checkpoints.
        assert_eq!(weights(&graph), parameters);
        let found = graph.macs() as f64 / 1e9;
        assert!((found - giga_macs).abs() <= 0.01 * giga_macs, "{found}");
    }
}

#[test]
fn every_value_is_read_and_shapes_agree() {
    for graph in [sd15(), sd21(), sdxl(), animatediff(), svd()] {
        let mut read = vec![false; graph.blocks.len()];
        for (id, block) in graph.iter() {
            for input in &block.inputs {
                if let asyncdiff_core::Input::Block(from) = input {
                    assert!(from.0 < id.0, "{} reads a later block", block.name);
                    read[from.0] = true;
                }
            }
        }
        read[graph.last().0] = true;
        assert!(read.iter().all(|read| *read));
        assert_eq!(
            graph.blocks[0].output,
            [
                2 * graph.latents[0],
                320,
                graph.latents[2],
                graph.latents[3]
            ]
        );
    }
}

#[test]
fn published_partitions_fit_by_structure_and_have_the_published_balance() {
    let of = |graph: &SegmentGraph| -> Vec<_> {
        Partition::all_published(graph)
            .iter()
            .map(|table| balance(graph, table))
            .collect()
    };
    let published = |graph: &SegmentGraph, expected: &[&[u64]]| {
        for (found, expected) in of(graph).iter().zip(expected) {
            // The reference rounds too.
            let near = found
                .iter()
                .zip(*expected)
                .all(|(found, expected)| found.abs_diff(*expected) <= 1);
            assert!(
                near && found.len() == expected.len(),
                "{found:?} is not {expected:?}"
            );
        }
        assert_eq!(of(graph).len(), expected.len());
    };
    published(&sd15(), &[&[44, 56], &[31, 38, 31], &[22, 22, 31, 25]]);
    published(&sd21(), &[&[47, 53], &[33, 38, 29], &[25, 27, 22, 26]]);
    published(&sdxl(), &[&[56, 44], &[35, 34, 31], &[29, 23, 24, 23]]);
    published(&animatediff(), &[&[57, 43], &[33, 44, 23]]);
    published(&svd(), &[&[55, 45], &[34, 40, 26], &[20, 35, 28, 17]]);
}

#[test]
fn balanced_partitions_are_contiguous_and_at_least_as_good_as_published() {
    let graph = sd15();
    for segments in 1..=graph.blocks.len() {
        let partition = Partition::contiguous(&graph, &Machine::ideal(&graph), segments).unwrap();
        assert_eq!(partition.segments(), segments);
        assert!(partition.segment_of().is_sorted());
        assert!((0..segments).all(|segment| partition.segment_of().contains(&segment)));
        if let Ok(published) = Partition::published(&graph, segments) {
            assert!(
                balance(&graph, &partition).iter().max()
                    <= balance(&graph, &published).iter().max()
            );
        }
    }
}

#[test]
fn wrong_partitions_are_errors() {
    let graph = sd15();
    assert_eq!(
        Partition::published(&graph, 0),
        Err(PartitionError::NoSegments)
    );
    assert_eq!(
        Partition::published(&graph, 5),
        Err(PartitionError::NoTable {
            segments: 5,
            available: vec![2, 3, 4]
        })
    );
    let blocks = graph.blocks.len();
    let segments = blocks + 1;
    assert_eq!(
        Partition::published(&graph, segments),
        Err(PartitionError::TooMany { segments, blocks })
    );
    assert_eq!(
        Partition::contiguous(&graph, &Machine::ideal(&graph), segments),
        Err(PartitionError::TooMany { segments, blocks })
    );

    let map = |entries: &[(&str, usize)]| {
        let map: BTreeMap<_, _> = entries
            .iter()
            .map(|(name, segment)| ((*name).to_owned(), *segment))
            .collect();
        Partition::from_map(&graph, &map)
    };
    assert!(
        matches!(map(&[("conv_inn", 0)]), Err(PartitionError::UnknownBlock(name)) if name == "conv_inn")
    );
    assert!(
        matches!(map(&[("conv_in", 0)]), Err(PartitionError::Unassigned(name)) if name == "down_blocks.0.resnets.0")
    );
    let whole = [
        ("conv_in", 0),
        ("down_blocks", 0),
        ("mid_block", 2),
        ("up_blocks", 2),
        ("conv_out", 2),
    ];
    assert_eq!(
        map(&whole),
        Err(PartitionError::EmptySegment {
            segment: 1,
            last: 2
        })
    );
}

#[test]
fn in_a_map_the_longest_entry_decides() {
    let graph = sd15();
    let entries = [
        ("conv_in", 1),
        ("down_blocks", 0),
        ("down_blocks.0", 1),
        ("mid_block", 0),
        ("up_blocks", 1),
        ("conv_out", 1),
    ];
    let map = entries
        .into_iter()
        .map(|(name, segment)| (name.to_owned(), segment))
        .collect();
    let partition = Partition::from_map(&graph, &map).unwrap();
    let owner = |name: &str| partition.owner(graph.find(name).unwrap());
    assert_eq!(owner("down_blocks.0.resnets.1"), 1);
    assert_eq!(owner("down_blocks.1.resnets.1"), 0);
    assert_eq!(partition.owner(BlockId(0)), 1);
}

#[test]
fn spatio_temporal_configurations_are_checked() {
    let svd: Value = serde_json::from_str(include_str!("svd_unet.json")).unwrap();
    for (key, value, says) in [
        (
            "down_block_types",
            json!(vec!["DownBlock2D"; 4]),
            "DownBlockSpatioTemporal",
        ),
        (
            "up_block_types",
            json!(vec!["UpBlockSpatioTemporal"; 3]),
            "3 entries",
        ),
        ("num_attention_heads", json!([5, 10]), "2 entries"),
        ("num_attention_heads", json!(7), "a divisor of every entry"),
        (
            "block_out_channels",
            json!([320, 640, 1280, 1281]),
            "a divisor of every entry",
        ),
        ("addition_time_embed_dim", json!(0), "1 to 65536"),
        ("num_frames", json!(0), "1 to 65536"),
    ] {
        let mut config = svd.clone();
        config[key] = value;
        let config: SpatioTemporalConfig = serde_json::from_value(config).unwrap();
        let error = UNet2d::spatio_temporal(&config).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn what_is_added_to_the_time_embedding_is_checked() {
    let sdxl: Value = serde_json::from_str(include_str!("sdxl_unet.json")).unwrap();
    for (key, value) in [
        ("addition_embed_type", json!("image")),
        ("addition_time_embed_dim", Value::Null),
        ("projection_class_embeddings_input_dim", json!(0)),
    ] {
        let mut config = sdxl.clone();
        config[key] = value;
        let config: UNet2dConfig = serde_json::from_value(config).unwrap();
        let error = UNet2d::new(&config).unwrap_err().to_string();
        let says = error.contains("text_time") || error.contains("1 to 65536");
        assert!(error.contains(key) && says, "{error}");
    }
}

/// The slowest of three segments, the first starting at `from`, the others at `second` and `third`, the last going on to the
/// end and round to `from`.
fn slowest(before: &[u64], from: usize, second: usize, third: usize) -> u64 {
    let total = before[before.len() - 1];
    let first = before[second] - before[from];
    let middle = before[third] - before[second];
    first.max(middle).max(total - first - middle)
}

#[test]
fn balanced_partitions_are_as_good_as_trying_every_cut() {
    for graph in [sd15(), sd21(), sdxl(), svd(), animatediff()] {
        let machine = Machine::ideal(&graph);
        let segment = |partition: &Partition| {
            let mut macs = vec![0; partition.segments()];
            for (id, block) in graph.iter() {
                macs[partition.owner(id)] += block.macs;
            }
            *macs.iter().max().unwrap()
        };
        let blocks = graph.blocks.len();
        let mut before = vec![0];
        for block in &graph.blocks {
            before.push(before[before.len() - 1] + block.macs);
        }
        // Two segments are three with an empty first one.
        for (segments, contiguous, all) in [(2, 0..1, 0..blocks), (3, 0..1, 0..blocks)] {
            let best = |starts: std::ops::Range<usize>| {
                starts
                    .flat_map(|from| {
                        let seconds = if segments == 2 {
                            from..from + 1
                        } else {
                            from + 1..blocks
                        };
                        let before = &before;
                        seconds.flat_map(move |second| {
                            (second + 1..blocks)
                                .map(move |third| slowest(before, from, second, third))
                        })
                    })
                    .min()
                    .unwrap()
            };
            let found = Partition::contiguous(&graph, &machine, segments).unwrap();
            assert_eq!(segment(&found), best(contiguous));
            let found = Partition::balanced(&graph, &machine, segments).unwrap();
            // Up to 1 % is given away for less traffic.
            assert!(segment(&found) as f64 <= 1.01 * best(all) as f64);
            let owners = found.segment_of();
            let changes = owners.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(changes == segments - 1 || owners[0] == segments - 1 && changes == segments);
        }
    }
}

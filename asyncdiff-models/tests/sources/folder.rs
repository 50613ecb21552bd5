//! Folders in diffusers layout: shards, variants, and what is missing from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use asyncdiff_models::{Checkpoint, CheckpointError};
use half::f16;
use safetensors::tensor::Dtype;
use serde_json::json;

use super::files::{Plain, Tensors, checkpoint, copy, latents, read, refusal, write};

pub const UNET: &str = "diffusion_pytorch_model";

/// Splits the weights `name` in `folder` into shards of about equal count, named as diffusers names them; `variant` is empty
/// or such as `fp16`. Returns the shards' names.
pub fn shard(folder: &Path, name: &str, shards: usize, variant: &str) -> Vec<String> {
    let whole = folder.join(format!("{name}.safetensors"));
    let tensors = read(&whole);
    let stem = if variant.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{variant}")
    };
    let file = |index: usize| format!("{stem}-{:05}-of-{shards:05}.safetensors", index + 1);
    let per_shard = tensors.len().div_ceil(shards);
    let mut map = BTreeMap::new();
    let mut parts = vec![Tensors::new(); shards];
    for (position, (tensor, plain)) in tensors.into_iter().enumerate() {
        map.insert(tensor.clone(), file(position / per_shard));
        parts[position / per_shard].insert(tensor, plain);
    }
    for (index, part) in parts.iter().enumerate() {
        write(&folder.join(file(index)), part, &[("format", "pt")]);
    }
    let index = if variant.is_empty() {
        format!("{name}.safetensors.index.json")
    } else {
        format!("{name}.safetensors.index.{variant}.json")
    };
    let index_file = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(folder.join(index), index_file.to_string()).unwrap();
    fs::remove_file(whole).unwrap();
    (0..shards).map(file).collect()
}

fn to_f16(path: &Path) -> Tensors {
    let narrow = |plain: Plain| {
        assert_eq!(plain.dtype, Dtype::F32);
        let values = plain.bytes.chunks_exact(4);
        let values = values.map(|four| f32::from_le_bytes(four.try_into().unwrap()));
        Plain {
            dtype: Dtype::F16,
            bytes: values
                .flat_map(|value| f16::from_f32(value).to_le_bytes())
                .collect(),
            ..plain
        }
    };
    read(path)
        .into_iter()
        .map(|(name, plain)| match plain.dtype {
            Dtype::F16 => (name, plain),
            _ => (name, narrow(plain)),
        })
        .collect()
}

#[test]
fn sharded_weights_are_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path();
    copy(&checkpoint(), model);
    let expected = latents(Checkpoint::folder(model).unwrap());
    shard(&model.join("unet"), UNET, 3, "");
    shard(&model.join("text_encoder"), "model", 2, "fp16");
    assert_eq!(latents(Checkpoint::folder(model).unwrap()), expected);
}

#[test]
fn a_variant_is_used_where_it_is_asked_for_or_alone() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path();
    copy(&checkpoint(), model);
    let plain = model.join("unet/diffusion_pytorch_model.safetensors");
    let variant = model.join("unet/diffusion_pytorch_model.fp16.safetensors");
    let expected = latents(Checkpoint::folder(model).unwrap());
    // The weights of the variant are others, so that it shows which are used.
    let mut other = to_f16(&plain);
    let bias = other.get_mut("conv_in.bias").unwrap();
    bias.bytes = vec![0; bias.bytes.len()];
    write(&variant, &other, &[]);
    let open = || Checkpoint::folder(model).unwrap();
    assert_eq!(latents(open()), expected);
    let changed = latents(open().with_variant("fp16").unwrap());
    assert_ne!(changed, expected);
    fs::remove_file(&plain).unwrap();
    assert_eq!(latents(open()), changed);
    let error = open().with_variant("bf16").unwrap_err();
    assert!(
        matches!(&error, CheckpointError::NoVariant { variant, found, .. } if variant == "bf16" && found == &["fp16"])
    );
}

#[test]
fn what_is_missing_from_shards_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path();
    let unet = model.join("unet");
    let damaged = |damage: &dyn Fn(&[String]), expected: &[&str]| {
        copy(&checkpoint(), model);
        let shards = shard(&unet, UNET, 2, "");
        damage(&shards);
        let error = refusal(Checkpoint::folder(model).unwrap());
        for part in expected {
            assert!(error.contains(part), "{error:?} should contain {part:?}");
        }
        fs::remove_dir_all(&unet).unwrap();
    };
    let index = "unet/diffusion_pytorch_model.safetensors.index.json";
    let second = "diffusion_pytorch_model-00002-of-00002.safetensors";
    damaged(
        &|shards| fs::remove_file(unet.join(&shards[1])).unwrap(),
        &[index, second, "not there"],
    );
    damaged(
        &|shards| {
            let bytes = fs::read(unet.join(&shards[1])).unwrap();
            fs::write(unet.join(&shards[1]), &bytes[..bytes.len() - 1]).unwrap();
        },
        &[second, "truncated or damaged"],
    );
    damaged(
        &|shards| {
            let mut tensors = read(&unet.join(&shards[1]));
            tensors
                .remove("up_blocks.1.resnets.0.conv1.weight")
                .unwrap();
            write(&unet.join(&shards[1]), &tensors, &[]);
        },
        &[index, second, "up_blocks.1.resnets.0.conv1.weight"],
    );
    damaged(
        &|shards| {
            let mut tensors = read(&unet.join(&shards[1]));
            let any = tensors.values().next().unwrap().clone();
            tensors.insert("surplus.bias".to_owned(), any);
            write(&unet.join(&shards[1]), &tensors, &[]);
        },
        &[second, "surplus.bias"],
    );
    damaged(
        &|_| fs::write(model.join(index), r#"{"weight_map": 3}"#).unwrap(),
        &[index, "no index"],
    );
}

#[test]
fn a_part_with_nothing_but_pickles_says_how_to_convert_them() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path();
    copy(&checkpoint(), model);
    fs::rename(
        model.join("vae/diffusion_pytorch_model.safetensors"),
        model.join("vae/diffusion_pytorch_model.bin"),
    )
    .unwrap();
    let error = refusal(Checkpoint::folder(model).unwrap());
    assert!(error.contains("diffusion_pytorch_model.bin"), "{error}");
    assert!(error.contains("safe_serialization=True"), "{error}");
}

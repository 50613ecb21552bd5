//! The layers on the kernels against the same layers on Burn's operations.
#![cfg(feature = "flex")]

use std::collections::BTreeMap;

use asyncdiff_burn::layers::{
    Activation, Conv2d, GatedLinear, GroupNorm, LayerNorm, Linear, feature_map, join_channels,
    tokens,
};
use asyncdiff_burn::weights::{Loader, WeightFile};
use burn::tensor::{Device, Distribution, FloatDType, Tensor};
use safetensors::tensor::{Dtype, TensorView};

/// A weight file with one tensor `weight` and its `bias`, of numbers that 16 bits can hold.
fn file(folder: &std::path::Path, shape: &[usize], dtype: Dtype) -> WeightFile {
    let numbers = |count: usize, seed: usize| -> Vec<u8> {
        let number = |index: usize| ((index * 7919 + seed) % 1009) as f32 / 512.0 - 1.0;
        (0..count)
            .flat_map(|index| match dtype {
                Dtype::F16 => half::f16::from_f32(number(index)).to_le_bytes().to_vec(),
                _ => number(index).to_le_bytes().to_vec(),
            })
            .collect()
    };
    let (weight, bias) = (numbers(shape.iter().product(), 3), numbers(shape[0], 5));
    let view = |shape, bytes| TensorView::new(dtype, shape, bytes).unwrap();
    let tensors = BTreeMap::from([
        ("weight", view(shape.to_vec(), &weight)),
        ("bias", view(vec![shape[0]], &bias)),
    ]);
    let path = folder.join("weights.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    WeightFile::open(&path).unwrap()
}

/// Runs `compute` with layers of both kinds and compares.
fn both<const D: usize>(shape: &[usize], compute: impl Fn(&Loader<'_>) -> Vec<Tensor<D>>) {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path(), shape, Dtype::F32);
    let weights = file.read().unwrap();
    let device = Device::flex();
    let loader = weights.on(&device, FloatDType::F32);
    let (fast, plain) = (compute(&loader), compute(&loader.clone().plain()));
    assert_eq!(fast.len(), plain.len());
    for (fast, plain) in fast.into_iter().zip(plain) {
        assert_eq!(fast.dims(), plain.dims());
        let largest: f32 = plain.clone().abs().max().into_scalar();
        let error: f32 = (fast - plain).abs().max().into_scalar();
        // Two ways to round sums of up to some hundred products.
        assert!(error <= 1e-5 * largest.max(1.0), "{shape:?}: {error}");
    }
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let normal = Distribution::Normal(0.0, 1.0);
    Tensor::random(shape, normal, &Device::flex())
}

#[test]
fn linear_layers() {
    let (x, residual) = (random([2, 7, 20]), random([2, 7, 9]));
    both(&[9, 20], |loader| {
        let layer = Linear::load(loader, 20, 9, true).unwrap();
        let without = Linear::load(loader, 20, 9, false).unwrap();
        vec![
            layer.forward(x.clone()),
            without.forward(x.clone()),
            layer.forward_activated(x.clone(), Activation::Silu),
            layer.forward_activated(x.clone(), Activation::Gelu),
            layer.forward_activated(x.clone(), Activation::QuickGelu),
            layer.forward_onto(x.clone(), residual.clone()),
            // A view whose numbers are in another order.
            layer.forward(x.clone().swap_dims(0, 1)),
            // Another that begins inside of its memory.
            layer.forward(x.clone().narrow(0, 1, 1)),
        ]
    });
    both(&[9, 20, 1, 1], |loader| {
        let layer = Linear::pointwise(loader, 20, 9).unwrap();
        vec![layer.forward(x.clone())]
    });
    both(&[18, 20], |loader| {
        let layer = GatedLinear::load(loader, 20, 9).unwrap();
        vec![layer.forward(x.clone())]
    });
}

#[test]
fn convolutions() {
    let x = random([2, 5, 6, 8]);
    let (one, each) = (random([1, 9]), random([2, 9]));
    both(&[9, 5, 3, 3], |loader| {
        let load = |stride, padding| Conv2d::load(loader, [5, 9], 3, stride, padding).unwrap();
        let layer = load(1, 1);
        let first = layer.forward(x.clone());
        vec![
            first.clone(),
            load(2, 1).forward(x.clone()),
            Conv2d::halving(loader, [5, 9]).unwrap().forward(x.clone()),
            layer.forward_enlarged(x.clone(), [12, 16]),
            layer.forward_enlarged(x.clone(), [11, 15]),
            layer.forward_shifted(x.clone(), Some(one.clone())),
            layer.forward_shifted(x.clone(), Some(each.clone())),
            layer.forward_shifted(x.clone(), None),
            layer.forward_onto(x.clone(), first),
        ]
    });
    let wide = random([2, 32, 5, 6]);
    let each_wide = random([2, 48]);
    // Wide enough for another algorithm, where maps are large enough.
    for pixels in [31, 32] {
        both(&[48, 32, 3, 3], |loader| {
            let loader = loader.clone().for_maps_of(pixels);
            let layer = Conv2d::load(&loader, [32, 48], 3, 1, 1).unwrap();
            let first = layer.forward(wide.clone());
            vec![
                first.clone(),
                layer.forward_enlarged(wide.clone(), [11, 12]),
                layer.forward_shifted(wide.clone(), Some(each_wide.clone())),
                layer.forward_onto(wide.clone(), first),
            ]
        });
    }
    let each_line = random([12, 9]);
    both(&[9, 5, 3, 1, 1], |loader| {
        let layer = Conv2d::over_frames(loader, [5, 9], 3).unwrap();
        vec![
            layer.forward(x.clone()),
            layer.forward_shifted(x.clone(), Some(each_line.clone())),
        ]
    });
    both(&[9, 5, 2, 2], |loader| {
        let layer = Conv2d::patches(loader, [5, 9], 2).unwrap();
        vec![layer.forward(x.clone())]
    });
}

#[test]
fn what_a_file_has_in_16_bits_gives_the_bits_of_32() {
    let (x, map) = (random([2, 40, 20]), random([2, 5, 6, 8]));
    let results = [Dtype::F32, Dtype::F16].map(|dtype| {
        let folder = tempfile::tempdir().unwrap();
        let [matrix, window] = [vec![18, 20], vec![9, 5, 3, 3]].map(|shape| {
            let name = shape.len().to_string();
            std::fs::create_dir(folder.path().join(&name)).unwrap();
            file(&folder.path().join(&name), &shape, dtype)
        });
        let device = Device::flex();
        let (matrix, window) = (matrix.read().unwrap(), window.read().unwrap());
        let (matrix, window) = (
            matrix.on(&device, FloatDType::F32),
            window.on(&device, FloatDType::F32),
        );
        [
            Linear::load(&matrix, 20, 18, true)
                .unwrap()
                .forward(x.clone())
                .into_data(),
            GatedLinear::load(&matrix, 20, 9)
                .unwrap()
                .forward(x.clone())
                .into_data(),
            Conv2d::load(&window, [5, 9], 3, 1, 1)
                .unwrap()
                .forward(map.clone())
                .into_data(),
        ]
    });
    assert_eq!(results[0], results[1]);
}

#[test]
fn norms() {
    let x = random([2, 12, 3, 5]);
    both(&[12], |loader| {
        let layer = GroupNorm::load(loader, 4, 12, 1e-5).unwrap();
        // The second time its channels are side by side.
        let once = layer.forward(x.clone());
        vec![layer.forward_silu(x.clone()), layer.forward(once)]
    });
    let x = random([2, 3, 12]);
    both(&[12], |loader| {
        let layer = LayerNorm::load(loader, 12, 1e-5).unwrap();
        vec![layer.forward(x.clone())]
    });
}

#[test]
fn maps_and_their_tokens() {
    let (a, b) = (random([2, 5, 3, 4]), random([2, 7, 3, 4]));
    let there = tokens(a.clone());
    assert_eq!(there.dims(), [2, 12, 5]);
    let back = feature_map(there, [3, 4]);
    assert_eq!(back.to_data(), a.to_data());
    let joined = join_channels(vec![back, b.clone()]);
    assert_eq!(joined.to_data(), Tensor::cat(vec![a, b], 1).to_data());
}

/// Narrow layers hold narrow weights, and their results are narrow.
#[test]
fn narrow_types() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path(), &[9, 20], Dtype::F32);
    let weights = file.read().unwrap();
    let device = Device::flex();
    let x = random([7, 20]);
    let wide = Linear::load(&weights.on(&device, FloatDType::F32), 20, 9, true).unwrap();
    let wide = wide.forward(x.clone());
    for (dtype, bits) in [(FloatDType::F16, 10), (FloatDType::BF16, 7)] {
        let layer = Linear::load(&weights.on(&device, dtype), 20, 9, true).unwrap();
        let narrow = layer.forward(x.clone().cast(dtype));
        assert_eq!(narrow.dtype(), dtype.into());
        let error: f32 = (narrow.cast(FloatDType::F32) - wide.clone())
            .abs()
            .max()
            .into_scalar();
        let largest: f32 = wide.clone().abs().max().into_scalar();
        // The input, the weights and the result are each rounded to half a unit.
        assert!(
            error <= 3.0 * largest * 0.5_f32.powi(bits),
            "{dtype:?}: {error}"
        );
        assert!(error > 0.0);
    }
}

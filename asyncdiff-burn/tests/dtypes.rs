//! The types that a backend says it computes in: every kind of layer that the networks have, at their real sizes, against
//! the same layer in `f32`.
#![cfg(feature = "flex")]

use std::path::Path;

use asyncdiff_burn::layers::{self, Conv2d, GroupNorm, LayerNorm, Linear};
use asyncdiff_burn::weights::WeightFile;
use burn::tensor::module::{attention, interpolate};
use burn::tensor::ops::{AttentionModuleOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Distribution, FloatDType, Int, Tensor, activation};
use safetensors::tensor::{Dtype, TensorView};

/// `2^-p` of a type with `p` bits of precision: the largest relative error of one rounding.
fn rounding(dtype: FloatDType) -> f64 {
    match dtype {
        FloatDType::F16 => 2_f64.powi(-11),
        FloatDType::BF16 => 2_f64.powi(-8),
        other => panic!("{other:?}"),
    }
}

fn norm<const D: usize>(tensor: Tensor<D>) -> f64 {
    tensor
        .into_data()
        .iter::<f64>()
        .map(|value| value * value)
        .sum::<f64>()
        .sqrt()
}

/// Runs `layer` on the same rounded input in `f32` and in `dtype`. The difference may be that of two roundings: of what is
/// read, and of what is written; sums of a thousand terms must not add a thousand of them.
fn check<const D: usize, const E: usize>(
    what: &str,
    shape: [usize; D],
    layer: impl Fn(Tensor<D>, FloatDType) -> Tensor<E>,
) {
    let device = Device::flex();
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        assert!(device.supports_dtype(dtype));
        // Off zero, so that a norm has a mean to take away.
        let input = Tensor::<D>::random(shape, Distribution::Normal(0.5, 1.0), &device);
        let input = input.cast(dtype).cast(FloatDType::F32);
        let exact = layer(input.clone(), FloatDType::F32);
        let found = layer(input.cast(dtype), dtype);
        assert_eq!(FloatDType::from(found.dtype()), dtype, "{what}");
        let error = norm(exact.clone() - found.cast(FloatDType::F32)) / norm(exact);
        println!("{what} {dtype:?}: {:.2} roundings", error / rounding(dtype));
        assert!(
            error < 2.0 * rounding(dtype),
            "{what} in {dtype:?} is {error} off"
        );
    }
}

/// A file of random weights, as a layer of a trained network has them: outputs are as large as inputs.
fn weights(folder: &Path) -> WeightFile {
    let device = Device::flex();
    let mut tensors = Vec::new();
    for (name, shape) in [
        ("linear.weight", vec![640, 1280]),
        ("linear.bias", vec![640]),
        ("conv.weight", vec![64, 320, 3, 3]),
        ("conv.bias", vec![64]),
        ("norm.weight", vec![320]),
        ("norm.bias", vec![320]),
        ("embedding.weight", vec![1000, 320]),
    ] {
        let inputs: usize = shape[1..].iter().product();
        let count = shape.iter().product::<usize>();
        let spread = Distribution::Normal(0.0, (inputs as f64).powf(-0.5));
        let values = Tensor::<1>::random([count], spread, &device).into_data();
        let bytes: Vec<u8> = values.iter::<f32>().flat_map(f32::to_le_bytes).collect();
        tensors.push((name, shape, bytes));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (
            *name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    let path = folder.join("weights.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    WeightFile::open(&path).unwrap()
}

#[test]
fn layers_in_narrow_types_are_as_good_as_their_types() {
    let device = Device::flex();
    device.seed(3);
    let folder = tempfile::tempdir().unwrap();
    let file = weights(folder.path());
    let weights = file.read().unwrap();
    let at = |name: &'static str, dtype| weights.on(&device, dtype).at(name);
    check("linear", [2, 77, 1280], |x, dtype| {
        let layer = Linear::load(&at("linear", dtype), 1280, 640, true).unwrap();
        layer.forward(x)
    });
    for stride in [1, 2] {
        check("convolution", [1, 320, 32, 32], |x, dtype| {
            let layer = Conv2d::load(&at("conv", dtype), [320, 64], 3, stride, 1).unwrap();
            layer.forward(x)
        });
    }
    check("group norm", [2, 320, 64, 64], |x, dtype| {
        let layer = GroupNorm::load(&at("norm", dtype), 32, 320, 1e-5).unwrap();
        layer.forward(x)
    });
    check("layer norm", [2, 77, 320], |x, dtype| {
        let layer = LayerNorm::load(&at("norm", dtype), 320, 1e-5).unwrap();
        layer.forward(x)
    });
    check("embedding", [1], |_, dtype| {
        let layer = layers::embedding(&at("embedding", dtype).plain(), 1000, 320).unwrap();
        let ids = Tensor::<1, Int>::arange(0..1000, &device);
        layer.forward(ids.unsqueeze::<2>())
    });
    for causal in [false, true] {
        // Small and large: the backend has an algorithm for each.
        for tokens in [77, 1024] {
            check("attention", [1, 8, tokens, 40], |x, _| {
                let options = AttentionModuleOptions {
                    is_causal: causal,
                    ..Default::default()
                };
                attention(x.clone(), x.clone(), x, None, None, options)
            });
        }
    }
    check("SiLU", [1, 320, 64], |x, _| activation::silu(x));
    check("GELU", [1, 320, 64], |x, _| activation::gelu(x));
    check("sigmoid", [1, 320, 64], |x, _| {
        activation::sigmoid(x * 1.702)
    });
    check("enlargement", [1, 32, 16, 16], |x, _| {
        let options = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([31, 32]);
        interpolate(x, options)
    });
    check("concatenation", [1, 32, 16, 16], |x, _| {
        Tensor::cat(
            vec![
                x.clone().narrow(1, 3, 5),
                x.repeat_dim(0, 2).narrow(0, 1, 1),
            ],
            1,
        )
    });
}

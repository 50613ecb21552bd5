//! Weight files: every supported type, and every way to be wrong.
#![cfg(feature = "flex")]

use std::fs;
use std::path::PathBuf;

use asyncdiff_burn::layers;
use asyncdiff_burn::weights::{Form, Stored, WeightError, WeightFile, WeightSet, read_tensors};
use burn::tensor::{Device, FloatDType, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};

const VALUES: [f32; 6] = [0.5, -1.25, 3.0, 0.0, 96.0, -0.0625];

/// A file with the tensor `linear.weight` of `[2, 3]` in the given type.
fn file(folder: &tempfile::TempDir, dtype: Dtype) -> PathBuf {
    let bytes: Vec<u8> = VALUES
        .iter()
        .flat_map(|value| match dtype {
            Dtype::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
            Dtype::F64 => f64::from(*value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        })
        .collect();
    let view = TensorView::new(dtype, vec![2, 3], &bytes).unwrap();
    let path = folder.path().join("weights.safetensors");
    fs::write(
        &path,
        safetensors::serialize([("linear.weight", view)], None).unwrap(),
    )
    .unwrap();
    path
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().unwrap()
}

#[test]
fn every_floating_point_type_is_read_into_the_compute_type() {
    let folder = tempfile::tempdir().unwrap();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let file = WeightFile::open(&file(&folder, dtype)).unwrap();
        let weights = file.read().unwrap();
        let device = Device::flex();
        let loader = weights.on(&device, FloatDType::F32).at("linear");
        // All values are exact in the smallest of the types.
        assert_eq!(
            values(loader.tensor("weight", [2, 3]).unwrap()),
            VALUES,
            "{dtype:?}"
        );
        let layer = layers::Linear::load(&loader, 3, 2, false).unwrap();
        let sums = layer.forward(Tensor::<2>::ones([1, 3], &device));
        assert_eq!(values(sums), [2.25, 95.9375]);
        // Read twice, counted once.
        assert_eq!(weights.parameters_read(), 6);
        weights.finish(|_| false).unwrap();
    }
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let path = file(&folder, Dtype::F32);
    let open = WeightFile::open(&path).unwrap();
    let weights = open.read().unwrap();
    let loader = weights.on(&device, FloatDType::F32).at("linear");
    let error = loader.tensor("bias", [2]).unwrap_err();
    assert!(
        matches!(&error, WeightError::Missing { name, expected, .. } if name == "linear.bias" && expected == &[2])
    );
    let error = loader.tensor("weight", [3, 2]).unwrap_err();
    assert!(
        matches!(&error, WeightError::Shape { expected, found, .. } if expected == &[3, 2] && found == &[2, 3])
    );
    let error = weights.finish(|_| false).unwrap_err();
    assert!(matches!(&error, WeightError::Unexpected { name, .. } if name == "linear.weight"));
    assert!(weights.finish(|name| name.starts_with("linear.")).is_ok());

    let open = WeightFile::open(&file(&folder, Dtype::F64)).unwrap();
    let weights = open.read().unwrap();
    let error = weights
        .on(&device, FloatDType::F32)
        .tensor("linear.weight", [2, 3])
        .unwrap_err();
    assert!(matches!(
        &error,
        WeightError::Dtype {
            found: Dtype::F64,
            ..
        }
    ));

    let none = folder.path().join("none.safetensors");
    assert!(matches!(
        WeightFile::open(&none),
        Err(WeightError::Open { .. })
    ));
    assert!(matches!(read_tensors(&none), Err(WeightError::Open { .. })));
}

/// A file cut off anywhere, or with any byte of its header changed, is an error or still a file; it is never a panic.
#[test]
fn damaged_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, Dtype::F32);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let result = WeightFile::open(&path);
        let corrupt = match &result {
            Ok(file) => matches!(file.read(), Err(WeightError::Corrupt { .. })),
            // An empty file cannot be mapped on every system.
            Err(_) => length == 0,
        };
        assert!(corrupt, "cut off at {length}");
    }
    for index in 0..whole.len() - 24 {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[index] ^= flip;
            fs::write(&path, &bytes).unwrap();
            let file = WeightFile::open(&path).unwrap();
            if let Ok(weights) = file.read() {
                let _ = weights
                    .on(&Device::flex(), FloatDType::F32)
                    .tensor("linear.weight", [2, 3]);
            }
        }
    }
}

/// A tensor of a file under other names, in every form; the expected values are those of [`VALUES`], rearranged by hand.
#[test]
fn tensors_have_the_names_and_forms_that_a_model_reads() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let bytes: Vec<u8> = VALUES
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let path = folder.path().join("original.safetensors");
    let view = |shape| TensorView::new(Dtype::F32, shape, &bytes).unwrap();
    let tensors = [
        ("matrix", view(vec![2, 3])),
        ("joined", view(vec![3, 2])),
        ("convolution", view(vec![3, 2, 1, 1])),
    ];
    fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let renamed = |stored: &str, form| {
        let stored = Stored {
            name: stored.to_owned(),
            form,
        };
        let names = [("part.weight".to_owned(), stored)].into();
        WeightSet::renamed(WeightFile::open(&path).unwrap(), names)
    };
    let [a, b, c, d, e, f] = VALUES;
    for (stored, form, shape, expected) in [
        ("matrix", Form::Same, [2, 3], vec![a, b, c, d, e, f]),
        ("matrix", Form::Transposed, [3, 2], vec![a, d, b, e, c, f]),
        ("joined", Form::Third(0), [1, 2], vec![a, b]),
        ("joined", Form::Third(2), [1, 2], vec![e, f]),
        (
            "convolution",
            Form::Pointwise,
            [3, 2],
            vec![a, b, c, d, e, f],
        ),
    ] {
        let set = renamed(stored, form);
        let weights = set.read().unwrap();
        let loader = weights.on(&device, FloatDType::F32).at("part");
        assert_eq!(values(loader.tensor("weight", shape).unwrap()), expected);
        weights.finish(|_| false).unwrap();
        let error = loader.tensor("weight", [7, 7]).unwrap_err().to_string();
        assert!(
            error.contains(stored) && error.contains("part.weight"),
            "{error}"
        );
    }
    for (stored, form) in [
        ("matrix", Form::Third(0)),
        ("convolution", Form::Transposed),
    ] {
        let error = renamed(stored, form).read().unwrap_err();
        assert!(matches!(&error, WeightError::Form { name, .. } if name == stored));
    }
}

/// NaN in a matrix of queries gives a picture without a word, so it has to be found here.
#[test]
fn values_that_are_no_numbers_are_found_and_their_tensor_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let wild = |dtype: Dtype, value: f32| {
        let path = file(&folder, dtype);
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.len();
        match dtype {
            Dtype::F32 => bytes[end - 4..].copy_from_slice(&value.to_le_bytes()),
            Dtype::F16 => bytes[end - 2..].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            _ => bytes[end - 2..].copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        }
        fs::write(&path, bytes).unwrap();
        path
    };
    let device = Device::flex();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let path = wild(dtype, value);
            let file = WeightFile::open(&path).unwrap();
            let weights = file.read().unwrap();
            let loader = weights.on(&device, FloatDType::F32);
            for error in [
                loader.tensor("linear.weight", [2, 3]).unwrap_err(),
                weights.plain("linear.weight").unwrap_err(),
                read_tensors(&path).unwrap_err(),
            ] {
                let text = error.to_string();
                assert!(
                    matches!(error, WeightError::NotFinite { count: 1, .. }),
                    "{text}"
                );
                assert!(text.contains("linear.weight"), "{text}");
                assert!(text.contains("weights.safetensors"), "{text}");
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_a_device_or_a_folder_is_refused_as_a_weight_file() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.safetensors");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let inputs: [(PathBuf, &str); 3] = [
        (pipe, "a named pipe"),
        ("/dev/zero".into(), "a device"),
        (folder.path().to_owned(), "a folder"),
    ];
    for (path, kind) in inputs {
        let error = WeightFile::open(&path).unwrap_err().to_string();
        assert!(error.contains(kind), "{error}");
    }
}

//! One tensor of a file, and its elements.

use std::borrow::Cow;

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};

use super::WeightFile;

/// A tensor of a file, or a part of one, in the form in which a model reads it.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub file: &'a WeightFile,
    /// What it is called there, if a model calls it something else.
    pub stored: Option<&'a str>,
    /// A matrix whose rows are the model's columns.
    pub transposed: bool,
    pub view: TensorView<'a>,
}

impl<'a> Entry<'a> {
    pub fn new(file: &'a WeightFile, view: TensorView<'a>) -> Self {
        Self {
            file,
            stored: None,
            transposed: false,
            view,
        }
    }

    /// What to call it in messages; a model calls it `name`.
    pub fn name(&self, name: &str) -> String {
        match self.stored {
            Some(stored) => format!("{stored} (read as {name})"),
            None => name.to_owned(),
        }
    }

    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.view.shape().to_vec();
        if self.transposed {
            shape.reverse();
        }
        shape
    }

    pub fn dtype(&self) -> Dtype {
        self.view.dtype()
    }

    /// The elements as `f32`, row-major, whichever supported type they are stored in. They are not copied if they are in the
    /// file as they are in memory.
    pub fn values(&self) -> Option<Cow<'a, [f32]>> {
        let values = to_f32(&self.view)?;
        let [_, columns] = *self.view.shape() else {
            return Some(values);
        };
        if !self.transposed {
            return Some(values);
        }
        let column = |column| values.iter().skip(column).step_by(columns);
        Some((0..columns).flat_map(column).copied().collect())
    }

    /// The elements of numbers that are stored in more than 16 bits, and are no weights.
    pub fn wide_values(&self) -> Option<Vec<f32>> {
        fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            let (chunks, _) = bytes.as_chunks();
            chunks.iter().map(|chunk| read(*chunk)).collect()
        }
        let bytes = self.view.data();
        Some(match self.view.dtype() {
            Dtype::F64 => each(bytes, |eight| f64::from_le_bytes(eight) as f32),
            Dtype::I64 => each(bytes, |eight| i64::from_le_bytes(eight) as f32),
            Dtype::I32 => each(bytes, |four| i32::from_le_bytes(four) as f32),
            _ => return None,
        })
    }
}

fn to_f32<'a>(view: &TensorView<'a>) -> Option<Cow<'a, [f32]>> {
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::F32 => match bytemuck::try_cast_slice(bytes) {
            Ok(values) if cfg!(target_endian = "little") => Cow::Borrowed(values),
            _ => converted(bytes, f32::from_le_bytes),
        },
        Dtype::F16 => converted(bytes, |two| f16::from_le_bytes(two).to_f32()),
        Dtype::BF16 => converted(bytes, |two| bf16::from_le_bytes(two).to_f32()),
        _ => return None,
    })
}

/// Numbers that a thread converts at a time.
const CHUNK: usize = 1 << 16;

fn converted<'a, const N: usize>(
    bytes: &[u8],
    read: impl Fn([u8; N]) -> f32 + Sync,
) -> Cow<'a, [f32]> {
    let (numbers, _) = bytes.as_chunks();
    let mut values = vec![0.0; numbers.len()];
    let chunks = values.par_chunks_mut(CHUNK).zip(numbers.par_chunks(CHUNK));
    chunks.for_each(|(values, numbers)| {
        for (value, number) in values.iter_mut().zip(numbers) {
            *value = read(*number);
        }
    });
    Cow::Owned(values)
}

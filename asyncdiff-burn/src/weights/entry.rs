//! One tensor of a file, and its elements.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
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
    /// file as they are in memory; otherwise they are written to `room`.
    pub fn values(&self, room: Vec<f32>) -> Option<Cow<'a, [f32]>> {
        let values = to_f32(&self.view, room)?;
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

fn to_f32<'a>(view: &TensorView<'a>, room: Vec<f32>) -> Option<Cow<'a, [f32]>> {
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::F32 => match in_place(bytes) {
            Some(values) => Cow::Borrowed(values),
            None => converted(bytes.as_chunks().0, room, |values, numbers| {
                each(values, numbers, |four| f32::from_le_bytes(*four));
            }),
        },
        Dtype::F16 => match in_place::<f16>(bytes) {
            Some(numbers) => converted(numbers, room, |values, numbers| {
                numbers.convert_to_f32_slice(values);
            }),
            None => converted(bytes.as_chunks().0, room, |values, numbers| {
                each(values, numbers, |two| f16::from_le_bytes(*two).to_f32());
            }),
        },
        Dtype::BF16 => converted(bytes.as_chunks().0, room, |values, numbers| {
            each(values, numbers, |two| bf16::from_le_bytes(*two).to_f32());
        }),
        _ => return None,
    })
}

/// Numbers of a file that are as they are in memory.
fn in_place<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Option<&[T]> {
    let numbers = bytemuck::try_cast_slice(bytes).ok();
    numbers.filter(|_| cfg!(target_endian = "little"))
}

fn each<T>(values: &mut [f32], numbers: &[T], read: impl Fn(&T) -> f32) {
    for (value, number) in values.iter_mut().zip(numbers) {
        *value = read(number);
    }
}

/// Numbers that a thread converts at a time.
const CHUNK: usize = 1 << 16;

fn converted<'a, T: Sync>(
    numbers: &[T],
    mut room: Vec<f32>,
    read: impl Fn(&mut [f32], &[T]) + Sync,
) -> Cow<'a, [f32]> {
    room.resize(numbers.len(), 0.0);
    let chunks = room.par_chunks_mut(CHUNK).zip(numbers.par_chunks(CHUNK));
    chunks.for_each(|(values, numbers)| read(values, numbers));
    Cow::Owned(room)
}

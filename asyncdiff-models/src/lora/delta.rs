//! The change that a LoRA makes to a weight.

use std::borrow::Cow;
use std::collections::HashMap;

use asyncdiff_burn::weights::{Deltas, WeightError, Weights};
use rayon::prelude::*;

use super::key::{Part, Role};
use super::{Fitted, Layer};

/// The shapes of a layer's tensors.
pub(super) struct Shapes {
    /// `[rank, input]` or `[rank, input, kernel, kernel]`
    pub down: Vec<usize>,
    /// `[output, rank]` or `[output, rank, 1, 1]`
    pub up: Vec<usize>,
    /// `[rank, rank, kernel, kernel]`; `down` is then `[rank, input, 1, 1]`.
    pub mid: Option<Vec<usize>>,
}

impl Shapes {
    /// The rank, and the shape of the weight that is changed. The error is which tensor cannot be, and what could.
    pub fn product(&self) -> Result<(usize, Vec<usize>), (Role, String)> {
        let matrix = |shape: &[usize]| matches!(shape.len(), 2 | 4) && !shape.contains(&0);
        let pointwise = |shape: &[usize]| matrix(shape) && shape[2..].iter().all(|side| *side == 1);
        let (down, up) = (&self.down, &self.up);
        if !matrix(down) {
            return Err((
                Role::Down,
                "[rank, input] or [rank, input, kernel, kernel]".to_owned(),
            ));
        }
        let rank = down[0];
        if !pointwise(up) || up[1] != rank {
            return Err((
                Role::Up,
                format!("[output, {rank}] or [output, {rank}, 1, 1]"),
            ));
        }
        let mut product = vec![up[0], down[1]];
        match &self.mid {
            None => product.extend(&down[2..]),
            Some(mid) => {
                if !pointwise(down) {
                    return Err((
                        Role::Down,
                        "[rank, input, 1, 1] beside its lora_mid".to_owned(),
                    ));
                }
                if mid.len() != 4 || mid[..2] != [rank, rank] || mid.contains(&0) {
                    return Err((Role::Mid, format!("[{rank}, {rank}, kernel, kernel]")));
                }
                product.extend(&mid[2..]);
            }
        }
        Ok((rank, product))
    }
}

/// Whether two weights have the same elements: a convolution of 1x1 is a matrix.
pub(super) fn same(a: &[usize], b: &[usize]) -> bool {
    let kernel = |shape: &[usize]| match shape {
        [_, _, height, width] => [*height, *width],
        _ => [1, 1],
    };
    a[..2] == b[..2] && kernel(a) == kernel(b)
}

/// What all LoRAs of a pipeline together change in one part of it.
#[derive(Debug)]
pub(crate) struct PartDeltas<'a>(Vec<OfFile<'a>>);

#[derive(Debug)]
struct OfFile<'a> {
    weights: Weights<'a>,
    layers: &'a HashMap<String, Layer>,
    strength: f64,
}

impl<'a> PartDeltas<'a> {
    /// # Errors
    ///
    /// [`WeightError::Corrupt`] for a file that has changed since it was opened.
    pub fn new(
        loras: impl IntoIterator<Item = &'a Fitted>,
        part: Part,
    ) -> Result<Self, WeightError> {
        let of_part = loras.into_iter().filter_map(|fitted| {
            let layers = fitted.layers.get(&part)?;
            Some(fitted.lora.file.read().map(|weights| OfFile {
                weights,
                layers,
                strength: fitted.strength,
            }))
        });
        of_part.collect::<Result<_, _>>().map(Self)
    }
}

impl Deltas for PartDeltas<'_> {
    fn add(
        &self,
        name: &str,
        shape: &[usize],
        values: &mut Cow<'_, [f32]>,
    ) -> Result<bool, WeightError> {
        let mut any = false;
        for file in &self.0 {
            if let Some(layer) = file.layers.get(name) {
                file.add(layer, shape[0], values.to_mut())?;
                any = true;
            }
        }
        Ok(any)
    }
}

impl OfFile<'_> {
    fn add(&self, layer: &Layer, rows: usize, values: &mut [f32]) -> Result<(), WeightError> {
        let up = self.weights.plain(&layer.up)?;
        let mut down = self.weights.plain(&layer.down)?.values;
        let rank = up.shape[1];
        if let Some(mid) = &layer.mid {
            down = through(&self.weights.plain(mid)?.values, &down, rank);
        }
        let factor = (self.strength * layer.scale) as f32;
        let columns = values.len() / rows;
        values
            .par_chunks_mut(columns)
            .zip(up.values.par_chunks(rank))
            .for_each(|(row, up)| {
                let mut change = vec![0.0; columns];
                for (up, down) in up.iter().zip(down.chunks(columns)) {
                    for (change, down) in change.iter_mut().zip(down) {
                        *change += up * down;
                    }
                }
                for (value, change) in row.iter_mut().zip(&change) {
                    *value += factor * change;
                }
            });
        Ok(())
    }
}

/// `mid` after `down`, as one convolution: `[rank, input, kernel, kernel]` from `[rank, rank, kernel, kernel]` and
/// `[rank, input]`.
fn through(mid: &[f32], down: &[f32], rank: usize) -> Vec<f32> {
    let input = down.len() / rank;
    let kernel = mid.len() / (rank * rank);
    let mut product = vec![0.0; rank * input * kernel];
    for (product, mid) in product
        .chunks_mut(input * kernel)
        .zip(mid.chunks(rank * kernel))
    {
        for (down, mid) in down.chunks(input).zip(mid.chunks(kernel)) {
            for (product, down) in product.chunks_mut(kernel).zip(down) {
                for (product, mid) in product.iter_mut().zip(mid) {
                    *product += mid * down;
                }
            }
        }
    }
    product
}

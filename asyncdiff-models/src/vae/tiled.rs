//! Big pictures in overlapping tiles, so that the memory needed does not grow with them (diffusers' `AutoencoderKL` after
//! `enable_tiling`).
//!
//! A tile is as large as the pictures that the autoencoder was trained on (`sample_size`), and a quarter of it overlaps the
//! next, where both are blended linearly. Each tile is normalised by its own statistics and attends to itself alone, so the
//! result is not that of the whole picture: tiles may differ a little in tone.

use burn::tensor::{Tensor, TensorData};

use super::{AutoencoderKl, LatentDistribution, VaeConfig};
use crate::cancel::{Cancel, unasked};
use crate::error::Error;

/// diffusers' default, for a configuration that does not tell the training size.
const DEFAULT_SAMPLE_SIZE: usize = 32;

/// How tiles lie along one side, in latents.
#[derive(Clone, Copy)]
struct Tiling {
    /// Side of a tile.
    size: usize,
    /// From the beginning of a tile to that of the next: three quarters.
    stride: usize,
}

impl Tiling {
    fn of(config: &VaeConfig) -> Self {
        let sample_size = config.sample_size.unwrap_or(DEFAULT_SAMPLE_SIZE);
        let size = (sample_size / config.scale_factor()).max(1);
        Self {
            size,
            stride: (size * 3 / 4).max(1),
        }
    }

    /// The same where a latent is `factor` pixels.
    fn enlarged(self, factor: usize) -> Self {
        Self {
            size: self.size * factor,
            stride: self.stride * factor,
        }
    }
}

impl AutoencoderKl {
    /// As [`decode`](Self::decode), in tiles where the latents are larger than one.
    #[must_use]
    pub fn decode_tiled(&self, latents: Tensor<4>) -> Tensor<4> {
        unasked(|cancel| self.decode_unless(latents, true, cancel))
    }

    pub(super) fn decode_tiles(
        &self,
        latents: Tensor<4>,
        cancel: &Cancel,
    ) -> Result<Tensor<4>, Error> {
        let tiling = Tiling::of(&self.config);
        let pixels = tiling.enlarged(self.config.scale_factor());
        tiled(latents, tiling, pixels, |tile| self.pictures(tile, cancel))
    }

    /// As [`encode`](Self::encode), in tiles where the pictures are larger than one.
    #[must_use]
    pub fn encode_tiled(&self, pictures: Tensor<4>) -> LatentDistribution {
        unasked(|cancel| self.encode_unless(pictures, true, cancel))
    }

    pub(super) fn tiled_moments(
        &self,
        pictures: Tensor<4>,
        cancel: &Cancel,
    ) -> Result<Tensor<4>, Error> {
        let tiling = Tiling::of(&self.config);
        let pixels = tiling.enlarged(self.config.scale_factor());
        tiled(pictures, pixels, tiling, |tile| self.moments(tile, cancel))
    }
}

/// `compute` on overlapping tiles `from` its input, put together as tiles of its output, `to`.
fn tiled(
    whole: Tensor<4>,
    from: Tiling,
    to: Tiling,
    compute: impl Fn(Tensor<4>) -> Result<Tensor<4>, Error>,
) -> Result<Tensor<4>, Error> {
    let [_, _, height, width] = whole.dims();
    if height <= from.size && width <= from.size {
        return compute(whole);
    }
    let overlap = to.size - to.stride;
    let mut rows = Vec::new();
    let mut above: Vec<Tensor<4>> = Vec::new();
    for top in (0..height).step_by(from.stride) {
        let part = whole.clone().narrow(2, top, from.size.min(height - top));
        let mut row: Vec<Tensor<4>> = Vec::new();
        for (column, left) in (0..width).step_by(from.stride).enumerate() {
            let tile = part.clone().narrow(3, left, from.size.min(width - left));
            let mut tile = compute(tile)?;
            if let Some(above) = above.get(column) {
                tile = blend(above, tile, 2, overlap);
            }
            if let Some(left) = row.last() {
                tile = blend(left, tile, 3, overlap);
            }
            row.push(tile);
        }
        let kept = row.iter().map(|tile| {
            let [_, _, height, width] = tile.dims();
            let tile = tile.clone().narrow(2, 0, to.stride.min(height));
            tile.narrow(3, 0, to.stride.min(width))
        });
        rows.push(Tensor::cat(kept.collect(), 3));
        above = row;
    }
    Ok(Tensor::cat(rows, 2))
}

/// `after`, whose beginning along `dimension` passes linearly from the end of `before` to itself.
fn blend(before: &Tensor<4>, after: Tensor<4>, dimension: usize, overlap: usize) -> Tensor<4> {
    let (end, length) = (before.dims()[dimension], after.dims()[dimension]);
    let overlap = overlap.min(end).min(length);
    if overlap == 0 {
        return after;
    }
    let ramp: Vec<f32> = (0..overlap)
        .map(|index| index as f32 / overlap as f32)
        .collect();
    let mut shape = [1; 4];
    shape[dimension] = overlap;
    let target = (&after.device(), after.dtype());
    let ramp = Tensor::<4>::from_data(TensorData::new(ramp, shape), target);
    let leaving = before.clone().narrow(dimension, end - overlap, overlap);
    let coming = after.clone().narrow(dimension, 0, overlap);
    let mixed = leaving * (1.0 - ramp.clone()) + coming * ramp;
    // Burn has no empty parts.
    if overlap == length {
        return mixed;
    }
    let rest = after.narrow(dimension, overlap, length - overlap);
    Tensor::cat(vec![mixed, rest], dimension)
}

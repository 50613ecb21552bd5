//! From a picture of any size to the samples that the vision encoder reads, as diffusers' Stable Video Diffusion pipeline
//! computes them.

use serde::Deserialize;

use crate::image::Image;

/// The mean and deviation of the samples that a vision encoder was trained with (`preprocessor_config.json`). Missing keys take
/// transformers' defaults for CLIP.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ImageNormalization {
    /// Of red, green and blue between 0 and 1.
    pub image_mean: [f32; 3],
    /// Likewise.
    pub image_std: [f32; 3],
}

impl Default for ImageNormalization {
    fn default() -> Self {
        Self {
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_74],
            image_std: [0.268_629_55, 0.261_302_6, 0.275_777_1],
        }
    }
}

impl ImageNormalization {
    /// What a vision encoder of `image_size` is shown of `picture`: `[3, image_size, image_size]`.
    #[must_use]
    pub fn apply(&self, picture: &Image, image_size: usize) -> Vec<f32> {
        let mut samples = resize_antialiased(picture, image_size);
        let planes = samples.chunks_mut(image_size * image_size);
        for ((plane, mean), deviation) in planes.zip(self.image_mean).zip(self.image_std) {
            for sample in plane {
                *sample = ((*sample + 1.0) / 2.0 - mean) / deviation;
            }
        }
        samples
    }
}

/// A picture as samples from -1 to 1, `[3, side, side]`, whatever its size and proportions: blurred with a Gaussian as wide as the
/// picture shrinks, then resampled with a bicubic whose first and last samples are the picture's own (diffusers'
/// `_resize_with_antialiasing`). Samples may overshoot the range a little.
///
/// # Panics
///
/// If the picture has no pixels.
#[must_use]
pub fn resize_antialiased(picture: &Image, side: usize) -> Vec<f32> {
    let &Image { width, height, .. } = picture;
    let [blur_x, blur_y] = [width, height].map(|from| gaussian(from, side));
    let samples = picture.to_samples();
    samples
        .chunks(width * height)
        .flat_map(|plane| {
            let blurred = along_rows(plane, width, |row| filter(row, &blur_x));
            let turned = along_rows(&transposed(&blurred, width), height, |column| {
                resample(&filter(column, &blur_y), side)
            });
            along_rows(&transposed(&turned, side), width, |row| resample(row, side))
        })
        .collect()
}

fn along_rows(plane: &[f32], width: usize, step: impl Fn(&[f32]) -> Vec<f32>) -> Vec<f32> {
    plane.chunks(width).flat_map(step).collect()
}

/// Columns as rows.
fn transposed(plane: &[f32], width: usize) -> Vec<f32> {
    (0..width)
        .flat_map(|column| plane.iter().skip(column).step_by(width).copied())
        .collect()
}

/// The weights of an odd number of neighbours, for a side that goes from `from` to `to` pixels.
fn gaussian(from: usize, to: usize) -> Vec<f32> {
    let deviation = ((from as f64 / to as f64 - 1.0) / 2.0).max(0.001);
    let size = (4.0 * deviation).max(3.0) as usize | 1;
    let middle = (size / 2) as f64;
    let weight =
        |index: usize| (-(index as f64 - middle).powi(2) / (2.0 * deviation.powi(2))).exp();
    let weights: Vec<f64> = (0..size).map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| (weight / sum) as f32).collect()
}

/// Weighs every sample's neighbours; beyond the ends the row is mirrored.
fn filter(row: &[f32], weights: &[f32]) -> Vec<f32> {
    let reach = (weights.len() / 2) as isize;
    let last = row.len() as isize - 1;
    let mirrored = |mut index: isize| {
        while last > 0 && !(0..=last).contains(&index) {
            index = if index < 0 { -index } else { 2 * last - index };
        }
        row[index.clamp(0, last) as usize]
    };
    (0..=last)
        .map(|centre| {
            let neighbours = (centre - reach..=centre + reach).map(mirrored);
            neighbours
                .zip(weights)
                .map(|(sample, weight)| sample * weight)
                .sum()
        })
        .collect()
}

/// `count` samples at equal distances from the first to the last of a row, by cubic convolution with the parameter -0.75
/// (PyTorch's bicubic with aligned corners). Positions are computed in `f32`, as there.
fn resample(row: &[f32], count: usize) -> Vec<f32> {
    let scale = match count {
        1 => 0.0,
        _ => (row.len() - 1) as f32 / (count - 1) as f32,
    };
    let last = row.len() as isize - 1;
    (0..count)
        .map(|index| {
            let position = index as f32 * scale;
            let before = position.floor();
            let share = position - before;
            let sample = |offset: isize| row[(before as isize + offset).clamp(0, last) as usize];
            sample(-1) * far(share + 1.0)
                + sample(0) * near(share)
                + sample(1) * near(1.0 - share)
                + sample(2) * far(2.0 - share)
        })
        .collect()
}

const CUBIC: f32 = -0.75;

/// The weight of a sample at a distance of up to 1.
fn near(distance: f32) -> f32 {
    ((CUBIC + 2.0) * distance - (CUBIC + 3.0)) * distance * distance + 1.0
}

/// The weight of a sample at a distance from 1 to 2.
fn far(distance: f32) -> f32 {
    ((CUBIC * distance - 5.0 * CUBIC) * distance + 8.0 * CUBIC) * distance - 4.0 * CUBIC
}

//! From latents to colours without a decoder.

use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, Tensor, TensorData};

use super::leaves::dead_leaves;
use crate::cancel::Cancel;
use crate::error::Error;
use crate::tensors::values;
use crate::vae::AutoencoderKl;

/// Pictures that the map is fitted to: with more of them it gets no better.
const PICTURES: usize = 4;
/// Their side, in elements of the latents.
const SIDE: usize = 16;
/// Elements whose channels a colour is made of: the one itself and its neighbours.
const NEIGHBOURHOOD: usize = 9;
/// Keeps the equations solvable where a channel never changes, which then counts for nothing.
const RIDGE: f64 = 1e-6;

/// What an autoencoder's latents look like, found out when somebody asks.
#[derive(Debug)]
pub(crate) struct Colours {
    vae: Arc<AutoencoderKl>,
    device: Device,
    fitted: OnceLock<ColourMap>,
}

impl Colours {
    pub fn new(vae: Arc<AutoencoderKl>, device: Device) -> Self {
        Self {
            vae,
            device,
            fitted: OnceLock::new(),
        }
    }

    /// How many pixels of a picture an element's side stands for.
    pub fn pixels(&self) -> usize {
        self.vae.config().scale_factor()
    }

    /// The map, fitted on the calling thread if this is the first time.
    pub fn map(&self, cancel: &Cancel) -> Result<&ColourMap, Error> {
        if let Some(map) = self.fitted.get() {
            return Ok(map);
        }
        let map = self.fit(cancel)?;
        Ok(self.fitted.get_or_init(|| map))
    }

    fn fit(&self, cancel: &Cancel) -> Result<ColourMap, Error> {
        let side = SIDE * self.pixels();
        let samples = dead_leaves(PICTURES, side);
        let channels = self.vae.config().latent_channels;
        let mut equations = Equations::new(NEIGHBOURHOOD * channels + 1);
        // One at a time, as the encoder's activations are large.
        for picture in samples.chunks(3 * side * side) {
            let data = TensorData::new(picture.to_vec(), [1, 3, side, side]);
            let picture_there = Tensor::from_data(data, &self.device);
            let encoded = self.vae.encode_unless(picture_there, false, cancel)?;
            let latents = values(self.vae.scale(encoded.mean));
            if latents.iter().any(|value| !value.is_finite()) {
                return Err(Error::NotFinite);
            }
            for element in 0..SIDE * SIDE {
                let known = neighbourhood(&latents, [SIDE, SIDE], element);
                equations.add(known.collect(), mean_colour(picture, side, element));
            }
        }
        Ok(equations.solve())
    }
}

/// The mean colour of the pixels that an element of the latents stands for.
fn mean_colour(picture: &[f32], side: usize, element: usize) -> [f64; 3] {
    let pixels = side / SIDE;
    let (top, left) = (element / SIDE * pixels, element % SIDE * pixels);
    [0, 1, 2].map(|channel| {
        let rows = (0..pixels).map(|row| (channel * side + top + row) * side + left);
        let sum: f64 = rows
            .flat_map(|start| &picture[start..start + pixels])
            .map(|sample| f64::from(*sample))
            .sum();
        sum / (pixels * pixels) as f64
    })
}

/// The channels of an element of `[channels, height, width]` and of its neighbours; at an edge, the element next to it again.
/// Behind them comes a 1.
fn neighbourhood(
    latents: &[f32],
    [height, width]: [usize; 2],
    element: usize,
) -> impl Iterator<Item = f64> {
    let around =
        |place: usize, length: usize| [place.saturating_sub(1), place, (place + 1).min(length - 1)];
    let rows = around(element / width, height);
    let columns = around(element % width, width);
    latents
        .chunks(height * width)
        .flat_map(move |plane| {
            let row = move |row| columns.map(|column| f64::from(plane[row * width + column]));
            rows.into_iter().flat_map(row)
        })
        .chain([1.0])
}

/// Red, green and blue, from -1 to 1, as linear functions of the denoiser's latents.
#[derive(Debug, PartialEq)]
pub(crate) struct ColourMap {
    /// For each colour, the factors on a [`neighbourhood`].
    weights: [Vec<f64>; 3],
}

impl ColourMap {
    /// `[3, height, width]` of the latents of one picture, `[channels, height, width]`.
    pub fn samples(&self, latents: &[f32], size: [usize; 2]) -> Vec<f32> {
        let plane = size[0] * size[1];
        let mut samples = vec![0.0; 3 * plane];
        for element in 0..plane {
            for (channel, weights) in self.weights.iter().enumerate() {
                let known = neighbourhood(latents, size, element);
                let sum: f64 = known
                    .zip(weights)
                    .map(|(value, weight)| value * weight)
                    .sum();
                samples[channel * plane + element] = sum as f32;
            }
        }
        samples
    }
}

/// The normal equations of a least-squares fit of three colours.
struct Equations {
    /// Sums of products of features, and of features with the colours.
    rows: Vec<Vec<f64>>,
}

impl Equations {
    fn new(unknowns: usize) -> Self {
        let row = |index| {
            let mut row = vec![0.0; unknowns + 3];
            row[index] = RIDGE;
            row
        };
        Self {
            rows: (0..unknowns).map(row).collect(),
        }
    }

    /// One more element: what is known of it, and its colour.
    fn add(&mut self, mut known: Vec<f64>, colour: [f64; 3]) {
        let unknowns = known.len();
        known.extend(colour);
        for (row, factor) in self.rows.iter_mut().zip(&known[..unknowns]) {
            for (sum, value) in row.iter_mut().zip(&known) {
                *sum += factor * value;
            }
        }
    }

    /// By elimination, without exchanging rows: the matrix is positive definite.
    fn solve(mut self) -> ColourMap {
        let unknowns = self.rows.len();
        for pivot in 0..unknowns {
            let scale = self.rows[pivot][pivot];
            self.rows[pivot]
                .iter_mut()
                .for_each(|value| *value /= scale);
            let (above, rest) = self.rows.split_at_mut(pivot);
            let (row, below) = rest.split_first_mut().expect("the pivot is one of them");
            for other in above.iter_mut().chain(below) {
                let factor = other[pivot];
                for (value, eliminated) in other.iter_mut().zip(&*row) {
                    *value -= factor * eliminated;
                }
            }
        }
        let column = |colour| self.rows.iter().map(|row| row[unknowns + colour]).collect();
        ColourMap {
            weights: [0, 1, 2].map(column),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of colours that are linear in the latents, the fit finds the function again; a channel that never changes counts for nothing.
    #[test]
    fn least_squares_find_a_linear_map_again() {
        let (channels, size) = (2, [30, 20]);
        let unknowns = NEIGHBOURHOOD * channels + 1;
        let weight = |colour: usize, index: usize| match index {
            NEIGHBOURHOOD..18 => 0.0,
            _ => ((7 * index + 3 * colour) % 11) as f64 / 10.0 - 0.5,
        };
        let row = |colour| (0..unknowns).map(|index| weight(colour, index)).collect();
        let map = ColourMap {
            weights: [row(0), row(1), row(2)],
        };
        let changes =
            (0..size[0] * size[1]).map(|index| ((index * index) % 61) as f32 / 30.0 - 1.0);
        let latents: Vec<f32> = changes.chain(vec![0.0; size[0] * size[1]]).collect();
        let samples = map.samples(&latents, size);
        let mut equations = Equations::new(unknowns);
        for element in 0..size[0] * size[1] {
            let known = neighbourhood(&latents, size, element).collect();
            let colour = |channel: usize| f64::from(samples[channel * size[0] * size[1] + element]);
            equations.add(known, [0, 1, 2].map(colour));
        }
        let found = equations.solve();
        for (found, expected) in found.weights.iter().zip(&map.weights) {
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }

    #[test]
    fn at_an_edge_the_element_next_to_it_counts_again() {
        let latents: Vec<f32> = (0..6_u8).map(f32::from).collect();
        let found: Vec<f64> = neighbourhood(&latents, [2, 3], 0).collect();
        assert_eq!(found, [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 3.0, 3.0, 4.0, 1.0]);
    }
}

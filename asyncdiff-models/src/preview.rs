//! Pictures of unfinished latents.

mod colours;
mod leaves;

use std::sync::Arc;

use crate::cancel::Cancel;
use crate::error::Error;
use crate::image::Image;
use crate::tensors::{Clean, Latents, values};

pub(crate) use colours::Colours;

/// The longest side that a preview is enlarged to, in pixels: larger ones show nothing more.
const LONGEST: usize = 512;

/// Makes small pictures of what a run is going to make, for use in [`Progress::predicted`](crate::Progress::predicted).
///
/// A denoiser call predicts the noise in its latents, and so the picture without it: blurred at first, all but the result at last.
/// The decoder is not asked. The mean colour of the pixels that an element of the latents stands for is close to a linear function of
/// it and its neighbours; that function is fitted when the first picture is asked for, to a few pictures that the autoencoder's own
/// encoder encodes. What the run computes stays the same to the last bit.
#[derive(Clone, Debug)]
pub struct Previewer {
    colours: Arc<Colours>,
    cancel: Cancel,
}

impl Previewer {
    pub(crate) fn new(colours: Arc<Colours>) -> Self {
        Self {
            colours,
            cancel: Cancel::default(),
        }
    }

    /// The same, that gives up as soon as `cancel` asks for it.
    #[must_use]
    pub fn heeding(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// The pictures of latents without noise, as [`Progress::predicted`](crate::Progress::predicted) gets them: one for each row,
    /// as large as the result or half, a quarter … of it, so that no side is longer than 512 pixels.
    ///
    /// # Errors
    ///
    /// As [`Previewer::pictures_of`].
    pub fn pictures(&self, clean: &Clean<'_>) -> Result<Vec<Image>, Error> {
        self.pictures_of(clean.latents())
    }

    /// The picture of one row alone.
    ///
    /// # Errors
    ///
    /// As [`Previewer::pictures_of`].
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn picture(&self, clean: &Clean<'_>, row: usize) -> Result<Image, Error> {
        let mut pictures = self.pictures_of(clean.latents().narrow(0, row, 1))?;
        Ok(pictures.remove(0))
    }

    /// The same of any of the denoiser's latents, `[batch, channels, height, width]`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`]; [`Error::Cancelled`], where that is [heeded](Self::heeding).
    pub fn pictures_of(&self, latents: Latents) -> Result<Vec<Image>, Error> {
        let map = self.colours.map(&self.cancel)?;
        let [_, channels, height, width] = latents.dims();
        let factor = enlargement(height.max(width), self.colours.pixels());
        let values = values(latents);
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::NotFinite);
        }
        let rows = values.chunks((channels * height * width).max(1));
        let picture = |row| {
            let samples = map.samples(row, [height, width]);
            let samples = enlarged(&samples, [height, width], factor);
            Image::from_samples(&samples, [3, factor * height, factor * width])
        };
        Ok(rows.map(picture).collect::<Result<_, _>>()?)
    }
}

/// How many pixels to a side of an element, of the `most` that it stands for in the result.
fn enlargement(longest: usize, most: usize) -> usize {
    let mut factor = most;
    while factor > 1 && factor * longest > LONGEST {
        factor /= 2;
    }
    factor
}

/// Planes of `[height, width]`, `factor` times as high and wide, with straight lines between the centres of elements.
fn enlarged(planes: &[f32], [height, width]: [usize; 2], factor: usize) -> Vec<f32> {
    let places = |length: usize| -> Vec<(usize, usize, f32)> {
        let place = |index: usize| {
            let last = length - 1;
            let centre = ((index as f32 + 0.5) / factor as f32 - 0.5).clamp(0.0, last as f32);
            let before = (centre as usize).min(last);
            (before, (before + 1).min(last), centre - before as f32)
        };
        (0..factor * length).map(place).collect()
    };
    let (rows, columns) = (places(height), places(width));
    let mix = |a: f32, b: f32, share: f32| a + (b - a) * share;
    let mut result = Vec::with_capacity(planes.len() * factor * factor);
    for plane in planes.chunks(height * width) {
        for &(above, below, down) in &rows {
            let at = |row: usize, column: usize| plane[row * width + column];
            result.extend(columns.iter().map(|&(left, right, along)| {
                let above = mix(at(above, left), at(above, right), along);
                mix(above, mix(at(below, left), at(below, right), along), down)
            }));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The centres of the pixels are a quarter before and a quarter behind that of their element, and outside those at the edges.
    #[test]
    fn planes_are_enlarged_along_straight_lines() {
        let enlarged = enlarged(&[0.0, 4.0, 8.0, 0.0, 2.0, 4.0], [1, 3], 2);
        let row = [0.0, 1.0, 3.0, 5.0, 7.0, 8.0];
        let half = row.map(|value| value / 2.0);
        assert_eq!(enlarged, [row, row, half, half].concat());
    }

    #[test]
    fn previews_are_no_larger_than_the_result_and_512_pixels() {
        assert_eq!(enlargement(16, 4), 4);
        assert_eq!(enlargement(64, 8), 8);
        assert_eq!(enlargement(96, 8), 4);
        assert_eq!(enlargement(128, 8), 4);
        assert_eq!(enlargement(1000, 8), 1);
    }
}

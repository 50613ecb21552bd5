//! Pictures of another size, as Pillow makes them.

use super::{Image, ImageError};

/// Fractional bits of the filter's weights: what 32 bits leave beside 8 of a sample, and 2 for sums beyond its range.
const FRACTION_BITS: u32 = 22;
/// Zero crossings of the filter on each side.
const LOBES: f64 = 3.0;

impl Image {
    /// The picture at another size, by Pillow's `resize` with the Lanczos filter, bit for bit as up to version 12 (later ones take
    /// the columns first for some sizes, and round otherwise). diffusers brings pictures to the size of the result this way.
    ///
    /// # Errors
    ///
    /// [`ImageError::Bytes`] for a picture that is inconsistent, [`ImageError::NoPixels`] for one without pixels, or for a size
    /// without any.
    pub fn resized(&self, width: usize, height: usize) -> Result<Self, ImageError> {
        self.check()?;
        if [self.width, self.height, width, height].contains(&0) {
            return Err(ImageError::NoPixels);
        }
        let mut picture = self.clone();
        // Rows first, and a step that changes nothing is left out, as the bytes between the two are rounded.
        if width != self.width {
            let windows = windows(self.width, width);
            let rows = picture.rgb.chunks(3 * self.width);
            picture.rgb = rows.flat_map(|row| across(row, &windows)).collect();
            picture.width = width;
        }
        if height != self.height {
            let windows = windows(self.height, height);
            picture.rgb = windows
                .iter()
                .flat_map(|window| down(&picture.rgb, 3 * width, window))
                .collect();
            picture.height = height;
        }
        Ok(picture)
    }
}

/// The samples that a sample of the result is made from.
struct Window {
    first: usize,
    /// The weights of that sample and those behind it, in fixed point.
    weights: Vec<i32>,
}

fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    // What shrinks is filtered as wide as it shrinks.
    let stretch = scale.max(1.0);
    let reach = LOBES * stretch;
    let window = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        let weight = |sample: usize| lanczos((sample as f64 - centre + 0.5) / stretch);
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / sum * f64::from(1 << FRACTION_BITS)).round() as i32;
        Window {
            first,
            weights: weights.iter().map(fixed).collect(),
        }
    };
    (0..to).map(window).collect()
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| match x {
        0.0 => 1.0,
        _ => (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x),
    };
    if (-LOBES..LOBES).contains(&x) {
        sinc(x) * sinc(x / LOBES)
    } else {
        0.0
    }
}

/// A row of RGB pixels at another width.
fn across(row: &[u8], windows: &[Window]) -> Vec<u8> {
    let pixel = |window: &Window| {
        let pixels = &row[3 * window.first..];
        [0, 1, 2].map(|channel| {
            let samples = pixels[channel..].iter().step_by(3);
            weigh(samples, &window.weights)
        })
    };
    windows.iter().flat_map(pixel).collect()
}

/// A row of the result, from the rows of `length` bytes that `window` names.
fn down(bytes: &[u8], length: usize, window: &Window) -> Vec<u8> {
    let column = |column: usize| {
        let samples = bytes[window.first * length + column..]
            .iter()
            .step_by(length);
        weigh(samples, &window.weights)
    };
    (0..length).map(column).collect()
}

fn weigh<'a>(samples: impl Iterator<Item = &'a u8>, weights: &[i32]) -> u8 {
    let half = 1 << (FRACTION_BITS - 1);
    let sum = samples.zip(weights).fold(half, |sum, (sample, weight)| {
        sum + i32::from(*sample) * weight
    });
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

//! A picture in memory.

mod resize;

use serde::{Deserialize, Serialize};

/// An 8-bit RGB picture. Files are the caller's business.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Pixels per row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// Red, green and blue of every pixel, row by row from the top: `height * width * 3` bytes.
    pub rgb: Vec<u8>,
}

/// An 8-bit grey picture that says which part of another picture is to be painted anew: white (128 and more) is painted,
/// black is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mask {
    /// Pixels per row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// The grey value of every pixel, row by row from the top: `height * width` bytes.
    pub grey: Vec<u8>,
}

impl Mask {
    /// Whether the pixel in row `y` is to be painted.
    ///
    /// # Panics
    ///
    /// If the pixel is outside the mask, or there are fewer bytes than the size says.
    #[must_use]
    pub fn paints(&self, y: usize, x: usize) -> bool {
        self.grey[y * self.width + x] >= 128
    }
}

/// Why a picture cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Other than three channels.
    #[error(
        "a picture has 3 channels, found {0}: is this a latent that has not been through the VAE?"
    )]
    Channels(usize),
    /// Samples and shape do not agree.
    #[error("a picture of shape {shape:?} has {} samples, found {found}", shape.iter().product::<usize>())]
    Samples {
        /// `[channels, height, width]` asked for.
        shape: [usize; 3],
        /// Number of samples given.
        found: usize,
    },
    /// Pictures of several heights cannot stand side by side.
    #[error("pictures side by side need one height: the first has {first} rows, another {other}")]
    Heights {
        /// Height of the first picture.
        first: usize,
        /// Height of the first that differs.
        other: usize,
    },
    /// The bytes of a picture do not agree with its size.
    #[error("a picture of {width} by {height} pixels has {} bytes, found {found}", width * height * 3)]
    Bytes {
        /// Pixels per row.
        width: usize,
        /// Number of rows.
        height: usize,
        /// Number of bytes given.
        found: usize,
    },
    /// A picture, or a size asked for, that has no pixels.
    #[error(
        "a picture without pixels cannot be resized, nor one be made from it: give a width and height of at least 1"
    )]
    NoPixels,
    /// No picture at all.
    #[error("no picture to put side by side: give at least one")]
    Empty,
}

impl Image {
    /// A picture from what a VAE decodes: samples from -1 (black) to 1, channel by channel, `shape` being
    /// `[3, height, width]`.
    ///
    /// Values outside the range are clamped, and halves go to the even byte, as in diffusers (`VaeImageProcessor`);
    /// not-a-number becomes black.
    ///
    /// # Errors
    ///
    /// [`ImageError::Channels`], or [`ImageError::Samples`] if there are not as many samples as the shape says.
    pub fn from_samples(samples: &[f32], shape: [usize; 3]) -> Result<Self, ImageError> {
        let [channels, height, width] = shape;
        if channels != 3 {
            return Err(ImageError::Channels(channels));
        }
        let found = samples.len();
        if found != channels * height * width {
            return Err(ImageError::Samples { shape, found });
        }
        let plane = height * width;
        let rgb = (0..plane)
            .flat_map(|pixel| {
                (0..channels).map(move |channel| to_byte(samples[channel * plane + pixel]))
            })
            .collect();
        Ok(Self { width, height, rgb })
    }

    /// What a VAE encodes: samples from -1 (black) to 1, channel by channel, `[3, height, width]`.
    #[must_use]
    pub fn to_samples(&self) -> Vec<f32> {
        let channel = |channel| self.rgb.iter().skip(channel).step_by(3);
        (0..3)
            .flat_map(channel)
            .map(|byte| f32::from(*byte) / 255.0 * 2.0 - 1.0)
            .collect()
    }

    /// The pictures from left to right in one, without a gap.
    ///
    /// # Errors
    ///
    /// [`ImageError::Empty`], [`ImageError::Heights`], or [`ImageError::Bytes`] if a picture is inconsistent.
    pub fn beside(images: &[&Self]) -> Result<Self, ImageError> {
        let first = images.first().ok_or(ImageError::Empty)?;
        for image in images {
            image.check()?;
            if image.height != first.height {
                return Err(ImageError::Heights {
                    first: first.height,
                    other: image.height,
                });
            }
        }
        let rgb = (0..first.height)
            .flat_map(|y| images.iter().flat_map(move |image| image.row(y)))
            .copied()
            .collect();
        Ok(Self {
            width: images.iter().map(|image| image.width).sum(),
            height: first.height,
            rgb,
        })
    }

    /// Whether there are as many bytes as the size says.
    pub(crate) fn check(&self) -> Result<(), ImageError> {
        let &Self { width, height, .. } = self;
        let found = self.rgb.len();
        if found == width * height * 3 {
            Ok(())
        } else {
            Err(ImageError::Bytes {
                width,
                height,
                found,
            })
        }
    }

    fn row(&self, y: usize) -> &[u8] {
        &self.rgb[y * self.width * 3..(y + 1) * self.width * 3]
    }
}

fn to_byte(sample: f32) -> u8 {
    ((sample * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

#[cfg(test)]
mod tests {
    use super::{Image, ImageError};

    /// Expected bytes from torch 2.15.0 and numpy 2.4.6: `((x * 0.5 + 0.5).clamp(0, 1).numpy() * 255).round()`.
    #[test]
    fn samples_become_the_bytes_that_diffusers_makes() {
        let samples = [
            -2.0,
            -1.0,
            -0.999,
            -0.5,
            -0.003_921_569,
            0.0,
            0.25,
            0.5,
            0.9,
            0.9999,
            1.0,
            3.0,
        ];
        let image = Image::from_samples(&samples, [3, 2, 2]).unwrap();
        let planes: Vec<u8> = (0..3)
            .flat_map(|c| image.rgb.iter().skip(c).step_by(3).copied())
            .collect();
        assert_eq!(
            planes,
            [0, 0, 0, 64, 127, 128, 159, 191, 242, 255, 255, 255]
        );
        assert_eq!(
            Image::from_samples(&[f32::NAN; 3], [3, 1, 1]).unwrap().rgb,
            [0, 0, 0]
        );
    }

    #[test]
    fn wrong_shapes_are_errors() {
        assert_eq!(
            Image::from_samples(&[0.0; 16], [4, 2, 2]),
            Err(ImageError::Channels(4))
        );
        let error = Image::from_samples(&[0.0; 11], [3, 2, 2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a picture of shape [3, 2, 2] has 12 samples, found 11"
        );
    }

    #[test]
    fn pictures_stand_side_by_side() {
        let picture = |width, height, first: u8| Image {
            width,
            height,
            rgb: (first..).take(width * height * 3).collect(),
        };
        let (left, right) = (picture(1, 2, 0), picture(2, 2, 100));
        let both = Image::beside(&[&left, &right]).unwrap();
        assert_eq!((both.width, both.height), (3, 2));
        assert_eq!(both.rgb[..9], [0, 1, 2, 100, 101, 102, 103, 104, 105]);
        assert_eq!(both.rgb[9..], [3, 4, 5, 106, 107, 108, 109, 110, 111]);
        let tall = picture(1, 3, 0);
        assert_eq!(
            Image::beside(&[&left, &tall]),
            Err(ImageError::Heights { first: 2, other: 3 })
        );
        assert_eq!(Image::beside(&[]), Err(ImageError::Empty));
        let torn = Image {
            rgb: vec![0; 5],
            ..left.clone()
        };
        assert!(matches!(
            Image::beside(&[&left, &torn]),
            Err(ImageError::Bytes { found: 5, .. })
        ));
    }
}

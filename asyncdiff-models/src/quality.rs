//! How close a result is to its reference: the quality column beside every speed-up.

use crate::image::{Image, ImageError};

/// Why two results cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QualityError {
    /// Pictures of two sizes.
    #[error(
        "pictures to compare need one size, found {width} by {height} and {other_width} by {other_height} pixels"
    )]
    Sizes {
        /// Width of the first.
        width: usize,
        /// Height of the first.
        height: usize,
        /// Width of the second.
        other_width: usize,
        /// Height of the second.
        other_height: usize,
    },
    /// A picture smaller than the window of the structural similarity, or without a pixel.
    #[error(
        "a picture of {width} by {height} pixels is too small to compare, it needs {least} by {least}"
    )]
    TooSmall {
        /// Width.
        width: usize,
        /// Height.
        height: usize,
        /// Least width and height.
        least: usize,
    },
    /// Videos of two lengths, or without a frame.
    #[error(
        "videos to compare need one length of at least one frame, found {found} frames and {reference} in the reference"
    )]
    Frames {
        /// Frames to judge.
        found: usize,
        /// Frames of the reference.
        reference: usize,
    },
    /// Tensors of two lengths.
    #[error(
        "tensors to compare need one length, found {found} values and {reference} in the reference"
    )]
    Lengths {
        /// Values to judge.
        found: usize,
        /// Values in the reference.
        reference: usize,
    },
    /// A picture contradicts itself.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Peak signal-to-noise ratio in decibels, over all three channels together; infinite for equal pictures.
///
/// # Errors
///
/// [`QualityError`] if the pictures differ in size or have no pixel.
pub fn psnr(a: &Image, b: &Image) -> Result<f64, QualityError> {
    video_psnr(std::slice::from_ref(a), std::slice::from_ref(b))
}

/// Peak signal-to-noise ratio in decibels of samples that go from -1 to 1; infinite for equal ones. Unlike [`psnr`], it sees
/// differences that are smaller than a step between two bytes: such rounding alone makes some 59 dB.
///
/// # Errors
///
/// [`QualityError::Lengths`].
pub fn psnr_of_samples(a: &[f32], reference: &[f32]) -> Result<f64, QualityError> {
    if a.len() != reference.len() || a.is_empty() {
        return Err(QualityError::Lengths {
            found: a.len(),
            reference: reference.len(),
        });
    }
    let pairs = a.iter().zip(reference);
    let squares = pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    let mean = squares.sum::<f64>() / a.len() as f64;
    Ok(10.0 * (4.0 / mean).log10())
}

/// [`psnr`] of videos, over all frames together.
///
/// # Errors
///
/// [`QualityError`] if the videos differ in length, their frames in size, or there is no pixel.
pub fn video_psnr(a: &[Image], b: &[Image]) -> Result<f64, QualityError> {
    let (mut squares, mut count) = (0, 0);
    for (a, b) in frames(a, b)? {
        check(a, b, 1)?;
        let pairs = a.rgb.iter().zip(&b.rgb);
        squares += pairs
            .map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2))
            .sum::<u64>();
        count += a.rgb.len();
    }
    let mean = squares as f64 / count as f64;
    Ok(10.0 * (PEAK * PEAK / mean).log10())
}

fn frames<'a>(
    a: &'a [Image],
    b: &'a [Image],
) -> Result<impl ExactSizeIterator<Item = (&'a Image, &'a Image)>, QualityError> {
    if a.len() != b.len() || a.is_empty() {
        return Err(QualityError::Frames {
            found: a.len(),
            reference: b.len(),
        });
    }
    Ok(a.iter().zip(b))
}

/// Structural similarity (Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural
/// Similarity"): 1 for equal pictures, about 0 for unrelated ones.
///
/// Gaussian window of 11 by 11 pixels (sigma 1.5), K1 = 0.01, K2 = 0.03; the mean over the three channels and all places
/// where the window fits. This is scikit-image's `structural_similarity(a, b, gaussian_weights=True, sigma=1.5,
/// use_sample_covariance=False, data_range=255, channel_axis=2)`.
///
/// # Errors
///
/// [`QualityError`] if the pictures differ in size or are smaller than the window.
pub fn ssim(a: &Image, b: &Image) -> Result<f64, QualityError> {
    check(a, b, WINDOW)?;
    let window = gaussian();
    let total: f64 = (0..3)
        .map(|channel| channel_ssim(a, b, channel, &window))
        .sum();
    Ok(total / 3.0)
}

/// [`ssim`] of videos, the mean over their frames.
///
/// # Errors
///
/// [`QualityError`] if the videos differ in length, their frames in size, or frames are smaller than the window.
pub fn video_ssim(a: &[Image], b: &[Image]) -> Result<f64, QualityError> {
    let frames = frames(a, b)?;
    let count = frames.len() as f64;
    let total = frames.map(|(a, b)| ssim(a, b)).sum::<Result<f64, _>>()?;
    Ok(total / count)
}

/// `‖a - reference‖₂ / ‖reference‖₂`; for a reference of zeros, 0 if `a` is zero too and infinite otherwise.
///
/// # Errors
///
/// [`QualityError::Lengths`].
pub fn relative_error(a: &[f32], reference: &[f32]) -> Result<f64, QualityError> {
    if a.len() != reference.len() {
        return Err(QualityError::Lengths {
            found: a.len(),
            reference: reference.len(),
        });
    }
    let square = |x: f64| x * x;
    let error: f64 = a
        .iter()
        .zip(reference)
        .map(|(&a, &b)| square(f64::from(a) - f64::from(b)))
        .sum();
    let norm: f64 = reference.iter().map(|&b| square(f64::from(b))).sum();
    Ok(if error == 0.0 {
        0.0
    } else {
        (error / norm).sqrt()
    })
}

const PEAK: f64 = 255.0;
const WINDOW: usize = 11;

/// Whether pictures of that size can be compared by [`ssim`].
///
/// # Errors
///
/// [`QualityError::TooSmall`].
pub fn check_size(width: usize, height: usize) -> Result<(), QualityError> {
    at_least(width, height, WINDOW)
}

fn at_least(width: usize, height: usize, least: usize) -> Result<(), QualityError> {
    if width < least || height < least {
        return Err(QualityError::TooSmall {
            width,
            height,
            least,
        });
    }
    Ok(())
}

fn check(a: &Image, b: &Image, least: usize) -> Result<(), QualityError> {
    a.check()?;
    b.check()?;
    let &Image { width, height, .. } = a;
    if (width, height) != (b.width, b.height) {
        return Err(QualityError::Sizes {
            width,
            height,
            other_width: b.width,
            other_height: b.height,
        });
    }
    at_least(width, height, least)
}

fn gaussian() -> [f64; WINDOW] {
    let weights: [f64; WINDOW] = std::array::from_fn(|i| {
        let distance = i as f64 - (WINDOW / 2) as f64;
        (-0.5 * (distance / 1.5).powi(2)).exp()
    });
    let sum: f64 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

fn channel_ssim(a: &Image, b: &Image, channel: usize, window: &[f64; WINDOW]) -> f64 {
    let plane = |image: &Image| -> Vec<f64> {
        image
            .rgb
            .iter()
            .skip(channel)
            .step_by(3)
            .map(|&byte| f64::from(byte))
            .collect()
    };
    let (a, b, width) = (plane(a), plane(b), a.width);
    let mean_of = |x: &[f64], y: &[f64]| -> Vec<f64> {
        let product: Vec<f64> = x.iter().zip(y).map(|(x, y)| x * y).collect();
        blur(&product, width, window)
    };
    let (mean_a, mean_b) = (blur(&a, width, window), blur(&b, width, window));
    let (mean_aa, mean_bb, mean_ab) = (mean_of(&a, &a), mean_of(&b, &b), mean_of(&a, &b));
    let (c1, c2) = ((0.01 * PEAK).powi(2), (0.03 * PEAK).powi(2));
    let places = mean_a.len();
    let total: f64 = (0..places)
        .map(|i| {
            let (ma, mb) = (mean_a[i], mean_b[i]);
            let variances = mean_aa[i] - ma * ma + mean_bb[i] - mb * mb;
            let covariance = mean_ab[i] - ma * mb;
            (2.0 * ma * mb + c1) * (2.0 * covariance + c2)
                / ((ma * ma + mb * mb + c1) * (variances + c2))
        })
        .sum();
    total / places as f64
}

/// Weighted mean at every place where the window fits, one axis after the other.
fn blur(plane: &[f64], width: usize, window: &[f64; WINDOW]) -> Vec<f64> {
    let dot = |values: &mut dyn Iterator<Item = f64>| -> f64 {
        values
            .zip(window)
            .map(|(value, weight)| value * weight)
            .sum()
    };
    let rows: Vec<f64> = plane
        .chunks_exact(width)
        .flat_map(|row| row.windows(WINDOW))
        .map(|values| dot(&mut values.iter().copied()))
        .collect();
    let width = width - (WINDOW - 1);
    (0..rows.len() - (WINDOW - 1) * width)
        .map(|start| dot(&mut rows[start..].iter().copied().step_by(width)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize, value: fn(usize, usize, usize) -> usize) -> Image {
        let rgb = (0..height * width * 3)
            .map(|i| value(i / 3 % width, i / 3 / width, i % 3) as u8)
            .collect();
        Image { width, height, rgb }
    }

    fn original(x: usize, y: usize, c: usize) -> usize {
        (3 * x * x + 7 * y + x * y + 40 * c) % 256
    }

    fn near(x: usize, y: usize, c: usize) -> usize {
        (original(x, y, c) + (5 * x + 3 * y + 11 * c) % 17)
            .saturating_sub(8)
            .min(255)
    }

    fn far(x: usize, y: usize, c: usize) -> usize {
        original(x, y, c) / 2 + (37 * x + 91 * y + 53 * c) % 128
    }

    /// From scikit-image 0.26.0: `peak_signal_noise_ratio(a, b, data_range=255)` and the call that [`ssim`] names.
    #[test]
    fn equals_scikit_image() {
        for (width, height, changed, decibels, similarity) in [
            (
                32,
                24,
                near as fn(usize, usize, usize) -> usize,
                34.425_261_526_855,
                0.997_847_713_750,
            ),
            (32, 24, far, 13.705_940_591_438, 0.657_548_748_362),
            (11, 11, near, 34.407_669_720_269, 0.996_798_088_436),
            (11, 11, far, 14.196_013_639_314, 0.540_115_305_610),
            (40, 13, near, 34.463_461_929_644, 0.997_896_515_965),
            (40, 13, far, 13.841_360_708_323, 0.652_769_101_247),
        ] {
            let (a, b) = (
                picture(width, height, original),
                picture(width, height, changed),
            );
            assert!(
                (psnr(&a, &b).unwrap() - decibels).abs() < 1e-9,
                "{width} by {height}: {:?}",
                psnr(&a, &b)
            );
            assert!(
                (ssim(&a, &b).unwrap() - similarity).abs() < 1e-9,
                "{width} by {height}: {:?}",
                ssim(&a, &b)
            );
        }
    }

    #[test]
    fn videos_are_judged_by_all_their_frames() {
        let (a, b) = (picture(32, 24, original), picture(32, 24, near));
        let (reference, found) = ([a.clone(), a.clone()], [a.clone(), b.clone()]);
        // Half the error of the frame that differs.
        let half = psnr(&a, &b).unwrap() + 10.0 * 2.0_f64.log10();
        assert!((video_psnr(&found, &reference).unwrap() - half).abs() < 1e-9);
        let mean = (1.0 + ssim(&a, &b).unwrap()) / 2.0;
        assert!((video_ssim(&found, &reference).unwrap() - mean).abs() < 1e-9);
        let longer = QualityError::Frames {
            found: 2,
            reference: 1,
        };
        assert_eq!(video_psnr(&found, &reference[..1]), Err(longer.clone()));
        assert_eq!(video_ssim(&found, &reference[..1]), Err(longer));
        assert!(video_ssim(&[], &[]).is_err());
    }

    #[test]
    fn equal_pictures_are_perfect() {
        let a = picture(20, 12, original);
        assert_eq!(psnr(&a, &a), Ok(f64::INFINITY));
        assert!((ssim(&a, &a).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn pictures_that_cannot_be_compared_are_errors() {
        let (a, small) = (picture(20, 12, original), picture(20, 10, original));
        let error = psnr(&a, &small).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pictures to compare need one size, found 20 by 12 and 20 by 10 pixels"
        );
        assert!(matches!(
            ssim(&small, &small),
            Err(QualityError::TooSmall { least: 11, .. })
        ));
        let empty = picture(0, 0, original);
        assert!(matches!(
            psnr(&empty, &empty),
            Err(QualityError::TooSmall { .. })
        ));
        let torn = Image {
            rgb: vec![0; 7],
            ..a.clone()
        };
        assert!(matches!(ssim(&torn, &torn), Err(QualityError::Image(_))));
    }

    #[test]
    fn relative_error_is_relative_to_the_reference() {
        assert_eq!(relative_error(&[3.0, 5.0], &[3.0, 4.0]), Ok(0.2));
        assert_eq!(relative_error(&[0.0], &[0.0]), Ok(0.0));
        assert_eq!(relative_error(&[1.0], &[0.0]), Ok(f64::INFINITY));
        assert!(relative_error(&[1.0], &[]).is_err());
    }
}

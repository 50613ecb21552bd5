//! What a mask keeps of a picture goes over the result, as web UIs do it: what is kept stays to the last bit.

use asyncdiff_models::image::{Image, Mask};

use crate::pictures::{cropped, grey, resized};
use crate::refusal::Refusal;

/// Part of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl Region {
    /// All of it.
    pub fn whole(image: &Image) -> Self {
        Self {
            left: 0,
            top: 0,
            width: image.width,
            height: image.height,
        }
    }

    /// What a mask repaints and some pixels around it, with the proportions of `size` as far as the picture reaches. `None` for a
    /// mask that repaints nothing.
    pub fn around(mask: &Mask, padding: usize, size: (usize, usize)) -> Option<Self> {
        let paints = |index: &usize| mask.grey[*index] >= 128;
        let all = || (0..mask.grey.len()).filter(paints);
        let (columns, rows) = (
            all().map(|index| index % mask.width),
            all().map(|index| index / mask.width),
        );
        let (left, right) = (columns.clone().min()?, columns.max()?);
        let (top, bottom) = (rows.clone().min()?, rows.max()?);
        let (left, right) = padded((left, right), padding, mask.width);
        let (top, bottom) = padded((top, bottom), padding, mask.height);
        let (width, height) = (right - left, bottom - top);
        // The side that is too short grows.
        let wanted_width = (height * size.0).div_ceil(size.1.max(1));
        let wanted_height = (width * size.1).div_ceil(size.0.max(1));
        let (left, width) = grown((left, width), wanted_width, mask.width);
        let (top, height) = grown((top, height), wanted_height, mask.height);
        Some(Self {
            left,
            top,
            width,
            height,
        })
    }

    /// That part of a picture.
    pub fn of(&self, image: &Image) -> Image {
        cropped(image, (self.left, self.top), (self.width, self.height))
    }

    /// That part of a mask.
    pub fn of_mask(&self, mask: &Mask) -> Mask {
        let part = self.of(&grey(mask));
        Mask {
            width: part.width,
            height: part.height,
            grey: part.rgb.iter().step_by(3).copied().collect(),
        }
    }
}

fn padded((first, last): (usize, usize), padding: usize, most: usize) -> (usize, usize) {
    (
        first.saturating_sub(padding),
        (last + 1).saturating_add(padding).min(most),
    )
}

fn grown((start, length): (usize, usize), wanted: usize, most: usize) -> (usize, usize) {
    let wanted = wanted.clamp(length, most.max(length));
    let start = start.saturating_sub((wanted - length) / 2);
    (start.min(most - wanted), wanted)
}

/// What goes over a result.
#[derive(Debug)]
pub(super) struct Overlay {
    image: Image,
    /// How much of the result shows, of 255, for each pixel.
    shows: Vec<u8>,
    region: Region,
}

impl Overlay {
    /// The picture where the mask, blurred by so many pixels, keeps it.
    pub fn new(image: Image, mask: &Mask, region: Region, blur: usize) -> Self {
        Self {
            shows: blurred(mask, blur),
            image,
            region,
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.image.rgb.len() + self.shows.len()
    }

    /// The result with the picture over it.
    pub fn put(&self, result: Image) -> Result<Image, Refusal> {
        // The result may have another size than its picture: then its picture follows it, as long as it is all of it.
        let whole = self.region == Region::whole(&self.image);
        let size = (result.width, result.height);
        let (under, shows) = match whole {
            true => {
                let shows = Mask {
                    width: self.image.width,
                    height: self.image.height,
                    grey: self.shows.clone(),
                };
                let shows = crate::pictures::resized_mask(shows, size)?;
                (resized(self.image.clone(), size)?, shows.grey)
            }
            false => (self.image.clone(), self.shows.clone()),
        };
        let region = match whole {
            true => Region::whole(&result),
            false => self.region,
        };
        let result = resized(result, (region.width, region.height))?;
        let mut image = under;
        for y in 0..region.height {
            for x in 0..region.width {
                let from = 3 * (y * region.width + x);
                let pixel = (region.top + y) * image.width + region.left + x;
                let share = u32::from(shows[pixel]);
                for channel in 0..3 {
                    let (new, old) = (
                        result.rgb[from + channel],
                        &mut image.rgb[3 * pixel + channel],
                    );
                    let sum = u32::from(new) * share + u32::from(*old) * (255 - share);
                    *old = ((sum + 127) / 255) as u8;
                }
            }
        }
        Ok(image)
    }
}

/// The mask with a Gaussian of that deviation over it, each side for itself.
fn blurred(mask: &Mask, deviation: usize) -> Vec<u8> {
    let black_or_white = mask
        .grey
        .iter()
        .map(|grey| if *grey >= 128 { 255.0 } else { 0.0 });
    let mut values: Vec<f32> = black_or_white.collect();
    if deviation > 0 {
        let reach = 2 * deviation.min(mask.width.max(mask.height));
        let weights: Vec<f32> = (0..=reach)
            .map(|distance| (-0.5 * (distance as f32 / deviation as f32).powi(2)).exp())
            .collect();
        values = across(&values, mask.width, &weights);
        values = turned(&values, mask.width);
        values = across(&values, mask.height, &weights);
        values = turned(&values, mask.height);
    }
    values
        .into_iter()
        .map(|value| value.round() as u8)
        .collect()
}

/// Every row, weighed by the distance; the border goes on as it is.
fn across(values: &[f32], width: usize, weights: &[f32]) -> Vec<f32> {
    let reach = weights.len() - 1;
    let total: f32 = weights[0] + 2.0 * weights[1..].iter().sum::<f32>();
    let sum = |row: &[f32], x: usize| {
        let around = (1..=reach).map(|distance| {
            let (left, right) = (x.saturating_sub(distance), (x + distance).min(width - 1));
            weights[distance] * (row[left] + row[right])
        });
        (weights[0] * row[x] + around.sum::<f32>()) / total
    };
    let rows = values.chunks(width);
    rows.flat_map(|row| (0..width).map(move |x| sum(row, x)))
        .collect()
}

/// Rows as columns.
fn turned(values: &[f32], width: usize) -> Vec<f32> {
    let height = values.len() / width;
    (0..width)
        .flat_map(|x| (0..height).map(move |y| values[y * width + x]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(width: usize, height: usize, paints: impl Fn(usize, usize) -> bool) -> Mask {
        let grey = |index: usize| {
            if paints(index % width, index / width) {
                255
            } else {
                0
            }
        };
        Mask {
            width,
            height,
            grey: (0..width * height).map(grey).collect(),
        }
    }

    #[test]
    fn what_is_kept_stays_to_the_last_bit() {
        let image = Image {
            width: 8,
            height: 4,
            rgb: (0..96).collect(),
        };
        let result = Image {
            rgb: vec![200; 96],
            ..image.clone()
        };
        let mask = mask(8, 4, |x, _| x >= 4);
        let overlay = Overlay::new(image.clone(), &mask, Region::whole(&image), 0);
        let put = overlay.put(result).unwrap();
        for (index, (old, new)) in image.rgb.iter().zip(&put.rgb).enumerate() {
            let painted = index / 3 % 8 >= 4;
            assert_eq!(*new, if painted { 200 } else { *old }, "{index}");
        }
    }

    #[test]
    fn blurred_borders_go_from_one_to_the_other() {
        let soft = blurred(&mask(32, 3, |x, _| x >= 16), 2);
        let row = &soft[..32];
        assert!(row.is_sorted());
        assert_eq!((row[0], row[31]), (0, 255));
        // Halfway at the border, by symmetry.
        assert!((row[15].abs_diff(255 - row[16])) <= 1, "{row:?}");
        assert_eq!(row, &soft[64..]);
    }

    #[test]
    fn parts_have_the_proportions_of_the_result_and_stay_inside() {
        let mask = mask(40, 20, |x, y| (30..38).contains(&x) && (2..4).contains(&y));
        let region = Region::around(&mask, 1, (64, 64)).unwrap();
        assert_eq!((region.width, region.height), (10, 10));
        assert_eq!((region.left, region.top), (29, 0));
        let wide = Region::around(&mask, 100, (64, 64)).unwrap();
        assert_eq!((wide.width, wide.height), (40, 20));
        assert_eq!(
            Region::around(&super::tests::mask(4, 4, |_, _| false), 1, (8, 8)),
            None
        );
    }
}

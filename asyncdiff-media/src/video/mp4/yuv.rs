//! Pictures as H.264 wants them: brightness for every pixel, colour for every fourth.

use std::array;

use asyncdiff_models::image::Image;
use openh264::formats::YUVSource;

/// Share of red and of blue in the brightness, ITU-R BT.709.
const RED: f32 = 0.2126;
const BLUE: f32 = 0.0722;
const GREEN: f32 = 1.0 - RED - BLUE;

/// A picture in Y'CbCr 4:2:0, ITU-R BT.709, limited range.
pub(super) struct Yuv {
    /// Even.
    width: usize,
    /// Even.
    height: usize,
    /// Brightness, 16 to 235: `[height, width]`.
    luma: Vec<u8>,
    /// Towards blue, 16 to 240: `[height / 2, width / 2]`.
    blue: Vec<u8>,
    /// Towards red, likewise.
    red: Vec<u8>,
}

impl Yuv {
    /// The last row or column is there twice where the size is odd.
    ///
    /// A chroma sample stands beside the left of its two columns and between its two rows, which is where players look for
    /// it: it is made of three columns, weighted 1, 2, 1, and two rows.
    pub(super) fn new(image: &Image) -> Self {
        let (width, height) = (
            image.width.next_multiple_of(2),
            image.height.next_multiple_of(2),
        );
        let pixel = |x: usize, y: usize| {
            let at = (y.min(image.height - 1) * image.width + x.min(image.width - 1)) * 3;
            array::from_fn(|channel| f32::from(image.rgb[at + channel]) / 255.0)
        };
        let luma = (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .map(|(x, y)| to_byte(16.0 + 219.0 * brightness(pixel(x, y))))
            .collect();
        let (blue, red) = (0..height / 2)
            .flat_map(|y| (0..width / 2).map(move |x| (2 * x, 2 * y)))
            .map(|(x, y)| {
                let columns = [(x.saturating_sub(1), 0.125), (x, 0.25), (x + 1, 0.125)];
                let mut mean = [0.0; 3];
                for (x, weight) in columns {
                    for y in [y, y + 1] {
                        let pixel = pixel(x, y);
                        mean = array::from_fn(|channel| mean[channel] + weight * pixel[channel]);
                    }
                }
                let brightness = brightness(mean);
                let chroma = |color: f32, share: f32| {
                    to_byte(128.0 + 224.0 * (color - brightness) / (2.0 * (1.0 - share)))
                };
                (chroma(mean[2], BLUE), chroma(mean[0], RED))
            })
            .unzip();
        Self {
            width,
            height,
            luma,
            blue,
            red,
        }
    }
}

fn brightness([red, green, blue]: [f32; 3]) -> f32 {
    RED * red + GREEN * green + BLUE * blue
}

/// Of values that are in range.
fn to_byte(value: f32) -> u8 {
    value.round() as u8
}

impl YUVSource for Yuv {
    fn dimensions(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn strides(&self) -> (usize, usize, usize) {
        (self.width, self.width / 2, self.width / 2)
    }

    fn y(&self) -> &[u8] {
        &self.luma
    }

    fn u(&self) -> &[u8] {
        &self.blue
    }

    fn v(&self) -> &[u8] {
        &self.red
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected: ITU-T H.273, equations of the BT.709 matrix in limited range, by hand; BT.709 item 4.6 gives black 16,
    /// white 235, and the chroma peaks 16 and 240.
    #[test]
    fn colours_are_those_of_the_standard() {
        for (rgb, expected) in [
            ([0, 0, 0], [16, 128, 128]),
            ([255, 255, 255], [235, 128, 128]),
            ([255, 0, 0], [63, 102, 240]),
            ([0, 255, 0], [173, 42, 26]),
            ([0, 0, 255], [32, 240, 118]),
            ([128, 128, 128], [126, 128, 128]),
        ] {
            for (width, height) in [(2, 2), (3, 1), (5, 5)] {
                let yuv = Yuv::new(&Image {
                    width,
                    height,
                    rgb: rgb.repeat(width * height),
                });
                assert_eq!(yuv.width % 2 + yuv.height % 2, 0);
                assert_eq!(yuv.luma, vec![expected[0]; yuv.width * yuv.height]);
                assert_eq!(yuv.blue, vec![expected[1]; yuv.luma.len() / 4]);
                assert_eq!(yuv.red, vec![expected[2]; yuv.luma.len() / 4]);
            }
        }
    }
}

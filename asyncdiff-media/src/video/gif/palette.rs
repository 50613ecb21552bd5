//! At most 256 colours for a picture.

use std::array;
use std::collections::BTreeSet;

use asyncdiff_models::image::Image;
use color_quant::NeuQuant;

/// Colours in a palette.
const MOST: usize = 256;
/// Pixels from which 256 colours are learned.
const ENOUGH_PIXELS: usize = 1 << 17;

/// The colours of the pictures, none if there are more than a palette holds.
pub(super) fn colors(images: &[Image]) -> Option<BTreeSet<[u8; 3]>> {
    let mut found = BTreeSet::new();
    let pixels = images.iter().flat_map(|image| image.rgb.as_chunks::<3>().0);
    let mut last = None;
    for pixel in pixels {
        // Neighbours are often alike.
        if last == Some(pixel) {
            continue;
        }
        last = Some(pixel);
        found.insert(*pixel);
        if found.len() > MOST {
            return None;
        }
    }
    Some(found)
}

/// Colours for pictures.
pub(super) struct Palette {
    colors: Vec<[u8; 3]>,
    /// Every pixel's colour is there, and they are sorted.
    exact: bool,
}

impl Palette {
    /// Exactly these colours, at most 256.
    pub(super) fn exact(colors: BTreeSet<[u8; 3]>) -> Self {
        Self {
            colors: colors.into_iter().collect(),
            exact: true,
        }
    }

    /// The colours of one picture, or 256 that come close.
    pub(super) fn of(image: &Image) -> Self {
        if let Some(colors) = colors(std::slice::from_ref(image)) {
            return Self::exact(colors);
        }
        let opaque = |&[red, green, blue]: &[u8; 3]| [red, green, blue, 255];
        let pixels = image.rgb.as_chunks().0;
        let colors: Vec<u8> = pixels.iter().flat_map(opaque).collect();
        // Of more pixels than that, every second or third is as good.
        let step = (pixels.len() / ENOUGH_PIXELS).clamp(1, 30) as i32;
        let quantiser = NeuQuant::new(step, MOST, &colors);
        Self {
            colors: quantiser.color_map_rgb().as_chunks().0.to_owned(),
            exact: false,
        }
    }

    /// Red, green and blue of every colour.
    pub(super) fn rgb(&self) -> &[u8] {
        self.colors.as_flattened()
    }

    /// The number of a colour for every pixel.
    pub(super) fn indices(&self, image: &Image) -> Vec<u8> {
        if !self.exact {
            return self.dithered(image);
        }
        let index = |pixel: &[u8; 3]| self.colors.partition_point(|color| color < pixel) as u8;
        image.rgb.as_chunks().0.iter().map(index).collect()
    }

    /// Floyd and Steinberg: what a pixel's colour is off by is given to the neighbours that come later.
    fn dithered(&self, image: &Image) -> Vec<u8> {
        let width = image.width;
        let mut nearest = Nearest::new(&self.colors);
        // What the pixels of this row and the next are to make good, with room for a neighbour on either side.
        let mut this = vec![[0_f32; 3]; width + 2];
        let mut next = this.clone();
        let mut indices = Vec::with_capacity(width * image.height);
        for row in image.rgb.as_chunks::<3>().0.chunks(width) {
            for (x, pixel) in row.iter().enumerate() {
                let wanted = array::from_fn(|channel| {
                    (f32::from(pixel[channel]) + this[x + 1][channel]).clamp(0.0, 255.0)
                });
                let index = nearest.find(wanted);
                indices.push(index);
                let found = self.colors[usize::from(index)];
                for channel in 0..3 {
                    let off = wanted[channel] - f32::from(found[channel]);
                    this[x + 2][channel] += off * 7.0 / 16.0;
                    next[x][channel] += off * 3.0 / 16.0;
                    next[x + 1][channel] += off * 5.0 / 16.0;
                    next[x + 2][channel] += off / 16.0;
                }
            }
            std::mem::swap(&mut this, &mut next);
            next.fill([0.0; 3]);
        }
        indices
    }
}

/// Finds the nearest colour, once for all that have the same upper 6 bits: dithering makes good what that is off by.
struct Nearest<'a> {
    colors: &'a [[u8; 3]],
    known: Vec<Option<u8>>,
}

impl<'a> Nearest<'a> {
    fn new(colors: &'a [[u8; 3]]) -> Self {
        Self {
            colors,
            known: vec![None; 1 << 18],
        }
    }

    fn find(&mut self, wanted: [f32; 3]) -> u8 {
        let wanted = wanted.map(|value| value.round() as u8);
        let key = wanted
            .iter()
            .fold(0, |key, value| key << 6 | usize::from(value >> 2));
        *self.known[key].get_or_insert_with(|| {
            // The middle of those that are alike.
            let wanted = wanted.map(|value| i32::from(value & !3) + 2);
            let distance = |color: &[u8; 3]| -> i32 {
                let square = |channel: usize| (wanted[channel] - i32::from(color[channel])).pow(2);
                (0..3).map(square).sum()
            };
            let distances = self.colors.iter().map(distance).enumerate();
            let best = distances.min_by_key(|&(_, distance)| distance);
            best.map_or(0, |(index, _)| index as u8)
        })
    }
}

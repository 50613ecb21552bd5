//! At most 256 colours for a picture.

use std::collections::BTreeSet;

use asyncdiff_models::image::Image;
use color_quant::NeuQuant;

/// Colours in a palette.
const MOST: usize = 256;

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
    /// Red, green and blue of every colour.
    rgb: Vec<u8>,
    choice: Choice,
}

/// How a pixel gets its colour.
enum Choice {
    /// Every pixel's colour is there, and they are sorted.
    Exact,
    /// The nearest colour, as the quantiser finds it.
    Nearest(NeuQuant),
}

impl Palette {
    /// Exactly these colours, at most 256.
    pub(super) fn exact(colors: BTreeSet<[u8; 3]>) -> Self {
        Self {
            rgb: colors.into_iter().flatten().collect(),
            choice: Choice::Exact,
        }
    }

    /// The colours of one picture, or the 256 that come closest.
    pub(super) fn of(image: &Image) -> Self {
        if let Some(colors) = colors(std::slice::from_ref(image)) {
            return Self::exact(colors);
        }
        let opaque: Vec<u8> = image
            .rgb
            .as_chunks::<3>()
            .0
            .iter()
            .flat_map(|&[red, green, blue]| [red, green, blue, 255])
            .collect();
        // Learns from every pixel.
        let quantiser = NeuQuant::new(1, MOST, &opaque);
        Self {
            rgb: quantiser.color_map_rgb(),
            choice: Choice::Nearest(quantiser),
        }
    }

    pub(super) fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The number of a colour for every pixel.
    pub(super) fn indices(&self, image: &Image) -> Vec<u8> {
        match &self.choice {
            Choice::Exact => {
                let colors = self.rgb.as_chunks::<3>().0;
                let index = |pixel: &[u8; 3]| colors.partition_point(|color| color < pixel) as u8;
                image.rgb.as_chunks().0.iter().map(index).collect()
            }
            Choice::Nearest(quantiser) => self.dithered(quantiser, image),
        }
    }

    /// Floyd and Steinberg: what a pixel's colour is off by is given to the neighbours that come later.
    fn dithered(&self, quantiser: &NeuQuant, image: &Image) -> Vec<u8> {
        let width = image.width;
        // What the pixels of this row and the next are to make good, with room for a neighbour on either side.
        let mut this = vec![[0_f32; 3]; width + 2];
        let mut next = this.clone();
        let mut indices = Vec::with_capacity(width * image.height);
        for row in image.rgb.as_chunks::<3>().0.chunks(width) {
            for (x, pixel) in row.iter().enumerate() {
                let wanted: [f32; 3] =
                    std::array::from_fn(|channel| f32::from(pixel[channel]) + this[x + 1][channel]);
                let [red, green, blue] = wanted.map(|value| value.round().clamp(0.0, 255.0) as u8);
                let index = quantiser.index_of(&[red, green, blue, 255]);
                indices.push(index as u8);
                let found = &self.rgb[index * 3..index * 3 + 3];
                for channel in 0..3 {
                    let off = wanted[channel].clamp(0.0, 255.0) - f32::from(found[channel]);
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

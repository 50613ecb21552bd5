//! Pictures of nothing in particular, with the statistics of photographs.

/// Square pictures of `side` pixels, as an autoencoder encodes them: `[count, 3, side, side]`, from -1 to 1, always the same.
///
/// *Dead leaves*: opaque discs on top of each other, the fewer the larger. Like photographs, and drawings, they have smooth
/// areas, edges, and a spectrum that falls with the frequency (Lee, Mumford and Huang, "Occlusion models for natural images", 2001).
/// They lie on white paper and leave some of it free, as an autoencoder of drawings may know nothing else; one of photographs
/// knows that, too.
pub fn dead_leaves(count: usize, side: usize) -> Vec<f32> {
    let mut samples = Vec::with_capacity(count * 3 * side * side);
    let mut numbers = (1..).map(spread);
    for _ in 0..count {
        let leaves: Vec<Leaf> = numbers
            .by_ref()
            .take(LEAVES)
            .map(|numbers| Leaf::new(numbers, side))
            .collect();
        for channel in 0..3 {
            for pixel in 0..side * side {
                let (x, y) = ((pixel % side) as f64, (pixel / side) as f64);
                // The first is on top.
                let top = leaves.iter().find_map(|leaf| leaf.sample(x, y, channel));
                samples.push(top.unwrap_or(1.0) as f32);
            }
        }
    }
    samples
}

/// Discs of a picture.
const LEAVES: usize = 20;
/// Their radii, as parts of the picture's side.
const RADII: [f64; 2] = [0.06, 0.5];

struct Leaf {
    centre: [f64; 2],
    radius: f64,
    colour: [f64; 3],
    /// How much brighter it gets along both axes, from its centre to its edge.
    shade: [f64; 2],
}

impl Leaf {
    fn new([x, y, size, red, green, blue, shade @ ..]: [f64; 8], side: usize) -> Self {
        let side = side as f64;
        // The number of discs falls with the cube of the radius.
        let [least, most] = RADII.map(|radius| (side * radius).powi(-2));
        Self {
            centre: [x * side, y * side],
            radius: (least + (most - least) * size).sqrt().recip(),
            colour: [red, green, blue].map(|value| 2.0 * value - 1.0),
            shade: shade.map(|value| value - 0.5),
        }
    }

    /// A sample of the pixel, if the disc covers it.
    fn sample(&self, x: f64, y: f64, channel: usize) -> Option<f64> {
        let [dx, dy] = [x - self.centre[0], y - self.centre[1]].map(|part| part / self.radius);
        let shade = self.shade[0] * dx + self.shade[1] * dy;
        (dx * dx + dy * dy < 1.0).then(|| (self.colour[channel] + shade).clamp(-1.0, 1.0))
    }
}

/// Point `index` of a sequence that fills the unit cube of eight dimensions evenly: multiples of the powers of 1/g modulo 1, where
/// g, the golden ratio's relative, solves `g^9 = g + 1` (Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018).
fn spread(index: u32) -> [f64; 8] {
    const G: f64 = 1.085_070_245_491_451;
    std::array::from_fn(|dimension| (f64::from(index) * G.powi(-(dimension as i32) - 1)).fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pictures_are_varied_and_smooth_but_for_edges() {
        let side = 64;
        let samples = dead_leaves(2, side);
        assert_eq!(samples.len(), 2 * 3 * side * side);
        assert!(samples.iter().all(|sample| (-1.0..=1.0).contains(sample)));
        for plane in samples.chunks(side * side) {
            let mean = plane.iter().sum::<f32>() / plane.len() as f32;
            let square = |sample: &f32| (sample - mean).powi(2);
            let variance = plane.iter().map(square).sum::<f32>() / plane.len() as f32;
            // A third is that of even numbers from -1 to 1.
            assert!((0.1..0.6).contains(&variance), "{variance}");
            let step = |pair: &&[f32]| (pair[0] - pair[1]).abs() < 0.1;
            let smooth = plane.windows(2).filter(step).count();
            assert!(smooth > plane.len() * 3 / 4, "{smooth} of {}", plane.len());
        }
    }

    #[test]
    fn the_ratio_solves_its_equation() {
        let [first, .., last] = spread(1);
        let g = first.recip();
        assert!((g.powi(9) - g - 1.0).abs() < 1e-9 && (last - g.powi(-8)).abs() < 1e-9);
    }
}

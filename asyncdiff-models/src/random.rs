//! PyTorch's CPU random numbers, so that a seed means the same picture here and in diffusers.

use rand_mt::Mt;

/// PyTorch's CPU generator (`torch.Generator("cpu")`) after `manual_seed`: a 32-bit Mersenne Twister (mt19937).
///
/// Checked against torch 2.15.0 on an x86-64 processor: every value is within 1e-6 of torch's, most are equal to the
/// bit. torch itself is no more exact: its results depend on the processor (up to 2.3e-6 between its AVX2 code, which
/// is followed here, and its plain code).
#[derive(Clone, Debug)]
pub struct TorchRng {
    engine: Mt,
    /// The second value of the last pair that the short path made.
    cached: Option<f64>,
}

/// Values per block of the long path; shorter requests take the short path.
const BLOCK: usize = 16;

impl TorchRng {
    /// The generator after `manual_seed(seed)`. As in PyTorch, only the low 32 bits of the seed count.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            engine: Mt::new(seed as u32),
            cached: None,
        }
    }

    /// `torch.randn(count, dtype=torch.float32, generator=self)`: independent normal values of mean 0 and variance 1.
    ///
    /// The values of a tensor are in row-major order. Two calls are not one call of the summed count: requests of 16
    /// values and more are made in blocks of 16 (the last 16 values anew where `count` is not a multiple), shorter ones
    /// in pairs, whose second half waits for the next short request (`aten/src/ATen/native/cpu/DistributionTemplates.h`,
    /// `normal_fill` and `normal_distribution`).
    #[must_use]
    pub fn randn(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.normal() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform24()).collect();
        let (blocks, tail) = values.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(to_normal);
        if !tail.is_empty() {
            let mut block = [0.0; BLOCK];
            block.fill_with(|| self.uniform24());
            to_normal(&mut block);
            values[count - BLOCK..].copy_from_slice(&block);
        }
        values
    }

    /// Uniform on [0, 1) with the 24 bits that a `f32` holds.
    fn uniform24(&mut self) -> f32 {
        (self.engine.next_u32() & 0x00ff_ffff) as f32 / (1 << 24) as f32
    }

    /// Uniform on [0, 1) with the 53 bits that a `f64` holds.
    fn uniform53(&mut self) -> f64 {
        let high = u64::from(self.engine.next_u32());
        let low = u64::from(self.engine.next_u32());
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64
    }

    /// One value by the Box-Muller transform in double precision.
    fn normal(&mut self) -> f64 {
        if let Some(value) = self.cached.take() {
            return value;
        }
        let theta = std::f64::consts::TAU * self.uniform53();
        let radius = (-2.0 * (-self.uniform53()).ln_1p()).sqrt();
        self.cached = Some(radius * theta.sin());
        radius * theta.cos()
    }
}

/// Box-Muller on a block of uniform values: radii from the first half, angles from the second.
fn to_normal(block: &mut [f32; BLOCK]) {
    // Rounding to f32 after each function follows torch; computing the functions themselves in f64 makes the result
    // independent of the platform's f32 functions, so that all hosts of a run draw the same noise.
    for i in 0..BLOCK / 2 {
        let (u1, u2) = (1.0 - block[i], block[i + BLOCK / 2]);
        let radius = (-2.0 * f64::from(u1).ln() as f32).sqrt();
        let theta = f64::from(std::f32::consts::TAU * u2);
        block[i] = radius * theta.cos() as f32;
        block[i + BLOCK / 2] = radius * theta.sin() as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::TorchRng;

    const LARGE: u64 = 0x9E37_79B9_7F4A_7C15;

    fn check(seed: u64, count: usize, indices: &[usize], expected: &[f32]) {
        let values = TorchRng::new(seed).randn(count);
        assert_eq!(values.len(), count);
        for (&index, &expected) in indices.iter().zip(expected) {
            let found = values[index];
            assert!(
                close(found, expected),
                "seed {seed}, value {index} of {count}: {found}, not {expected}"
            );
        }
    }

    fn close(found: f32, expected: f32) -> bool {
        (found - expected).abs() <= 1e-6
    }

    /// From torch 2.15.0 (x86-64, AVX2): `torch.manual_seed(seed); torch.randn(count)[index].item()`.
    #[test]
    fn equals_torch() {
        check(
            0,
            4,
            &[0, 1, 2, 3],
            &[1.540_996_1, -0.293_428_9, -2.178_789_4, 0.568_431_26],
        );
        check(
            0,
            16,
            &[0, 7, 8, 15],
            &[-1.125_839_8, -2.115_219_4, 0.322_274_92, -0.247_278_15],
        );
        check(
            0,
            20,
            &[0, 3, 4, 11, 12, 19],
            &[
                -1.125_839_8,
                -0.433_878_8,
                0.598_839_46,
                0.266_049_4,
                1.389_366_1,
                0.053_736_903,
            ],
        );
        check(
            0,
            1024,
            &[0, 9, 511, 1023],
            &[-1.125_839_8, -1.263_334_8, -1.661_294_8, -1.710_468_4],
        );
        check(
            LARGE,
            4,
            &[0, 1, 2, 3],
            &[-0.812_446_9, -0.068_949_25, 0.021_351_86, -0.914_807],
        );
        check(
            LARGE,
            16,
            &[0, 7, 8, 15],
            &[1.527_638_3, -0.146_450_47, -0.058_579_27, 1.208_692],
        );
        check(
            LARGE,
            20,
            &[0, 3, 4, 11, 12, 19],
            &[
                1.527_638_3,
                0.154_856_26,
                0.907_729,
                1.125_497_7,
                0.347_045_4,
                -1.090_857_3,
            ],
        );
        check(
            LARGE,
            1024,
            &[0, 9, 511, 1023],
            &[1.527_638_3, 1.060_257_4, 2.654_366, -1.235_860_5],
        );
    }

    /// From torch 2.15.0: `torch.manual_seed(0)`, then `torch.randn(3)`, `torch.randn(16)`, `torch.randn(2)`.
    #[test]
    fn a_long_request_leaves_the_cached_value_of_a_short_one() {
        let mut rng = TorchRng::new(0);
        let (first, second, third) = (rng.randn(3), rng.randn(16), rng.randn(2));
        assert!(close(first[2], -2.178_789_4));
        assert!(close(second[0], -0.356_128_36) && close(second[15], -0.859_445_6));
        assert!(close(third[0], 0.568_431_26) && close(third[1], -0.856_674_6));
    }

    #[test]
    fn only_the_low_32_bits_of_a_seed_count() {
        assert_eq!(
            TorchRng::new(7).randn(20),
            TorchRng::new(7 | 1 << 40).randn(20)
        );
        assert!(TorchRng::new(7).randn(0).is_empty());
    }
}

//! Every kernel against the plain reference, over shapes that are multiples of no tile.
//!
//! `ASYNCDIFF_KERNELS` chooses the instructions that are tested.

use asyncdiff_kernels::{
    Activation, Affine, Finish, Groups, Heads, Level, Packed, Shift, Square, Storage, Strides,
    Tokens, Window, Winograd, activate, attention, convolution, group_norm, join, layer_norm,
    narrow, product, reference, widen, winograd,
};

/// Or the best that the processor has would be tested in the place of another.
#[test]
fn the_processor_has_the_instructions_that_are_asked_for() {
    assert!(Level::chosen().unwrap().is_here());
}

/// Numbers between -1 and 1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Compares with a reference. `bound` is in units in the last place of the largest number, which is what a sum of such numbers
/// is rounded to.
fn check(what: &str, found: &[f32], expected: &[f64], bound: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: size");
    let largest = expected.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs() / (largest * f64::from(f32::EPSILON));
        assert!(
            error <= bound,
            "{what}: number {index} is {found}, should be {expected}: {error} units"
        );
    }
}

/// A sum of `count` products: rounding errors add up like a random walk, of which eight standard deviations are allowed.
fn sum_bound(count: usize) -> f64 {
    4.0 + 4.0 * (count as f64).sqrt()
}

/// Miri looks at every access to memory, which takes it thousands of times as long: it tries what takes it seconds.
fn is_tried(operations: usize) -> bool {
    !cfg!(miri) || operations <= 2_000
}

/// What a kernel computes in pools of one, two and three threads; the same bits in all of them.
fn in_pools(size: usize, compute: impl Fn(&mut [f32]) + Sync) -> Vec<f32> {
    let (fewest, most) = if cfg!(miri) { (2, 2) } else { (1, 3) };
    let mut outs = (fewest..=most).map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let mut out = vec![f32::NAN; size];
        pool.unwrap().install(|| compute(&mut out));
        out
    });
    let first = outs.next().unwrap();
    for other in outs {
        let bits = |out: &[f32]| out.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(&first) == bits(&other), "differs with more threads");
    }
    first
}

#[test]
fn products_of_odd_shapes() {
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (1, 320, 1280),
        (3, 4, 9),
        (7, 48, 96),
        (12, 9, 40),
        (64, 320, 48),
        (77, 768, 320),
        (31, 1283, 1034),
        (100, 1283, 130),
        (257, 96, 1034),
        (1025, 320, 77),
    ] {
        if !is_tried(rows * inputs * outputs) {
            continue;
        }
        let x = numbers(rows * inputs, 1);
        let weights = numbers(inputs * outputs, 2);
        let bias = numbers(outputs, 3);
        let shape = [outputs, 1, inputs];
        let expected = reference::product(&x, &weights, inputs, Some(&bias));
        let name = format!("{rows} x {inputs} x {outputs}");
        let packed = Packed::new(Storage::F32, shape, Some(&bias), &weights);
        let plain = in_pools(rows * outputs, |out| {
            product(&x, &packed, &Finish::default(), out);
        });
        check(&name, &plain, &expected, sum_bound(inputs));

        let residual = numbers(rows * outputs, 4);
        let shifts = numbers(rows.div_ceil(3) * outputs, 5);
        for activation in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
            let finish = Finish {
                shift: Some(Shift {
                    numbers: &shifts,
                    rows: 3,
                }),
                activation,
                residual: Some(&residual),
            };
            let expected: Vec<f64> = (expected.iter().enumerate())
                .map(|(index, x)| {
                    let shift = shifts[index / outputs / 3 * outputs + index % outputs];
                    let x = reference::activation(activation, x + f64::from(shift));
                    x + f64::from(residual[index])
                })
                .collect();
            let found = in_pools(rows * outputs, |out| product(&x, &packed, &finish, out));
            check(&name, &found, &expected, sum_bound(inputs) + 8.0);
        }
    }
}

#[test]
fn gated_products() {
    for (rows, inputs, inner) in [(1, 4, 1), (7, 48, 9), (64, 48, 192), (33, 700, 77)] {
        if !is_tried(rows * inputs * inner) {
            continue;
        }
        let x = numbers(rows * inputs, 1);
        let weights = numbers(inputs * 2 * inner, 2);
        let bias = numbers(2 * inner, 3);
        let gated = |row: &[f64]| -> Vec<f64> {
            let (values, gates) = row.split_at(inner);
            let gate = |gate: &f64| reference::activation(Activation::Gelu, *gate);
            let pairs = values.iter().zip(gates);
            pairs.map(|(value, x)| value * gate(x)).collect()
        };
        for storage in [Storage::F32, Storage::Bf16Pairs] {
            let (x_, weights_) = (multiplied(storage, &x), held(storage, &weights));
            let both = reference::product(&x_, &weights_, inputs, Some(&bias));
            let expected: Vec<f64> = both.chunks(2 * inner).flat_map(gated).collect();
            let packed = Packed::gated(storage, [inner, inputs], Some(&bias), &weights);
            let found = in_pools(rows * inner, |out| {
                product(&x, &packed, &Finish::default(), out);
            });
            // Relative to the largest product; each factor has the error of a sum.
            check("gated", &found, &expected, 2.0 * sum_bound(inputs));
        }
    }
}

/// What a type holds of weights.
fn held(storage: Storage, weights: &[f32]) -> Vec<f32> {
    let round = |x: &f32| match storage {
        Storage::F32 => *x,
        Storage::F16 => half::f16::from_f32(*x).to_f32(),
        Storage::Bf16 | Storage::Bf16Pairs => half::bf16::from_f32(*x).to_f32(),
    };
    weights.iter().map(round).collect()
}

/// What is multiplied with weights of a type: the instruction for `bf16` takes both factors as such. Their products are exact in
/// `f32`, so the sums are as of wide ones.
fn multiplied(storage: Storage, x: &[f32]) -> Vec<f32> {
    match (storage, Level::chosen()) {
        (Storage::Bf16Pairs, Ok(Level::Avx512Bf16)) => held(storage, x),
        _ => x.to_vec(),
    }
}

/// Narrow weights are exactly what the narrow type holds; the sums are as of wide ones.
#[test]
fn weights_held_in_16_bits() {
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (7, 9, 40),
        (13, 320, 77),
        (100, 1283, 130),
        (500, 46, 530),
    ] {
        if !is_tried(rows * inputs * outputs) {
            continue;
        }
        let x = numbers(rows * inputs, 1);
        let weights = numbers(inputs * outputs, 2);
        for storage in [Storage::F16, Storage::Bf16, Storage::Bf16Pairs] {
            let (x_, weights_) = (multiplied(storage, &x), held(storage, &weights));
            let expected = reference::product(&x_, &weights_, inputs, None);
            let packed = Packed::new(storage, [outputs, 1, inputs], None, &weights);
            let found = in_pools(rows * outputs, |out| {
                product(&x, &packed, &Finish::default(), out);
            });
            let name = format!("{storage:?}, {rows} x {inputs} x {outputs}");
            check(&name, &found, &expected, sum_bound(inputs));
            // Where nothing is lost, not even the last bit differs, however many tiles of rows share weights that are widened.
            if storage != Storage::Bf16Pairs {
                let wide = Packed::new(Storage::F32, [outputs, 1, inputs], None, &weights_);
                let wide = in_pools(rows * outputs, |out| {
                    product(&x, &wide, &Finish::default(), out);
                });
                assert!(found == wide, "{name}: other bits than of f32");
            }
        }
    }
}

fn convolve(window: Window, channels: usize, outputs: usize) {
    let taps = window.kernel[0] * window.kernel[1];
    let pixels = window.batch * window.output[0] * window.output[1];
    if !is_tried(pixels * taps * channels * outputs) {
        return;
    }
    let x = numbers(
        window.batch * window.input[0] * window.input[1] * channels,
        1,
    );
    let weights = numbers(outputs * channels * taps, 2);
    let name = format!("{channels} to {outputs} channels, {window:?}");
    let plain = |storage| {
        let (x_, weights_) = (multiplied(storage, &x), held(storage, &weights));
        let expected = reference::convolution(&x_, window, &weights_, channels);
        let packed = Packed::new(storage, [outputs, taps, channels], None, &weights);
        let found = in_pools(expected.len(), |out| {
            convolution(&x, window, &packed, &Finish::default(), out);
        });
        let name = format!("{storage:?}, {name}");
        check(&name, &found, &expected, sum_bound(taps * channels));
        expected
    };
    plain(Storage::Bf16Pairs);
    let expected = plain(Storage::F32);
    if window.kernel == [3, 3] && window.stride == 1 {
        for (square, more) in SQUARES {
            let shape = [outputs, channels];
            let packed = Winograd::new(square, Storage::F32, shape, None, &weights);
            let found = in_pools(expected.len(), |out| {
                winograd(&x, window, &packed, &Finish::default(), out);
            });
            let bound = more * sum_bound(taps * channels);
            let name = format!("winograd, {square:?}, {name}");
            check(&name, &found, &expected, bound);
        }
        let shape = [outputs, channels];
        let packed = Winograd::new(Square::Two, Storage::Bf16Pairs, shape, None, &weights);
        let found = in_pools(expected.len(), |out| {
            winograd(&x, window, &packed, &Finish::default(), out);
        });
        // Both factors of a product are rounded to 8 bits, and of what is summed before and after, a half cancels.
        let bound = 4.0 * 2f64.sqrt() * 2f64.powi(-9);
        let error = distance(&found, &expected);
        assert!(error <= bound, "winograd, Bf16, {name}: {error}");
    }
}

/// Of a result from another, relative to that: by the sums of squares.
fn distance(found: &[f32], expected: &[f64]) -> f64 {
    let differences = found.iter().zip(expected).map(|(a, b)| f64::from(*a) - b);
    let squares = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>();
    (squares(&mut differences.into_iter()) / squares(&mut expected.iter().copied())).sqrt()
}

/// How much larger errors are than a plain convolution's may be. The smaller transforms add up to four times four numbers before,
/// and as many products after; the larger ones multiply with up to 5 (1.5 cubed, and more) on either side of the products.
const SQUARES: [(Square, f64); 2] = [(Square::Two, 4.0), (Square::Four, 16.0)];

/// What is done to results on their way out is the same for both kinds of convolution.
#[test]
fn winograd_finishes_as_others_do() {
    let (channels, outputs, size) = (9, 77, [5, 7]);
    let window = Window {
        batch: 2,
        input: size,
        enlarged: None,
        kernel: [3, 3],
        stride: 1,
        padding: [1, 1],
        output: size,
    };
    let pixels = 2 * size[0] * size[1];
    if !is_tried(pixels * 9 * channels * outputs) {
        return;
    }
    let x = numbers(pixels * channels, 1);
    let weights = numbers(outputs * channels * 9, 2);
    let bias = numbers(outputs, 3);
    let (shifts, residual) = (numbers(2 * outputs, 4), numbers(pixels * outputs, 5));
    let finish = Finish {
        shift: Some(Shift {
            numbers: &shifts,
            rows: pixels / 2,
        }),
        activation: Activation::Silu,
        residual: Some(&residual),
    };
    let packed = Packed::new(Storage::F32, [outputs, 9, channels], Some(&bias), &weights);
    let mut expected = vec![0.0; pixels * outputs];
    convolution(&x, window, &packed, &finish, &mut expected);
    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
    for (square, more) in SQUARES {
        let shape = [outputs, channels];
        let packed = Winograd::new(square, Storage::F32, shape, Some(&bias), &weights);
        let found = in_pools(pixels * outputs, |out| {
            winograd(&x, window, &packed, &finish, out);
        });
        let name = format!("finish, {square:?}");
        check(&name, &found, &expected, more * sum_bound(9 * channels));
    }
}

#[test]
fn convolutions_of_odd_shapes() {
    for (channels, outputs, size) in [
        (4, 4, 2),
        (4, 48, 12),
        (9, 4, 7),
        (48, 96, 3),
        (96, 9, 1),
        (70, 1030, 5),
        (320, 4, 7),
        (700, 17, 3),
        (3, 8, 64),
    ] {
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 1, 0)] {
            let input = [size, size + 1];
            let output = input.map(|size| (size + 2 * padding - kernel) / stride + 1);
            convolve(
                Window {
                    batch: 2,
                    input,
                    enlarged: None,
                    kernel: [kernel; 2],
                    stride,
                    padding: [padding; 2],
                    output,
                },
                channels,
                outputs,
            );
        }
    }
}

#[test]
fn convolutions_with_other_windows() {
    let plain = Window {
        batch: 1,
        input: [7, 12],
        enlarged: None,
        kernel: [3, 3],
        stride: 1,
        padding: [1, 1],
        output: [7, 12],
    };
    // Of an enlarged map, to twice the size and to odd sizes.
    for size in [[14, 24], [13, 23]] {
        let window = Window {
            enlarged: Some(size),
            output: size,
            ..plain
        };
        convolve(window, 9, 48);
    }
    // Along one side only, as along the frames of a video.
    let window = Window {
        kernel: [3, 1],
        padding: [1, 0],
        ..plain
    };
    convolve(window, 48, 9);
    // Zeros after the last row and column only.
    let window = Window {
        stride: 2,
        padding: [0, 0],
        output: [3, 6],
        ..plain
    };
    convolve(window, 4, 9);
    // Patches.
    let window = Window {
        kernel: [4, 4],
        stride: 4,
        padding: [0, 0],
        output: [1, 3],
        ..plain
    };
    convolve(window, 3, 32);
}

#[test]
fn norms_of_odd_shapes() {
    for (batch, positions, channels, groups) in [
        (1, 1, 4, 2),
        (2, 7, 9, 3),
        (2, 144, 48, 16),
        (3, 64, 96, 32),
        (1, 4096, 320, 32),
        (2, 1100, 24, 8),
    ] {
        if !is_tried(batch * positions * channels) {
            continue;
        }
        // Far from zero, where the sum of squares alone would cancel.
        let offset = |x: f32| x + 30.0;
        let x: Vec<f32> = numbers(batch * positions * channels, 1)
            .into_iter()
            .map(offset)
            .collect();
        let (scale, shift) = (numbers(channels, 2), numbers(channels, 3));
        let affine = Affine {
            scale: &scale,
            shift: &shift,
            epsilon: 1e-5,
        };
        let shape = Groups {
            batch,
            positions,
            channels,
            groups,
        };
        // The mean is as exact as the deviations are.
        let bound = 16.0;
        let normal = reference::group_norm(&x, shape, affine);
        for activation in [Activation::Identity, Activation::Silu] {
            let expected: Vec<f64> = (normal.iter())
                .map(|x| reference::activation(activation, *x))
                .collect();
            let found = in_pools(x.len(), |out| {
                group_norm(&x, shape, affine, activation, out);
            });
            check(&format!("{shape:?}"), &found, &expected, bound);
        }
        let found = in_pools(x.len(), |out| layer_norm(&x, affine, out));
        let name = format!("layer norm over {channels}");
        // The input's last place is 60 times that of the deviations; a variance of few numbers can be small.
        let bound = 500.0;
        check(&name, &found, &reference::layer_norm(&x, affine), bound);
    }
}

fn attend(shape: Heads, lengths: [usize; 2]) {
    let features = shape.heads * shape.features;
    let tokens = |count: usize, seed| numbers(shape.sequences * count * features, seed);
    let strides = |count: usize| Strides {
        sequence: count * features,
        token: features,
    };
    let [queries, keys] = lengths;
    if !is_tried(shape.sequences * features * queries * keys) {
        return;
    }
    let (q, k, v) = (tokens(queries, 1), tokens(keys, 2), tokens(keys, 3));
    // Scores as different as trained ones.
    let q: Vec<f32> = q.iter().map(|x| 4.0 * x).collect();
    let of = |numbers, count| Tokens {
        numbers,
        strides: strides(count),
    };
    let (query, key, value) = (of(&q, queries), of(&k, keys), of(&v, keys));
    let expected = reference::attention(shape, query, key, value);
    let found = in_pools(expected.len(), |out| {
        attention(shape, query, key, value, out, strides(queries));
    });
    // The exponential multiplies a score's error, itself that of a sum.
    let bound = 8.0 + 16.0 * (shape.features as f64).sqrt();
    check(&format!("{shape:?}"), &found, &expected, bound);
}

#[test]
fn attention_of_odd_shapes() {
    for (sequences, heads, features, queries, keys, causal) in [
        (1, 1, 1, 1, 1, false),
        (2, 3, 4, 7, 1, false),
        (2, 4, 12, 144, 144, false),
        (1, 2, 40, 100, 77, false),
        (2, 5, 64, 77, 77, true),
        (1, 1, 9, 700, 700, true),
        (1, 2, 40, 13, 4096, false),
        (1, 1, 96, 1000, 531, false),
        (65, 8, 24, 16, 16, false),
    ] {
        let shape = Heads {
            sequences,
            heads,
            features,
            queries,
            keys,
            causal,
            storage: Storage::F32,
        };
        attend(shape, [queries, keys]);
    }
}

/// Sequences whose tokens lie between those of others, as the frames of a pixel do.
#[test]
fn attention_along_frames() {
    let (frames, pixels, heads, features) = (5, 12, 2, 4);
    let x = numbers(frames * pixels * heads * features, 1);
    let shape = Heads {
        sequences: pixels,
        heads,
        features,
        queries: frames,
        keys: frames,
        causal: false,
        storage: Storage::F32,
    };
    let strides = Strides {
        sequence: heads * features,
        token: pixels * heads * features,
    };
    let tokens = Tokens {
        numbers: &x,
        strides,
    };
    let found = in_pools(x.len(), |out| {
        attention(shape, tokens, tokens, tokens, out, strides);
    });
    let expected = reference::attention(shape, tokens, tokens, tokens);
    let mut back = vec![0.0; x.len()];
    for (pixel, row) in expected.chunks(frames * heads * features).enumerate() {
        for (frame, token) in row.chunks(heads * features).enumerate() {
            back[(frame * pixels + pixel) * heads * features..][..heads * features]
                .copy_from_slice(token);
        }
    }
    check("along frames", &found, &back, 64.0);
}

#[test]
fn activations_everywhere() {
    let x: Vec<f32> = (-40_001..40_001)
        .step_by(if cfg!(miri) { 2000 } else { 1 })
        .map(|x| x as f32 * 2.5e-3)
        .collect();
    for activation in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
        let mut found = vec![0.0; x.len()];
        activate(activation, &x, &mut found);
        for (x, found) in x.iter().zip(found) {
            let expected = reference::activation(activation, f64::from(*x));
            // The error function's formula is good to 1.5e-7, which GELU multiplies with half of x; where it is next to
            // nothing, so is the result.
            let bound = 4.0e-7 * f64::from(x.abs()).max(1e-3);
            let error = (f64::from(found) - expected).abs();
            assert!(error <= bound, "{activation:?}({x}) = {found}, {expected}");
        }
    }
}

/// A wrong number must not look like a right one.
#[test]
fn nan_and_infinity_stay() {
    for activation in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
        let mut found = [0.0; 3];
        activate(activation, &[f32::NAN, f32::INFINITY, 1.0], &mut found);
        assert!(found[0].is_nan() && !found[1].is_finite() && found[2].is_finite());
    }
    let mut x = numbers(7 * 8, 1);
    x[13] = f32::NAN;
    let shape = Heads {
        sequences: 1,
        heads: 1,
        features: 8,
        queries: 7,
        keys: 7,
        causal: false,
        storage: Storage::F32,
    };
    let strides = Strides {
        sequence: 56,
        token: 8,
    };
    let tokens = Tokens {
        numbers: &x,
        strides,
    };
    let mut out = vec![0.0; x.len()];
    attention(shape, tokens, tokens, tokens, &mut out, strides);
    assert!(out.chunks(8).all(|token| token[5].is_nan()));
}

/// Every number of 16 bits is one of 32, and those between are rounded to the nearest, of two to the even one.
#[test]
fn numbers_of_16_bits() {
    fn tried<E: asyncdiff_kernels::Narrow + PartialEq + std::fmt::Debug>(
        to: fn(f32) -> E,
        from: fn(E) -> f32,
    ) {
        for count in [0, 1, 15, 16, 1037] {
            let mut x = numbers(count, 1);
            x.iter_mut().step_by(3).for_each(|x| *x *= 1e4);
            let expected: Vec<E> = x.iter().copied().map(to).collect();
            let mut narrowed = vec![E::default(); count];
            narrow(&x, &mut narrowed);
            assert_eq!(narrowed, expected);
            let mut wide = vec![0.0; count];
            widen(&narrowed, &mut wide);
            let expected: Vec<f32> = expected.into_iter().map(from).collect();
            assert_eq!(wide, expected);
        }
        let mut special = [E::default(); 3];
        narrow(&[f32::NAN, f32::INFINITY, 1.0 + 3.0 / 256.0], &mut special);
        assert!(from(special[0]).is_nan());
        assert_eq!(special[1..], [f32::INFINITY, 1.0 + 3.0 / 256.0].map(to));
    }
    tried(half::f16::from_f32, half::f16::to_f32);
    tried(half::bf16::from_f32, half::bf16::to_f32);
}

#[test]
fn rows_of_several_matrices() {
    let (a, b) = (numbers(7 * 4, 1), numbers(7 * 9, 2));
    let found = in_pools(7 * 13, |out| join(&[(&a, 4), (&b, 9)], out));
    for row in 0..7 {
        assert_eq!(found[row * 13..][..4], a[row * 4..][..4]);
        assert_eq!(found[row * 13 + 4..][..9], b[row * 9..][..9]);
    }
}

//! What every kernel computes, in `f64` and without any art: for tests and benchmarks.

use crate::{Activation, Affine, Groups, Heads, Strides, Tokens, Window};

/// The sum of `a · b`.
fn dot(a: impl Iterator<Item = f64>, b: impl Iterator<Item = f64>) -> f64 {
    a.zip(b).map(|(a, b)| a * b).sum()
}

/// `rows · weightsᵀ + bias`, `[rows, inputs]` and `[outputs, inputs]` to `[rows, outputs]`.
#[must_use]
pub fn product(rows: &[f32], weights: &[f32], inputs: usize, bias: Option<&[f32]>) -> Vec<f64> {
    let numbers = |row: &[f32]| row.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    rows.chunks_exact(inputs)
        .flat_map(|row| {
            let row = numbers(row);
            let outputs = weights.chunks_exact(inputs).enumerate();
            outputs
                .map(|(output, weights)| {
                    let sum = dot(row.iter().copied(), weights.iter().map(|x| f64::from(*x)));
                    sum + bias.map_or(0.0, |bias| f64::from(bias[output]))
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A convolution of `[batch, height, width, channels]` with weights `[outputs, channels, height, width]`.
#[must_use]
pub fn convolution(x: &[f32], window: Window, weights: &[f32], channels: usize) -> Vec<f64> {
    let ([height, width], [kernel_height, kernel_width]) = (window.input, window.kernel);
    let [tall, wide] = window.enlarged.unwrap_or(window.input);
    let size = channels * kernel_height * kernel_width;
    let mut out = Vec::new();
    for picture in 0..window.batch {
        for line in 0..window.output[0] {
            for column in 0..window.output[1] {
                for weights in weights.chunks_exact(size) {
                    let mut sum = 0.0;
                    for tap in 0..kernel_height * kernel_width {
                        let y = line * window.stride + tap / kernel_width;
                        let x_ = column * window.stride + tap % kernel_width;
                        let (Some(y), Some(x_)) = (
                            y.checked_sub(window.padding[0]),
                            x_.checked_sub(window.padding[1]),
                        ) else {
                            continue;
                        };
                        if y >= tall || x_ >= wide {
                            continue;
                        }
                        let (y, x_) = (y * height / tall, x_ * width / wide);
                        let pixel = &x[((picture * height + y) * width + x_) * channels..];
                        for channel in 0..channels {
                            let weight = weights[channel * kernel_height * kernel_width + tap];
                            sum += f64::from(pixel[channel]) * f64::from(weight);
                        }
                    }
                    out.push(sum);
                }
            }
        }
    }
    out
}

/// An activation of a number.
#[must_use]
pub fn activation(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
    }
}

/// The complementary error function: its series where that converges quickly, elsewhere its continued fraction.
#[must_use]
pub fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..100)
        .rev()
        .fold(x, |below, n| x + 0.5 * f64::from(n) / below);
    (-x * x).exp() / fraction * 0.5 * std::f64::consts::FRAC_2_SQRT_PI
}

/// A group norm, without an activation.
#[must_use]
pub fn group_norm(x: &[f32], shape: Groups, affine: Affine<'_>) -> Vec<f64> {
    let size = shape.channels / shape.groups;
    let mut out = vec![0.0; x.len()];
    for sample in 0..shape.batch {
        for group in 0..shape.groups {
            let indices = (0..shape.positions).flat_map(|position| {
                let first = (sample * shape.positions + position) * shape.channels + group * size;
                first..first + size
            });
            let indices: Vec<usize> = indices.collect();
            normalise(x, &indices, affine, shape.channels, &mut out);
        }
    }
    out
}

/// A layer norm over rows as long as the affine part.
#[must_use]
pub fn layer_norm(x: &[f32], affine: Affine<'_>) -> Vec<f64> {
    let columns = affine.scale.len();
    let mut out = vec![0.0; x.len()];
    for row in 0..x.len() / columns {
        let indices: Vec<usize> = (row * columns..(row + 1) * columns).collect();
        normalise(x, &indices, affine, columns, &mut out);
    }
    out
}

fn normalise(x: &[f32], indices: &[usize], affine: Affine<'_>, channels: usize, out: &mut [f64]) {
    let count = indices.len() as f64;
    let numbers = || indices.iter().map(|index| f64::from(x[*index]));
    let mean = numbers().sum::<f64>() / count;
    let variance = numbers().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    for index in indices {
        let normal = (f64::from(x[*index]) - mean) / (variance + affine.epsilon).sqrt();
        let channel = index % channels;
        out[*index] = normal * f64::from(affine.scale[channel]) + f64::from(affine.shift[channel]);
    }
}

/// Attention, `[sequences, queries, heads · features]`.
#[must_use]
pub fn attention(shape: Heads, query: Tokens<'_>, key: Tokens<'_>, value: Tokens<'_>) -> Vec<f64> {
    let Heads {
        sequences,
        heads,
        features,
        queries,
        keys,
        causal,
        ..
    } = shape;
    let token = |tokens: Tokens<'_>, sequence: usize, head: usize, token: usize| {
        let Strides {
            sequence: of_sequence,
            token: of_token,
        } = tokens.strides;
        let from = sequence * of_sequence + token * of_token + head * features;
        let numbers = tokens.numbers[from..][..features].iter();
        numbers.map(|x| f64::from(*x)).collect::<Vec<f64>>()
    };
    let mut out = vec![0.0; sequences * queries * heads * features];
    for sequence in 0..sequences {
        for head in 0..heads {
            let all = |tokens| -> Vec<_> {
                (0..keys)
                    .map(|key| token(tokens, sequence, head, key))
                    .collect()
            };
            let (keys, values) = (all(key), all(value));
            for index in 0..queries {
                let query = token(query, sequence, head, index);
                let seen = if causal { index + 1 } else { keys.len() };
                let scores = keys.iter().take(seen).map(|key| {
                    dot(query.iter().copied(), key.iter().copied()) / (features as f64).sqrt()
                });
                let scores: Vec<f64> = scores.collect();
                let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|x| (x - greatest).exp()).collect();
                let total: f64 = weights.iter().sum();
                let at = ((sequence * queries + index) * heads + head) * features;
                for (feature, out) in out[at..at + features].iter_mut().enumerate() {
                    let values = values.iter().map(|value| value[feature]);
                    *out = dot(weights.iter().copied(), values) / total;
                }
            }
        }
    }
    out
}

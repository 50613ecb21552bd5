//! Every kernel at sizes of Stable Diffusion 1.5 and of the embedded model, with the arithmetic rate beside the time.
//!
//! Elements are multiply-adds; twice as many floating-point operations. The plain reference is timed at one size, where it
//! does not take minutes.

use asyncdiff_kernels::{
    Activation, Affine, Finish, Groups, Heads, Packed, Storage, Strides, Tokens, Window, activate,
    attention, convolution, group_norm, layer_norm, product, reference,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn numbers(count: usize) -> Vec<f32> {
    (0..count)
        .map(|index| (index * 7919 % 1009) as f32 / 504.0 - 1.0)
        .collect()
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("product");
    group.sample_size(10);
    for [rows, inputs, outputs] in [
        [8192, 320, 320],
        [2048, 640, 5120],
        [512, 5120, 1280],
        [512, 48, 192],
    ] {
        let (x, weights) = (numbers(rows * inputs), numbers(outputs * inputs));
        let mut out = vec![0.0; rows * outputs];
        group.throughput(Throughput::Elements((rows * inputs * outputs) as u64));
        for storage in [Storage::F32, Storage::Bf16Pairs] {
            let packed = Packed::new(storage, [outputs, 1, inputs], None, &weights);
            let name =
                BenchmarkId::new(format!("{storage:?}"), format!("{rows}x{inputs}x{outputs}"));
            group.bench_function(name, |bencher| {
                bencher.iter(|| product(&x, &packed, &Finish::default(), &mut out));
            });
        }
        if outputs == 192 {
            group.bench_function("reference", |bencher| {
                bencher.iter(|| reference::product(&x, &weights, inputs, None));
            });
        }
    }
}

fn convolutions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("convolution 3x3");
    group.sample_size(10);
    for [batch, channels, outputs, size] in [
        [2, 320, 320, 64],
        [2, 640, 640, 32],
        [2, 1280, 1280, 8],
        [1, 128, 128, 256],
        [2, 48, 48, 16],
    ] {
        let window = Window {
            batch,
            input: [size; 2],
            enlarged: None,
            kernel: [3, 3],
            stride: 1,
            padding: [1, 1],
            output: [size; 2],
        };
        let x = numbers(batch * size * size * channels);
        let weights = numbers(outputs * channels * 9);
        let packed = Packed::new(Storage::F32, [outputs, 9, channels], None, &weights);
        let mut out = vec![0.0; batch * size * size * outputs];
        let work = batch * size * size * channels * outputs * 9;
        group.throughput(Throughput::Elements(work as u64));
        group.bench_function(
            format!("{batch} x {channels} to {outputs} at {size}"),
            |bencher| {
                bencher.iter(|| convolution(&x, window, &packed, &Finish::default(), &mut out));
            },
        );
        if channels == 48 {
            group.bench_function("reference", |bencher| {
                bencher.iter(|| reference::convolution(&x, window, &weights, channels));
            });
        }
    }
}

fn attentions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    group.sample_size(10);
    for [queries, keys, features] in [
        [4096, 4096, 40],
        [1024, 1024, 80],
        [4096, 77, 40],
        [256, 256, 12],
    ] {
        let shape = Heads {
            sequences: 2,
            heads: 8,
            features,
            queries,
            keys,
            causal: false,
            storage: Storage::F32,
        };
        let (q, k) = (
            numbers(2 * 8 * queries * features),
            numbers(2 * 8 * keys * features),
        );
        let mut out = vec![0.0; q.len()];
        let strides = |tokens: usize| Strides {
            sequence: tokens * 8 * features,
            token: 8 * features,
        };
        let of = |numbers, tokens| Tokens {
            numbers,
            strides: strides(tokens),
        };
        let (query, key) = (of(&q, queries), of(&k, keys));
        group.throughput(Throughput::Elements(
            (32 * queries * keys * features) as u64,
        ));
        group.bench_function(
            format!("{queries} x {keys}, {features} features"),
            |bencher| {
                bencher.iter(|| attention(shape, query, key, key, &mut out, strides(queries)));
            },
        );
        if queries == 256 {
            group.bench_function("reference", |bencher| {
                bencher.iter(|| reference::attention(shape, query, key, key));
            });
        }
    }
}

fn norms(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("numbers one by one");
    group.sample_size(10);
    let (positions, channels) = (4096, 320);
    let x = numbers(2 * positions * channels);
    let mut out = vec![0.0; x.len()];
    let (scale, shift) = (numbers(channels), numbers(channels));
    let affine = Affine {
        scale: &scale,
        shift: &shift,
        epsilon: 1e-5,
    };
    let shape = Groups {
        batch: 2,
        positions,
        channels,
        groups: 32,
    };
    group.throughput(Throughput::Elements(x.len() as u64));
    group.bench_function("group norm and SiLU", |bencher| {
        bencher.iter(|| group_norm(&x, shape, affine, Activation::Silu, &mut out));
    });
    group.bench_function("group norm, reference", |bencher| {
        bencher.iter(|| reference::group_norm(&x, shape, affine));
    });
    group.bench_function("layer norm", |bencher| {
        bencher.iter(|| layer_norm(&x, affine, &mut out));
    });
    group.bench_function("GELU", |bencher| {
        bencher.iter(|| activate(Activation::Gelu, &x, &mut out));
    });
}

criterion_group!(benches, products, convolutions, attentions, norms);
criterion_main!(benches);

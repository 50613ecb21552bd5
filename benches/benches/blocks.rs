//! The blocks of the embedded model's denoiser, one by one, with the arithmetic rate beside the time.
//!
//! Elements are multiply-adds.

use std::collections::BTreeSet;

use asyncdiff_core::{Branch, Denoiser, Input};
use asyncdiff_models::device::workers;
use asyncdiff_models::unet::{Conditioning, UNet};
use asyncdiff_models::{Checkpoint, StableDiffusion};
use burn::tensor::{FloatDType, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn blocks(criterion: &mut Criterion) {
    let checkpoint = Checkpoint::embedded();
    let weights = checkpoint.weights("unet", "diffusion_pytorch_model");
    let weights = weights.expect("the embedded model");
    let pipeline = StableDiffusion::open(Checkpoint::embedded()).expect("the embedded model");
    let spec = pipeline.unet();
    let worker = &workers("cpu", Some(1)).expect("a worker")[0];
    let device = worker.device();

    let size = [16, 16];
    let tokens = pipeline
        .text_encoders()
        .map_or(1, |encoders| encoders.tokens());
    let graph = spec.graph(2, [1, size[0], size[1]], tokens);
    let all: Vec<_> = graph.iter().map(|(id, _)| id).collect();
    let ones = |shape: [usize; 3]| Tensor::<3>::ones(shape, device);
    let conditioning = Conditioning {
        context: ones([2, tokens, spec.config.cross_attention_dim]),
        added: None,
        concat: None,
        mask: None,
        frames: 1,
    };
    let mut group = criterion.benchmark_group("blocks, one thread");
    group.sample_size(10);
    let weights = weights.read().expect("a header");
    let unet = UNet::load(spec, &weights, None, &all, device, FloatDType::F32);
    let unet = unet.expect("weights that fit");
    let given = Box::new(|_| unreachable!("a denoiser call reads nothing else"));
    let mut denoiser = unet.denoiser(conditioning, size, given);
    let mut outputs: Vec<Tensor<4>> = Vec::new();
    // Of blocks with the same work, one.
    let mut seen = BTreeSet::new();
    for (id, block) in graph.iter() {
        let inputs = block.inputs.iter().map(|input| match input {
            Input::Latents => Tensor::ones(graph.latents, device),
            Input::Block(from) => outputs[from.0].clone(),
        });
        let inputs: Vec<Tensor<4>> = inputs.collect();
        let mut run = || {
            let run = || denoiser.run(id, Branch::Both, 501.0, inputs.clone());
            worker.install(run).expect("a block has no error")
        };
        outputs.push(run());
        if seen.insert((block.macs, block.output)) {
            group.throughput(Throughput::Elements(block.macs));
            group.bench_function(&block.name, |bencher| bencher.iter(&mut run));
        }
    }
    group.finish();
}

criterion_group!(benches, blocks);
criterion_main!(benches);

//! Each half of the guidance batch alone against both together, block by block.

use asyncdiff_burn::latents::Blocks;
use asyncdiff_core::Input;
use asyncdiff_core::plan::Branch;
use asyncdiff_models::unet::{AddedConditioning, Conditioning, UNet};
use burn::tensor::{Device, FloatDType, Tensor};

use super::fixtures::models;
use super::networks::{inputs, values, weights};

/// The order in which a kernel adds up may depend on the size of the batch: a few roundings of the largest value in a sum.
const ROUNDING: f32 = 1e-5;

/// Behind another conditioning, as that of a negative prompt.
fn guided(positive: Conditioning) -> Conditioning {
    fn behind<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
        Tensor::cat(vec![tensor.clone() * 0.5 + 0.1, tensor], 0)
    }
    Conditioning {
        context: behind(positive.context),
        added: positive.added.map(|added| AddedConditioning {
            text_embeds: added.text_embeds.map(behind),
            time_ids: {
                let negative = added.time_ids.iter();
                let negative = negative.map(|ids| ids.iter().map(|id| id * 0.5 + 1.0).collect());
                negative.chain(added.time_ids.clone()).collect()
            },
        }),
        concat: positive.concat.map(behind),
        ..positive
    }
}

#[test]
fn halves_of_the_guidance_batch() {
    let mut checked = 0;
    for model in models() {
        let pipeline = &model.pipeline;
        let spec = pipeline.motion_unet().unwrap_or(pipeline.unet());
        let file = weights(&model, "unet/diffusion_pytorch_model.safetensors");
        let motion_file = pipeline
            .motion_unet()
            .map(|_| weights(&model, "motion_adapter/diffusion_pytorch_model.safetensors"));
        let Some(reference) = model.reference("unet_even") else {
            continue;
        };
        let (sample, mut conditioning) = inputs(&model, &reference);
        let [batch, channels, height, width] = sample.dims();
        // The references give what is read beside the latents together with them.
        let own = spec.config.out_channels;
        let latents = sample.clone().narrow(1, 0, own);
        conditioning.concat = (channels > own).then(|| sample.narrow(1, own, channels - own));
        let tokens = conditioning.context.dims()[1];
        let videos = batch / conditioning.frames;
        let graph = spec.video_graph(2, conditioning.frames, [batch, height, width], tokens);
        let all: Vec<_> = graph.iter().map(|(id, _)| id).collect();
        let unet = UNet::load(
            spec,
            &file.read().unwrap(),
            motion_file
                .as_ref()
                .map(|file| file.read().unwrap())
                .as_ref(),
            &all,
            &Device::flex(),
            FloatDType::F32,
        )
        .unwrap();
        let conditioning = guided(conditioning);
        assert_eq!(conditioning.context.dims()[0], 2 * videos);
        let mut blocks = unet.blocks(conditioning, [height, width]);
        let timestep = f64::from(reference.values("in.timestep")[0]);
        let mut outputs: Vec<Tensor<4>> = Vec::new();
        for (id, block) in graph.iter() {
            let read = |half: Option<usize>| -> Vec<Tensor<4>> {
                let inputs = block.inputs.iter().map(|input| match (input, half) {
                    (Input::Latents, _) => latents.clone(),
                    (Input::Block(from), None) => outputs[from.0].clone(),
                    (Input::Block(from), Some(half)) => {
                        outputs[from.0].clone().narrow(0, half * batch, batch)
                    }
                });
                inputs.collect()
            };
            let both = blocks.run(id, Branch::Both, timestep, read(None));
            let negative = blocks.run(id, Branch::Negative, timestep, read(Some(0)));
            let positive = blocks.run(id, Branch::Positive, timestep, read(Some(1)));
            let what = format!("{}: {}", model.name, block.name);
            assert_eq!(negative.dims()[0], batch, "{what}");
            let halves = values(Tensor::cat(vec![negative, positive], 0));
            let whole = values(both.clone());
            assert_eq!(halves.len(), whole.len(), "{what}");
            let largest = whole
                .iter()
                .fold(0.0_f32, |most, value| most.max(value.abs()));
            for (half, whole) in halves.iter().zip(&whole) {
                let off = (half - whole).abs();
                assert!(
                    off <= ROUNDING * largest,
                    "{what}: {half}, together {whole}"
                );
            }
            outputs.push(both);
            checked += 1;
        }
        // Otherwise the halves could be taken for each other.
        let whole = values(outputs.pop().unwrap());
        let (negative, positive) = whole.split_at(whole.len() / 2);
        assert_ne!(negative, positive, "{}", model.name);
    }
    println!("{checked} blocks checked");
    assert!(checked > 0 || models().is_empty());
}

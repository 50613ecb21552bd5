//! The memory that a plan announces against what the allocator sees. Alone in its program, because every allocation counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use asyncdiff_burn::weights::WeightFile;
use asyncdiff_comm::{CommError, Form, PeerExchange};
use asyncdiff_core::Engine;
use asyncdiff_models::device::workers;
use asyncdiff_models::text::TextEncoders;
use asyncdiff_models::unet::{AddedConditioning, Conditioning, UNet};
use asyncdiff_models::{Checkpoint, MotionAdapter, Request, Run, StableDiffusion, Strategy};
use burn::tensor::{Device, FloatDType, Tensor};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all memory is the system allocator's; the counters only watch.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(held, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Stands for all other ranks: takes what is sent, and makes what is received up.
struct Others {
    device: Device,
}

impl PeerExchange<Tensor<4>> for Others {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn send(&mut self, _: usize, _: u64, _: Tensor<4>) -> Result<(), CommError> {
        Ok(())
    }

    fn recv(
        &mut self,
        _: usize,
        _: u64,
        expected: &Form,
        _: Duration,
    ) -> Result<Tensor<4>, CommError> {
        let shape: [usize; 4] = expected.shape.clone().try_into().unwrap();
        Ok(Tensor::ones(shape, &self.device))
    }

    fn check(&mut self) -> Result<(), CommError> {
        Ok(())
    }

    fn fail(&mut self, _: &str) {}
}

/// The most bytes that a rank holds while it runs its part of the plan.
fn measured(pipeline: &StableDiffusion, checkpoint: &Path, run: &Run, rank: usize) -> usize {
    let worker = &workers("cpu:1", Some(1)).unwrap()[0];
    let device = worker.device();
    let weights = |part| {
        let name = "diffusion_pytorch_model.safetensors";
        WeightFile::open(&checkpoint.join(part).join(name)).unwrap()
    };
    let (unet, motion) = match pipeline.motion_unet() {
        Some(unet) => (unet, Some(weights("motion_adapter"))),
        None => (pipeline.unet(), None),
    };
    let file = weights("unet");
    let blocks = &run.plan.blocks[rank];
    let mut others = Others {
        device: device.clone(),
    };
    let [_, _, height, width] = run.graph.latents;
    let tokens = pipeline.text_encoders().map_or(1, TextEncoders::tokens);
    let rows = 2 * run.shape.num_images;
    let context = Tensor::ones([rows, tokens, unet.config.cross_attention_dim], device);
    let [batch, channels, ..] = run.graph.latents;
    let beside = unet.config.in_channels - channels;
    let conditioning = Conditioning {
        context,
        added: unet.config.added().map(|_| AddedConditioning {
            text_embeds: None,
            time_ids: vec![vec![6.0, 127.0, 0.02]; rows],
        }),
        concat: (beside > 0).then(|| Tensor::ones([2 * batch, beside, height, width], device)),
        mask: None,
        frames: run.shape.frames,
    };
    worker.install(|| {
        let (weights, motion) = (
            file.read().unwrap(),
            motion.as_ref().map(|file| file.read()),
        );
        let motion = motion.transpose().unwrap();
        let dtype = FloatDType::F32;
        let unet = UNet::load(unet, &weights, motion.as_ref(), blocks, device, dtype).unwrap();
        drop((weights, motion));
        let given = Box::new(|_| unreachable!("no noise and no picture in this run"));
        let mut denoiser = unet.denoiser(conditioning, [height, width], given);
        let latents =
            (rank == run.plan.latents_rank).then(|| Tensor::ones(run.graph.latents, device));
        let before = HELD.load(Relaxed);
        PEAK.store(before, Relaxed);
        Engine::new(&run.plan, rank, &|what| run.form(what))
            .run(&mut denoiser, &mut others, latents, &mut |_, _| {
                ControlFlow::Continue(())
            })
            .unwrap();
        PEAK.load(Relaxed) - before
    })
}

/// Activations far larger than what the matrix multiplication packs.
fn large(pipeline: &StableDiffusion) -> Request {
    let mut request = pipeline.request("");
    request.shape.steps = 4;
    request.shape.scheduler = Some("ddim".to_owned());
    (request.shape.width, request.shape.height) = (192, 128);
    request
}

fn check(pipeline: &StableDiffusion, checkpoint: &Path, request: &Request) {
    for strategy in [
        Strategy::sequential(),
        Strategy::segments(2),
        Strategy::segments(3),
    ] {
        let run = pipeline.plan(&request.shape, &strategy).unwrap();
        for (rank, summary) in run.summary.ranks.iter().enumerate() {
            let announced = summary.activation_bytes as f64;
            let measured = measured(pipeline, checkpoint, &run, rank) as f64;
            println!(
                "{}: {} ranks, rank {rank}: announced {:.2} MiB, measured {:.2} MiB, ratio {:.3}",
                checkpoint.display(),
                run.plan.ranks.len(),
                announced / 1048576.0,
                measured / 1048576.0,
                announced / measured
            );
            assert!(
                (0.8..=1.2).contains(&(announced / measured)),
                "{strategy:?}, rank {rank}: announced {announced}, measured {measured}"
            );
        }
    }
}

/// One test for all, because every allocation counts.
#[test]
fn the_announced_peak_is_within_a_fifth_of_the_allocators() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let open =
        |checkpoint: &Path| StableDiffusion::open(Checkpoint::folder(checkpoint).unwrap()).unwrap();

    let pictures = fixtures.join("sd15/checkpoint");
    let pipeline = open(&pictures);
    let mut request = large(&pipeline);
    request.shape.num_images = 24;
    check(&pipeline, &pictures, &request);

    let videos = fixtures.join("animatediff/checkpoint");
    let adapter = Checkpoint::part(videos.join("motion_adapter")).unwrap();
    let adapter = MotionAdapter::open(adapter).unwrap();
    let pipeline = open(&videos).with_motion(adapter).unwrap();
    let mut request = large(&pipeline);
    request.shape.frames = 24;
    check(&pipeline, &videos, &request);

    let videos = fixtures.join("svd/checkpoint");
    let pipeline = open(&videos);
    let mut request = large(&pipeline);
    request.shape.frames = 24;
    check(&pipeline, &videos, &request);
}

//! The embedded model's denoising, sequential and asynchronous, and one denoiser call.
//!
//! Every run's output is checked against the sequential one before it is timed: times of wrong pictures mean nothing.

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_models::device::workers;
use asyncdiff_models::quality::{psnr, relative_error};
use asyncdiff_models::{Checkpoint, Content, Request, Run, Session, StableDiffusion, Strategy};
use criterion::{Criterion, criterion_group, criterion_main};

/// Published reuse came to 0.05 in the prototype at 50 steps, and a wrong exchange is off by more than 0.5.
const LATENT_ERROR: f64 = 0.15;

fn open() -> Arc<StableDiffusion> {
    Arc::new(StableDiffusion::open(Checkpoint::embedded()).expect("the embedded model"))
}

fn request(pipeline: &StableDiffusion, steps: usize) -> Request {
    let mut request = pipeline.request("red apple, fluent style");
    request.shape.steps = steps;
    request
}

/// The time of the denoising alone, without text encoder and decoder.
fn denoising(session: &mut Session, run: &Run, content: &Content, times: u64) -> Duration {
    (0..times)
        .map(|_| {
            session
                .generate(run, content, &mut ())
                .expect("a picture")
                .timings
                .denoise
        })
        .sum()
}

fn denoise(criterion: &mut Criterion) {
    let pipeline = open();
    let request = request(&pipeline, 20);
    let plan = |strategy: &Strategy| pipeline.plan(&request.shape, strategy).expect("a plan");
    let sequential = plan(&Strategy::sequential());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);

    let mut group = criterion.benchmark_group("20 steps, one thread a worker");
    group.sample_size(10);
    let mut reference = None;
    for segments in 1..=4 {
        let name = match segments {
            1 => "sequential".to_owned(),
            _ => format!("asyncdiff n={segments}"),
        };
        if segments > cores {
            println!("{name}: passed over, it needs {segments} cores, this machine has {cores}");
            continue;
        }
        let run = if segments == 1 {
            sequential.clone()
        } else {
            plan(&Strategy::segments(segments))
        };
        let workers = workers(&format!("cpu:{segments}"), Some(segments)).expect("workers");
        let mut session = Session::new(&pipeline, workers).expect("the weights");
        let output = session
            .generate(&run, &request.content, &mut ())
            .expect("a picture");
        let reference = reference.get_or_insert_with(|| output.clone());
        let error = relative_error(&output.latents, &reference.latents).expect("equal shapes");
        assert!(error < LATENT_ERROR, "{name}: latent error {error}");
        let psnr = psnr(&output.images[0], &reference.images[0]).expect("equal sizes");
        println!(
            "{name}: latent error {error:.4}, PSNR {psnr:.1} dB, ideal speed-up {:.2}",
            run.summary.ideal_speed_up
        );
        group.bench_function(&name, |bencher| {
            bencher.iter_custom(|times| denoising(&mut session, &run, &request.content, times));
        });
    }
    group.finish();
}

fn one_call(criterion: &mut Criterion) {
    let pipeline = open();
    // One step of DDIM is one denoiser call; text encoder and decoder are a small part of the time.
    let request = request(&pipeline, 1);
    let run = pipeline
        .plan(&request.shape, &Strategy::sequential())
        .expect("a plan");
    let workers = workers("cpu", Some(1)).expect("a worker");
    let mut session = Session::new(&pipeline, workers).expect("the weights");
    criterion.bench_function("one UNet step, one thread", |bencher| {
        bencher.iter_custom(|times| denoising(&mut session, &run, &request.content, times));
    });
}

criterion_group!(benches, denoise, one_call);
criterion_main!(benches);

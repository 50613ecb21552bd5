//! The same picture sooner: the denoiser in two segments, on two CPU workers.
//!
//! `cargo run --release -p asyncdiff-models --example 02_asynchronous`

use std::sync::Arc;

use asyncdiff_core::AsyncDiff;
use asyncdiff_models::device::workers;
use asyncdiff_models::{Checkpoint, PartitionChoice, Session, Spread, StableDiffusion, Strategy};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pipeline = Arc::new(StableDiffusion::open(Checkpoint::embedded())?);
    let strategy = Strategy::from(Spread::AsyncDiff {
        partition: PartitionChoice::Published(2),
        parameters: AsyncDiff {
            warm_up: 3,
            // Continue the line through the last two activations instead of reusing the last one.
            forecast: 1,
            ..AsyncDiff::default()
        },
    });
    let run = pipeline.plan(&pipeline.shape(), &strategy)?;
    println!("at best {:.2} times sooner", run.summary.ideal_speed_up);

    let content = pipeline.content("red apple, fluent style");
    let mut session = Session::new(&pipeline, workers("cpu:2", None)?)?;
    let output = session.generate(&run, &content, &mut ())?;
    println!("denoised in {:?}", output.timings.denoise);
    Ok(())
}

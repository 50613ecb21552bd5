//! A picture from a prompt, on one device.
//!
//! `cargo run --release -p asyncdiff-models --example 01_sequential`

use std::sync::Arc;

use asyncdiff_models::device::workers;
use asyncdiff_models::{Checkpoint, Session, StableDiffusion, Strategy};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pipeline = Arc::new(StableDiffusion::open(Checkpoint::embedded())?);
    let run = pipeline.plan(&pipeline.shape(), &Strategy::sequential())?;

    let content = pipeline.content("red apple, fluent style");
    let mut session = Session::new(&pipeline, workers("cpu", None)?)?;
    let output = session.generate(&run, &content, &mut ())?;
    let image = &output.images[0];
    println!(
        "{}x{} pixels in {:?}",
        image.width, image.height, output.timings.denoise
    );
    Ok(())
}

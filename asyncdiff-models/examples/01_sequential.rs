//! A picture from a prompt, on one device.
//!
//! `cargo run --release -p asyncdiff-models --example 01_sequential`

use asyncdiff_models::device::workers;
use asyncdiff_models::{Checkpoint, Session, StableDiffusion, Strategy};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pipeline = StableDiffusion::open(Checkpoint::embedded())?;
    let request = pipeline.request("red apple, fluent style");
    let run = pipeline.plan(&request, &Strategy::sequential())?;

    let mut session = Session::new(&pipeline, workers("cpu", None)?)?;
    let output = session.generate(&run, &mut ())?;
    let image = &output.images[0];
    println!(
        "{}x{} pixels in {:?}",
        image.width, image.height, output.timings.denoise
    );
    Ok(())
}

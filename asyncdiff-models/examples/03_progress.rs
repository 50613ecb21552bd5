//! Watch a run, look at its latents, and stop it early.
//!
//! `cargo run --release -p asyncdiff-models --example 03_progress`

use std::ops::ControlFlow;

use asyncdiff_models::device::workers;
use asyncdiff_models::{Checkpoint, Error, Latents, Progress, Session, StableDiffusion, Strategy};

struct Watch;

impl Progress for Watch {
    fn step(&mut self, done: usize, calls: usize, latents: &Latents) -> ControlFlow<()> {
        let size = latents.clone().abs().mean().into_scalar::<f32>();
        println!("{done}/{calls}: mean magnitude {size:.3}");
        if done < 10 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pipeline = StableDiffusion::open(Checkpoint::embedded())?;
    let request = pipeline.request("red apple, fluent style");
    let run = pipeline.plan(&request, &Strategy::segments(2))?;
    let mut session = Session::new(&pipeline, workers("cpu:2", None)?)?;
    match session.generate(&run, &mut Watch) {
        Err(Error::Cancelled) => println!("stopped"),
        other => drop(other?),
    }
    Ok(())
}

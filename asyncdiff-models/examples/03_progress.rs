//! Watch a run, look at its latents and at the picture so far, and stop it early.
//!
//! `cargo run --release -p asyncdiff-models --example 03_progress`

use std::ops::ControlFlow;
use std::sync::Arc;

use asyncdiff_models::device::workers;
use asyncdiff_models::{
    Checkpoint, Clean, Error, Latents, Previewer, Progress, Session, StableDiffusion, Strategy,
};

struct Watch(Previewer);

impl Progress for Watch {
    fn step(&mut self, done: usize, calls: usize, latents: &Latents) -> ControlFlow<()> {
        let size = latents.clone().abs().mean().into_scalar::<f32>();
        println!("{done}/{calls}: mean magnitude {size:.3}");
        ControlFlow::Continue(())
    }

    fn predicted(&mut self, done: usize, _: usize, clean: &Clean<'_>) -> ControlFlow<()> {
        if done < 10 {
            return ControlFlow::Continue(());
        }
        if let Ok(pictures) = self.0.pictures(clean) {
            println!("a preview of {} bytes", pictures[0].rgb.len());
        }
        ControlFlow::Break(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pipeline = Arc::new(StableDiffusion::open(Checkpoint::embedded())?);
    let run = pipeline.plan(&pipeline.shape(), &Strategy::segments(2))?;
    let content = pipeline.content("red apple, fluent style");
    let mut session = Session::new(&pipeline, workers("cpu:2", None)?)?;
    let mut watch = Watch(session.previewer());
    match session.generate(&run, &content, &mut watch) {
        Err(Error::Cancelled) => println!("stopped"),
        other => drop(other?),
    }
    Ok(())
}

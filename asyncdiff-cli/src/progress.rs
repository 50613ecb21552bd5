//! The progress bar.

use std::ops::ControlFlow;

use asyncdiff_models::{Latents, Progress};
use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error, if that is a terminal.
pub struct Bar(ProgressBar);

impl Bar {
    pub fn new(visible: bool) -> Self {
        if !visible {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template(
            "{bar:40} {pos}/{len} steps, {elapsed} elapsed, {eta} left",
        );
        let bar = ProgressBar::new(0);
        Self(match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        })
    }
}

impl Progress for Bar {
    fn step(&mut self, done: usize, calls: usize, _: &Latents) -> ControlFlow<()> {
        self.0.set_length(calls as u64);
        self.0.set_position(done as u64);
        ControlFlow::Continue(())
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

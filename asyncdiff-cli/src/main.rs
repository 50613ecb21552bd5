//! `asyncdiff`: pictures from Stable Diffusion checkpoints, sooner.
//!
//! Flags, environment and printing only; what is computed is in `asyncdiff-models` and below, and what becomes files is in
//! `asyncdiff-media`.

mod args;
mod commands;
#[cfg(feature = "hub")]
mod hub;
mod interrupt;
mod jobs;
mod lora_flag;
mod model;
mod output;
mod parameters;
mod preview;
mod processes;
mod progress;
mod result;
mod setup;
mod spread;
mod words;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use interrupt::Cancelled;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Generate(args) => commands::generate::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Measure(args) => commands::measure::run(&args),
        Command::Info(args) => commands::info::run(&args),
        Command::Completions { shell } => commands::completions(shell),
        Command::Man => commands::man(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has seen enough.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Cancelled>() => {
            eprintln!("{error}");
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

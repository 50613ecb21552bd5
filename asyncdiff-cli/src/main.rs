//! `asyncdiff`: pictures from Stable Diffusion checkpoints, sooner.
//!
//! Flags, environment and printing only; what is computed is in `asyncdiff-models` and below, and what becomes files is in
//! `asyncdiff-media`.

#[macro_use]
mod message;

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

/// What `clap`, like most programs, says to a command line that it does not understand.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            complain!("{}", error.render().to_string().trim_end());
            return ExitCode::from(USAGE);
        }
        // Help, or the version.
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Generate(args) => commands::generate::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Measure(args) => commands::measure::run(&args),
        Command::Worker(args) => commands::worker::run(&args),
        Command::Info(args) => commands::info::run(&args),
        Command::Serve(args) => commands::serve::run(&args),
        Command::Completions { shell } => commands::completions(shell),
        Command::Man => commands::man(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Cancelled>() {
            Some(cancelled) => {
                complain!("{cancelled}");
                ExitCode::from(cancelled.exit_code())
            }
            None => {
                complain!("error: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

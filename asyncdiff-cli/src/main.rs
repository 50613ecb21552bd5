//! `asyncdiff`: pictures from Stable Diffusion checkpoints, sooner.
//!
//! Flags, files and printing only; what is computed is in `asyncdiff-models` and below.

mod args;
mod commands;
mod picture;
mod progress;
mod setup;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Generate(args) => commands::generate::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "asyncdiff",
                &mut std::io::stdout(),
            );
            Ok(())
        }
        Command::Man => commands::man(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

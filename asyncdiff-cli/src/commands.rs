//! The subcommands.

pub mod compare;
pub mod generate;
pub mod plan;

use std::io::Write;

use clap::CommandFactory;

use crate::args::Cli;
use crate::setup::Result;

/// Prints the man page, subcommands and all.
pub fn man() -> Result<()> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for subcommand in command.get_subcommands() {
        let title = format!("asyncdiff-{}", subcommand.get_name());
        clap_mangen::Man::new(subcommand.clone())
            .title(title)
            .render(&mut page)?;
    }
    Ok(std::io::stdout().write_all(&page)?)
}

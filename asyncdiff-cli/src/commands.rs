//! The subcommands.

/// Prints a line on standard output.
macro_rules! say {
    ($($line:tt)*) => {
        $crate::output::Lines::Stdout.print(format_args!($($line)*))
    };
}

pub mod compare;
pub mod generate;
pub mod info;
pub mod measure;
pub mod plan;
pub mod serve;
pub mod worker;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::output;
use crate::setup::Result;

/// Prints completions for a shell.
pub fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "asyncdiff", &mut script);
    Ok(output::put(&script)?)
}

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
    Ok(output::put(&page)?)
}

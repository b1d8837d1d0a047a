//! `outbox-relay completions`: completions for a shell.

use std::io::{self, Write};

use anyhow::{Context, Result};
use clap_complete::{Shell, generate};

/// Arguments of `completions`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  outbox-relay completions bash > \
                  /usr/share/bash-completion/completions/outbox-relay\n  \
                  outbox-relay completions zsh > ~/.zfunc/_outbox-relay\n  \
                  outbox-relay completions fish > ~/.config/fish/completions/outbox-relay.fish")]
pub struct Args {
    /// For this shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the completions.
///
/// # Errors
///
/// When standard output cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let mut command = super::command();
    let name = command.get_name().to_owned();
    // A pipe that is closed early would be a panic inside.
    let mut script = Vec::new();
    generate(args.shell, &mut command, name, &mut script);
    let written = io::stdout().lock().write_all(&script);
    written.context("write to standard output")
}

//! `outbox-relay completions`: completions for a shell.

use anyhow::Result;
use clap_complete::{Shell, generate};

use super::out;

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
    out::bytes(&script)
}

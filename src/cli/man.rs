//! `outbox-relay man`: manual pages.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap_mangen::Man;

/// Arguments of `man`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  outbox-relay man | man -l -\n  \
                  outbox-relay man --dir /usr/local/share/man/man1")]
pub struct Args {
    /// Write the page of each command into this directory, which is created; without it, the page of
    /// outbox-relay itself is printed.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints or writes the pages.
///
/// # Errors
///
/// When a page cannot be written.
pub fn run(args: &Args) -> Result<()> {
    // `help` has no page of its own.
    let command = super::command().disable_help_subcommand(true);
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        Man::new(command)
            .render(&mut page)
            .context("make the page")?;
        let written = io::stdout().lock().write_all(&page);
        return written.context("write to standard output");
    };
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    clap_mangen::generate_to(command, dir)
        .with_context(|| format!("write the pages into {}", dir.display()))
}

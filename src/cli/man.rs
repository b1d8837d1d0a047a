//! `outbox-relay man`: manual pages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::out;

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
    let mut command = super::command().disable_help_subcommand(true);
    command.build();
    let Some(dir) = &args.dir else {
        return out::bytes(&page(&command).context("make the page")?);
    };
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    write(&command, dir)
}

/// Writes the page of a command and those of all below it.
fn write(command: &Command, dir: &Path) -> Result<()> {
    let made = page(command).context("make a page")?;
    let name = command.get_display_name().unwrap_or(command.get_name());
    let file = dir.join(format!("{name}.1"));
    fs::write(&file, made).with_context(|| format!("write {}", file.display()))?;
    let below = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set());
    below.into_iter().try_for_each(|below| write(below, dir))
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let help = command.get_after_help().map(ToString::to_string);
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    sections(&help.unwrap_or_default()).to_writer(&mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// What stands behind the options of `--help`: paragraphs, and lists that begin with a word and a colon.
fn sections(help: &str) -> Roff {
    let mut page = Roff::new();
    let (lists, notes): (Vec<&str>, Vec<&str>) = help
        .split("\n\n")
        .filter(|part| !part.trim().is_empty())
        .partition(|part| part.lines().next().is_some_and(|line| line.ends_with(':')));
    if !notes.is_empty() {
        page.control("SH", ["NOTES"]);
    }
    for note in notes {
        page.control("PP", []);
        page.text([roman(note)]);
    }
    for list in lists {
        let (title, lines) = list.split_once('\n').unwrap_or((list, ""));
        let title = title.trim_end_matches(':').to_uppercase();
        let title = if title == "EXAMPLE" {
            "EXAMPLES".to_owned()
        } else {
            title
        };
        page.control("SH", [title.as_str()]);
        page.control("nf", []);
        for line in lines.lines() {
            page.text([roman(line.trim_start())]);
        }
        page.control("fi", []);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_sections_that_readers_look_for() {
        let command = super::super::command();
        let page = String::from_utf8(page(&command).expect("a page")).expect("text");
        for section in ["NAME", "OPTIONS", "SUBCOMMANDS", "EXAMPLES", "ENVIRONMENT"] {
            assert!(
                page.contains(&format!(".SH {section}\n")),
                "{section}: {page}"
            );
        }
        assert!(page.contains(".SH \"EXIT STATUS\"\n"), "{page}");
        let page = sections("A note.\n\nExample:\n  outbox-relay x --y").to_roff();
        assert_eq!(
            page,
            ".SH NOTES\n.PP\nA note.\n.SH EXAMPLES\n.nf\noutbox\\-relay x \\-\\-y\n.fi\n"
        );
    }
}

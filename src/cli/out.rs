//! Standard output, which somebody may stop to read.

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::{Context, Result};

/// Prints as it is.
///
/// # Errors
///
/// When it cannot be written; [`closed`] tells that nobody reads any more.
pub(super) fn text(text: impl Display) -> Result<()> {
    bytes(text.to_string().as_bytes())
}

/// Prints bytes as they are.
///
/// # Errors
///
/// As [`text`].
pub(super) fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.context("write to standard output")
}

/// Prints with the end of a line.
///
/// # Errors
///
/// As [`text`].
pub(super) fn line(line: impl Display) -> Result<()> {
    text(format_args!("{line}\n"))
}

/// Whether an error is that nobody reads the output any more, as after `| head`.
pub(super) fn closed(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

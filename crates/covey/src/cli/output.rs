//! Writing to stdout: whole answers at once, and a closed pipe told from a failure.
//!
//! Used by [`super::run`]. Specification: docs/design.md, "Command line".

use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Whoever read the output has seen enough (`covey events | head`).
#[derive(Debug, thiserror::Error)]
#[error("the output was closed")]
pub(super) struct OutputClosed;

/// Prints a text that ends with a newline.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        Err(error) => Err(anyhow::anyhow!("cannot write the output: {error}")),
        Ok(()) => Ok(()),
    }
}

/// Prints a value as JSON, indented.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints a value as JSON on one line.
pub(super) fn print_json_line(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string(value)? + "\n"))
}

/// Whether stdout is a terminal whose user wants colours (<https://no-color.org>).
pub(super) fn wants_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stdout().is_terminal() && !unwanted && !dumb
}

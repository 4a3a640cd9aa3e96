//! The command line: parse, run, exit code. docs/design.md, "Command line": 0 done, 1 failed, 2 bad usage.

use crate::lab::{self, LabArgs};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "covey", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A whole cluster on this machine, out of network namespaces
    Lab(LabArgs),
}

/// Parses the command line, runs it and prints the error, if any, once.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Lab(args) => lab::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("covey: {error:#}");
        ExitCode::FAILURE
    })
}

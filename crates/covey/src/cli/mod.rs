//! The command line: parses what was typed, asks the daemon or the configuration, prints the answer.
//!
//! ```text
//!   arguments --args.rs--> Command --run.rs--> Config or Status --render/--> text or JSON --> stdout
//!               wlbs.rs              operate.rs  or Outcome
//! ```
//!
//! [`main`] is all that the binary calls. Called through a link named `wlbs` or `nlb` it is `covey wlbs`. Exit
//! codes: 0 done, 1 failed, 2 bad usage or configuration; a reader that closes the pipe is no failure. An error is
//! printed once, to stderr, as a sentence. Specification: docs/design.md, "Command line".

mod args;
mod doctor;
mod operate;
mod output;
mod render;
mod run;
#[cfg(test)]
mod tests;
mod wlbs;

use crate::config::ConfigError;
use args::Cli;
use clap::Parser;
use output::OutputClosed;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Bad usage or a bad configuration.
const BAD_USAGE: u8 = 2;

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(as_covey(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout and is no failure; nothing can be done if it cannot be printed.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(BAD_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match run::run(cli) {
        Ok(code) => code,
        Err(error) if error.is::<OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("covey: {error:#}");
            if error.is::<ConfigError>() {
                ExitCode::from(BAD_USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// The arguments as if the program had been called `covey`.
fn as_covey(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_stem);
    if name.is_some_and(|name| name == "wlbs" || name == "nlb") {
        arguments.insert(1, "wlbs".into());
    }
    arguments
}

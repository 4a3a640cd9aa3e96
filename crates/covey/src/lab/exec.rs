//! `covey lab exec`: a command inside one of the lab's machines.
//!
//! This process enters the network namespace and becomes the command, so standard input and output, signals and
//! the exit code are the command's own. docs/design.md, "Command line".

use super::netns;
use super::topology::{LabName, Place};
use anyhow::{Context, Error, Result, bail};
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Becomes `command` in `place`.
///
/// # Errors
/// If there is no such place or the command cannot be run; otherwise this does not return.
pub(super) fn exec(lab: &LabName, place: Place, command: &[OsString]) -> Result<Infallible> {
    let namespace = lab.namespace(place);
    if !lab.namespaces()?.contains(&namespace) {
        bail!(
            "there is no {place} here (namespace {namespace}); `covey lab status` says what there is"
        );
    }
    let (program, arguments) = command.split_first().context("no command given")?;
    netns::enter(&namespace)?;
    let error = Command::new(program).args(arguments).exec();
    Err(Error::new(error).context(format!("cannot run {} in {namespace}", program.display())))
}

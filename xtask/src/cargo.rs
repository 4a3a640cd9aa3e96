//! Cargo as a child of this process, quiet unless something is wrong.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// The cargo that runs this task.
pub(crate) fn command() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs cargo to its end; what it says about errors is seen.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let status = command()
        .env("CARGO_TERM_QUIET", "true")
        .args(arguments)
        .status()
        .context("cargo cannot be run")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}

/// Where cargo builds, found from where it has built this program: target/debug/xtask.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let this = std::env::current_exe().context("this program cannot find itself")?;
    this.ancestors()
        .nth(2)
        .map(PathBuf::from)
        .context("this program is not in a target directory")
}

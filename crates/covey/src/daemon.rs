//! The daemon.

use crate::config::Config;
use std::path::Path;

/// Runs until the host has left the cluster.
///
/// # Errors
/// What kept it from running, as a chain of sentences.
pub fn run(_config_path: &Path, config: Config) -> anyhow::Result<()> {
    anyhow::bail!("host {} has no daemon in this build", config.host.id)
}

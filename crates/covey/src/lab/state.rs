//! What a lab remembers between two commands: which hosts it has and which processes it started.
//!
//! Kept as /run/covey-lab/state.json and written anew, in one step, whenever it changes. It holds no faults:
//! whether a port is down or a daemon stopped is asked of the kernel, which cannot be out of date.
//! `lab down` works without it. docs/design.md, "Command line".

use super::host::Host;
use super::snooping::Switch;
use super::topology::LabName;
use anyhow::{Context, Result, bail};
use covey_proto::config::Timing;
use covey_proto::ids::{HostId, HostSet};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A lab that is up, or on its way.
#[derive(Debug)]
pub(super) struct Lab {
    /// Its name.
    pub(super) name: LabName,
    /// The `covey` program that its hosts run.
    pub(super) program: PathBuf,
    /// Its cluster's heartbeat timing.
    pub(super) timing: Timing,
    /// Whether it has IPv6 addresses too.
    pub(super) ipv6: bool,
    /// What they are plugged into.
    pub(super) switch: Switch,
    /// Its hosts, in the order of their IDs, which count up from 1.
    pub(super) hosts: Vec<Host>,
}

/// The file's contents.
#[derive(Serialize, Deserialize)]
struct StateFile {
    program: PathBuf,
    period_us: u64,
    tolerance: u16,
    ipv6: bool,
    #[serde(default)]
    switch: Switch,
    hosts: Vec<Host>,
}

impl Lab {
    /// The lab with this name.
    ///
    /// # Errors
    /// If there is none, or its state file cannot be read.
    pub(super) fn load(name: LabName) -> Result<Self> {
        let path = state_path(&name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("there is no lab here; build one with `covey lab up`")
            }
            Err(error) => return Err(error).context(format!("cannot read {}", path.display())),
        };
        let file: StateFile = serde_json::from_str(&text).with_context(|| {
            format!(
                "the lab's state file {} is damaged; take the lab down with `covey lab down`",
                path.display()
            )
        })?;
        Ok(Self {
            name,
            program: file.program,
            timing: Timing {
                period: Duration::from_micros(file.period_us),
                tolerance: file.tolerance,
            },
            ipv6: file.ipv6,
            switch: file.switch,
            hosts: file.hosts,
        })
    }

    /// Writes the state file; a reader sees the old one or the new one.
    ///
    /// # Errors
    /// If the state directory cannot be written to.
    pub(super) fn save(&self) -> Result<()> {
        let file = StateFile {
            program: self.program.clone(),
            period_us: u64::try_from(self.timing.period.as_micros()).unwrap_or(u64::MAX),
            tolerance: self.timing.tolerance,
            ipv6: self.ipv6,
            switch: self.switch,
            hosts: self.hosts.clone(),
        };
        let path = state_path(&self.name);
        let draft = path.with_extension("draft");
        let text = serde_json::to_string_pretty(&file).context("cannot encode the lab's state")?;
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The host with this ID.
    ///
    /// # Errors
    /// If the lab has no such host.
    pub(super) fn host(&self, id: HostId) -> Result<&Host> {
        let count = self.hosts.len();
        self.hosts
            .iter()
            .find(|host| host.id == id)
            .with_context(|| format!("this lab has no host {id}, only 1 to {count}"))
    }

    /// All its hosts.
    pub(super) fn everyone(&self) -> HostSet {
        self.hosts.iter().map(|host| host.id).collect()
    }
}

fn state_path(name: &LabName) -> PathBuf {
    name.directory().join("state.json")
}

//! One host of the lab: its generated configuration, its daemon, its server, and how to ask the daemon.
//!
//! The daemon is the ordinary `covey run`, started inside the host's network namespace; nothing in it knows
//! that it runs in a lab. docs/design.md, "Command line".

use super::args::Xdp;
use super::lifecycle::Spec;
use super::netns::{NetnsId, run_in};
use super::process::{Condition, Process};
use super::topology::{LabName, NIC, PREFIX, PREFIX6, Place, VIP, VIP6, vips};
use crate::control::client::{Client, ClientError};
use crate::control::{self, Request};
use crate::host::RUN_DIR;
use crate::status::Status;
use anyhow::{Context, Result, ensure};
use covey_proto::ids::HostId;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A host of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Host {
    /// Its ID; its name is `h` and this.
    #[serde(with = "id_as_number")]
    pub(super) id: HostId,
    /// Its network namespace.
    pub(super) netns: NetnsId,
    /// Its `covey run`, once started.
    pub(super) daemon: Option<Process>,
    /// Its `covey lab serve`, once started.
    pub(super) server: Option<Process>,
}

impl Host {
    /// A host whose namespace exists and in which nothing runs yet.
    ///
    /// # Errors
    /// If the namespace does not exist.
    pub(super) fn new(lab: &LabName, id: HostId) -> Result<Self> {
        Ok(Self {
            id,
            netns: NetnsId::of(&lab.namespace(Place::Host(id)))?,
            daemon: None,
            server: None,
        })
    }

    /// What its daemon is doing.
    pub(super) fn daemon_condition(&self) -> Condition {
        self.daemon.map_or(Condition::Gone, Process::condition)
    }

    /// Starts its daemon.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub(super) fn start_daemon(&mut self, lab: &LabName, program: &Path) -> Result<()> {
        let mut command = Command::new(program);
        command
            .args(["run", "--config"])
            .arg(config_path(lab, self.id));
        self.daemon = Some(self.launch(lab, command, "daemon.log")?);
        Ok(())
    }

    /// Starts its HTTP and echo server.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub(super) fn start_server(&mut self, lab: &LabName, program: &Path, ipv6: bool) -> Result<()> {
        let mut command = Command::new(program);
        command.args(["lab", "serve", &format!("h{}", self.id)]);
        command.args(vips(ipv6).iter().map(ToString::to_string));
        self.server = Some(self.launch(lab, command, "server.log")?);
        Ok(())
    }

    fn launch(&self, lab: &LabName, mut command: Command, log: &str) -> Result<Process> {
        // What is set for the person at the terminal is not meant for the lab.
        command.env_remove("COVEY_SOCKET").env("NO_COLOR", "1");
        let log = directory(lab, self.id).join(log);
        run_in(&lab.namespace(Place::Host(self.id)), || {
            Process::start(&mut command, &log)
        })
    }

    /// The last lines of its daemon's log, indented, to stand below an error.
    pub(super) fn log_tail(&self, lab: &LabName) -> String {
        let log = fs::read_to_string(directory(lab, self.id).join("daemon.log"));
        let log = log.unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..]
            .iter()
            .map(|line| format!("\n    {line}"))
            .collect()
    }

    /// Asks its daemon how it is.
    ///
    /// # Errors
    /// If the daemon does not say.
    pub(super) fn status(&self) -> Result<Status> {
        self.ask(Client::status)
    }

    /// Lets its daemon leave the cluster; returns when it has.
    ///
    /// # Errors
    /// If the daemon refuses or does not answer.
    pub(super) fn stop(&self) -> Result<()> {
        self.command(&Request::Stop {})
    }

    /// Lets its daemon join the cluster; returns when it has.
    ///
    /// # Errors
    /// If the daemon refuses or does not answer.
    pub(super) fn start(&self) -> Result<()> {
        self.command(&Request::Start {})
    }

    fn command(&self, command: &Request) -> Result<()> {
        let outcome = self.ask(|client| client.command(command))?;
        ensure!(outcome.is_done(command), "{}", outcome.text);
        Ok(())
    }

    fn ask<T>(&self, question: impl Fn(&mut Client) -> Result<T, ClientError>) -> Result<T> {
        Client::connect(&control_socket(self.netns))
            .and_then(|mut client| question(&mut client))
            .with_context(|| format!("host {}", self.id))
    }
}

/// The control socket of the daemon in a namespace.
pub(super) fn control_socket(netns: NetnsId) -> PathBuf {
    control::socket_of(netns.inode)
}

/// Where the daemon in a namespace notes what it has changed there.
pub(super) fn change_note(netns: NetnsId) -> PathBuf {
    Path::new(RUN_DIR).join(format!("{}-{NIC}.json", netns.inode))
}

/// Where the daemon in a namespace pins its maps and programs.
pub(super) fn pin_directory(netns: NetnsId) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/covey/{}-{NIC}", netns.inode))
}

/// A host's part of the state directory: configuration and logs.
pub(super) fn directory(lab: &LabName, id: HostId) -> PathBuf {
    lab.directory().join(format!("h{id}"))
}

/// The configuration that a host's daemon reads.
pub(super) fn config_path(lab: &LabName, id: HostId) -> PathBuf {
    directory(lab, id).join("covey.toml")
}

/// Where the key of the lab's cluster lies.
pub(super) fn key_path(lab: &LabName) -> PathBuf {
    lab.directory().join("cluster.key")
}

/// The configuration of one host.
pub(super) fn config(spec: &Spec, id: HostId) -> String {
    let more = if spec.ipv6 {
        format!(", \"{VIP6}/{PREFIX6}\"")
    } else {
        String::new()
    };
    format!(
        r#"# Written by `covey lab up`; gone after `covey lab down`.
[cluster]
name = "lab"
vips = ["{VIP}/{PREFIX}"{more}]
mode = "{mode}"
period = "{period}ms"
tolerance = {tolerance}
key_file = "{key}"
announce_mrouter = {announce}
querier_timeout = "{silence}ms"
{settings}
[host]
id = {id}
name = "h{id}"
interface = "{NIC}"

[daemon]
state_dir = "{directory}"
xdp = "{xdp}"

[[rule]]
ports = 80
protocol = "tcp"
affinity = "none"

[[rule]]
ports = 7
protocol = "udp"
affinity = "none"
"#,
        mode = spec.mode,
        period = spec.timing.period.as_secs_f64() * 1e3,
        tolerance = spec.timing.tolerance,
        key = key_path(&spec.name).display(),
        announce = spec.announce_mrouter,
        silence = spec.asking.membership().as_millis(),
        settings = spec
            .cluster
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
        directory = directory(&spec.name, id).display(),
        xdp = match spec.xdp {
            Xdp::Auto => "auto",
            Xdp::Native => "native",
            Xdp::Generic => "generic",
        },
    )
}

/// [`HostId`] in JSON: a number, 1..=64.
mod id_as_number {
    use super::HostId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(id: &HostId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(id.get())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<HostId, D::Error> {
        let number = u8::deserialize(from)?;
        HostId::new(number).ok_or_else(|| D::Error::custom(format!("{number} is no host ID")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::snooping::{Asking, Switch};
    use covey_proto::config::{ClusterMode, Timing};
    use std::time::Duration;

    #[test]
    fn the_configuration_says_what_the_lab_is() {
        let spec = Spec {
            name: "covey".parse().unwrap(),
            program: PathBuf::new(),
            hosts: HostId::new(3).unwrap(),
            timing: Timing {
                period: Duration::from_millis(200),
                tolerance: 5,
            },
            ipv6: true,
            mode: ClusterMode::Igmp,
            xdp: Xdp::Generic,
            daemons: true,
            switch: Switch::Bridge,
            asking: Asking::default(),
            announce_mrouter: false,
            cluster: vec!["unicast_fallback = false".to_owned()],
        };
        let text = config(&spec, HostId::new(2).unwrap());
        let config: toml::Table = text.parse().unwrap();
        let cluster = config["cluster"].as_table().unwrap();
        assert_eq!(cluster["vips"][0].as_str(), Some("10.77.0.100/24"));
        assert_eq!(cluster["vips"][1].as_str(), Some("fd77::100/64"));
        assert_eq!(cluster["mode"].as_str(), Some("igmp"));
        assert_eq!(cluster["period"].as_str(), Some("200ms"));
        assert_eq!(
            cluster["key_file"].as_str(),
            Some("/run/covey-lab/cluster.key")
        );
        assert_eq!(cluster["querier_timeout"].as_str(), Some("260000ms"));
        assert_eq!(config["host"]["id"].as_integer(), Some(2));
        assert_eq!(config["daemon"]["xdp"].as_str(), Some("generic"));
        assert_eq!(config["rule"][1]["protocol"].as_str(), Some("udp"));
    }
}

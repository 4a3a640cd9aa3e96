//! One host of the lab: its generated configuration, its daemon, its server, and how to ask the daemon.
//!
//! The daemon is the ordinary `covey run`, started inside the host's network namespace; nothing in it knows
//! that it runs in a lab. docs/design.md, "Command line".

use super::netns::{NetnsId, run_in};
use super::process::{Condition, Process};
use super::topology::{LabName, NIC, PREFIX, Place, VIP};
use crate::duration;
use crate::status::Status;
use anyhow::{Context, Result, anyhow};
use covey_proto::config::Timing;
use covey_proto::ids::HostId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a daemon may take to say how it is. One that is stopped never does.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// How long a daemon may take to do what it is told.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);

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
        self.daemon = Some(self.start(lab, command, "daemon.log")?);
        Ok(())
    }

    /// Starts its HTTP and echo server.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub(super) fn start_server(&mut self, lab: &LabName, program: &Path) -> Result<()> {
        let mut command = Command::new(program);
        command.args(["lab", "serve", &format!("h{}", self.id), &VIP.to_string()]);
        self.server = Some(self.start(lab, command, "server.log")?);
        Ok(())
    }

    fn start(&self, lab: &LabName, mut command: Command, log: &str) -> Result<Process> {
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
    /// If the daemon does not answer within 2 s or answers with an error.
    pub(super) fn status(&self) -> Result<Status> {
        self.request("status", STATUS_PATIENCE)
    }

    /// Gives its daemon a command without arguments, such as `stop`.
    ///
    /// # Errors
    /// If the daemon does not answer within a minute or refuses.
    pub(super) fn command(&self, command: &str) -> Result<()> {
        self.request::<serde_json::Value>(command, COMMAND_PATIENCE)
            .map(|_| ())
    }

    fn request<T: DeserializeOwned>(&self, command: &str, patience: Duration) -> Result<T> {
        let socket = control_socket(self.netns);
        request(&socket, command, patience).with_context(|| {
            format!(
                "the daemon of host {} at {} does not do `{command}`",
                self.id,
                socket.display()
            )
        })
    }
}

/// One question on a control socket: a line of JSON there, a line of JSON back.
fn request<T: DeserializeOwned>(socket: &Path, command: &str, patience: Duration) -> Result<T> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Answer<T> {
        Ok(T),
        Error(String),
    }

    let mut stream = UnixStream::connect(socket).context("cannot connect")?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    writeln!(stream, "{}", serde_json::json!({ "command": command }))?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .context("no answer")?;
    match serde_json::from_str(&line).context("the answer is not what was expected")? {
        Answer::Ok(answer) => Ok(answer),
        Answer::Error(sentence) => Err(anyhow!(sentence)),
    }
}

/// The control socket of the daemon in a namespace.
pub(super) fn control_socket(netns: NetnsId) -> PathBuf {
    PathBuf::from(format!("/run/covey/control-{}.sock", netns.inode))
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
pub(super) fn config(lab: &LabName, timing: Timing, id: HostId) -> String {
    format!(
        r#"# Written by `covey lab up`; gone after `covey lab down`.
[cluster]
name = "lab"
vips = ["{VIP}/{PREFIX}"]
period = "{period}"
tolerance = {tolerance}
key_file = "{key}"

[host]
id = {id}
name = "h{id}"
interface = "{NIC}"

[[rule]]
ports = 80
protocol = "tcp"
affinity = "none"

[[rule]]
ports = 7
protocol = "udp"
affinity = "none"
"#,
        period = duration::format(timing.period),
        tolerance = timing.tolerance,
        key = key_path(lab).display(),
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
    use super::super::fake;
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// A daemon that answers one question, with this line.
    fn ask_fake<T: DeserializeOwned>(test: &str, answer: &str) -> (Result<T>, String) {
        let name = format!("covey-{test}-{}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&socket).unwrap();
        let (result, question) = thread::scope(|scope| {
            let daemon = scope.spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let mut question = String::new();
                BufReader::new(&stream).read_line(&mut question).unwrap();
                (&stream).write_all(answer.as_bytes()).unwrap();
                question
            });
            let result = request(&socket, "status", STATUS_PATIENCE);
            (result, daemon.join().unwrap())
        });
        fs::remove_file(&socket).unwrap();
        (result, question)
    }

    #[test]
    fn a_status_comes_over_the_socket() {
        let status = fake::status(HostId::new(1).unwrap(), &[1, 2, 3]);
        let answer = format!("{}\n", serde_json::json!({ "ok": status }));
        let (result, question) = ask_fake::<Status>("ok", &answer);
        assert_eq!(result.unwrap(), status);
        assert_eq!(question, "{\"command\":\"status\"}\n");
    }

    #[test]
    fn an_error_comes_over_the_socket() {
        let answer = "{\"error\":\"this host is draining\"}\n";
        let (result, _) = ask_fake::<Status>("error", answer);
        assert_eq!(
            format!("{:#}", result.unwrap_err()),
            "this host is draining"
        );
    }

    #[test]
    fn silence_is_an_error_too() {
        let (result, _) = ask_fake::<Status>("silence", "");
        assert!(format!("{:#}", result.unwrap_err()).contains("the answer is not"));
    }

    #[test]
    fn the_configuration_says_what_the_lab_is() {
        let lab: LabName = "covey".parse().unwrap();
        let timing = Timing {
            period: Duration::from_millis(200),
            tolerance: 5,
        };
        let text = config(&lab, timing, HostId::new(2).unwrap());
        let config: toml::Table = text.parse().unwrap();
        let cluster = config["cluster"].as_table().unwrap();
        assert_eq!(cluster["vips"][0].as_str(), Some("10.77.0.100/24"));
        assert_eq!(cluster["period"].as_str(), Some("200ms"));
        assert_eq!(
            cluster["key_file"].as_str(),
            Some("/run/covey-lab/cluster.key")
        );
        assert_eq!(config["host"]["id"].as_integer(), Some(2));
        assert_eq!(config["rule"][1]["protocol"].as_str(), Some("udp"));
    }
}

//! keepalived (VRRP) and ucarp (CARP) in a lab's network in Covey's place: the same hosts, switch, servers and virtual IP,
//! and the same crash. Called by the parts blackout and steady. docs/benchmarks.md.
//!
//! Host 1 is the master by priority, host 3 the last. A host that comes back takes its place again.

use crate::lab::Lab;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a program takes to start.
const STARTED: Duration = Duration::from_secs(1);

/// Another program for the same end, and how often its master speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rival {
    /// VRRP, with the advertisement interval in milliseconds; below a second version 3.
    Keepalived { interval_ms: u32 },
    /// CARP, with its advertisement base in seconds. (Without a base, by skews alone, it does not settle.)
    Ucarp { base_s: u8 },
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keepalived { interval_ms } => write!(f, "keepalived, {interval_ms} ms"),
            Self::Ucarp { base_s } => write!(f, "ucarp, {} ms", 1000 * u32::from(*base_s)),
        }
    }
}

impl Rival {
    /// Time between two messages of a master.
    pub(crate) fn interval(self) -> Duration {
        match self {
            Self::Keepalived { interval_ms } => Duration::from_millis(interval_ms.into()),
            Self::Ucarp { base_s } => Duration::from_secs(base_s.into()),
        }
    }

    /// After which time without another master a host is the master.
    pub(crate) fn patience(self) -> Duration {
        match self {
            // Three intervals and a skew of less than one; and at least what programs take to start.
            Self::Keepalived { interval_ms } => {
                Duration::from_millis(4 * u64::from(interval_ms)).max(STARTED)
            }
            Self::Ucarp { base_s } => Duration::from_secs(4 * u64::from(base_s)).max(STARTED),
        }
    }
}

/// A rival that runs on all hosts of a lab without daemons.
pub(crate) struct Standby<'a> {
    lab: &'a Lab,
    rival: Rival,
    running: RefCell<BTreeMap<u8, Child>>,
}

impl<'a> Standby<'a> {
    /// Starts it everywhere.
    pub(crate) fn start(lab: &'a Lab, rival: Rival) -> Self {
        let standby = Self {
            lab,
            rival,
            running: RefCell::default(),
        };
        for host in lab.hosts() {
            standby.begin(host);
        }
        standby
    }

    fn path(&self, host: u8, name: &str) -> PathBuf {
        self.lab.directory().join(format!("h{host}/{name}"))
    }

    fn write(&self, host: u8, name: &str, text: &str) -> String {
        let path = self.path(host, name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn begin(&self, host: u8) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path(host, "rival.log"))
            .unwrap();
        let arguments = match self.rival {
            Rival::Keepalived { interval_ms } => self.keepalived(host, interval_ms),
            Rival::Ucarp { base_s } => self.ucarp(host, base_s),
        };
        let place = format!("h{host}");
        let child = self
            .lab
            .command(&["exec", &place, "--"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running.borrow_mut().insert(host, child);
    }

    fn keepalived(&self, host: u8, interval_ms: u32) -> Vec<String> {
        let priority = 260 - 10 * u32::from(host);
        // Its documentation's advice for short intervals; Covey's daemon does the same by itself.
        let global = if interval_ms < 1000 {
            "vrrp_version 3\n  vrrp_rt_priority 1\n  vrrp_no_swap"
        } else {
            ""
        };
        let config = format!(
            "global_defs {{\n  {global}\n}}\nvrrp_instance lab {{\n  state BACKUP\n  interface eth0\n  \
             virtual_router_id 77\n  priority {priority}\n  advert_int {}\n  \
             virtual_ipaddress {{\n    10.77.0.100/24 dev eth0\n  }}\n}}\n",
            f64::from(interval_ms) / 1e3
        );
        let config = self.write(host, "keepalived.conf", &config);
        let file = |name| self.path(host, name).to_str().unwrap().to_owned();
        let (parent, child) = (file("keepalived.pid"), file("vrrp.pid"));
        ["keepalived", "-n", "-l", "-D", "-P", "-f", &config]
            .into_iter()
            .chain(["-p", &parent, "-r", &child])
            .map(str::to_owned)
            .collect()
    }

    fn ucarp(&self, host: u8, base_s: u8) -> Vec<String> {
        let script = |name, verb| {
            let text = format!("#!/bin/sh\nexec ip address {verb} 10.77.0.100/24 dev eth0\n");
            let path = self.write(host, name, &text);
            let mut executable = Command::new("chmod");
            executable.args(["+x", &path]);
            crate::lab::succeed("chmod", executable);
            path
        };
        let (up, down) = (script("up.sh", "add"), script("down.sh", "del"));
        // The order among the hosts needs a difference of the skews.
        let skew = host - 1;
        format!(
            "ucarp --interface=eth0 --srcip=10.77.0.{host} --vhid=77 --pass=lab --addr=10.77.0.100 \
             --advbase={base_s} --advskew={skew} --preempt --upscript={up} --downscript={down}"
        )
        .split_whitespace()
        .map(str::to_owned)
        .collect()
    }

    /// Cuts a host's port and kills its program, as `covey lab fault crash` does.
    pub(crate) fn crash(&self, host: u8) {
        self.port(host, "down");
        self.end(host);
    }

    /// The host comes back as after a restart of the machine.
    pub(crate) fn heal(&self, host: u8) {
        let mut delete = self.lab.command(&["exec", &format!("h{host}"), "--"]);
        delete.args(["ip", "address", "del", "10.77.0.100/24", "dev", "eth0"]);
        // It may be gone already.
        let _ = delete.stderr(Stdio::null()).status();
        self.port(host, "up");
        self.begin(host);
    }

    fn port(&self, host: u8, state: &str) {
        self.lab.exec(
            "switch",
            &["ip", "link", "set", &format!("port-h{host}"), state],
        );
    }

    fn end(&self, host: u8) {
        let child = self.running.borrow_mut().remove(&host);
        let mut child = child.expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
        // keepalived's other process does not die with it; and it does not start where one of both may still run.
        if let Ok(pid) = fs::read_to_string(self.path(host, "vrrp.pid")) {
            let mut kill = Command::new("kill");
            kill.args(["-KILL", pid.trim()]).stderr(Stdio::null());
            let _ = kill.status();
            for name in ["keepalived.pid", "vrrp.pid"] {
                let _ = fs::remove_file(self.path(host, name));
            }
        }
    }

    /// How often any host has become master since the start.
    pub(crate) fn takeovers(&self) -> usize {
        let mut logs = String::new();
        for host in self.lab.hosts() {
            let log = fs::read(self.path(host, "rival.log")).unwrap();
            write!(logs, "{}", String::from_utf8_lossy(&log)).unwrap();
        }
        logs.matches("Entering MASTER STATE").count() + logs.matches("state: MASTER").count()
    }
}

impl Drop for Standby<'_> {
    fn drop(&mut self) {
        for host in self.lab.hosts() {
            if self.running.borrow().contains_key(&host) {
                self.end(host);
            }
        }
    }
}

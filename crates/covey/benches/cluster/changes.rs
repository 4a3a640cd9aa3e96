//! Planned changes of a lab's cluster, as an operator makes them. Each returns when all hosts have the new map in force.
//! Called by the parts survival and commit. docs/benchmarks.md.

use crate::lab::{COVEY, Lab};
use std::fs;

/// A rule that nobody uses, which comes and goes.
const ANOTHER_RULE: &str = "\n[[rule]]\nports = 8080\nprotocol = \"tcp\"\naffinity = \"single\"\n";
const RULE: &str = "ports = 80\n";

/// Makes changes to one lab.
pub(crate) struct Operator<'a> {
    lab: &'a Lab,
    /// A host's configuration as the lab has written it.
    configs: Vec<String>,
}

impl<'a> Operator<'a> {
    /// Of a lab whose configurations are untouched.
    pub(crate) fn new(lab: &'a Lab) -> Self {
        let read = |host| fs::read_to_string(path(lab, host)).unwrap();
        let configs = lab.hosts().into_iter().map(read).collect();
        Self { lab, configs }
    }

    /// The number of the map in force.
    pub(crate) fn epoch(&self) -> u64 {
        self.lab.status(1).cluster.epoch
    }

    /// Waits for a map that is newer than that, in force on these hosts.
    fn await_newer(&self, before: u64, hosts: &[u8]) {
        self.lab
            .await_status(hosts[0], |status| status.cluster.epoch > before);
        self.lab.await_agreement(hosts);
    }

    fn write(&self, host: u8, change: impl Fn(&str) -> String) {
        let sound = &self.configs[usize::from(host) - 1];
        fs::write(path(self.lab, host), change(sound)).unwrap();
    }

    /// Gives a host this weight for port 80; it must be another than the one it has.
    pub(crate) fn weigh(&self, host: u8, weight: u8) {
        let before = self.epoch();
        self.write(host, |sound| {
            sound.replace(RULE, &format!("{RULE}weight = {weight}\n"))
        });
        self.lab.covey(host, &["reload"]);
        self.await_newer(before, &self.lab.hosts());
    }

    /// Gives all hosts one port rule more, or takes it away again.
    pub(crate) fn rules(&self, more: bool) {
        let before = self.epoch();
        for host in self.lab.hosts() {
            self.write(host, |sound| {
                let more = if more { ANOTHER_RULE } else { "" };
                format!("{sound}{more}")
            });
        }
        for host in self.lab.hosts() {
            self.lab.covey(host, &["reload"]);
        }
        self.await_newer(before, &self.lab.hosts());
    }

    /// Lets a host take no new connections, and no longer own anything.
    pub(crate) fn drainstop(&self, host: u8) {
        self.lab.covey(host, &["drainstop", "--no-wait"]);
        for other in self.lab.hosts() {
            self.lab
                .await_status(other, |status| !status.rules[1].share.contains_key(&host));
        }
    }

    /// Drains a host's port 80.
    pub(crate) fn drain(&self, host: u8) {
        self.lab.covey(host, &["drain", "80"]);
        for other in self.lab.hosts() {
            self.lab
                .await_status(other, |status| !status.rules[1].share.contains_key(&host));
        }
    }

    /// Takes that back.
    pub(crate) fn enable(&self, host: u8) {
        self.lab.covey(host, &["enable", "80"]);
        for other in self.lab.hosts() {
            self.lab
                .await_status(other, |status| status.rules[1].share.contains_key(&host));
        }
    }

    /// Lets a host join, or own its share again.
    pub(crate) fn start(&self, host: u8) {
        self.lab.covey(host, &["start"]);
        self.lab.await_agreement(&self.lab.hosts());
    }

    /// Lets a host leave when its last connection has ended, and waits for that.
    pub(crate) fn leave(&self, host: u8) {
        self.lab.covey(host, &["drainstop"]);
        let others: Vec<u8> = self.lab.hosts();
        let others: Vec<u8> = others.into_iter().filter(|other| *other != host).collect();
        self.lab.await_agreement(&others);
    }

    /// Puts another program in the daemon's place: one of two that are the same at different places, in turn.
    pub(crate) fn upgrade(&self, host: u8) {
        let next = self.lab.directory().join("covey-next");
        if !next.exists() {
            fs::copy(COVEY, &next).unwrap();
        }
        let next = next.to_str().unwrap().to_owned();
        let upgrades = self.lab.status(host).host.upgrades;
        let program = [&next, COVEY][upgrades as usize % 2];
        self.lab.covey(host, &["upgrade", "--program", program]);
        assert_eq!(self.lab.status(host).host.upgrades, upgrades + 1);
    }
}

fn path(lab: &Lab, host: u8) -> std::path::PathBuf {
    lab.directory().join(format!("h{host}/covey.toml"))
}

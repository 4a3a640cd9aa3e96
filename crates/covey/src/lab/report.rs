//! `covey lab status`: hosts, processes, links, faults in force and what each daemon says of itself.
//! docs/design.md, "Command line".

use super::faults::{Evidence, Fault, Widespread};
use super::process::Condition;
use super::state::Lab;
use super::topology::{CLIENT, CLIENT6, VIP, VIP6, dip};
use crate::duration;
use crate::status::Status;
use anyhow::Result;
use covey_filter::BUCKETS;
use serde::Serialize;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A lab at one moment. `--json` prints it as it is; `Display` is the table.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The lab's name.
    pub(super) lab: String,
    /// The virtual IP.
    pub(super) vip: Ipv4Addr,
    /// The client's address.
    pub(super) client: Ipv4Addr,
    /// The IPv6 virtual IP, in a lab with IPv6.
    pub(super) vip6: Option<Ipv6Addr>,
    /// The client's IPv6 address.
    pub(super) client6: Option<Ipv6Addr>,
    /// Heartbeat period, ms.
    pub(super) period_ms: f64,
    /// Heartbeat tolerance, periods.
    pub(super) tolerance: u16,
    /// The faults in force that are nobody's in particular.
    pub(super) faults: Vec<Widespread>,
    /// The hosts, by ID.
    pub(super) hosts: Vec<HostReport>,
}

/// A host at one moment.
#[derive(Debug, Serialize)]
pub(super) struct HostReport {
    /// Its ID.
    pub(super) id: u8,
    /// Its name.
    pub(super) name: String,
    /// Its dedicated IP.
    pub(super) dip: Ipv4Addr,
    /// Its network namespace.
    pub(super) namespace: String,
    /// Process ID of its daemon, if that runs.
    pub(super) daemon: Option<u32>,
    /// Process ID of its server, if that runs.
    pub(super) server: Option<u32>,
    /// The faults in force.
    pub(super) faults: Vec<Fault>,
    /// What its daemon says.
    pub(super) status: Option<Status>,
    /// Why it says nothing.
    pub(super) error: Option<String>,
}

impl Report {
    /// Asks the kernel and all daemons. A daemon that SIGSTOP holds is not asked.
    ///
    /// # Errors
    /// If the switch cannot be asked; a silent daemon is part of the report.
    pub(super) fn of(lab: &Lab) -> Result<Self> {
        let evidence = Evidence::of(lab)?;
        let mut hosts = Vec::new();
        for host in &lab.hosts {
            let faults = evidence.faults(host)?;
            let running = |process: super::process::Process| {
                (process.condition() != Condition::Gone).then_some(process.pid)
            };
            let answer = match host.daemon_condition() {
                Condition::Alive => host.status().map_err(|error| format!("{error:#}")),
                Condition::Stopped => Err("stalled".to_owned()),
                Condition::Gone => Err("not running".to_owned()),
            };
            let (status, error) = match answer {
                Ok(status) => (Some(status), None),
                Err(error) => (None, Some(error)),
            };
            let place = super::topology::Place::Host(host.id);
            hosts.push(HostReport {
                id: host.id.get(),
                name: place.to_string(),
                dip: dip(host.id),
                namespace: lab.name.namespace(place),
                daemon: host.daemon.and_then(running),
                server: host.server.and_then(running),
                faults,
                status,
                error,
            });
        }
        Ok(Self {
            lab: lab.name.to_string(),
            vip: VIP,
            client: CLIENT,
            vip6: lab.ipv6.then_some(VIP6),
            client6: lab.ipv6.then_some(CLIENT6),
            period_ms: lab.timing.period.as_secs_f64() * 1e3,
            tolerance: lab.timing.tolerance,
            faults: evidence.widespread()?,
            hosts,
        })
    }
}

/// The share of the multiple-host traffic that a host has in the map it has committed, as a fraction of 1: its
/// share of the first port rule.
pub(super) fn share(status: &Status) -> Option<f64> {
    let rule = status.rules.iter().find(|rule| rule.start.is_some())?;
    let buckets = rule.share.get(&status.host.id).copied().unwrap_or(0);
    Some(buckets as f64 / BUCKETS as f64)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = duration::format(std::time::Duration::from_secs_f64(self.period_ms / 1e3));
        let and = |address: Option<Ipv6Addr>| {
            address.map_or_else(String::new, |address| format!(" and {address}"))
        };
        writeln!(
            f,
            "lab {}: virtual IP {}{}, client {}{}, period {period}, tolerance {}",
            self.lab,
            self.vip,
            and(self.vip6),
            self.client,
            and(self.client6),
            self.tolerance
        )?;
        if !self.faults.is_empty() {
            writeln!(f, "faults: {}", list(&self.faults))?;
        }
        let width = self.hosts.iter().map(|host| faults(host).len());
        let width = width.fold("faults".len(), usize::max);
        writeln!(
            f,
            "{:<5} {:<11} {:>7} {:>7}  {:<width$}  {:<11} {:>7} {:>6}  view",
            "host", "address", "daemon", "server", "faults", "state", "share", "epoch"
        )?;
        for host in &self.hosts {
            writeln!(f, "{}", row(host, width))?;
        }
        Ok(())
    }
}

fn faults(host: &HostReport) -> String {
    match host.faults.as_slice() {
        [] => "-".to_owned(),
        faults => list(faults),
    }
}

fn list(faults: &[impl fmt::Display]) -> String {
    let names: Vec<String> = faults.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// `width`: of the column of faults.
fn row(host: &HostReport, width: usize) -> String {
    let pid = |pid: Option<u32>| pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let head = format!(
        "{:<5} {:<11} {:>7} {:>7}  {:<width$}",
        host.name,
        host.dip.to_string(),
        pid(host.daemon),
        pid(host.server),
        faults(host)
    );
    match (&host.status, &host.error) {
        (Some(status), _) => {
            let share = share(status)
                .map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
            let view: Vec<String> = status.cluster.view.iter().map(u8::to_string).collect();
            let reason = status
                .host
                .waiting_for
                .as_ref()
                .map_or_else(String::new, |reason| format!(" ({reason})"));
            format!(
                "{head}  {:<11} {share:>7} {:>6}  {}{reason}",
                state_name(status),
                status.cluster.epoch,
                view.join(",")
            )
        }
        (None, Some(error)) => format!("{head}  {error}"),
        (None, None) => head,
    }
}

/// A host's state as a word.
pub(super) fn state_name(status: &Status) -> &'static str {
    use crate::status::HostState;
    match status.host.state {
        HostState::Stopped => "stopped",
        HostState::Suspended => "suspended",
        HostState::Converging => "converging",
        HostState::Draining => "draining",
        HostState::Converged => "converged",
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake;
    use super::*;
    use covey_proto::ids::HostId;

    #[test]
    fn the_table_tells_what_is_wrong_with_whom() {
        let host = |number: u8, daemon, faults, answer: Result<Status, &str>| HostReport {
            id: number,
            name: format!("h{number}"),
            dip: dip(HostId::new(number).unwrap()),
            namespace: format!("covey-h{number}"),
            daemon,
            server: Some(4000 + u32::from(number)),
            faults,
            error: answer.as_ref().err().map(|error| (*error).to_owned()),
            status: answer.ok(),
        };
        let report = Report {
            lab: "covey".to_owned(),
            vip: VIP,
            client: CLIENT,
            vip6: Some(VIP6),
            client6: Some(CLIENT6),
            period_ms: 200.0,
            tolerance: 5,
            faults: vec![Widespread::NoBroadcast, Widespread::Hub],
            hosts: vec![
                host(
                    1,
                    Some(4711),
                    vec![],
                    Ok(fake::status(HostId::new(1).unwrap(), &[1, 2])),
                ),
                host(
                    12,
                    None,
                    vec![Fault::Cut, Fault::Killed],
                    Err("not running"),
                ),
            ],
        };
        insta::assert_snapshot!(report, @"
        lab covey: virtual IP 10.77.0.100 and fd77::100, client 10.77.0.200 and fd77::c8, period 200 ms, tolerance 5
        faults: no-broadcast, hub
        host  address      daemon  server  faults       state         share  epoch  view
        h1    10.77.0.1      4711    4001  -            converged    50.0 %      7  1,2
        h12   10.77.0.12        -    4012  cut, killed  not running
        ");
    }
}

//! `covey wlbs`: the words of NLB's own tool, because scripts and people know them.
//!
//! The sentences of a query to a host that converges or is converged are NLB's (KB812870, Q228942; NLB facts §5.2),
//! without its doubled "has entered"; so are the names of the parameters and the heading of the configuration. What
//! else NLB's tool says is not public: those sentences are ours. docs/wlbs.md compares the two.

mod params;
mod rules;

use super::{Paint, companions, event, list, why};
use crate::control::Ports;
use crate::status::{EventRecord, HostState, Status};
use crate::why::Explanation;
use covey_proto::config::{ClusterMode, cluster_mac};
use std::net::IpAddr;

/// Events that `display` shows.
const EVENTS: usize = 10;

/// Answers of a host.
pub(in crate::cli) struct Wlbs<'a> {
    status: &'a Status,
}

impl<'a> Wlbs<'a> {
    pub(in crate::cli) const fn new(status: &'a Status) -> Self {
        Self { status }
    }

    /// The first line of every answer.
    pub(in crate::cli) fn banner(version: &str) -> String {
        format!("Covey Cluster Control Utility V{version}\n")
    }

    /// The first two.
    fn heading(&self) -> String {
        let cluster = &self.status.cluster;
        let primary = cluster
            .vips
            .first()
            .map_or_else(|| cluster.name.clone(), ToString::to_string);
        format!(
            "{}Cluster {primary}\n",
            Self::banner(&self.status.host.version)
        )
    }

    /// An answer in a sentence.
    pub(in crate::cli) fn says(&self, text: &str) -> String {
        format!("{}{}.\n", self.heading(), rules::capitalised(text))
    }

    /// What is added when the whole cluster was named.
    pub(in crate::cli) fn only_here(&self) -> String {
        format!(
            "This was done on host {} alone: Covey does not offer remote control.\n",
            self.status.host.id
        )
    }

    /// Whether the host takes part, and with whom.
    pub(in crate::cli) fn query(&self) -> String {
        self.heading() + &self.state()
    }

    fn state(&self) -> String {
        let status = self.status;
        let id = status.host.id;
        let times = format!(
            "Host {id} has entered a converging state {} time(s) since joining the cluster",
            status.host.times_converging
        );
        let members = list(&companions(status), ", ");
        let default = if status.host.is_default {
            " as DEFAULT"
        } else {
            ""
        };
        match status.host.state {
            HostState::Converged => format!(
                "{times}.\nHost {id} converged{default} with the following host(s) as part of the cluster:\n{members}\n"
            ),
            HostState::Converging => format!(
                "{times}\nand is still in a state of convergence.\n\
                 Host {id} converging with the following host(s) as part of the cluster:\n{members}\n"
            ),
            HostState::Draining => format!(
                "Host {id} draining, and still converged{default} with the following host(s) as part of the cluster:\n\
                 {members}\n"
            ),
            HostState::Stopped => {
                format!(
                    "Host {id} is stopped and takes no part in the convergence of the cluster.\n"
                )
            }
            HostState::Suspended => format!(
                "Host {id} is suspended: it takes no part in the convergence of the cluster, and heeds no command but resume.\n"
            ),
        }
    }

    /// The state of the port rules that are meant, and whether there are any.
    pub(in crate::cli) fn queryport(&self, ports: &Ports) -> (String, bool) {
        let states = rules::states(self.status, ports);
        if states.is_empty() {
            let text = match ports.port {
                Some(port) => format!("no port rule holds port {port}"),
                None => "there is no such port rule".to_owned(),
            };
            return (self.says(&text), false);
        }
        (self.heading() + &states, true)
    }

    /// Whether the host takes a packet. NLB has a verb of that name, whose words are not public.
    pub(in crate::cli) fn filter(&self, explanation: &Explanation) -> String {
        self.heading() + &why(explanation, Paint::new(false))
    }

    /// The parameters in force.
    pub(in crate::cli) fn params(&self) -> String {
        self.heading() + &params::params(self.status)
    }

    /// Everything.
    pub(in crate::cli) fn display(&self, events: &[EventRecord]) -> String {
        let recent = &events[events.len().saturating_sub(EVENTS)..];
        let recent: String = recent
            .iter()
            .map(|record| event(record, Paint::new(false)))
            .collect();
        format!(
            "{}\n=== Configuration: ===\n\nCurrent time = {}\n{}\n=== Port rules: ===\n\n{}\n\
             === Recent events: ===\n\n{recent}\n=== State: ===\n\n{}",
            self.heading(),
            self.status.time,
            params::params(self.status),
            rules::table(self.status),
            self.state()
        )
    }

    /// The MACs that belong to a cluster IP.
    pub(in crate::cli) fn ip2mac(ip: IpAddr) -> String {
        let mac = |mode| params::dashed(&cluster_mac(mode, ip).to_string());
        format!(
            "{}Cluster {ip}\nUnicast MAC = {}\nMulticast MAC = {}\nIGMP multicast MAC = {}\n",
            Self::banner(env!("CARGO_PKG_VERSION")),
            mac(ClusterMode::Unicast),
            mac(ClusterMode::Multicast),
            mac(ClusterMode::Igmp),
        )
    }
}

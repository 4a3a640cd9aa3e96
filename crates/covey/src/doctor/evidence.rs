//! What the doctor knows: who the host is, what its daemon says, what its machine says.
//!
//! Put together by the command line and by the daemon; [`super::examine`] draws the conclusions.
//! Specification: docs/design.md, "Doctor".

use super::Machine;
use crate::config::Config;
use crate::status::{MemberStatus, RuleState, Status};
use covey_proto::ids::Mac;
use covey_proto::rules::{FilterMode, Protocol};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Whom to look at: what must be known of a host before its machine can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patient {
    /// The NIC on the cluster's segment.
    pub interface: String,
    /// The addresses that all hosts share.
    pub vips: Vec<IpAddr>,
    /// The MAC that all hosts share; `None` if it is not known.
    pub cluster_mac: Option<Mac>,
    /// The port rules by which this host takes TCP connections.
    pub services: Vec<Service>,
    /// Its daemon, if one runs.
    pub daemon: Option<u32>,
    /// Other hosts that are not heard and have not said goodbye, and their addresses.
    pub silent: Vec<(u8, IpAddr)>,
    /// Whether something on it has sent frames with the cluster MAC as source.
    pub leaks: bool,
}

/// A port rule for which something should listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The number of the rule, from 1.
    pub rule: u8,
    /// The addresses it is for.
    pub vips: Vec<IpAddr>,
    /// Its ports: something must listen on one of them.
    pub ports: RangeInclusive<u16>,
}

impl Service {
    /// What it is about, for people.
    pub fn traffic(&self) -> String {
        match (self.ports.start(), self.ports.end()) {
            (one, other) if one == other => format!("tcp {one}"),
            (first, last) => format!("tcp {first}-{last}"),
        }
    }
}

impl Patient {
    /// The host whose daemon says this.
    pub fn of_status(status: &Status) -> Self {
        let wanted = |rule: &&crate::status::RuleStatus| {
            let takes = rule.weight != Some(0) && rule.state == RuleState::Enabled;
            takes && rule.mode != "disabled" && rule.protocol != "udp"
        };
        let service = |rule: &crate::status::RuleStatus| {
            Some(Service {
                rule: rule.index,
                vips: match rule.vip {
                    Some(vip) => vec![vip],
                    None => status.cluster.vips.clone(),
                },
                ports: rule.start?..=rule.end?,
            })
        };
        let rules = status.rules.iter().filter(wanted);
        let is_lost = |host: &&MemberStatus| host.is_lost();
        let address = |host: &MemberStatus| (host.id, host.dip);
        Self {
            interface: status.host.interface.clone(),
            vips: status.cluster.vips.clone(),
            cluster_mac: status.cluster.mac.parse().ok(),
            services: rules.filter_map(service).collect(),
            daemon: Some(status.host.pid),
            silent: status.hosts.iter().filter(is_lost).map(address).collect(),
            leaks: status.network.leaks_stopped.recent > 0,
        }
    }

    /// The host that is configured so, while no daemon runs.
    pub fn of_config(config: &Config) -> Self {
        let rules = (1u8..).zip(config.rules.rules().iter().zip(&config.claims));
        let wanted = rules.filter(|(_, (rule, claim))| {
            let takes = match rule.mode {
                FilterMode::Multiple { .. } | FilterMode::Single => claim.0 != 0,
                FilterMode::Disabled => false,
            };
            takes && matches!(rule.protocol, Protocol::Tcp | Protocol::Both)
        });
        let services = wanted.map(|(number, (rule, _))| Service {
            rule: number,
            vips: match rule.vip {
                Some(vip) => vec![vip],
                None => config.rules.vips().to_vec(),
            },
            ports: rule.start..=rule.end,
        });
        Self {
            interface: config.host.interface.clone(),
            vips: config.rules.vips().to_vec(),
            cluster_mac: Some(config.cluster_mac()),
            services: services.collect(),
            daemon: None,
            silent: Vec::new(),
            leaks: false,
        }
    }
}

/// What the daemon says when it is asked.
#[derive(Clone, Debug)]
pub enum Daemon {
    /// How things are.
    Answers(Box<Status>),
    /// Nobody listens; in a sentence.
    NotRunning(String),
    /// It has not answered in time; in a sentence.
    Hangs(String),
}

/// All that is known.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The daemon's word.
    pub daemon: Daemon,
    /// What is wrong with the configuration file: `None` if it was not looked at.
    pub configuration: Option<Result<(), String>>,
    /// The machine's; `None` if it is not known whom to look at.
    pub machine: Option<Machine>,
}

impl Evidence {
    /// What the daemon says, if it says anything.
    pub fn status(&self) -> Option<&Status> {
        match &self.daemon {
            Daemon::Answers(status) => Some(status),
            Daemon::NotRunning(_) | Daemon::Hangs(_) => None,
        }
    }
}

//! `covey check`: what a configuration without errors means.

use super::table::{Align, Paint, Table, labelled};
use super::{address, affinity, claim};
use crate::config::{Config, InitialState};
use crate::duration;
use covey_filter::{IKE, PPTP};
use covey_proto::config::{Auth, ClusterMode, Quorum, SourceMac};
use covey_proto::rules::{Affinity, Claim, FilterMode, PortRule, Protocol};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A configuration in the words of its file, defaults filled in.
#[derive(Serialize)]
pub(in crate::cli) struct CheckSummary {
    cluster: String,
    vips: Vec<String>,
    mode: String,
    mac: String,
    period_ms: f64,
    tolerance: u16,
    authenticated: bool,
    /// How many hosts must be together for any to serve; none for any number.
    majority_of: Option<u8>,
    host: u8,
    name: String,
    interface: String,
    dip: Ipv4Addr,
    initial_state: &'static str,
    persist_state: bool,
    legacy_heartbeats: bool,
    rules: Vec<RuleSummary>,
    /// What is allowed, but may not be meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

#[derive(Serialize)]
struct RuleSummary {
    vip: Option<IpAddr>,
    start: u16,
    end: u16,
    protocol: &'static str,
    mode: &'static str,
    affinity: Option<&'static str>,
    sticky_s: Option<u64>,
    weight: Option<u8>,
    handling_priority: Option<u8>,
}

impl CheckSummary {
    pub(in crate::cli) fn of(config: &Config) -> Self {
        let cluster = &config.cluster;
        Self {
            cluster: cluster.name.clone(),
            vips: cluster.vips.iter().map(ToString::to_string).collect(),
            mode: config.mode().to_string(),
            mac: config.cluster_mac().to_string(),
            period_ms: cluster.timing.period.as_secs_f64() * 1e3,
            tolerance: cluster.timing.tolerance,
            authenticated: match cluster.auth {
                Auth::None => false,
                Auth::Keys(_) => true,
            },
            majority_of: match cluster.quorum {
                Quorum::None => None,
                Quorum::Majority(size) => Some(size),
            },
            host: config.host.id.get(),
            name: config.host.name.clone(),
            interface: config.host.interface.clone(),
            dip: config.host.dip,
            initial_state: match config.host.initial_state {
                InitialState::Started => "started",
                InitialState::Stopped => "stopped",
                InitialState::Suspended => "suspended",
            },
            persist_state: config.host.persist_state,
            legacy_heartbeats: config.host.legacy_heartbeats,
            rules: config
                .rules
                .rules()
                .iter()
                .zip(&config.claims)
                .map(|(rule, claim)| RuleSummary::of(rule, *claim))
                .collect(),
            notes: (1..)
                .zip(config.rules.rules())
                .filter_map(|(number, rule)| parts_tunnels(number, rule))
                .chain(source_mac_without_effect(config))
                .collect(),
        }
    }
}

/// A group address is no source, and NLB masks none in these modes either.
fn source_mac_without_effect(config: &Config) -> Option<String> {
    let mode = config.mode();
    let wished = config.cluster.source_mac != SourceMac::Host;
    (mode != ClusterMode::Unicast && wished).then(|| {
        format!(
            "source_mac has no effect in mode {mode}: frames leave under the NIC's own MAC, which teaches no switch the \
             cluster MAC, because that is a group's"
        )
    })
}

/// Tunnels have no ports, so under affinity none they cannot go where their control connection does.
fn parts_tunnels(number: usize, rule: &PortRule) -> Option<String> {
    let covers = |protocol, port| {
        rule.protocol.overlaps(protocol) && (rule.start..=rule.end).contains(&port)
    };
    let tunnels = match (covers(Protocol::Tcp, PPTP), covers(Protocol::Udp, IKE)) {
        (true, true) => "GRE of PPTP (TCP 1723), and ESP and AH of IPsec (UDP 500)",
        (true, false) => "GRE of PPTP (TCP 1723)",
        (false, true) => "ESP and AH of IPsec (UDP 500)",
        (false, false) => return None,
    };
    let affinity = Affinity::None;
    (rule.mode == FilterMode::Multiple { affinity }).then(|| {
        format!(
            "rule {number} has affinity none: {tunnels} will not be where their control connection is; \
             if there are such tunnels, use affinity single"
        )
    })
}

impl RuleSummary {
    fn of(rule: &PortRule, claim: Claim) -> Self {
        let (mode, affinity, weight, handling_priority) = match rule.mode {
            FilterMode::Multiple { affinity } => {
                let affinity = match affinity {
                    Affinity::None => "none",
                    Affinity::Single => "single",
                    Affinity::Network => "network",
                };
                ("multiple", Some(affinity), Some(claim.0), None)
            }
            FilterMode::Single => ("single", None, None, Some(claim.0)),
            FilterMode::Disabled => ("disabled", None, None, None),
        };
        Self {
            vip: rule.vip,
            start: rule.start,
            end: rule.end,
            protocol: match rule.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Both => "both",
            },
            mode,
            affinity,
            sticky_s: rule.sticky.map(|sticky| sticky.as_secs()),
            weight,
            handling_priority,
        }
    }

    fn ports(&self) -> String {
        if self.start == self.end {
            self.start.to_string()
        } else {
            format!("{}-{}", self.start, self.end)
        }
    }
}

/// The summary as text, after the word that all is well.
pub(in crate::cli) fn check(summary: &CheckSummary) -> String {
    let quorum = match summary.majority_of {
        None => "any number of hosts serves".to_owned(),
        Some(size) => format!("a majority of {size} hosts serves"),
    };
    let signed = if summary.authenticated {
        "signed"
    } else {
        "not signed"
    };
    let period = Duration::from_secs_f64(summary.period_ms / 1e3);
    let overview = labelled(&[
        (
            "Cluster",
            format!("{}, {}", summary.cluster, summary.vips.join(", ")),
        ),
        (
            "Mode",
            format!("{}, cluster MAC {}", summary.mode, summary.mac),
        ),
        (
            "Heartbeat",
            format!(
                "every {}, tolerance {}, {signed}; {quorum}",
                duration::format(period),
                summary.tolerance
            ),
        ),
        (
            "Host",
            format!(
                "{} (host {}) on {} with {}, initially {}{}",
                summary.name,
                summary.host,
                summary.interface,
                summary.dip,
                summary.initial_state,
                if summary.persist_state {
                    " or as last wanted"
                } else {
                    ""
                }
            ),
        ),
    ]);
    let mut table = Table::new([
        ("RULE", Align::Right),
        ("VIP", Align::Left),
        ("PORTS", Align::Left),
        ("PROTOCOL", Align::Left),
        ("MODE", Align::Left),
        ("AFFINITY", Align::Left),
        ("THIS HOST", Align::Left),
    ]);
    for (number, rule) in (1..).zip(&summary.rules) {
        let number: usize = number;
        table.push([
            number.to_string().into(),
            address(rule.vip).into(),
            rule.ports().into(),
            rule.protocol.into(),
            rule.mode.into(),
            affinity(rule.affinity, rule.sticky_s).into(),
            claim(rule.weight, rule.handling_priority).into(),
        ]);
    }
    let notes: String = summary
        .notes
        .iter()
        .map(|note| format!("\nNote: {note}\n"))
        .collect();
    format!(
        "configuration is fine\n\n{overview}\n{}{notes}",
        table.render(Paint::new(false))
    )
}

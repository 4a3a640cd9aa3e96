//! Fills the read model ([`crate::status`]) from what the core, the data path and the daemon know.

use super::Daemon;
use super::journal::{ids, wall_clock};
use super::{VERSION, sys, troubles};
use crate::config::InitialState;
use crate::control::{Code, Response};
use crate::datapath::Counters;
use crate::doctor::Kind;
use crate::status::{
    ClusterStatus, CommitCounts, DataPathStatus, HostState, HostStatus, MemberStatus,
    OfferedDelivery, RuleState, RuleStatus, SCHEMA, Status,
};
use crate::why::{self, Insight, Question};
use covey_filter::{Affinity, DEFAULT_RULE};
use covey_proto::PortState;
use covey_proto::cluster::{MemberSnapshot, Snapshot};
use covey_proto::config::{Auth, SourceMac};
use covey_proto::datapath::Image;
use covey_proto::ids::HostId;
use covey_proto::placement::Placement;
use covey_proto::rules::{Claim, FilterMode, PortRule, Protocol};
use covey_proto::wire::heartbeat::Announced;
use std::collections::BTreeMap;
use std::time::Duration;

impl Daemon {
    /// How things are now.
    pub(super) fn status(&self) -> Status {
        let now = sys::now();
        let snapshot = self.cluster.snapshot(now);
        let config = &self.config;
        let host = HostStatus {
            id: config.host.id.get(),
            name: config.host.name.clone(),
            dip: config.host.dip.into(),
            interface: config.host.interface.clone(),
            mac: self.mac.to_string(),
            state: own_state(snapshot.state),
            initial_state: match config.host.initial_state {
                InitialState::Started => "started",
                InitialState::Stopped => "stopped",
                InitialState::Suspended => "suspended",
            }
            .to_owned(),
            persist_state: config.host.persist_state,
            connections: snapshot.connections,
            is_default: snapshot.owners.lowest() == Some(config.host.id),
            times_converging: snapshot.times_converging,
            waiting_for: snapshot.waiting_for.clone(),
            uptime_ms: now.since(self.started_at).as_millis() as u64,
            lease_ms: millis(snapshot.lease.since(now)),
            pid: std::process::id(),
            version: VERSION.to_owned(),
            upgrades: self.upgrades,
            config: self.config_path.display().to_string(),
            realtime: config.daemon.realtime,
        };
        let (delivery, offered) = (self.cluster.delivery(), config.cluster.delivery);
        let cluster = ClusterStatus {
            name: config.cluster.name.clone(),
            vips: config.rules.vips().to_vec(),
            prefix: config.cluster.vips[0].prefix,
            mode: delivery.mode().to_string(),
            mac: delivery.mac().to_string(),
            offered: (offered != delivery).then(|| OfferedDelivery {
                mode: offered.mode().to_string(),
                mac: offered.mac().to_string(),
            }),
            epoch: snapshot.epoch.0,
            map_digest: snapshot.digest.to_string(),
            view: ids(snapshot.view),
            default_host: snapshot.owners.lowest().map(HostId::get),
            period_ms: millis(config.cluster.timing.period),
            tolerance: config.cluster.timing.tolerance,
            feature_level: snapshot.feature_level,
            authenticated: !matches!(config.cluster.auth, Auth::None),
            unicast_fallback: config.cluster.unicast_fallback,
            source_mac: match config.cluster.source_mac {
                SourceMac::Host => "host",
                SourceMac::Masked => "masked",
                SourceMac::Cluster => "cluster",
            }
            .to_owned(),
        };
        let counters = self.data_path.counters().unwrap_or_else(|error| {
            tracing::warn!("the packet counters cannot be read: {error}");
            Counters::default()
        });
        let commits = self.data_path.commits();
        let maps = snapshot
            .placement
            .iter()
            .flat_map(|placement| placement.maps());
        let hosts = members(&host, &snapshot);
        Status {
            schema: SCHEMA,
            time: wall_clock(),
            network: self.network(now, &counters, &snapshot, &hosts),
            hosts,
            cluster,
            host,
            rules: rules(&snapshot, &counters.since(&self.counted_before)),
            maps: maps.map(|map| map.as_bytes().to_vec()).collect(),
            datapath: DataPathStatus {
                attach: self.data_path.attach().to_string(),
                packets: counters
                    .by_reason()
                    .map(|(reason, count)| (reason.label().to_owned(), count))
                    .collect(),
                commits: CommitCounts {
                    by_filter: commits.by_programs,
                    by_daemon: commits.by_daemon,
                },
            },
            multicast: self.multicast_status(),
            frames_rejected: self
                .cluster
                .rejected()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (reason.label().to_owned(), count))
                .collect(),
            convergence: self.journal.convergences(),
            troubles: troubles::told(now, snapshot.troubles.clone(), self.checkup.fenced(now)),
            recent: self.checkup.recent(),
            findings: self.checkup.findings(),
        }
    }
}

impl Daemon {
    /// What a packet meets on this host.
    pub(super) fn why(&self, question: &Question) -> Response {
        let now = sys::now();
        let snapshot = self.cluster.snapshot(now);
        let name = |id: HostId| {
            let others = snapshot.members.iter();
            let known = others
                .map(|member| (member.host, &member.name))
                .chain([(self.config.host.id, &self.config.host.name)])
                .find(|(host, _)| *host == id);
            known.map_or_else(|| format!("host {id}"), |(_, name)| name.clone())
        };
        let without_map;
        let image = match &self.in_force {
            Some(image) if snapshot.placement.is_some() => image,
            Some(_) | None => {
                without_map = Image::fenced(&self.identity, &snapshot.rules);
                &without_map
            }
        };
        let insight = Insight {
            me: self.config.host.id,
            name: &name,
            image,
            lease_holds: now < snapshot.lease,
            epoch: snapshot.epoch.0,
            placement: snapshot.placement.as_deref(),
            view: snapshot.view,
            rules: &snapshot.rules,
        };
        match why::explain(question, &insight) {
            Ok(explanation) => Response::ok(explanation),
            Err(error) => Response::error(Code::Bad, error.to_string()),
        }
    }
}

/// All hosts in order of ID, the one that speaks included.
fn members(me: &HostStatus, snapshot: &Snapshot) -> Vec<MemberStatus> {
    let hears = snapshot
        .members
        .iter()
        .filter(|member| member.alive)
        .map(|member| member.host.get());
    let own = MemberStatus {
        id: me.id,
        name: me.name.clone(),
        dip: me.dip,
        mac: me.mac.clone(),
        protocol_version: snapshot.version,
        state: me.state,
        last_heartbeat_ms: 0.0,
        alive: true,
        hears: hears.collect(),
        epoch: snapshot.epoch.0,
        heartbeats: 0,
        heartbeats_lost: 0,
        findings: Vec::new(),
    };
    let mut members: Vec<MemberStatus> = snapshot.members.iter().map(member).chain([own]).collect();
    members.sort_by_key(|member| member.id);
    members
}

fn member(member: &MemberSnapshot) -> MemberStatus {
    MemberStatus {
        id: member.host.get(),
        name: member.name.clone(),
        dip: member.dip.into(),
        mac: member.mac.to_string(),
        protocol_version: member.version,
        state: state_of(member.announced),
        last_heartbeat_ms: millis(member.last_heartbeat),
        alive: member.alive,
        hears: ids(member.hears),
        epoch: member.epoch.0,
        heartbeats: member.heartbeats,
        heartbeats_lost: member.lost,
        findings: member.findings.iter().copied().map(Kind::name_of).collect(),
    }
}

fn rules(snapshot: &Snapshot, counters: &Counters) -> Vec<RuleStatus> {
    let default = RuleStatus {
        index: DEFAULT_RULE,
        vip: None,
        start: None,
        end: None,
        protocol: "both".to_owned(),
        mode: "default".to_owned(),
        affinity: None,
        sticky_s: None,
        state: RuleState::Enabled,
        weight: None,
        handling_priority: None,
        map: 0,
        share: BTreeMap::new(),
        packets_accepted: 0,
        packets_dropped: 0,
    };
    let configured = snapshot.rules.rules().iter().zip(&snapshot.claims);
    let configured = (1..)
        .zip(configured.zip(&snapshot.port_states))
        .map(|(index, ((rule, claim), state))| port_rule(index, rule, *claim, *state));
    let mut rules: Vec<RuleStatus> = [default].into_iter().chain(configured).collect();
    for rule in &mut rules {
        let packets = counters.of_rule(rule.index);
        rule.packets_accepted = packets.accepted;
        rule.packets_dropped = packets.dropped;
    }
    if let Some(placement) = &snapshot.placement {
        for rule in &mut rules {
            rule.map = usize::from(placement.map_of(rule.index));
            rule.share = shares(placement, rule.index);
        }
    }
    rules
}

fn shares(placement: &Placement, rule: u8) -> BTreeMap<u8, usize> {
    let mut shares = BTreeMap::new();
    for owner in placement
        .map(rule)
        .as_bytes()
        .iter()
        .filter(|owner| **owner != 0)
    {
        *shares.entry(*owner).or_insert(0) += 1;
    }
    shares
}

fn port_rule(index: u8, rule: &PortRule, claim: Claim, state: PortState) -> RuleStatus {
    let (mode, affinity) = match rule.mode {
        FilterMode::Multiple {
            affinity: Affinity::None,
        } => ("multiple", Some("none")),
        FilterMode::Multiple {
            affinity: Affinity::Single,
        } => ("multiple", Some("single")),
        FilterMode::Multiple {
            affinity: Affinity::Network,
        } => ("multiple", Some("network")),
        FilterMode::Single => ("single", None),
        FilterMode::Disabled => ("disabled", None),
    };
    RuleStatus {
        index,
        vip: rule.vip,
        start: Some(rule.start),
        end: Some(rule.end),
        protocol: match rule.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Both => "both",
        }
        .to_owned(),
        mode: mode.to_owned(),
        affinity: affinity.map(str::to_owned),
        sticky_s: rule.sticky.map(|sticky| sticky.as_secs()),
        state: match state {
            PortState::Enabled => RuleState::Enabled,
            PortState::Disabled => RuleState::Disabled,
            PortState::Draining => RuleState::Draining,
        },
        weight: matches!(rule.mode, FilterMode::Multiple { .. }).then_some(claim.0),
        handling_priority: matches!(rule.mode, FilterMode::Single).then_some(claim.0),
        map: 0,
        share: BTreeMap::new(),
        packets_accepted: 0,
        packets_dropped: 0,
    }
}

const fn own_state(state: covey_proto::HostState) -> HostState {
    use covey_proto::HostState as Core;
    match state {
        Core::Stopped => HostState::Stopped,
        Core::Suspended => HostState::Suspended,
        Core::Converging => HostState::Converging,
        Core::Draining => HostState::Draining,
        Core::Converged | Core::Default => HostState::Converged,
    }
}

const fn state_of(announced: Announced) -> HostState {
    match announced {
        Announced::Goodbye => HostState::Stopped,
        Announced::Converging | Announced::Listening => HostState::Converging,
        Announced::Converged => HostState::Converged,
        Announced::Leaving | Announced::Draining => HostState::Draining,
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

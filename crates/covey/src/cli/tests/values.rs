//! What the golden tests print: hosts in every state, and a machine with nothing but a configuration.

use crate::config::{System, TextFile};
use crate::doctor::{Finding, Severity};
use crate::host::Interface;
use crate::status::*;
use covey_proto::ids::Mac;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub(super) fn member(id: u8, state: HostState) -> MemberStatus {
    MemberStatus {
        id,
        name: format!("h{id}"),
        dip: [10, 77, 0, id].into(),
        mac: format!("02:00:00:00:00:{id:02x}"),
        protocol_version: 1,
        state,
        last_heartbeat_ms: f64::from(id - 1) * 137.25,
        alive: true,
        hears: vec![1, 2, 3],
        epoch: 12,
        heartbeats: 4711,
        heartbeats_lost: u64::from(id) / 3,
        findings: Vec::new(),
    }
}

pub(super) fn rule(
    index: u8,
    ports: Option<(u16, u16)>,
    mode: &str,
    share: &[(u8, usize)],
) -> RuleStatus {
    RuleStatus {
        index,
        vip: None,
        start: ports.map(|(start, _)| start),
        end: ports.map(|(_, end)| end),
        protocol: "both".to_owned(),
        mode: mode.to_owned(),
        affinity: (mode == "multiple").then(|| "single".to_owned()),
        sticky_s: None,
        state: RuleState::Enabled,
        weight: (mode == "multiple").then_some(50),
        handling_priority: (mode == "single").then_some(2),
        map: usize::from(index != 0),
        share: share.iter().copied().collect(),
        packets_accepted: 1234 * u64::from(index),
        packets_dropped: 98_765 * u64::from(index),
    }
}

fn arrivals(from: &[u8], missing: &[u8]) -> Arrivals {
    Arrivals {
        from: from.to_vec(),
        missing: missing.to_vec(),
    }
}

/// A segment on which everything reaches everybody.
fn network() -> NetworkStatus {
    let others: [(u8, &[u8]); 3] = [(1, &[2, 3]), (2, &[1, 3]), (3, &[1, 2])];
    NetworkStatus {
        probe_interval_ms: 2000.0,
        recent_ms: 55_000,
        reach: others
            .map(|(host, others)| ReachStatus {
                host,
                mtu: Some(1500),
                broadcast: arrivals(others, &[]),
                cluster_mac: arrivals(others, &[]),
                own_mac: arrivals(others, &[]),
            })
            .to_vec(),
        cluster_frames: Count {
            total: 1_234_656,
            recent: 4711,
        },
        neighbours: vec![NeighbourStatus {
            address: [10, 77, 0, 200].into(),
            mac: "02:00:00:00:00:c8".to_owned(),
        }],
        heartbeats: [2, 3]
            .map(|host| HeartbeatCounts {
                host,
                received: 55,
                lost: 0,
            })
            .to_vec(),
        ..NetworkStatus::default()
    }
}

/// Host 1 of three, on a segment that has everything wrong with it.
pub(super) fn on_a_bad_segment() -> Status {
    let mut status = converged();
    let network = &mut status.network;
    for (row, (from, missing)) in
        network
            .reach
            .iter_mut()
            .zip([(&[][..], &[2, 3][..]), (&[1, 3], &[]), (&[], &[1])])
    {
        row.cluster_mac = arrivals(from, missing);
    }
    network.reach[0].mtu = Some(9000);
    network.reach[1].mtu = None;
    network.reach[2].broadcast = arrivals(&[2], &[1]);
    network.cluster_mac_learned_at = Some(2);
    let count = |total, recent| Count { total, recent };
    network.leaks_seen = count(17, 3);
    network.leaks_stopped = count(2, 1);
    network.frames_for_others = count(99_999, 12_345);
    network.neighbours.clear();
    network.heartbeats[1].lost = 7;
    network.claimants = [("02:09:09:09:09:09", None), ("02:00:00:00:00:03", Some(3))]
        .map(|(mac, host)| ClaimantStatus {
            vip: [10, 77, 0, 100].into(),
            mac: mac.to_owned(),
            host,
            times: 4,
            last_ms: 1500,
        })
        .to_vec();
    status
}

/// Host 1 of three that have converged.
pub(in crate::cli) fn converged() -> Status {
    Status {
        schema: SCHEMA,
        time: "2026-11-20T23:01:02.345678Z".to_owned(),
        cluster: ClusterStatus {
            name: "www.example.com".to_owned(),
            vips: vec![[10, 77, 0, 100].into(), [10, 77, 0, 101].into()],
            prefix: 24,
            mode: "unicast".to_owned(),
            mac: "02:bf:0a:4d:00:64".to_owned(),
            offered: None,
            epoch: 12,
            map_digest: "0123456789abcdef".to_owned(),
            view: vec![1, 2, 3],
            default_host: Some(1),
            period_ms: 1000.0,
            tolerance: 5,
            feature_level: 1,
            authenticated: true,
            unicast_fallback: true,
            source_mac: "host".to_owned(),
        },
        host: HostStatus {
            id: 1,
            name: "h1".to_owned(),
            dip: [10, 77, 0, 1].into(),
            interface: "eth0".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            state: HostState::Converged,
            initial_state: "started".to_owned(),
            persist_state: false,
            connections: None,
            is_default: true,
            times_converging: 2,
            waiting_for: None,
            uptime_ms: 7_512_000,
            lease_ms: 4180.5,
            pid: 4242,
            version: "0.1.0".to_owned(),
            upgrades: 0,
            config: "/etc/covey/covey.toml".to_owned(),
            realtime: true,
        },
        hosts: [1, 2, 3]
            .map(|id| member(id, HostState::Converged))
            .to_vec(),
        rules: vec![
            rule(0, None, "default", &[(1, 4096)]),
            rule(
                1,
                Some((80, 80)),
                "multiple",
                &[(1, 1366), (2, 1365), (3, 1365)],
            ),
            rule(2, Some((1000, 2000)), "single", &[(2, 4096)]),
            rule(3, Some((25, 25)), "disabled", &[]),
        ],
        maps: Vec::new(),
        multicast: None,
        datapath: DataPathStatus {
            attach: "native".to_owned(),
            packets: BTreeMap::from([("mine".to_owned(), 1_234_567), ("not_mine".to_owned(), 89)]),
            commits: CommitCounts {
                by_filter: 11,
                by_daemon: 1,
            },
        },
        frames_rejected: BTreeMap::from([("bad_tag".to_owned(), 3)]),
        network: network(),
        convergence: vec![
            ConvergenceRecord {
                at_ms: 3_100,
                from: vec![],
                to: vec![1, 2],
                epoch: 11,
                duration_ms: 2010.0,
                cause: "host 1 started".to_owned(),
            },
            ConvergenceRecord {
                at_ms: 61_000,
                from: vec![1, 2],
                to: vec![1, 2, 3],
                epoch: 12,
                duration_ms: 0.84,
                cause: "host 3 joined".to_owned(),
            },
        ],
        troubles: Troubles::default(),
        recent: Recent::default(),
        findings: Vec::new(),
    }
}

/// Host 2, which waits: host 3 is silent.
pub(super) fn converging() -> Status {
    let mut status = converged();
    status.host.id = 2;
    status.host.name = "h2".to_owned();
    status.host.state = HostState::Converging;
    status.host.is_default = false;
    status.host.lease_ms = 0.0;
    status.host.waiting_for = Some("host 1 does not hear host 2".to_owned());
    for host in &mut status.hosts {
        host.state = HostState::Converging;
    }
    status.hosts[2].alive = false;
    status.hosts[2].state = HostState::Converged;
    status.hosts[2].last_heartbeat_ms = 65_000.0;
    status
}

/// A host that has never joined.
pub(super) fn stopped() -> Status {
    let mut status = converged();
    status.host.state = HostState::Stopped;
    status.host.is_default = false;
    status.host.times_converging = 0;
    status.host.lease_ms = 0.0;
    status.cluster.epoch = 0;
    status.cluster.view.clear();
    status.cluster.default_host = None;
    status.cluster.authenticated = false;
    status.hosts = vec![member(1, HostState::Stopped)];
    for rule in &mut status.rules {
        rule.share.clear();
    }
    status
}

pub(super) fn draining() -> Status {
    let mut status = converged();
    status.host.state = HostState::Draining;
    status.host.is_default = false;
    status.host.connections = Some(17);
    status.cluster.view = vec![2, 3];
    status
}

pub(super) fn suspended() -> Status {
    let mut status = stopped();
    status.host.state = HostState::Suspended;
    status.host.initial_state = "suspended".to_owned();
    status.host.persist_state = true;
    status.hosts = vec![member(1, HostState::Suspended)];
    status
}

/// Host 1 of three, with rules in every state.
pub(super) fn held_back() -> Status {
    let mut status = converged();
    let mut sticky = rule(4, Some((443, 443)), "multiple", &[(2, 2048), (3, 2048)]);
    sticky.vip = Some([10, 77, 0, 101].into());
    sticky.sticky_s = Some(1200);
    sticky.protocol = "tcp".to_owned();
    sticky.state = RuleState::Draining;
    status.rules[1].state = RuleState::Disabled;
    status.rules[1].share = (2..=9).map(|id| (id, 512)).collect();
    status.rules.push(sticky);
    status.host.connections = Some(1);
    status
}

/// Host 1 of three, with something wrong here and there.
pub(super) fn ailing() -> Status {
    let finding = |name: &str, severity, what: &str, evidence: &[&str]| {
        Finding {
        name: name.to_owned(),
        severity,
        host: Some(1),
        about: None,
        what: what.to_owned(),
        evidence: evidence.iter().copied().map(str::to_owned).collect(),
        cure: "Find out what it is that does this on this machine, and have it stop doing so, or tell it to leave lo alone."
            .to_owned(),
        articles: vec!["Q192466".to_owned(), "Q232000".to_owned()],
    }
    };
    let mut status = converged();
    status.findings = vec![
        finding(
            "vip-missing",
            Severity::Error,
            "The virtual IP 10.77.0.100 is not an address of lo, so this host drops what it should answer.",
            &["no interface has it", "lo has 127.0.0.1"],
        ),
        finding(
            "generic-xdp",
            Severity::Info,
            "The filter runs in generic XDP.",
            &[],
        ),
    ];
    status.hosts[1].findings = vec!["rp-filter".to_owned()];
    status
}

/// A host that is the whole cluster.
pub(super) fn alone() -> Status {
    let mut status = converged();
    status.cluster.view = vec![1];
    status.hosts.truncate(1);
    status
}

/// Three hosts of which two have the next version already.
pub(super) fn half_upgraded() -> Status {
    let mut status = converged();
    status.hosts[0].protocol_version = 2;
    status.hosts[2].protocol_version = 2;
    status
}

/// A machine whose only file is the configuration.
pub(super) struct Bench<'a>(pub(super) &'a str);

impl System for Bench<'_> {
    fn read(&self, _: &Path) -> io::Result<TextFile> {
        Ok(TextFile {
            mode: 0o600,
            text: self.0.to_owned(),
        })
    }

    fn host_name(&self) -> io::Result<String> {
        Ok("h1".to_owned())
    }

    fn interface(&self, name: &str) -> io::Result<Option<Interface>> {
        Ok(Some(Interface {
            name: name.to_owned(),
            index: 2,
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            mtu: 1500,
            up: true,
            kind: None,
            addresses: vec![[10, 77, 0, 1].into()],
        }))
    }

    fn interface_names(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn default_socket(&self) -> io::Result<PathBuf> {
        Ok(PathBuf::from("/run/covey/control-1.sock"))
    }
}

//! Statuses for tests: what the daemons of a converged cluster would say.

use crate::status::{
    ClusterStatus, CommitCounts, DataPathStatus, HostState, HostStatus, MemberStatus,
    NetworkStatus, Recent, RuleState, RuleStatus, SCHEMA, Status, Troubles,
};
use covey_proto::ids::HostId;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::topology::{VIP, dip};

/// The status of host `id` in a converged cluster of `view`.
pub(crate) fn status(id: HostId, view: &[u8]) -> Status {
    let address = |id: u8| IpAddr::from(dip(HostId::new(id).unwrap()));
    Status {
        schema: SCHEMA,
        time: "2026-11-20T23:01:02.345678Z".to_owned(),
        cluster: ClusterStatus {
            name: "lab".to_owned(),
            vips: vec![VIP.into()],
            prefix: 24,
            mode: "unicast".to_owned(),
            mac: "02:bf:0a:4d:00:64".to_owned(),
            offered: None,
            epoch: 7,
            map_digest: "0123456789abcdef".to_owned(),
            view: view.to_vec(),
            default_host: view.first().copied(),
            period_ms: 200.0,
            tolerance: 5,
            feature_level: 1,
            authenticated: true,
            unicast_fallback: true,
            source_mac: "host".to_owned(),
        },
        host: HostStatus {
            id: id.get(),
            name: format!("h{id}"),
            dip: dip(id).into(),
            interface: "eth0".to_owned(),
            mac: format!("0a:00:0a:4d:00:{:02x}", id.get()),
            state: HostState::Converged,
            initial_state: "started".to_owned(),
            persist_state: false,
            connections: None,
            is_default: view.first() == Some(&id.get()),
            times_converging: 1,
            waiting_for: None,
            uptime_ms: 5000,
            lease_ms: 900.0,
            pid: 1,
            version: "0.1.0".to_owned(),
            upgrades: 0,
            config: "/etc/covey/covey.toml".to_owned(),
            realtime: true,
        },
        hosts: view
            .iter()
            .map(|member| MemberStatus {
                id: *member,
                name: format!("h{member}"),
                dip: address(*member),
                mac: format!("0a:00:0a:4d:00:{member:02x}"),
                protocol_version: 1,
                state: HostState::Converged,
                last_heartbeat_ms: if *member == id.get() { 0.0 } else { 120.0 },
                alive: true,
                hears: view.to_vec(),
                epoch: 7,
                heartbeats: 25,
                heartbeats_lost: 0,
                findings: Vec::new(),
            })
            .collect(),
        rules: vec![RuleStatus {
            index: 1,
            vip: None,
            start: Some(80),
            end: Some(80),
            protocol: "tcp".to_owned(),
            mode: "multiple".to_owned(),
            affinity: Some("none".to_owned()),
            sticky_s: None,
            state: RuleState::Enabled,
            weight: Some(50),
            handling_priority: None,
            map: 0,
            share: view
                .iter()
                .map(|member| (*member, 4096 / view.len()))
                .collect(),
            packets_accepted: 0,
            packets_dropped: 0,
        }],
        maps: Vec::new(),
        multicast: None,
        datapath: DataPathStatus {
            attach: "native".to_owned(),
            packets: BTreeMap::new(),
            commits: CommitCounts::default(),
        },
        frames_rejected: BTreeMap::new(),
        network: NetworkStatus::default(),
        convergence: Vec::new(),
        troubles: Troubles::default(),
        recent: Recent::default(),
        findings: Vec::new(),
    }
}

//! A host that is well, in a cluster of three that is well.

use crate::doctor::machine::{Gateway, Machine, Scheduling, Sysctls, WayOut};
use crate::doctor::{Daemon, Evidence, Patient};
use crate::host::{Features, Nic};
use crate::lab::fake;
use crate::status::{Arrivals, HeartbeatCounts, NetworkStatus, ReachStatus, Recent, Status};
use covey_proto::ids::{HostId, Mac};
use std::net::IpAddr;

pub(super) const VIP: &str = "10.77.0.100";

pub(super) fn vip() -> IpAddr {
    VIP.parse().unwrap()
}

/// Host 1's evidence.
pub(super) fn healthy() -> Evidence {
    let mut status = fake::status(HostId::new(1).unwrap(), &[1, 2, 3]);
    status.host.uptime_ms = 3_600_000;
    status.recent = Recent {
        window_ms: 60_000,
        ..Recent::default()
    };
    status.network = network();
    let machine = machine(&status);
    Evidence {
        daemon: Daemon::Answers(Box::new(status)),
        configuration: Some(Ok(())),
        machine: Some(machine),
    }
}

fn network() -> NetworkStatus {
    let others = |host: u8| -> Vec<u8> { (1..=3).filter(|other| *other != host).collect() };
    let arrivals = |host| Arrivals {
        from: others(host),
        missing: Vec::new(),
    };
    let row = |host| ReachStatus {
        host,
        mtu: Some(1500),
        broadcast: arrivals(host),
        cluster_mac: arrivals(host),
        own_mac: arrivals(host),
    };
    let heartbeats = |host| HeartbeatCounts {
        host,
        received: 300,
        lost: 1,
    };
    let mut network = NetworkStatus {
        recent_ms: 60_000,
        reach: [1, 2, 3].map(row).to_vec(),
        heartbeats: [2, 3].map(heartbeats).to_vec(),
        ..NetworkStatus::default()
    };
    network.cluster_frames.total = 4711;
    network
}

fn machine(status: &Status) -> Machine {
    Machine {
        patient: Patient::of_status(status),
        nic: Some(Nic {
            index: 2,
            up: true,
            mtu: 1500,
            mac: Some(Mac([0x0A, 0, 10, 77, 0, 1])),
            kind: None,
            controller: None,
            has_xdp: true,
        }),
        takes_cluster_mac: Some(true),
        features: Some(Features::default()),
        team: None,
        holders: vec![(vip(), vec!["lo".to_owned()])],
        addresses: vec!["10.77.0.1".parse().unwrap()],
        loopback_up: Some(true),
        sysctls: Some(Sysctls {
            arp_ignore: 0,
            arp_announce: 2,
            rp_filter: 2,
        }),
        ways_out: vec![(vip(), WayOut::By("eth0".to_owned()))],
        gateways: vec![Gateway {
            address: "10.77.0.254".parse().unwrap(),
            answers: true,
        }],
        lost_and_on: Vec::new(),
        unserved: Some(Vec::new()),
        scheduling: Some(Scheduling {
            first: true,
            locked: true,
        }),
        senders: Vec::new(),
    }
}

//! What the hosts find out about the switch between them: at whose port it has learned the cluster MAC, who leaks it, who
//! else says that it has the virtual IP. docs/design.md, "Network evidence".

use crate::frames::{BROADCAST, arp, ethernet};
use crate::lab::{Lab, Timing, VIP};
use crate::segment::packet_socket;
use crate::web::{self, FIRST_PORT};
use crate::{netns, wire};
use covey::status::{Arrivals, Status};
use std::io;
use std::net::Ipv4Addr;
use std::time::Instant;

const TIMING: Timing = Timing {
    period_ms: 200,
    tolerance: 5,
};
const CLUSTER_MAC: [u8; 6] = [0x02, 0xBF, 10, 77, 0, 100];
const CLUSTER: &str = "02:bf:0a:4d:00:64";
/// A group that switches pass on (NetBIOS), and LLC's length field: as a driver's own chatter.
const GROUP: [u8; 6] = [0x03, 0, 0, 0, 0, 1];
const LLC: u16 = 3;

/// Sends a frame from the NIC of `h1` or the client as it is.
fn send(lab: &Lab, place: &str, frame: Vec<u8>) -> io::Result<usize> {
    netns::inside(&lab.namespace(place), move || packet_socket().send(&frame))
}

fn heard(from: &[u8]) -> Arrivals {
    Arrivals {
        from: from.to_vec(),
        missing: Vec::new(),
    }
}

fn not(missing: &[u8]) -> Arrivals {
    Arrivals {
        from: Vec::new(),
        missing: missing.to_vec(),
    }
}

/// What of the cluster MAC reaches each host, as this one knows it.
fn by_cluster_mac(status: &Status) -> Vec<Arrivals> {
    let rows = status.network.reach.iter();
    rows.map(|row| row.cluster_mac.clone()).collect()
}

fn is_sound(status: &Status) -> bool {
    let all = [heard(&[2, 3]), heard(&[1, 3]), heard(&[1, 2])];
    let rows = status.network.reach.iter();
    let paths = rows.map(|row| [&row.broadcast, &row.cluster_mac, &row.own_mac]);
    let sound = paths.zip(&all).all(|(paths, all)| paths == [all; 3]);
    sound && status.network.reach.len() == 3 && status.network.cluster_mac_learned_at.is_none()
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_cluster_mac_that_the_switch_has_learned_shows_with_its_port_on_every_host() {
    let lab = Lab::up("learned", 3, TIMING);
    for host in lab.hosts() {
        lab.await_status(host, is_sound);
    }
    let fdb = |verb| {
        let entry = [CLUSTER, "dev", "port-h2", "master", "static"];
        lab.exec("switch", &[&["bridge", "fdb", verb], &entry[..]].concat());
    };
    fdb("add");
    let begun = Instant::now();
    for host in lab.hosts() {
        lab.await_status(host, |status| {
            status.network.cluster_mac_learned_at == Some(2)
                && by_cluster_mac(status) == [not(&[2, 3]), heard(&[1, 3]), not(&[1, 2])]
        });
    }
    println!("learned: known to all hosts after {:.1?}", begun.elapsed());
    fdb("del");
    for host in lab.hosts() {
        lab.await_status(host, is_sound);
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn leaks_are_seen_where_they_arrive_and_counted_where_they_are_stopped() {
    let lab = Lab::up("leaks", 3, TIMING);
    let leak = || ethernet(GROUP, CLUSTER_MAC, LLC, &[0xAA, 0xAA, 3]);
    // A host's own is stopped by its guard, and nobody sees it.
    send(&lab, "h1", leak()).expect_err("the guard drops it");
    lab.await_status(1, |status| status.network.leaks_stopped.total == 1);
    for host in lab.hosts() {
        assert_eq!(lab.status(host).network.leaks_seen.total, 0, "host {host}");
    }
    // From below a guard, or from a machine without one, all see it; and the switch has learned the cluster MAC where
    // it came from, so that probes reach nobody.
    send(&lab, "client", leak()).unwrap();
    for host in lab.hosts() {
        lab.await_status(host, |status| {
            let leaks = status.network.leaks_seen;
            (leaks.total, leaks.recent) == (1, 1)
        });
        lab.await_status(host, |status| {
            by_cluster_mac(status) == [not(&[2, 3]), not(&[1, 3]), not(&[1, 2])]
        });
    }
    assert_eq!(lab.status(1).network.cluster_mac_learned_at, None);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn whoever_has_the_virtual_ip_besides_the_cluster_is_named() {
    let lab = Lab::up("claims", 2, TIMING);
    let stranger = wire::nic(200).to_string();
    let client = Ipv4Addr::new(10, 77, 0, 200);
    let told = |status: &Status, times: u64| {
        let claimants = &status.network.claimants;
        let [one] = &claimants[..] else {
            return false;
        };
        (one.vip, one.host) == (VIP.into(), None) && one.mac == stranger && one.times >= times
    };
    // It announces itself.
    let announcement = arp(1, (wire::nic(200).0, VIP), ([0; 6], VIP));
    let announcement = ethernet(BROADCAST, wire::nic(200).0, 0x0806, &announcement);
    send(&lab, "client", announcement).unwrap();
    for host in lab.hosts() {
        lab.await_status(host, |status| told(status, 1));
    }
    // It says nothing, but answers the question that a host asks when it begins.
    lab.fault(&["crash", "2"]);
    lab.exec(
        "client",
        &["ip", "addr", "add", "10.77.0.100/32", "dev", "eth0"],
    );
    lab.fault(&["heal"]);
    lab.await_status(2, |status| told(status, 1));
    // An address of its own is its own business.
    let own = arp(1, (wire::nic(200).0, client), ([0; 6], client));
    let own = ethernet(BROADCAST, wire::nic(200).0, 0x0806, &own);
    send(&lab, "client", own).unwrap();
    lab.await_heartbeats(2, 5);
    assert_eq!(lab.status(1).network.claimants.len(), 1);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn clients_neighbours_and_mtus_show() {
    let lab = Lab::up("neighbours", 2, TIMING);
    for host in lab.hosts() {
        let network = lab.status(host).network;
        assert_eq!(network.cluster_frames.total, 0, "host {host}");
        assert_eq!(network.neighbours, [], "host {host}");
    }
    web::assert_none_failed(&web::in_a_row(&lab, lab.vip(), FIRST_PORT..FIRST_PORT + 20));
    for host in lab.hosts() {
        lab.await_status(host, |status| {
            let client = status.network.neighbours.first();
            let client = client.map(|client| client.mac.clone());
            status.network.cluster_frames.total >= 20 && client == Some(wire::nic(200).to_string())
        });
    }
    lab.exec("h2", &["ip", "link", "set", "eth0", "mtu", "1400"]);
    for host in lab.hosts() {
        lab.await_status(host, |status| {
            let mtus: Vec<_> = status.network.reach.iter().map(|row| row.mtu).collect();
            mtus == [Some(1500), Some(1400)]
        });
    }
}

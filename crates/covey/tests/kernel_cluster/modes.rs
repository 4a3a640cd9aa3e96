//! The cluster modes: what the other tests show in unicast mode holds in the others, a change from one to the next breaks
//! nothing, and a host that is set to another one is named.

use crate::lab::{Lab, Timing, VIP, VIP6};
use crate::web::{self, FIRST_PORT};
use crate::wire::{self, Capture};
use crate::{change, connections, crash, heartbeat, netns, sharing};
use covey::status::Status;
use covey_proto::config::ClusterMode;
use covey_proto::delivery::Delivery;
use covey_proto::wire::ethernet;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// Connections that stay open through all changes.
const HELD: usize = 300;
/// Times that a mode is gone round.
const ROUNDS: usize = 2;

fn delivery(mode: &str) -> Delivery {
    let mode = match mode {
        "multicast" => ClusterMode::Multicast,
        "igmp" => ClusterMode::Igmp,
        _ => ClusterMode::Unicast,
    };
    Delivery::derived(mode, VIP.into())
}

/// Sharing, leaving, crashing, and what the switch sees.
fn as_in_unicast_mode(test: &str, mode: &str, vip: IpAddr) {
    let lab = Lab::up_in_mode(test, mode, TIMING, vip);
    let capture = Capture::start(&lab);
    lab.await_heartbeats(2, 10);
    let frames = wire::read(&capture.finish());
    let heartbeats = frames.iter().map(wire::Frame::ethernet);
    let heartbeats = heartbeats.filter(|frame| ethernet::is_heartbeat(frame.ethertype));
    let to: BTreeSet<_> = heartbeats.map(|frame| frame.destination).collect();
    assert_eq!(to, BTreeSet::from([delivery(mode).heartbeats()]), "{mode}");
    sharing::share(&lab);
    assert_eq!(lab.neighbour(), Some(delivery(mode).mac().to_string()));
    heartbeat::no_frame_teaches_the_cluster_mac(&lab);
    lab.covey(3, &["start"]);
    lab.await_agreement(&[1, 2, 3]);
    change::leave_and_return(&lab, ROUNDS);
    crash::crash(&lab, TIMING);
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn multicast_mode_is_as_good_as_unicast() {
    as_in_unicast_mode("multicast", "multicast", VIP.into());
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn multicast_mode_is_as_good_as_unicast_over_ipv6() {
    as_in_unicast_mode("multicast6", "multicast", VIP6.into());
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn igmp_mode_is_as_good_as_unicast() {
    as_in_unicast_mode("igmp", "igmp", VIP.into());
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn igmp_mode_is_as_good_as_unicast_over_ipv6() {
    as_in_unicast_mode("igmp6", "igmp", VIP6.into());
}

/// Gives all hosts another mode, one after the other; all stay in the old one until the last.
pub(crate) fn change_mode(lab: &Lab, from: &str, to: &str) {
    for host in lab.hosts() {
        let (old, new) = (format!("mode = \"{from}\""), format!("mode = \"{to}\""));
        lab.reconfigure(host, |text| text.replace(&old, &new));
        for status in lab.hosts().into_iter().map(|known| lab.status(known)) {
            assert_eq!(status.cluster.mode, from);
            let offered = status.cluster.offered.map(|offered| offered.mode);
            assert_eq!(offered.as_deref(), (status.host.id < host).then_some(to));
        }
        lab.covey(host, &["reload"]);
    }
    let changed = |status: &Status| status.cluster.mode == to && status.cluster.offered.is_none();
    for host in lab.hosts() {
        lab.await_status(host, changed);
    }
    lab.await_agreement(&lab.hosts());
}

/// Unicast, multicast, IGMP and back, under 200 requests per second and with connections that stay open.
fn a_change_of_mode_breaks_nothing(lab: &Lab) {
    let mut held = connections::open(lab, HELD);
    let watch = change::Watch::start(lab);
    let path = ["unicast", "multicast", "igmp"];
    let mut changes = 0;
    for (from, to) in path.iter().zip(path.iter().cycle().skip(1)).cycle() {
        change_mode(lab, from, to);
        // It has been told; it need not have asked.
        let mac = delivery(to).mac().to_string();
        lab.until("told the client the new MAC", || {
            lab.neighbour().as_ref() == Some(&mac)
        });
        assert_eq!(
            connections::check(&mut held),
            <[String; 0]>::default(),
            "{from} to {to}"
        );
        changes += 1;
        if changes == ROUNDS * path.len() {
            break;
        }
    }
    let noticed = watch.finish();
    println!("{changes} changes of mode, {HELD} connections held: {noticed}");
    assert!(noticed.changes >= changes, "the capture has missed changes");
    assert_eq!((noticed.failed, noticed.late, noticed.twice), (0, 0, 0));
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn a_rolling_change_of_mode_breaks_nothing() {
    a_change_of_mode_breaks_nothing(&Lab::up("modes", 3, TIMING));
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn a_rolling_change_of_mode_breaks_nothing_over_ipv6() {
    a_change_of_mode_breaks_nothing(&Lab::up_with_ipv6("modes6", 3, TIMING));
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn frames_to_the_macs_of_all_modes_are_taken_in_each() {
    let lab = Lab::up("static", 3, TIMING);
    let mut ports = (FIRST_PORT..).step_by(30).map(|port| port..port + 30);
    let modes = ["unicast", "multicast", "igmp"];
    for (from, to) in modes.iter().zip(modes.iter().cycle().skip(1)) {
        for known in modes {
            // As a router that was given the MAC by hand.
            let mac = delivery(known).mac().to_string();
            let (vip, dev) = (VIP.to_string(), "eth0");
            let entry = [
                "neigh",
                "replace",
                &vip,
                "lladdr",
                &mac,
                "dev",
                dev,
                "nud",
                "permanent",
            ];
            lab.exec("client", &[&["ip"], &entry[..]].concat());
            web::assert_none_failed(&web::in_a_row(&lab, VIP, ports.next().unwrap()));
        }
        change_mode(&lab, from, to);
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_host_that_comes_in_another_mode_is_kept_out_and_named() {
    let lab = Lab::up("odd", 3, TIMING);
    lab.signal(3, "TERM");
    lab.await_end(3);
    lab.await_agreement(&[1, 2]);
    lab.reconfigure(3, |text| {
        text.replace("mode = \"unicast\"", "mode = \"igmp\"")
    });
    let mut heal = lab.command(&["fault", "heal"]).spawn().unwrap();
    lab.await_status(3, |status| status.host.waiting_for.is_some());
    lab.await_status(3, |status| {
        status.host.waiting_for.as_deref() == Some("this host is set to another mode")
    });
    lab.await_log(
        1,
        "host 3 (h3) is set to igmp mode and this host to unicast mode",
    );
    lab.await_log(3, "is set to unicast mode and this host to igmp mode");
    lab.await_agreement(&[1, 2]);
    let requests = web::in_a_row(&lab, VIP, FIRST_PORT..FIRST_PORT + 100);
    web::assert_none_failed(&requests);
    // It need not start again to be right.
    lab.reconfigure(3, |text| {
        text.replace("mode = \"igmp\"", "mode = \"unicast\"")
    });
    lab.covey(3, &["reload"]);
    lab.await_agreement(&[1, 2, 3]);
    assert!(heal.wait().unwrap().success());
}

/// The hosts that answer a datagram to the virtual IP.
fn answering(lab: &Lab) -> Vec<String> {
    netns::inside(&lab.namespace("client"), || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        socket.send_to(b"who?", (VIP, 7)).unwrap();
        let mut answers = Vec::new();
        let mut answer = [0; 64];
        loop {
            match socket.recv(&mut answer) {
                Ok(length) => answers.push(String::from_utf8_lossy(&answer[..length]).into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return answers,
                Err(error) => panic!("{error}"),
            }
        }
    })
}

/// Where a host's daemon keeps its filter in place.
fn pins(lab: &Lab, host: u8) -> PathBuf {
    let inode = fs::metadata(netns::path(&lab.namespace(&format!("h{host}"))))
        .unwrap()
        .ino();
    PathBuf::from(format!("/sys/fs/bpf/covey/{inode}-eth0"))
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn without_its_filter_a_host_answers_nothing_that_came_to_the_group() {
    let lab = Lab::up_in_mode("closed", "multicast", TIMING, VIP.into());
    assert_eq!(answering(&lab).len(), 1);
    for host in lab.hosts() {
        lab.fault(&["kill", &host.to_string()]);
        fs::remove_dir_all(pins(&lab, host)).unwrap();
    }
    // The kernel takes it away some time later; until then it serves under its lease.
    let link = |host: u8| lab.exec(&format!("h{host}"), &["ip", "link", "show", "dev", "eth0"]);
    lab.until("lost their filters", || {
        lab.hosts()
            .into_iter()
            .all(|host| !link(host).contains("xdp"))
    });
    lab.exec(
        "client",
        &[
            "ip",
            "neigh",
            "replace",
            "10.77.0.100",
            "lladdr",
            "03:bf:0a:4d:00:64",
            "dev",
            "eth0",
        ],
    );
    assert_eq!(answering(&lab), <[String; 0]>::default());
    // What would have been.
    for host in ["h1", "h2", "h3"] {
        let setting = "net.ipv4.conf.eth0.drop_unicast_in_l2_multicast=0";
        lab.exec(host, &["sysctl", "-qw", setting]);
    }
    assert_eq!(answering(&lab).len(), 3);
}

//! What passes the switch: heartbeats as Wireshark reads them, and never a frame that teaches the switch the
//! cluster's MAC, whatever happens to the hosts.

use crate::lab::{Lab, Timing, VIP, succeed};
use crate::web::{self, FIRST_PORT};
use crate::wire::{self, Capture};
use covey_proto::delivery::derived_macs;
use covey_proto::ids::Mac;
use covey_proto::wire::ethernet;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};

/// These fields of each frame that the filter matches.
fn tshark<const N: usize>(file: &Path, filter: &str, fields: [&str; N]) -> Vec<[String; N]> {
    let mut tshark = Command::new("tshark");
    tshark
        .arg("-r")
        .arg(file)
        .args(["-Y", filter, "-T", "fields"]);
    tshark.args(fields.iter().flat_map(|field| ["-e", field]));
    let told = succeed("tshark", tshark);
    let row = |line: &str| {
        let row: Vec<String> = line.split('\t').map(str::to_owned).collect();
        row.try_into().unwrap()
    };
    told.lines().map(row).collect()
}

/// Traffic before which the client has forgotten the cluster's MAC each time.
fn ask_and_talk(lab: &Lab, ports: std::ops::Range<u16>) {
    for port in ports {
        lab.exec("client", &["ip", "neigh", "flush", "dev", "eth0"]);
        let requests = web::in_a_row(lab, lab.vip(), port..port + 1);
        web::assert_none_failed(&requests);
    }
}

#[test]
#[ignore = "needs root: network namespaces, eBPF, tcpdump and tshark"]
fn wireshark_reads_the_heartbeats() {
    let lab = Lab::up("tshark", 3, TIMING);
    let maps = || lab.status(1).convergence.len();
    let maps_before = maps();
    let capture = Capture::start(&lab);
    lab.await_heartbeats(2, 10);
    // A host that joins and one that leaves have more to say.
    lab.covey(3, &["stop"]);
    lab.await_agreement(&[1, 2]);
    lab.covey(3, &["start"]);
    lab.await_agreement(&[1, 2, 3]);
    let maps = maps() - maps_before;
    let file = capture.finish();

    let fields = [
        "eth.dst",
        "eth.src",
        "frame.len",
        "msnlb.signature",
        "msnlb.unique_host_id",
        "msnlb.cluster_ip",
        "msnlb.host_ip",
        "msnlb.host_name",
        "_ws.malformed",
    ];
    let frames = tshark(&file, "eth.type == 0x886f", fields);
    let (mut longest, mut commits) = (BTreeMap::new(), 0);
    for [to, from, length, signature, id, vip, dip, name, malformed] in &frames {
        let id: u8 = id.parse().unwrap();
        let length: usize = length.parse().unwrap();
        assert_eq!(to, "ff:ff:ff:ff:ff:ff");
        assert_eq!(*from, wire::nic(id).to_string());
        assert_eq!(signature, "0xc0de01c0");
        assert_eq!(*vip, VIP.to_string());
        assert_eq!(*dip, format!("10.77.0.{id}"));
        // A commit gives no name.
        commits += usize::from(name.is_empty());
        assert!(name.is_empty() || *name == format!("h{id}"));
        assert_eq!(malformed, "");
        assert!(length - ethernet::HEADER_LEN <= 1500);
        let longest = longest.entry(id).or_insert(0);
        *longest = length.max(*longest);
    }
    let payload: Vec<usize> = longest
        .values()
        .map(|length| length - ethernet::HEADER_LEN)
        .collect();
    // At least one that host 3 is out of and one that it is in; each commit is sent three times.
    assert!(maps >= 2);
    assert_eq!(commits, 3 * maps);
    println!(
        "{} heartbeats read by tshark, none malformed; longest payload of hosts 1, 2, 3: {payload:?} bytes",
        frames.len()
    );
    assert_eq!(longest.into_keys().collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn the_switch_never_learns_the_cluster_mac() {
    no_frame_teaches_the_cluster_mac(&Lab::up("source", 3, TIMING));
}

/// Traffic to three hosts with which all kinds of things happen.
pub(crate) fn no_frame_teaches_the_cluster_mac(lab: &Lab) {
    let capture = Capture::start(lab);
    let mut ports = (FIRST_PORT..).step_by(10).map(|port| port..port + 10);
    let mut talk = || ask_and_talk(lab, ports.next().unwrap());
    talk();
    for fault in ["crash", "kill"] {
        lab.fault(&[fault, "2"]);
        lab.await_agreement(&[1, 3]);
        talk();
        lab.fault(&["heal"]);
        talk();
    }
    lab.fault(&["stall", "1", "700ms"]);
    lab.await_agreement(&[1, 2, 3]);
    talk();
    lab.covey(3, &["stop"]);
    talk();
    let known = lab.exec("switch", &["bridge", "fdb", "show"]);
    let frames = wire::read(&capture.finish());

    let cluster_mac = lab.status(1).cluster.mac;
    let macs = derived_macs(VIP.into());
    let learnt = frames
        .iter()
        .filter(|frame| macs.contains(&frame.ethernet().source))
        .count();
    let told: Vec<Mac> = frames
        .iter()
        .filter_map(|frame| frame.vip_is_at(lab.vip()))
        .collect();
    println!(
        "{} frames through crash, kill, stall and leave: {learnt} with the cluster MAC as source; {} answers \
         for {}, all with {cluster_mac}",
        frames.len(),
        told.len(),
        lab.vip()
    );
    assert_eq!(learnt, 0);
    assert!(told.len() >= 70, "the client asked 70 times");
    assert!(
        told.iter().all(|mac| mac.to_string() == cluster_mac),
        "{told:?}"
    );
    assert!(known.contains(&wire::nic(1).to_string()), "{known}");
    for mac in macs {
        assert!(!known.contains(&mac.to_string()), "{known}");
    }
}

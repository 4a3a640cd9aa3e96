//! Each fault of the lab does what it says, frame by frame, and `heal` and `down` undo it (docs/design.md, "The lab").
//!
//! Frames are sent and counted by packet sockets in the lab's machines: with the fault, without it, and when it is healed.
//! What clusters make of the faults are the scenarios (`covey lab scenario`). Needs root, and the eBPF program built in.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod lab_support;
#[path = "kernel_cluster/netns.rs"]
mod netns;
mod segment;

use lab_support::{Lab, wait_until};
use serde_json::{Value, json};
use socket2::Socket;
use std::collections::BTreeMap;
use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

const PLACES: [&str; 4] = ["client", "h1", "h2", "h3"];
const EVERYBODY: [u8; 6] = [0xFF; 6];
const CLUSTER: [u8; 6] = [0x02, 0xBF, 10, 77, 0, 100];
const HEARTBEAT: u16 = 0x886F;
const OLD_HEARTBEAT: u16 = 0xBF01;
const ARP: u16 = 0x0806;
/// For experiments (IEEE 802): nobody heeds it.
const PLAIN: u16 = 0x88B5;
/// Frames of a round.
const ROUND: usize = 50;
/// Long for frames that have been sent already: it is waited for in vain only if they are lost.
const ARRIVAL: Duration = Duration::from_millis(200);
/// What the frames of these tests begin with, so that others are not counted.
const MARK: &[u8; 12] = b"counted here";

/// The machines of a lab of three hosts, each with a packet socket.
struct Wire(BTreeMap<&'static str, Socket>);

impl Wire {
    fn new(lab: &Lab) -> Self {
        let open = |place: &&'static str| {
            let socket = netns::inside(&format!("{}-{place}", lab.0), segment::packet_socket);
            socket.set_read_timeout(Some(ARRIVAL)).unwrap();
            (*place, socket)
        };
        Self(PLACES.iter().map(open).collect())
    }

    /// How many frames of a round each of the others hears.
    fn heard(&self, from: &str, to: [u8; 6], ethertype: u16) -> BTreeMap<&'static str, usize> {
        static ROUNDS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let round = ROUNDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mark = [&MARK[..], &round.to_be_bytes()].concat();
        let mut frame = [&to[..], &mac(from), &ethertype.to_be_bytes(), &mark].concat();
        frame.resize(60, 0);
        for _ in 0..ROUND {
            self.0[from].send(&frame).unwrap();
        }
        let others = self.0.iter().filter(|(place, _)| **place != from);
        others
            .map(|(place, socket)| {
                (
                    *place,
                    count(socket, |frame| frame[14..].starts_with(&mark)),
                )
            })
            .collect()
    }

    /// Who of the others hears a round, all of it.
    fn who_hears(&self, from: &str, to: [u8; 6], ethertype: u16) -> Vec<&'static str> {
        let heard = self.heard(from, to, ethertype);
        assert!(
            heard.values().all(|count| [0, ROUND].contains(count)),
            "{heard:?}"
        );
        let hearers = heard.into_iter().filter(|(_, count)| *count > 0);
        hearers.map(|(place, _)| place).collect()
    }
}

/// How many frames arrive that are `like` this, up to a round of them.
fn count(mut socket: &Socket, like: impl Fn(&[u8]) -> bool) -> usize {
    let mut buffer = [0; 2048];
    let mut count = 0;
    let deadline = Instant::now() + ARRIVAL;
    while count < ROUND && Instant::now() < deadline {
        if let Ok(length) = socket.read(&mut buffer) {
            count += usize::from(like(&buffer[..length]));
        }
    }
    count
}

fn mac(place: &str) -> [u8; 6] {
    let number = match place {
        "client" => 200,
        host => host[1..].parse().unwrap(),
    };
    [0x0A, 0, 10, 77, 0, number]
}

fn network(test: &str) -> (Lab, Wire) {
    let lab = Lab::new(test);
    // Heartbeats that make healing short, which starts the daemons.
    lab.ok(&["up", "--no-daemons", "--hosts", "3", "--period", "100ms"]);
    let wire = Wire::new(&lab);
    for from in PLACES {
        let others: Vec<_> = PLACES.into_iter().filter(|place| *place != from).collect();
        for ethertype in [HEARTBEAT, OLD_HEARTBEAT, ARP, PLAIN] {
            assert_eq!(wire.who_hears(from, EVERYBODY, ethertype), others);
        }
    }
    (lab, wire)
}

fn faults(lab: &Lab) -> Value {
    let status = lab.status();
    let hosts = status["hosts"].as_array().unwrap();
    let of_hosts: Vec<Value> = hosts
        .iter()
        .map(|host| {
            let faults = host["faults"].as_array().unwrap().iter();
            faults
                .filter(|fault| **fault != "killed")
                .cloned()
                .collect()
        })
        .collect();
    json!({ "all": status["faults"], "each": of_hosts })
}

fn none() -> Value {
    json!({ "all": [], "each": [[], [], []] })
}

/// `heal` undoes everything: nothing is in force, everybody hears everybody, and the ports have no program.
fn assert_heals(lab: &Lab, wire: &Wire) {
    lab.ok(&["fault", "heal"]);
    assert_eq!(faults(lab), none());
    for from in PLACES {
        let others: Vec<_> = PLACES.into_iter().filter(|place| *place != from).collect();
        for ethertype in [HEARTBEAT, OLD_HEARTBEAT, PLAIN] {
            assert_eq!(wire.who_hears(from, EVERYBODY, ethertype), others);
        }
    }
    let links = lab.ok(&["exec", "switch", "--", "ip", "-details", "link", "show"]);
    assert!(!links.contains("cable-"), "{links}");
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn the_mute_are_not_heard_and_the_deaf_do_not_hear() {
    let (lab, wire) = network("mute");
    lab.ok(&["fault", "mute", "1"]);
    lab.ok(&["fault", "deaf", "2"]);
    assert_eq!(
        faults(&lab),
        json!({ "all": [], "each": [["mute"], ["deaf"], []] })
    );
    for ethertype in [HEARTBEAT, OLD_HEARTBEAT] {
        assert_eq!(wire.who_hears("h1", EVERYBODY, ethertype), [""; 0]);
        assert_eq!(wire.who_hears("h1", mac("h3"), ethertype), [""; 0]);
        assert_eq!(wire.who_hears("h3", EVERYBODY, ethertype), ["client", "h1"]);
        assert_eq!(wire.who_hears("h3", mac("h2"), ethertype), [""; 0]);
        assert_eq!(
            wire.who_hears("h2", EVERYBODY, ethertype),
            ["client", "h1", "h3"]
        );
    }
    assert_eq!(wire.who_hears("h1", EVERYBODY, ARP), ["client", "h2", "h3"]);
    assert_eq!(wire.who_hears("h3", mac("h2"), PLAIN), ["h2"]);
    assert_heals(&lab, &wire);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_cut_separates_two_hosts_and_nobody_else() {
    let (lab, wire) = network("cut");
    lab.ok(&["fault", "cut", "1,3"]);
    let each = json!([["cut from 3"], [], ["cut from 1"]]);
    assert_eq!(faults(&lab), json!({ "all": [], "each": each }));
    for ethertype in [HEARTBEAT, ARP, PLAIN] {
        assert_eq!(wire.who_hears("h1", EVERYBODY, ethertype), ["client", "h2"]);
        assert_eq!(wire.who_hears("h3", EVERYBODY, ethertype), ["client", "h2"]);
        assert_eq!(
            wire.who_hears("h2", EVERYBODY, ethertype),
            ["client", "h1", "h3"]
        );
        assert_eq!(
            wire.who_hears("client", EVERYBODY, ethertype),
            ["h1", "h2", "h3"]
        );
    }
    assert_eq!(wire.who_hears("h1", mac("h3"), PLAIN), [""; 0]);
    lab.ok(&["fault", "cut", "1,2"]);
    assert_eq!(faults(&lab)["each"][0], json!(["cut from 2,3"]));
    assert_heals(&lab, &wire);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn broadcasts_are_lost_between_hosts_alone() {
    let (lab, wire) = network("broadcast");
    lab.ok(&["fault", "no-broadcast"]);
    assert_eq!(
        faults(&lab),
        json!({ "all": ["no-broadcast"], "each": [[], [], []] })
    );
    for ethertype in [HEARTBEAT, ARP, PLAIN] {
        assert_eq!(wire.who_hears("h1", EVERYBODY, ethertype), ["client"]);
        assert_eq!(
            wire.who_hears("client", EVERYBODY, ethertype),
            ["h1", "h2", "h3"]
        );
        assert_eq!(wire.who_hears("h1", mac("h2"), ethertype), ["h2"]);
    }
    assert_heals(&lab, &wire);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_part_of_a_hosts_frames_is_lost_both_ways() {
    let (lab, wire) = network("loss");
    lab.ok(&["fault", "loss", "2", "50"]);
    assert_eq!(faults(&lab)["each"][1], json!(["loss 50 %"]));
    let rounds = 20;
    let mut counts = [0; 3];
    for _ in 0..rounds {
        counts[0] += wire.heard("h1", EVERYBODY, PLAIN)["h2"];
        counts[1] += wire.heard("h2", EVERYBODY, PLAIN)["h1"];
        counts[2] += wire.heard("h1", EVERYBODY, PLAIN)["h3"];
    }
    // 1000 frames, of which half gets through: six standard deviations are 95.
    let expected = rounds * ROUND / 2;
    assert!(counts[0].abs_diff(expected) < 95, "{counts:?}");
    assert!(counts[1].abs_diff(expected) < 95, "{counts:?}");
    assert_eq!(counts[2], rounds * ROUND);
    lab.ok(&["fault", "loss", "2", "100"]);
    assert_eq!(wire.who_hears("h2", EVERYBODY, PLAIN), [""; 0]);
    lab.ok(&["fault", "loss", "2", "0"]);
    assert_eq!(faults(&lab), none());
    assert_eq!(
        wire.who_hears("h2", EVERYBODY, PLAIN),
        ["client", "h1", "h3"]
    );
    lab.ok(&["fault", "loss", "3", "100"]);
    assert_heals(&lab, &wire);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_nic_refuses_the_cluster_mac_and_nothing_else() {
    let (lab, wire) = network("refuse");
    lab.ok(&["fault", "refuse", "2"]);
    assert_eq!(faults(&lab)["each"][1], json!(["refuse"]));
    assert_eq!(wire.who_hears("client", CLUSTER, PLAIN), ["h1", "h3"]);
    assert_eq!(wire.who_hears("client", mac("h2"), PLAIN), ["h2"]);
    assert_heals(&lab, &wire);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn one_leaked_frame_takes_the_cluster_mac_to_one_port() {
    let (lab, wire) = network("leak");
    assert_eq!(wire.who_hears("client", CLUSTER, PLAIN), ["h1", "h2", "h3"]);
    lab.ok(&["fault", "leak", "2"]);
    assert_eq!(faults(&lab)["each"], json!([[], ["leak"], []]));
    assert_eq!(wire.who_hears("client", CLUSTER, PLAIN), ["h2"]);
    lab.ok(&["fault", "leak", "3"]);
    assert_eq!(faults(&lab)["each"], json!([[], [], ["leak"]]));
    assert_eq!(wire.who_hears("client", CLUSTER, PLAIN), ["h3"]);
    assert_heals(&lab, &wire);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_crossover_cable_has_two_ends() {
    let (lab, wire) = network("wired");
    lab.ok(&["fault", "crossover", "1,3"]);
    let each = json!([["crossover to 3"], [], ["crossover to 1"]]);
    assert_eq!(faults(&lab), json!({ "all": [], "each": each }));
    assert_eq!(wire.who_hears("h1", EVERYBODY, PLAIN), ["h3"]);
    assert_eq!(wire.who_hears("h3", mac("h1"), PLAIN), ["h1"]);
    assert_eq!(wire.who_hears("h2", EVERYBODY, PLAIN), ["client"]);
    assert_eq!(wire.who_hears("client", EVERYBODY, ARP), ["h2"]);
    let complaint = lab.fails(&["fault", "crossover", "2,3"]);
    assert!(
        complaint.contains("host 3 is on a crossover cable already"),
        "{complaint}"
    );
    assert_heals(&lab, &wire);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_hub_repeats_everything_to_everybody() {
    let (lab, wire) = network("hub");
    assert_eq!(wire.who_hears("h1", mac("h2"), PLAIN), ["h2"]);
    lab.ok(&["fault", "hub"]);
    assert_eq!(
        faults(&lab),
        json!({ "all": ["hub"], "each": [[], [], []] })
    );
    for _ in 0..2 {
        assert_eq!(
            wire.who_hears("h1", mac("h2"), PLAIN),
            ["client", "h2", "h3"]
        );
        assert_eq!(
            wire.who_hears("h2", mac("h1"), PLAIN),
            ["client", "h1", "h3"]
        );
    }
    assert_heals(&lab, &wire);
    wire.who_hears("h2", EVERYBODY, PLAIN);
    assert_eq!(wire.who_hears("h1", mac("h2"), PLAIN), ["h2"]);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn the_switch_forgets_a_membership() {
    let lab = Lab::new("aged");
    lab.up("1");
    let complaint = lab.fails(&["fault", "aged-out", "1"]);
    assert!(complaint.contains("does not snoop"), "{complaint}");
    lab.ok(&["down"]);
    lab.ok(&["up", "--no-daemons", "--switch", "snooping"]);
    let bridge =
        |arguments: &[&str]| lab.ok(&[&["exec", "switch", "--", "bridge"], arguments].concat());
    for group in ["239.255.0.100", "ff02::1:ff00:100"] {
        for port in ["port-h2", "port-h3"] {
            bridge(&["mdb", "add", "dev", "br0", "port", port, "grp", group]);
        }
    }
    let told = lab.ok(&["fault", "aged-out", "2"]);
    assert!(told.contains("has forgotten"), "{told}");
    let left = bridge(&["mdb", "show"]);
    assert!(!left.contains("port-h2"), "{left}");
    assert_eq!(left.matches("port-h3").count(), 2, "{left}");
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn starved_is_not_stalled_and_both_end() {
    let lab = Lab::new("starve");
    lab.ok(&["up", "--hosts", "2", "--period", "100ms"]);
    lab.ok(&["fault", "starve", "2"]);
    assert_eq!(faults(&lab)["each"], json!([[], ["starved"]]));
    for again in ["starve", "stall"] {
        let complaint = lab.fails(&["fault", again, "2"]);
        assert!(complaint.contains("is starved already"), "{complaint}");
    }
    // It runs now and then, and so finds out that its lease has lapsed, which one that is stalled cannot.
    let log = lab.directory().join("h2/daemon.log");
    wait_until("host 2 says that it ran late", || {
        std::fs::read_to_string(&log).unwrap().contains("lease")
    });
    lab.ok(&["fault", "heal"]);
    assert_eq!(faults(&lab)["each"], json!([[], []]));
    lab.ok(&["fault", "starve", "1", "300ms"]);
    assert_eq!(faults(&lab)["each"], json!([[], []]));
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_flood_comes_at_its_rate_and_ends() {
    let (lab, wire) = network("flood");
    let heard = |wire: &Wire, protocol: u8, port: u16| {
        let flooded = |frame: &[u8]| {
            frame.get(12..14) == Some(&[8, 0])
                && frame.get(23) == Some(&protocol)
                && frame.get(36..38) == Some(&port.to_be_bytes())
        };
        count(&wire.0["h1"], flooded) == ROUND
    };
    lab.ok(&["fault", "flood", "--rate", "2000"]);
    assert_eq!(faults(&lab)["all"], json!(["flood syn 2000/s"]));
    assert!(heard(&wire, 6, 80));
    let complaint = lab.fails(&["fault", "flood"]);
    assert!(
        complaint.contains("somebody floods this lab already"),
        "{complaint}"
    );
    lab.ok(&["fault", "heal"]);
    assert_eq!(faults(&lab)["all"], json!([]));

    lab.ok(&["fault", "flood", "--udp", "--rate", "5000"]);
    // The old sockets are full of the other flood, and hosts still answer it: what comes first must be of this one.
    assert!(heard(&Wire::new(&lab), 17, 7));
    lab.ok(&["fault", "heal"]);

    let told = lab.ok(&["fault", "flood", "--udp", "--rate", "5000", "2s"]);
    let frames: usize = told.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!((5000..=10_000).contains(&frames), "{told}");
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn down_leaves_nothing_of_any_fault() {
    let (lab, _wire) = network("gone");
    for fault in [
        &["mute", "1"][..],
        &["no-broadcast"],
        &["hub"],
        &["leak", "1"],
        &["crossover", "2,3"],
        &["flood", "--rate", "1000"],
    ] {
        lab.ok(&[&["fault"], fault].concat());
    }
    lab.ok(&["down"]);
    lab.assert_gone();
    let processes = Command::new("ps").args(["-eo", "args"]).output().unwrap();
    let processes = String::from_utf8(processes.stdout).unwrap();
    assert!(!processes.contains(&lab.0), "{processes}");
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn who_does_not_exist_is_named() {
    let (lab, _wire) = network("nobody");
    for fault in [
        &["mute", "4"][..],
        &["deaf", "4"],
        &["cut", "1,4"],
        &["loss", "4", "10"],
        &["refuse", "4"],
        &["leak", "4"],
        &["crossover", "3,4"],
        &["aged-out", "4"],
        &["starve", "4"],
    ] {
        let complaint = lab.fails(&[&["fault"], fault].concat());
        assert!(
            complaint.contains("this lab has no host 4, only 1 to 3"),
            "{complaint}"
        );
    }
    assert_eq!(faults(&lab), none());
    // Without a daemon there is nobody to starve.
    let complaint = lab.fails(&["fault", "starve", "1"]);
    assert!(
        complaint.contains("the daemon of host 1 does not run"),
        "{complaint}"
    );
}

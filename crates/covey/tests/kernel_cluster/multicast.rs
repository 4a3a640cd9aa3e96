//! Switches that snoop (KB838408): hosts stay members of the cluster's group, by answering queries as RFC 1112, 2236 and 3376
//! have it; only members' ports get the cluster's frames; and where the switch looks at the destination IP, hosts get
//! them by announcing themselves as multicast routers.

use crate::lab::{Lab, Timing, VIP, VIP6};
use crate::modes::change_mode;
use crate::netns;
use crate::web::{self, FIRST_PORT, Load};
use crate::wire::{self, Capture, Frame};
use covey::status::{EventRecord, HostState};
use covey_proto::ids::Mac;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// The MAC and the group that belong together.
const CLUSTER_MAC: Mac = Mac([0x01, 0x00, 0x5E, 0x7F, 0x00, 0x64]);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 0, 100);
/// Time between two queries.
const INTERVAL: Duration = Duration::from_secs(4);
/// Members answer within a quarter of it.
const WITHIN: Duration = Duration::from_secs(1);
/// The kernel's timers go by ticks of 4 ms: of these it adds two, and rounds up to the next eighth, as all timers this long.
const TICKS: Duration = Duration::from_millis(40);
/// Intervals that are watched, at the least.
const INTERVALS: usize = 3;

/// An IGMP message on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Igmp {
    Query { version: u8, general: bool },
    Report { version: u8, group: Ipv4Addr },
    Leave { group: Ipv4Addr },
    Advertisement,
    Termination,
}

/// All that is said: when, and by whom. A report of version 3 says several things.
fn all_igmp(frames: &[Frame]) -> Vec<(Duration, Ipv4Addr, Igmp)> {
    let of = |frame: &Frame| {
        let (ethernet, at) = (frame.ethernet(), frame.at);
        let packet = ethernet.payload;
        let is_igmp = ethernet.ethertype == 0x0800 && packet[9] == 2;
        let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let message = is_igmp.then(|| &packet[usize::from(packet[0] & 15) * 4..length]);
        let said = message.map(igmp).unwrap_or_default();
        let from = address(packet, 12);
        said.into_iter().map(move |igmp| (at, from, igmp))
    };
    frames
        .iter()
        .filter(|frame| frame.ethernet().payload.len() > 20)
        .flat_map(of)
        .collect()
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(*bytes[at..].first_chunk().unwrap())
}

fn igmp(message: &[u8]) -> Vec<Igmp> {
    match message[0] {
        0x11 => vec![Igmp::Query {
            version: if message.len() > 8 { 3 } else { 2 },
            general: address(message, 4).is_unspecified(),
        }],
        0x16 => vec![Igmp::Report {
            version: 2,
            group: address(message, 4),
        }],
        0x17 => vec![Igmp::Leave {
            group: address(message, 4),
        }],
        // The records of members that do not choose among senders are all of one length.
        0x22 => {
            let records = message[8..].chunks_exact(8);
            let record = |record: &[u8]| match (record[0], address(record, 4)) {
                // "I want nothing from now on", or nothing already.
                (1 | 3, group) => Igmp::Leave { group },
                (_, group) => Igmp::Report { version: 3, group },
            };
            records.map(record).collect()
        }
        0x30 => vec![Igmp::Advertisement],
        0x32 => vec![Igmp::Termination],
        _ => Vec::new(),
    }
}

fn dip(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}

/// Waits until a host has heard so many more queries.
fn await_queries(lab: &Lab, host: u8, more: usize) {
    let (heard, last) = (RefCell::new(0), RefCell::new(u64::MAX));
    lab.until("heard queries", || {
        let status = lab.status(host).multicast.unwrap();
        let ago = status.igmp_querier.map_or(u64::MAX, |q| q.heard_ms_ago);
        if ago < last.replace(ago) {
            *heard.borrow_mut() += 1;
        }
        *heard.borrow() > more
    });
}

/// How long after each query each host has answered, by the host.
fn answers(messages: &[(Duration, Ipv4Addr, Igmp)], hosts: &[u8]) -> BTreeMap<u8, Vec<Duration>> {
    let general = messages.iter().filter_map(|(at, _, igmp)| match igmp {
        Igmp::Query { general: true, .. } => Some(*at),
        _ => None,
    });
    // The last one's time may not have been over when the capture ended.
    let mut asked: Vec<Duration> = general.collect();
    asked.pop();
    assert!(asked.len() >= INTERVALS, "{asked:?}");
    let mut answers: BTreeMap<u8, Vec<Duration>> = BTreeMap::new();
    for at in asked {
        for host in hosts {
            let answer = messages.iter().find_map(|(said, from, igmp)| match igmp {
                Igmp::Report { group: GROUP, .. } if *from == dip(*host) && *said > at => {
                    Some(*said - at)
                }
                _ => None,
            });
            let answer = answer.unwrap_or(Duration::MAX);
            assert!(
                answer <= WITHIN + TICKS,
                "host {host} answers the query of {at:?} after {answer:?}"
            );
            answers.entry(*host).or_default().push(answer);
        }
    }
    answers
}

fn assert_random(answers: &BTreeMap<u8, Vec<Duration>>) {
    let all = || answers.values().flatten();
    let spread = *all().max().unwrap() - *all().min().unwrap();
    assert!(spread > WITHIN / 8, "the delays are all alike: {answers:?}");
}

fn events(lab: &Lab, host: u8, id: u16) -> Vec<EventRecord> {
    let told = lab.covey(host, &["events", "--json"]);
    let events = told.lines().map(|line| serde_json::from_str(line).unwrap());
    events
        .filter(|event: &EventRecord| event.id == id)
        .collect()
}

/// Changes every host's configuration and has it read again, one host after the other.
fn reconfigure(lab: &Lab, from: &str, to: &str) {
    for host in lab.hosts() {
        lab.reconfigure(host, |text| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        });
        lab.covey(host, &["reload"]);
    }
}

fn up(test: &str, options: &[&str]) -> Lab {
    Lab::up_with(test, 3, TIMING, &[&["--mode", "igmp"], options].concat())
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn members_answer_queries_of_version_3_and_get_the_clusters_frames_alone() {
    members_stay("igmp-v3", 3);
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn members_answer_queries_of_version_2_and_get_the_clusters_frames_alone() {
    members_stay("igmp-v2", 2);
}

fn members_stay(test: &str, version: u8) {
    let number = version.to_string();
    let lab = up(
        test,
        &[
            "--switch",
            "mac-groups",
            "--query-interval",
            "4s",
            "--igmp-version",
            &number,
        ],
    );
    await_queries(&lab, 1, 1);
    let before = [1, 2, 3].map(|host| lab.status(host).host.times_converging);
    let asked = Capture::at(&lab, "switch", "to-switch");
    let spare = Capture::at(&lab, "client", "eth1");
    let load = Load::start(&lab, Duration::from_millis(20), FIRST_PORT..);
    await_queries(&lab, 1, INTERVALS + 1);
    let requests = load.finish();
    let (asked, spare) = (wire::read(&asked.finish()), wire::read(&spare.finish()));

    let messages = all_igmp(&asked);
    let answers = answers(&messages, &[1, 2, 3]);
    assert_random(&answers);
    for (_, from, igmp) in &messages {
        match igmp {
            Igmp::Query { version: of, .. } | Igmp::Report { version: of, .. } => {
                assert_eq!(*of, version, "{from}");
            }
            Igmp::Leave { .. } | Igmp::Advertisement | Igmp::Termination => {
                panic!("{from} says {igmp:?}");
            }
        }
    }
    web::assert_none_failed(&requests);
    let to_group = |frames: &[Frame]| {
        let of = |frame: &&Frame| frame.ethernet().destination == CLUSTER_MAC;
        frames.iter().filter(of).count()
    };
    let queries = all_igmp(&spare).len();
    println!(
        "version {version}: {} requests over {} queries, none failed; answers after {:?} ms; at the port of nobody \
         {queries} queries and {} frames to {CLUSTER_MAC}",
        requests.len(),
        answers[&1].len() + 1,
        answers
            .values()
            .flatten()
            .map(Duration::as_millis)
            .collect::<Vec<_>>(),
        to_group(&spare),
    );
    assert!(queries >= INTERVALS, "the port is dead");
    assert_eq!(to_group(&spare), 0);
    for host in [1, 2, 3] {
        let status = lab.status(host);
        assert_eq!(status.host.times_converging, before[usize::from(host) - 1]);
        // Every member sees every packet.
        let rule = &status.rules[1];
        let seen = rule.packets_accepted + rule.packets_dropped;
        assert!(
            seen >= 4 * requests.len() as u64,
            "host {host} has seen {seen} packets"
        );
        assert_eq!(events(&lab, host, 1106).len(), 0);
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_member_that_the_switch_forgot_is_back_with_its_answer_to_the_next_query() {
    // Patient hosts, to whom the time until then is no reason to count one of them as lost.
    let patient = Timing {
        period_ms: 500,
        tolerance: 20,
    };
    let options = [
        "--mode",
        "igmp",
        "--switch",
        "mac-groups",
        "--query-interval",
        "4s",
    ];
    let lab = Lab::up_with("igmp-back", 3, patient, &options);
    await_queries(&lab, 2, 1);
    let before = lab.status(1).host.times_converging;
    // As long as it is not heeded, its answer to a query that is under way changes nothing.
    lab.lab(&["forget", "2", "--ignore"]);
    lab.until("lost host 2's share", || answered(&lab, VIP.into()) < 100);
    let dark = answered(&lab, VIP.into());
    lab.lab(&["forget", "2", "--heed"]);
    let began = Instant::now();
    lab.until("been members again", || answered(&lab, VIP.into()) == 100);
    let took = began.elapsed();
    println!(
        "forgotten: {dark} of 100 datagrams are answered; all are {:.1} s after the switch heeds host 2 again",
        took.as_secs_f64()
    );
    // Two rounds of questions, of a second and a bit, are how exactly this is measured.
    assert!(
        took < INTERVAL + WITHIN + Duration::from_secs(3),
        "{took:?}"
    );
    assert_eq!(lab.status(1).host.times_converging, before);
    web::assert_none_failed(&web::in_a_row(&lab, VIP, FIRST_PORT..FIRST_PORT + 60));
}

/// KB838408's way out: "do not use IGMP. ... configure Virtual Local Area Networks ... to unicast mode".
#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn leaving_igmp_for_unicast_and_a_vlan_is_a_change_that_nobody_notices() {
    let lab = up(
        "igmp-vlan",
        &["--switch", "mac-groups", "--query-interval", "4s"],
    );
    let load = Load::start(&lab, Duration::from_millis(10), FIRST_PORT..);
    // The port of nobody goes into a VLAN of its own: a bridge of its own, which works on kernels whose bridges know no VLANs.
    for command in [
        "ip link add br1 type bridge mcast_snooping 0",
        "ip link set br1 up",
        "ip link set port-spare master br1",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        lab.exec("switch", &words);
    }
    change_mode(&lab, "igmp", "unicast");
    let spare = Capture::at(&lab, "client", "eth1");
    let cluster = Capture::at(&lab, "switch", "port-h3");
    lab.await_heartbeats(2, 20);
    let requests = load.finish();
    let flooded = wire::read(&cluster.finish());
    let unicast_mac = Mac([0x02, 0xBF, 10, 77, 0, 100]);
    let of = |frame: &&Frame| frame.ethernet().destination == unicast_mac;
    let outside = spare.stop();
    let [in_it, beside_it] = [&flooded, &outside].map(|frames| frames.iter().filter(of).count());
    println!(
        "{} requests while IGMP was left, none failed; {in_it} frames to {unicast_mac} flooded in the VLAN, \
         {beside_it} outside",
        requests.len()
    );
    web::assert_none_failed(&requests);
    assert!(in_it > 0);
    assert_eq!(beside_it, 0);
    for host in [1, 2, 3] {
        assert_eq!(
            lab.status(host).multicast.unwrap().groups,
            [] as [Ipv4Addr; 0]
        );
    }
}

/// How many of 100 datagrams to a virtual IP are answered.
fn answered(lab: &Lab, vip: IpAddr) -> usize {
    netns::inside(&lab.namespace("client"), move || {
        let socket = |_| {
            let socket = UdpSocket::bind((web::any(vip), 0)).unwrap();
            let patience = Duration::from_millis(200);
            socket.set_read_timeout(Some(patience)).unwrap();
            socket.connect((vip, 7)).unwrap();
            socket
        };
        let sockets: Vec<UdpSocket> = (0..100).map(socket).collect();
        for socket in &sockets {
            socket.send(b"covey").unwrap();
        }
        let until = Instant::now() + Duration::from_secs(1);
        let is_answered = |socket: &&UdpSocket| {
            if Instant::now() > until {
                socket.set_nonblocking(true).unwrap();
            }
            socket.recv(&mut [0; 64]).is_ok()
        };
        sockets.iter().filter(is_answered).count()
    })
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn where_the_switch_looks_at_the_ip_an_announced_router_gets_all_and_others_nothing() {
    let options = [
        "--ipv6",
        "--switch",
        "snooping",
        "--query-interval",
        "4s",
        "--igmp-version",
        "2",
    ];
    let lab = up("igmp-linux", &options);
    await_queries(&lab, 1, 1);
    // Who asks for the IPv6 address asks a group, which the kernel is in by MLD because the NIC has the address.
    let members = lab.exec("switch", &["bridge", "mdb", "show", "dev", "br0"]);
    for host in [1, 2, 3] {
        for group in ["239.255.0.100", "ff02::1:ff00:100"] {
            let member = format!("port port-h{host} grp {group} ");
            assert!(members.contains(&member), "{member}: {members}");
        }
    }
    let without = [VIP.into(), VIP6.into()].map(|vip| answered(&lab, vip));
    let states = [1, 2, 3].map(|host| lab.status(host).host.state);
    assert_eq!(states, [HostState::Converged; 3]);
    println!("converged, and of 100 datagrams (IPv4, IPv6) {without:?} are answered");
    assert_eq!(without, [0, 0]);

    reconfigure(&lab, "announce_mrouter = false", "announce_mrouter = true");
    let routers = || {
        lab.exec(
            "switch",
            &["bridge", "-details", "mdb", "show", "dev", "br0"],
        )
    };
    lab.until("announced themselves", || {
        let known = routers();
        (1..=3)
            .all(|host| known.contains(&format!("port-h{host}")) && known.contains("router ports"))
            && [VIP.into(), VIP6.into()].map(|vip| answered(&lab, vip)) == [100, 100]
    });
    println!("announced: all are; {}", routers().lines().last().unwrap());
    let spare = Capture::at(&lab, "client", "eth1");
    web::assert_none_failed(&web::in_a_row(&lab, VIP, FIRST_PORT..FIRST_PORT + 60));
    web::assert_none_failed(&web::in_a_row(
        &lab,
        VIP6,
        FIRST_PORT + 60..FIRST_PORT + 120,
    ));
    await_queries(&lab, 1, 1);
    let spare = wire::read(&spare.finish());
    let to_vip = spare.iter().filter(|frame| {
        let frame = frame.ethernet();
        // Heartbeats are no IP, and a bridge that looks at IP floods them.
        frame.destination == CLUSTER_MAC && [0x0800, 0x86DD].contains(&frame.ethertype)
    });
    assert_eq!(to_vip.count(), 0);
    assert!(!all_igmp(&spare).is_empty(), "the port is dead");

    // Routers are told what members report. One that hears another's report is silent itself, unless it does not hear it.
    let capture = Capture::at(&lab, "switch", "port-h1");
    await_queries(&lab, 1, INTERVALS + 1);
    let frames = wire::read(&capture.finish());
    let answers = answers(&all_igmp(&frames), &[1, 2, 3]);
    assert_random(&answers);
    assert_eq!(answers.len(), 3);
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn a_segment_without_a_querier_is_told_of_and_reports_come_by_themselves() {
    // Without a switch that asks, but with its times: nothing is heard for two and a quarter seconds.
    let lab = up("igmp-silent", &["--query-interval", "1s"]);
    lab.until("missed a querier", || {
        (1..=3).all(|host| events(&lab, host, 1106).len() == 1)
    });
    println!("{}", events(&lab, 1, 1106)[0].text);

    // A port that was unplugged: the switch may have forgotten it, and nobody will ask.
    let capture = Capture::start(&lab);
    lab.exec("switch", &["ip", "link", "set", "port-h2", "down"]);
    lab.await_agreement(&[1, 3]);
    lab.exec("switch", &["ip", "link", "set", "port-h2", "up"]);
    lab.await_agreement(&[1, 2, 3]);
    // The report is said again after a second.
    lab.await_heartbeats(2, 15);
    let said = all_igmp(&wire::read(&capture.finish()));
    let report = Igmp::Report {
        version: 2,
        group: GROUP,
    };
    let said: Vec<_> = said
        .into_iter()
        .map(|(_, from, igmp)| (from, igmp))
        .collect();
    assert_eq!(said, [(dip(2), report); 2]);

    let capture = Capture::start(&lab);
    reconfigure(
        &lab,
        "announce_mrouter = false",
        "announce_mrouter = false\nigmp_report_interval = \"1s\"",
    );
    // As many heartbeats as fit into four intervals.
    lab.await_heartbeats(2, 40);
    let messages = all_igmp(&wire::read(&capture.finish()));
    for host in [1, 2, 3] {
        let of = messages.iter().filter(|(_, from, _)| *from == dip(host));
        let said: Vec<_> = of.map(|(_, _, igmp)| *igmp).collect();
        assert!(said.len() >= 3, "host {host}: {said:?}");
        assert!(
            said.iter().all(|igmp| *igmp == report),
            "host {host}: {said:?}"
        );
    }

    let ask = [
        "ip",
        "link",
        "set",
        "br0",
        "type",
        "bridge",
        "mcast_snooping",
        "1",
        "mcast_query_interval",
        "100",
        "mcast_query_response_interval",
        "50",
        "mcast_querier",
        "1",
    ];
    lab.exec("switch", &ask);
    lab.until("heard the querier", || {
        (1..=3).all(|host| events(&lab, host, 1107).len() == 1)
    });
    println!("{}", events(&lab, 1, 1107)[0].text);
    assert_eq!(events(&lab, 1, 1106).len(), 1);
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn a_port_that_comes_back_and_a_daemon_that_is_replaced_stay_members_and_one_that_ends_leaves() {
    // The next query is a minute away.
    let lab = up(
        "igmp-link",
        &[
            "--switch",
            "snooping",
            "--announce-mrouter",
            "--query-interval",
            "60s",
        ],
    );
    let members = || lab.exec("switch", &["bridge", "mdb", "show", "dev", "br0"]);
    let is_member = |host: u8| members().contains(&format!("port port-h{host} grp {GROUP} "));
    lab.until("joined", || (1..=3).all(is_member));

    let capture = Capture::start(&lab);
    let load = Load::start(&lab, Duration::from_millis(20), FIRST_PORT..);
    for host in [1, 2, 3] {
        lab.covey(host, &["upgrade"]);
        assert!(is_member(host), "{}", members());
    }
    assert_eq!([1, 2, 3].map(|host| lab.status(host).host.upgrades), [1; 3]);
    web::assert_none_failed(&load.finish());
    let messages = all_igmp(&wire::read(&capture.finish()));
    let leaves = |messages: &[(Duration, Ipv4Addr, Igmp)]| -> Vec<Ipv4Addr> {
        let left = messages
            .iter()
            .filter(|(_, _, igmp)| *igmp == Igmp::Leave { group: GROUP });
        left.map(|(_, from, _)| *from).collect()
    };
    assert_eq!(leaves(&messages), [] as [Ipv4Addr; 0]);

    let began = Instant::now();
    lab.exec("switch", &["ip", "link", "set", "port-h2", "down"]);
    assert!(!is_member(2), "{}", members());
    lab.await_agreement(&[1, 3]);
    lab.exec("switch", &["ip", "link", "set", "port-h2", "up"]);
    lab.until("joined again", || is_member(2));
    lab.await_agreement(&[1, 2, 3]);
    println!(
        "host 2 was back {:.1} s after it was cut off",
        began.elapsed().as_secs_f64()
    );
    web::assert_none_failed(&web::in_a_row(&lab, VIP, FIRST_PORT..FIRST_PORT + 60));

    // Linux' bridge passes no message on that is as short as RFC 4286 has the last one.
    let capture = Capture::at(&lab, "switch", "port-h3");
    lab.signal(3, "TERM");
    lab.await_end(3);
    lab.until("left", || !is_member(3));
    let messages = all_igmp(&wire::read(&capture.finish()));
    let left = leaves(&messages);
    assert!(
        !left.is_empty() && left.iter().all(|from| *from == dip(3)),
        "{left:?}"
    );
    let taken_back = messages
        .iter()
        .any(|(_, from, igmp)| *from == dip(3) && *igmp == Igmp::Termination);
    assert!(taken_back, "{messages:?}");
}

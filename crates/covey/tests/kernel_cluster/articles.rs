//! What NLB's knowledge base tells of single hosts: connections that a host opens itself, several virtual IPs, answers
//! that leave by another NIC. docs/articles.md says which article is shown where.

use crate::lab::{Lab, Timing, VIP, VIP6};
use crate::netns;
use crate::web::{self, FIRST_PORT};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// The client, which is a server here, and its port.
const OUTSIDE: [&str; 2] = ["10.77.0.200", "fd77::c8"];
const PORT: u16 = 9000;
/// A second virtual IP.
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
/// How often all forget who has which MAC, and ask again.
const ROUNDS: usize = 5;
/// Connections that each host opens.
const TRIES: u16 = 20;

/// The address under which a host comes to a server outside, which answers with what it sees.
fn comes_as(lab: &Lab, host: u8, server: SocketAddr) -> IpAddr {
    netns::inside(&lab.namespace(&format!("h{host}")), move || {
        let mut stream = TcpStream::connect(server).unwrap();
        let mut seen = String::new();
        stream.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, stream.local_addr().unwrap().ip().to_string());
        seen.parse().unwrap()
    })
}

/// Q198888: where the virtual IP was the source, the answers met the default host.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn outgoing_connections_leave_with_the_dedicated_address() {
    let lab = Lab::up_with_ipv6("outgoing", 3, TIMING);
    for (outside, own) in OUTSIDE.into_iter().zip(["10.77.0.", "fd77::"]) {
        let server = SocketAddr::new(outside.parse().unwrap(), PORT);
        let connections = TRIES * lab.hosts().len() as u16;
        let (ready, listening) = std::sync::mpsc::channel();
        let outside = netns::spawn_in(&lab.namespace("client"), move || {
            let listener = TcpListener::bind(server).unwrap();
            ready.send(()).unwrap();
            for _ in 0..connections {
                let (mut stream, from) = listener.accept().unwrap();
                stream.write_all(from.ip().to_string().as_bytes()).unwrap();
            }
        });
        listening.recv().unwrap();
        for host in lab.hosts() {
            let own: IpAddr = format!("{own}{host}").parse().unwrap();
            for _ in 0..TRIES {
                assert_eq!(comes_as(&lab, host, server), own);
            }
        }
        netns::join(outside);
    }
}

/// Q197864: where all NICs had one MAC, hosts could not talk to each other.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn hosts_reach_each_other() {
    let lab = Lab::up_with_ipv6("other", 3, TIMING);
    for (host, other) in [(1, 2), (2, 3), (3, 1)] {
        for own in ["10.77.0.", "fd77::"] {
            let dedicated: IpAddr = format!("{own}{other}").parse().unwrap();
            let by = netns::inside(&lab.namespace(&format!("h{host}")), move || {
                web::get(dedicated, FIRST_PORT).outcome
            });
            assert_eq!(by, Ok(other), "host {host} to {dedicated}");
        }
    }
}

/// Q247768: to a host the virtual IP is its own, so nothing is shared there.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_host_that_connects_to_the_virtual_ip_reaches_itself() {
    let lab = Lab::up_with_ipv6("itself", 3, TIMING);
    for host in lab.hosts() {
        for vip in [IpAddr::from(VIP), VIP6.into()] {
            let answers = netns::inside(&lab.namespace(&format!("h{host}")), move || {
                let ports = FIRST_PORT..FIRST_PORT + TRIES;
                let answers = ports.map(|port| web::get(vip, port).outcome);
                answers.collect::<Vec<_>>()
            });
            assert!(answers.iter().all(|by| *by == Ok(host)), "{answers:?}");
        }
    }
}

/// Rewrites every host's configuration, and starts the daemons anew under it.
fn reconfigure(lab: &Lab, edit: impl Fn(u8, &str) -> String) {
    for host in lab.hosts() {
        let path = lab.directory().join(format!("h{host}/covey.toml"));
        let before = fs::read_to_string(&path).unwrap();
        let after = edit(host, &before);
        assert_ne!(before, after);
        fs::write(&path, after).unwrap();
        lab.fault(&["kill", &host.to_string()]);
    }
    lab.fault(&["heal"]);
    lab.await_agreement(&lab.hosts());
}

fn who_answers(lab: &Lab, vip: impl Into<IpAddr>) -> BTreeMap<u8, usize> {
    let requests = web::in_a_row(lab, vip, FIRST_PORT..FIRST_PORT + 300);
    web::assert_none_failed(&requests);
    let mut by = BTreeMap::new();
    for request in requests {
        *by.entry(request.outcome.unwrap()).or_default() += 1;
    }
    by
}

/// Q232000: all virtual IPs are balanced, under one MAC; the dedicated addresses are not. Past NLB of that time, a
/// rule may name one of them.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn several_virtual_ips_share_one_mac_and_a_rule_may_name_one() {
    let lab = Lab::up("vips", 3, TIMING);
    reconfigure(&lab, |host, config| {
        let rule = format!(
            "\n[[rule]]\nports = 80\nprotocol = \"tcp\"\nvip = \"{OTHER_VIP}\"\nmode = \"single\"\n\
             handling_priority = {}\n",
            4 - host
        );
        let vips = config.replace(
            "\"10.77.0.100/24\"",
            "\"10.77.0.100/24\", \"10.77.0.101/24\"",
        );
        vips + &rule
    });
    let shared = who_answers(&lab, VIP);
    assert_eq!(shared.len(), 3, "{shared:?}");
    // The lowest handling priority is host 3's.
    assert_eq!(who_answers(&lab, OTHER_VIP), BTreeMap::from([(3, 300)]));
    for host in lab.hosts() {
        let own = Ipv4Addr::new(10, 77, 0, host);
        assert_eq!(who_answers(&lab, own), BTreeMap::from([(host, 300)]));
    }
    for vip in [VIP, OTHER_VIP] {
        let show = ["ip", "neigh", "show", &vip.to_string(), "dev", "eth0"];
        let known = lab.exec("client", &show);
        assert!(known.contains("02:bf:0a:4d:00:64"), "{known}");
    }
}

/// Q197991: with a NIC of its own for answers, each host still has its share, and nobody learns that NIC's MAC for the
/// virtual IP: neither from its answers to ARP nor from its own questions.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn answers_may_leave_by_another_nic() {
    let lab = Lab::up("nics", 3, TIMING);
    let host = lab.namespace("h2");
    let shell = |place: &str, line: &str| lab.exec(place, &["sh", "-ec", line]);
    shell(
        "switch",
        &format!(
            "ip link add second type veth peer name eth1 netns {host} && \
             ip link set second master br0 up"
        ),
    );
    shell(
        "h2",
        "ip link set eth1 address 02:00:00:00:01:02 up && ip address add 10.77.0.52/24 dev eth1 && \
         ip route add 10.77.0.200/32 dev eth1",
    );
    let mut of_2 = 0;
    for _ in 0..ROUNDS {
        // The host asks for the client itself, in its virtual IP's name if it may.
        shell("h2", "ip neigh flush dev eth1");
        shell("client", "ip neigh flush dev eth0");
        let shared = who_answers(&lab, VIP);
        assert_eq!(shared.len(), 3, "{shared:?}");
        of_2 += shared[&2];
        let known = lab.exec("client", &["ip", "neigh", "show", "10.77.0.100"]);
        assert!(known.contains("02:bf:0a:4d:00:64"), "{known}");
    }
    let link = lab.exec("h2", &["ip", "-s", "-j", "link", "show", "eth1"]);
    let link: serde_json::Value = serde_json::from_str(&link).unwrap();
    let sent = link[0]["stats64"]["tx"]["packets"].as_u64().unwrap();
    println!(
        "of {} answers to a request host 2 gave {of_2}, and sent {sent} packets by its second NIC",
        ROUNDS * 300
    );
    assert!(sent >= 4 * of_2 as u64, "its answers went another way");
}

//! IPv6 is as good as IPv4: what the other tests show over IPv4, and what only IPv6 has.

use crate::lab::{Lab, Timing, VIP, VIP6};
use crate::web::{self, FIRST_PORT};
use crate::wire::{self, ADVERTISEMENT, Capture, Frame};
use crate::{change, crash, drain, heartbeat, sharing};
use std::fs;
use std::net::{IpAddr, Ipv6Addr};

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// Leaves and returns under load.
const ROUNDS: usize = 10;
/// Target has the address, says who was asked for it: solicited and override (RFC 4861, 4.4), and not a router.
const SOLICITED_OVERRIDE: u8 = 0x60;
/// Of an answer to all, which nobody has solicited as a holder of an address.
const OVERRIDE: u8 = 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn every_connection_has_one_owner_and_every_host_its_share() {
    sharing::share(&Lab::up_with_ipv6("share6", 3, TIMING));
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_crash_costs_the_dead_hosts_datagrams_for_half_a_second() {
    crash::crash(&Lab::up_with_ipv6("crash6", 3, TIMING), TIMING);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_drainstop_under_500_connections_breaks_none_and_ends_with_the_last() {
    drain::drainstop(&Lab::up_with_ipv6("drain6", 3, TIMING));
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn ipv4_connections_to_a_listener_for_both_are_not_overlooked() {
    let lab = Lab::up_with_ipv6("mapped", 3, TIMING);
    drain::drainstop(&lab.talking_to(VIP.into()));
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_host_leaves_and_returns_and_only_requests_under_way_notice() {
    change::leave_and_return(&Lab::up_with_ipv6("leave6", 3, TIMING), ROUNDS);
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn the_switch_never_learns_the_cluster_mac() {
    heartbeat::no_frame_teaches_the_cluster_mac(&Lab::up_with_ipv6("source6", 3, TIMING));
}

/// Answers for the virtual IP in a capture: to whom, flags.
fn advertisements(frames: &[Frame]) -> Vec<(IpAddr, u8)> {
    let of_vip = frames
        .iter()
        .filter(|frame| frame.vip_is_at(VIP6.into()).is_some());
    of_vip
        .filter_map(|frame| {
            let (_, to, _, message) = frame.ip()?;
            (message[0] == ADVERTISEMENT).then_some((to, message[4]))
        })
        .collect()
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn a_solicitation_is_answered_and_a_foreign_claim_is_refused() {
    let lab = Lab::up_with_ipv6("ndp", 3, TIMING);
    let client = |command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        lab.exec("client", &words)
    };
    let capture = Capture::start(&lab);
    web::assert_none_failed(&web::in_a_row(&lab, VIP6, FIRST_PORT..FIRST_PORT + 1));
    let known = client("ip -6 neigh show fd77::100 dev eth0");
    assert!(known.contains("02:bf:0a:4d:00:64"), "{known}");
    let file = capture.finish();
    let asked = advertisements(&wire::read(&file));
    let client_ip: IpAddr = "fd77::c8".parse().unwrap();
    assert!(!asked.is_empty());
    for (to, flags) in &asked {
        assert_eq!((*to, *flags), (client_ip, SOLICITED_OVERRIDE));
    }

    // Somebody who wants the address for himself asks first whether it is free.
    let capture = Capture::start(&lab);
    client("ip address add fd77::100/64 dev eth0");
    let claim = "ip -oneline -6 address show dev eth0 to fd77::100";
    lab.until("found out", || client(claim).contains("dadfailed"));
    let frames = wire::read(&capture.finish());
    client("ip address del fd77::100/64 dev eth0");
    let refused = advertisements(&frames);
    assert!(
        refused.contains(&(ALL_NODES.into(), OVERRIDE)),
        "{refused:?}"
    );
    // None of the hosts minds that others have it too.
    for host in 1..=3 {
        let own = lab.exec(&format!("h{host}"), &claim.split(' ').collect::<Vec<_>>());
        assert!(own.contains("fd77::100/128"), "host {host}: {own}");
        assert!(
            !own.contains("dadfailed") && !own.contains("tentative"),
            "{own}"
        );
    }
    println!(
        "{} answers to the client's question; the claim of another to the address is refused by {}",
        asked.len(),
        refused.len()
    );
    web::assert_none_failed(&web::in_a_row(&lab, VIP6, FIRST_PORT + 1..FIRST_PORT + 100));
}

/// Writes another configuration for every host, and lets new daemons read it.
pub(crate) fn restart_with(lab: &Lab, change: impl Fn(&str, u8) -> String) {
    for host in lab.hosts() {
        let path = lab.directory().join(format!("h{host}/covey.toml"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, change(&text, host)).unwrap();
        lab.signal(host, "TERM");
        lab.await_end(host);
    }
    lab.fault(&["heal"]);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_cluster_of_ipv6_addresses_alone() {
    let lab = Lab::up_with_ipv6("only6", 2, TIMING);
    restart_with(&lab, |text, _| text.replace("\"10.77.0.100/24\", ", ""));
    lab.await_agreement(&[1, 2]);
    assert_eq!(lab.status(1).cluster.mac, "02:bf:fd:77:01:00");
    let requests = web::in_a_row(&lab, VIP6, FIRST_PORT..FIRST_PORT + 200);
    web::assert_none_failed(&requests);
    let known = lab.exec(
        "client",
        &["ip", "-6", "neigh", "show", "fd77::100", "dev", "eth0"],
    );
    assert!(known.contains("02:bf:fd:77:01:00"), "{known}");
    let by_1 = requests.iter().filter(|one| one.outcome == Ok(1)).count();
    println!("two hosts without an IPv4 virtual IP: {by_1} of 200 requests by host 1");
    assert!((70..=130).contains(&by_1), "{by_1} of 200");
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_rule_for_the_ipv6_address_leaves_the_other_alone() {
    let lab = Lab::up_with_ipv6("rule6", 2, TIMING);
    restart_with(&lab, |text, host| {
        let priority = 3 - host;
        format!(
            "{text}[[rule]]\nports = 80\nprotocol = \"tcp\"\nvip = \"fd77::100\"\nmode = \"single\"\n\
             handling_priority = {priority}\n"
        )
    });
    lab.await_agreement(&[1, 2]);
    let hosts = |vip: IpAddr, ports| {
        let requests = web::in_a_row(&lab, vip, ports);
        web::assert_none_failed(&requests);
        let by_2 = requests.iter().filter(|one| one.outcome == Ok(2)).count();
        (by_2, requests.len())
    };
    assert_eq!(hosts(VIP6.into(), FIRST_PORT..FIRST_PORT + 100), (100, 100));
    let (by_2, of) = hosts(VIP.into(), FIRST_PORT..FIRST_PORT + 200);
    println!("host 2 has 100 of 100 requests to {VIP6}, and {by_2} of {of} to {VIP}");
    assert!((70..=130).contains(&by_2), "{by_2} of {of}");
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_nic_that_was_switched_off_and_on_serves_again() {
    let lab = Lab::up_with_ipv6("bounce", 2, TIMING);
    let h2 = |command: &str| lab.exec("h2", &command.split(' ').collect::<Vec<_>>());
    h2("ip link set eth0 down");
    lab.await_agreement(&[1]);
    h2("ip link set eth0 up");
    // The machine's own are its administrator's business.
    h2("ip address add fd77::2/64 dev eth0 nodad");
    h2("ip address add fe80::2/64 dev eth0 nodad");
    lab.await_agreement(&[1, 2]);
    lab.until("put it back", || {
        h2("ip -6 address show dev eth0").contains("fd77::100/128")
    });
    let requests = web::in_a_row(&lab, VIP6, FIRST_PORT..FIRST_PORT + 200);
    web::assert_none_failed(&requests);
    let by_2 = requests.iter().filter(|one| one.outcome == Ok(2)).count();
    println!("a NIC switched off and on: its host has {by_2} of 200 requests again");
    assert!((70..=130).contains(&by_2), "{by_2} of 200");
}

//! What the filter costs per packet, over a program that only drops: BPF_PROG_TEST_RUN of the very programs that
//! the daemon attaches, for many flows, medians of interleaved rounds. `cargo xtask bench` runs it; it needs root.
//!
//! Two configurations stand side by side, the smallest and the largest, because the cost must not depend on them.
//! The kernel runs one frame many times over in place, so the image says that the host's MAC *is* the cluster's:
//! rewriting the destination then changes nothing, and costs the same.

#[path = "../../filter/tests/frames/mod.rs"]
mod frames;

use aya::Ebpf;
use aya::programs::{TestRun, TestRunOptions, Xdp};
use covey::datapath::Programs;
use covey_filter::{MAX_VIPS, Reason, USER_RULES, decide};
use covey_proto::datapath::{Identity, Image, Overlap, View, no_sockets};
use covey_proto::ids::{HostId, HostSet, Mac};
use covey_proto::placement::{Map, Placement};
use covey_proto::rules::{Affinity, FilterMode, PortRule, Protocol, RuleSet};
use frames::{TCP, ipv4, ipv6, ports, to_ipv4, to_ipv6};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

const MAC: [u8; 6] = [0x02, 0xBF, 10, 77, 0, 100];
const PORT: u16 = 80;
/// Each run of the kernel's test costs some 20 ms besides (it patches the program into the kernel's dispatcher), so
/// runs are few and long.
const FLOWS: usize = 8;
const REPEAT: u32 = 100_000;
const ROUNDS: usize = 5;

/// A row of the table: its name, and where its packets come from.
struct Case {
    name: &'static str,
    reason: Reason,
    flow: fn(Host) -> Vec<u8>,
}

/// What tells flows apart.
type Host = u16;

const CASES: [Case; 5] = [
    Case {
        name: "not for the cluster",
        reason: Reason::OtherMac,
        flow: |client| to_ipv4([2, 0, 0, 0, 0, 1], &v4(client)),
    },
    Case {
        name: "IPv4, not mine",
        reason: Reason::NotMine,
        flow: |client| to_ipv4(MAC, &v4(client)),
    },
    Case {
        name: "IPv4, mine",
        reason: Reason::Mine,
        flow: |client| to_ipv4(MAC, &v4(client)),
    },
    Case {
        name: "IPv6, not mine",
        reason: Reason::NotMine,
        flow: |client| to_ipv6(MAC, &v6(client)),
    },
    Case {
        name: "IPv6, mine",
        reason: Reason::Mine,
        flow: |client| to_ipv6(MAC, &v6(client)),
    },
];

fn v4(client: Host) -> Vec<u8> {
    let [high, low] = client.to_be_bytes();
    let client_port = 32768 + client / 2;
    ipv4(
        Ipv4Addr::new(198, 18, high, low),
        vip4(0),
        TCP,
        &ports(client_port, PORT),
    )
}

fn v6(client: Host) -> Vec<u8> {
    let source = Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, client);
    ipv6(source, vip6(0), TCP, &ports(32768 + client / 2, PORT))
}

fn vip4(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, number as u8)
}

fn vip6(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 1, number as u16)
}

/// A cluster with this many pairs of addresses, port rules and hosts, seen by host 1.
fn image(pairs: usize, rules: usize, hosts: u8) -> Image {
    let vips = (0..pairs)
        .flat_map(|number| [IpAddr::from(vip4(number)), vip6(number).into()])
        .collect();
    let rules = (0..rules as u16)
        .map(|number| PortRule {
            vip: None,
            start: PORT + number * 100,
            end: PORT + number * 100,
            protocol: Protocol::Both,
            mode: FilterMode::Multiple {
                affinity: Affinity::None,
            },
            sticky: None,
        })
        .collect();
    let rules = RuleSet::new(vips, rules).expect("the rules do not overlap");
    let ids: Vec<HostId> = (1..=hosts).filter_map(HostId::new).collect();
    let mut map = Map::unowned();
    for (bucket, owner) in (0..covey_filter::BUCKETS).zip(ids.iter().cycle()) {
        map.set(bucket, *owner);
    }
    let map = Arc::new(map);
    let ports = rules.rules().iter();
    let ports = ports
        .map(|rule| (rule.fingerprint(), map.clone()))
        .collect();
    let placement = Placement::new(map.clone(), ports, map.clone());
    let identity = Identity {
        host: ids[0],
        mac: Mac(MAC),
        cluster_mac: Mac(MAC),
        source_mac: Mac(MAC),
        filter_icmp: true,
        hash_key: [1, 2],
    };
    let view: HostSet = ids.into_iter().collect();
    Image::serving(&identity, &rules, &placement, view, &Overlap::NONE)
}

/// Flows that meet the case's reason.
fn flows(case: &Case, image: &Image) -> Vec<Vec<u8>> {
    let view = View {
        image,
        lease_holds: true,
        sockets: &no_sockets,
        fragments: None,
    };
    let flows: Vec<_> = (0..Host::MAX)
        .map(case.flow)
        .filter(|frame| decide(&frame[..], &view).reason == case.reason)
        .take(FLOWS)
        .collect();
    assert_eq!(flows.len(), FLOWS, "too few flows are {:?}", case.reason);
    flows
}

/// Nanoseconds per run, over all frames.
fn measure(program: &Xdp, frames: &[Vec<u8>]) -> f64 {
    let total: u128 = frames
        .iter()
        .map(|frame| {
            let mut options = TestRunOptions::new();
            options.data_in = Some(frame);
            options.repeat = REPEAT;
            let result = program
                .test_run(options)
                .expect("the kernel runs the program");
            result.duration.as_nanos()
        })
        .sum();
    total as f64 / frames.len() as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let configurations = [image(1, 1, 2), image(MAX_VIPS / 2, USER_RULES, 64)];
    let mut loaded = match configurations.each_ref().map(Programs::load) {
        [Ok(small), Ok(large)] => [small, large],
        [Err(error), _] | [_, Err(error)] => {
            println!("SKIPPED the filter: {error}");
            return;
        }
    };
    let mut floor =
        Ebpf::load(aya::include_bytes_aligned!(env!("COVEY_FLOOR"))).expect("the floor loads");
    let floor: &mut Xdp = floor
        .program_mut("floor")
        .and_then(|program| program.try_into().ok())
        .expect("it is an XDP program");
    floor.load().expect("the floor loads");
    for programs in &loaded {
        programs.set_lease(u64::MAX);
    }

    let frames = CASES.map(|case| {
        let flows = configurations.each_ref().map(|image| flows(&case, image));
        (case.name, flows)
    });
    let mut floors = Vec::new();
    let mut over = vec![[const { Vec::new() }; 2]; CASES.len()];
    for _ in 0..ROUNDS {
        for (row, (_, flows)) in frames.iter().enumerate() {
            for (column, flows) in flows.iter().enumerate() {
                let ground = measure(floor, &flows[..1]);
                floors.push(ground);
                over[row][column].push(measure(loaded[column].ingress(), flows) - ground);
            }
        }
    }
    println!(
        "filter: ns per packet over an empty XDP program (which takes {:.1} ns), {FLOWS} flows",
        median(floors)
    );
    println!();
    println!(
        "  packet                  2 addresses, 1 rule,   {MAX_VIPS} addresses, {USER_RULES} rules,"
    );
    println!("                                      2 hosts                   64 hosts");
    for ((name, _), columns) in frames.iter().zip(over) {
        let [small, large] = columns.map(median);
        println!("  {name:<22}  {small:>20.1}   {large:>24.1}");
    }
}

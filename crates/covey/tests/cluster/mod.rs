//! A small cluster for the tests of the kernel's side: one IPv4 and one IPv6 address, rules of each kind, three
//! hosts of which the tests look at one.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its share.

use covey_filter::BUCKETS;
use covey_proto::config::SourceMac;
use covey_proto::datapath::{Identity, Image, Overlap};
use covey_proto::ids::{HostId, HostSet, Mac};
use covey_proto::placement::{Map, Placement};
use covey_proto::rules::{Affinity, FilterMode, PortRule, Protocol, RuleSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

pub const CLUSTER_MAC: [u8; 6] = [0x02, 0xBF, 10, 77, 0, 100];
/// The same cluster's MAC in multicast mode, under which it takes frames in every mode.
pub const GROUP_MAC: [u8; 6] = [0x03, 0xBF, 10, 77, 0, 100];
pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, 0x100);
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, 0x200);

pub fn host(id: u8) -> HostId {
    HostId::new(id).expect("tests use IDs from 1 to 64")
}

pub fn rules() -> RuleSet {
    let multiple = |affinity| FilterMode::Multiple { affinity };
    let rule = |vip: Option<Ipv4Addr>, start, end, protocol, mode| PortRule {
        vip: vip.map(Into::into),
        start,
        end,
        protocol,
        mode,
        sticky: None,
    };
    let rules = vec![
        rule(None, 80, 80, Protocol::Tcp, multiple(Affinity::None)),
        rule(None, 7, 7, Protocol::Both, multiple(Affinity::Single)),
        rule(None, 500, 600, Protocol::Udp, multiple(Affinity::Network)),
        rule(None, 25, 25, Protocol::Tcp, FilterMode::Disabled),
        rule(None, 60000, 65535, Protocol::Both, FilterMode::Single),
        rule(
            Some(VIP4),
            80,
            90,
            Protocol::Tcp,
            multiple(Affinity::Single),
        ),
    ];
    RuleSet::new(vec![VIP4.into(), VIP6.into()], rules).expect("the rules do not overlap")
}

/// The image of host `me` when bucket b is owned by the host `owner(b)`; the default host is host 1.
pub fn image(me: u8, mac: [u8; 6], owner: impl Fn(usize) -> u8) -> Image {
    let rules = rules();
    let mut map = Map::unowned();
    for bucket in 0..BUCKETS {
        map.set(bucket, host(owner(bucket)));
    }
    let map = Arc::new(map);
    let ports = rules.rules().iter();
    let ports = ports
        .map(|rule| (rule.fingerprint(), map.clone()))
        .collect();
    let placement = Placement::new(Arc::new(Map::all(Some(host(1)))), ports, map.clone());
    let view: HostSet = [1, 2, 3].map(host).into_iter().collect();
    Image::serving(&identity(me, mac), &rules, &placement, view, &Overlap::NONE)
}

/// The image of host `me` before it serves.
pub fn fenced(me: u8, mac: [u8; 6]) -> Image {
    Image::fenced(&identity(me, mac), &rules())
}

fn identity(me: u8, mac: [u8; 6]) -> Identity {
    Identity {
        host: host(me),
        mac: Mac(mac),
        source_mac: SourceMac::Host,
        filter_icmp: true,
        hash_key: [0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210],
    }
}

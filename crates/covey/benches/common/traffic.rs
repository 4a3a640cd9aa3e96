//! Clusters of any size and random traffic to them: 65,536 frames in random order, written into a table from which the
//! programs of `ebpf/src/bench.rs` take them one after the other, so that no two packets in a row are alike.

use crate::frames::Mac;
use aya::maps::{Array, ProgramArray};
use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, EbpfLoader};
use covey_filter::{BUCKETS, Reason, decide};
use covey_proto::buckets::BucketSet;
use covey_proto::config::{ClusterMode, SourceMac};
use covey_proto::datapath::{Identity, Image, Overlap, View, no_sockets};
use covey_proto::delivery::Delivery;
use covey_proto::fragments::Fragments;
use covey_proto::ids::{self, HostId, HostSet};
use covey_proto::placement::{Map, Placement};
use covey_proto::rules::{Affinity, FilterMode, PortRule, Protocol, RuleSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

pub const CLUSTER_MAC: Mac = [0x02, 0xBF, 10, 77, 0, 100];
pub const HOST_MAC: Mac = [0x02, 0, 0, 0, 1, 1];
/// Frames in the table.
pub const FRAMES: usize = 1 << 16;
/// As much of a frame as the table holds: all headers of TCP over IPv6. Shorter ones end in zeros.
pub const HEAD: usize = 80;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("COVEY_BENCH"));

/// How much a cluster has of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pairs of an IPv4 and an IPv6 address.
    pub pairs: usize,
    pub rules: usize,
    pub hosts: u8,
}

impl Size {
    /// As host 1 sees it, when every bucket may have connections elsewhere (`overlap`) or none has.
    pub fn image(self, overlap: bool) -> Image {
        let vips = (0..self.pairs)
            .flat_map(|number| [IpAddr::from(vip4(number)), vip6(number).into()])
            .collect();
        let rules = (0..self.rules)
            .map(|number| PortRule {
                vip: None,
                start: port(number),
                end: port(number),
                protocol: Protocol::Both,
                mode: FilterMode::Multiple {
                    affinity: Affinity::None,
                },
                sticky: None,
            })
            .collect();
        let delivery = Delivery::explicit(ClusterMode::Unicast, ids::Mac(CLUSTER_MAC));
        let delivery = delivery.expect("the MAC is that of one NIC");
        let rules = RuleSet::new(vips, rules).expect("the rules do not overlap");
        let rules = rules.delivered_by(delivery);
        let ids: Vec<HostId> = (1..=self.hosts).filter_map(HostId::new).collect();
        let mut map = Map::unowned();
        for (bucket, owner) in (0..BUCKETS).zip(ids.iter().cycle()) {
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
            mac: ids::Mac(HOST_MAC),
            source_mac: SourceMac::Host,
            filter_icmp: true,
            hash_key: [1, 2],
        };
        let view: HostSet = ids.into_iter().collect();
        let all: BucketSet = (0..BUCKETS).collect();
        let overlap = if overlap {
            Overlap {
                lingering: &all,
                shared: &all,
                ..Overlap::NONE
            }
        } else {
            Overlap::NONE
        };
        Image::serving(&identity, &rules, &placement, view, &overlap)
    }
}

fn vip4(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, number as u8)
}

fn vip6(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 1, number as u16)
}

fn port(rule: usize) -> u16 {
    80 + 100 * rule as u16
}

/// Draws clients and where they go: the same in each run.
pub struct Random {
    state: u64,
    size: Size,
    /// The second of two that belong together.
    second: Option<Vec<u8>>,
}

impl Random {
    pub fn new(size: Size) -> Self {
        Self {
            state: 1,
            size,
            second: None,
        }
    }

    /// Frames one by one that are drawn in pairs.
    pub fn two_by_two(&mut self, draw: impl FnOnce(&mut Self) -> [Vec<u8>; 2]) -> Vec<u8> {
        self.second.take().unwrap_or_else(|| {
            let [first, second] = draw(self);
            self.second = Some(second);
            first
        })
    }

    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// A client in 10.0.0.0/8 and a virtual IP.
    pub fn ipv4(&mut self) -> (Ipv4Addr, Ipv4Addr) {
        let [a, b, c, ..] = self.next().to_be_bytes();
        (
            Ipv4Addr::new(10, a, b, c),
            vip4(self.below(self.size.pairs)),
        )
    }

    /// A client and a virtual IP.
    pub fn ipv6(&mut self) -> (Ipv6Addr, Ipv6Addr) {
        let network = 0x2001_0DB8 << 96 | u128::from(self.next());
        (
            Ipv6Addr::from_bits(network),
            vip6(self.below(self.size.pairs)),
        )
    }

    /// A client's port, and one that has a rule.
    pub fn ports(&mut self) -> (u16, u16) {
        (
            1024 + self.below(64512) as u16,
            port(self.below(self.size.rules)),
        )
    }
}

/// As many random frames as the table holds, of those for which the filter has one of these reasons.
pub fn frames_that_are(
    reasons: &[Reason],
    image: &Image,
    draw: impl FnMut() -> Vec<u8>,
) -> Vec<Vec<u8>> {
    let fragments = Fragments::default();
    let view = View {
        image,
        lease_holds: true,
        sockets: &no_sockets,
        fragments: Some(&fragments),
    };
    std::iter::repeat_with(draw)
        // Something is wrong if not even one in a thousand is such a frame.
        .take(1000 * FRAMES)
        .filter(|frame| reasons.contains(&decide(&frame[..], &view).reason))
        .take(FRAMES)
        .collect()
}

/// The programs of `ebpf/src/bench.rs`.
pub struct Generator(Ebpf);

impl Generator {
    /// `target` is the index of the interface that `flood` sends to; 0: it drops.
    pub fn load(target: u32) -> Self {
        let mut ebpf = EbpfLoader::new()
            .override_global("TARGET", &target, true)
            .load(OBJECT)
            .expect("the object is sound");
        for (_, program) in ebpf.programs_mut() {
            let program: &mut Xdp = program.try_into().expect("all are XDP programs");
            program.load().expect("the kernel takes the program");
        }
        Self(ebpf)
    }

    pub fn program(&mut self, name: &str) -> &mut Xdp {
        let program = self.0.program_mut(name).expect("there is such a program");
        program.try_into().expect("all are XDP programs")
    }

    /// A descriptor of one of the programs.
    pub fn fd(&mut self, name: &str) -> ProgramFd {
        let fd = self.program(name).fd().expect("it is loaded");
        fd.try_clone().expect("descriptors are left")
    }

    /// Fills the table.
    pub fn set_frames(&mut self, frames: &[Vec<u8>]) {
        assert_eq!(frames.len(), FRAMES, "too few frames are such");
        let map = self.0.map_mut("FRAMES").expect("there is such a map");
        let mut table: Array<_, [u64; HEAD / 8]> = map.try_into().expect("it is an array");
        for (number, frame) in (0..).zip(frames) {
            let mut head = [0; HEAD];
            head[..frame.len()].copy_from_slice(frame);
            let (words, _) = head.as_chunks();
            let words = std::array::from_fn(|at| u64::from_ne_bytes(words[at]));
            table.set(number, words, 0).expect("it is in the table");
        }
    }

    /// What `replay` goes on with.
    pub fn set_next(&mut self, program: &ProgramFd) {
        let map = self.0.map_mut("NEXT").expect("there is such a map");
        let mut next: ProgramArray<_> = map.try_into().expect("it is a program array");
        next.set(0, program, 0).expect("the programs fit together");
    }
}

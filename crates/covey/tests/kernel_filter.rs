//! The programs in the kernel against the rule they are compiled from: frames of each kind and random ones go
//! through both, and verdict, reason and bytes must be equal. Specification: docs/design.md, "Tests".
//!
//! COVEY_PACKETS sets how many random packets are compared (default 300000), COVEY_SEED which; --nocapture shows how far
//! it has come.

#[path = "cluster/mod.rs"]
mod cluster;
#[path = "connections/mod.rs"]
mod connections;
#[path = "fixtures/mod.rs"]
mod fixtures;
#[path = "../../filter/tests/frames/mod.rs"]
mod frames;
#[path = "segment/mod.rs"]
mod segment;
#[path = "test_run/mod.rs"]
mod test_run;

use cluster::*;
use connections::{Connection, WRONG};
use covey_filter::{Address, Disowned, Ends, Ports, Reason, Row};
use covey_proto::datapath::Image;
use frames::*;
use segment::Segment;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use test_run::*;

fn third(bucket: usize) -> u8 {
    (bucket % 3) as u8 + 1
}

fn tcp(port: u16) -> Vec<u8> {
    let packet = ipv4(CLIENT4, VIP4, TCP, &ports(40000, port));
    to_ipv4(CLUSTER_MAC, &packet)
}

#[test]
#[ignore = "needs root: runs BPF programs"]
fn accepting_rewrites_the_destination_mac_and_nothing_else() {
    let bench = &mut Bench::new(image(2, HOST_MAC, |_| 2));
    let frame = tcp(80);
    let mut accepted = frame.clone();
    accepted[..6].copy_from_slice(&HOST_MAC);
    assert_eq!(run(bench.programs.ingress(), &frame), (XDP_PASS, accepted));
    bench.lease(false);
    assert_eq!(
        run(bench.programs.ingress(), &frame),
        (XDP_DROP, frame.clone())
    );
    bench.lease(true);
    bench.program(image(2, HOST_MAC, |_| 3));
    assert_eq!(
        run(bench.programs.ingress(), &frame),
        (XDP_DROP, frame.clone())
    );
    bench.program(fenced(2, HOST_MAC));
    assert_eq!(run(bench.programs.ingress(), &frame), (XDP_DROP, frame));
    let counted: Vec<_> = bench
        .programs
        .counters()
        .expect("counters can be read")
        .by_reason()
        .filter(|(_, count)| *count != 0)
        .collect();
    assert_eq!(
        counted,
        [
            (Reason::Mine, 1),
            (Reason::NotMine, 1),
            (Reason::Fenced, 1),
            (Reason::LeaseLapsed, 1)
        ]
    );
}

#[test]
#[ignore = "needs root: runs BPF programs"]
fn a_segment_in_fragments_that_nobody_claims_is_told_of_and_passes_once_it_is_disowned() {
    const MAP: u64 = 5;
    let mut image = image(2, HOST_MAC, |_| 2);
    for row in image.rows.iter_mut().flatten() {
        *row |= Row::SHARED;
    }
    image.settings.map = MAP;
    let bench = &mut Bench::new(image);
    let mut ring = bench.programs.take_unclaimed().expect("it can be mapped");
    let ring = ring.as_mut().expect("nobody else has taken it");
    let v4 = |tcp: &[u8]| ipv4_with(CLIENT4, VIP4, TCP, 0x2000, &[], tcp);
    let v6 = |tcp: &[u8]| ipv6(CLIENT6, VIP6, 44, &fragment(TCP, 0, true, tcp));
    let ends4 = [CLIENT4, VIP4].map(|address| Address::v4(address.octets()));
    let ends6 = [CLIENT6, VIP6].map(|address| Address::v6(address.octets()));
    let tcp = |port| [segment(port, 80, ACK, 1), vec![0; 4]].concat();
    for (port, [client, service], frame) in [
        (40001, ends4, to_ipv4(CLUSTER_MAC, &v4(&tcp(40001)))),
        (40002, ends6, to_ipv6(CLUSTER_MAC, &v6(&tcp(40002)))),
    ] {
        let ports = Ports {
            source: port,
            destination: 80,
        };
        let ends = Ends::new(client, service, ports);
        let verdict = |bench: &mut Bench| run(bench.programs.ingress(), &frame).0;
        assert_eq!(verdict(bench), XDP_DROP, "port {port}");
        let told = ring.next().map(|report| report.to_vec());
        let expected: Vec<u8> = ends.0.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(told, Some(expected), "port {port}");
        assert!(ring.next().is_none(), "once is enough");
        // What was found out under another map says nothing.
        for (map, expected) in [(MAP - 1, XDP_DROP), (MAP, XDP_PASS)] {
            let until_ns = u64::MAX;
            let known = Disowned { until_ns, map };
            let disowned = bench.programs.disown(&[ends], known);
            disowned.expect("there is room for it");
            assert_eq!(verdict(bench), expected, "port {port}");
        }
        assert!(ring.next().is_some(), "the other map's was dropped");
    }
}

#[test]
fn every_fixture_meets_its_verdict() {
    let fixtures = fixtures::all();
    assert!(fixtures.len() >= 150, "only {} are there", fixtures.len());
    for fixture in fixtures {
        fixture.check();
    }
}

#[test]
#[ignore = "needs root: runs BPF programs"]
fn every_fixture_meets_its_verdict_in_the_kernel() {
    let mut bench = Bench::new(image(2, HOST_MAC, third));
    for fixture in fixtures::all() {
        bench.program(fixture.image());
        bench.lease(fixture.lease_holds());
        bench.compare(&fixture.frames);
    }
}

#[test]
#[ignore = "needs root: runs BPF programs"]
fn one_frame_of_each_kind() {
    let mut bench = Bench::new(image(2, HOST_MAC, third));
    let group = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 1, 0xFF00, 0x100);
    let six = |next, body: &[u8]| to_ipv6(CLUSTER_MAC, &ipv6(CLIENT6, VIP6, next, body));
    let question = arp(1, (CLIENT_MAC, CLIENT4), ([0; 6], VIP4));
    let solicitation = neighbour(135, CLIENT6, group, VIP6, CLIENT_MAC);
    let tunnel = extension(44, 3, &fragment(TCP, 0, true, &ports(9, 80)));
    bench.compare(&[
        tcp(80),
        tagged(&tagged(&tcp(80), 0x8100), 0x88A8),
        tcp(25),
        tcp(9999),
        to_ipv4(HOST_MAC, &ipv4(CLIENT4, VIP4, UDP, &ports(1, 7))),
        six(TCP, &ports(40000, 80)),
        six(UDP, &ports(40000, 550)),
        six(0, &tunnel),
        six(44, &fragment(UDP, 5, false, &[0; 8])),
        six(ICMPV6, &icmp(128)),
        six(ICMPV6, &icmp(2)),
        to_ipv4(CLUSTER_MAC, &ipv4(CLIENT4, VIP4, ICMP, &icmp(3))),
        to_ipv4(CLUSTER_MAC, &ipv4_with(CLIENT4, VIP4, TCP, 7, &[], &[0; 8])),
        to_ipv4(CLUSTER_MAC, &ipv4(CLIENT4, CLIENT4, TCP, &ports(1, 80))),
        ethernet(BROADCAST, CLIENT_MAC, 0x0806, &question),
        ethernet(CLUSTER_MAC, CLIENT_MAC, 0x0806, &question),
        to_ipv6([0x33, 0x33, 0xFF, 0, 1, 0], &solicitation),
        ethernet(CLUSTER_MAC, CLIENT_MAC, 0x886F, &[0; 50]),
        ethernet(CLUSTER_MAC, CLIENT_MAC, 0x9000, &[0; 50]),
        ethernet(BROADCAST, CLUSTER_MAC, 0x0800, &[0; 50]),
    ]);
}

#[test]
#[ignore = "needs root: runs BPF programs"]
fn the_guard_repairs_what_it_changes() {
    let mut bench = Bench::new(fenced(2, HOST_MAC));
    let reply = arp(2, (HOST_MAC, VIP4), (CLIENT_MAC, CLIENT4));
    let (verdict, out) = run(
        bench.programs.guard(),
        &ethernet(CLIENT_MAC, HOST_MAC, 0x0806, &reply),
    );
    let said = arp(2, (CLUSTER_MAC, VIP4), (CLIENT_MAC, CLIENT4));
    assert_eq!(verdict, TC_ACT_UNSPEC);
    assert_eq!(out, ethernet(CLIENT_MAC, HOST_MAC, 0x0806, &said));

    let answer = |mac| neighbour(136, VIP6, CLIENT6, VIP6, mac);
    let sent = ethernet(CLIENT_MAC, HOST_MAC, 0x86DD, &answer(HOST_MAC));
    let (verdict, out) = run(bench.programs.guard(), &sent);
    assert_eq!(verdict, TC_ACT_UNSPEC);
    assert_eq!(
        out,
        ethernet(CLIENT_MAC, HOST_MAC, 0x86DD, &answer(CLUSTER_MAC))
    );
    assert!(icmpv6_checksum_holds(&out[14..]));
}

#[test]
#[ignore = "needs root: runs BPF programs"]
fn kernel_and_user_space_agree_on_random_packets() {
    let variable = |name, default| match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => default,
    };
    let packets: u64 = variable("COVEY_PACKETS", 300_000);
    let seed = variable("COVEY_SEED", 1);
    println!("comparing {packets} packets, COVEY_SEED={seed}");
    let mut random = Random(seed);
    let mut met = vec![0; Reason::ALL.len()];
    let mut compared = 0;
    while compared < packets {
        compared += random.stretch(packets - compared, &mut met);
        println!("{compared} of {packets} packets agree");
    }
    let unmet: Vec<_> = std::iter::zip(Reason::ALL, met)
        .filter(|(reason, count)| *count == 0 && *reason != Reason::BrokenTables)
        .collect();
    assert!(unmet.is_empty(), "the packets never met {unmet:?}");
}

/// A small generator (xorshift64*), so that a seed names a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }

    fn noise(&mut self, up_to: usize) -> Vec<u8> {
        (0..self.below(up_to)).map(|_| self.next() as u8).collect()
    }

    /// Compares packets, at most so many, for as long as the kernel keeps the connections that some of them are part of:
    /// it ends an orphan after a minute. Adds how often each reason was met, and returns how many were compared.
    fn stretch(&mut self, most: u64, met: &mut [u64]) -> u64 {
        const CHUNK: usize = 500;
        const CONNECTIONS_LAST: Duration = Duration::from_secs(20);
        let network = Segment::new();
        let mut compared = 0;
        network.on_host(|| {
            let mut bench = Bench::new(image(2, HOST_MAC, third));
            let made = Rc::new(connections::in_every_stage(&network));
            bench.sockets = Box::new(connections::table(made.clone()));
            let begun = Instant::now();
            while compared < most && begun.elapsed() < CONNECTIONS_LAST {
                match self.below(6) {
                    0 => bench.program(fenced(2, HOST_MAC)),
                    _ => bench.program(self.image()),
                }
                bench.lease(self.below(4) != 0);
                for _ in 0..16 {
                    let frames: Vec<_> = (0..CHUNK)
                        .map(|_| match self.below(4) {
                            0 => self.segment(&made),
                            _ => self.frame(),
                        })
                        .collect();
                    bench.compare(&frames);
                    compared += CHUNK as u64;
                }
            }
            for (met, count) in std::iter::zip(met, counts(&bench.programs)) {
                *met += count;
            }
        });
        compared
    }

    /// An image in which every bucket has a row of its own.
    fn image(&mut self) -> Image {
        let mut image = image(2, HOST_MAC, third);
        for row in image.rows.iter_mut().flatten() {
            let meanings = [0, Row::MINE, Row::MINE | Row::SHARED, Row::LINGERING];
            *row = *row & Row::ANSWERS | self.pick(&meanings);
        }
        for rule in &mut image.rules {
            rule.cut = self.pick(&[0, 0, 0, 1]);
        }
        let masked = [&[0x02, 2], &CLUSTER_MAC[2..]].concat();
        let masked = masked.try_into().expect("it is six bytes");
        image.settings.source_mac = self.pick(&[HOST_MAC, HOST_MAC, masked, CLUSTER_MAC]);
        image.settings.icmp_to_all = self.pick(&[0, 0, 1]);
        if self.below(3) == 0 {
            // In multicast mode; the unicast MAC is the other one then.
            image.settings.cluster_mac = GROUP_MAC;
            image.settings.aliases[0] = CLUSTER_MAC;
        }
        image.settings.serving = self.pick(&[1, 1, 1, 0]);
        image
    }

    /// A segment of one of these connections, or one that is almost so.
    fn segment(&mut self, of: &[Connection]) -> Vec<u8> {
        let flags = self.next() as u8;
        let flags = self.pick(&[SYN, ACK, ACK, RST, flags]);
        let shift = self.next() as u32;
        let shift = self.pick(&[0, 0, WRONG, WRONG.wrapping_neg(), shift]);
        let body = self.noise(8);
        of[self.below(of.len())].frame(flags, shift, &body)
    }

    fn port(&mut self) -> u16 {
        let any = self.next() as u16;
        self.pick(&[80, 7, 550, 25, 60000, 65535, 90, any])
    }

    fn v4(&mut self) -> Ipv4Addr {
        let any = Ipv4Addr::from(self.bytes());
        self.pick(&[VIP4, VIP4, CLIENT4, any])
    }

    fn v6(&mut self) -> Ipv6Addr {
        let any = Ipv6Addr::from(self.bytes::<16>());
        let mapped = self.v4().to_ipv6_mapped();
        self.pick(&[VIP6, VIP6, CLIENT6, Ipv6Addr::UNSPECIFIED, mapped, any])
    }

    fn mac(&mut self) -> Mac {
        let any = self.bytes();
        self.pick(&[CLUSTER_MAC, GROUP_MAC, HOST_MAC, BROADCAST, CLIENT_MAC, any])
    }

    fn body(&mut self) -> (u8, Vec<u8>) {
        let kind = self.next() as u8;
        let kind = self.pick(&[3, 11, 12, 1, 4, 8, 128, 135, 136, kind]);
        match self.below(7) {
            0 => (ICMP, self.message(kind)),
            1 => (ICMPV6, self.message(kind)),
            2 => {
                let any = self.next() as u8;
                (self.pick(&[47, 50, 51, 132, 253, any]), self.noise(64))
            }
            3 => (UDP, ports(self.port(), self.port())),
            4 => (IGMP, icmp(self.pick(&[0x11, 0x12, 0x16, 0x17, 0x22]))),
            _ => (TCP, ports(self.port(), self.port())),
        }
    }

    /// An ICMP message: noise, or one that quotes a packet.
    fn message(&mut self, kind: u8) -> Vec<u8> {
        let quoted = match self.below(8) {
            0 => return icmp(kind),
            1 => self.noise(60),
            2..5 => {
                let (protocol, body) = self.quoted();
                let options = vec![1; 4 * self.pick(&[0, 0, 1, 10])];
                let place = self.pick(&[0, 0, 0, 0x2000, 5]);
                ipv4_with(self.v4(), self.v4(), protocol, place, &options, &body)
            }
            _ => {
                let (mut next, mut body) = self.quoted();
                for _ in 0..self.pick(&[0, 0, 0, 1, 2, 3]) {
                    (next, body) = self.wrapped(next, &body);
                }
                ipv6(self.v6(), self.v6(), next, &body)
            }
        };
        let end = self.pick(&[usize::MAX, usize::MAX, usize::MAX, 48, 28, 24]);
        quote(kind, &quoted[..quoted.len().min(end)])
    }

    fn quoted(&mut self) -> (u8, Vec<u8>) {
        let any = self.next() as u8;
        let protocol = self.pick(&[TCP, TCP, UDP, UDP, ICMP, ICMPV6, 47, 50, any]);
        (protocol, ports(self.port(), self.port()))
    }

    /// A body behind one more IPv6 extension header.
    fn wrapped(&mut self, next: u8, body: &[u8]) -> (u8, Vec<u8>) {
        match self.below(8) {
            0 => {
                let place = self.pick(&[0, 0, 1, 5]);
                let more = self.below(2) == 0;
                let mut part = fragment(next, place, more, body);
                part[7] = self.pick(&[7, 8, 9]);
                (44, part)
            }
            1 => (43, extension(next, 3, body)),
            _ => (self.pick(&[0, 60]), extension(next, 0, body)),
        }
    }

    fn v4_packet(&mut self) -> Vec<u8> {
        let (protocol, body) = self.body();
        let place = self.next() as u16;
        let place = self.pick(&[0, 0, 0, 0x4000, 0x2000, 0x2000, 1, 0x2001, place]);
        let options = vec![1; 4 * self.below(11)];
        let mut packet = ipv4_with(self.v4(), self.v4(), protocol, place, &options, &body);
        packet[5] = self.pick(&[1, 2, 3]);
        packet[8] = self.pick(&[64, 254, 255]);
        packet
    }

    fn v6_packet(&mut self) -> Vec<u8> {
        let (mut next, mut body) = self.body();
        for _ in 0..self.pick(&[0, 0, 1, 1, 2, 3, 5, 8]) {
            (next, body) = self.wrapped(next, &body);
        }
        ipv6(self.v6(), self.v6(), next, &body)
    }

    /// A frame that comes close to what the filter looks for, spoilt more often than not.
    fn frame(&mut self) -> Vec<u8> {
        let (any, from) = (self.mac(), self.mac());
        let to = self.pick(&[CLUSTER_MAC, CLUSTER_MAC, CLUSTER_MAC, GROUP_MAC, any]);
        let (kind, payload) = match self.below(8) {
            0 => {
                let sender = (self.mac(), self.v4());
                let target = (self.mac(), self.v4());
                (0x0806, arp(self.pick(&[1, 1, 2, 3]), sender, target))
            }
            1 => {
                let kind = self.pick(&[135, 136]);
                let mac = self.mac();
                (
                    0x86DD,
                    neighbour(kind, self.v6(), self.v6(), self.v6(), mac),
                )
            }
            2 => (self.pick(&[0x886F, 0xBF01, 0x88CC]), self.noise(64)),
            3 => (self.next() as u16, self.noise(128)),
            4 | 5 => (0x86DD, self.v6_packet()),
            _ => (0x0800, self.v4_packet()),
        };
        let mut frame = ethernet(to, from, kind, &payload);
        for _ in 0..self.pick(&[0, 0, 0, 1, 2, 3]) {
            frame = tagged(&frame, self.pick(&[0x8100, 0x88A8]));
        }
        for _ in 0..self.pick(&[0, 0, 1, 3]) {
            let at = self.below(frame.len());
            frame[at] = self.next() as u8;
        }
        if self.below(4) == 0 {
            frame.truncate(15.max(self.below(frame.len())));
        }
        // BPF_PROG_TEST_RUN takes nothing shorter.
        frame.resize(frame.len().max(15), 0);
        frame
    }
}

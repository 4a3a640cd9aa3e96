//! What a host pays for packets that are not its own: all hosts receive everything, so this is the price of the whole
//! method. The filter against netfilter's ways to do the same, and against doing nothing. `cargo xtask bench flood`
//! runs it; it needs root and two CPUs.
//!
//! TCP segments of 65,536 flows of other hosts are sent as fast as it goes, by BPF_PROG_TEST_RUN with live frames that
//! are redirected into a veth pair; there are no skbs yet, as in a NIC's driver. What is told is CPU time per packet on
//! the host's side, in two settings, because a NIC lies somewhere between: the host receives on the sender's CPU, and
//! the packets are in its cache; or on another, and they come from that one's.

mod common;
#[path = "../../filter/tests/frames/mod.rs"]
mod frames;
#[path = "../tests/segment/mod.rs"]
mod segment;

use aya::programs::{TestRun, TestRunOptions, XdpMode};
use common::bars::{Bar, svg};
use common::traffic::{
    CLUSTER_MAC, FRAMES, Generator, HEAD, HOST_MAC, Random, Size, frames_that_are,
};
use common::{cpu, median, shell};
use covey::datapath::{Attach, DataPath};
use covey_filter::Reason;
use frames::{ACK, Mac, TCP, ipv4, to_ipv4};
use segment::{INTERFACE, Segment};
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 9;
const WARM_UP: Duration = Duration::from_millis(200);
/// A run is cut into slices, and what the middle one says is taken: on a machine that others use too some are far off.
const SLICES: usize = 5;
const SLICE: Duration = Duration::from_millis(300);
/// Packets in one call, and in one batch of it: as many as NAPI takes at a time.
const REPEAT: u32 = 65_536;
const BATCH: u32 = 64;
const SENDER: usize = 0;
const RECEIVER: usize = 1;
/// The share of host 1 of 3, everywhere.
const SIZE: Size = Size {
    pairs: 1,
    rules: 1,
    hosts: 3,
};
const SEED: u32 = 0xC0FE_BABE;

/// Where the host receives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Setting {
    /// On the sender's CPU, in its softirq: what the sender does for itself is measured alone and subtracted.
    SameCpu,
    /// In a thread that has another CPU to itself.
    OtherCpu,
}

/// Ways to be rid of the others' packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    Floor,
    Covey,
    CoveyGeneric,
    NftIngress,
    NftPrerouting,
    ClusterMatch,
    Nothing,
}

impl Contender {
    const ALL: [Self; 7] = [
        Self::Floor,
        Self::Covey,
        Self::CoveyGeneric,
        Self::NftIngress,
        Self::NftPrerouting,
        Self::ClusterMatch,
        Self::Nothing,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Floor => "an XDP program that drops everything",
            Self::Covey => "Covey",
            Self::CoveyGeneric => "Covey, generic XDP",
            Self::NftIngress => "nft jhash, netdev ingress",
            Self::NftPrerouting => "nft jhash, prerouting raw",
            Self::ClusterMatch => "iptables -m cluster",
            Self::Nothing => "no filter",
        }
    }

    /// How the others' packets come: the cluster MAC is Covey's; the recipes of netfilter see the host's own.
    const fn mac(self) -> Mac {
        match self {
            Self::Covey | Self::CoveyGeneric => CLUSTER_MAC,
            Self::Floor
            | Self::NftIngress
            | Self::NftPrerouting
            | Self::ClusterMatch
            | Self::Nothing => HOST_MAC,
        }
    }
}

/// What has been set up for a contender, and is taken down again.
enum Running {
    DataPath(Box<DataPath>),
    Xdp(Box<Generator>),
    Command(&'static str),
    Nothing,
}

/// Two network namespaces and two generators.
struct Rig {
    segment: Segment,
    generator: Generator,
    /// Sends nowhere.
    idle: Generator,
    setting: Setting,
    /// The kernel's thread that does what the host has to do and the sender does not.
    helper: u32,
}

/// CPU time and packets of a run.
struct Sent {
    time: Duration,
    packets: u64,
}

impl Rig {
    fn new() -> Self {
        let segment = Segment::new();
        segment.host_ip("addr add 10.77.1.0/32 dev lo");
        // GRO makes veth receive by NAPI without XDP too.
        let line = format!(
            "ethtool -K {INTERFACE} gro on && sysctl -qw net.ipv4.conf.all.rp_filter=0 \
             net.ipv4.conf.{INTERFACE}.rp_filter=0"
        );
        segment.on_host(|| shell(&line));
        let index = segment.on_client(interface_index);
        Self {
            segment,
            generator: Generator::load(index),
            idle: Generator::load(0),
            setting: Setting::SameCpu,
            helper: 0,
        }
    }

    fn set(&mut self, setting: Setting) {
        let name = format!("napi/{INTERFACE}-");
        let others = cpu::kernel_threads(&name);
        let threaded = u8::from(setting == Setting::OtherCpu);
        // /sys shows the namespace in which it is mounted.
        let line = format!(
            "unshare --mount sh -c \
             'mount -t sysfs none /sys && echo {threaded} > /sys/class/net/{INTERFACE}/threaded'"
        );
        self.segment.on_host(|| shell(&line));
        self.setting = setting;
        self.helper = match setting {
            // Softirqs that have to wait.
            Setting::SameCpu => only(&cpu::kernel_threads(&format!("ksoftirqd/{SENDER}"))),
            Setting::OtherCpu => {
                let mut receivers = cpu::kernel_threads(&name);
                receivers.retain(|thread| !others.contains(thread));
                only(&receivers)
            }
        };
        if setting == Setting::OtherCpu {
            cpu::pin(self.helper, RECEIVER);
        }
    }

    /// What is sent from now on.
    fn set_frames(&mut self, frames: &[Vec<u8>]) {
        self.generator.set_frames(frames);
        self.idle.set_frames(frames);
    }

    /// Nanoseconds of the host's CPU time per packet.
    fn measure(&mut self, contender: Contender) -> f64 {
        let running = self.segment.on_host(|| set_up(contender));
        send(&self.segment, &mut self.generator, WARM_UP);
        let before = self.received();
        let slices: Vec<f64> = (0..SLICES).map(|_| self.slice()).collect();
        let packets = self.received() - before;
        let dropped = self.segment.on_host(|| take_down(running));
        // It was the contender that dropped them, in the warming up too.
        if let Some(dropped) = dropped {
            assert!(
                dropped >= packets,
                "{}: {dropped} of {packets} packets were dropped",
                contender.name()
            );
        }
        median(&slices)
    }

    /// A short run of [`measure`](Self::measure).
    fn slice(&mut self) -> f64 {
        let (packets, helped) = (self.received(), cpu::of_thread(self.helper));
        let sent = send(&self.segment, &mut self.generator, SLICE);
        let packets = self.received() - packets;
        let helped = cpu::of_thread(self.helper) - helped;
        match self.setting {
            Setting::OtherCpu => helped.as_nanos() as f64 / packets as f64,
            Setting::SameCpu => {
                // The kernel itself may send one or two.
                assert!(packets >= sent.packets, "packets were lost on the way");
                let time = sent.time + helped;
                let alone = send(&self.segment, &mut self.idle, SLICE);
                time.as_nanos() as f64 / packets as f64
                    - alone.time.as_nanos() as f64 / alone.packets as f64
            }
        }
    }

    /// Packets that the host's interface has taken from the wire.
    fn received(&self) -> u64 {
        let link = self
            .segment
            .host_ip(&format!("-s -j link show {INTERFACE}"));
        let link: serde_json::Value = serde_json::from_str(&link).expect("ip prints JSON");
        let packets = &link[0]["stats64"]["rx"]["packets"];
        packets.as_u64().expect("interfaces count")
    }
}

/// Sends for that long, as fast as its CPU can.
fn send(segment: &Segment, generator: &mut Generator, time: Duration) -> Sent {
    let flood = generator.program("flood");
    let sent = segment.on_client(|| {
        cpu::pin(0, SENDER);
        let (start, before, mut packets) = (Instant::now(), cpu::of_this_thread(), 0);
        while start.elapsed() < time {
            let mut options = TestRunOptions::new();
            options.data_in = Some(&[0; HEAD]);
            options.repeat = REPEAT;
            options.attrs = options.attrs.xdp_live_frames(BATCH);
            flood.test_run(options).expect("the kernel sends");
            packets += u64::from(REPEAT);
        }
        Sent {
            time: cpu::of_this_thread() - before,
            packets,
        }
    });
    // What is in the ring belongs to this run.
    thread::sleep(Duration::from_millis(20));
    sent
}

fn set_up(contender: Contender) -> Running {
    let covey = |attach| {
        let pins = covey::datapath::pin_dir(INTERFACE).expect("/proc is mounted");
        let path = DataPath::open(INTERFACE, &pins, attach, &SIZE.image(false));
        let path = path.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(path.attach(), attach);
        path.set_lease(u64::MAX);
        Running::DataPath(Box::new(path))
    };
    match contender {
        Contender::Floor => {
            let mut programs = Generator::load(0);
            let floor = programs.program("floor");
            floor
                .attach(INTERFACE, XdpMode::Driver)
                .expect("veth takes XDP programs");
            Running::Xdp(Box::new(programs))
        }
        Contender::Covey => covey(Attach::Native),
        Contender::CoveyGeneric => covey(Attach::Generic),
        Contender::NftIngress => {
            shell(&format!(
                "nft 'add table netdev bench; \
                 add chain netdev bench in {{ type filter hook ingress device {INTERFACE} priority 0; }}; \
                 add rule netdev bench in jhash ip saddr mod 3 seed {SEED:#x} != 0 counter drop'"
            ));
            Running::Command("nft list table netdev bench && nft delete table netdev bench")
        }
        Contender::NftPrerouting => {
            shell(&format!(
                "nft 'add table ip bench; \
                 add chain ip bench pre {{ type filter hook prerouting priority raw; }}; \
                 add rule ip bench pre jhash ip saddr mod 3 seed {SEED:#x} != 0 counter drop'"
            ));
            Running::Command("nft list table ip bench && nft delete table ip bench")
        }
        Contender::ClusterMatch => {
            // As in iptables-extensions(8). Hardware would have checked the checksums.
            shell(&format!(
                "iptables-legacy -t mangle -A PREROUTING -i {INTERFACE} -m cluster --cluster-total-nodes 3 \
                 --cluster-local-node 1 --cluster-hash-seed {SEED:#x} -j MARK --set-mark 0xffff && \
                 iptables-legacy -t mangle -A PREROUTING -i {INTERFACE} -m mark ! --mark 0xffff -j DROP && \
                 sysctl -qw net.netfilter.nf_conntrack_checksum=0"
            ));
            Running::Command(
                "iptables-legacy -t mangle -vnxL PREROUTING | \
                 awk '/DROP/ { print \"counter packets\", $1 }' && iptables-legacy -t mangle -F",
            )
        }
        Contender::Nothing => Running::Nothing,
    }
}

/// How many packets it has dropped, if it can say.
fn take_down(running: Running) -> Option<u64> {
    match running {
        Running::DataPath(path) => {
            let counters = path.counters().expect("they can be read");
            path.close().expect("what was attached can be detached");
            let not_mine = |(reason, count)| (reason == Reason::NotMine).then_some(count);
            counters.by_reason().find_map(not_mine)
        }
        Running::Xdp(programs) => {
            drop(programs);
            // The kernel detaches it some time later.
            shell(&format!(
                "while ip link show dev {INTERFACE} | grep -q xdp; do sleep 0.01; done"
            ));
            None
        }
        Running::Nothing => None,
        Running::Command(command) => {
            let said = shell(command);
            let mut words = said
                .split_whitespace()
                .skip_while(|word| *word != "packets");
            words.nth(1)?.parse().ok()
        }
    }
}

/// Frames of other hosts: by Covey's map, or by the hash of netfilter.
fn frames(contender: Contender) -> Vec<Vec<u8>> {
    let mut random = Random::new(SIZE);
    let mut draw = || {
        let ((from, vip), (client, port)) = (random.ipv4(), random.ports());
        let mut header = frames::segment(client, port, ACK, 1);
        let sum = tcp_checksum(from, vip, &header);
        header[16..18].copy_from_slice(&sum.to_be_bytes());
        (
            from,
            to_ipv4(contender.mac(), &ipv4(from, vip, TCP, &header)),
        )
    };
    if contender.mac() == CLUSTER_MAC {
        frames_that_are(&[Reason::NotMine], &SIZE.image(false), || draw().1)
    } else {
        std::iter::repeat_with(draw)
            .filter(|(from, _)| netfilter_node(*from, 3) != 0)
            .map(|(_, frame)| frame)
            .take(FRAMES)
            .collect()
    }
}

/// Which of so many nodes netfilter's hash gives a client to (include/linux/jhash.h, of one word). The counters of the
/// rules show whether this is right.
fn netfilter_node(client: Ipv4Addr, nodes: u32) -> u32 {
    let start = 0xDEAD_BEEF_u32.wrapping_add(4).wrapping_add(SEED);
    let (mut a, mut b, mut c) = (
        start.wrapping_add(u32::from_ne_bytes(client.octets())),
        start,
        start,
    );
    let mix = |to: &mut u32, from: u32, by| *to = (*to ^ from).wrapping_sub(from.rotate_left(by));
    mix(&mut c, b, 14);
    mix(&mut a, c, 11);
    mix(&mut b, a, 25);
    mix(&mut c, b, 16);
    mix(&mut a, c, 4);
    mix(&mut b, a, 14);
    mix(&mut c, b, 24);
    ((u64::from(c) * u64::from(nodes)) >> 32) as u32
}

/// RFC 9293, 3.1.
fn tcp_checksum(from: Ipv4Addr, to: Ipv4Addr, header: &[u8]) -> u16 {
    let pseudo = [0, TCP, 0, header.len() as u8];
    let bytes = [&from.octets()[..], &to.octets(), &pseudo, header].concat();
    let words = bytes.chunks_exact(2);
    let mut sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

fn only(threads: &[u32]) -> u32 {
    match threads {
        [thread] => *thread,
        _ => panic!(
            "{} threads of the kernel have that name, not one",
            threads.len()
        ),
    }
}

fn interface_index() -> u32 {
    let found = covey::host::Interface::find(INTERFACE).expect("interfaces can be read");
    found.expect("the segment has it").index
}

fn main() {
    if !common::wanted("flood") {
        return;
    }
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("SKIPPED flood: it needs two CPUs");
        return;
    }
    let mut rig = Rig::new();
    let tables = [Contender::Nothing, Contender::Covey].map(frames);
    let mut bars = Vec::new();
    for (setting, name) in [
        (
            Setting::SameCpu,
            "on the CPU that the packets are in the cache of",
        ),
        (Setting::OtherCpu, "on another CPU"),
    ] {
        rig.set(setting);
        let mut costs = Contender::ALL.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (contender, costs) in Contender::ALL.into_iter().zip(&mut costs) {
                rig.set_frames(&tables[usize::from(contender.mac() == CLUSTER_MAC)]);
                costs.push(rig.measure(contender));
            }
        }
        println!(
            "| {name} | CPU time per packet (least, most) | packets per CPU second | of `-m cluster` |"
        );
        println!("|---|---:|---:|---:|");
        bars.extend(rows(setting, &costs));
        println!();
    }
    println!(
        "Medians of {ROUNDS} runs, in turn; each is the median of {SLICES} slices of {} ms.",
        SLICE.as_millis()
    );
    let title =
        "Millions of other hosts' packets per second of CPU time (red: received on another CPU)";
    common::draw("bench-flood.svg", &svg(title, &bars, None));
}

/// Prints a row for each contender; its bars.
fn rows(setting: Setting, costs: &[Vec<f64>]) -> Vec<Bar> {
    let peer = Contender::ALL
        .iter()
        .position(|of| *of == Contender::ClusterMatch);
    let peer = median(&costs[peer.expect("it is one of them")]);
    let row = |(contender, costs): (Contender, &Vec<f64>)| {
        let (name, cost) = (contender.name(), median(costs));
        let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = costs.iter().copied().fold(0.0, f64::max);
        let millions = 1e3 / cost;
        println!(
            "| {name} | {cost:.0} ns ({least:.0}, {most:.0}) | {millions:.2} million | {:.1} |",
            peer / cost
        );
        Bar {
            name: name.to_owned(),
            value: millions,
            label: format!("{millions:.2}"),
            group: usize::from(setting == Setting::OtherCpu),
        }
    };
    Contender::ALL.into_iter().zip(costs).map(row).collect()
}

//! What the filter costs per packet, over an empty program that drops: BPF_PROG_TEST_RUN of the very program that
//! the daemon attaches. `cargo xtask bench filter` runs it; it needs root.
//!
//! The kernel runs one packet many times over. So that each is another one, a program stands before the filter
//! (`replay` in ebpf/src/bench.rs) that writes the next of 65,536 frames over the packet and goes on with the filter by a
//! tail call; it goes on with the empty program in turn, and the difference is the filter. What is counted is the
//! CPU time of this thread, so that others on the machine take nothing but the caches.

mod common;
#[path = "../../filter/tests/frames/mod.rs"]
mod frames;

use aya::programs::{ProgramFd, TestRun, TestRunOptions};
use common::bars::{Bar, svg};
use common::traffic::{CLUSTER_MAC, Generator, HEAD, HOST_MAC, Random, Size, frames_that_are};
use common::{cpu, median};
use covey::datapath::Programs;
use covey_filter::Reason;
use covey_proto::datapath::Image;
use frames::{
    ACK, BROADCAST, CLIENT_MAC, ICMP, ICMPV6, Mac, TCP, UDP, arp, ethernet, fragment, icmp, ipv4,
    ipv4_with, ipv6, ports, quote, segment, to_ipv4, to_ipv6,
};
use std::rc::Rc;

/// Packets in a run, and runs of which the median is told.
const REPEAT: u32 = 1_000_000;
const ROUNDS: usize = 9;

const SMALLEST: Size = Size {
    pairs: 1,
    rules: 1,
    hosts: 2,
};
const LARGEST: Size = Size {
    pairs: 32,
    rules: 64,
    hosts: 64,
};

/// Packets that the filter treats alike.
struct Case {
    name: &'static str,
    /// How the filter may see them: what it is to do about them.
    reasons: &'static [Reason],
    /// Whether every bucket may have connections elsewhere.
    overlap: bool,
    draw: fn(&mut Random) -> Vec<u8>,
    /// At most so many nanoseconds over the floor are wanted.
    target: Option<f64>,
}

impl Case {
    fn is_taken(&self) -> bool {
        let taken = [Reason::Mine, Reason::FragmentMine, Reason::QuestionMine];
        self.reasons.iter().all(|reason| taken.contains(reason))
    }
}

const fn case(
    name: &'static str,
    reasons: &'static [Reason],
    draw: fn(&mut Random) -> Vec<u8>,
) -> Case {
    Case {
        name,
        reasons,
        overlap: false,
        draw,
        target: None,
    }
}

const fn wanted(target: f64, case: Case) -> Case {
    Case {
        target: Some(target),
        ..case
    }
}

const fn overlapping(case: Case) -> Case {
    Case {
        overlap: true,
        ..case
    }
}

const MINE: &[Reason] = &[Reason::Mine];
const NOT_MINE: &[Reason] = &[Reason::NotMine];
const UNCLAIMED: &[Reason] = &[Reason::Unclaimed];
const PARTS_MINE: &[Reason] = &[Reason::Mine, Reason::FragmentMine];
const PARTS_NOT_MINE: &[Reason] = &[Reason::NotMine, Reason::FragmentNotMine];

const CASES: [Case; 25] = [
    case("to another machine", &[Reason::OtherMac], |random| {
        tcp4([2, 0, 0, 0, 0, 1], random)
    }),
    case("to this host alone", &[Reason::OwnMac], |random| {
        tcp4(HOST_MAC, random)
    }),
    wanted(20.0, case("IPv4 TCP, not mine", NOT_MINE, to_us)),
    wanted(20.0, case("IPv4 UDP, not mine", NOT_MINE, udp4)),
    wanted(35.0, case("IPv6 TCP, not mine", NOT_MINE, tcp6)),
    wanted(35.0, case("IPv6 UDP, not mine", NOT_MINE, udp6)),
    wanted(50.0, case("IPv4 TCP, mine", MINE, to_us)),
    wanted(50.0, case("IPv4 UDP, mine", MINE, udp4)),
    wanted(65.0, case("IPv6 TCP, mine", MINE, tcp6)),
    wanted(65.0, case("IPv6 UDP, mine", MINE, udp6)),
    overlapping(case("IPv4 TCP, lingering, no such socket", NOT_MINE, to_us)),
    overlapping(case("IPv4 TCP, shared, no such socket", UNCLAIMED, to_us)),
    overlapping(case("IPv6 TCP, lingering, no such socket", NOT_MINE, tcp6)),
    overlapping(case("IPv6 TCP, shared, no such socket", UNCLAIMED, tcp6)),
    case("IPv4 ICMP echo, not mine", NOT_MINE, echo4),
    case("IPv4 ICMP echo, mine", MINE, echo4),
    case("IPv6 ICMP echo, not mine", NOT_MINE, echo6),
    case("IPv6 ICMP echo, mine", MINE, echo6),
    case("IPv4 ICMP error, not mine", NOT_MINE, error4),
    case("IPv4 ESP, not mine", NOT_MINE, esp4),
    case(
        "IPv4 UDP in two fragments, not mine",
        PARTS_NOT_MINE,
        parts4,
    ),
    case(
        "IPv6 UDP in two fragments, not mine",
        PARTS_NOT_MINE,
        parts6,
    ),
    case("IPv4 UDP in two fragments, mine", PARTS_MINE, parts4),
    case(
        "ARP question, not mine",
        &[Reason::QuestionNotMine],
        question,
    ),
    case("ARP question, mine", &[Reason::QuestionMine], question),
];

fn tcp4(to: Mac, random: &mut Random) -> Vec<u8> {
    let ((from, vip), (client, port)) = (random.ipv4(), random.ports());
    to_ipv4(to, &ipv4(from, vip, TCP, &segment(client, port, ACK, 1)))
}

fn to_us(random: &mut Random) -> Vec<u8> {
    tcp4(CLUSTER_MAC, random)
}

fn udp4(random: &mut Random) -> Vec<u8> {
    let ((from, vip), (client, port)) = (random.ipv4(), random.ports());
    to_ipv4(CLUSTER_MAC, &ipv4(from, vip, UDP, &ports(client, port)))
}

fn echo4(random: &mut Random) -> Vec<u8> {
    let (from, vip) = random.ipv4();
    to_ipv4(CLUSTER_MAC, &ipv4(from, vip, ICMP, &icmp(8)[..16]))
}

fn tcp6(random: &mut Random) -> Vec<u8> {
    let ((from, vip), (client, port)) = (random.ipv6(), random.ports());
    to_ipv6(
        CLUSTER_MAC,
        &ipv6(from, vip, TCP, &segment(client, port, ACK, 1)),
    )
}

fn udp6(random: &mut Random) -> Vec<u8> {
    let ((from, vip), (client, port)) = (random.ipv6(), random.ports());
    to_ipv6(
        CLUSTER_MAC,
        &ipv6(from, vip, UDP, &ports(client, port)[..8]),
    )
}

fn echo6(random: &mut Random) -> Vec<u8> {
    let (from, vip) = random.ipv6();
    to_ipv6(CLUSTER_MAC, &ipv6(from, vip, ICMPV6, &icmp(128)[..8]))
}

/// A router says that it cannot pass on what a virtual IP has sent.
fn error4(random: &mut Random) -> Vec<u8> {
    let ((client, vip), (from, port)) = (random.ipv4(), random.ports());
    let sent = ipv4(vip, client, TCP, &ports(port, from)[..8]);
    to_ipv4(CLUSTER_MAC, &ipv4(client, vip, ICMP, &quote(3, &sent)))
}

fn esp4(random: &mut Random) -> Vec<u8> {
    const ESP: u8 = 50;
    let (from, vip) = random.ipv4();
    to_ipv4(CLUSTER_MAC, &ipv4(from, vip, ESP, &[0; 16]))
}

/// The two fragments of a packet, one after the other.
fn parts4(random: &mut Random) -> Vec<u8> {
    const MORE: u16 = 0x2000;
    random.two_by_two(|random| {
        let ((from, vip), (client, port)) = (random.ipv4(), random.ports());
        let payload = ports(client, port);
        [(MORE, &payload[..16]), (2, &payload[16..])].map(|(fragment, part)| {
            to_ipv4(CLUSTER_MAC, &ipv4_with(from, vip, UDP, fragment, &[], part))
        })
    })
}

fn parts6(random: &mut Random) -> Vec<u8> {
    const FRAGMENT: u8 = 44;
    random.two_by_two(|random| {
        let ((from, vip), (client, port)) = (random.ipv6(), random.ports());
        let payload = ports(client, port);
        [(0, true, &payload[..16]), (2, false, &payload[16..])].map(|(offset, more, part)| {
            let part = fragment(UDP, offset, more, part);
            to_ipv6(CLUSTER_MAC, &ipv6(from, vip, FRAGMENT, &part))
        })
    })
}

fn question(random: &mut Random) -> Vec<u8> {
    let (from, vip) = random.ipv4();
    let packet = arp(1, (CLIENT_MAC, from), ([0; 6], vip));
    ethernet(BROADCAST, CLIENT_MAC, 0x0806, &packet)
}

/// Runs the filter and the empty program in turn.
struct Rig {
    generator: Generator,
    programs: Programs,
    floor: Rc<ProgramFd>,
    filter: Rc<ProgramFd>,
}

impl Rig {
    fn new(image: &Image) -> Result<Self, String> {
        let mut programs = Programs::load(image).map_err(|error| error.to_string())?;
        programs.set_lease(u64::MAX);
        let filter = programs.ingress().fd().expect("it is loaded");
        let filter = filter.try_clone().expect("descriptors are left");
        let mut generator = Generator::load(0);
        Ok(Self {
            floor: Rc::new(generator.fd("floor")),
            filter: Rc::new(filter),
            programs,
            generator,
        })
    }

    /// Nanoseconds per packet of the empty program with all that is around it, and of the filter over that.
    fn measure(&mut self, case: &Case, size: Size) -> [f64; 2] {
        let image = size.image(case.overlap);
        let mut random = Random::new(size);
        let frames = frames_that_are(case.reasons, &image, || (case.draw)(&mut random));
        self.programs.program(&image);
        self.generator.set_frames(&frames);
        let frame = &frames[0];
        let before = self.counted(case.reasons);
        let (floor, filter) = (self.floor.clone(), self.filter.clone());
        let rounds: Vec<[f64; 2]> = (0..ROUNDS)
            .map(|_| [&floor, &filter].map(|program| self.run(program, frame)))
            .collect();
        // They went through the filter, and it saw in them what it was to see.
        let seen = self.counted(case.reasons) - before;
        assert_eq!(seen, u64::from(REPEAT) * ROUNDS as u64, "{}", case.name);
        let floor: Vec<f64> = rounds.iter().map(|[floor, _]| *floor).collect();
        let over: Vec<f64> = rounds
            .iter()
            .map(|[floor, filter]| filter - floor)
            .collect();
        [median(&floor), median(&over)]
    }

    fn run(&mut self, program: &ProgramFd, frame: &[u8]) -> f64 {
        // Not shorter than what is written over it.
        let mut packet = [0; HEAD];
        packet[..frame.len()].copy_from_slice(frame);
        self.generator.set_next(program);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&packet);
        options.repeat = REPEAT;
        let replay = self.generator.program("replay");
        let start = cpu::of_this_thread();
        replay.test_run(options).expect("the kernel runs it");
        (cpu::of_this_thread() - start).as_nanos() as f64 / f64::from(REPEAT)
    }

    fn counted(&self, reasons: &[Reason]) -> u64 {
        let counters = self.programs.counters().expect("they can be read");
        counters
            .by_reason()
            .map(|(of, count)| u64::from(reasons.contains(&of)) * count)
            .sum()
    }

    /// How large the filter is.
    fn describe(&mut self) -> String {
        let info = self.programs.ingress().info().expect("it is loaded");
        let number = |value: Option<u32>| value.map_or("?".to_owned(), |value| value.to_string());
        format!(
            "The filter is {} instructions, {} bytes of machine code; the verifier looked at {} instructions.",
            number(info.size_translated().map(|bytes| bytes / 8)),
            info.size_jitted(),
            number(info.verified_instruction_count())
        )
    }
}

fn main() {
    if !common::wanted("filter") {
        return;
    }
    let mut rig = match Rig::new(&SMALLEST.image(false)) {
        Ok(rig) => rig,
        Err(error) => {
            println!("SKIPPED filter: {error}");
            return;
        }
    };
    println!("{}", rig.describe());
    println!();
    println!("| packet | over the floor | wanted |");
    println!("|---|---:|---:|");
    let mut bars = Vec::new();
    let mut floors = Vec::new();
    for case in &CASES {
        let [floor, over] = rig.measure(case, LARGEST);
        floors.push(floor);
        let target = case
            .target
            .map_or(String::new(), |most| format!("{most} ns"));
        println!("| {} | {over:.1} ns | {target} |", case.name);
        bars.push(Bar {
            name: case.name.to_owned(),
            value: over,
            label: format!("{over:.1}"),
            group: usize::from(case.is_taken()),
        });
    }
    println!();
    println!(
        "The floor with the generator is {:.1} ns; {REPEAT} packets in a run, medians of {ROUNDS} runs.",
        median(&floors)
    );
    println!();
    sizes(&mut rig);
    let title = "Nanoseconds per packet over an empty XDP program (red: the host takes it)";
    common::draw("bench-filter.svg", &svg(title, &bars, None));
}

/// What the cost depends on: not on this.
fn sizes(rig: &mut Rig) {
    let columns = [
        "IPv4 TCP, not mine",
        "IPv4 TCP, mine",
        "IPv6 TCP, not mine",
        "IPv6 TCP, mine",
    ];
    println!("| addresses | rules | hosts | {} |", columns.join(" | "));
    println!("|---:|---:|---:|---:|---:|---:|---:|");
    let sizes = [
        SMALLEST,
        Size {
            pairs: 8,
            ..SMALLEST
        },
        Size {
            pairs: 32,
            ..SMALLEST
        },
        Size {
            rules: 16,
            ..SMALLEST
        },
        Size {
            rules: 64,
            ..SMALLEST
        },
        Size {
            hosts: 16,
            ..SMALLEST
        },
        Size {
            hosts: 64,
            ..SMALLEST
        },
        LARGEST,
    ];
    for size in sizes {
        let costs = columns.map(|name| {
            let mut cases = CASES.iter();
            let case = cases
                .find(|case| case.name == name)
                .expect("it is in the list");
            let [_, over] = rig.measure(case, size);
            format!("{over:.1} ns")
        });
        let Size {
            pairs,
            rules,
            hosts,
        } = size;
        println!(
            "| {} | {rules} | {hosts} | {} |",
            2 * pairs,
            costs.join(" | ")
        );
    }
}

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
    ACK, BROADCAST, CLIENT_MAC, ICMP, ICMPV6, Mac, TCP, UDP, arp, ethernet, icmp, ipv4, ipv6,
    ports, segment, to_ipv4, to_ipv6,
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
    reason: Reason,
    /// Whether every bucket may have connections elsewhere.
    overlap: bool,
    draw: fn(&mut Random) -> Vec<u8>,
    /// At most so many nanoseconds over the floor are wanted.
    target: Option<f64>,
}

const fn case(name: &'static str, reason: Reason, draw: fn(&mut Random) -> Vec<u8>) -> Case {
    Case {
        name,
        reason,
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

const CASES: [Case; 20] = [
    case("to another machine", Reason::OtherMac, |random| {
        tcp4([2, 0, 0, 0, 0, 1], random)
    }),
    case("to this host alone", Reason::OwnMac, |random| {
        tcp4(HOST_MAC, random)
    }),
    wanted(20.0, case("IPv4 TCP, not mine", Reason::NotMine, to_us)),
    wanted(20.0, case("IPv4 UDP, not mine", Reason::NotMine, udp4)),
    case("IPv4 ICMP echo, not mine", Reason::NotMine, echo4),
    wanted(35.0, case("IPv6 TCP, not mine", Reason::NotMine, tcp6)),
    wanted(35.0, case("IPv6 UDP, not mine", Reason::NotMine, udp6)),
    case("IPv6 ICMP echo, not mine", Reason::NotMine, echo6),
    wanted(50.0, case("IPv4 TCP, mine", Reason::Mine, to_us)),
    wanted(50.0, case("IPv4 UDP, mine", Reason::Mine, udp4)),
    case("IPv4 ICMP echo, mine", Reason::Mine, echo4),
    wanted(65.0, case("IPv6 TCP, mine", Reason::Mine, tcp6)),
    wanted(65.0, case("IPv6 UDP, mine", Reason::Mine, udp6)),
    case("IPv6 ICMP echo, mine", Reason::Mine, echo6),
    case("ARP question, not mine", Reason::QuestionNotMine, question),
    case("ARP question, mine", Reason::QuestionMine, question),
    overlapping(case(
        "IPv4 TCP, lingering, no such socket",
        Reason::NotMine,
        to_us,
    )),
    overlapping(case(
        "IPv4 TCP, shared, no such socket",
        Reason::Unclaimed,
        to_us,
    )),
    overlapping(case(
        "IPv6 TCP, lingering, no such socket",
        Reason::NotMine,
        tcp6,
    )),
    overlapping(case(
        "IPv6 TCP, shared, no such socket",
        Reason::Unclaimed,
        tcp6,
    )),
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
        let frames = frames_that_are(case.reason, &image, || (case.draw)(&mut random));
        self.programs.program(&image);
        self.generator.set_frames(&frames);
        let frame = &frames[0];
        let before = self.counted(case.reason);
        let (floor, filter) = (self.floor.clone(), self.filter.clone());
        let rounds: Vec<[f64; 2]> = (0..ROUNDS)
            .map(|_| [&floor, &filter].map(|program| self.run(program, frame)))
            .collect();
        // They went through the filter, and it saw in them what it was to see.
        let seen = self.counted(case.reason) - before;
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

    fn counted(&self, reason: Reason) -> u64 {
        let counters = self.programs.counters().expect("they can be read");
        counters
            .into_iter()
            .map(|(of, count)| u64::from(of == reason) * count)
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
            group: usize::from(case.reason == Reason::Mine),
        });
    }
    println!();
    println!(
        "The floor with the generator is {:.1} ns; {REPEAT} packets in a run, medians of {ROUNDS} runs.",
        median(&floors)
    );
    println!();
    sizes(&mut rig);
    let title = "Nanoseconds per packet over an empty XDP program";
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

//! How long a crash darkens how much, in Covey and in two programs that move one address from host to host, in the same
//! network of three hosts and with the same crash: the host's link is cut and its program killed.
//! docs/benchmarks.md, "Blackout after a crash".
//!
//! Thirty source ports send a datagram every 2 ms each. The blackout is the longest time between two datagrams of one
//! port that were answered, over the ports of the host that crashed; the dark share is the part of all ports that
//! were that host's.

use crate::common;
use crate::echo::{Probe, Record};
use crate::lab::{Lab, Timing};
use crate::plot::{self, Row};
use crate::rivals::{Rival, Standby};
use crate::{sniffer, timing};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Crashes of each.
const CRASHES: usize = 20;
/// Crashes in one lab: a host of Covey's that is lost three times is kept out for a while.
const IN_ONE_LAB: usize = 5;
/// The ports that are probed.
const PORTS: std::ops::Range<u16> = 61_000..61_030;
/// How long there is light before and after.
const LIGHT: Duration = Duration::from_millis(300);
/// The golden ratio: its multiples are spread evenly over whole numbers, however many there are.
const SPREAD: f64 = 0.618_033_988_75;
/// How long rivals may take to settle.
const PATIENCE: Duration = Duration::from_secs(60);

const COVEY: [Timing; 6] = [
    timing(10, 3),
    timing(20, 3),
    timing(20, 8),
    // For comparison: as many periods as VRRP waits for.
    timing(50, 3),
    timing(1000, 3),
    timing(1000, 5),
];
const RIVALS: [Rival; 5] = [
    Rival::Keepalived { interval_ms: 10 },
    Rival::Keepalived { interval_ms: 20 },
    Rival::Keepalived { interval_ms: 50 },
    Rival::Keepalived { interval_ms: 1000 },
    Rival::Ucarp { base_s: 1 },
];

/// What one crash did.
struct Crash {
    blackout: Duration,
    /// Part of all ports.
    share: f64,
    /// The longest gap on the other ports, which is the machine's noise.
    others: Duration,
}

impl Crash {
    /// `None` if nobody was served by the host that crashed: a standby's master may have changed just before.
    fn of(victim: u8, record: &Record) -> Option<Self> {
        let gaps = record.gaps();
        let longest = |of_victim: bool| {
            let gaps = gaps.iter();
            let gaps = gaps.filter(|(owner, _)| (*owner == Some(victim)) == of_victim);
            gaps.map(|(_, gap)| *gap).max().unwrap_or_default()
        };
        let dark = gaps.iter().filter(|(owner, _)| *owner == Some(victim));
        let dark = dark.count();
        (dark > 0).then(|| Self {
            blackout: longest(true),
            share: dark as f64 / gaps.len() as f64,
            others: longest(false),
        })
    }
}

/// All, or those with one of these words in their names.
pub(crate) fn measure(only: &[&str]) {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| name.contains(one));
    println!(
        "{:<24} {:>7} {:>11} {:>11} {:>11} {:>10} {:>12}",
        "", "crashes", "least", "median", "most", "dark share", "others' gap"
    );
    let mut rows = Vec::new();
    for timing in COVEY {
        let name = format!("Covey, {timing}");
        if wanted(&name) {
            rows.push(row(name, &covey(timing)));
        }
    }
    for rival in RIVALS {
        let name = rival.to_string();
        if wanted(&name) {
            rows.push(row(name, &standby(rival)));
        }
    }
    if only.is_empty() {
        let title = "blackout after a crash: least, median and most";
        let picture = plot::dots(title, &rows);
        common::draw("bench-blackout.svg", &picture);
    }
}

fn row(name: String, crashes: &[Crash]) -> Row {
    let mut times: Vec<Duration> = crashes.iter().map(|crash| crash.blackout).collect();
    times.sort_unstable();
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let share = crashes.iter().map(|crash| crash.share).sum::<f64>() / crashes.len() as f64;
    println!(
        "{name:<24} {:>7} {:>11} {:>11} {:>11} {:>8.0} % {:>12}",
        crashes.len(),
        ms(times[0]),
        ms(times[times.len() / 2]),
        ms(times[times.len() - 1]),
        share * 100.0,
        ms(crashes
            .iter()
            .map(|crash| crash.others)
            .max()
            .unwrap_or_default())
    );
    let told = [0, times.len() / 2, times.len() - 1].map(|index| times[index]);
    Row {
        name,
        values: told.iter().map(|time| time.as_secs_f64() * 1e3).collect(),
    }
}

fn ports() -> BTreeMap<u8, Vec<u16>> {
    // Whose they are shows in the answers.
    BTreeMap::from([(0, PORTS.collect())])
}

fn covey(timing: Timing) -> Vec<Crash> {
    let labs = 0..CRASHES / IN_ONE_LAB;
    labs.flat_map(|_| covey_once(timing)).collect()
}

fn covey_once(timing: Timing) -> Vec<Crash> {
    let lab = Lab::up("blackout", 3, timing);
    let period = Duration::from_millis(timing.period_ms);
    let crash = |number: usize| {
        // Every host has its turn, the coordinator too.
        let victim = 1 + (number % 3) as u8;
        let left: Vec<u8> = (1..=3).filter(|host| *host != victim).collect();
        let probe = Probe::start(&lab, &ports());
        strike(&lab, victim, period);
        lab.fault(&["crash", &victim.to_string()]);
        lab.await_agreement(&left);
        thread::sleep(LIGHT);
        let record = probe.finish();
        lab.fault(&["heal"]);
        lab.await_agreement(&[1, 2, 3]);
        Crash::of(victim, &record).expect("every host of Covey's has a share")
    };
    (0..IN_ONE_LAB).map(crash).collect()
}

fn standby(rival: Rival) -> Vec<Crash> {
    let lab = Lab::bare("blackout", 3);
    let standby = Standby::start(&lab, rival);
    let mut master = settled(&lab, rival);
    let crash = || {
        let probe = Probe::start(&lab, &ports());
        let victim = master;
        strike(&lab, victim, rival.interval());
        standby.crash(victim);
        answers(&lab, |host| host != victim);
        thread::sleep(LIGHT);
        let record = probe.finish();
        standby.heal(victim);
        master = settled(&lab, rival);
        Crash::of(victim, &record)
    };
    std::iter::repeat_with(crash)
        .flatten()
        .take(CRASHES)
        .collect()
}

/// Waits for the moment to crash a host: clients have been served for a while, and the host speaks in its interval. How
/// long it is silent before it is missed depends on when in its interval it dies, so crashes are spread evenly over it.
fn strike(lab: &Lab, victim: u8, interval: Duration) {
    static CRASHES: AtomicU16 = AtomicU16::new(0);
    let number = CRASHES.fetch_add(1, Ordering::Relaxed);
    thread::sleep(LIGHT);
    sniffer::await_moment(lab, victim, interval, (f64::from(number) * SPREAD).fract());
}

/// Waits until a host for which this holds answers for the virtual IP; says which.
fn answers(lab: &Lab, wanted: impl Fn(u8) -> bool) -> u8 {
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        // A port each time: an answer that comes late is not for the next question.
        let port = PORTS.end + ASKED.fetch_add(1, Ordering::Relaxed) % 1000;
        let probe = Probe::start(lab, &BTreeMap::from([(0, vec![port])]));
        thread::sleep(Duration::from_millis(20));
        if let [(Some(host), _)] = probe.finish().gaps()[..]
            && wanted(host)
        {
            return host;
        }
    }
    panic!("nobody answers for the virtual IP");
}

/// Waits until one host has answered alone for as long as rivals take to notice others; says which.
fn settled(lab: &Lab, rival: Rival) -> u8 {
    let start = Instant::now();
    let (mut host, mut since) = (0, start);
    while since.elapsed() < rival.patience() {
        assert!(start.elapsed() < PATIENCE, "{rival} does not settle");
        let before = host;
        host = answers(lab, |_| true);
        if host != before {
            since = Instant::now();
        }
    }
    host
}

//! Whether a fast setting holds on a machine that has no time: for ten minutes all processors are busy and the lab
//! carries traffic; then the cluster must still be in the map in which it was. A setting that does not last the first
//! minute is not tried any longer. docs/benchmarks.md, "Fast settings under load".

use crate::clients::{Clients, Tally};
use crate::lab::{Lab, Timing};
use crate::load::Busy;
use crate::rivals::{Rival, Standby};
use crate::timing;
use std::thread;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// The whole run, minutes.
const LENGTH: u32 = 10;
/// New connections per second.
const RATE: u32 = 200;
/// Connections that are held.
const HELD: usize = 100;
const SETTINGS: [Timing; 4] = [timing(10, 3), timing(20, 3), timing(20, 8), timing(50, 5)];
const RIVALS: [Rival; 3] = [
    Rival::Keepalived { interval_ms: 10 },
    Rival::Keepalived { interval_ms: 20 },
    Rival::Keepalived { interval_ms: 50 },
];

/// All settings, or those that are named, like `20x3` or `keepalived`.
pub(crate) fn measure(only: &[&str]) {
    println!(
        "{:<22} {:>8} {:>14} {:>12} {:>9} {:>9} {:>10}",
        "", "minutes", "false changes", "late spells", "answered", "failed", "slowest"
    );
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| name.contains(one));
    for timing in SETTINGS {
        if wanted(&format!("{}x{}", timing.period_ms, timing.tolerance)) {
            covey(timing);
        }
    }
    for rival in RIVALS {
        if wanted("keepalived") {
            keepalived(rival);
        }
    }
}

fn covey(timing: Timing) {
    let lab = Lab::up("steady", 3, timing);
    let epoch = |host: &u8| lab.status(*host).cluster.epoch;
    let late = || {
        let logs = lab.hosts().into_iter().map(|host| lab.log(host));
        logs.map(|log| log.matches("timer starvation begins").count())
            .sum::<usize>()
    };
    let before: Vec<u64> = lab.hosts().iter().map(epoch).collect();
    run(&lab, &format!("Covey, {timing}"), late, || {
        let now = lab.hosts();
        let now = now.iter().map(epoch).zip(&before);
        // Each map counts once, on the host that has seen most of them.
        now.map(|(now, before)| now - before).max().unwrap_or(0) as usize
    });
}

fn keepalived(rival: Rival) {
    let lab = Lab::bare("steady", 3);
    let standby = Standby::start(&lab, rival);
    thread::sleep(Duration::from_secs(5)); // until the first master is one
    let before = standby.takeovers();
    run(
        &lab,
        &rival.to_string(),
        || 0,
        || standby.takeovers() - before,
    );
}

/// Loads the machine, minute by minute, until there was a false change in the first one, or to the end.
fn run(lab: &Lab, name: &str, late: impl Fn() -> usize, changes: impl Fn() -> usize) {
    let clients = Clients::start(lab);
    clients.hold(HELD);
    clients.connect(RATE);
    let busy = Busy::everywhere();
    let mut minutes = 0;
    while minutes < LENGTH && (minutes == 0 || changes() == 0) {
        thread::sleep(MINUTE);
        minutes += 1;
    }
    let (changes, late) = (changes(), late());
    drop(busy);
    row(name, minutes, changes, late, &clients.finish());
}

fn row(name: &str, minutes: u32, changes: usize, late: usize, tally: &Tally) {
    println!(
        "{:<22} {minutes:>8} {changes:>14} {late:>12} {:>9} {:>9} {:>7} ms",
        name,
        tally.connects + tally.requests,
        tally.failures().count(),
        tally.slowest.as_millis()
    );
}

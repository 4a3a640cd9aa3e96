//! The daemon is replaced in place: its host loses no packet and the others do not notice. And a next program that
//! cannot go on changes nothing, begins anew, or is a crash like any other; which of these, it is told.

use crate::change::Watch;
use crate::connections;
use crate::lab::{COVEY, Lab, Timing, VIP};
use crate::web::{self, FIRST_PORT};
use covey::status::{ConvergenceRecord, EventRecord, Status};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// The recommended fast profile.
const FAST: Timing = Timing {
    period_ms: 20,
    tolerance: 8,
};
/// Replacements in a row.
const ROUNDS: usize = 20;
/// Long-lived connections.
const HELD: usize = 200;
/// "The daemon was replaced in place", and "... but could not go on".
const REPLACED: u16 = 1103;
const BEGAN_ANEW: u16 = 1104;

/// What the others, and people, must not see change.
#[derive(Debug, PartialEq)]
struct Account {
    epoch: u64,
    map_digest: String,
    times_converging: u64,
    convergence: Vec<ConvergenceRecord>,
    /// Of each host that this one hears.
    lost: Vec<(u8, bool)>,
    /// Events, but for those of replacements.
    events: Vec<(u64, u16, String)>,
}

impl Account {
    fn of(lab: &Lab, host: u8) -> Self {
        let status = lab.status(host);
        let events = events(lab, host).into_iter();
        let events = events.filter(|event| event.id != REPLACED);
        Self {
            epoch: status.cluster.epoch,
            map_digest: status.cluster.map_digest,
            times_converging: status.host.times_converging,
            convergence: status.convergence,
            lost: status
                .hosts
                .iter()
                .map(|host| (host.id, host.alive))
                .collect(),
            events: events
                .map(|event| (event.number, event.id, event.text))
                .collect(),
        }
    }
}

fn events(lab: &Lab, host: u8) -> Vec<EventRecord> {
    let told = lab.covey(host, &["events", "--json"]);
    let events = told.lines().map(|line| serde_json::from_str(line).unwrap());
    events.collect()
}

/// How long replacements took by what the daemons say, ms.
fn took(events: &[EventRecord]) -> Vec<u64> {
    let replaced = events.iter().filter(|event| event.id == REPLACED);
    let words = replaced.map(|event| {
        let (_, after) = event.text.split_once("went on ").unwrap();
        let (number, _) = after.split_once(" ms").unwrap();
        number.parse().unwrap()
    });
    words.collect()
}

fn packets(status: &Status) -> u64 {
    status.rules.iter().map(|rule| rule.packets_accepted).sum()
}

/// The same program at another place, as after an update of the package.
fn another_program(lab: &Lab) -> String {
    let path = lab.directory().join("covey-next");
    fs::copy(COVEY, &path).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn daemons_are_replaced_20_times_under_load_and_nobody_notices() {
    replace(&Lab::up("upgrade", 3, TIMING), TIMING);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn daemons_are_replaced_20_times_with_a_lease_of_160_ms() {
    replace(&Lab::up("upgrade-fast", 3, FAST), FAST);
}

fn replace(lab: &Lab, timing: Timing) {
    let next = another_program(lab);
    let accounts = || [1, 2, 3].map(|host| Account::of(lab, host));
    let mut held = connections::open(lab, HELD);
    let before = accounts();
    let pids = [1, 2, 3].map(|host| lab.status(host).host.pid);
    let watch = Watch::start(lab);
    for round in 0..ROUNDS {
        let host = 1 + (round % 3) as u8;
        let counted = packets(&lab.status(host));
        let program = [&next[..], COVEY][round % 2];
        lab.covey(host, &["upgrade", "--program", program]);
        let status = lab.status(host);
        assert_eq!(status.host.upgrades as usize, 1 + round / 3);
        assert!(packets(&status) >= counted, "counts begin anew");
        // The first is enough: each takes its time to be given up.
        let broken = held
            .iter_mut()
            .find_map(|connection| connection.check().err());
        assert_eq!(broken, None, "round {round}");
    }
    let noticed = watch.finish();
    let events: Vec<EventRecord> = (1..=3).flat_map(|host| events(lab, host)).collect();
    let mut took = took(&events);
    took.sort_unstable();
    println!(
        "{ROUNDS} daemons replaced at {timing}: {} to {} ms without one (median {}); 0 of {HELD} held connections \
         broken; {noticed}",
        took[0],
        took[ROUNDS - 1],
        took[ROUNDS / 2],
    );
    assert_eq!(took.len(), ROUNDS);
    assert_eq!(accounts(), before);
    assert_eq!([1, 2, 3].map(|host| lab.status(host).host.pid), pids);
    assert!(noticed.requests.len() > 10 * ROUNDS, "the load was none");
    assert_eq!(
        (noticed.failed, noticed.late, noticed.twice, noticed.changes),
        (0, 0, 0, 0),
        "{:#?}",
        noticed.without_cause
    );
}

/// A program that can, and then does this instead.
fn script(lab: &Lab, run: &str) -> String {
    let path: PathBuf = lab.directory().join("next");
    fs::write(
        &path,
        format!("#!/bin/sh\n[ $1 = prepare ] && exec {COVEY} \"$@\"\n{run}\n"),
    )
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Asks for a replacement that does not come to be; what is said of it.
fn fails(lab: &Lab, host: u8, program: &str) -> String {
    let place = format!("h{host}");
    let mut command = lab.command(&["exec", &place, "--", COVEY]);
    let output = command.args(["upgrade", "--program", program]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_program_that_cannot_go_on_is_refused_or_begins_anew_or_is_a_crash() {
    let lab = Lab::up("upgrade-not", 3, TIMING);
    let before = [1, 2, 3].map(|host| Account::of(&lab, host));
    let said = fails(&lab, 2, "/bin/false");
    assert!(said.contains("/bin/false cannot take over"), "{said}");
    assert_eq!([1, 2, 3].map(|host| Account::of(&lab, host)), before);
    assert_eq!(lab.status(2).host.upgrades, 0);

    // The next daemon finds nothing under the descriptor that it is told of.
    let run = format!("exec {COVEY} run \"$2\" \"$3\" \"$4\" \"$5\" --take-over 2");
    let said = fails(&lab, 2, &script(&lab, &run));
    assert!(said.contains("begins anew"), "{said}");
    lab.await_agreement(&[1, 2, 3]);
    assert!(events(&lab, 2).iter().any(|event| event.id == BEGAN_ANEW));
    assert!(lab.status(1).cluster.epoch > before[0].epoch);

    let pid = lab.status(2).host.pid;
    let said = fails(&lab, 2, &script(&lab, "exit 3"));
    assert!(said.contains("the next one does not answer"), "{said}");
    assert!(!PathBuf::from(format!("/proc/{pid}/fd/0")).exists());
    lab.await_agreement(&[1, 3]);
    let requests = web::in_a_row(&lab, VIP, FIRST_PORT..FIRST_PORT + 300);
    web::assert_none_failed(&requests);
    assert!(requests.iter().all(|request| request.outcome != Ok(2)));
    lab.fault(&["heal"]);
    lab.await_agreement(&[1, 2, 3]);
}

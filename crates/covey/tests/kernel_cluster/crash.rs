//! A crash costs the dead host's share, for the detection time; and no bucket moves that need not.

use crate::echo::{self, Probe};
use crate::lab::{Lab, Timing};
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

/// What a takeover may take beyond detection: clocks and margins, two rounds of heartbeats, a busy machine.
const TAKEOVER: Duration = Duration::from_millis(300);
/// How much longer than without a fault the other hosts' ports may seem dark, which is the machine's noise.
const NOISE: Duration = Duration::from_millis(50);
/// Ports of each host that are probed.
const PORTS: usize = 20;

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_crash_is_over_in_half_a_second() {
    let timing = Timing {
        period_ms: 100,
        tolerance: 5,
    };
    crash(&Lab::up("crash", 3, timing), timing);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_crash_is_over_in_five_seconds_with_nlbs_timing() {
    let timing = Timing {
        period_ms: 1000,
        tolerance: 5,
    };
    crash(&Lab::up("crash-nlb", 3, timing), timing);
}

/// Host 2 of three crashes under datagrams from ports of each.
pub(crate) fn crash(lab: &Lab, timing: Timing) {
    let ports = echo::ports_by_owner(lab, PORTS);
    let length = timing.budget() + TAKEOVER + Duration::from_millis(500);
    let of_2 = |owner| owner == 2;
    let of_others = |owner| owner != 2;

    let control = Probe::start(lab, &ports);
    thread::sleep(length); // the length of the run is what is compared
    let control = control.finish();

    let probe = Probe::start(lab, &ports);
    lab.fault(&["crash", "2"]);
    thread::sleep(length);
    let record = probe.finish();

    let dark = record.longest_gap(of_2);
    let others = record.longest_gap(of_others);
    let usual = control.longest_gap(of_others);
    println!(
        "crash at {timing}: dark {} ms (budget {} ms), others' longest gap {} ms (control {} ms), \
         others' datagrams lost {} of {} (control {}), answered twice {}",
        dark.as_millis(),
        timing.budget().as_millis(),
        others.as_millis(),
        usual.as_millis(),
        record.unanswered(of_others),
        record.sent(),
        control.unanswered(of_others),
        record.answered_twice(),
    );
    let period = Duration::from_millis(timing.period_ms);
    assert!(dark > timing.budget() - 2 * period, "nothing has crashed");
    // On a machine that starves it, a host asks the others for more patience, and says so.
    let late = lab.log(2).contains("timer starvation begins");
    let patience = if late {
        timing.tolerance.div_ceil(4)
    } else {
        0
    };
    assert!(dark <= timing.budget() + period * patience + TAKEOVER);
    assert!(others < usual + NOISE);
    assert_eq!(record.answered_twice() + control.answered_twice(), 0);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_crash_and_a_return_move_no_bucket_that_need_not_move() {
    let lab = Lab::up(
        "moves",
        3,
        Timing {
            period_ms: 100,
            tolerance: 5,
        },
    );
    let before = Owners::of(&lab, &[1, 2, 3]);
    lab.fault(&["crash", "2"]);
    lab.await_agreement(&[1, 3]);
    let without = Owners::of(&lab, &[1, 3]);
    lab.fault(&["heal"]);
    let after = Owners::of(&lab, &[1, 2, 3]);

    for rule in before.0.keys() {
        let (before, without, after) = (&before.0[rule], &without.0[rule], &after.0[rule]);
        let (kept, lost): (Vec<_>, Vec<_>) =
            before.iter().zip(without).partition(|(old, _)| **old != 2);
        assert!(
            kept.iter().all(|(old, new)| old == new),
            "a survivor's bucket has moved"
        );
        assert!(lost.iter().all(|(_, new)| [1, 3].contains(*new)));
        let moved: Vec<_> = without
            .iter()
            .zip(after)
            .filter(|(old, new)| old != new)
            .collect();
        assert!(
            moved.iter().all(|(_, new)| **new == 2),
            "a bucket has moved between survivors"
        );
        println!(
            "rule {rule}: crash moved {} buckets, return moved {}; shares before {:?}, without host 2 {:?}, after {:?}",
            lost.len(),
            moved.len(),
            shares(before),
            shares(without),
            shares(after)
        );
        assert!(moved.len().abs_diff(4096 / 3) <= 1);
        for map in [before, without, after] {
            let shares = shares(map);
            let fair = 4096 / shares.len();
            assert!(
                shares.values().all(|share| share.abs_diff(fair) <= 1),
                "{shares:?}"
            );
        }
    }
}

/// Who owns each bucket of each port rule.
struct Owners(BTreeMap<u8, Vec<u8>>);

impl Owners {
    /// As these hosts all say.
    fn of(lab: &Lab, hosts: &[u8]) -> Self {
        let mut statuses = hosts.iter().map(|host| {
            let status = lab.status(*host);
            let rules = status.rules.iter().filter(|rule| rule.start.is_some());
            rules
                .map(|rule| (rule.index, status.maps[rule.map].clone()))
                .collect()
        });
        let first: BTreeMap<u8, Vec<u8>> = statuses.next().unwrap();
        assert!(
            statuses.all(|other| other == first),
            "the hosts say different things"
        );
        assert_eq!(first.len(), 2);
        Self(first)
    }
}

fn shares(map: &[u8]) -> BTreeMap<u8, usize> {
    let mut shares = BTreeMap::new();
    for owner in map {
        *shares.entry(*owner).or_default() += 1;
    }
    shares
}

//! Hosts leave and return, configurations are read again, and clients do not notice, with one exception that is
//! measured and bounded here: a map is put in force by each daemon when it hears of the commit, and a bucket is
//! with its new owner as a whole from then on. So a request that is under way in that millisecond, in a bucket
//! that moves, may be lost, or accepted by two hosts, or reset.

use crate::lab::{Lab, Timing, VIP};
use crate::web::{self, FIRST_PORT, Load, Request};
use crate::wire::{self, Capture};
use covey::status::Status;
use covey_proto::config::Auth;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::Duration;

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// Time between two requests of the load: 200 per second.
const EVERY: Duration = Duration::from_millis(5);
/// A SYN that got lost is repeated after a second.
const REPEATED_SYN: Duration = Duration::from_millis(900);
/// Leaves and returns.
const ROUNDS: usize = 20;
/// Changes of a weight; an odd number ends with the doubled one.
const WEIGHTS: usize = 9;

/// Requests and what the switch has seen of them, while something happens to the cluster.
pub(crate) struct Watch {
    load: Load,
    capture: Capture,
    auth: Auth,
}

/// What the clients have noticed.
pub(crate) struct Noticed {
    pub(crate) requests: Vec<Request>,
    /// Maps that were put in force.
    pub(crate) changes: usize,
    pub(crate) failed: usize,
    /// Connected so late that a SYN must have been lost.
    pub(crate) late: usize,
    /// Accepted by two hosts.
    pub(crate) twice: usize,
    /// All of these that were not under way when a map was put in force.
    pub(crate) without_cause: Vec<Request>,
}

impl Watch {
    pub(crate) fn start(lab: &Lab) -> Self {
        Self {
            auth: wire::auth(lab),
            capture: Capture::start(lab),
            load: Load::start(lab, EVERY, FIRST_PORT..),
        }
    }

    pub(crate) fn finish(self) -> Noticed {
        let requests = self.load.finish();
        let frames = wire::read(&self.capture.finish());
        let accepted = wire::accepted_by(&frames);
        let spans = wire::spans(&frames);
        let mut changes = BTreeMap::new();
        for beat in wire::heartbeats(&frames, &self.auth) {
            if let Some(epoch) = beat.epoch {
                changes.entry(epoch).or_insert(beat.at);
            }
        }
        // The epoch that the cluster was in before.
        changes.pop_first();

        let failed = |request: &Request| request.outcome.is_err();
        let late = |request: &Request| request.connected.is_some_and(|time| time >= REPEATED_SYN);
        let twice = |request: &Request| accepted.get(&request.port).is_some_and(|by| by.len() > 1);
        let under_way = |request: &Request| {
            let span = spans.get(&request.port);
            span.is_some_and(|span| changes.values().any(|at| wire::under_way(*span, *at)))
        };
        let count = |which: &dyn Fn(&Request) -> bool| requests.iter().filter(|r| which(r)).count();
        let disturbed = |request: &&Request| failed(request) || late(request) || twice(request);
        Noticed {
            changes: changes.len(),
            failed: count(&failed),
            late: count(&late),
            twice: count(&twice),
            without_cause: requests
                .iter()
                .filter(disturbed)
                .filter(|request| !under_way(request))
                .cloned()
                .collect(),
            requests,
        }
    }
}

impl fmt::Display for Noticed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connects = self.requests.iter().filter_map(|request| request.connected);
        write!(
            f,
            "{} maps put in force, {} requests at 200 per second: {} reset, {} connected late, {} accepted by two \
             hosts, {} of all these not under way at a change; slowest connect {} ms",
            self.changes,
            self.requests.len(),
            self.failed,
            self.late,
            self.twice,
            self.without_cause.len(),
            connects.max().unwrap_or_default().as_millis()
        )
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_host_leaves_and_returns_and_only_requests_under_way_notice() {
    leave_and_return(&Lab::up("leave", 3, TIMING), ROUNDS);
}

/// Host 3 of three leaves and returns so many times, under 200 requests a second.
pub(crate) fn leave_and_return(lab: &Lab, rounds: usize) {
    let watch = Watch::start(lab);
    for round in 0..rounds {
        // Both ways to leave: the command, after which the daemon stays, and the end of the daemon.
        let end = round % 5 == 4;
        if end {
            lab.signal(3, "TERM");
        } else {
            lab.covey(3, &["stop"]);
        }
        lab.await_agreement(&[1, 2]);
        if end {
            lab.await_end(3);
            lab.fault(&["heal"]);
        } else {
            lab.covey(3, &["start"]);
        }
        lab.await_agreement(&[1, 2, 3]);
    }
    let noticed = watch.finish();
    println!("{rounds} leaves and returns: {noticed}");
    assert!(
        noticed.without_cause.is_empty(),
        "{:#?}",
        noticed.without_cause
    );
    assert!(
        noticed.changes >= 2 * rounds,
        "the capture has missed changes"
    );
    assert!(noticed.failed + noticed.late <= rounds);
}

/// What must not change when a configuration is refused.
fn in_force(status: &Status) -> (u32, u64, &str, &[covey::status::RuleStatus]) {
    let cluster = &status.cluster;
    (
        status.host.pid,
        cluster.epoch,
        &cluster.map_digest,
        &status.rules,
    )
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_broken_configuration_changes_nothing_and_another_weight_moves_the_share() {
    let lab = Lab::up("reload", 3, TIMING);
    let path = lab.directory().join("h3/covey.toml");
    let sound = fs::read_to_string(&path).unwrap();
    let before = lab.status(3);

    fs::write(&path, sound.replace("ports = 80", "prots = 80")).unwrap();
    lab.signal(3, "HUP");
    lab.await_log(3, "the configuration stays as it was");
    assert_eq!(in_force(&lab.status(3)), in_force(&before));

    let watch = Watch::start(&lab);
    for weight in [100, 50].into_iter().cycle().take(WEIGHTS) {
        let rule = format!("ports = 80\nweight = {weight}");
        fs::write(&path, sound.replace("ports = 80", &rule)).unwrap();
        lab.signal(3, "HUP");
        let doubled = weight == 100;
        lab.await_status(1, |status| (status.rules[1].share[&3] == 2048) == doubled);
        lab.await_agreement(&[1, 2, 3]);
    }
    let doubled = BTreeMap::from([(1, 1024), (2, 1024), (3, 2048)]);
    assert_eq!(lab.status(2).rules[1].share, doubled);
    let noticed = watch.finish();
    let after = FIRST_PORT + u16::try_from(noticed.requests.len()).unwrap();
    let answered = web::in_a_row(&lab, VIP, after..after + 1500);
    let by_3 = answered
        .iter()
        .filter(|request| request.outcome == Ok(3))
        .count();
    println!(
        "weight of host 3 changed {WEIGHTS} times, to 100 in the end: its share of 1500 requests {:.1} %; {noticed}",
        by_3 as f64 / 15.0
    );
    web::assert_none_failed(&answered);
    assert!(
        (660..=840).contains(&by_3),
        "{by_3} of 1500 is not 44 to 56 %"
    );
    assert!(
        noticed.without_cause.is_empty(),
        "{:#?}",
        noticed.without_cause
    );
    assert!(noticed.failed + noticed.late <= WEIGHTS);
    // The other rule keeps its weights.
    assert_eq!(lab.status(2).rules[2].share, before.rules[2].share);
}

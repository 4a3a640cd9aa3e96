//! A sick host is silent: one whose daemon is stopped or dead answers nothing new once its lease has run out, and
//! nobody takes over before. Judged by a capture on the switch alone: one clock, and source MACs.
//!
//! ```text
//!   host 2's heartbeats   | | |                      | | |
//!   its lease             =========|                           =======
//!   the others' map       with 2       | without 2         | with 2
//!                                  |<--- silent --->|<- silent -->|
//! ```

use crate::lab::{Lab, Timing, VIP};
use crate::web::{self, FIRST_PORT, Load, Request};
use crate::wire::{self, Beat, Capture, Frame, nic};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TIMING: Timing = Timing {
    period_ms: 200,
    tolerance: 5,
};
/// Tolerance times period: how long a lease runs on after the last heartbeat of a host that is not late.
const LEASE: Duration = Duration::from_secs(1);
/// Time between two requests of the load.
const EVERY: Duration = Duration::from_millis(5);

/// Time since 1970, as captures have it.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// What the heartbeats say of a stall of host 2.
struct Stall {
    /// Its last heartbeat before.
    last: Duration,
    /// When its lease ended, at the latest.
    lapse: Duration,
    /// Its first one after.
    woken: Duration,
    /// When it said after it that it has no map in force.
    fenced: Option<Duration>,
    /// When others first said that they have put a map without it in force.
    takeover: Option<Duration>,
    /// When anybody first said that the map is in force with which it came back.
    back: Option<Duration>,
}

impl Stall {
    /// The longest silence of host 2 between two moments.
    fn of(beats: &[Beat], from: Duration, to: Duration) -> Self {
        let first = |from: Duration, is_it: &dyn Fn(&Beat) -> bool| {
            beats
                .iter()
                .find(|beat| beat.at >= from && is_it(beat))
                .copied()
        };
        let of_2: Vec<&Beat> = beats.iter().filter(|beat| beat.host == 2).collect();
        let during = of_2
            .windows(2)
            .filter(|pair| pair[0].at < to && from < pair[1].at);
        let longest = during.max_by_key(|pair| pair[1].at - pair[0].at);
        let &[last, woken] = longest.unwrap() else {
            unreachable!("windows of two")
        };
        let newer = |beat: &Beat| beat.epoch > last.epoch;
        let returned = first(woken.at, &|beat| beat.host == 2 && newer(beat));
        let epoch = returned.and_then(|beat| beat.epoch);
        let back = returned.and_then(|_| first(last.at, &|beat| beat.epoch == epoch));
        let without = |beat: &Beat| newer(beat) && beat.epoch < epoch;
        let fenced = first(woken.at, &|beat| beat.host == 2 && beat.epoch.is_none());
        let before = of_2.iter().copied().filter(|beat| beat.at <= last.at);
        Self {
            last: last.at,
            lapse: wire::lapse(before),
            woken: woken.at,
            fenced: fenced.map(|beat| beat.at),
            takeover: first(last.at, &without).map(|beat| beat.at),
            back: back.map(|beat| beat.at),
        }
    }

    /// When it may answer nobody: from the end of its lease, or from when it says itself that it has no map in
    /// force any more, until it is back.
    fn silent(&self) -> Range<Duration> {
        let from = self.fenced.map_or(self.lapse, |said| said.min(self.lapse));
        from..self.back.map_or(from, |back| back.max(from))
    }
}

/// Connections that were asked for in a time, and what hosts sent on each.
struct Connections<'a> {
    began: BTreeMap<u16, Duration>,
    frames: &'a [Frame],
}

impl<'a> Connections<'a> {
    fn of(frames: &'a [Frame]) -> Self {
        let mut began = BTreeMap::new();
        for frame in frames {
            if let Some(segment) = frame
                .segment()
                .filter(|segment| segment.syn && !segment.is_answer)
            {
                began.entry(segment.client).or_insert(frame.at);
            }
        }
        Self { began, frames }
    }

    /// How many began in this time.
    fn begun(&self, time: &Range<Duration>) -> usize {
        self.began.values().filter(|at| time.contains(at)).count()
    }

    /// The frames that a host sent in this time on connections that began in it.
    fn answers_of(&self, host: u8, time: &Range<Duration>) -> usize {
        let during = |at: &Duration| time.contains(at);
        let answers = self.frames.iter().filter(|frame| {
            frame.ethernet().source == nic(host)
                && during(&frame.at)
                && frame.segment().is_some_and(|segment| {
                    segment.is_answer && self.began.get(&segment.client).is_some_and(during)
                })
        });
        answers.count()
    }
}

/// Connections that two hosts have accepted, and that were not under way at a change that all were ready for.
fn accepted_twice(frames: &[Frame], change: Option<Duration>) -> usize {
    let spans = wire::spans(frames);
    let accepted = wire::accepted_by(frames);
    let twice = accepted.iter().filter(|(port, hosts)| {
        hosts.len() > 1 && !change.is_some_and(|at| wire::under_way(spans[port], at))
    });
    twice.count()
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_stalled_host_is_silent_before_others_take_over_and_until_it_is_back_in_a_map() {
    for factor in [0.5, 0.9, 1.1, 3.0] {
        // A cluster of its own: whoever has been late is waited for longer.
        let lab = Lab::up("stall", 3, TIMING);
        let auth = wire::auth(&lab);
        let capture = Capture::start(&lab);
        let load = Load::start(&lab, EVERY, FIRST_PORT..);
        lab.await_heartbeats(2, 2);
        let from = now();
        let length = format!("{}ms", LEASE.mul_f64(factor).as_millis());
        lab.fault(&["stall", "2", &length]);
        let to = now();
        lab.await_agreement(&[1, 2, 3]);
        lab.await_heartbeats(2, 2);
        let requests = load.finish();
        let frames = wire::read(&capture.finish());

        let stall = Stall::of(&wire::heartbeats(&frames, &auth), from, to);
        let connections = Connections::of(&frames);
        let begun = connections.begun(&stall.silent());
        let wrong = connections.answers_of(2, &stall.silent());
        let twice = accepted_twice(&frames, stall.back);
        let since = |at: Option<Duration>| at.map_or("-".to_owned(), |at| millis(at - stall.last));
        println!(
            "stall {factor} x lease: silent for {}; after its last heartbeat: lease over {}, others take over {}, \
             back {}; {begun} connections begun in between, {wrong} answers of host 2; of {} requests {twice} \
             accepted twice, {} failed",
            millis(stall.woken - stall.last),
            millis(stall.lapse - stall.last),
            since(stall.takeover),
            since(stall.back),
            requests.len(),
            web::failures(&requests).len(),
        );
        assert_eq!((wrong, twice), (0, 0));
        let early = stall.takeover.is_some_and(|at| at < stall.silent().start);
        assert!(!early, "others took over before host 2 was silent");
        if factor < 0.6 {
            let change = (stall.takeover, stall.back);
            assert_eq!(change, (None, None), "a short stall changes nothing");
        }
        if factor > 1.0 {
            assert!(stall.takeover.is_some(), "nobody took over");
            assert!(begun > 0, "the test has seen nothing");
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_host_whose_daemon_is_killed_falls_silent_on_the_virtual_ip_alone() {
    let lab = Lab::up("kill", 3, TIMING);
    let auth = wire::auth(&lab);
    let capture = Capture::start(&lab);
    let load = Load::start(&lab, EVERY, FIRST_PORT..);
    lab.await_heartbeats(2, 2);
    lab.fault(&["kill", "2"]);
    lab.await_agreement(&[1, 3]);
    let begun = load.finish().len();
    let after = FIRST_PORT + u16::try_from(begun).unwrap();
    let requests = web::in_a_row(&lab, VIP, after..after + 300);
    let own = web::in_a_row(&lab, Ipv4Addr::new(10, 77, 0, 2), after..after + 30);
    let frames = wire::read(&capture.finish());

    let others = |request: &Request| [Ok(1), Ok(3)].contains(&request.outcome);
    assert!(requests.iter().all(others));
    assert!(own.iter().all(|request| request.outcome == Ok(2)));

    let beats = wire::heartbeats(&frames, &auth);
    let last = beats.iter().rfind(|beat| beat.host == 2).unwrap();
    let newer = |beat: &&Beat| beat.at > last.at && beat.epoch > last.epoch;
    let takeover = beats.iter().find(newer).unwrap().at;
    let silent = wire::lapse(beats.iter().filter(|beat| beat.host == 2))..now();
    let connections = Connections::of(&frames);
    let (begun, wrong) = (
        connections.begun(&silent),
        connections.answers_of(2, &silent),
    );
    println!(
        "daemon killed: others take over {} after its last heartbeat (lease {}); {begun} connections begun after its \
         lease, {wrong} answers of host 2 on the virtual IP; {} requests answered by others, {} to its dedicated IP by \
         itself",
        millis(takeover - last.at),
        millis(silent.start - last.at),
        requests.len(),
        own.len(),
    );
    assert!(
        takeover >= silent.start,
        "others took over before the lease was over"
    );
    assert!(begun >= requests.len());
    assert_eq!((wrong, accepted_twice(&frames, None)), (0, 0));
}

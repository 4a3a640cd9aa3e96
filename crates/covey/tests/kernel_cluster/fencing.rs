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
use crate::web::{self, FIRST_PORT, Load};
use crate::wire::{self, Beat, Capture, Frame, nic};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TIMING: Timing = Timing {
    period_ms: 200,
    tolerance: 5,
};
/// Time between two requests of the load.
const EVERY: Duration = Duration::from_millis(5);

/// Time since 1970, as captures have it.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// The two heartbeats of a host around its longest silence between two moments.
fn longest_silence(beats: &[Beat], host: u8, from: Duration, to: Duration) -> (Beat, Beat) {
    let beats: Vec<Beat> = beats
        .iter()
        .filter(|beat| beat.host == host)
        .copied()
        .collect();
    let during = beats
        .windows(2)
        .filter(|pair| pair[0].at < to && from < pair[1].at);
    let longest = during.max_by_key(|pair| pair[1].at - pair[0].at).unwrap();
    (longest[0], longest[1])
}

fn first(beats: &[Beat], from: Duration, is_it: impl Fn(&Beat) -> bool) -> Option<Beat> {
    beats
        .iter()
        .find(|beat| beat.at >= from && is_it(beat))
        .copied()
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
    fn begun(&self, from: Duration, to: Duration) -> usize {
        self.began
            .values()
            .filter(|at| (from..to).contains(at))
            .count()
    }

    /// The frames that a host sent in this time on connections that began in it.
    fn answers_of(&self, host: u8, from: Duration, to: Duration) -> usize {
        let during = |at: &Duration| (from..to).contains(at);
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

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_stalled_host_is_silent_before_others_take_over_and_until_it_is_back_in_a_map() {
    let lab = Lab::up("stall", 3, TIMING);
    let auth = wire::auth(&lab);
    let lease = TIMING.budget();
    let mut next_port = FIRST_PORT;
    for factor in [0.5, 0.9, 1.1, 3.0] {
        let stall = lease.mul_f64(factor);
        let capture = Capture::start(&lab);
        let load = Load::start(&lab, EVERY, next_port..);
        lab.await_heartbeats(2, 2);
        let from = now();
        lab.fault(&["stall", "2", &millis(stall).replace(' ', "")]);
        let to = now();
        lab.await_agreement(&[1, 2, 3]);
        lab.await_heartbeats(2, 2);
        let requests = load.finish();
        next_port += u16::try_from(requests.len()).unwrap();
        let frames = wire::read(&capture.finish());

        let beats = wire::heartbeats(&frames, &auth);
        let connections = Connections::of(&frames);
        let (last, woken) = longest_silence(&beats, 2, from, to);
        let lapse = last.at + lease;
        // The next map that host 2 puts in force, and when the first host told that it has.
        let returned = first(&beats, woken.at, |beat| {
            beat.host == 2 && beat.epoch > last.epoch
        });
        let back = returned
            .and_then(|returned| first(&beats, last.at, |beat| beat.epoch == returned.epoch))
            .map(|beat| beat.at);
        let takeover = returned.and_then(|returned| {
            first(&beats, last.at, |beat| {
                beat.epoch > last.epoch && beat.epoch < returned.epoch
            })
        });
        let takeover = takeover.map(|beat| beat.at);
        let silent = back.map_or((lapse, lapse), |back| (lapse, back.max(lapse)));
        let begun = connections.begun(silent.0, silent.1);
        let wrong = connections.answers_of(2, silent.0, silent.1);
        let torn = wire::accepted_by(&frames)
            .values()
            .filter(|hosts| hosts.len() > 1)
            .count();
        let since = |at: Option<Duration>| at.map_or("-".to_owned(), |at| millis(at - last.at));
        println!(
            "stall {factor} x lease: silent for {}; after its last heartbeat: lease over {}, others take over {}, \
             back {}; {begun} connections begun in between, {wrong} answers of host 2; of {} requests {torn} \
             accepted twice, {} failed",
            millis(woken.at - last.at),
            millis(lease),
            since(takeover),
            since(back),
            requests.len(),
            web::failures(&requests).len(),
        );
        assert_eq!(torn, 0);
        assert_eq!(wrong, 0);
        assert!(
            takeover.is_none_or(|at| at >= lapse),
            "others took over before the lease was over"
        );
        match factor {
            ..0.6 => assert_eq!(
                (takeover, back),
                (None, None),
                "a short stall changes nothing"
            ),
            1.0.. => {
                assert!(takeover.is_some(), "nobody took over");
                assert!(begun > 0, "the test has seen nothing");
            }
            _ => (),
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

    let beats = wire::heartbeats(&frames, &auth);
    let last = *beats.iter().rfind(|beat| beat.host == 2).unwrap();
    let takeover = first(&beats, last.at, |beat| beat.epoch > last.epoch)
        .unwrap()
        .at;
    let lapse = last.at + TIMING.budget();
    let end = now();
    let connections = Connections::of(&frames);
    println!(
        "daemon killed: others take over {} after its last heartbeat (lease {}); {} connections begun after its \
         lease, {} answers of host 2 on the virtual IP; 300 of 300 requests answered by others, 30 of 30 to its \
         dedicated IP by itself",
        millis(takeover - last.at),
        millis(TIMING.budget()),
        connections.begun(lapse, end),
        connections.answers_of(2, lapse, end),
    );
    assert!(
        takeover >= lapse,
        "others took over before the lease was over"
    );
    assert!(connections.begun(lapse, end) >= 300);
    assert_eq!(connections.answers_of(2, lapse, end), 0);
    assert!(
        requests
            .iter()
            .all(|request| [Ok(1), Ok(3)].contains(&request.outcome))
    );
    assert!(own.iter().all(|request| request.outcome == Ok(2)));
    let torn = wire::accepted_by(&frames)
        .values()
        .filter(|hosts| hosts.len() > 1)
        .count();
    assert_eq!(torn, 0);
}

//! The simulator itself: runs repeat, faults that are switched on happen, planted bugs are found and made small, and
//! captures are captures.

use covey_sim::faults::{Kind, LinkFault};
use covey_sim::pcap::Pcap;
use covey_sim::run::{Options, run, run_with};
use covey_sim::scenario::{Action, Expectation, Scenario, Step, What};
use covey_sim::span::Span;
use covey_sim::{catalogue, random, shrink};
use std::io::Write;
use std::sync::{Arc, Mutex};

fn with(action: Action) -> Scenario {
    Scenario {
        lasts: Span::millis(6000),
        steps: vec![Step {
            at: Span::millis(2500),
            when: None,
            action,
        }],
        ..Scenario::default()
    }
}

fn link(fault: LinkFault) -> Scenario {
    with(Action::Link {
        fault,
        lasting: Span::millis(1500),
    })
}

/// Everything that a run puts on the wire.
fn capture(scenario: &Scenario, seed: u64) -> Vec<u8> {
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut all = self
                .0
                .lock()
                .expect("no test panics while it holds the bytes");
            all.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let bytes = Shared::default();
    let pcap = Pcap::new(Box::new(bytes.clone())).expect("memory takes all");
    run_with(
        scenario,
        seed,
        Options {
            pcap: Some(pcap),
            ..Options::default()
        },
    );
    let bytes = bytes
        .0
        .lock()
        .expect("no test panics while it holds the bytes");
    bytes.clone()
}

#[test]
fn a_seed_repeats_a_run_bit_by_bit() {
    for seed in [3, 4] {
        let scenario = random::scenario(seed);
        let (one, other) = (capture(&scenario, seed), capture(&scenario, seed));
        assert!(one == other && one.len() > 100_000, "{}", one.len());
        assert!(
            one != capture(&scenario, seed + 1),
            "another seed is another run"
        );
    }
}

#[test]
fn a_capture_is_one() {
    let bytes = capture(&catalogue::find("join").unwrap(), 1);
    assert_eq!(bytes[..4], [0xD4, 0xC3, 0xB2, 0xA1]);
    assert_eq!(bytes[20..24], [1, 0, 0, 0], "Ethernet");
    let field = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
    let (mut at, mut frames, mut last) = (24, 0, 0);
    while at < bytes.len() {
        let time = field(at) * 1_000_000 + field(at + 4);
        assert!(time >= last && field(at + 8) == field(at + 12));
        (at, frames, last) = (at + 16 + field(at + 8), frames + 1, time);
    }
    assert!(at == bytes.len() && frames > 500, "{frames} frames");
}

#[test]
fn a_fault_that_is_switched_on_happens() {
    let percent = 20.0;
    let everybody = || (Vec::new(), Vec::new());
    let ((from, to), (from2, to2)) = (everybody(), everybody());
    let by = Span::millis(20);
    let cases = [
        (Kind::Loss, link(LinkFault::Loss { percent, from, to })),
        (
            Kind::Burst,
            link(LinkFault::Burst {
                percent: 5.0,
                length: 3,
            }),
        ),
        (
            Kind::Delay,
            link(LinkFault::Delay {
                by,
                from: from2,
                to: to2,
            }),
        ),
        (Kind::Reorder, link(LinkFault::Reorder { percent, by })),
        (Kind::Duplicate, link(LinkFault::Duplicate { percent })),
        (Kind::Corrupt, link(LinkFault::Corrupt { percent })),
        (
            Kind::Cut,
            link(LinkFault::Cut {
                from: vec![1],
                to: vec![2],
            }),
        ),
        (
            Kind::Partition,
            link(LinkFault::Partition { hosts: vec![1] }),
        ),
        (Kind::Mute, link(LinkFault::Mute { host: 1 })),
        (Kind::Deaf, link(LinkFault::Deaf { host: 1 })),
        (
            Kind::BroadcastBlocked,
            link(LinkFault::BlockBroadcast {
                from: Vec::new(),
                to: Vec::new(),
            }),
        ),
        (Kind::Crash, with(Action::Crash { host: 1 })),
        (Kind::Kill, with(Action::Kill { host: 1 })),
        (Kind::Restart, with(Action::Restart { host: 1 })),
        (
            Kind::Flap,
            with(Action::Flap {
                host: 1,
                times: 2,
                every: Span::millis(800),
            }),
        ),
        (
            Kind::Stall,
            with(Action::Stall {
                host: 1,
                lasting: by,
                timers_first: false,
            }),
        ),
        (
            Kind::StallTimers,
            with(Action::Stall {
                host: 1,
                lasting: by,
                timers_first: true,
            }),
        ),
        (Kind::Skew, with(Action::Skew { host: 1, ppm: 200 })),
        (
            Kind::Unplug,
            with(Action::Unplug {
                host: 1,
                lasting: by,
            }),
        ),
        (
            Kind::Replay,
            with(Action::Replay {
                host: 1,
                age: by,
                count: 3,
            }),
        ),
        (Kind::Stop, with(Action::Stop { host: 1 })),
        (Kind::Suspend, with(Action::Suspend { host: 1 })),
        (Kind::Weight, with(Action::Weight { host: 1, weight: 7 })),
        (
            Kind::Rules,
            with(Action::Rules {
                set: 1,
                hosts: Vec::new(),
            }),
        ),
    ];
    for (kind, scenario) in cases {
        let outcome = run(&scenario, 1);
        assert!(outcome.counts.faults(kind) > 0, "{kind:?} has not happened");
        let without = run(
            &Scenario {
                steps: Vec::new(),
                ..scenario
            },
            1,
        );
        assert_eq!(
            without.counts.faults(kind),
            0,
            "{kind:?} has happened by itself"
        );
    }
}

#[test]
fn without_faults_nothing_is_lost() {
    let outcome = run(
        &Scenario {
            lasts: Span::millis(20_000),
            ..Scenario::default()
        },
        1,
    );
    let counts = outcome.counts;
    assert!(
        outcome.violation.is_none() && counts.opened > 200,
        "{counts}"
    );
    assert_eq!((counts.broken, counts.datagrams), (0, counts.answered));
    assert!(
        counts.established + 2 >= counts.opened,
        "but for the last ones: {counts}"
    );
}

/// A filter that goes on without a lease: the invariants alone find that its host serves beside those who have taken
/// over.
#[test]
fn a_planted_bug_is_found() {
    let mut scenario = catalogue::find("last-heartbeat-lost-then-stall").unwrap();
    scenario.expectations.clear();
    let lawless = Options {
        lawless: Some(2),
        ..Options::default()
    };
    let violation = run_with(&scenario, 1, lawless).violation.unwrap();
    assert_eq!(violation.promise, "a sick host is silent", "{violation}");
    assert!(run(&scenario, 1).violation.is_none());
}

#[test]
fn what_fails_is_made_small() {
    let weights = (1..=3).map(|host| Step {
        at: Span::millis(1500),
        when: None,
        action: Action::Weight { host, weight: 30 },
    });
    let mut scenario = with(Action::Crash { host: 3 });
    scenario.steps.splice(..0, weights);
    let what = What::Stays {
        hosts: vec![1, 2, 3],
    };
    let from = Span::millis(2000);
    scenario.expectations = vec![Expectation {
        from,
        within: None,
        what,
    }];
    let violation = run(&scenario, 1).violation.unwrap();
    let small = shrink::shrink(&scenario, 1, &violation);
    assert_eq!(small.violation.promise, violation.promise);
    assert_eq!(
        small.scenario.steps.len(),
        1,
        "{}",
        small.scenario.to_toml()
    );
    assert_eq!(
        Scenario::parse(&small.scenario.to_toml()),
        Ok(small.scenario)
    );
}

#[test]
fn a_bad_scenario_is_refused_with_a_sentence() {
    for (text, says) in [
        ("hots = 3", "unknown field `hots`"),
        ("hosts = 0", "hosts must be 1 to 64"),
        (
            "[[step]]\nat = \"1s\"\ndo = \"crash\"\nhost = 4",
            "there is no host 4",
        ),
        (
            "[[step]]\nat = \"1s\"\ndo = \"crash\"\nhost = 1\nhots = 2",
            "unknown field `hots`",
        ),
        (
            "[[step]]\nat = \"soon\"\ndo = \"crash\"\nhost = 1",
            "not a length of time",
        ),
        (
            "[[step]]\nat = \"1s\"\ndo = \"dance\"",
            "unknown variant `dance`",
        ),
    ] {
        let error = Scenario::parse(text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}

//! Shared and lingering buckets on a real kernel: what the filter makes of a segment when the host has its
//! connection in this or that stage. Specification: docs/design.md, "Data path".

#[path = "cluster/mod.rs"]
mod cluster;
#[path = "connections/mod.rs"]
mod connections;
#[path = "../../filter/tests/frames/mod.rs"]
mod frames;
#[path = "segment/mod.rs"]
mod segment;
#[path = "test_run/mod.rs"]
mod test_run;

use cluster::*;
use connections::*;
use covey_filter::{Address, BUCKETS, Disowned, Ends, Ports, RULE_SLOTS, Reason, Row};
use covey_proto::datapath::Image;
use covey_proto::ids::Digest;
use frames::{ACK, RST, SYN};
use segment::{Segment, monotonic_ns};
use test_run::{Bench, HOST_MAC, counts};

const FIN: u8 = 0x01;
const PUSH: u8 = 0x08;

/// Every bucket is like this.
fn all(row: u8) -> Image {
    let mut image = image(2, HOST_MAC, |_| 2);
    image.rows.iter_mut().for_each(|rows| rows.fill(row));
    image
}

/// A connection as the filter names it.
fn ends(connection: &Connection) -> Ends {
    let [client, service] =
        [connection.client, connection.service].map(|end| Address::from(end.ip()));
    let ports = Ports {
        source: connection.client.port(),
        destination: connection.service.port(),
    };
    Ends::new(client, service, ports)
}

/// What each row makes of the acknowledgement that completes a handshake or goes on with a connection, and of the
/// same with a wrong number: the two rows that ask the socket table.
const ACKNOWLEDGEMENTS: [(Stage, [bool; 2]); 12] = [
    (Stage::Listener, [false, false]),
    (Stage::Nothing, [false, false]),
    (Stage::HalfOpen, [true, false]),
    (Stage::Cookie, [true, false]),
    (Stage::Established, [true, true]),
    (Stage::CloseWait, [true, true]),
    (Stage::FinWait1, [true, true]),
    (Stage::FinWait2, [true, true]),
    (Stage::Orphan, [true, true]),
    (Stage::Closing, [true, true]),
    (Stage::LastAck, [true, true]),
    (Stage::TimeWait, [false, false]),
];

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_connection_is_kept_by_the_host_that_has_it_and_by_no_other() {
    let network = Segment::new();
    network.on_host(|| {
        let made = in_every_stage(&network);
        let mut bench = Bench::new(all(0));
        for (row, kept, refused) in [
            (Row::MINE | Row::SHARED, Reason::Mine, Reason::Unclaimed),
            (Row::LINGERING, Reason::Lingering, Reason::NotMine),
        ] {
            bench.program(all(row));
            for connection in &made {
                let (_, keeps) = ACKNOWLEDGEMENTS
                    .into_iter()
                    .find(|(stage, _)| *stage == connection.stage)
                    .expect("every stage is in the table");
                for (shift, keeps) in std::iter::zip([0, WRONG], keeps) {
                    let before = counts(&bench.programs);
                    test_run::run(bench.programs.ingress(), &connection.frame(ACK, shift, b""));
                    let after = counts(&bench.programs);
                    let reason = if keeps { kept } else { refused };
                    assert_eq!(
                        after[reason as usize],
                        before[reason as usize] + 1,
                        "{:?}, row {row}, {shift} past the right number: not {reason:?}",
                        connection.stage
                    );
                }
            }
        }
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_last_traffic_of_a_bucket_is_known_if_its_rule_is_sticky() {
    let network = Segment::new();
    network.on_host(|| {
        let made = in_every_stage(&network);
        let of = |stage| {
            let mut found = made.iter().filter(|it| it.stage == stage);
            found.next().expect("every stage is there")
        };
        let held = of(Stage::Established).frame(ACK, 0, b"");
        let foreign = of(Stage::Nothing).frame(ACK, 0, b"");
        let mut bench = Bench::new(all(0));
        for (row, frame, sticky, noted) in [
            (Row::MINE, &foreign, 1, true),
            (Row::MINE, &foreign, 0, false),
            (0, &foreign, 1, false),
            (Row::LINGERING, &held, 1, true),
            (Row::LINGERING, &foreign, 1, false),
            (Row::MINE | Row::SHARED, &foreign, 1, false),
        ] {
            let mut image = all(row);
            image.rules.iter_mut().for_each(|rule| rule.sticky = sticky);
            let decision = bench.decide(&image, frame);
            bench.program(image);
            let earliest = monotonic_ns() / 1_000_000_000 - 1;
            test_run::run(bench.programs.ingress(), frame);
            let latest = monotonic_ns() / 1_000_000_000;
            let mut seen: Vec<(u8, usize, u32)> = Vec::new();
            for rule in 0..RULE_SLOTS as u8 {
                let buckets = bench.programs.seen(rule).into_iter().enumerate();
                let met = buckets.filter(|(_, second)| *second != 0);
                seen.extend(met.map(|(bucket, second)| (rule, bucket, second)));
                bench.programs.forget(rule);
                assert_eq!(bench.programs.seen(rule), [0; BUCKETS]);
            }
            match &seen[..] {
                [(rule, bucket, second)] if noted => {
                    assert!((earliest..=latest).contains(&u64::from(*second)));
                    assert_eq!(Some(*rule), decision.rule);
                    let expected = decision.bucket.map(|it| usize::from(it.get()));
                    assert_eq!(Some(*bucket), expected);
                }
                _ => assert!(
                    !noted && seen.is_empty(),
                    "row {row}, sticky {sticky}: {seen:?}"
                ),
            }
        }
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_is_met_with_silence_is_told_and_let_through_once_it_is_disowned() {
    const MAP: u64 = 7;
    const HOUR: u64 = 3_600_000_000_000;
    let network = Segment::new();
    network.on_host(|| {
        let made = in_every_stage(&network);
        let mut bench = Bench::new(all(0));
        bench.program(all(Row::MINE | Row::SHARED).of_map(Digest(MAP)));
        let told = bench.programs.take_unclaimed().expect("a ring");
        let mut told = told.expect("nobody else reads it");
        let now = monotonic_ns();
        let known = |until_ns, map| Disowned { until_ns, map };
        for (known, holds) in [
            (known(0, 0), false),
            (known(now + HOUR, MAP - 1), false),
            (known(now + HOUR, MAP + 1), false),
            (known(now - 1, MAP), false),
            (known(now + HOUR, MAP), true),
        ] {
            for connection in &made {
                let ends = ends(connection);
                bench.programs.disown(&[ends], known).expect("room");
                let (_, keeps) = ACKNOWLEDGEMENTS
                    .into_iter()
                    .find(|(stage, _)| *stage == connection.stage)
                    .expect("every stage is in the table");
                for (shift, keeps) in std::iter::zip([0, WRONG], keeps) {
                    let nothing_here = match connection.stage {
                        Stage::Nothing | Stage::Listener | Stage::TimeWait => true,
                        Stage::Cookie => shift == WRONG,
                        _ => false,
                    };
                    let passes = keeps || (holds && nothing_here);
                    let before = counts(&bench.programs);
                    test_run::run(bench.programs.ingress(), &connection.frame(ACK, shift, b""));
                    let after = counts(&bench.programs);
                    let reason = if passes {
                        Reason::Mine
                    } else {
                        Reason::Unclaimed
                    };
                    let what = format!("{:?}, {shift} past, {known:?}", connection.stage);
                    let count = reason as usize;
                    assert_eq!(after[count], before[count] + 1, "{what}: not {reason:?}");
                    let report = told.next().map(|report| report.to_vec());
                    let words = ends.0.iter().flat_map(|word| word.to_ne_bytes());
                    assert_eq!(report, (!passes).then(|| words.collect()), "{what}");
                }
            }
        }
        // Without a lease this host has no right to ask.
        bench.lease(false);
        for connection in &made {
            test_run::run(bench.programs.ingress(), &connection.frame(ACK, WRONG, b""));
        }
        assert!(told.next().is_none());
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn kernel_and_user_space_agree_in_every_stage_and_row() {
    let network = Segment::new();
    network.on_host(|| {
        let made = in_every_stage(&network);
        let frames: Vec<Vec<u8>> = made
            .iter()
            .flat_map(|connection| {
                [
                    connection.frame(SYN, 0, b""),
                    connection.frame(ACK, 0, b""),
                    connection.frame(ACK, WRONG, b""),
                    connection.frame(RST, 0, b""),
                    connection.frame(RST | ACK, 0, b""),
                    connection.frame(FIN | ACK, 0, b""),
                    connection.frame(PUSH | ACK, 0, b"data"),
                ]
            })
            .collect();
        let mut bench = Bench::new(all(0));
        bench.sockets = Box::new(table(made.into()));
        for row in 0..16 {
            for cut in [0, 1] {
                let mut image = all(row);
                image.rules.iter_mut().for_each(|rule| rule.cut = cut);
                bench.program(image);
                for lease in [true, false] {
                    bench.lease(lease);
                    bench.compare(&frames);
                }
            }
        }
    });
}

//! Hosts that cannot be believed or agreed with: of another mode, with another key or none, of Microsoft's NLB.

use super::super::{Input, Output};
use super::segment::{Segment, TIMING, config, id, in_mode};
use crate::config::{Auth, ClusterConfig, ClusterMode, Key};
use crate::event::{Distrust, Event};
use crate::ids::{HostId, Mac};
use crate::wire::ethernet::{self, Ethernet};

#[test]
fn a_host_in_another_mode_is_kept_out_and_named() {
    let mut odd = config(1);
    odd.rules = in_mode(ClusterMode::Igmp);
    let mut segment = Segment::new([odd, config(2), config(3)]);
    segment.start_all();
    segment.run_until_converged(&[2, 3]);
    segment.run(TIMING.budget() * 6);
    assert!(segment.is_converged(&[2, 3]), "{}", segment.account());
    assert_eq!(segment.share(1), 0);
    let differs = |host: u8, there, here| Event::ModeDiffers {
        host: id(host),
        name: format!("h{host}"),
        there,
        here,
    };
    let of_one = differs(1, ClusterMode::Igmp, ClusterMode::Unicast);
    assert_eq!(segment.count(1, |event| *event == of_one), 1);
    let of_two = differs(2, ClusterMode::Unicast, ClusterMode::Igmp);
    assert_eq!(segment.count(0, |event| *event == of_two), 1);
    let waiting = segment.waiting_for(0);
    assert_eq!(waiting.as_deref(), Some("this host is set to another mode"));
}

fn key(id: u8, byte: u8) -> Auth {
    Auth::Keys(vec![Key {
        id,
        secret: [byte; 32],
    }])
}

#[test]
fn a_host_with_another_key_or_none_is_named_on_both_sides() {
    let cases = [
        (
            Auth::None,
            Distrust::Unsigned,
            Distrust::UnexpectedSignature,
        ),
        (key(2, 7), Distrust::UnknownKey, Distrust::UnknownKey),
        (key(1, 8), Distrust::BadSignature, Distrust::BadSignature),
    ];
    for (auth, here, there) in cases {
        let stranger = ClusterConfig { auth, ..config(3) };
        let mut segment = Segment::new([config(1), config(2), stranger]);
        segment.start_all();
        segment.run_until_converged(&[1, 2]);
        for _ in 0..200 {
            segment.run(TIMING.period);
            assert!(segment.is_converged(&[1, 2]), "{}", segment.account());
            assert_eq!(segment.share(3), 0, "{}", segment.account());
        }
        let waiting = segment.waiting_for(2).unwrap();
        assert!(
            waiting.contains("uses this cluster's address and cannot be believed"),
            "{waiting}"
        );
        let told = |host: u8, reason| Event::NotBelieved {
            host: id(host),
            dip: config(host).dip,
            reason,
        };
        for index in [0, 1] {
            assert_eq!(segment.count(index, |event| *event == told(3, here)), 1);
        }
        assert_eq!(segment.count(2, |event| *event == told(1, there)), 1);
        assert_eq!(segment.count(2, |event| event.id() == 1016), 2);
    }
}

#[test]
fn a_stranger_serves_when_nobody_else_speaks_and_keeps_no_survivor_from_it() {
    let stranger = ClusterConfig {
        auth: key(1, 8),
        ..config(3)
    };
    let mut segment = Segment::new([config(1), config(2), stranger]);
    segment.start_all();
    segment.run_until_converged(&[1, 2]);
    segment.crash(1);
    segment.run_until_converged(&[2]);
    segment.run(TIMING.budget() * 6);
    assert!(segment.is_converged(&[2]), "{}", segment.account());
    assert_eq!(segment.share(3), 0);
    segment.crash(2);
    segment.run_until_converged(&[3]);
    // Nor does a single host that is heard by nobody else begin beside it.
    segment.restart(1);
    segment.run(TIMING.budget() * 6);
    assert!(segment.is_converged(&[3]), "{}", segment.account());
    assert_eq!(segment.share(1), 0);
}

#[test]
fn a_host_in_another_mode_that_is_not_heard_does_not_serve_beside_the_others() {
    let mut odd = config(3);
    odd.rules = in_mode(ClusterMode::Multicast);
    let mut segment = Segment::new([config(1), config(2), odd]);
    segment.loss = Box::new(|from, _, _| from == id(3));
    segment.start_all();
    segment.run_until_converged(&[1, 2]);
    segment.run(TIMING.budget() * 10);
    assert!(segment.is_converged(&[1, 2]), "{}", segment.account());
    assert_eq!(segment.share(3), 0, "{}", segment.account());
    assert_eq!(segment.count(2, |event| event.id() == 1015), 2);
    let waiting = segment.waiting_for(2).unwrap();
    assert_eq!(
        waiting,
        "host(s) 1,2 are set to another mode than this host"
    );
    segment.crash(1);
    segment.crash(2);
    segment.run_until_converged(&[3]);
}

/// A membership heartbeat of Microsoft's NLB, as in the public capture (NLB facts §1.3), with other addresses.
fn nlb(host: u32, primary: [u8; 4]) -> Vec<u8> {
    let mut payload = vec![0; 1496];
    payload[..4].copy_from_slice(&0xC0DE_01BF_u32.to_le_bytes());
    payload[4] = 6;
    payload[5] = 2;
    payload[8..12].copy_from_slice(&host.to_le_bytes());
    payload[12..16].copy_from_slice(&primary);
    payload[16..20].copy_from_slice(&[10, 77, 0, 50]);
    Ethernet {
        destination: Mac::BROADCAST,
        source: Mac([2, host as u8, 10, 77, 0, 100]),
        ethertype: ethernet::HEARTBEAT,
        payload: &payload,
    }
    .emit()
}

#[test]
fn a_foreign_nlb_host_is_told_of_if_it_uses_this_clusters_address() {
    let mut segment = Segment::converged(2);
    segment.inject(nlb(7, [10, 77, 0, 99]));
    segment.inject(nlb(99, [10, 77, 0, 100]));
    segment.run(TIMING.budget());
    assert_eq!(segment.count(0, |event| event.id() == 1017), 0);
    for _ in 0..20 {
        segment.inject(nlb(7, [10, 77, 0, 100]));
        segment.run(TIMING.period);
    }
    let foreign = Event::ForeignNlb {
        host: id(7),
        dip: "10.77.0.50".parse().unwrap(),
    };
    assert_eq!(segment.count(0, |event| *event == foreign), 1);
    assert!(segment.is_converged(&[1, 2]));
}

#[test]
fn a_flood_of_unbelievable_frames_changes_nothing_and_is_told_of_a_few_times() {
    let mut segment = Segment::converged(2);
    let forged = |host: u8| {
        let mut frame = nlb(u32::from(host), [10, 77, 0, 100]);
        if host.is_multiple_of(2) {
            frame[ethernet::HEADER_LEN..ethernet::HEADER_LEN + 4]
                .copy_from_slice(&0xC0DE_01C0_u32.to_le_bytes());
        }
        frame
    };
    let now = segment.now;
    let cluster = &mut segment.hosts[0].cluster;
    let mut events = 0;
    for round in 0..100_000u32 {
        let host = HostId::new((round % 64) as u8 + 1).unwrap().get();
        cluster.handle_input(now, Input::Frame(&forged(host)));
        loop {
            match cluster.poll_output() {
                Output::Event(_) => events += 1,
                Output::Wait(_) => break,
                other => panic!("{other:?} follows from a frame that nothing vouches for"),
            }
        }
    }
    assert_eq!(events, 8);
    segment.run(TIMING.budget());
    assert!(segment.is_converged(&[1, 2]));
}

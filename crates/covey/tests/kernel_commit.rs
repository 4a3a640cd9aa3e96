//! A map that is held ready comes into force as the frame with its token passes the programs in the kernel, inwards
//! or outwards, and in no other way. Specification: docs/design.md, "Membership".

#[path = "cluster/mod.rs"]
mod cluster;
#[path = "../../filter/tests/frames/mod.rs"]
mod frames;
#[path = "test_run/mod.rs"]
mod test_run;

use cluster::*;
use covey::datapath::Commits;
use covey_filter::Token;
use covey_proto::config::Auth;
use covey_proto::ids::{Digest, Epoch, Incarnation, Mac};
use covey_proto::wire::ethernet::{HEARTBEAT, LEGACY_HEARTBEAT};
use covey_proto::wire::heartbeat::{
    Ballot, Body, Commit, CommittedMap, Message, PROTOCOL_VERSION, Sender,
};
use frames::*;
use test_run::*;

const TOKEN: Token = [0x1122_3344_5566_7788, 0x99AA_BBCC_DDEE_FF00];

fn commit(token: Token, ethertype: u16) -> Vec<u8> {
    let ballot = Ballot {
        epoch: Epoch(7),
        proposer: host(1),
        incarnation: Incarnation(1),
        attempt: 1,
    };
    let map = CommittedMap {
        ballot,
        digest: Digest(9),
    };
    let sender = Sender {
        host: host(1),
        dip: [10, 77, 0, 1].into(),
        name: String::new(),
        mac: Mac(HOST_MAC),
        incarnation: Incarnation(1),
        sequence: 5,
        version: PROTOCOL_VERSION,
    };
    let body = Body::Commit(Commit { token, map });
    let message = Message { sender, body };
    message.emit(Mac::BROADCAST, ethertype, VIP4.octets(), &Auth::None)
}

/// Whether the host takes the packet of a client.
fn takes(bench: &mut Bench) -> bool {
    let packet = ipv4(CLIENT4, VIP4, TCP, &ports(40000, 80));
    let (verdict, _) = run(bench.programs.ingress(), &to_ipv4(CLUSTER_MAC, &packet));
    verdict == XDP_PASS
}

/// A host that serves everything and holds a map ready by which it serves nothing.
fn about_to_hand_over() -> Bench {
    let mut bench = Bench::new(image(2, HOST_MAC, |_| 2));
    let next = image(2, HOST_MAC, |_| 3);
    bench.programs.stage(&next, TOKEN, u64::MAX);
    assert!(takes(&mut bench));
    bench
}

#[test]
#[ignore = "needs root: runs BPF programs"]
fn the_token_puts_the_map_into_force_as_it_passes() {
    for (outwards, ethertype) in [
        (false, HEARTBEAT),
        (true, HEARTBEAT),
        (false, LEGACY_HEARTBEAT),
    ] {
        let mut bench = about_to_hand_over();
        let frame = commit(TOKEN, ethertype);
        for _ in 0..3 {
            if outwards {
                let (verdict, sent) = run(bench.programs.guard(), &frame);
                assert_eq!(
                    (verdict, &sent),
                    (TC_ACT_UNSPEC, &frame),
                    "it leaves as it is"
                );
            } else {
                let (verdict, heard) = run(bench.programs.ingress(), &frame);
                assert_eq!(
                    (verdict, &heard),
                    (XDP_PASS, &frame),
                    "the daemon hears it too"
                );
            }
            assert!(bench.programs.has_flipped());
            assert!(!takes(&mut bench));
        }
        bench.programs.commit();
        assert!(!bench.programs.has_flipped());
        assert!(!takes(&mut bench));
        let by_programs = Commits {
            by_programs: 1,
            by_daemon: 0,
        };
        assert_eq!(bench.programs.commits(), by_programs);
    }
}

#[test]
#[ignore = "needs root: runs BPF programs"]
fn nothing_else_does() {
    let mut bench = about_to_hand_over();
    let [low, high] = TOKEN;
    let genuine = commit(TOKEN, HEARTBEAT);
    let mut not_alone = genuine.clone();
    not_alone[42] = b'h';
    let mut other_record = genuine.clone();
    other_record[50] ^= 1;
    let mut other_kind = genuine.clone();
    other_kind[12..14].copy_from_slice(&[0x88, 0xB5]);
    let wrong = [
        commit([low, high ^ 1], HEARTBEAT),
        commit([low ^ (1 << 63), high], HEARTBEAT),
        not_alone,
        other_record,
        other_kind,
        genuine[..69].to_vec(),
    ];
    for frame in wrong {
        run(bench.programs.ingress(), &frame);
        run(bench.programs.guard(), &frame);
        assert!(!bench.programs.has_flipped(), "{frame:02x?}");
        assert!(takes(&mut bench));
    }
    bench.programs.withdraw();
    run(bench.programs.ingress(), &genuine);
    assert!(takes(&mut bench), "it waits no more");
}

#[test]
#[ignore = "needs root: runs BPF programs"]
fn each_map_has_a_lease_of_its_own() {
    let mut bench = Bench::new(image(2, HOST_MAC, |_| 3));
    bench.lease(true);
    let next = image(2, HOST_MAC, |_| 2);
    bench.programs.stage(&next, TOKEN, 1);
    run(bench.programs.ingress(), &commit(TOKEN, HEARTBEAT));
    assert!(!takes(&mut bench), "the lease of the new map has lapsed");
    bench.programs.commit();
    bench.programs.set_lease(u64::MAX);
    assert!(takes(&mut bench));
    bench.programs.stage(&next, TOKEN, u64::MAX);
    bench.programs.fence();
    run(bench.programs.ingress(), &commit(TOKEN, HEARTBEAT));
    assert!(!takes(&mut bench), "fenced means fenced");
}

#[test]
#[ignore = "needs root: runs BPF programs"]
fn what_changes_under_a_map_changes_in_place() {
    let mut bench = about_to_hand_over();
    bench.programs.amend(&image(2, HOST_MAC, |_| 1));
    assert!(!takes(&mut bench));
    bench.programs.amend(&image(2, HOST_MAC, |_| 2));
    assert!(takes(&mut bench));
    run(bench.programs.ingress(), &commit(TOKEN, HEARTBEAT));
    assert!(!takes(&mut bench), "what is held ready is another table");
}

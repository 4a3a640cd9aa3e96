//! What holds for every frame: no bytes can make the filter panic, a flow keeps its bucket, and one host of
//! the cluster takes it. Specification: docs/design.md, "Promises".

mod cluster;
mod frames;

use cluster::*;
use covey_filter::{Changes, Egress, Reason, Verdict, decide, guard, quick, thorough};
use frames::*;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes that get past the first checks: the MACs and EtherTypes that matter, and noise behind them.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let mac = prop_oneof![
        3 => Just(CLUSTER_MAC),
        1 => Just(BROADCAST),
        1 => Just(host_mac(1)),
        1 => any::<[u8; 6]>()
    ];
    let kind = prop_oneof![
        Just(0x0800),
        Just(0x86DD),
        Just(0x0806),
        Just(0x8100),
        Just(0x88A8),
        any::<u16>()
    ];
    (mac, kind, prop::collection::vec(any::<u8>(), 0..120))
        .prop_map(|(to, kind, payload)| ethernet(to, CLIENT_MAC, kind, &payload))
}

fn flow() -> impl Strategy<Value = Vec<u8>> {
    let body = (
        prop_oneof![Just(TCP), Just(UDP)],
        any::<u16>(),
        any::<u16>(),
    );
    (body, any::<u32>(), any::<u128>(), any::<bool>()).prop_map(
        |((protocol, from, to), v4, v6, six)| {
            let body = ports(from, to);
            if six {
                to_ipv6(
                    CLUSTER_MAC,
                    &ipv6(Ipv6Addr::from(v6), VIP6, protocol, &body),
                )
            } else {
                to_ipv4(
                    CLUSTER_MAC,
                    &ipv4(Ipv4Addr::from(v4), VIP4, protocol, &body),
                )
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        decide(&bytes[..], &hosts(1)[0]);
        guard(&bytes[..], &hosts(1)[0]);
    }

    /// The two ways to decide agree wherever both do.
    #[test]
    fn quick_says_what_thorough_says(frame in prop_oneof![frame(), flow()]) {
        let host = &hosts(3)[0];
        if let Some(decision) = quick(&frame[..], host) {
            prop_assert_eq!(decision, thorough(&frame[..], host));
        }
    }

    #[test]
    fn no_frame_panics(frame in frame()) {
        decide(&frame[..], &hosts(1)[0]);
        if let Egress::Change(Changes { advertised: Some(correction), .. }) = guard(&frame[..], &hosts(1)[0]) {
            prop_assert_eq!(&frame[correction.at..correction.at + 6], &correction.old);
        }
    }

    /// A frame whose destination is another's, or a group's, is dropped only if it asks for a virtual IP.
    #[test]
    fn only_cluster_traffic_is_ever_dropped(frame in frame()) {
        let decision = decide(&frame[..], &hosts(3)[2]);
        if decision.verdict == Verdict::Drop && frame[..6] != CLUSTER_MAC {
            prop_assert_eq!(decision.reason, Reason::QuestionNotMine);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn exactly_one_host_takes_a_flow(flows in prop::collection::vec(flow(), 100), count in 1usize..=16) {
        let hosts = hosts(count);
        for flow in flows {
            let decisions: Vec<_> = hosts.iter().map(|host| decide(&flow[..], host)).collect();
            let takers = decisions.iter().filter(|decision| decision.verdict == Verdict::Accept).count();
            let disabled = decisions.iter().all(|decision| decision.reason == Reason::Disabled);
            prop_assert_eq!(takers, usize::from(!disabled));
            prop_assert!(decisions.iter().all(|decision| decision.bucket == decisions[0].bucket));
        }
    }

    /// Later packets of a flow differ in everything but addresses and ports.
    #[test]
    fn a_flow_keeps_its_bucket(flow in flow(), noise: [u8; 12], host in 0usize..4) {
        let host = &hosts(4)[host];
        let mut later = flow.clone();
        let end = later.len();
        later[end - 12..].copy_from_slice(&noise);
        later[6..12].copy_from_slice(&noise[..6]);
        prop_assert_eq!(decide(&flow[..], host), decide(&later[..], host));
    }
}

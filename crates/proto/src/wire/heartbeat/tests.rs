//! Both directions of the heartbeat, on made-up, captured and random bytes.

use super::*;
use crate::config::Key;
use crate::wire::ethernet::{self, HEADER_LEN};
use proptest::prelude::*;
use std::time::Duration;

mod golden;

const PRIMARY: [u8; 4] = [10, 77, 0, 100];

fn keys(byte: u8) -> Auth {
    Auth::Keys(vec![Key {
        id: 1,
        secret: [byte; 32],
    }])
}

fn parse(frame: &[u8], auth: &Auth) -> Result<Message, Reject> {
    Message::parse(&frame[HEADER_LEN..], PRIMARY, auth)
}

fn emit(message: &Message, auth: &Auth) -> Vec<u8> {
    message.emit(Mac::BROADCAST, ethernet::HEARTBEAT, PRIMARY, auth)
}

fn host() -> impl Strategy<Value = HostId> {
    (1u8..=64).prop_map(|id| HostId::new(id).unwrap())
}

prop_compose! {
    fn ballot()(epoch in 1..u64::MAX - 1, proposer in host(), incarnation: u64, attempt: u32) -> Ballot {
        Ballot { epoch: Epoch(epoch), proposer, incarnation: Incarnation(incarnation), attempt }
    }
}

prop_compose! {
    fn base()(epoch in 1..u64::MAX - 1, digest: u64) -> Base {
        Base { epoch: Epoch(epoch), digest: Digest(digest) }
    }
}

prop_compose! {
    fn proposal()(ballot in ballot(), base in proptest::option::of(base()), view: u64, owners: u64, rules: u64, held: u64, result: u64)
        -> Proposal {
        let mut view = HostSet::from_bits(view);
        view.insert(ballot.proposer);
        let owners = HostSet::from_bits(owners).intersection(view);
        Proposal { ballot, base, view, owners, rules: Digest(rules), held: Digest(held), result: Digest(result) }
    }
}

prop_compose! {
    fn offer()(rules: u64, claims in proptest::collection::vec(0u8..=100, 0..=64)) -> Offer {
        Offer { rules: Digest(rules), claims: claims.into_iter().map(Claim).collect() }
    }
}

prop_compose! {
    fn heartbeat()(
        announced in prop_oneof![
            Just(Announced::Goodbye), Just(Announced::Converging), Just(Announced::Converged), Just(Announced::Leaving),
            Just(Announced::Listening), Just(Announced::Draining)
        ],
        period in 10u64..=10_000,
        tolerance in 3u16..=100,
        echoes in proptest::collection::vec((host(), any::<u32>(), any::<u32>()), 0..=80),
        grants: u64,
        offers in proptest::collection::vec(offer(), 1..=2),
        committed in proptest::option::of((ballot(), any::<u64>())),
        staged in proptest::option::of((ballot(), any::<u64>())),
        proposal in proptest::option::of(proposal()),
        wanted in proptest::option::of(base()),
        report in proptest::option::of((any::<u64>(), any::<u64>(), any::<u64>())),
        mode in prop_oneof![Just(ClusterMode::Unicast), Just(ClusterMode::Multicast), Just(ClusterMode::Igmp)],
        legacy: bool,
        kept_out in proptest::option::of((any::<u64>(), any::<u32>())),
        findings in proptest::collection::vec(any::<u8>(), 0..=MAX_FINDINGS),
        reach in proptest::option::of(any::<(u64, u32, [[u64; 2]; 3])>()),
    ) -> Heartbeat {
        Heartbeat {
            announced,
            timing: Timing { period: Duration::from_millis(period), tolerance },
            echoes: echoes.into_iter().map(|(host, tag, sequence)| Echo { host, tag, sequence }).collect(),
            grants: HostSet::from_bits(grants),
            offers,
            committed: committed.map(|(ballot, digest)| CommittedMap { ballot, digest: Digest(digest) }),
            staged: staged.map(|(ballot, result)| Acknowledgement { ballot, result: Digest(result) }),
            proposal,
            wanted,
            report: report.map(|(epoch, lingering, sticky)| Report {
                epoch: Epoch(epoch), lingering: Digest(lingering), sticky: Digest(sticky)
            }),
            mode,
            legacy,
            kept_out: kept_out.map(|(hosts, millis)| KeptOut { hosts: HostSet::from_bits(hosts), millis }),
            findings,
            reach: reach.map(|(probed, mtu, paths)| self::reach(probed, mtu, paths)),
        }
    }
}

fn reach(probed: u64, mtu: u32, paths: [[u64; 2]; 3]) -> Reach {
    let [broadcast, cluster_mac, own_mac] = paths.map(|[from, missing]| Arrivals {
        from: HostSet::from_bits(from),
        missing: HostSet::from_bits(missing),
    });
    Reach {
        probed,
        mtu,
        broadcast,
        cluster_mac,
        own_mac,
    }
}

fn subject() -> impl Strategy<Value = Subject> {
    let digest = || any::<u64>().prop_map(Digest);
    prop_oneof![
        base().prop_map(Subject::Map),
        digest().prop_map(Subject::Rules),
        digest().prop_map(Subject::Lingering),
        digest().prop_map(Subject::Sticky),
        digest().prop_map(Subject::Held),
    ]
}

prop_compose! {
    fn chunk()(subject in subject(), index in 0u32..800, length in 1usize..=CHUNK_LEN, more in 0u32..5) -> Chunk {
        let offset = index * CHUNK_LEN as u32;
        let (length, rest) = if more == 0 { (length, 0) } else { (CHUNK_LEN, more) };
        Chunk { subject, total: offset + length as u32 + rest, offset, bytes: vec![7; length] }
    }
}

prop_compose! {
    fn inquiry()(asks: bool, epoch: u64, ends in proptest::collection::vec(any::<[SocketAddr; 2]>(), 0..=MAX_INQUIRY)) -> Body {
        // What has no place on the wire: mapped addresses, and what belongs to a socket of a link.
        let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        Body::Inquiry {
            inquiry: if asks { Inquiry::Who } else { Inquiry::NotI },
            epoch: Epoch(epoch),
            connections: ends.into_iter().map(|[client, service]| Ends { client: plain(client), service: plain(service) }).collect(),
        }
    }
}

prop_compose! {
    fn message()(
        host in host(), dip: u32, name in "[a-z0-9.äß😀-]{0,31}", mac: [u8; 6], incarnation: u64, sequence: u64, version in prop_oneof![Just(PROTOCOL_VERSION), 1u16..],
        body in prop_oneof![
            4 => heartbeat().prop_map(|heartbeat| Body::Heartbeat(Box::new(heartbeat))),
            1 => chunk().prop_map(Body::Chunk),
            1 => inquiry(),
            1 => Just(Body::Probe),
            1 => (any::<[u64; 2]>(), ballot(), any::<u64>()).prop_map(|(token, ballot, digest)| {
                Body::Commit(Commit { token, map: CommittedMap { ballot, digest: Digest(digest) } })
            }),
        ],
    ) -> Message {
        let incarnation = Incarnation(incarnation);
        let name = if matches!(body, Body::Commit(_)) { String::new() } else { name };
        let sender = Sender { host, dip: dip.into(), name, mac: Mac(mac), incarnation, sequence, version };
        Message { sender, body }
    }
}

proptest! {
    #[test]
    fn what_is_sent_is_read(message in message()) {
        for auth in [keys(7), Auth::None] {
            let frame = emit(&message, &auth);
            let of_today = message.sender.version <= PROTOCOL_VERSION;
            prop_assert!(!of_today || frame.len() <= HEADER_LEN + 1500, "{} bytes", frame.len());
            prop_assert_eq!(parse(&frame, &auth), Ok(message.clone()));
        }
    }

    #[test]
    fn programs_in_the_kernel_find_the_token_of_a_commit_and_of_nothing_else(message in message()) {
        let told = match &message.body {
            Body::Commit(commit) => Some(commit.token),
            Body::Heartbeat(_) | Body::Chunk(_) | Body::Inquiry { .. } | Body::Probe => None,
        };
        for (auth, ethertype) in [(keys(7), ethernet::HEARTBEAT), (Auth::None, ethernet::LEGACY_HEARTBEAT)] {
            let frame = message.emit(Mac::BROADCAST, ethertype, PRIMARY, &auth);
            prop_assert_eq!(covey_filter::token(frame.as_slice()), told);
        }
    }

    #[test]
    fn a_cut_or_changed_frame_is_not_believed(message in message(), at: prop::sample::Index, flip in 1u8..) {
        let frame = emit(&message, &keys(7));
        let at = HEADER_LEN + at.index(frame.len() - HEADER_LEN);
        prop_assert!(parse(&frame[..at], &keys(7)).is_err());
        let mut changed = frame.clone();
        changed[at] ^= flip;
        prop_assert!(parse(&changed, &keys(7)).is_err());
    }

    #[test]
    fn padding_behind_the_signature_changes_nothing(message in message(), padding in 1usize..60) {
        let mut frame = emit(&message, &keys(7));
        frame.extend(std::iter::repeat_n(0, padding));
        prop_assert_eq!(parse(&frame, &keys(7)), Ok(message));
    }

    #[test]
    fn a_record_of_a_later_version_is_passed_over(message in message(), kind in 0xD0u8.., value: Vec<u8>) {
        // Between the name and the vitals, as a newer version might put it.
        let mut message = message;
        message.sender.version = PROTOCOL_VERSION;
        let frame = emit(&message, &Auth::None);
        let vitals = frame.windows(4).position(|bytes| bytes == [kind::VITALS, 0, 22, 0]).unwrap();
        let (head, rest) = frame.split_at(vitals);
        let length = (value.len() as u16).to_le_bytes();
        let newer = [head, &[kind, 0], &length, &value, rest].concat();
        prop_assert_eq!(parse(&newer, &Auth::None), Ok(message));
    }
}

fn example() -> Message {
    let host = HostId::new(2).unwrap();
    let incarnation = Incarnation(0x1122_3344_5566_7788);
    let ballot = Ballot {
        epoch: Epoch(9),
        proposer: host,
        incarnation,
        attempt: 3,
    };
    let base = Base {
        epoch: Epoch(8),
        digest: Digest(0xAABB),
    };
    let view = HostSet::from_bits(0b111);
    Message {
        sender: Sender {
            host,
            dip: "10.77.0.2".parse().unwrap(),
            name: "h2".to_owned(),
            mac: Mac([2, 0, 0, 0, 0, 2]),
            incarnation,
            sequence: 41,
            version: PROTOCOL_VERSION,
        },
        body: Body::Heartbeat(Box::new(Heartbeat {
            announced: Announced::Converging,
            timing: Timing {
                period: Duration::from_secs(1),
                tolerance: 5,
            },
            mode: ClusterMode::Unicast,
            legacy: false,
            echoes: vec![Echo {
                host: HostId::new(1).unwrap(),
                tag: 0xDEAD_BEEF,
                sequence: 77,
            }],
            grants: HostSet::from_bits(0b101),
            offers: vec![Offer {
                rules: Digest(5),
                claims: vec![Claim(50), Claim(0)],
            }],
            committed: Some(CommittedMap {
                ballot,
                digest: Digest(0xCC),
            }),
            staged: Some(Acknowledgement {
                ballot,
                result: Digest(0xDD),
            }),
            proposal: Some(Proposal {
                ballot,
                base: Some(base),
                view,
                owners: view,
                rules: Digest(5),
                held: Digest(0xAB),
                result: Digest(0xEE),
            }),
            wanted: Some(base),
            report: Some(Report {
                epoch: Epoch(6),
                lingering: Digest(0x11),
                sticky: Digest(0x22),
            }),
            kept_out: None,
            findings: Vec::new(),
            reach: None,
        })),
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn heartbeats_of_nlb_are_told_apart() {
    // The public capture, NLB facts §1.4: host 2 of a two-host cluster.
    let captured = from_hex(
        "bf01dec0060200000200 0000c0a86450c0a8645201000000010009 0035e33b4fbbcec804 0000000000000000",
    );
    assert_eq!(
        Message::parse(&captured, PRIMARY, &keys(7)),
        Err(Reject::ForeignNlb)
    );
    let xbox = *b"XBOX and the rest of its debug protocol";
    assert_eq!(
        Message::parse(&xbox, PRIMARY, &keys(7)),
        Err(Reject::BadSignature)
    );
}

#[test]
fn the_ladder_of_reasons() {
    let good = emit(&example(), &keys(7));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        parse(&frame, &keys(7)).unwrap_err()
    };
    assert_eq!(
        with(&|frame| frame.truncate(HEADER_LEN + 3)),
        Reject::TooShort
    );
    assert_eq!(with(&|frame| frame[HEADER_LEN] = 0), Reject::BadSignature);
    assert_eq!(with(&|frame| frame[HEADER_LEN + 6] = 0), Reject::ForeignNlb);
    assert_eq!(with(&|frame| frame[HEADER_LEN + 8] = 65), Reject::BadHostId);
    assert_eq!(with(&|frame| frame[HEADER_LEN + 8] = 0), Reject::BadHostId);
    assert_eq!(
        with(&|frame| frame[HEADER_LEN + 15] += 1),
        Reject::OtherCluster
    );
    assert_eq!(with(&|frame| frame[HEADER_LEN + 20] = 2), Reject::BadName);
    assert_eq!(
        with(&|frame| frame[HEADER_LEN + 28] ^= 1),
        Reject::BadSignatureTag
    );
    assert_eq!(
        parse(&emit(&example(), &Auth::None), &keys(7)),
        Err(Reject::Unsigned)
    );
    assert_eq!(parse(&good, &Auth::None), Err(Reject::UnexpectedSignature));
    assert_eq!(parse(&good, &keys(8)), Err(Reject::BadSignatureTag));
    let other_id = Auth::Keys(vec![Key {
        id: 2,
        secret: [7; 32],
    }]);
    assert_eq!(parse(&good, &other_id), Err(Reject::UnknownKey));
}

#[test]
fn every_accepted_key_is_tried_by_its_id() {
    let old = Key {
        id: 1,
        secret: [1; 32],
    };
    let new = Key {
        id: 2,
        secret: [2; 32],
    };
    let rotating = Auth::Keys(vec![new.clone(), old.clone()]);
    for signer in [Auth::Keys(vec![old]), Auth::Keys(vec![new])] {
        assert_eq!(parse(&emit(&example(), &signer), &rotating), Ok(example()));
    }
}

#[test]
fn a_name_is_no_place_for_control_characters() {
    let mut message = example();
    message.sender.name = "a\u{1b}[2Jb".to_owned();
    assert_eq!(
        parse(&emit(&message, &keys(7)), &keys(7)),
        Err(Reject::BadName)
    );
}

/// A generator that is fast enough for a million strings (xorshift64*, Vigna 2016).
fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

#[test]
fn a_million_random_strings_change_nothing() {
    let good = emit(&example(), &Auth::None);
    let mut state = 0x0C0F_FEE1;
    let mut bytes = Vec::new();
    for round in 0..1_000_000u32 {
        bytes.clear();
        if round % 2 == 0 {
            // Noise.
            let length = random(&mut state) as usize % 200;
            bytes.extend((0..length).map(|_| random(&mut state) as u8));
        } else {
            // A good frame with a few bytes changed and cut somewhere.
            bytes.extend_from_slice(&good);
            for _ in 0..random(&mut state) % 4 {
                let at = random(&mut state) as usize % bytes.len();
                bytes[at] = random(&mut state) as u8;
            }
            bytes.truncate(random(&mut state) as usize % (good.len() + 1));
        }
        let _ = Ethernet::parse(&bytes);
        let _ = crate::placement::Placement::decode(&bytes);
        let _ = crate::wire::arp::Arp::parse(&bytes);
        let _ = Message::parse(&bytes, PRIMARY, &Auth::None);
        let _ = Message::parse(bytes.get(HEADER_LEN..).unwrap_or(&[]), PRIMARY, &Auth::None);
        let _ = Message::parse(bytes.get(HEADER_LEN..).unwrap_or(&[]), PRIMARY, &keys(7));
    }
}

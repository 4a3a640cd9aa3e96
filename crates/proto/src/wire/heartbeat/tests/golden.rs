//! Frames of protocol version 1, as bytes. Every later version must read them: never change one, only add others.

use super::*;
use crate::wire::ethernet::LEGACY_HEARTBEAT;

/// A message, the key that signs it, its EtherType, and the frame that it must be.
struct Golden {
    message: Message,
    auth: Auth,
    ethertype: u16,
    hex: &'static str,
}

fn chunk(subject: Subject, bytes: &[u8]) -> Message {
    Message {
        body: Body::Chunk(Chunk {
            subject,
            total: CHUNK_LEN as u32 + bytes.len() as u32,
            offset: CHUNK_LEN as u32,
            bytes: bytes.to_vec(),
        }),
        ..example()
    }
}

fn commit() -> Message {
    let Message { mut sender, .. } = example();
    sender.name = String::new();
    let ballot = Ballot {
        epoch: Epoch(9),
        proposer: HostId::new(3).unwrap(),
        incarnation: Incarnation(0x0102_0304_0506_0708),
        attempt: 2,
    };
    let map = CommittedMap {
        ballot,
        digest: Digest(0xCCDD),
    };
    let token = [0x1111_2222_3333_4444, 0x5555_6666_7777_8888];
    Message {
        sender,
        body: Body::Commit(Commit { token, map }),
    }
}

fn inquiry() -> Message {
    let ends = |client: &str, service: &str| Ends {
        client: client.parse().unwrap(),
        service: service.parse().unwrap(),
    };
    Message {
        body: Body::Inquiry {
            inquiry: Inquiry::Who,
            epoch: Epoch(9),
            connections: vec![
                ends("10.77.0.200:40000", "10.77.0.100:80"),
                ends("[fd77::c8]:40001", "[fd77::100]:443"),
            ],
        },
        ..example()
    }
}

fn probe() -> Message {
    let Message { mut sender, .. } = example();
    sender.name = String::new();
    Message {
        sender,
        body: Body::Probe,
    }
}

fn heartbeat(change: impl FnOnce(&mut Heartbeat)) -> Message {
    let mut message = example();
    match &mut message.body {
        Body::Heartbeat(heartbeat) => change(heartbeat),
        Body::Chunk(_) | Body::Commit(_) | Body::Inquiry { .. } | Body::Probe => {
            panic!("the example is a heartbeat")
        }
    }
    message
}

fn golden(message: Message, hex: &'static str) -> Golden {
    Golden {
        message,
        auth: keys(7),
        ethertype: ethernet::HEARTBEAT,
        hex,
    }
}

fn all() -> Vec<Golden> {
    let base = Base {
        epoch: Epoch(8),
        digest: Digest(0xAABB),
    };
    let bare = |heartbeat: &mut Heartbeat| {
        (heartbeat.committed, heartbeat.staged) = (None, None);
        (heartbeat.proposal, heartbeat.wanted, heartbeat.report) = (None, None, None);
    };
    vec![
        golden(example(), include_str!("golden/version-1-heartbeat.hex")),
        golden(
            heartbeat(bare),
            include_str!("golden/version-1-bare-heartbeat.hex"),
        ),
        golden(
            heartbeat(|heartbeat| {
                heartbeat.kept_out = Some(KeptOut {
                    hosts: HostSet::from_bits(0b1000),
                    millis: 20_000,
                });
            }),
            include_str!("golden/version-1-keeping-out.hex"),
        ),
        golden(
            chunk(Subject::Map(base), &[1, 2, 3]),
            include_str!("golden/version-1-map-chunk.hex"),
        ),
        golden(
            heartbeat(|heartbeat| {
                heartbeat.reach = Some(reach(0x0102, 1500, [[1, 2], [3, 4], [5, 1 << 63]]));
            }),
            include_str!("golden/version-1-reach.hex"),
        ),
        golden(
            heartbeat(|heartbeat| {
                heartbeat.mode = ClusterMode::Igmp;
                heartbeat.findings = vec![8, 47];
            }),
            include_str!("golden/version-1-findings.hex"),
        ),
        golden(probe(), include_str!("golden/version-1-probe.hex")),
        golden(inquiry(), include_str!("golden/version-1-inquiry.hex")),
        golden(commit(), include_str!("golden/version-1-commit.hex")),
        golden(
            chunk(Subject::Lingering(Digest(0x11)), &[4, 5]),
            include_str!("golden/version-1-lingering-chunk.hex"),
        ),
        golden(
            chunk(Subject::Sticky(Digest(0x22)), &[7]),
            include_str!("golden/version-1-sticky-chunk.hex"),
        ),
        golden(
            chunk(Subject::Held(Digest(0x44)), &[8]),
            include_str!("golden/version-1-held-chunk.hex"),
        ),
        golden(
            chunk(Subject::Rules(Digest(0x33)), &[6]),
            include_str!("golden/version-1-rules-chunk.hex"),
        ),
        Golden {
            auth: Auth::None,
            ..golden(
                example(),
                include_str!("golden/version-1-unsigned-heartbeat.hex"),
            )
        },
        Golden {
            ethertype: LEGACY_HEARTBEAT,
            ..golden(
                heartbeat(|heartbeat| heartbeat.legacy = true),
                include_str!("golden/version-1-legacy-heartbeat.hex"),
            )
        },
    ]
}

#[test]
fn todays_bytes_stay_readable() {
    for Golden {
        message,
        auth,
        ethertype,
        hex,
    } in all()
    {
        let frame = message.emit(Mac::BROADCAST, ethertype, PRIMARY, &auth);
        let emitted: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected: String = hex.split_whitespace().collect();
        assert_eq!(
            emitted, expected,
            "the format has changed: it needs a new version"
        );
        let bytes = from_hex(hex);
        assert_eq!(Ethernet::parse(&bytes).unwrap().ethertype, ethertype);
        assert_eq!(parse(&bytes, &auth), Ok(message));
    }
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    for Golden {
        mut message, auth, ..
    } in all()
    {
        let today = emit(&message, &auth);
        message.sender.version = PROTOCOL_VERSION + 1;
        let tomorrow = emit(&message, &auth);
        assert!(tomorrow.len() > today.len() + 16, "it says more");
        assert_eq!(parse(&tomorrow, &auth), Ok(message));
    }
}

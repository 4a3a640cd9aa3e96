//! The formats on the wire, one file each: Ethernet, ARP, the heartbeat with its records, its signature, the probe.
//!
//! Bytes become meaning here or are refused with a [`Reject`], whose label is also the counter in
//! `covey status` and the row in the documentation. Everything past this module works with meaning.
//! Specification: docs/design.md, "On the wire"; layouts of NLB itself: NLB facts §1.

pub mod arp;
pub mod auth;
pub mod ethernet;
pub mod heartbeat;
pub mod neighbour;
pub mod probe;
pub(crate) mod reader;

/// Why a frame was not used. In the order in which the checks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reject {
    /// Shorter than its own headers say.
    TooShort,
    /// Another protocol on the same EtherType (NLB facts §1.1 names two).
    BadSignature,
    /// A heartbeat of Microsoft NLB, or of something that speaks exactly like it.
    ForeignNlb,
    /// A host ID outside 1..=64.
    BadHostId,
    /// Another cluster on this segment.
    OtherCluster,
    /// The host name is not terminated or not UTF-16.
    BadName,
    /// A record of a known type with a wrong length or an impossible value.
    BadRecord,
    /// A record that every heartbeat has is not there.
    MissingRecord,
    /// Not signed, and this host asks for signatures.
    Unsigned,
    /// Signed, and this host runs without a key.
    UnexpectedSignature,
    /// Signed with a key this host does not have.
    UnknownKey,
    /// The signature is wrong: another key under the same ID, or a forgery.
    BadSignatureTag,
    /// This host's own frame came back.
    OwnFrame,
    /// Another host uses the ID of this host, or of a live peer.
    DuplicateId,
    /// Not newer than what was heard from that host before.
    Replay,
    /// A host that has just started and has yet to prove that it speaks now.
    Unproven,
    /// This host is stopped and listens to nobody.
    Stopped,
}

impl Reject {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::TooShort,
        Self::BadSignature,
        Self::ForeignNlb,
        Self::BadHostId,
        Self::OtherCluster,
        Self::BadName,
        Self::BadRecord,
        Self::MissingRecord,
        Self::Unsigned,
        Self::UnexpectedSignature,
        Self::UnknownKey,
        Self::BadSignatureTag,
        Self::OwnFrame,
        Self::DuplicateId,
        Self::Replay,
        Self::Unproven,
        Self::Stopped,
    ];

    /// The name of its counter.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::BadSignature => "bad_signature",
            Self::ForeignNlb => "foreign_nlb",
            Self::BadHostId => "bad_host_id",
            Self::OtherCluster => "other_cluster",
            Self::BadName => "bad_name",
            Self::BadRecord => "bad_record",
            Self::MissingRecord => "missing_record",
            Self::Unsigned => "unsigned",
            Self::UnexpectedSignature => "unexpected_signature",
            Self::UnknownKey => "unknown_key",
            Self::BadSignatureTag => "bad_signature_tag",
            Self::OwnFrame => "own_frame",
            Self::DuplicateId => "duplicate_id",
            Self::Replay => "replay",
            Self::Unproven => "unproven",
            Self::Stopped => "stopped",
        }
    }
}

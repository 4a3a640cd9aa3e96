//! The heartbeat: an NLB *extended* heartbeat that carries Covey's own records, and the map chunk, which
//! has the same head and travels only while a host needs a map it does not have.
//!
//! ```text
//!  offset  size
//!       0     4  signature 0xC0DE01C0, LE                         \
//!       4     4  version, LE: 2.6 in the low half, Covey's        |  NLB's common header,
//!                protocol version in the high half                |  NLB facts §1.2
//!       8     4  host ID, LE                                      |
//!      12     4  primary virtual IP, network order                |
//!      16     4  dedicated IP, network order                      /
//!      20     8  type 1, length in 8-byte units, zeros            \  NLB's host name record,
//!      28     -  name, UTF-16LE, NUL                              |  NLB facts §1.5; Wireshark goes on
//!       -     6  padding                                          /  exactly 6 bytes after the NUL
//!       -     -  Covey's records: u8 type, u8 zero, u16 LE length of the value, value
//! ```
//!
//! A third message, the commit, gives no name and has its record first, so that programs in the kernel find it.
//! Records of unknown type are skipped, so that newer versions stay readable. The signature record comes
//! last and covers everything before its tag. All integers are little-endian. Wireshark shows who speaks
//! and takes Covey's records as one blob. Specification: docs/design.md, "On the wire".

mod parse;
mod reach;
mod records;
mod tomorrow;

use super::Reject;
use super::auth::TAG_LEN;
use super::ethernet::Ethernet;
use super::reader::Reader;
use crate::config::{Auth, ClusterMode, Timing};
use crate::ids::{Digest, Epoch, HostId, HostSet, Incarnation, Mac};
use crate::rules::Claim;
use covey_filter::Token;
pub use reach::{Arrivals, Reach};
pub(crate) use records::{emit_proposal, parse_proposal};
use records::{kind, record};
use std::net::{Ipv4Addr, SocketAddr};

/// Extended heartbeat.
const SIGNATURE: u32 = 0xC0DE_01C0;
/// NLB's other two messages: membership heartbeat and "reliable protocol".
const NLB_SIGNATURES: [u32; 2] = [0xC0DE_01BF, 0xC0DE_01DE];
/// NLB 2.6, as in the public capture.
const NLB_VERSION: u32 = 0x0206;
/// Covey's protocol version.
pub const PROTOCOL_VERSION: u16 = 1;
/// Padding after the name's NUL.
const NAME_PADDING: usize = 6;
/// UTF-16 units of the name that are sent.
pub const MAX_NAME: usize = 63;
/// Echoes that are read; a sender has at most one per host and a few for hosts that have just started.
pub const MAX_ECHOES: usize = 96;
/// Connections in one inquiry.
pub const MAX_INQUIRY: usize = 32;
/// Findings that a host tells of itself.
pub const MAX_FINDINGS: usize = 32;
/// Bytes of a map in one chunk.
pub const CHUNK_LEN: usize = 1024;

/// Who speaks, in every message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its ID.
    pub host: HostId,
    /// Its dedicated IP.
    pub dip: Ipv4Addr,
    /// Its name.
    pub name: String,
    /// Its NIC's own MAC.
    pub mac: Mac,
    /// Its start.
    pub incarnation: Incarnation,
    /// Counts its messages, from 1.
    pub sequence: u64,
    /// The highest protocol version it speaks; [`PROTOCOL_VERSION`] or another start's.
    pub version: u16,
}

/// What a host says about its part in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// It has stopped: it answers nothing any more.
    Goodbye = 0,
    /// It is not, or no longer, in a committed map.
    Converging = 1,
    /// It serves, and sees no change under way.
    Converged = 2,
    /// It wants a map without it.
    Leaving = 3,
    /// It has not listened long enough to know who else is there, so it can join a cluster but not found one.
    Listening = 4,
    /// It wants a map without it, and then finishes its connections before it stops.
    Draining = 5,
}

/// The last message heard from a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Which host.
    pub host: HostId,
    /// [`Incarnation::tag`] of the start that was heard.
    pub tag: u32,
    /// Low 32 bits of the sequence.
    pub sequence: u32,
}

/// A rule set that a host can serve, and what it brings to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Digest of the rule set.
    pub rules: Digest,
    /// One per port rule.
    pub claims: Vec<Claim>,
}

/// Names one attempt to commit a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// The epoch it would be.
    pub epoch: Epoch,
    /// Who proposes.
    pub proposer: HostId,
    /// The proposer's start.
    pub incarnation: Incarnation,
    /// Counts the proposer's attempts.
    pub attempt: u32,
}

/// A committed map, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedMap {
    /// The ballot that committed it; its epoch is the map's.
    pub ballot: Ballot,
    /// Digest of the map.
    pub digest: Digest,
}

/// Epoch and digest of the map that a proposal starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Base {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its digest.
    pub digest: Digest,
}

/// PREPARE: what the coordinator asks all members to compute and acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its name.
    pub ballot: Ballot,
    /// The map it starts from; none in a fresh cluster.
    pub base: Option<Base>,
    /// Members: who must acknowledge.
    pub view: HostSet,
    /// Those of them that own buckets (not the ones that leave).
    pub owners: HostSet,
    /// Digest of the rule set.
    pub rules: Digest,
    /// Digest of the set of buckets that sticky rules do not move yet; 0 for none.
    pub held: Digest,
    /// Digest of the result.
    pub result: Digest,
}

/// In which buckets of other hosts the sender has connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Under which map.
    pub epoch: Epoch,
    /// Digest of the set; 0 for none, else the set follows in a chunk.
    pub lingering: Digest,
    /// Digest of the set of its own buckets that sticky rules do not move yet; 0 for none.
    pub sticky: Digest,
}

/// ACK: the sender holds the result of this ballot ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The ballot.
    pub ballot: Ballot,
    /// Digest of what it computed.
    pub result: Digest,
}

/// The state of a host, told every period and on every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Its part in the cluster.
    pub announced: Announced,
    /// Its period and tolerance: how long its silence may last.
    pub timing: Timing,
    /// How the cluster's frames reach every host by the map in force, or without one by what it offers.
    pub mode: ClusterMode,
    /// It can only speak and hear the previous generation's EtherType, so the others revert to it.
    pub legacy: bool,
    /// Whom it hears.
    pub echoes: Vec<Echo>,
    /// Whose lease its echoes renew.
    pub grants: HostSet,
    /// What it can serve: first what it wants, then what is in force if that differs.
    pub offers: Vec<Offer>,
    /// The map in force.
    pub committed: Option<CommittedMap>,
    /// The result it holds ready.
    pub staged: Option<Acknowledgement>,
    /// What it proposes.
    pub proposal: Option<Proposal>,
    /// A map that it needs in order to compute a proposal, and asks the proposer for.
    pub wanted: Option<Base>,
    /// Where it has connections, once it has looked under the map in force.
    pub report: Option<Report>,
    /// Whom it, as coordinator, does not let join for a while.
    pub kept_out: Option<KeptOut>,
    /// What is wrong with it in its own eyes: the numbers of findings (docs/troubleshooting.md), [`MAX_FINDINGS`] at
    /// most. The core hands them on and knows none of them.
    pub findings: Vec<u8>,
    /// On which paths it hears whom; earlier programs do not tell.
    pub reach: Option<Reach>,
}

/// Hosts that were lost again and again and may not join yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptOut {
    /// Which.
    pub hosts: HostSet,
    /// For how long at most, in milliseconds.
    pub millis: u32,
}

impl Heartbeat {
    /// Hosts that the sender hears, in any incarnation.
    pub fn hears(&self) -> HostSet {
        self.echoes.iter().map(|echo| echo.host).collect()
    }

    /// The sender's echo of this start of this host.
    pub fn echo_of(&self, host: HostId, incarnation: Incarnation) -> Option<&Echo> {
        self.echoes
            .iter()
            .find(|echo| echo.host == host && echo.tag == incarnation.tag())
    }

    /// Whether what it echoes renews the lease of this start of this host. The grant is for the start that the sender
    /// believes, which it echoes first; others with the same ID may have yet to prove themselves.
    pub fn grants_to(&self, host: HostId, incarnation: Incarnation) -> bool {
        let first = self.echoes.iter().find(|echo| echo.host == host);
        let believed = first.is_some_and(|echo| echo.tag == incarnation.tag());
        believed && self.grants.contains(host)
    }
}

/// What is too large for a heartbeat and travels in frames of its own, when it changes or is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An encoded [`crate::placement::Placement`].
    Map(Base),
    /// An encoded [`crate::rules::RuleSet`] that the sender offers.
    Rules(Digest),
    /// The [`crate::buckets::BucketSet`] of a [`Report`], of foreign buckets in which the sender has connections.
    Lingering(Digest),
    /// The [`crate::buckets::BucketSet`] of a [`Report`], of own buckets that sticky rules do not move yet.
    Sticky(Digest),
    /// The [`crate::buckets::BucketSet`] of a [`Proposal`], of buckets that sticky rules do not move yet.
    Held(Digest),
}

/// A part of something large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Of what.
    pub subject: Subject,
    /// Length of the whole, bytes.
    pub total: u32,
    /// Where this part begins, a multiple of [`CHUNK_LEN`].
    pub offset: u32,
    /// The part; [`CHUNK_LEN`] bytes but for the last.
    pub bytes: Vec<u8>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A heartbeat.
    Heartbeat(Box<Heartbeat>),
    /// A part of something large.
    Chunk(Chunk),
    /// A map comes into force.
    Commit(Commit),
    /// About connections that a client believes in and their owner does not have.
    Inquiry {
        /// Question or answer.
        inquiry: Inquiry,
        /// Under which map.
        epoch: Epoch,
        /// Which connections, [`MAX_INQUIRY`] at most.
        connections: Vec<Ends>,
    },
    /// To see whether it arrives. Its sequence is that of the heartbeat before it; it gives no name.
    Probe,
}

/// What is said of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// Who has them?
    Who,
    /// The sender has none of them.
    NotI,
}

/// Names a TCP connection to a virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ends {
    /// The client's end.
    pub client: SocketAddr,
    /// This end; its address is a virtual IP.
    pub service: SocketAddr,
}

/// Reveals the token of a ballot. The filters of all hosts read it as the frame passes ([`covey_filter::token()`]), so
/// the sender gives no name, and the token stands at a fixed place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// What the hosts that have acknowledged the ballot wait for.
    pub token: Token,
    /// The map.
    pub map: CommittedMap,
}

/// The header that all messages have in common, Covey's and NLB's. Nothing vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    signature: u32,
    version: u16,
    host: u32,
    primary: [u8; 4],
    /// The dedicated IP.
    pub dip: Ipv4Addr,
}

impl Header {
    /// Reads the first 20 bytes of a payload.
    ///
    /// # Errors
    /// [`Reject::TooShort`].
    pub fn parse(payload: &[u8]) -> Result<Self, Reject> {
        Self::read(&mut Reader::new(payload, Reject::TooShort))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Reject> {
        Ok(Self {
            signature: reader.u32()?,
            version: (reader.u32()? >> 16) as u16,
            host: reader.u32()?,
            primary: reader.array()?,
            dip: Ipv4Addr::from(reader.array::<4>()?),
        })
    }

    /// The host ID, if it is one of the cluster with this primary virtual IP.
    pub fn host_of(&self, primary: [u8; 4]) -> Option<HostId> {
        let host = u8::try_from(self.host).ok().and_then(HostId::new);
        host.filter(|_| self.primary == primary)
    }
}

/// A message of one Covey host to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub sender: Sender,
    /// What it says.
    pub body: Body,
}

impl Message {
    /// The message as a whole frame from the sender's NIC to `destination`, signed as `auth` says. `ethertype` is
    /// one of the two of [`super::ethernet`]. A sender of a later version than this one says more than this one
    /// understands.
    pub fn emit(&self, destination: Mac, ethertype: u16, primary: [u8; 4], auth: &Auth) -> Vec<u8> {
        Ethernet {
            destination,
            source: self.sender.mac,
            ethertype,
            payload: &self.payload(primary, auth),
        }
        .emit()
    }

    /// What is in that frame.
    pub fn payload(&self, primary: [u8; 4], auth: &Auth) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&SIGNATURE.to_le_bytes());
        let version = u32::from(self.sender.version) << 16 | NLB_VERSION;
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&u32::from(self.sender.host.get()).to_le_bytes());
        out.extend_from_slice(&primary);
        out.extend_from_slice(&self.sender.dip.octets());
        if let Body::Commit(commit) = &self.body {
            emit_name(&mut out, "");
            commit.emit(&mut out);
        } else {
            emit_name(&mut out, &self.sender.name);
        }
        let name_end = out.len();
        record(&mut out, kind::VITALS, |value| {
            value.extend_from_slice(&self.sender.mac.0);
            value.extend_from_slice(&self.sender.incarnation.0.to_le_bytes());
            value.extend_from_slice(&self.sender.sequence.to_le_bytes());
        });
        match &self.body {
            Body::Heartbeat(heartbeat) => heartbeat.emit(&mut out),
            Body::Chunk(chunk) => chunk.emit(&mut out),
            Body::Commit(_) => {}
            Body::Probe => record(&mut out, kind::PROBE, |_| {}),
            Body::Inquiry {
                inquiry,
                epoch,
                connections,
            } => records::emit_inquiry(&mut out, *inquiry, *epoch, connections),
        }
        if self.sender.version > PROTOCOL_VERSION {
            tomorrow::extend(&mut out, name_end);
        }
        if let Some(key) = auth.signing() {
            out.extend_from_slice(&[kind::SIGNATURE, 0]);
            out.extend_from_slice(&(1 + TAG_LEN as u16).to_le_bytes());
            out.push(key.id);
            let tag = key.tag(&out);
            out.extend_from_slice(&tag);
        }
        out
    }
}

fn emit_name(out: &mut Vec<u8>, name: &str) {
    let units: Vec<u16> = name.encode_utf16().take(MAX_NAME).collect();
    let record_len = 8 + 2 * (units.len() + 1) + NAME_PADDING;
    out.extend_from_slice(&[1, record_len.div_ceil(8) as u8, 0, 0, 0, 0, 0, 0]);
    for unit in units {
        out.extend_from_slice(&unit.to_le_bytes());
    }
    out.extend_from_slice(&[0; 2 + NAME_PADDING]);
}

#[cfg(test)]
mod tests;

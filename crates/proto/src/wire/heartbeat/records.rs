//! Covey's records, one by one: how each is written and read.
//!
//! Called by the parent module, which knows the frame around them. Record values are little-endian and are
//! laid out in the order of the fields below; what follows the known fields is a newer version's.

use super::{
    Announced, Ballot, Base, Body, CHUNK_LEN, Chunk, Commit, CommittedMap, Echo, Ends, Heartbeat,
    Inquiry, MAX_ECHOES, MAX_FINDINGS, MAX_INQUIRY, Offer, Proposal, Report, Subject,
};
use crate::config::{ClusterMode, Timing};
use crate::ids::{Digest, Epoch, HostId, HostSet, Incarnation, MAX_HOSTS};
use crate::rules::{Claim, mapped, truncated};
use crate::wire::Reject;
use crate::wire::reader::Reader;
use covey_filter::USER_RULES;
use sha2::{Digest as _, Sha256};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Record types. NLB uses 1 and 2.
pub(super) mod kind {
    pub(in super::super) const PROBE: u8 = 0xBF;
    pub(in super::super) const REACH: u8 = 0xC0;
    pub(in super::super) const VITALS: u8 = 0xC1;
    pub(in super::super) const STATE: u8 = 0xC2;
    pub(in super::super) const ECHOES: u8 = 0xC3;
    pub(in super::super) const OFFER: u8 = 0xC4;
    pub(in super::super) const COMMITTED: u8 = 0xC5;
    pub(in super::super) const STAGED: u8 = 0xC6;
    pub(in super::super) const PROPOSAL: u8 = 0xC7;
    pub(in super::super) const WANTED: u8 = 0xC8;
    pub(in super::super) const CHUNK: u8 = 0xC9;
    pub(in super::super) const REPORT: u8 = 0xCA;
    pub(in super::super) const KEPT_OUT: u8 = 0xCB;
    pub(in super::super) const COMMIT: u8 = covey_filter::COMMIT_RECORD;
    pub(in super::super) const INQUIRY: u8 = 0xCD;
    pub(in super::super) const FINDINGS: u8 = 0xCE;
    pub(in super::super) const SIGNATURE: u8 = 0xCF;
}

impl Heartbeat {
    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        // What decides about a commit comes first, at an offset that does not depend on the number of hosts.
        if let Some(map) = &self.committed {
            record(out, kind::COMMITTED, |value| emit_map(value, map));
        }
        record(out, kind::STATE, |value| {
            value.push(self.announced as u8);
            value.extend_from_slice(&(self.timing.period.as_micros() as u32).to_le_bytes());
            value.extend_from_slice(&self.timing.tolerance.to_le_bytes());
            value.push(self.mode.number());
            value.push(u8::from(self.legacy) * State::LEGACY);
        });
        if let Some(report) = &self.report {
            record(out, kind::REPORT, |value| {
                value.extend_from_slice(&report.epoch.0.to_le_bytes());
                value.extend_from_slice(&report.lingering.0.to_le_bytes());
                value.extend_from_slice(&report.sticky.0.to_le_bytes());
            });
        }
        if let Some(staged) = &self.staged {
            record(out, kind::STAGED, |value| {
                emit_ballot(value, &staged.ballot);
                value.extend_from_slice(&staged.result.0.to_le_bytes());
            });
        }
        if let Some(proposal) = &self.proposal {
            record(out, kind::PROPOSAL, |value| emit_proposal(value, proposal));
        }
        if let Some(base) = &self.wanted {
            record(out, kind::WANTED, |value| emit_base(value, base));
        }
        if let Some(kept_out) = &self.kept_out {
            record(out, kind::KEPT_OUT, |value| {
                value.extend_from_slice(&kept_out.hosts.bits().to_le_bytes());
                value.extend_from_slice(&kept_out.millis.to_le_bytes());
            });
        }
        if !self.findings.is_empty() {
            record(out, kind::FINDINGS, |value| {
                let told = self.findings.iter().take(MAX_FINDINGS);
                value.push(told.len() as u8);
                value.extend(told);
            });
        }
        if let Some(reach) = &self.reach {
            record(out, kind::REACH, |value| reach.emit(value));
        }
        for offer in &self.offers {
            record(out, kind::OFFER, |value| {
                value.extend_from_slice(&offer.rules.0.to_le_bytes());
                value.push(offer.claims.len() as u8);
                value.extend(offer.claims.iter().map(|claim| claim.0));
            });
        }
        record(out, kind::ECHOES, |value| {
            value.extend_from_slice(&self.grants.bits().to_le_bytes());
            for echo in self.echoes.iter().take(MAX_ECHOES) {
                value.push(echo.host.get());
                value.extend_from_slice(&echo.tag.to_le_bytes());
                value.extend_from_slice(&echo.sequence.to_le_bytes());
            }
        });
    }
}

impl CommittedMap {
    /// A digest of ballot and contents: no other map has it, not even one of the same epoch in another life of the
    /// cluster.
    pub fn tag(self) -> Digest {
        let mut hash = Sha256::new();
        hash.update(self.to_bytes());
        truncated(hash)
    }

    /// Ballot and digest, as they travel.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        emit_map(&mut bytes, &self);
        bytes
    }
}

impl Commit {
    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        record(out, kind::COMMIT, |value| {
            for word in self.token {
                value.extend_from_slice(&word.to_le_bytes());
            }
            emit_map(value, &self.map);
        });
    }
}

pub(super) fn parse_commit(value: &mut Reader<'_>) -> Result<Commit, Reject> {
    Ok(Commit {
        token: [value.u64()?, value.u64()?],
        map: parse_map(value)?,
    })
}

pub(super) fn emit_inquiry(
    out: &mut Vec<u8>,
    inquiry: Inquiry,
    epoch: Epoch,
    connections: &[Ends],
) {
    record(out, kind::INQUIRY, |value| {
        value.push(match inquiry {
            Inquiry::Who => 1,
            Inquiry::NotI => 2,
        });
        value.extend_from_slice(&epoch.0.to_le_bytes());
        value.push(connections.len() as u8);
        for end in connections
            .iter()
            .flat_map(|ends| [ends.client, ends.service])
        {
            value.extend_from_slice(&mapped(end.ip()));
            value.extend_from_slice(&end.port().to_le_bytes());
        }
    });
}

pub(super) fn parse_inquiry(value: &mut Reader<'_>) -> Result<Body, Reject> {
    let inquiry = match value.u8()? {
        1 => Inquiry::Who,
        2 => Inquiry::NotI,
        _ => return Err(Reject::BadRecord),
    };
    let epoch = Epoch(value.u64()?);
    let count = usize::from(value.u8()?);
    if count > MAX_INQUIRY {
        return Err(Reject::BadRecord);
    }
    let connections = (0..count)
        .map(|_| {
            Ok(Ends {
                client: parse_end(value)?,
                service: parse_end(value)?,
            })
        })
        .collect::<Result<_, Reject>>()?;
    Ok(Body::Inquiry {
        inquiry,
        epoch,
        connections,
    })
}

fn parse_end(value: &mut Reader<'_>) -> Result<SocketAddr, Reject> {
    let address = Ipv6Addr::from(value.array::<16>()?);
    Ok(SocketAddr::new(
        IpAddr::from(address).to_canonical(),
        value.u16()?,
    ))
}

fn emit_map(out: &mut Vec<u8>, map: &CommittedMap) {
    emit_ballot(out, &map.ballot);
    out.extend_from_slice(&map.digest.0.to_le_bytes());
}

pub(super) fn parse_map(value: &mut Reader<'_>) -> Result<CommittedMap, Reject> {
    Ok(CommittedMap {
        ballot: parse_ballot(value)?,
        digest: Digest(value.u64()?),
    })
}

impl Chunk {
    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        record(out, kind::CHUNK, |value| {
            let (kind, epoch, digest) = match self.subject {
                Subject::Map(base) => (1, base.epoch, base.digest),
                Subject::Rules(digest) => (2, Epoch(0), digest),
                Subject::Lingering(digest) => (3, Epoch(0), digest),
                Subject::Sticky(digest) => (4, Epoch(0), digest),
                Subject::Held(digest) => (5, Epoch(0), digest),
            };
            value.push(kind);
            emit_base(value, &Base { epoch, digest });
            value.extend_from_slice(&self.total.to_le_bytes());
            value.extend_from_slice(&self.offset.to_le_bytes());
            value.extend_from_slice(&self.bytes);
        });
    }
}

/// Appends a record whose value `write` appends.
pub(super) fn record(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&[kind, 0, 0, 0]);
    let start = out.len();
    write(out);
    let length = u16::try_from(out.len() - start).expect("records are far below 64 KiB");
    out[start - 2..start].copy_from_slice(&length.to_le_bytes());
}

pub(super) fn emit_ballot(out: &mut Vec<u8>, ballot: &Ballot) {
    out.extend_from_slice(&ballot.epoch.0.to_le_bytes());
    out.push(ballot.proposer.get());
    out.extend_from_slice(&ballot.incarnation.0.to_le_bytes());
    out.extend_from_slice(&ballot.attempt.to_le_bytes());
}

pub(super) fn parse_ballot(value: &mut Reader<'_>) -> Result<Ballot, Reject> {
    let epoch = Epoch(value.u64()?);
    let proposer = HostId::new(value.u8()?).ok_or(Reject::BadRecord)?;
    let incarnation = Incarnation(value.u64()?);
    // Epoch 0 means "no map"; the last epoch would leave no next one.
    if epoch.0 == 0 || epoch.0 >= u64::MAX - 1 {
        return Err(Reject::BadRecord);
    }
    Ok(Ballot {
        epoch,
        proposer,
        incarnation,
        attempt: value.u32()?,
    })
}

pub(super) fn emit_base(out: &mut Vec<u8>, base: &Base) {
    out.extend_from_slice(&base.epoch.0.to_le_bytes());
    out.extend_from_slice(&base.digest.0.to_le_bytes());
}

pub(super) fn parse_base(value: &mut Reader<'_>) -> Result<Base, Reject> {
    Ok(Base {
        epoch: Epoch(value.u64()?),
        digest: Digest(value.u64()?),
    })
}

pub(crate) fn emit_proposal(out: &mut Vec<u8>, proposal: &Proposal) {
    emit_ballot(out, &proposal.ballot);
    emit_base(
        out,
        &proposal.base.unwrap_or(Base {
            epoch: Epoch(0),
            digest: Digest(0),
        }),
    );
    out.extend_from_slice(&proposal.view.bits().to_le_bytes());
    out.extend_from_slice(&proposal.owners.bits().to_le_bytes());
    out.extend_from_slice(&proposal.rules.0.to_le_bytes());
    out.extend_from_slice(&proposal.held.0.to_le_bytes());
    out.extend_from_slice(&proposal.result.0.to_le_bytes());
}

pub(crate) fn parse_proposal(value: &mut Reader<'_>) -> Result<Proposal, Reject> {
    let ballot = parse_ballot(value)?;
    let base = Some(parse_base(value)?).filter(|base| base.epoch != Epoch(0));
    let view = HostSet::from_bits(value.u64()?);
    let owners = HostSet::from_bits(value.u64()?);
    if !owners.without(view).is_empty() || !view.contains(ballot.proposer) {
        return Err(Reject::BadRecord);
    }
    let (rules, held) = (Digest(value.u64()?), Digest(value.u64()?));
    let result = Digest(value.u64()?);
    Ok(Proposal {
        ballot,
        base,
        view,
        owners,
        rules,
        held,
        result,
    })
}

/// The state record.
pub(super) struct State {
    pub(super) announced: Announced,
    pub(super) timing: Timing,
    pub(super) mode: ClusterMode,
    pub(super) legacy: bool,
}

impl State {
    /// Bit of the flags.
    const LEGACY: u8 = 1;

    pub(super) fn parse(value: &mut Reader<'_>) -> Result<Self, Reject> {
        Ok(Self {
            announced: parse_announced(value)?,
            timing: parse_timing(value)?,
            mode: ClusterMode::from_number(value.u8()?).ok_or(Reject::BadRecord)?,
            legacy: value.u8()? & Self::LEGACY != 0,
        })
    }
}

pub(super) fn parse_report(value: &mut Reader<'_>) -> Result<Report, Reject> {
    Ok(Report {
        epoch: Epoch(value.u64()?),
        lingering: Digest(value.u64()?),
        sticky: Digest(value.u64()?),
    })
}

pub(super) fn parse_findings(value: &mut Reader<'_>) -> Result<Vec<u8>, Reject> {
    let count = usize::from(value.u8()?);
    if count > MAX_FINDINGS {
        return Err(Reject::BadRecord);
    }
    Ok(value.take(count)?.to_vec())
}

fn parse_announced(value: &mut Reader<'_>) -> Result<Announced, Reject> {
    match value.u8()? {
        0 => Ok(Announced::Goodbye),
        1 => Ok(Announced::Converging),
        2 => Ok(Announced::Converged),
        3 => Ok(Announced::Leaving),
        4 => Ok(Announced::Listening),
        5 => Ok(Announced::Draining),
        _ => Err(Reject::BadRecord),
    }
}

fn parse_timing(value: &mut Reader<'_>) -> Result<Timing, Reject> {
    let period = Duration::from_micros(u64::from(value.u32()?));
    let tolerance = value.u16()?;
    let sound = (Timing::MIN_PERIOD..=Timing::MAX_PERIOD).contains(&period)
        && (Timing::MIN_TOLERANCE..=Timing::MAX_TOLERANCE).contains(&tolerance);
    if sound {
        Ok(Timing { period, tolerance })
    } else {
        Err(Reject::BadRecord)
    }
}

pub(super) fn parse_echoes(value: &mut Reader<'_>) -> Result<(Vec<Echo>, HostSet), Reject> {
    let grants = HostSet::from_bits(value.u64()?);
    let mut echoes = Vec::with_capacity(value.remaining() / 9);
    while !value.is_empty() {
        let host = HostId::new(value.u8()?).ok_or(Reject::BadRecord)?;
        echoes.push(Echo {
            host,
            tag: value.u32()?,
            sequence: value.u32()?,
        });
    }
    if echoes.len() > MAX_ECHOES {
        Err(Reject::BadRecord)
    } else {
        Ok((echoes, grants))
    }
}

pub(super) fn parse_offer(value: &mut Reader<'_>) -> Result<Offer, Reject> {
    let rules = Digest(value.u64()?);
    let count = usize::from(value.u8()?);
    if count > USER_RULES {
        return Err(Reject::BadRecord);
    }
    let claims: Vec<Claim> = value.take(count)?.iter().copied().map(Claim).collect();
    if claims
        .iter()
        .any(|claim| claim.0 > Claim::MAX_WEIGHT.max(MAX_HOSTS))
    {
        return Err(Reject::BadRecord);
    }
    Ok(Offer { rules, claims })
}

pub(super) fn parse_chunk(value: &mut Reader<'_>) -> Result<Chunk, Reject> {
    let kind = value.u8()?;
    let base = parse_base(value)?;
    let subject = match kind {
        1 => Subject::Map(base),
        2 => Subject::Rules(base.digest),
        3 => Subject::Lingering(base.digest),
        4 => Subject::Sticky(base.digest),
        5 => Subject::Held(base.digest),
        _ => return Err(Reject::BadRecord),
    };
    let (total, offset) = (value.u32()?, value.u32()?);
    let bytes = value.take(value.remaining())?.to_vec();
    let expected = (total.saturating_sub(offset) as usize).min(CHUNK_LEN);
    if bytes.is_empty() || bytes.len() != expected || !(offset as usize).is_multiple_of(CHUNK_LEN) {
        return Err(Reject::BadRecord);
    }
    Ok(Chunk {
        subject,
        total,
        offset,
        bytes,
    })
}

//! Reading a heartbeat or a chunk: header, name, signature, then Covey's records, in this order.
//!
//! Nothing past the name is looked at before the signature is checked. Called for every frame that arrives
//! (`cluster/hearing.rs`). Specification: docs/design.md, "On the wire".

use super::records::{self, kind};
use super::{
    Acknowledgement, Body, Header, Heartbeat, KeptOut, MAX_NAME, Message, NAME_PADDING,
    NLB_SIGNATURES, Reach, SIGNATURE, Sender,
};
use crate::config::Auth;
use crate::ids::{Digest, HostId, HostSet, Incarnation, Mac};
use crate::wire::Reject;
use crate::wire::auth::TAG_LEN;
use crate::wire::reader::Reader;
use std::net::Ipv4Addr;

impl Message {
    /// Reads the payload of a heartbeat frame of the cluster with this primary virtual IP, and checks its
    /// signature before anything in it is believed.
    ///
    /// # Errors
    /// The first reason not to use it.
    pub fn parse(payload: &[u8], primary: [u8; 4], auth: &Auth) -> Result<Self, Reject> {
        let mut reader = Reader::new(payload, Reject::TooShort);
        let header = Header::read(&mut reader)?;
        if NLB_SIGNATURES.contains(&header.signature) {
            return Err(Reject::ForeignNlb);
        }
        if header.signature != SIGNATURE {
            return Err(Reject::BadSignature);
        }
        if header.version == 0 {
            return Err(Reject::ForeignNlb);
        }
        let host = u8::try_from(header.host).ok().and_then(HostId::new);
        let host = host.ok_or(Reject::BadHostId)?;
        if header.primary != primary {
            return Err(Reject::OtherCluster);
        }
        let name = parse_name(&mut reader)?;
        check_signature(payload, payload.len() - reader.remaining(), auth)?;
        parse_records(
            reader,
            Head {
                host,
                dip: header.dip,
                name,
                version: header.version,
            },
        )
    }
}

fn parse_name(reader: &mut Reader<'_>) -> Result<String, Reject> {
    let header = reader.array::<8>()?;
    if header[0] != 1 {
        return Err(Reject::BadName);
    }
    let mut units = Vec::new();
    loop {
        match reader.u16()? {
            0 => break,
            _ if units.len() == MAX_NAME => return Err(Reject::BadName),
            unit => units.push(unit),
        }
    }
    reader.take(NAME_PADDING)?;
    let name = String::from_utf16(&units).map_err(|_| Reject::BadName)?;
    // Names are shown on terminals and in logs; a name is no place for control characters.
    if name.chars().any(char::is_control) {
        Err(Reject::BadName)
    } else {
        Ok(name)
    }
}

/// Walks the records from `start` to the signature record and checks it.
fn check_signature(payload: &[u8], start: usize, auth: &Auth) -> Result<(), Reject> {
    let mut at = start;
    while let Some(&[kind, _, low, high]) = payload.get(at..).and_then(|rest| rest.first_chunk()) {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let value = payload
            .get(at + 4..at + 4 + length)
            .ok_or(Reject::TooShort)?;
        if kind != kind::SIGNATURE {
            at += 4 + length;
            continue;
        }
        let (&key_id, tag) = value.split_first().ok_or(Reject::BadRecord)?;
        let tag: &[u8; TAG_LEN] = tag.try_into().map_err(|_| Reject::BadRecord)?;
        if matches!(auth, Auth::None) {
            return Err(Reject::UnexpectedSignature);
        }
        let key = auth.key(key_id).ok_or(Reject::UnknownKey)?;
        let signed = &payload[..at + 5];
        return if key.verifies(signed, tag) {
            Ok(())
        } else {
            Err(Reject::BadSignatureTag)
        };
    }
    match auth {
        Auth::None => Ok(()),
        Auth::Keys(_) => Err(Reject::Unsigned),
    }
}

/// What stands before Covey's records.
struct Head {
    host: HostId,
    dip: Ipv4Addr,
    name: String,
    version: u16,
}

/// Reads Covey's records up to the signature. Of a record that may come once, the last one counts. Bytes that
/// follow the known fields of a record are a newer version's and are passed over.
fn parse_records(mut reader: Reader<'_>, head: Head) -> Result<Message, Reject> {
    let mut vitals = None;
    let mut state = None;
    let mut echoes = (Vec::new(), HostSet::EMPTY);
    let mut offers = Vec::new();
    let (mut committed, mut staged, mut proposal) = (None, None, None);
    let mut findings = Vec::new();
    let (mut wanted, mut report) = (None, None);
    let (mut kept_out, mut reach) = (None, None);
    let mut other = None;
    while !reader.is_empty() {
        let kind = reader.u8()?;
        reader.u8()?;
        let length = reader.u16()?;
        let mut value = Reader::new(reader.take(usize::from(length))?, Reject::BadRecord);
        match kind {
            kind::VITALS => {
                vitals = Some((Mac(value.array()?), Incarnation(value.u64()?), value.u64()?));
            }
            kind::STATE => {
                state = Some(records::State::parse(&mut value)?);
            }
            kind::ECHOES => echoes = records::parse_echoes(&mut value)?,
            kind::OFFER if offers.len() < 2 => offers.push(records::parse_offer(&mut value)?),
            kind::COMMITTED => committed = Some(records::parse_map(&mut value)?),
            kind::COMMIT => other = Some(Body::Commit(records::parse_commit(&mut value)?)),
            kind::INQUIRY => other = Some(records::parse_inquiry(&mut value)?),
            kind::STAGED => {
                let ballot = records::parse_ballot(&mut value)?;
                staged = Some(Acknowledgement {
                    ballot,
                    result: Digest(value.u64()?),
                });
            }
            kind::PROPOSAL => proposal = Some(records::parse_proposal(&mut value)?),
            kind::WANTED => wanted = Some(records::parse_base(&mut value)?),
            kind::REPORT => report = Some(records::parse_report(&mut value)?),
            kind::KEPT_OUT => {
                kept_out = Some(KeptOut {
                    hosts: HostSet::from_bits(value.u64()?),
                    millis: value.u32()?,
                });
            }
            kind::FINDINGS => findings = records::parse_findings(&mut value)?,
            kind::REACH => reach = Some(Reach::parse(&mut value)?),
            kind::PROBE => other = Some(Body::Probe),
            kind::CHUNK => other = Some(Body::Chunk(records::parse_chunk(&mut value)?)),
            kind::SIGNATURE => break,
            _ => continue,
        }
    }
    let (mac, incarnation, sequence) = vitals.ok_or(Reject::MissingRecord)?;
    let sender = Sender {
        host: head.host,
        dip: head.dip,
        name: head.name,
        mac,
        incarnation,
        sequence,
        version: head.version,
    };
    if let Some(body) = other {
        return Ok(Message { sender, body });
    }
    let state = state.ok_or(Reject::MissingRecord)?;
    if offers.is_empty() {
        return Err(Reject::MissingRecord);
    }
    let (echoes, grants) = echoes;
    let heartbeat = Heartbeat {
        announced: state.announced,
        timing: state.timing,
        mode: state.mode,
        legacy: state.legacy,
        echoes,
        grants,
        offers,
        committed,
        staged,
        proposal,
        wanted,
        report,
        kept_out,
        findings,
        reach,
    };
    Ok(Message {
        sender,
        body: Body::Heartbeat(Box::new(heartbeat)),
    })
}

//! What one daemon hands to the next that takes its place on the same host, so that the others see one host all the
//! time: [`Cluster::export`] and [`Cluster::import`].
//!
//! The next daemon is the same host in the same incarnation, with the same map, lease, sequence and memory of its peers.
//! To itself and to the others it is a host that was stalled for a moment, and whatever is true of a stall is true here:
//! it never serves longer than its lease, and if the moment was longer than a period it listens anew before it takes
//! anybody's silence for an end. Called by the daemon for `covey upgrade`. Specification: docs/design.md, "Upgrade".
//!
//! The bytes are for the next program on this machine alone and never leave it. They begin with [`EXPORT_FORMAT`]; a program
//! that does not know it takes nothing over. Integers are little-endian; peers are kept as the frames they sent, so
//! that there is one encoding of what a heartbeat says. What only people are told, and what is learned again within a
//! period (hosts that are not believed yet, who was lost how often), is left out.

use super::lease::Sent;
use super::lingering::Sets;
use super::peer::{Peer, Peers};
use super::prepared::{Claims, Prepared};
use super::readdressing::Readdressing;
use super::role::Role;
use super::{Cluster, PortState};
use crate::buckets::BucketSet;
use crate::config::{Auth, ClusterConfig, four_bytes};
use crate::datapath::{Identity, Image};
use crate::ids::{Digest, Epoch, HostId, HostSet, Incarnation, Mac};
use crate::placement::Placement;
use crate::rules::{Claim, RuleSet, truncated};
use crate::time::Time;
use crate::wire::Reject;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::heartbeat::{Body, Message, emit_proposal, parse_proposal};
use crate::wire::reader::Reader;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;

/// Version of the exported state. It changes with every change of its layout or meaning.
pub const EXPORT_FORMAT: u16 = 2;

/// Why a state is not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// It was written by a program with another [`EXPORT_FORMAT`].
    Format(u16),
    /// It is another host's, or that of a host with another key, timing or NIC.
    OtherHost,
    /// It is from a time that has yet to come: the machine has started again since.
    OtherTime,
    /// It is not whole.
    Damaged,
}

impl std::fmt::Display for ImportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Format(format) => {
                write!(
                    f,
                    "its state has format {format}, and this program knows {EXPORT_FORMAT}"
                )
            }
            Self::OtherHost => f.write_str("its state is that of a host with another identity"),
            Self::OtherTime => f.write_str("its state is from before the machine was started"),
            Self::Damaged => f.write_str("its state is not whole"),
        }
    }
}

impl std::error::Error for ImportError {}

impl From<Reject> for ImportError {
    fn from(_: Reject) -> Self {
        Self::Damaged
    }
}

/// Appends what [`Reader`] reads.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn time(&mut self, value: Time) {
        self.u64(value.as_micros());
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn claims(&mut self, claims: &[Claim]) {
        let bytes: Vec<u8> = claims.iter().map(|claim| claim.0).collect();
        self.bytes(&bytes);
    }
}

fn time(from: &mut Reader<'_>) -> Result<Time, Reject> {
    from.u64().map(Time::from_micros)
}

fn flag(from: &mut Reader<'_>) -> Result<bool, Reject> {
    Ok(from.u8()? != 0)
}

fn option<T>(
    from: &mut Reader<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, ImportError>,
) -> Result<Option<T>, ImportError> {
    flag(from)?.then(|| read(from)).transpose()
}

fn bytes<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], Reject> {
    let length = from.u64()?;
    // More than there can be is more than there is.
    from.take(usize::try_from(length).unwrap_or(usize::MAX))
}

fn claims(from: &mut Reader<'_>) -> Result<Vec<Claim>, Reject> {
    Ok(bytes(from)?.iter().copied().map(Claim).collect())
}

fn buckets(from: &mut Reader<'_>) -> Result<BucketSet, Reject> {
    Ok(BucketSet::from_bytes(&from.array()?))
}

impl Cluster {
    /// Everything that makes the next daemon the same host. `None` while that cannot be handed over: a map is held
    /// ready that may come into force at any moment, or the host is on its way out. Both pass.
    pub fn export(&self, now: Time) -> Option<Vec<u8>> {
        let role = match self.role {
            Role::Stopped => 0,
            Role::Active => 1,
            Role::Suspended => 2,
            Role::Leaving { .. } | Role::Draining { .. } | Role::Parting { .. } => return None,
        };
        if self.staged.is_some() {
            return None;
        }
        let mut out = Writer::default();
        out.u16(EXPORT_FORMAT);
        out.u64(fingerprint(&self.config).0);
        out.time(now);
        out.u8(role);
        out.u64(self.config.incarnation.0);
        out.u64(self.sequence);
        out.time(self.last_heartbeat_at);
        out.time(self.listening_since);
        out.u64(u64::from(self.attempts));
        out.u64(self.highest_epoch.0);
        out.option(self.converging_since, Writer::time);
        out.u64(self.times_converging);
        out.u8(u8::from(self.conflicts.has_served));
        let states = self.port_states();
        out.u64(states.len() as u64);
        for (rule, state) in states {
            out.u64(u64::from(rule));
            out.u8(match state {
                PortState::Enabled => 0,
                PortState::Disabled => 1,
                PortState::Draining => 2,
            });
        }
        out.u64(self.readdressing.former.len() as u64);
        for mac in &self.readdressing.former {
            out.bytes(&mac.0);
        }
        out.u64(self.sent.iter().len() as u64);
        for sent in self.sent.iter() {
            out.u64(sent.sequence);
            out.time(sent.at);
            out.u64(sent.budget.as_micros() as u64);
        }
        out.option(self.committed.as_ref(), |out, map| {
            write_map(out, map);
            out.time(self.lease);
            out.0.extend_from_slice(&self.lingering.mine().to_bytes());
        });
        out.u64(self.peers.iter().count() as u64);
        for (_, peer) in self.peers.iter() {
            write_peer(&mut out, peer, four_bytes(self.config.rules.primary()));
        }
        Some(out.0)
    }

    /// The host that [`Self::export`] described, from now on in this program. Its rules and claims are those of `config`,
    /// as after [`super::Command::Reload`]; its incarnation and the states of its port rules are the exported ones. If its
    /// lease has run out meanwhile it fences itself at the first input. Feed [`super::Input::Link`] first, as in the beginning; from then on it
    /// sends heartbeats, the first at once.
    ///
    /// # Errors
    /// If the state is not this host's, or not whole.
    pub fn import(config: ClusterConfig, state: &[u8], now: Time) -> Result<Self, ImportError> {
        let from = &mut Reader::new(state, Reject::TooShort);
        let format = from.u16()?;
        if format != EXPORT_FORMAT {
            return Err(ImportError::Format(format));
        }
        if Digest(from.u64()?) != fingerprint(&config) {
            return Err(ImportError::OtherHost);
        }
        let exported_at = time(from)?;
        if exported_at > now {
            return Err(ImportError::OtherTime);
        }
        let primary = four_bytes(config.rules.primary());
        let period = config.timing.period;
        let mut host = Self::new(config);
        host.role = match from.u8()? {
            0 => Role::Stopped,
            1 => Role::Active,
            2 => Role::Suspended,
            _ => return Err(ImportError::Damaged),
        };
        host.config.incarnation = Incarnation(from.u64()?);
        host.sequence = from.u64()?;
        host.last_heartbeat_at = time(from)?;
        host.listening_since = time(from)?;
        host.attempts = u32::try_from(from.u64()?).map_err(|_| ImportError::Damaged)?;
        host.highest_epoch = Epoch(from.u64()?);
        host.converging_since = option(from, |from| Ok(time(from)?))?;
        host.times_converging = from.u64()?;
        host.conflicts.has_served = flag(from)?;
        let states = (0..from.u64()?).map(|_| read_port_state(from));
        host.port_states = super::PortStates::new(&states.collect::<Result<Vec<_>, _>>()?);
        let former = (0..from.u64()?).map(|_| {
            let mac = bytes(from)?.try_into().map_err(|_| ImportError::Damaged)?;
            Ok(Mac(mac))
        });
        let former = former.collect::<Result<Vec<_>, ImportError>>()?;
        for _ in 0..from.u64()? {
            host.sent.push(Sent {
                sequence: from.u64()?,
                at: time(from)?,
                budget: Duration::from_micros(from.u64()?),
            });
        }
        let map = option(from, |from| {
            Ok((read_map(from)?, time(from)?, buckets(from)?))
        })?;
        if let Some((map, lease, lingering)) = map {
            host.committed = Some(map);
            host.lease = lease;
            host.note_new_map(Sets::taken_over(lingering));
        }
        let in_force = host.committed.as_ref().map(|map| map.rules.delivery());
        host.readdressing = Readdressing::taken_over(in_force, former);
        let peers = (0..from.u64()?).map(|_| read_peer(from, primary));
        host.peers = Peers::of(peers.collect::<Result<_, _>>()?);
        if !from.is_empty() {
            return Err(ImportError::Damaged);
        }
        if now.since(exported_at) > period {
            // Whoever spoke meanwhile may have been missed, as by a host that ran late.
            host.listening_since = now;
        }
        Ok(host)
    }

    /// What the data path holds for the map in force, and until when it may accept packets by it; `None` if this host
    /// may not serve. For a data path that has to be filled anew.
    pub fn in_force(&self, now: Time) -> Option<(Image, Time)> {
        let map = self.committed.as_ref().filter(|_| now < self.lease)?;
        Some((self.image_of(map, &self.lingering.sets()), self.lease))
    }
}

/// Everything by which the others know this host and it knows them, and that a daemon cannot change while it runs.
fn fingerprint(config: &ClusterConfig) -> Digest {
    let identity = Identity::from(config);
    let mut out = Writer::default();
    out.u8(config.host.get());
    out.bytes(config.name.as_bytes());
    out.bytes(&config.mac.0);
    out.bytes(&config.dip.octets());
    out.u64(config.timing.period.as_micros() as u64);
    out.u16(config.timing.tolerance);
    out.u8(u8::from(config.legacy));
    identity.hash_key.into_iter().for_each(|word| out.u64(word));
    truncated(Sha256::new().chain_update(out.0))
}

fn read_port_state(from: &mut Reader<'_>) -> Result<(u32, PortState), ImportError> {
    let rule = u32::try_from(from.u64()?).map_err(|_| ImportError::Damaged)?;
    let state = match from.u8()? {
        0 => PortState::Enabled,
        1 => PortState::Disabled,
        2 => PortState::Draining,
        _ => return Err(ImportError::Damaged),
    };
    Ok((rule, state))
}

fn write_map(out: &mut Writer, map: &Prepared) {
    emit_proposal(&mut out.0, &map.proposal);
    out.bytes(&map.rules.encode());
    out.bytes(&map.placement.encode());
    out.0.extend_from_slice(&map.held.to_bytes());
    out.claims(&map.own_claims);
    out.u64(map.claims.len() as u64);
    for (host, claims) in &map.claims {
        out.u8(host.get());
        out.claims(claims);
    }
}

fn read_map(from: &mut Reader<'_>) -> Result<Prepared, ImportError> {
    let proposal = parse_proposal(from)?;
    let rules = RuleSet::decode(bytes(from)?).filter(|rules| rules.digest() == proposal.rules);
    let rules = rules.ok_or(ImportError::Damaged)?;
    let placement = Placement::decode(bytes(from)?);
    let placement = placement.filter(|placement| placement.digest() == proposal.result);
    let placement = placement.ok_or(ImportError::Damaged)?;
    let held = buckets(from)?;
    let own_claims = claims(from)?;
    let of_owner = |from: &mut Reader<'_>| {
        let host = HostId::new(from.u8()?).ok_or(ImportError::Damaged)?;
        Ok::<_, ImportError>((host, claims(from)?))
    };
    let claims = (0..from.u64()?).map(|_| of_owner(from));
    let claims: Claims = claims.collect::<Result<_, _>>()?;
    let owners: HostSet = claims.iter().map(|(owner, _)| *owner).collect();
    let complete = claims
        .iter()
        .map(|(_, claims)| claims)
        .chain([&own_claims])
        .all(|claims| claims.len() == rules.rules().len());
    let in_order = claims.is_sorted_by(|(one, _), (next, _)| one < next);
    if owners != proposal.owners || !complete || !in_order || held.digest() != proposal.held {
        return Err(ImportError::Damaged);
    }
    Ok(Prepared {
        proposal,
        rules: Arc::new(rules),
        own_claims,
        placement: Arc::new(placement),
        held,
        claims,
    })
}

fn write_peer(out: &mut Writer, peer: &Peer, primary: [u8; 4]) {
    let message = Message {
        sender: peer.sender.clone(),
        body: Body::Heartbeat(Box::new(peer.heartbeat.clone())),
    };
    out.bytes(&message.emit(Mac::BROADCAST, ethernet::HEARTBEAT, primary, &Auth::None));
    out.option(peer.echoed, Writer::u64);
    out.u64(peer.last_heartbeat);
    out.time(peer.heard_at);
    out.time(peer.broadcast_at);
    out.option(peer.direct_at, Writer::time);
    out.option(peer.arp_at, Writer::time);
    out.u8(u8::from(peer.broadcast_blocked));
    out.u8(u8::from(peer.alive));
    out.u8(u8::from(peer.came_serving));
    out.time(peer.alive_until);
    out.time(peer.renews_until);
    out.time(peer.granted_until);
    out.u64(peer.heartbeats);
    out.u64(peer.lost);
    for told in [&peer.lingering, &peer.sticky, &peer.held] {
        out.option(told.as_ref(), |out, (_, set)| {
            out.0.extend_from_slice(&set.to_bytes());
        });
    }
}

fn read_peer(from: &mut Reader<'_>, primary: [u8; 4]) -> Result<Peer, ImportError> {
    let frame = Ethernet::parse(bytes(from)?)?;
    let Message { sender, body } = Message::parse(frame.payload, primary, &Auth::None)?;
    let Body::Heartbeat(heartbeat) = body else {
        return Err(ImportError::Damaged);
    };
    let echoed = option(from, |from| Ok(from.u64()?))?;
    let last_heartbeat = from.u64()?;
    let heard_at = time(from)?;
    let mut peer = Peer::new(heard_at, sender, *heartbeat);
    (peer.echoed, peer.last_heartbeat) = (echoed, last_heartbeat);
    peer.broadcast_at = time(from)?;
    peer.direct_at = option(from, |from| Ok(time(from)?))?;
    peer.arp_at = option(from, |from| Ok(time(from)?))?;
    peer.broadcast_blocked = flag(from)?;
    peer.alive = flag(from)?;
    peer.came_serving = flag(from)?;
    peer.alive_until = time(from)?;
    peer.renews_until = time(from)?;
    peer.granted_until = time(from)?;
    peer.heartbeats = from.u64()?;
    peer.lost = from.u64()?;
    for told in [&mut peer.lingering, &mut peer.sticky, &mut peer.held] {
        *told = option(from, |from| {
            let set = buckets(from)?;
            Ok((set.digest(), Box::new(set)))
        })?;
    }
    Ok(peer)
}

//! The other hosts: who is believed to be who, when each was last heard, and what each said.
//!
//! Admission works without clocks (docs/design.md, "On the wire"). A known host is believed as long as its
//! sequence grows. A host in an unknown incarnation is a *candidate* until it echoes a message that this
//! host sent after first hearing it: recorded frames cannot do that, however old or new they are. Of two
//! hosts with one ID the incumbent stays.

use super::conflict::Twin;
use super::odd::Shown;
use super::probing::Probes;
use crate::buckets::BucketSet;
use crate::ids::{Digest, HostId, HostSet, Incarnation, Mac};
use crate::time::Time;
use crate::wire::Reject;
use crate::wire::heartbeat::{Announced, Echo, Heartbeat, Sender};
use std::time::Duration;

/// Candidates kept for one ID: a live one and one that is replayed or mistaken. All hosts may start at once.
const MAX_CANDIDATES: usize = 2;

/// A host that is believed.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) sender: Sender,
    /// Its last word.
    pub(super) heartbeat: Heartbeat,
    /// Hosts it hears in their present incarnation.
    pub(super) hears: HostSet,
    /// The newest heartbeat of this host that it has echoed; none if its last heartbeat did not echo this host's
    /// present incarnation.
    pub(super) echoed: Option<u64>,
    /// The sequence of its last heartbeat: what this host echoes. Map chunks count on in `sender` only, because
    /// nobody's lease hangs on them.
    pub(super) last_heartbeat: u64,
    /// When the last heartbeat arrived.
    pub(super) heard_at: Time,
    /// When the last one arrived by broadcast.
    pub(super) broadcast_at: Time,
    /// When the last one arrived that was sent to this host directly.
    pub(super) direct_at: Option<Time>,
    /// Whether people have been told that its broadcasts do not arrive.
    pub(super) broadcast_blocked: bool,
    /// When its machine last answered an ARP question.
    pub(super) arp_at: Option<Time>,
    /// False after its tolerance has passed, or its goodbye.
    pub(super) alive: bool,
    /// Until when its silence may last, by all that it has said since it was believed: a lease may still hang on
    /// what an earlier heartbeat announced, so a shorter tolerance in a later one does not bring this forward.
    pub(super) alive_until: Time,
    /// Whether it was serving a map when it was heard for the first time, or again.
    pub(super) came_serving: bool,
    /// Another host that uses its ID.
    pub(super) twin: Option<Twin>,
    /// The rule set that it has shown last.
    pub(super) shown: Option<Box<Shown>>,
    /// Until when its echoes let this host serve.
    pub(super) renews_until: Time,
    /// Until when this host's echoes may let it serve.
    pub(super) granted_until: Time,
    /// The sets of buckets that it told last, by digest: where it lingers, which of its own are busy, and which its
    /// proposal leaves where they are.
    pub(super) lingering: Option<(Digest, Box<BucketSet>)>,
    pub(super) sticky: Option<(Digest, Box<BucketSet>)>,
    pub(super) held: Option<(Digest, Box<BucketSet>)>,
    pub(super) heartbeats: u64,
    pub(super) lost: u64,
    /// What arrives of its probes.
    pub(super) probes: Probes,
}

impl Peer {
    pub(super) fn new(now: Time, sender: Sender, heartbeat: Heartbeat) -> Self {
        Self {
            last_heartbeat: sender.sequence,
            alive_until: now + heartbeat.timing.expiry(),
            came_serving: heartbeat.committed.is_some(),
            twin: None,
            shown: None,
            sender,
            heartbeat,
            hears: HostSet::EMPTY,
            echoed: None,
            heard_at: now,
            broadcast_at: now,
            direct_at: None,
            broadcast_blocked: false,
            arp_at: None,
            alive: true,
            renews_until: Time::ZERO,
            granted_until: Time::ZERO,
            lingering: None,
            sticky: None,
            held: None,
            heartbeats: 1,
            lost: 0,
            probes: Probes::default(),
        }
    }

    /// Whether its last word was a goodbye.
    pub(super) fn has_left(&self) -> bool {
        self.heartbeat.announced == Announced::Goodbye
    }

    /// The set of busy buckets with this digest, if it is known.
    pub(super) fn sticky_set(&self, digest: Digest) -> Option<BucketSet> {
        if digest == Digest(0) {
            return Some(BucketSet::EMPTY);
        }
        let (told, set) = self.sticky.as_ref()?;
        (*told == digest).then_some(**set)
    }

    /// From here on its silence is suspicious, though not yet long enough.
    pub(super) fn overdue_at(&self) -> Time {
        self.heard_at + self.patience()
    }

    /// Whether it may still serve by leases that this host has granted. A host that says that it holds no map
    /// has fenced itself before it said so.
    pub(super) fn may_serve(&self, now: Time) -> bool {
        let holds_a_map = self.heartbeat.committed.is_some() || self.heartbeat.staged.is_some();
        now < self.granted_until && (holds_a_map || !self.alive)
    }

    /// Tolerance less two periods: the age up to which its echoes count.
    pub(super) fn patience(&self) -> Duration {
        self.heartbeat.timing.patience()
    }

    /// Whether it is to be spoken to directly: its broadcasts do not arrive, or it speaks directly itself.
    pub(super) fn needs_direct(&self, now: Time) -> bool {
        let period = self.heartbeat.timing.period;
        now >= self.broadcast_at + self.patience()
            || self.direct_at.is_some_and(|at| now < at + period * 2)
    }
}

/// A host that has yet to prove that it speaks now.
#[derive(Clone, Debug)]
struct Candidate {
    host: HostId,
    mac: Mac,
    incarnation: Incarnation,
    /// It must echo this or a later sequence of this host.
    challenge: u64,
    sequence: u64,
    heard_at: Time,
    /// Whether it has said that it serves a map.
    serving: bool,
}

/// What hearing a message changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing but its content.
    Known,
    /// A host is believed from now on.
    Joined,
    /// A host said goodbye.
    Left,
}

/// Everything about the other hosts.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    slots: Vec<Option<Peer>>,
    candidates: Vec<Candidate>,
    unproven_since: Option<Time>,
}

impl Peers {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![None; usize::from(crate::ids::MAX_HOSTS)],
            candidates: Vec::new(),
            unproven_since: None,
        }
    }

    /// As another daemon of this host knew them.
    pub(super) fn of(known: Vec<Peer>) -> Self {
        let mut peers = Self::new();
        for peer in known {
            let slot = peer.sender.host.index();
            peers.slots[slot] = Some(peer);
        }
        peers.refresh_all_hears();
        peers
    }

    pub(super) fn get(&self, host: HostId) -> Option<&Peer> {
        self.slots[host.index()].as_ref()
    }

    pub(super) fn get_mut(&mut self, host: HostId) -> Option<&mut Peer> {
        self.slots[host.index()].as_mut()
    }

    /// All hosts ever believed, in order of ID.
    pub(super) fn iter(&self) -> impl Iterator<Item = (HostId, &Peer)> {
        self.slots
            .iter()
            .flatten()
            .map(|peer| (peer.sender.host, peer))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (HostId, &mut Peer)> {
        self.slots
            .iter_mut()
            .flatten()
            .map(|peer| (peer.sender.host, peer))
    }

    /// The ones that are alive.
    pub(super) fn alive(&self) -> impl Iterator<Item = (HostId, &Peer)> {
        self.iter().filter(|(_, peer)| peer.alive)
    }

    /// A host that is alive.
    pub(super) fn alive_peer(&self, host: HostId) -> Option<&Peer> {
        self.get(host).filter(|peer| peer.alive)
    }

    /// Takes a heartbeat from a host with another ID than this one. `echoed` is the sequence of this host's
    /// that it echoes, `next` the one this host will send next.
    pub(super) fn hear(
        &mut self,
        now: Time,
        sender: Sender,
        heartbeat: Heartbeat,
        echoed: Option<u64>,
        next: u64,
    ) -> Result<Heard, Reject> {
        let incumbent = self.slots[sender.host.index()].as_ref();
        if incumbent.is_some_and(|peer| same_start(&peer.sender, &sender)) {
            self.check_sequence(&sender)?;
            return Ok(self.update(now, sender, heartbeat));
        }
        if incumbent.is_some_and(|peer| peer.alive && peer.sender.mac != sender.mac) {
            return Err(Reject::DuplicateId);
        }
        let granted_until = incumbent.map_or(Time::ZERO, |peer| peer.granted_until);
        if heartbeat.announced == Announced::Goodbye {
            // Whoever leaves before it was believed was never there.
            return Err(Reject::Unproven);
        }
        let serves = heartbeat.committed.is_some();
        let came_serving = self.prove(now, &sender, serves, echoed, next)?;
        self.candidates
            .retain(|candidate| candidate.host != sender.host);
        let slot = sender.host.index();
        let mut peer = Peer::new(now, sender, heartbeat);
        // The start before this one may have left a data path behind that serves until its lease ends.
        peer.granted_until = granted_until;
        peer.came_serving = came_serving;
        self.slots[slot] = Some(peer);
        self.refresh_all_hears();
        Ok(Heard::Joined)
    }

    /// Whether this is the newest message of a known host again.
    pub(super) fn has_just_spoken(&self, sender: &Sender) -> bool {
        let same = |peer: &Peer| {
            same_start(&peer.sender, sender) && peer.sender.sequence == sender.sequence
        };
        self.get(sender.host).is_some_and(same)
    }

    /// The probes of a known host, in the start that it is known by.
    pub(super) fn probes_of(&mut self, sender: &Sender) -> Result<&mut Probes, Reject> {
        let peer = self.get_mut(sender.host);
        let peer = peer.filter(|peer| same_start(&peer.sender, sender));
        Ok(&mut peer.ok_or(Reject::Unproven)?.probes)
    }

    /// Checks that a message other than a heartbeat is a known host's and new.
    pub(super) fn hear_other(&mut self, sender: &Sender) -> Result<(), Reject> {
        let peer = self
            .get(sender.host)
            .filter(|peer| same_start(&peer.sender, sender));
        peer.ok_or(Reject::Unproven)?;
        self.check_sequence(sender)?;
        if let Some(peer) = self.get_mut(sender.host) {
            peer.sender.sequence = sender.sequence;
        }
        Ok(())
    }

    fn check_sequence(&self, sender: &Sender) -> Result<(), Reject> {
        let known = self.get(sender.host).map_or(0, |peer| peer.sender.sequence);
        if sender.sequence > known {
            Ok(())
        } else {
            Err(Reject::Replay)
        }
    }

    fn update(&mut self, now: Time, sender: Sender, heartbeat: Heartbeat) -> Heard {
        let host = sender.host;
        let Some(peer) = self.get_mut(host) else {
            return Heard::Known;
        };
        let was_alive = peer.alive;
        peer.lost += sender.sequence - peer.sender.sequence - 1;
        peer.heartbeats += 1;
        peer.last_heartbeat = sender.sequence;
        peer.sender = sender;
        peer.alive = heartbeat.announced != Announced::Goodbye;
        if !peer.alive {
            // It has fenced itself before it said so.
            peer.granted_until = Time::ZERO;
        }
        if !was_alive {
            peer.came_serving = heartbeat.committed.is_some();
        }
        peer.alive_until = peer.alive_until.max(now + heartbeat.timing.expiry());
        peer.heartbeat = heartbeat;
        peer.heard_at = now;
        peer.arp_at = None;
        let change = match (was_alive, peer.alive) {
            (false, true) => Heard::Joined,
            (true, false) => Heard::Left,
            (true, true) | (false, false) => Heard::Known,
        };
        self.refresh_hears(host);
        change
    }

    /// Whether a candidate has proven that it speaks now; then, whether it came serving a map.
    fn prove(
        &mut self,
        now: Time,
        sender: &Sender,
        serves: bool,
        echoed: Option<u64>,
        next: u64,
    ) -> Result<bool, Reject> {
        let known = self.candidates.iter_mut().find(|candidate| {
            candidate.host == sender.host && candidate.incarnation == sender.incarnation
        });
        let Some(candidate) = known else {
            self.add_candidate(now, sender, serves, next);
            return Err(Reject::Unproven);
        };
        if sender.sequence <= candidate.sequence {
            return Err(Reject::Replay);
        }
        candidate.sequence = sender.sequence;
        candidate.heard_at = now;
        candidate.serving |= serves;
        let proven = echoed.is_some_and(|sequence| sequence >= candidate.challenge);
        if proven {
            Ok(candidate.serving)
        } else {
            Err(Reject::Unproven)
        }
    }

    fn add_candidate(&mut self, now: Time, sender: &Sender, serving: bool, next: u64) {
        self.unproven_since.get_or_insert(now);
        let rivals = || {
            let candidates = self.candidates.iter().enumerate();
            candidates.filter(|(_, known)| known.host == sender.host)
        };
        if rivals().count() == MAX_CANDIDATES {
            // The one heard longest ago makes room: a live one speaks again within its period.
            let stalest = rivals().min_by_key(|(_, known)| known.heard_at);
            if let Some((index, _)) = stalest {
                self.candidates.swap_remove(index);
            }
        }
        self.candidates.push(Candidate {
            host: sender.host,
            mac: sender.mac,
            incarnation: sender.incarnation,
            challenge: next,
            sequence: sender.sequence,
            heard_at: now,
            serving,
        });
    }

    /// What this host echoes: first the hosts that it believes and that are alive, for these are whom it grants their
    /// leases; then candidates, which need it for their proof.
    pub(super) fn echoes(&self) -> Vec<Echo> {
        let echo = |host, incarnation: Incarnation, sequence: u64| Echo {
            host,
            tag: incarnation.tag(),
            sequence: sequence as u32,
        };
        let alive = self
            .alive()
            .map(|(host, peer)| echo(host, peer.sender.incarnation, peer.last_heartbeat));
        let candidates = self
            .candidates
            .iter()
            .filter(|candidate| {
                self.alive_peer(candidate.host)
                    .is_none_or(|peer| peer.sender.mac == candidate.mac)
            })
            .map(|candidate| echo(candidate.host, candidate.incarnation, candidate.sequence));
        alive.chain(candidates).collect()
    }

    /// Since when there have been candidates without a break.
    pub(super) fn unproven_since(&self) -> Option<Time> {
        self.unproven_since
    }

    /// Lets whoever speaks begin to prove itself anew.
    pub(super) fn forget_candidates(&mut self) {
        self.candidates.clear();
        self.unproven_since = None;
    }

    /// Marks hosts as gone whose tolerance has passed, and forgets silent candidates.
    /// Silence counts only from `listening_since` on.
    pub(super) fn expire(
        &mut self,
        now: Time,
        listening_since: Time,
        candidate_age: Duration,
    ) -> Vec<(HostId, Duration)> {
        self.candidates
            .retain(|candidate| now < candidate.heard_at + candidate_age);
        if self.candidates.is_empty() {
            self.unproven_since = None;
        }
        let mut lost = Vec::new();
        for (host, peer) in self.iter_mut() {
            let patience = peer.heartbeat.timing.expiry();
            if peer.alive && now >= peer.alive_until.max(listening_since + patience) {
                peer.alive = false;
                lost.push((host, now.since(peer.heard_at)));
            }
        }
        lost
    }

    fn refresh_all_hears(&mut self) {
        let hosts: Vec<HostId> = self.iter().map(|(host, _)| host).collect();
        for host in hosts {
            self.refresh_hears(host);
        }
    }

    /// Which hosts a peer hears in the incarnation that this host knows.
    fn refresh_hears(&mut self, host: HostId) {
        let Some(peer) = self.get(host) else { return };
        let known = |echo: &&Echo| {
            self.get(echo.host)
                .is_some_and(|other| other.sender.incarnation.tag() == echo.tag)
        };
        let hears = peer
            .heartbeat
            .echoes
            .iter()
            .filter(known)
            .map(|echo| echo.host)
            .collect();
        if let Some(peer) = self.get_mut(host) {
            peer.hears = hears;
        }
    }
}

fn same_start(known: &Sender, sender: &Sender) -> bool {
    known.mac == sender.mac && known.incarnation == sender.incarnation
}

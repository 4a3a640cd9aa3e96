//! When no other host is heard any more: are they gone, or is it me, or the switch?
//!
//! Before a host concludes that it is alone it asks each silent one directly, by a heartbeat to its own MAC
//! and by an ARP question, during the last two periods of the tolerance, so that the answers cost no time.
//! If heartbeats come back, the cluster goes on by direct heartbeats: the switch does not pass broadcasts
//! (KB812870). If only ARP is answered, the host stays fenced: the others may be serving.
//! Specification: docs/design.md, "Membership".

use super::outlook::LeftOut;
use super::peer::Peer;
use super::probing;
use super::{Cluster, Output};
use crate::event::Event;
use crate::ids::{HostId, HostSet, Mac};
use crate::time::Time;
use crate::wire::arp::Arp;
use std::net::Ipv4Addr;

impl Cluster {
    /// Asks silent hosts directly, with every heartbeat while no host is heard, and at first in quick succession:
    /// a question may be lost.
    pub(super) fn ask_directly(&mut self, now: Time) {
        let alone = self
            .committed
            .as_ref()
            .is_some_and(|map| map.proposal.view == self.me());
        let heard = self.peers.alive().any(|(_, peer)| now < peer.overdue_at());
        let nobody_to_ask = self.peers.iter().all(|(_, peer)| peer.has_left());
        if !self.config.unicast_fallback || alone || heard || nobody_to_ask {
            self.asking_since = None;
            return;
        }
        let since = *self.asking_since.get_or_insert(now);
        if now < since + self.config.timing.period * 2 {
            self.hurry(now);
        }
        let silent = self
            .peers
            .iter()
            .filter(|(_, peer)| !peer.has_left() && now >= peer.overdue_at());
        let addresses: Vec<Ipv4Addr> = silent.map(|(_, peer)| peer.sender.dip).collect();
        for address in addresses {
            let question = Arp::question(self.config.mac, self.config.dip, address);
            self.outputs.push_back(Output::Transmit(question));
        }
    }

    /// Says it once when no host has been heard for two periods: a switch may have forgotten that this one wants the
    /// cluster's frames, and be told before the lease ends.
    pub(super) fn note_silence(&mut self, now: Time) {
        let is_silent = |peer: &Peer| now >= peer.heard_at + peer.heartbeat.timing.period * 2;
        let mut alive = self.peers.alive().map(|(_, peer)| peer).peekable();
        let unheard = alive.peek().is_some() && alive.all(is_silent);
        if unheard && !self.unheard {
            self.outputs.push_back(Output::Unheard);
        }
        self.unheard = unheard;
    }

    /// Hosts whose probes to this host's own MAC come while their heartbeats are overdue. (The last probe of one that has
    /// crashed came before.)
    pub(super) fn probing_only(&self, now: Time) -> HostSet {
        let long = probing::interval(self.config.timing) * 3;
        let heard_of = self.peers.iter().filter(|(_, peer)| {
            let probed = peer.probes.spoken_to_at;
            probed.is_some_and(|at| at >= peer.overdue_at() && now < at + long)
        });
        heard_of.map(|(host, _)| host).collect()
    }

    /// Whether every host that went silent without a goodbye has been asked for a whole period.
    fn has_asked(&self, now: Time) -> bool {
        let nobody_to_ask = self.peers.iter().all(|(_, peer)| peer.has_left());
        let asked = |since: Time| now >= since + self.config.timing.period;
        !self.config.unicast_fallback || nobody_to_ask || self.asking_since.is_some_and(asked)
    }

    /// Hosts to which everything for all is also sent directly. In the multicast modes heartbeats go the way of clients'
    /// packets, and a host that alone does not get them must not keep its share: so there only while nobody's arrive.
    pub(super) fn hosts_in_need(&self, now: Time) -> Vec<Mac> {
        let arrives = |peer: &Peer| now < peer.broadcast_at + peer.patience();
        let by_group = self.delivery().heartbeats() != Mac::BROADCAST;
        let group_works = || self.peers.alive().any(|(_, peer)| arrives(peer));
        if !self.config.unicast_fallback || (by_group && group_works()) {
            return Vec::new();
        }
        let in_need = self
            .peers
            .iter()
            .filter(|(_, peer)| (peer.alive && peer.needs_direct(now)) || peer.arp_at.is_some());
        in_need.map(|(_, peer)| peer.sender.mac).collect()
    }

    /// A machine answers: remembered if its heartbeats are overdue.
    pub(super) fn on_arp_reply(&mut self, now: Time, arp: Arp) {
        let answers = |peer: &Peer| {
            (peer.sender.dip, peer.sender.mac) == (arp.sender_ip, arp.sender_mac)
                && now >= peer.overdue_at()
        };
        for (_, peer) in self.peers.iter_mut().filter(|(_, peer)| answers(peer)) {
            peer.arp_at = Some(now);
        }
    }

    /// Hosts whose machines answer ARP though their heartbeats are overdue. One that the map in force leaves out has
    /// stopped serving before that map was made: its machine may be on, and no daemon on it.
    pub(super) fn answering(&self, now: Time) -> HostSet {
        let recent = |at: Time| now < at + self.config.timing.expiry();
        let answering = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.arp_at.is_some_and(recent));
        let answering: HostSet = answering.map(|(host, _)| host).collect();
        match &self.committed {
            Some(map) => answering.intersection(map.proposal.view),
            None => answering,
        }
    }

    /// Whether it is safe to converge alone: the link is up, no host is heard that could be a member, not even one that
    /// is not yet believed, and all that are silent have been asked in vain (or need not be: somebody is heard).
    pub(super) fn is_surely_alone(&self, now: Time) -> bool {
        self.link_up
            && self.outlook.alive.without(self.unfit()) == self.me()
            && !self.someone_asks_to_be_believed(now)
            && !self.is_rivalled(now)
            && (self.outlook.alive != self.me() || self.has_asked(now))
            && self.answering(now).is_empty()
            && (self.conflicts.has_served || !self.someone_else_may_serve(now))
    }

    /// Whether hosts use this cluster's address with which this host cannot agree: with another key, or in another mode
    /// and out of its hearing. They may be the cluster and this host the one that is set up wrongly. It counts only for a
    /// host that has never served: forged frames must not keep a survivor from going on.
    fn someone_else_may_serve(&self, now: Time) -> bool {
        let out_of_hearing = self.hosts_of_other_mode(now).without(self.outlook.alive);
        self.stranger_that_speaks(now).is_some() || !out_of_hearing.is_empty()
    }

    /// Live hosts that are no members whatever else happens: the others, if only one, go on without them.
    fn unfit(&self) -> HostSet {
        let left_out = self.outlook.left_out.iter();
        let unfit = left_out.filter(|(_, reason)| match reason {
            LeftOut::Rules | LeftOut::Mode | LeftOut::Flapping => true,
            LeftOut::Listening | LeftOut::Hearing(_) => false,
        });
        unfit.map(|(host, _)| *host).collect()
    }

    /// Whether a host is heard that may yet turn out to be live. Not for ever: recorded frames of hosts that
    /// are gone must not keep this one from serving.
    fn someone_asks_to_be_believed(&self, now: Time) -> bool {
        let long_enough = self.config.timing.expiry() * 2;
        self.peers
            .unproven_since()
            .is_some_and(|since| now < since + long_enough)
    }

    /// Tells people once when only ARP is answered.
    pub(super) fn report_blocked_heartbeats(&mut self, now: Time) {
        let hosts = self.answering(now);
        let blocked = self.outlook.alive == self.me() && !hosts.is_empty();
        if blocked && !self.heartbeats_blocked {
            self.emit(Event::HeartbeatsBlocked { hosts });
        }
        self.heartbeats_blocked = blocked;
    }

    /// Notes how a heartbeat arrived, and tells people once when broadcasts of that host do not.
    pub(super) fn note_path(&mut self, now: Time, host: HostId, direct: bool) {
        let Some(peer) = self.peers.get_mut(host) else {
            return;
        };
        if !direct {
            peer.broadcast_at = now;
            peer.broadcast_blocked = false;
            return;
        }
        let begins = !peer.needs_direct(now);
        peer.direct_at = Some(now);
        let blocked = now >= peer.broadcast_at + peer.patience();
        if blocked && !peer.broadcast_blocked {
            peer.broadcast_blocked = true;
            self.emit(Event::BroadcastBlocked { host });
        }
        if begins {
            // Its lease waits for an answer.
            self.hurry(now);
        }
    }
}

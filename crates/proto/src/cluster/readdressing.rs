//! Mode and cluster MAC: those in force, those from before, and how neighbours learn of a change.
//!
//! Both are part of the rule set, so a change is offered, agreed and committed as any change of rules. It breaks no
//! connection, because the filter takes frames under every MAC that the cluster has, had or will have: neighbours
//! remember what they were told for minutes, and routers what was typed in for ever. Called when a map comes into force
//! (`convergence.rs`) and with every heartbeat. Specification: docs/design.md, "Modes".

use super::announce::REPEATS;
use super::peer::Peer;
use super::prepared::Prepared;
use super::{Cluster, Output};
use crate::delivery::{Delivery, derived_macs};
use crate::ids::Mac;
use crate::wire::arp::Arp;
use crate::wire::neighbour;
use std::net::IpAddr;

/// Chosen MACs from before that are remembered. Those that follow from the primary virtual IP need not be.
const FORMER_MACS: usize = 2;

/// What a change of the cluster MAC leaves behind.
#[derive(Clone, Debug, Default)]
pub(super) struct Readdressing {
    /// How frames reached the hosts by the map that was last in force.
    last: Option<Delivery>,
    /// Cluster MACs before that one, the latest first.
    pub(super) former: Vec<Mac>,
    /// How often neighbours have still to be told.
    announcements: u8,
}

impl Readdressing {
    /// As another daemon of this host knew it.
    pub(super) fn taken_over(in_force: Option<Delivery>, former: Vec<Mac>) -> Self {
        Self {
            last: in_force,
            former,
            announcements: 0,
        }
    }
}

impl Cluster {
    /// How frames reach this host: by the map in force, or without one as it offers.
    pub fn delivery(&self) -> Delivery {
        let in_force = self.committed.as_ref().map(|map| &map.rules);
        in_force.unwrap_or(&self.offered).delivery()
    }

    /// Every MAC under which frames for the cluster may come, the one in force first. The NIC has to take them all.
    pub fn macs(&self) -> Vec<Mac> {
        let now = [self.delivery().mac()];
        let derived = derived_macs(self.offered.primary());
        let offered = [self.offered.delivery().mac()];
        let known = now.iter().chain(&derived).chain(&offered);
        let mut macs: Vec<Mac> = Vec::new();
        for mac in known.chain(&self.readdressing.former) {
            if !macs.contains(mac) {
                macs.push(*mac);
            }
        }
        macs
    }

    /// A map has come into force: remembers the cluster MAC before, if it was another, and tells neighbours.
    pub(super) fn note_delivery(&mut self) {
        let Some(map) = &self.committed else { return };
        let (delivery, default) = (map.rules.delivery(), map.proposal.owners.lowest());
        let Some(last) = self.readdressing.last.replace(delivery) else {
            return;
        };
        if last.mac() == delivery.mac() {
            return;
        }
        let former = &mut self.readdressing.former;
        former.retain(|mac| *mac != delivery.mac() && *mac != last.mac());
        former.insert(0, last.mac());
        former.truncate(FORMER_MACS);
        if default == Some(self.config.host) {
            self.readdressing.announcements = REPEATS;
            self.announce_again();
        }
    }

    /// Tells neighbours under which MAC the virtual IPs are to be reached now, if they have not been told often enough.
    pub(super) fn announce_again(&mut self) {
        let Some(map) = &self.committed else { return };
        let Some(left) = self.readdressing.announcements.checked_sub(1) else {
            return;
        };
        self.readdressing.announcements = left;
        let (own, cluster) = (self.config.mac, map.rules.delivery().mac());
        let frames = map.rules.vips().iter().map(|vip| match vip {
            IpAddr::V4(vip) => Arp::announcement(own, cluster, *vip),
            IpAddr::V6(vip) => neighbour::announcement(own, cluster, *vip),
        });
        self.outputs.extend(frames.map(Output::Transmit));
    }

    /// Whether there may be hosts that do not listen where this one's heartbeats go: it is in no map, or alone, or hears
    /// others than the members of its map. In another mode, or with another MAC, they hear broadcasts only. One that says
    /// that it is set up alike listens here: if nothing reaches it here, clients' packets do not either, and it must not
    /// join by broadcasts, which end when it has.
    pub(super) fn others_may_listen_elsewhere(&self) -> bool {
        let Some(Prepared {
            proposal, rules, ..
        }) = &self.committed
        else {
            return true;
        };
        let (members, mode) = (proposal.view, self.delivery().mode());
        let is_alike = |host, peer: &Peer| {
            self.wish_of(host) == Some(rules.digest()) && peer.heartbeat.mode == mode
        };
        let mut others = self
            .peers
            .alive()
            .filter(|(host, _)| !members.contains(*host));
        members == self.me()
            || self.peers.unproven_since().is_some()
            || others.any(|(host, peer)| !is_alike(host, peer))
    }
}

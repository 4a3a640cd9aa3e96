//! Hosts of other generations: those that only speak the previous EtherType, and those of other versions.
//!
//! While any live host says that it can only speak EtherType 0xBF01, all hosts speak it; they hear both always
//! (Q232711). The feature level is the lowest protocol version among the live hosts: what all of them understand.
//! Specification: docs/design.md, "On the wire".

use super::Cluster;
use crate::event::Event;
use crate::ids::HostSet;
use crate::wire::ethernet;

/// What people have been told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generations {
    legacy: HostSet,
    level: u16,
}

impl Generations {
    /// As for a host that is alone and speaks this version.
    pub(super) const fn new(version: u16) -> Self {
        Self {
            legacy: HostSet::EMPTY,
            level: version,
        }
    }
}

impl Cluster {
    /// The EtherType that this host speaks.
    pub(super) fn ethertype(&self) -> u16 {
        if self.config.legacy || !self.legacy_peers().is_empty() {
            ethernet::LEGACY_HEARTBEAT
        } else {
            ethernet::HEARTBEAT
        }
    }

    fn legacy_peers(&self) -> HostSet {
        let legacy = self.peers.alive().filter(|(_, peer)| peer.heartbeat.legacy);
        legacy.map(|(host, _)| host).collect()
    }

    /// The lowest protocol version among the live hosts.
    pub(super) fn feature_level(&self) -> u16 {
        let versions = self.peers.alive().map(|(_, peer)| peer.sender.version);
        versions.fold(self.config.version, u16::min)
    }

    /// Tells people when one of the two changes.
    pub(super) fn report_generations(&mut self) {
        let legacy = self.legacy_peers();
        let before = std::mem::replace(&mut self.generations.legacy, legacy);
        if !self.config.legacy && before.is_empty() != legacy.is_empty() {
            self.emit(if legacy.is_empty() {
                Event::LegacyGone
            } else {
                Event::LegacyHosts { hosts: legacy }
            });
        }
        let level = self.feature_level();
        if std::mem::replace(&mut self.generations.level, level) != level {
            let lowest = self
                .peers
                .alive()
                .filter(|(_, peer)| peer.sender.version == level && level < self.config.version);
            let held_down_by = lowest.map(|(host, _)| host).collect();
            self.emit(Event::FeatureLevel {
                level,
                held_down_by,
            });
        }
    }
}

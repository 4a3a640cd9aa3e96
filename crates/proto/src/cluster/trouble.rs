//! What is wrong between this host and the others, as values and not as words: what `covey doctor` makes its findings of.
//!
//! Everything here is known elsewhere in the core and told by events; this is how it stands now. Part of
//! [`super::Snapshot`]. Specification: docs/design.md, "Doctor".

use super::Cluster;
use super::outlook::LeftOut;
use crate::ids::{HostId, HostSet, Mac};
use crate::time::Time;
use std::time::Duration;

/// Why a live host is not in the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Its rules are not the others'. With what is known of the difference, in words.
    Rules(String),
    /// Its mode is not the others'.
    Mode,
    /// It was lost again and again. With how long it may not join at most.
    Flapping(Duration),
    /// It does not know yet who else is there.
    Listening,
    /// It does not hear this host of the view, or is not heard by it.
    Hearing(HostId),
}

/// Two hosts that use one ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twins {
    /// The ID.
    pub host: HostId,
    /// Name and MAC of the one that is believed.
    pub one: (String, Mac),
    /// MAC of the other, and its name if it is known.
    pub other: (Option<String>, Mac),
}

/// How late this host's timers fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// At worst, in the last time when they were late.
    pub worst: Duration,
    /// When they were late last.
    pub at: Time,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Live hosts that are not in the view, this one included.
    pub left_out: Vec<(HostId, Exclusion)>,
    /// IDs that two hosts use.
    pub twins: Vec<Twins>,
    /// Single-host rules, counted from 1, that two hosts claim with one handling priority: the one that takes the traffic
    /// comes first.
    pub equal_priorities: Vec<(usize, HostId, HostId)>,
    /// Hosts that speak, in another mode than this one's.
    pub other_mode: HostSet,
    /// Live hosts whose heartbeats arrive only if they are sent to this host directly.
    pub direct_only: HostSet,
    /// Hosts whose probes to this host alone arrive and whose heartbeats do not, to all or directly.
    pub probing_only: HostSet,
    /// Hosts whose machines answer ARP and whose heartbeats do not arrive, while no host is heard.
    pub answer_arp_only: HostSet,
    /// If it was ever late.
    pub late: Option<Late>,
    /// Since when this host has wanted another map than the one in force.
    pub converging_since: Option<Time>,
}

impl Cluster {
    /// How things stand at time `now`.
    pub(super) fn troubles(&self, now: Time) -> Troubles {
        let left_out = self.outlook.left_out.iter();
        let named = |(host, reason): &(HostId, LeftOut)| {
            let why = match reason {
                LeftOut::Rules => Exclusion::Rules(self.oddity_of(*host)),
                LeftOut::Mode => Exclusion::Mode,
                LeftOut::Flapping => Exclusion::Flapping(self.kept_out_for(now, *host)),
                LeftOut::Listening => Exclusion::Listening,
                LeftOut::Hearing(other) => Exclusion::Hearing(*other),
            };
            (*host, why)
        };
        let me = (self.config.name.clone(), self.config.mac);
        let rival = self.rival().map(|(name, mac)| Twins {
            host: self.config.host,
            one: me,
            other: (Some(name.to_owned()), mac),
        });
        let direct = self
            .peers
            .alive()
            .filter(|(_, peer)| peer.broadcast_blocked);
        Troubles {
            left_out: left_out.map(named).collect(),
            twins: rival.into_iter().chain(self.twins(now)).collect(),
            equal_priorities: self.equal_priorities(),
            other_mode: self.hosts_of_other_mode(now),
            direct_only: direct.map(|(host, _)| host).collect(),
            probing_only: self.probing_only(now),
            answer_arp_only: match self.heartbeats_blocked {
                true => self.answering(now),
                false => HostSet::EMPTY,
            },
            late: self.lateness.worst(),
            converging_since: self.converging_since.filter(|_| self.takes_part()),
        }
    }
}

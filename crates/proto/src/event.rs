//! What the core tells people: events, with NLB's IDs where NLB has one (NLB facts §5.4), Covey's own above
//! 1000. Each says what happened, why, and what to do if something is to be done. docs/events.md lists them all.
//!
//! The core makes them; the daemon logs them and keeps them for `covey events`. The words are in `event/text.rs`.

mod text;

use crate::cluster::RuleChange;
use crate::config::ClusterMode;
use crate::ids::{Epoch, HostId, HostSet, Mac};
use crate::rules::RuleDifference;
use crate::wire::Reject;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// In the course of things.
    Info,
    /// Someone should look at it.
    Warning,
    /// Service is affected.
    Error,
}

/// Why a host stopped serving without being asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceReason {
    /// Its lease ran out: it was not heard by the others, did not hear them, or was not running.
    LeaseLapsed {
        /// How long ago it ran out.
        ago: Duration,
    },
    /// The others committed a map that it does not have.
    MapMissed {
        /// The epoch they are in.
        epoch: Epoch,
    },
    /// Another host with this host's ID serves too, and has the better right to.
    DuplicateId,
}

/// Why frames that name this cluster are not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distrust {
    /// They are not signed.
    Unsigned,
    /// They are signed, and this host has no key.
    UnexpectedSignature,
    /// They are signed with a key that this host does not have.
    UnknownKey,
    /// Their signature is wrong.
    BadSignature,
}

impl Distrust {
    /// What a rejected frame says about its sender; `None` if the reason has nothing to do with keys.
    pub const fn from_reject(reason: Reject) -> Option<Self> {
        match reason {
            Reject::Unsigned => Some(Self::Unsigned),
            Reject::UnexpectedSignature => Some(Self::UnexpectedSignature),
            Reject::UnknownKey => Some(Self::UnknownKey),
            Reject::BadSignatureTag => Some(Self::BadSignature),
            Reject::TooShort
            | Reject::BadSignature
            | Reject::ForeignNlb
            | Reject::BadHostId
            | Reject::OtherCluster
            | Reject::BadName
            | Reject::BadRecord
            | Reject::MissingRecord
            | Reject::OwnFrame
            | Reject::DuplicateId
            | Reject::Replay
            | Reject::Unproven
            | Reject::Stopped => None,
        }
    }
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The host takes part from now on.
    Started {
        /// This host.
        host: HostId,
    },
    /// The host no longer takes part.
    Stopped {
        /// This host.
        host: HostId,
    },
    /// The host is asked to leave and waits for a map without it.
    Leaving {
        /// This host.
        host: HostId,
    },
    /// A stop was taken back by a start.
    LeavingInterrupted {
        /// This host.
        host: HostId,
    },
    /// The host takes no new connections, and stops when the last one has ended.
    Draining {
        /// This host.
        host: HostId,
    },
    /// A start, a stop or a suspend came while the host was draining.
    DrainingInterrupted {
        /// This host.
        host: HostId,
    },
    /// The host is stopped and heeds no command but resume.
    Suspended {
        /// This host.
        host: HostId,
    },
    /// The host heeds commands again.
    Resumed {
        /// This host.
        host: HostId,
    },
    /// This host handles port rules in another way.
    RulesChanged {
        /// How.
        change: RuleChange,
        /// The rule that holds this port; `None` for all.
        port: Option<u16>,
    },
    /// The last connection of a rule that drains has ended.
    RuleDrained {
        /// The rule's first port.
        port: u16,
    },
    /// A map was committed.
    Converged {
        /// This host.
        host: HostId,
        /// Whether it is the default host.
        default: bool,
        /// The members.
        view: HostSet,
        /// The map's number.
        epoch: Epoch,
        /// From noticing the change to the commit.
        took: Duration,
        /// What changed.
        cause: String,
    },
    /// A host is heard for the first time, or again after a restart.
    HostJoined {
        /// Which.
        host: HostId,
        /// Its name.
        name: String,
        /// Its NIC's MAC.
        mac: Mac,
    },
    /// A host said goodbye.
    HostLeft {
        /// Which.
        host: HostId,
    },
    /// A host has been silent for longer than its tolerance.
    HostLost {
        /// Which.
        host: HostId,
        /// How long it has been silent.
        silent: Duration,
    },
    /// This host stopped serving by itself.
    Fenced {
        /// Why.
        reason: FenceReason,
    },
    /// Another host uses this host's ID.
    DuplicateId {
        /// The ID.
        host: HostId,
        /// The other's MAC.
        mac: Mac,
        /// The other's name.
        name: String,
    },
    /// Two other hosts use one ID.
    DuplicatePeer {
        /// The ID.
        host: HostId,
        /// Name and MAC of the one that is believed.
        one: (String, Mac),
        /// Name and MAC of the other.
        other: (String, Mac),
    },
    /// The virtual IPs or port rules of another host are not this host's, so one of the two is kept out.
    RulesDiffer {
        /// The other host.
        host: HostId,
        /// Its name.
        name: String,
        /// Whether it is this host that is kept out.
        this_host_out: bool,
        /// The first thing that differs; `None` if the other host has not shown its rules.
        difference: Option<RuleDifference>,
    },
    /// The mode of another host is not this host's, so one of the two is kept out.
    ModeDiffers {
        /// The other host.
        host: HostId,
        /// Its name.
        name: String,
        /// Its mode.
        there: ClusterMode,
        /// This host's.
        here: ClusterMode,
    },
    /// Two hosts have the same handling priority for a single-host rule.
    EqualPriorities {
        /// The rule, counted from 1.
        rule: usize,
        /// The handling priority.
        priority: u8,
        /// The host that takes the traffic, and its name.
        taker: (HostId, String),
        /// The other, and its name.
        other: (HostId, String),
    },
    /// A host is met that serves another map of this cluster: it had been parted.
    PartitionHealed {
        /// Which host.
        host: HostId,
        /// Its name.
        name: String,
    },
    /// Frames name this cluster but are not believed. Nothing vouches for what they say.
    NotBelieved {
        /// The host ID in them.
        host: HostId,
        /// The dedicated IP in them.
        dip: Ipv4Addr,
        /// Why not.
        reason: Distrust,
    },
    /// A host that speaks Microsoft's NLB uses this cluster's address. Nothing vouches for what it says.
    ForeignNlb {
        /// Its host ID.
        host: HostId,
        /// Its dedicated IP.
        dip: Ipv4Addr,
    },
    /// Hosts that only speak the previous EtherType have come, so this host reverts to it.
    LegacyHosts {
        /// Which.
        hosts: HostSet,
    },
    /// The last of them has gone.
    LegacyGone,
    /// The lowest protocol version among the live hosts has changed.
    FeatureLevel {
        /// It.
        level: u16,
        /// The other hosts that speak nothing later, if this host does.
        held_down_by: HostSet,
    },
    /// A host that was lost again and again may not join for a while.
    KeptOut {
        /// Which.
        host: HostId,
        /// Whether it is this host.
        this_host: bool,
        /// For how long at most.
        wait: Duration,
    },
    /// The timers of this host fire late.
    Late {
        /// How late.
        by: Duration,
        /// The tolerance that it announces meanwhile, in periods.
        tolerance: u16,
    },
    /// They fire on time again.
    OnTime {
        /// The tolerance that it announces again.
        tolerance: u16,
    },
    /// The other hosts answer ARP but no heartbeat arrives from any of them.
    HeartbeatsBlocked {
        /// Who answers ARP.
        hosts: HostSet,
    },
    /// Heartbeats arrive only when sent to a host directly.
    BroadcastBlocked {
        /// Whose broadcasts do not arrive.
        host: HostId,
    },
    /// New rules or parameters were read.
    Reloaded,
}

impl Event {
    /// NLB's event ID, or Covey's own above 1000.
    pub const fn id(&self) -> u16 {
        match self {
            Self::Started { .. } => 5,
            Self::Stopped { .. } => 6,
            Self::Converged { default: false, .. } => 28,
            Self::Converged { default: true, .. } => 29,
            Self::Reloaded => 36,
            Self::RulesChanged { change, port } => match (change, port) {
                (RuleChange::Enable, Some(_)) => 23,
                (RuleChange::Disable, Some(_)) => 24,
                (RuleChange::Drain, Some(_)) => 39,
                (RuleChange::Drain, None) => 41,
                (RuleChange::Enable, None) => 42,
                (RuleChange::Disable, None) => 43,
            },
            Self::Draining { .. } => 44,
            Self::DrainingInterrupted { .. } => 45,
            Self::HostJoined { .. } => 1001,
            Self::HostLeft { .. } => 1002,
            Self::HostLost { .. } => 1003,
            Self::Fenced { .. } => 1004,
            Self::DuplicateId { .. } => 1005,
            Self::RulesDiffer { difference, .. } => match difference {
                Some(RuleDifference::Count { .. }) => 67,
                Some(RuleDifference::Vips { .. }) => 110,
                Some(RuleDifference::Rule { .. } | RuleDifference::Delivery { .. }) | None => 1006,
            },
            Self::HeartbeatsBlocked { .. } => 1007,
            Self::BroadcastBlocked { .. } => 1008,
            Self::Leaving { .. } => 1009,
            Self::LeavingInterrupted { .. } => 1010,
            Self::Suspended { .. } => 1011,
            Self::Resumed { .. } => 1012,
            Self::RuleDrained { .. } => 1013,
            Self::PartitionHealed { .. } => 18,
            Self::EqualPriorities { .. } => 20,
            Self::LegacyHosts { .. } => 86,
            Self::Late { .. } => 105,
            Self::OnTime { .. } => 106,
            Self::DuplicatePeer { .. } => 1014,
            Self::ModeDiffers { .. } => 1015,
            Self::NotBelieved { .. } => 1016,
            Self::ForeignNlb { .. } => 1017,
            Self::LegacyGone => 1018,
            Self::FeatureLevel { .. } => 1019,
            Self::KeptOut { .. } => 1020,
        }
    }

    /// How much it matters.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::Started { .. }
            | Self::Stopped { .. }
            | Self::Leaving { .. }
            | Self::LeavingInterrupted { .. }
            | Self::Draining { .. }
            | Self::DrainingInterrupted { .. }
            | Self::Suspended { .. }
            | Self::Resumed { .. }
            | Self::RulesChanged { .. }
            | Self::RuleDrained { .. }
            | Self::Converged { .. }
            | Self::HostJoined { .. }
            | Self::HostLeft { .. }
            | Self::LegacyGone
            | Self::FeatureLevel { .. }
            | Self::OnTime { .. }
            | Self::Reloaded => Severity::Info,
            Self::HostLost { .. }
            | Self::BroadcastBlocked { .. }
            | Self::EqualPriorities { .. }
            | Self::PartitionHealed { .. }
            | Self::NotBelieved { .. }
            | Self::ForeignNlb { .. }
            | Self::LegacyHosts { .. }
            | Self::KeptOut { .. }
            | Self::Late { .. } => Severity::Warning,
            Self::Fenced { .. }
            | Self::DuplicateId { .. }
            | Self::DuplicatePeer { .. }
            | Self::RulesDiffer { .. }
            | Self::ModeDiffers { .. }
            | Self::HeartbeatsBlocked { .. } => Severity::Error,
        }
    }
}

#[cfg(test)]
mod tests;

//! What the core tells people: events, with NLB's IDs where NLB has one (wlbs.md §5.4), Covey's own above
//! 1000. Each says what happened, why, and what to do if something is to be done.

use crate::cluster::RuleChange;
use crate::ids::{Epoch, HostId, HostSet, Mac};
use std::fmt;
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
    /// A host has other port rules than this one and is kept out.
    RulesDiffer {
        /// The odd host.
        host: HostId,
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
            Self::RulesDiffer { .. } => 1006,
            Self::HeartbeatsBlocked { .. } => 1007,
            Self::BroadcastBlocked { .. } => 1008,
            Self::Leaving { .. } => 1009,
            Self::LeavingInterrupted { .. } => 1010,
            Self::Suspended { .. } => 1011,
            Self::Resumed { .. } => 1012,
            Self::RuleDrained { .. } => 1013,
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
            | Self::Reloaded => Severity::Info,
            Self::HostLost { .. } | Self::BroadcastBlocked { .. } => Severity::Warning,
            Self::Fenced { .. }
            | Self::DuplicateId { .. }
            | Self::RulesDiffer { .. }
            | Self::HeartbeatsBlocked { .. } => Severity::Error,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { host } => write!(
                f,
                "cluster mode started with host ID {host}; it will take traffic as soon as it has converged"
            ),
            Self::Stopped { host } => write!(f, "cluster mode stopped on host {host}"),
            Self::Leaving { host } => {
                write!(
                    f,
                    "host {host} is leaving: it serves until the others have its share"
                )
            }
            Self::LeavingInterrupted { host } => {
                write!(f, "leaving interrupted: host {host} stays in the cluster")
            }
            Self::Draining { host } => write!(
                f,
                "connection draining started: host {host} takes no new connections and stops when the last \
                 one has ended"
            ),
            Self::DrainingInterrupted { host } => {
                write!(f, "connection draining interrupted on host {host}")
            }
            Self::Suspended { host } => write!(
                f,
                "host {host} is suspended: it is stopped and heeds no command until it is resumed"
            ),
            Self::Resumed { host } => write!(
                f,
                "host {host} is resumed: it heeds commands again, and stays stopped until it is started"
            ),
            Self::RulesChanged { change, port } => {
                f.write_str(match change {
                    RuleChange::Enable => "enabled traffic handling for ",
                    RuleChange::Disable => "disabled ALL traffic handling for ",
                    RuleChange::Drain => "disabled NEW traffic handling for ",
                })?;
                match port {
                    Some(port) => write!(f, "the rule containing port {port}"),
                    None => f.write_str("all port rules"),
                }
            }
            Self::RuleDrained { port } => write!(
                f,
                "the last connection of the rule containing port {port} has ended; the rule is disabled on \
                 this host"
            ),
            Self::Converged {
                host,
                default,
                view,
                epoch,
                took,
                cause,
            } => {
                let role = if *default { " as DEFAULT host" } else { "" };
                let millis = took.as_secs_f64() * 1000.0;
                write!(
                    f,
                    "host {host} converged{role} with host(s) {view} as part of the cluster \
                     (epoch {epoch}, {millis:.1} ms, {cause})"
                )
            }
            Self::HostJoined { host, name, mac } => {
                write!(f, "host {host} ({name}, {mac}) is heard")
            }
            Self::HostLeft { host } => write!(f, "host {host} has left the cluster"),
            Self::HostLost { host, silent } => write!(
                f,
                "host {host} has been silent for {:.0} ms and counts as lost",
                silent.as_secs_f64() * 1000.0
            ),
            Self::Fenced {
                reason: FenceReason::LeaseLapsed { ago },
            } => write!(
                f,
                "this host stopped serving: its lease ran out {:.0} ms ago, because the other hosts did not \
                 confirm in time that they hear it (daemon not running, heartbeats lost, or link down); it \
                 serves again after the next convergence",
                ago.as_secs_f64() * 1000.0
            ),
            Self::Fenced {
                reason: FenceReason::MapMissed { epoch },
            } => write!(
                f,
                "this host stopped serving: the others are in epoch {epoch}, which it has not seen prepared; \
                 it serves again after the next convergence"
            ),
            Self::DuplicateId { host, mac, name } => write!(
                f,
                "host ID {host} is also used by {name} ({mac}); give one of the two another ID (host.id)"
            ),
            Self::RulesDiffer { host } => write!(
                f,
                "host {host} has other virtual IPs or port rules than this host and is kept out; \
                 compare the configuration files"
            ),
            Self::HeartbeatsBlocked { hosts } => write!(
                f,
                "host(s) {hosts} answer ARP but none of their heartbeats arrives; this host stays fenced: see \
                 that their daemons run and that the switch passes EtherType 0x886F"
            ),
            Self::BroadcastBlocked { host } => write!(
                f,
                "broadcasts of host {host} do not arrive, direct heartbeats do: the cluster goes on, but the \
                 switch should pass broadcasts with EtherType 0x886F"
            ),
            Self::Reloaded => f.write_str("configuration reloaded"),
        }
    }
}

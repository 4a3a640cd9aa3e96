//! The words of the events: what happened and why, and what to do.

use super::{Distrust, Event, FenceReason};
use crate::cluster::RuleChange;
use std::fmt;

impl fmt::Display for Event {
    /// What happened and why, then what to do, in one sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.happened(f)?;
        match self.advice() {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl Event {
    /// What to do, if something is to be done.
    pub const fn advice(&self) -> Option<&'static str> {
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
            | Self::HostLost { .. }
            | Self::LegacyGone
            | Self::FeatureLevel { .. }
            | Self::OnTime { .. }
            | Self::Reloaded => None,
            Self::Fenced { reason } => match reason {
                FenceReason::LeaseLapsed { .. } | FenceReason::MapMissed { .. } => None,
                FenceReason::DuplicateId => Some("give one of the two another ID (host.id)"),
            },
            Self::DuplicateId { .. } | Self::DuplicatePeer { .. } => {
                Some("give one of the two another ID (host.id)")
            }
            Self::RulesDiffer { .. } => {
                Some("compare the configuration files, correct one and reload it")
            }
            Self::ModeDiffers { .. } => {
                Some("give all hosts the same mode (cluster.mode) and reload them")
            }
            Self::EqualPriorities { .. } => {
                Some("give every host another handling priority for the rule")
            }
            Self::PartitionHealed { .. } => Some("find out what parted the hosts"),
            Self::NotBelieved { reason, .. } => match reason {
                Distrust::Unsigned
                | Distrust::UnexpectedSignature
                | Distrust::UnknownKey
                | Distrust::BadSignature => Some(
                    "give all hosts of the cluster the same keys, or find who sends such frames",
                ),
            },
            Self::ForeignNlb { .. } => {
                Some("give one of the two clusters another virtual IP, or stop NLB on that host")
            }
            Self::LegacyHosts { .. } => Some("bring these hosts up to date"),
            Self::KeptOut { .. } => Some("find out why it fails: its log, its link, its power"),
            Self::Late { .. } => Some(
                "relieve the host: look for other load, a flood of packets, a virtual machine that is paused",
            ),
            Self::HeartbeatsBlocked { .. } => {
                Some("see that their daemons run and that the switch passes EtherType 0x886F")
            }
            Self::BroadcastBlocked { .. } => Some(
                "have the switch pass EtherType 0x886F to broadcast, or in the multicast modes to the cluster MAC",
            ),
        }
    }

    /// What happened, and why.
    fn happened(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
                "host ID {host} is also used by {name} ({mac}), so the one that came later stays out"
            ),
            Self::DuplicatePeer {
                host,
                one: (name, mac),
                other: (other, other_mac),
            } => write!(
                f,
                "host ID {host} is used by {name} ({mac}) and by {other} ({other_mac}); the first of these is \
                 believed"
            ),
            Self::RulesDiffer {
                host,
                name,
                this_host_out,
                difference,
            } => {
                if *this_host_out {
                    write!(
                        f,
                        "this host is kept out, because its rules are not those of host {host} ({name}): "
                    )?;
                } else {
                    write!(
                        f,
                        "host {host} ({name}) is kept out, because its rules are not this host's: "
                    )?;
                }
                match difference {
                    Some(difference) => write!(f, "{difference}"),
                    None => f.write_str(
                        "virtual IPs or port rules differ, and it has not shown its own",
                    ),
                }
            }
            Self::ModeDiffers {
                host,
                name,
                there,
                here,
            } => write!(
                f,
                "host {host} ({name}) is set to {there} mode and this host to {here} mode; they cannot form a \
                 cluster"
            ),
            Self::EqualPriorities {
                rule,
                priority,
                taker: (taker, taker_name),
                other: (other, other_name),
            } => write!(
                f,
                "host {taker} ({taker_name}) and host {other} ({other_name}) both have handling priority \
                 {priority} for port rule {rule}; host {taker} takes its traffic, as the lower ID"
            ),
            Self::PartitionHealed { host, name } => write!(
                f,
                "duplicate cluster subnets: host {host} ({name}) serves another map of this cluster, so the \
                 network may have been partitioned; the parts become one now"
            ),
            Self::NotBelieved { host, dip, reason } => {
                write!(f, "frames as from host {host} ({dip}) are not believed: ")?;
                f.write_str(match reason {
                    Distrust::Unsigned => "they are not signed, and this host asks for signatures",
                    Distrust::UnexpectedSignature => "they are signed, and this host has no key",
                    Distrust::UnknownKey => {
                        "they are signed with a key whose ID this host does not have"
                    }
                    Distrust::BadSignature => {
                        "their signature is wrong: they are signed with another key under the same ID, or forged"
                    }
                })
            }
            Self::ForeignNlb { host, dip } => write!(
                f,
                "host {host} ({dip}) speaks Microsoft's NLB and uses this cluster's virtual IP; it takes no part, \
                 and clients may be answered twice"
            ),
            Self::LegacyHosts { hosts } => write!(
                f,
                "converged with legacy hosts: host(s) {hosts} speak EtherType 0xBF01 only, so this host reverts \
                 to it until they are gone"
            ),
            Self::LegacyGone => f.write_str(
                "the last legacy host has gone; this host speaks EtherType 0x886F again",
            ),
            Self::FeatureLevel {
                level,
                held_down_by,
            } => {
                write!(f, "the cluster's feature level is {level}")?;
                if held_down_by.is_empty() {
                    f.write_str(", which is this host's version")
                } else {
                    write!(f, ", held down by host(s) {held_down_by}")
                }
            }
            Self::KeptOut {
                host,
                this_host,
                wait,
            } => {
                let seconds = wait.as_secs_f64();
                if *this_host {
                    f.write_str("this host")?;
                } else {
                    write!(f, "host {host}")?;
                }
                write!(
                    f,
                    " was lost again and again, so it may not join for up to {seconds:.1} s"
                )
            }
            Self::Late { by, tolerance } => write!(
                f,
                "the timers of this host fire up to {:.0} ms late (timer starvation begins); it asks the others \
                 for a tolerance of {tolerance} periods meanwhile",
                by.as_secs_f64() * 1000.0
            ),
            Self::OnTime { tolerance } => write!(
                f,
                "the timers of this host fire on time again (timer starvation ends); the tolerance is \
                 {tolerance} periods again"
            ),
            Self::HeartbeatsBlocked { hosts } => write!(
                f,
                "host(s) {hosts} answer ARP but none of their heartbeats arrives, so this host stays fenced"
            ),
            Self::BroadcastBlocked { host } => write!(
                f,
                "what host {host} sends to all hosts does not arrive, its direct heartbeats do; the cluster goes on"
            ),
            Self::Reloaded => f.write_str("configuration reloaded"),
            Self::Fenced {
                reason: FenceReason::DuplicateId,
            } => f.write_str(
                "this host stopped serving: another host with its ID serves too, and goes first",
            ),
        }
    }
}

//! The kinds of faults, and how the faulty links of a segment behave.
//!
//! Each kind is counted where it takes effect, a lost frame when it is lost: a fault that is switched on and
//! touches nothing is not a test of anything. A soak reports all of them and none should be zero.

use serde::{Deserialize, Serialize};
use std::time::Duration;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)*) => {
        /// What can go wrong or be done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: [Self; [$($label),*].len()] = [$(Self::$variant),*];

            /// Its name in reports.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

kinds! {
    /// A frame was lost by chance.
    Loss = "frames lost",
    /// A frame was lost in a burst.
    Burst = "frames lost in bursts",
    /// A frame was delayed.
    Delay = "frames delayed",
    /// A frame was held back so that others may overtake it.
    Reorder = "frames held back",
    /// A frame arrived twice.
    Duplicate = "frames doubled",
    /// A bit of a frame was flipped.
    Corrupt = "bits flipped",
    /// A frame was lost on a link that is cut.
    Cut = "frames on cut links",
    /// A frame was lost between the parts of a segment.
    Partition = "frames between parts",
    /// A heartbeat was lost because its sender is mute.
    Mute = "heartbeats of mute hosts",
    /// A heartbeat was lost because its receiver is deaf.
    Deaf = "heartbeats to deaf hosts",
    /// A broadcast heartbeat was blocked by the switch.
    BroadcastBlocked = "broadcasts blocked",
    /// A recorded heartbeat was sent again.
    Replay = "heartbeats replayed",
    /// A machine lost power.
    Crash = "crashes",
    /// A daemon died.
    Kill = "daemons killed",
    /// A daemon was started anew.
    Restart = "restarts",
    /// A machine lost power and came back again and again.
    Flap = "flaps",
    /// A daemon did not run and then read its frames first.
    Stall = "stalls",
    /// A daemon did not run and then let its timers fire first.
    StallTimers = "stalls, timers first",
    /// A clock changed its rate.
    Skew = "clock rates changed",
    /// A network card lost its link.
    Unplug = "links down",
    /// A machine with the ID of another was started.
    Twin = "duplicate host IDs",
    /// A host took part that speaks a later version of the protocol.
    Newer = "hosts of a later version",
    /// A host took part that only speaks the previous generation's EtherType.
    Legacy = "hosts on EtherType 0xBF01",
    /// An operator started a host.
    Start = "start commands",
    /// An operator stopped a host.
    Stop = "stop commands",
    /// An operator drained a host.
    Drainstop = "drainstop commands",
    /// An operator suspended a host.
    Suspend = "suspend commands",
    /// An operator resumed a host.
    Resume = "resume commands",
    /// A port rule was enabled, drained or disabled on a host.
    Port = "port rule commands",
    /// A load weight was changed.
    Weight = "weight changes",
    /// Port rules were changed.
    Rules = "rule changes",
    /// The mode was changed.
    Mode = "mode changes",
}

/// How links misbehave. Hosts are numbers of machines; 0 is all clients; no number means all
/// ports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LinkFault {
    /// Nothing gets from these to those.
    Cut {
        /// Senders.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        from: Vec<u8>,
        /// Receivers.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        to: Vec<u8>,
    },
    /// Nothing gets between these hosts and the other hosts; clients reach both parts.
    Partition {
        /// One part.
        hosts: Vec<u8>,
    },
    /// Heartbeats of this host get nowhere.
    Mute {
        /// Which.
        host: u8,
    },
    /// No heartbeat gets to this host.
    Deaf {
        /// Which.
        host: u8,
    },
    /// The switch does not pass heartbeats to all, by broadcast or to the cluster's group.
    BlockBroadcast {
        /// Senders.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        from: Vec<u8>,
        /// Receivers.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        to: Vec<u8>,
    },
    /// Frames are lost.
    Loss {
        /// How many of a hundred.
        percent: f64,
        /// Senders.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        from: Vec<u8>,
        /// Receivers.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        to: Vec<u8>,
    },
    /// Frames are lost in bursts (Gilbert): on each link for itself.
    Burst {
        /// How many of a hundred frames begin a burst.
        percent: f64,
        /// How many frames are lost in one, in the mean.
        length: u32,
    },
    /// Frames travel longer.
    Delay {
        /// By so much.
        by: crate::span::Span,
        /// Senders.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        from: Vec<u8>,
        /// Receivers.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        to: Vec<u8>,
    },
    /// Frames are held back, so that later ones overtake them.
    Reorder {
        /// How many of a hundred.
        percent: f64,
        /// For how long, at most.
        by: crate::span::Span,
    },
    /// Frames arrive twice.
    Duplicate {
        /// How many of a hundred.
        percent: f64,
    },
    /// A bit of a frame is flipped. (ARP has no checksum of its own, so a damaged ARP frame counts as lost.)
    Corrupt {
        /// How many of a hundred.
        percent: f64,
    },
}

/// How one link behaves, in one direction: all active faults together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quality {
    /// Nothing passes, and why.
    pub(crate) cut: Option<Kind>,
    /// Heartbeats do not pass, and why.
    pub(crate) heartbeats_cut: Option<Kind>,
    /// Broadcast heartbeats do not pass.
    pub(crate) broadcasts_cut: bool,
    pub(crate) loss: f64,
    /// Percent of frames that begin a burst, and its mean length.
    pub(crate) burst: Option<(f64, u32)>,
    pub(crate) delay: Duration,
    pub(crate) reorder: Option<(f64, Duration)>,
    pub(crate) duplicate: f64,
    pub(crate) corrupt: f64,
}

/// Stands for all clients where hosts are numbered.
const CLIENTS: u8 = 0;

/// A port of the switch, as faults see it: the number of a host from 1 on, or none for a client.
type Port = Option<u8>;

fn any_or(hosts: &[u8], port: Port) -> bool {
    hosts.is_empty() || hosts.contains(&port.unwrap_or(CLIENTS))
}

impl LinkFault {
    /// The hosts that it names.
    pub fn hosts(&self) -> Vec<u8> {
        let mut named = self.named();
        named.retain(|host| *host != CLIENTS);
        named
    }

    fn named(&self) -> Vec<u8> {
        match self {
            Self::Cut { from, to }
            | Self::BlockBroadcast { from, to }
            | Self::Loss { from, to, .. }
            | Self::Delay { from, to, .. } => from.iter().chain(to).copied().collect(),
            Self::Partition { hosts } => hosts.clone(),
            Self::Mute { host } | Self::Deaf { host } => vec![*host],
            Self::Burst { .. }
            | Self::Reorder { .. }
            | Self::Duplicate { .. }
            | Self::Corrupt { .. } => Vec::new(),
        }
    }

    /// Adds this fault to what a link suffers already.
    pub(crate) fn afflict(&self, link: &mut Quality, sender: Port, receiver: Port) {
        match self {
            Self::Cut { from, to } => {
                if any_or(from, sender) && any_or(to, receiver) {
                    link.cut = Some(Kind::Cut);
                }
            }
            Self::Partition { hosts } => {
                if let (Some(sender), Some(receiver)) = (sender, receiver)
                    && hosts.contains(&sender) != hosts.contains(&receiver)
                {
                    link.cut = Some(Kind::Partition);
                }
            }
            Self::Mute { host } => {
                if sender == Some(*host) {
                    link.heartbeats_cut = Some(Kind::Mute);
                }
            }
            Self::Deaf { host } => {
                if receiver == Some(*host) {
                    link.heartbeats_cut = Some(Kind::Deaf);
                }
            }
            Self::BlockBroadcast { from, to } => {
                link.broadcasts_cut |= any_or(from, sender) && any_or(to, receiver);
            }
            Self::Loss { percent, from, to } => {
                if any_or(from, sender) && any_or(to, receiver) {
                    link.loss = link.loss.max(*percent);
                }
            }
            Self::Burst { percent, length } => link.burst = Some((*percent, *length)),
            Self::Delay { by, from, to } => {
                if any_or(from, sender) && any_or(to, receiver) {
                    link.delay = link.delay.max(by.0);
                }
            }
            Self::Reorder { percent, by } => link.reorder = Some((*percent, by.0)),
            Self::Duplicate { percent } => link.duplicate = *percent,
            Self::Corrupt { percent } => link.corrupt = *percent,
        }
    }
}

impl Quality {
    /// Whether hosts may lose each other over this link for longer than a tolerance.
    pub(crate) fn is_unreliable(&self) -> bool {
        let cut = self.cut.or(self.heartbeats_cut).is_some();
        cut || self.broadcasts_cut || self.burst.is_some() || self.loss >= 30.0
    }
}

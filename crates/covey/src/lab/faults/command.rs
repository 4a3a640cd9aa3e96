//! `covey lab fault`: what can be typed. docs/design.md, "Command line".

use super::flood::Rate;
use crate::duration;
use crate::lab::args::parse_host;
use clap::{Args, Subcommand};
use covey_proto::ids::HostId;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A host that suffers something.
#[derive(Clone, Copy, Debug, Args)]
pub(in crate::lab) struct Victim {
    /// The host's number
    #[arg(value_name = "N", value_parser = parse_host)]
    pub(in crate::lab) host: HostId,
}

#[derive(Debug, Subcommand)]
pub(in crate::lab) enum FaultCommand {
    /// Kill a host's daemon (SIGKILL)
    Kill(Victim),
    /// Cut a host's switch port and kill its daemon: no sign of life leaves it any more
    Crash(Victim),
    /// Stop a host's daemon (SIGSTOP) for a time, or until `heal`
    Stall {
        #[command(flatten)]
        victim: Victim,
        /// How long; this command returns when it is over
        #[arg(value_parser = duration::parse)]
        time: Option<Duration>,
    },
    /// Let a host's daemon have the processor for a moment only, again and again, for a time or until `heal`
    Starve {
        #[command(flatten)]
        victim: Victim,
        /// How long; this command returns when it is over
        #[arg(value_parser = duration::parse)]
        time: Option<Duration>,
    },
    /// Lose a host's heartbeats on their way to all others
    Mute(Victim),
    /// Lose the others' heartbeats on their way to a host
    Deaf(Victim),
    /// Lose all frames between two hosts
    Cut {
        /// The two hosts' numbers
        #[arg(value_name = "N,M")]
        pair: Pair,
    },
    /// Lose a part of all frames from and to a host, at random; 0 ends it
    Loss {
        #[command(flatten)]
        victim: Victim,
        /// How many of a hundred frames, 0 to 100
        #[arg(value_name = "PCT")]
        percent: Percent,
    },
    /// Lose all broadcasts between hosts (those from and to the client get through)
    NoBroadcast,
    /// Lose the frames to the cluster MAC on their way to a host, as a NIC does that does not accept it
    Refuse(Victim),
    /// Send a frame with the cluster MAC as source from a host, below the guard, so that the switch learns it there
    Leak(Victim),
    /// Unplug two hosts from the switch and wire them directly
    Crossover {
        /// The two hosts' numbers
        #[arg(value_name = "N,M")]
        pair: Pair,
    },
    /// Put a hub in the switch's place: every frame goes to all ports
    Hub,
    /// Let the switch forget the multicast memberships of a host
    AgedOut(Victim),
    /// Send heavy traffic to the virtual IP from the client, for a time or until `heal`
    Flood {
        /// UDP to the echo service, in place of SYN segments to the web server
        #[arg(long)]
        udp: bool,
        /// Frames per second
        #[arg(long, value_name = "PER_SECOND", default_value_t)]
        rate: Rate,
        /// How long; this command returns when it is over
        #[arg(value_parser = duration::parse)]
        time: Option<Duration>,
    },
    /// Undo all faults; return when all hosts have converged
    Heal,
}

/// Two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lab) struct Pair(pub(in crate::lab) HostId, pub(in crate::lab) HostId);

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, second) = text
            .split_once(',')
            .ok_or("two hosts are written with a comma between them: 1,2")?;
        let (first, second) = (parse_host(first)?, parse_host(second)?);
        if first == second {
            return Err(format!(
                "host {first} has no cable to itself; name two hosts"
            ));
        }
        Ok(Self(first.min(second), first.max(second)))
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.0, self.1)
    }
}

/// A part of a hundred, kept as a part of 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lab) struct Percent(u64);

impl Percent {
    const WHOLE: f64 = (1_u64 << 32) as f64;

    /// Of 2^32 frames, so many.
    pub(in crate::lab) const fn of_two_to_32(self) -> u64 {
        self.0
    }

    /// From a number of 2^32; `None` for 0.
    pub(in crate::lab) const fn from_two_to_32(part: u64) -> Option<Self> {
        match part {
            0 => None,
            _ => Some(Self(part)),
        }
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_suffix('%')
            .unwrap_or(text)
            .trim_end()
            .parse::<f64>()
            .ok()
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(|percent| Self((percent / 100.0 * Self::WHOLE) as u64))
            .ok_or_else(|| "a loss is a percentage from 0 to 100".to_owned())
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.0 as f64 / Self::WHOLE * 100.0;
        // As it was typed: what 2^32 cannot hold lies far behind these digits.
        let rounded = (percent * 1e4).round() / 1e4;
        write!(f, "{rounded} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_two_hosts() {
        let pair: Pair = "3,h1".parse().unwrap();
        assert_eq!(pair.to_string(), "1,3");
        for (text, complaint) in [
            ("1", "two hosts are written with a comma between them: 1,2"),
            ("1,65", "hosts are numbered from 1 to 64"),
            ("2,2", "host 2 has no cable to itself; name two hosts"),
        ] {
            assert_eq!(text.parse::<Pair>().unwrap_err(), complaint);
        }
    }

    #[test]
    fn a_percentage_is_shown_as_it_was_typed() {
        for text in ["20", "12.5", "0.01", "100", "33.3333"] {
            let percent: Percent = text.parse().unwrap();
            assert_eq!(percent.to_string(), format!("{text} %"));
        }
        assert_eq!("100".parse::<Percent>().unwrap().of_two_to_32(), 1 << 32);
        assert_eq!("20%".parse::<Percent>(), "20".parse());
        for text in ["-1", "100.1", "NaN", "", "half"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}

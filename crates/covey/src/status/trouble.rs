//! What is wrong between hosts, and what the last minute has brought: the parts of the read model that `covey doctor`
//! makes its findings of.
//!
//! Filled by the daemon (`daemon/report.rs`, `daemon/checkup.rs`). Specification: docs/design.md, "Doctor".

use super::Status;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why a live host is not in the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exclusion {
    /// Its rules are not the others'.
    Rules,
    /// Its mode is not the others'.
    Mode,
    /// It was lost again and again.
    Flapping,
    /// It does not know yet who else is there.
    Listening,
    /// It and another host do not hear each other.
    Hearing,
}

/// A live host that is not in the view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its ID.
    pub host: u8,
    /// Why.
    pub reason: Exclusion,
    /// Of rules: what differs, in words.
    #[serde(default)]
    pub difference: Option<String>,
    /// Of hearing: the other host.
    #[serde(default)]
    pub other: Option<u8>,
    /// Of flapping: how long it may not join at most, ms.
    #[serde(default)]
    pub wait_ms: Option<f64>,
}

/// Two hosts that use one ID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twins {
    /// The ID.
    pub host: u8,
    /// Name of the one that is believed.
    pub name: String,
    /// Its MAC.
    pub mac: String,
    /// Name of the other, if it is known.
    pub other_name: Option<String>,
    /// Its MAC.
    pub other_mac: String,
}

/// A single-host rule that two hosts claim with one handling priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EqualPriorities {
    /// The rule, from 1.
    pub rule: usize,
    /// The host that takes its traffic.
    pub taker: u8,
    /// The other.
    pub other: u8,
}

/// How late the host's timers fired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Late {
    /// At worst, in the last time when they were late, ms.
    pub worst_ms: f64,
    /// Time since they were late last, ms.
    pub ago_ms: f64,
}

/// That the host stopped serving by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fenced {
    /// How often since its daemon started.
    pub times: u64,
    /// Time since the last, ms.
    pub ago_ms: f64,
    /// Why, in a sentence.
    pub why: String,
}

/// What is wrong between this host and the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Troubles {
    /// Live hosts that are not in the view, this one included.
    pub left_out: Vec<LeftOut>,
    /// IDs that two hosts use.
    pub twins: Vec<Twins>,
    /// Single-host rules that two hosts claim alike.
    pub equal_priorities: Vec<EqualPriorities>,
    /// Hosts that speak, in another mode than this one's.
    pub other_mode: Vec<u8>,
    /// Live hosts whose heartbeats arrive only if they are sent to this host directly.
    pub direct_only: Vec<u8>,
    /// Hosts whose probes to this host alone arrive, and whose heartbeats do not.
    #[serde(default)]
    pub probing_only: Vec<u8>,
    /// Hosts whose machines answer ARP and whose heartbeats do not arrive, while no host is heard.
    pub answer_arp_only: Vec<u8>,
    /// If the host's timers were ever late.
    pub late: Option<Late>,
    /// If it ever stopped serving by itself.
    pub fenced: Option<Fenced>,
    /// How long it has wanted another map than the one in force, ms.
    pub converging_ms: Option<f64>,
}

/// What counters have grown by lately.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recent {
    /// In how long a time, ms: a minute, or the time since the first check-up.
    pub window_ms: u64,
    /// Packets taken under each rule, by its number.
    pub accepted: BTreeMap<u8, u64>,
    /// Heartbeat frames that were not used, by reason.
    pub frames_rejected: BTreeMap<String, u64>,
    /// Connections that the kernel refused because no program took them from a full listening queue.
    pub refused: u64,
}

/// Counters at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally(Recent);

impl Tally {
    /// As the read model tells them, and how many connections the kernel has refused since it was started.
    pub fn of(status: &Status, refused: u64) -> Self {
        let accepted = status
            .rules
            .iter()
            .map(|rule| (rule.index, rule.packets_accepted));
        Self(Recent {
            window_ms: status.host.uptime_ms,
            accepted: accepted.collect(),
            frames_rejected: status.frames_rejected.clone(),
            refused,
        })
    }

    /// What they have grown by since an earlier moment. A counter that has become less has begun anew.
    pub fn since(&self, earlier: &Self) -> Recent {
        let (now, then) = (&self.0, &earlier.0);
        Recent {
            window_ms: now.window_ms.saturating_sub(then.window_ms),
            accepted: growth(&now.accepted, &then.accepted),
            frames_rejected: growth(&now.frames_rejected, &then.frames_rejected),
            refused: now.refused.saturating_sub(then.refused),
        }
    }
}

/// By key, where there is any.
fn growth<K: Ord + Clone>(now: &BTreeMap<K, u64>, then: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let grown = now.iter().filter_map(|(key, count)| {
        let before = then.get(key).copied().unwrap_or(0);
        let grown = count.checked_sub(before).unwrap_or(*count);
        (grown > 0).then(|| (key.clone(), grown))
    });
    grown.collect()
}

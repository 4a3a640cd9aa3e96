//! What people see: texts and tables made of a [`Status`], an event or a configuration.
//!
//! Every function here is pure, so golden tests hold every character of the output.
//! Called by [`super::run`]. Specification: docs/design.md, "Command line".

mod check;
mod doctor;
mod event;
mod mac;
mod network;
mod query;
mod rules;
mod status;
mod table;
mod why;
mod wlbs;

pub(super) use check::{CheckSummary, check};
pub(super) use doctor::doctor;
pub(super) use event::event;
pub(super) use mac::{ClusterMacs, ip2mac};
pub(super) use query::{QuerySummary, query};
pub(super) use rules::rules;
pub(super) use status::status;
pub(super) use table::Paint;
pub(super) use why::why;
pub(super) use wlbs::Wlbs;

use crate::duration;
use crate::status::{HostState, RuleStatus, Status};
use std::net::IpAddr;
use std::time::Duration;

/// `1, 2, 3` or, without blank, `1,2,3`.
fn list(ids: &[u8], separator: &str) -> String {
    let ids: Vec<String> = ids.iter().map(u8::to_string).collect();
    ids.join(separator)
}

/// As [`list`], with four or more in a row as `1-4`; the IDs are in ascending order.
fn ranges(ids: &[u8], separator: &str) -> String {
    let runs: Vec<String> = ids
        .chunk_by(|one, next| one + 1 == *next)
        .map(|run| match run {
            [first, _, _, .., last] => format!("{first}-{last}"),
            few => list(few, separator),
        })
        .collect();
    runs.join(separator)
}

/// The hosts that this one converged with, or tries to converge with. It always lists itself: one that is alone is
/// a cluster of one, and an empty list was NLB's sign that it sees nobody, not even itself (Q228942).
fn companions(status: &Status) -> Vec<u8> {
    let mut ids: Vec<u8> = match status.host.state {
        HostState::Converged | HostState::Draining => status.cluster.view.clone(),
        HostState::Converging | HostState::Stopped | HostState::Suspended => status
            .hosts
            .iter()
            .filter(|host| host.alive)
            .map(|host| host.id)
            .collect(),
    };
    ids.push(status.host.id);
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// What a host brings to a rule.
fn claim(weight: Option<u8>, handling_priority: Option<u8>) -> String {
    match (weight, handling_priority) {
        (Some(weight), _) => format!("weight {weight}"),
        (None, Some(priority)) => format!("priority {priority}"),
        (None, None) => "-".to_owned(),
    }
}

/// What of a client chooses its host, and for how long.
fn affinity(affinity: Option<&str>, sticky_s: Option<u64>) -> String {
    let affinity = affinity.unwrap_or("-");
    match sticky_s {
        Some(seconds) => {
            let time = duration::format(Duration::from_secs(seconds));
            format!("{affinity}, sticky {time}")
        }
        None => affinity.to_owned(),
    }
}

/// `1 connection`, `17 connections`.
pub(super) fn connections(count: usize) -> String {
    match count {
        1 => "1 connection".to_owned(),
        count => format!("{count} connections"),
    }
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// The virtual IP a rule is for.
fn address(vip: Option<IpAddr>) -> String {
    vip.map_or_else(|| "all".to_owned(), |vip| vip.to_string())
}

/// The ports of a rule: `80`, `1000-2000`, or that it is for the rest.
fn ports(rule: &RuleStatus) -> String {
    range(rule.start, rule.end)
}

fn range(start: Option<u16>, end: Option<u16>) -> String {
    match (start, end) {
        (Some(start), Some(end)) if start == end => start.to_string(),
        (Some(start), Some(end)) => format!("{start}-{end}"),
        _ => "the rest".to_owned(),
    }
}

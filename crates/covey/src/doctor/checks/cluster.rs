//! Checks of what the hosts agree on, and of who is there.

use super::host::{budget, milliseconds};
use super::{Looked, found, hosts};
use crate::doctor::evidence::Evidence;
use crate::doctor::{Finding, Kind};
use crate::duration;
use crate::status::{Exclusion, HostState, LeftOut, MemberStatus, Status};
use covey_filter::DEFAULT_RULE;
use std::time::Duration;

/// Converging for so many leases is more than anything takes that goes well.
const CONVERGES_WITHIN: f64 = 4.0;
/// Frames that are not believed lately, from which on they are no accident.
const DISTRUSTED: u64 = 3;
/// Packets under no rule lately, from which on it matters whose they are.
const UNRULED: u64 = 1000;

/// The live hosts but for this one.
pub(super) fn others(status: &Status) -> impl Iterator<Item = &MemberStatus> {
    let me = status.host.id;
    status
        .hosts
        .iter()
        .filter(move |host| host.alive && host.id != me)
}

/// `host 2 (web2)`.
pub(super) fn named(status: &Status, id: u8) -> String {
    let known = status.hosts.iter().find(|host| host.id == id);
    known.map_or_else(
        || format!("host {id}"),
        |host| format!("host {id} ({})", host.name),
    )
}

/// The same, or that it is this one, at the beginning of a sentence.
fn subject(status: &Status, id: u8) -> String {
    match id == status.host.id {
        true => "This host".to_owned(),
        false => named(status, id).replacen('h', "H", 1),
    }
}

pub(super) fn convergence(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let since = status.troubles.converging_ms;
    let since = since.filter(|_| status.host.state == HostState::Converging);
    let too_long = since.filter(|ms| *ms > CONVERGES_WITHIN * budget(status));
    found(too_long.map(|ms| {
        let waits = status.host.waiting_for.as_deref();
        let waits = waits.map_or_else(String::new, |what| format!(": {what}"));
        Finding::new(
            Kind::NotConverged,
            format!(
                "This host has been converging for {}{waits}.",
                milliseconds(ms)
            ),
        )
        .seen(format!(
            "it hears {}",
            hosts(&others(status).map(|host| host.id).collect::<Vec<_>>())
        ))
    }))
}

/// Whether it takes part and is all of its cluster.
pub(super) fn is_alone(status: &Status) -> bool {
    let takes_part = status.host.state == HostState::Converged;
    takes_part && status.cluster.view == [status.host.id] && others(status).next().is_none()
}

pub(super) fn company(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let alone = is_alone(status) && status.cluster.unicast_fallback;
    found(alone.then(|| {
        Finding::new(
            Kind::Alone,
            "This host is the whole cluster: it hears no other.",
        )
    }))
}

pub(super) fn silent_hosts(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    // A host that is not taking part listens to nobody.
    if matches!(status.host.state, HostState::Stopped | HostState::Suspended) {
        return None;
    }
    let lost = status.hosts.iter().filter(|host| host.is_lost());
    let is_on = |host: u8| Some(evidence.machine.as_ref()?.lost_and_on.contains(&host));
    let finding = |host: &MemberStatus| {
        let finding = Finding::new(
            Kind::HostSilent,
            format!(
                "{} has been silent for {} and has not said goodbye.",
                subject(status, host.id),
                milliseconds(host.last_heartbeat_ms)
            ),
        )
        .about(host.id)
        .seen(format!("its address is {}, its MAC {}", host.dip, host.mac));
        match is_on(host.id) {
            Some(true) => finding.seen("its machine is on: it says its MAC when it is asked"),
            Some(false) => finding.seen("its machine does not say its MAC when it is asked"),
            None => finding,
        }
    };
    Some(lost.map(finding).collect())
}

fn left_out(status: &Status, reason: Exclusion) -> impl Iterator<Item = &LeftOut> {
    let all = status.troubles.left_out.iter();
    all.filter(move |out| out.reason == reason)
}

pub(super) fn rules(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let finding = |out: &LeftOut| {
        let difference = out.difference.as_deref().unwrap_or_default();
        Finding::new(
            Kind::RulesDiffer,
            format!(
                "{} is kept out, because it has other virtual IPs or port rules{difference}.",
                subject(status, out.host)
            ),
        )
        .about(out.host)
    };
    Some(left_out(status, Exclusion::Rules).map(finding).collect())
}

pub(super) fn modes(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let out = left_out(status, Exclusion::Mode).map(|out| out.host);
    let mut odd: Vec<u8> = out
        .chain(status.troubles.other_mode.iter().copied())
        .collect();
    odd.sort_unstable();
    odd.dedup();
    let mode = &status.cluster.mode;
    found((!odd.is_empty()).then(|| {
        let what = match odd.as_slice() {
            [one] if *one == status.host.id => {
                format!("This host is set to {mode} mode, and the others to another.")
            }
            _ => format!(
                "This host is set to {mode} mode, and {} to another.",
                hosts(&odd)
            ),
        };
        Finding::new(Kind::ModeDiffers, what)
    }))
}

pub(super) fn identities(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let twins = status.troubles.twins.iter().map(|twins| {
        let other = twins.other_name.as_deref().unwrap_or("another machine");
        Finding::new(
            Kind::DuplicateHostId,
            format!(
                "Host ID {} is used by {} ({}) and by {other} ({}).",
                twins.host, twins.name, twins.mac, twins.other_mac
            ),
        )
        .about(twins.host)
    });
    Some(twins.collect())
}

pub(super) fn priorities(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let equal = status.troubles.equal_priorities.iter().map(|equal| {
        Finding::new(
            Kind::EqualPriorities,
            format!(
                "{} and {} have the same handling priority for port rule {}; {} takes its traffic.",
                subject(status, equal.taker),
                named(status, equal.other),
                equal.rule,
                hosts(&[equal.taker])
            ),
        )
        .about(format!("rule {}, host {}", equal.rule, equal.other))
    });
    Some(equal.collect())
}

pub(super) fn flapping(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let finding = |out: &LeftOut| {
        let wait = milliseconds(out.wait_ms.unwrap_or_default());
        Finding::new(
            Kind::Flapping,
            format!(
                "{} was lost again and again, so it may not join for up to {wait}.",
                subject(status, out.host)
            ),
        )
        .about(out.host)
    };
    Some(left_out(status, Exclusion::Flapping).map(finding).collect())
}

/// How many frames were refused lately for one of these reasons, and a line for each; `None` if there are few.
fn refused(status: &Status, reasons: [(&str, &str); 2]) -> Option<(u64, Vec<String>)> {
    let count = |reason: &str| {
        let lately = status.recent.frames_rejected.get(reason);
        lately.copied().unwrap_or(0)
    };
    let all = reasons.map(|(reason, _)| count(reason)).iter().sum();
    let seen = reasons
        .iter()
        .filter(|(reason, _)| count(reason) > 0)
        .map(|(reason, what)| format!("{} {what}", count(reason)));
    (all >= DISTRUSTED).then(|| (all, seen.collect()))
}

/// A finding about frames that were refused lately.
pub(super) fn of_refused(
    status: &Status,
    kind: Kind,
    what: &str,
    reasons: [(&str, &str); 2],
) -> Looked {
    let recent = &status.recent;
    if recent.window_ms == 0 {
        return None;
    }
    let window = duration::format(Duration::from_millis(recent.window_ms));
    found(refused(status, reasons).map(|(count, seen)| {
        let what = format!("In the last {window} {count} frames of this cluster {what}.");
        let mut finding = Finding::new(kind, what);
        finding.evidence = seen;
        finding.seen("covey events says from which host and address (event 1016 or 1017)")
    }))
}

pub(super) fn keys(evidence: &Evidence) -> Looked {
    of_refused(
        evidence.status()?,
        Kind::KeyDiffers,
        "arrived that are signed with another key than this host's, and were not believed",
        [
            ("bad_signature_tag", "with a wrong signature"),
            (
                "unknown_key",
                "signed with a key whose ID this host does not have",
            ),
        ],
    )
}

pub(super) fn signatures(evidence: &Evidence) -> Looked {
    of_refused(
        evidence.status()?,
        Kind::Unsigned,
        "arrived of hosts that do not sign as this one does, and were not believed",
        [
            (
                "unsigned",
                "without a signature, and this host asks for one",
            ),
            (
                "unexpected_signature",
                "with a signature, and this host has no key",
            ),
        ],
    )
}

pub(super) fn versions(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let level = status.cluster.feature_level;
    let newer = |host: &&MemberStatus| host.alive && host.protocol_version > level;
    let (newer, older): (Vec<_>, Vec<_>) = status
        .hosts
        .iter()
        .filter(|host| host.alive)
        .partition(|host| newer(host));
    let ids = |hosts: &[&MemberStatus]| hosts.iter().map(|host| host.id).collect::<Vec<_>>();
    found((!newer.is_empty()).then(|| {
        Finding::new(
            Kind::VersionsDiffer,
            format!(
                "The cluster keeps to feature level {level} because of {}; {} could do more.",
                hosts(&ids(&older)),
                hosts(&ids(&newer))
            ),
        )
    }))
}

pub(super) fn unruled_traffic(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let recent = &status.recent;
    let has_rules = status.rules.iter().any(|rule| rule.index != DEFAULT_RULE);
    if recent.window_ms == 0 || !has_rules {
        return None;
    }
    let unruled = recent.accepted.get(&DEFAULT_RULE).copied().unwrap_or(0);
    let all: u64 = recent.accepted.values().sum();
    found((unruled >= UNRULED && unruled * 2 > all).then(|| {
        Finding::new(
            Kind::NoRuleForTraffic,
            format!(
                "Of the {all} packets that this host took in the last {}, {unruled} are under no port rule, so it alone takes them.",
                duration::format(Duration::from_millis(recent.window_ms))
            ),
        )
    }))
}

//! `covey status`: the cluster as one host sees it, as tables.
//!
//! Shares are shown in percent of the 4096 buckets. A host's overall share is the mean over the rules by which
//! hosts share traffic; how much of it each rule gets is not known here.

use super::query::state_words;
use super::table::{Align, Cell, Paint, Table, Tone, labelled};
use super::{connections, network, percent, ranges, rules};
use crate::doctor::Severity;
use crate::duration;
use crate::status::{HostState, MemberStatus, MulticastStatus, RuleStatus, Status};
use covey_filter::BUCKETS;
use std::collections::BTreeMap;
use std::time::Duration;

/// The whole answer.
pub(in crate::cli) fn status(status: &Status, verbose: bool, paint: Paint) -> String {
    let mut parts = vec![
        overview(status, paint),
        hosts(status, paint),
        rules::brief(status, paint),
    ];
    if verbose {
        parts.push(network::network(status, paint));
        parts.push(data_path(status, paint));
        parts.push(frames_rejected(status, paint));
        parts.push(convergences(status, paint));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

fn milliseconds(ms: f64) -> String {
    duration::format(Duration::from_secs_f64(ms.max(0.0) / 1e3))
}

fn overview(status: &Status, paint: Paint) -> String {
    let cluster = &status.cluster;
    let host = &status.host;
    let vips: Vec<String> = cluster.vips.iter().map(ToString::to_string).collect();
    let map = match cluster.epoch {
        0 => "none is committed".to_owned(),
        epoch => format!(
            "epoch {epoch}, hosts {}, default host {}, digest {}",
            ranges(&cluster.view, ", "),
            cluster
                .default_host
                .map_or_else(|| "none".to_owned(), |id| id.to_string()),
            cluster.map_digest
        ),
    };
    let heartbeat = format!(
        "every {}, a host is gone after {}, {}, {}",
        milliseconds(cluster.period_ms),
        milliseconds(cluster.period_ms * f64::from(cluster.tolerance)),
        if cluster.authenticated {
            "signed"
        } else {
            "not signed"
        },
        feature_level(status)
    );
    let (words, tone) = state_words(host.state, host.is_default);
    let lease = if host.lease_ms > 0.0 {
        format!("lease {}", milliseconds(host.lease_ms))
    } else {
        "no lease".to_owned()
    };
    let mut this = format!(
        "{} (host {}) on {}: {}, {lease}, up {}",
        host.name,
        host.id,
        host.interface,
        paint.tone(tone, words),
        duration::format(Duration::from_millis(host.uptime_ms))
    );
    if let Some(count) = host.connections {
        this.push_str(&format!(", {} open", connections(count)));
    }
    if let Some(reason) = &host.waiting_for {
        this.push_str(&format!("; {reason}"));
    }
    let offered = cluster
        .offered
        .as_ref()
        .map_or_else(String::new, |offered| {
            format!(" (this host offers {} {})", offered.mode, offered.mac)
        });
    let mut rows = vec![
        (
            "Cluster",
            format!(
                "{}, {}, {} {}{offered}",
                cluster.name,
                vips.join(", "),
                cluster.mode,
                cluster.mac
            ),
        ),
        ("Map", map),
        ("Heartbeat", heartbeat),
        ("This host", this),
    ];
    let group = status.multicast.as_ref().and_then(group);
    rows.extend(group.map(|group| ("Group", group)));
    rows.extend(findings(status, paint).map(|findings| ("Findings", findings)));
    labelled(&rows)
}

/// How much is wrong, by host; `None` if nothing is.
fn findings(status: &Status, paint: Paint) -> Option<String> {
    let own = status.findings.iter();
    let (info, trouble): (Vec<_>, Vec<_>) =
        own.partition(|finding| finding.severity == Severity::Info);
    let others = status.hosts.iter().filter(|host| host.alive);
    let others = others.filter(|host| !host.findings.is_empty());
    let mut parts: Vec<String> = others
        .map(|host| format!("host {}: {}", host.id, host.findings.join(", ")))
        .collect();
    let tone = match trouble.iter().map(|finding| finding.severity).max() {
        Some(Severity::Error) => Tone::Bad,
        Some(Severity::Warning) => Tone::Busy,
        Some(Severity::Info) | None => Tone::Good,
    };
    let names: Vec<&str> = [trouble, info]
        .concat()
        .iter()
        .map(|finding| finding.name.as_str())
        .collect();
    if !names.is_empty() {
        let count = match names.len() {
            1 => "1 on this host".to_owned(),
            count => format!("{count} on this host"),
        };
        parts.insert(
            0,
            format!("{} ({})", paint.tone(tone, &count), names.join(", ")),
        );
    }
    (!parts.is_empty()).then(|| format!("{}; covey doctor says more", parts.join("; ")))
}

/// The host's part in IP multicast groups; nothing if it has none.
fn group(multicast: &MulticastStatus) -> Option<String> {
    let mut parts = Vec::new();
    if !multicast.groups.is_empty() {
        let groups: Vec<String> = multicast.groups.iter().map(ToString::to_string).collect();
        let ago = |ms| duration::format(Duration::from_millis(ms));
        let asked = match &multicast.igmp_querier {
            Some(querier) if querier.heard_ms_ago < multicast.querier_timeout_ms => format!(
                "asked for by {} (IGMP version {}) {} ago",
                if querier.address.is_unspecified() {
                    "a switch without an address".to_owned()
                } else {
                    querier.address.to_string()
                },
                querier.version,
                ago(querier.heard_ms_ago)
            ),
            Some(_) | None => format!(
                "nobody has asked for {}",
                ago(multicast.silent_ms.unwrap_or_default())
            ),
        };
        parts.push(format!("{}, {asked}", groups.join(" and ")));
    }
    if multicast.announces_mrouter {
        parts.push("announced as a multicast router".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// What all live hosts understand, and during a rolling upgrade who could do more.
fn feature_level(status: &Status) -> String {
    let level = status.cluster.feature_level;
    let mut newer: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
    for host in status.hosts.iter().filter(|host| host.alive) {
        if host.protocol_version > level {
            newer
                .entry(host.protocol_version)
                .or_default()
                .push(host.id);
        }
    }
    let speakers: Vec<String> = newer
        .iter()
        .map(|(version, hosts)| match hosts.as_slice() {
            [one] => format!("host {one} speaks {version}"),
            several => format!("hosts {} speak {version}", ranges(several, ", ")),
        })
        .collect();
    if speakers.is_empty() {
        format!("feature level {level}")
    } else {
        format!("feature level {level} ({})", speakers.join("; "))
    }
}

fn hosts(status: &Status, paint: Paint) -> String {
    let mut table = Table::new([
        ("HOST", Align::Right),
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("DIP", Align::Left),
        ("SHARE", Align::Right),
        ("HEARTBEAT", Align::Right),
        ("LOST", Align::Right),
        ("EPOCH", Align::Right),
    ]);
    for host in &status.hosts {
        let heartbeat = if host.id == status.host.id {
            "this host".to_owned()
        } else {
            format!("{} ago", milliseconds(host.last_heartbeat_ms))
        };
        table.push([
            host.id.to_string().into(),
            host.name.as_str().into(),
            state(host, status.cluster.default_host),
            host.dip.to_string().into(),
            percent(overall_share(status, host.id)).into(),
            heartbeat.into(),
            host.heartbeats_lost.to_string().into(),
            host.epoch.to_string().into(),
        ]);
    }
    table.render(paint)
}

fn state(host: &MemberStatus, default_host: Option<u8>) -> Cell {
    let is_default = default_host == Some(host.id);
    let (words, tone) = state_words(host.state, is_default);
    match host.state {
        // The last word of a host that left in order: it is not missed.
        HostState::Stopped | HostState::Suspended => Cell::toned(words, tone),
        _ if !host.alive => Cell::toned(format!("silent, was {words}"), Tone::Bad),
        _ => Cell::toned(words, tone),
    }
}

/// The part of all buckets that a host owns, from 0 to 1: of the multiple-host rules; without any, of the
/// single-host rules; without any, of the default rule.
fn overall_share(status: &Status, id: u8) -> f64 {
    let rules = |wanted: fn(&RuleStatus) -> bool| -> Vec<&RuleStatus> {
        status.rules.iter().filter(|rule| wanted(rule)).collect()
    };
    let counted = [
        rules(|rule| rule.mode == "multiple"),
        rules(|rule| rule.mode == "single"),
        rules(|rule| rule.index == 0),
    ]
    .into_iter()
    .find(|rules| !rules.is_empty())
    .unwrap_or_default();
    let owned: usize = counted.iter().filter_map(|rule| rule.share.get(&id)).sum();
    owned as f64 / (counted.len().max(1) * BUCKETS) as f64
}

fn data_path(status: &Status, paint: Paint) -> String {
    let mut table = Table::new([("VERDICT", Align::Left), ("PACKETS", Align::Right)]);
    for (reason, packets) in &status.datapath.packets {
        table.push([reason.as_str().into(), packets.to_string().into()]);
    }
    let commits = status.datapath.commits;
    format!(
        "{}\n{}",
        labelled(&[
            ("Data path", status.datapath.attach.clone()),
            (
                "Commits",
                format!(
                    "{} by the filter, {} by the daemon",
                    commits.by_filter, commits.by_daemon
                )
            ),
        ]),
        table.render(paint)
    )
}

fn frames_rejected(status: &Status, paint: Paint) -> String {
    if status.frames_rejected.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        ("HEARTBEATS NOT USED", Align::Left),
        ("FRAMES", Align::Right),
    ]);
    for (reason, frames) in &status.frames_rejected {
        table.push([reason.as_str().into(), frames.to_string().into()]);
    }
    table.render(paint)
}

fn convergences(status: &Status, paint: Paint) -> String {
    if status.convergence.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        ("CONVERGED AFTER", Align::Right),
        ("EPOCH", Align::Right),
        ("TOOK", Align::Right),
        ("FROM", Align::Left),
        ("TO", Align::Left),
        ("CAUSE", Align::Left),
    ]);
    for record in &status.convergence {
        let from = match record.from.as_slice() {
            [] => "-".to_owned(),
            ids => ranges(ids, ","),
        };
        table.push([
            duration::format(Duration::from_millis(record.at_ms)).into(),
            record.epoch.to_string().into(),
            milliseconds(record.duration_ms).into(),
            from.into(),
            ranges(&record.to, ",").into(),
            record.cause.as_str().into(),
        ]);
    }
    table.render(paint)
}

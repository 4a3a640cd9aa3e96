//! Every event, once: its number, its severity and its words, as docs/events.md lists them.

use super::*;
use crate::cluster::RuleChange;
use crate::rules::{Affinity, FilterMode, PortRule, Protocol};
use std::collections::BTreeSet;
use std::fmt::Write;

fn id(host: u8) -> HostId {
    HostId::new(host).unwrap()
}

fn set(hosts: &[u8]) -> HostSet {
    hosts.iter().map(|host| id(*host)).collect()
}

/// The place of a variant in the list below. A new variant must be given one here, and an example there.
fn place(event: &Event) -> usize {
    match event {
        Event::Started { .. } => 0,
        Event::Stopped { .. } => 1,
        Event::Leaving { .. } => 2,
        Event::LeavingInterrupted { .. } => 3,
        Event::Draining { .. } => 4,
        Event::DrainingInterrupted { .. } => 5,
        Event::Suspended { .. } => 6,
        Event::Resumed { .. } => 7,
        Event::RulesChanged { .. } => 8,
        Event::RuleDrained { .. } => 9,
        Event::Converged { .. } => 10,
        Event::HostJoined { .. } => 11,
        Event::HostLeft { .. } => 12,
        Event::HostLost { .. } => 13,
        Event::Fenced { .. } => 14,
        Event::DuplicateId { .. } => 15,
        Event::DuplicatePeer { .. } => 16,
        Event::RulesDiffer { .. } => 17,
        Event::ModeDiffers { .. } => 18,
        Event::EqualPriorities { .. } => 19,
        Event::PartitionHealed { .. } => 20,
        Event::NotBelieved { .. } => 21,
        Event::ForeignNlb { .. } => 22,
        Event::LegacyHosts { .. } => 23,
        Event::LegacyGone => 24,
        Event::FeatureLevel { .. } => 25,
        Event::KeptOut { .. } => 26,
        Event::Late { .. } => 27,
        Event::OnTime { .. } => 28,
        Event::HeartbeatsBlocked { .. } => 29,
        Event::BroadcastBlocked { .. } => 30,
        Event::Reloaded => 31,
    }
}
/// How many variants there are.
const VARIANTS: usize = 32;

/// Every variant, and every form of it that has its own number or its own words.
fn examples() -> Vec<Event> {
    let (host, mac) = (id(2), Mac([2, 0, 0, 0, 0, 2]));
    let name = || "web2".to_owned();
    let dip = "192.0.2.2".parse().unwrap();
    let converged = |default| Event::Converged {
        host,
        default,
        view: set(&[1, 2, 3]),
        epoch: Epoch(7),
        took: Duration::from_micros(41_300),
        cause: "host(s) 2 joined".to_owned(),
    };
    let changed = |change, port| Event::RulesChanged { change, port };
    let differ = |this_host_out, difference| Event::RulesDiffer {
        host,
        name: name(),
        this_host_out,
        difference,
    };
    let rule = |affinity| PortRule {
        vip: None,
        start: 443,
        end: 443,
        protocol: Protocol::Tcp,
        mode: FilterMode::Multiple { affinity },
        sticky: None,
    };
    let not_believed = |reason| Event::NotBelieved { host, dip, reason };
    let fenced = |reason| Event::Fenced { reason };
    let kept_out = |this_host| Event::KeptOut {
        host,
        this_host,
        wait: Duration::from_secs(20),
    };
    let level = |level, held_down_by: &[u8]| Event::FeatureLevel {
        level,
        held_down_by: set(held_down_by),
    };
    let ago = Duration::from_millis(12);
    let mut events = vec![
        Event::Started { host },
        Event::Stopped { host },
        Event::Leaving { host },
        Event::LeavingInterrupted { host },
        Event::Draining { host },
        Event::DrainingInterrupted { host },
        Event::Suspended { host },
        Event::Resumed { host },
        changed(RuleChange::Enable, Some(80)),
        changed(RuleChange::Disable, Some(80)),
        changed(RuleChange::Drain, Some(80)),
        changed(RuleChange::Drain, None),
        changed(RuleChange::Enable, None),
        changed(RuleChange::Disable, None),
        Event::RuleDrained { port: 80 },
        converged(false),
        converged(true),
        Event::HostJoined {
            host,
            name: name(),
            mac,
        },
        Event::HostLeft { host },
        Event::HostLost {
            host,
            silent: Duration::from_millis(5031),
        },
        fenced(FenceReason::LeaseLapsed { ago }),
        fenced(FenceReason::MapMissed { epoch: Epoch(7) }),
        fenced(FenceReason::DuplicateId),
        Event::DuplicateId {
            host,
            mac,
            name: name(),
        },
        Event::DuplicatePeer {
            host,
            one: (name(), mac),
            other: ("old2".to_owned(), Mac([2, 0, 0, 0, 0, 9])),
        },
        differ(false, Some(RuleDifference::Count { there: 2, here: 3 })),
        differ(
            false,
            Some(RuleDifference::Vips {
                there: vec![],
                here: vec!["192.0.2.101".parse().unwrap()],
            }),
        ),
        differ(
            false,
            Some(RuleDifference::Rule {
                number: 2,
                there: rule(Affinity::None),
                here: rule(Affinity::Single),
            }),
        ),
        differ(true, None),
        Event::ModeDiffers {
            host,
            name: name(),
            there: ClusterMode::Multicast,
            here: ClusterMode::Unicast,
        },
        Event::EqualPriorities {
            rule: 2,
            priority: 1,
            taker: (id(1), "web1".to_owned()),
            other: (host, name()),
        },
        Event::PartitionHealed { host, name: name() },
        not_believed(Distrust::Unsigned),
        not_believed(Distrust::UnexpectedSignature),
        not_believed(Distrust::UnknownKey),
        not_believed(Distrust::BadSignature),
        Event::ForeignNlb { host, dip },
        Event::LegacyHosts { hosts: set(&[2]) },
        Event::LegacyGone,
        level(1, &[2]),
        level(2, &[]),
        kept_out(false),
        kept_out(true),
        Event::Late {
            by: Duration::from_millis(640),
            tolerance: 7,
        },
        Event::OnTime { tolerance: 5 },
        Event::HeartbeatsBlocked { hosts: set(&[2]) },
        Event::BroadcastBlocked { host },
        Event::Reloaded,
    ];
    events.sort_by_key(Event::id);
    events
}

/// The table of docs/events.md.
fn table() -> String {
    let mut table = String::from(
        "| ID | severity | what happened, and why | what to do |\n|---|---|---|---|\n",
    );
    for event in examples() {
        let severity = match event.severity() {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let text = event.to_string();
        let advice = event.advice().unwrap_or("");
        let happened = text.strip_suffix(advice).unwrap().trim_end_matches("; ");
        writeln!(
            table,
            "| {} | {severity} | {happened} | {advice} |",
            event.id()
        )
        .unwrap();
    }
    table
}

#[test]
fn every_event_is_among_the_examples() {
    let places: BTreeSet<usize> = examples().iter().map(place).collect();
    assert_eq!(places, (0..VARIANTS).collect());
}

#[test]
fn the_documentation_lists_every_event() {
    let documented = include_str!("../../../../docs/events.md");
    let rows = documented.lines().filter(|line| line.starts_with('|'));
    let rows: String = rows.map(|row| format!("{row}\n")).collect();
    assert!(
        rows == table(),
        "put this table into docs/events.md:\n{}",
        table()
    );
}

#[test]
fn every_number_has_one_meaning() {
    let mut meanings = BTreeSet::new();
    for event in examples() {
        meanings.insert((event.id(), place(&event)));
    }
    let numbers: BTreeSet<u16> = meanings.iter().map(|(id, _)| *id).collect();
    assert_eq!(numbers.len(), meanings.len());
}

#[test]
fn trouble_comes_with_advice() {
    let passes_by_itself = [1003, 1004];
    for event in examples() {
        let trouble = event.severity() != Severity::Info && !passes_by_itself.contains(&event.id());
        assert!(!trouble || event.advice().is_some(), "{event}");
    }
}

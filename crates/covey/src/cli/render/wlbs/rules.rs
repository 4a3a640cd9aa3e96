//! Port rules as NLB shows them: its table (NLB cmdlets §1.1), and the state of single rules.

use super::super::ports as range;
use crate::control::Ports;
use crate::status::{RuleState, RuleStatus, Status};
use covey_filter::DEFAULT_RULE;

const COLUMNS: [&str; 8] = [
    "IPAddress",
    "State",
    "Start",
    "End",
    "Protocol",
    "Mode",
    "Affinity",
    "Timeout",
];

/// All port rules. Timeouts are in minutes, as NLB's; single-host rules have neither affinity nor timeout.
pub(super) fn table(status: &Status) -> String {
    let rules = configured(status).map(|rule| {
        let number = |port: Option<u16>| port.map_or_else(String::new, |port| port.to_string());
        let timeout = match rule.mode.as_str() {
            "multiple" => (rule.sticky_s.unwrap_or(0) as f64 / 60.0).to_string(),
            _ => String::new(),
        };
        [
            rule.vip
                .map_or_else(|| "All".to_owned(), |vip| vip.to_string()),
            state(rule).to_owned(),
            number(rule.start),
            number(rule.end),
            capitalised(&rule.protocol),
            capitalised(&rule.mode),
            capitalised(rule.affinity.as_deref().unwrap_or_default()),
            timeout,
        ]
    });
    let dashes = COLUMNS.map(|name| "-".repeat(name.len()));
    let rows: Vec<[String; 8]> = [COLUMNS.map(str::to_owned), dashes]
        .into_iter()
        .chain(rules)
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(|column| width(column).max(9));
    rows.iter()
        .map(|row| {
            let cells = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join(" ");
            format!("{}\n", line.trim_end())
        })
        .collect()
}

/// For each rule that is meant its state and its packets, a line each.
pub(super) fn states(status: &Status, ports: &Ports) -> String {
    configured(status)
        .filter(|rule| is_meant(rule, ports))
        .map(|rule| {
            let vip = rule
                .vip
                .map_or_else(|| "all".to_owned(), |vip| vip.to_string());
            format!(
                "Port rule {vip}:{} ({}) is {} on host {}.\n\
                 Accepted packets = {}; Dropped packets = {}\n",
                range(rule),
                rule.protocol,
                state(rule),
                status.host.id,
                rule.packets_accepted,
                rule.packets_dropped
            )
        })
        .collect()
}

fn configured(status: &Status) -> impl Iterator<Item = &RuleStatus> {
    status
        .rules
        .iter()
        .filter(|rule| rule.index != DEFAULT_RULE)
}

fn is_meant(rule: &RuleStatus, ports: &Ports) -> bool {
    match (rule.start, rule.end) {
        (Some(start), Some(end)) => ports.scope().covers(rule.vip, start..=end),
        _ => false,
    }
}

/// NLB's words for the states (NLB cmdlets §2.3).
const fn state(rule: &RuleStatus) -> &'static str {
    match rule.state {
        RuleState::Enabled => "Enabled",
        RuleState::Disabled => "Disabled",
        RuleState::Draining => "Draining",
    }
}

pub(super) fn capitalised(word: &str) -> String {
    let mut rest = word.chars();
    let first = rest.next().into_iter().flat_map(char::to_uppercase);
    first.chain(rest).collect()
}

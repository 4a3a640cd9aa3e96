//! `covey rules`: the port rules, how this host handles them, and who serves how much.
//!
//! The same table, without packets and long lists of shares, is a part of `covey status`.

use super::table::{Align, Cell, Paint, Table, Tone};
use super::{address, affinity, claim, percent, ports};
use crate::status::{RuleState, RuleStatus, Status};
use covey_filter::{BUCKETS, DEFAULT_RULE};

/// How many hosts a rule's shares are listed for one by one in a brief table; of more, the range is shown.
const LISTED_SHARES: usize = 6;

/// What both tables say of a rule.
const COLUMNS: [(&str, Align); 8] = [
    ("RULE", Align::Right),
    ("VIP", Align::Left),
    ("PORTS", Align::Left),
    ("PROTOCOL", Align::Left),
    ("MODE", Align::Left),
    ("AFFINITY", Align::Left),
    ("STATE", Align::Left),
    ("THIS HOST", Align::Left),
];

/// The whole answer.
pub(in crate::cli) fn rules(status: &Status, paint: Paint) -> String {
    let [a, b, c, d, e, f, g, h] = COLUMNS;
    let accepted = ("ACCEPTED", Align::Right);
    let dropped = ("DROPPED", Align::Right);
    let shared = ("SHARES", Align::Left);
    let mut table = Table::new([a, b, c, d, e, f, g, h, accepted, dropped, shared]);
    for rule in &status.rules {
        let [a, b, c, d, e, f, g, h] = cells(rule);
        let accepted = rule.packets_accepted.to_string().into();
        let dropped = rule.packets_dropped.to_string().into();
        let shared = shares(rule, false).into();
        table.push([a, b, c, d, e, f, g, h, accepted, dropped, shared]);
    }
    table.render(paint)
}

/// The table without packets and without long lists of shares.
pub(super) fn brief(status: &Status, paint: Paint) -> String {
    let [a, b, c, d, e, f, g, h] = COLUMNS;
    let mut table = Table::new([a, b, c, d, e, f, g, h, ("SHARES", Align::Left)]);
    for rule in &status.rules {
        let [a, b, c, d, e, f, g, h] = cells(rule);
        table.push([a, b, c, d, e, f, g, h, shares(rule, true).into()]);
    }
    table.render(paint)
}

fn cells(rule: &RuleStatus) -> [Cell; 8] {
    [
        rule.index.to_string().into(),
        address(rule.vip).into(),
        ports(rule).into(),
        rule.protocol.as_str().into(),
        rule.mode.as_str().into(),
        affinity(rule.affinity.as_deref(), rule.sticky_s).into(),
        state(rule),
        claim(rule.weight, rule.handling_priority).into(),
    ]
}

fn state(rule: &RuleStatus) -> Cell {
    match rule.state {
        _ if rule.index == DEFAULT_RULE => "-".into(),
        RuleState::Enabled => "enabled".into(),
        RuleState::Disabled => Cell::toned("disabled", Tone::Bad),
        RuleState::Draining => Cell::toned("draining", Tone::Busy),
    }
}

fn shares(rule: &RuleStatus, brief: bool) -> String {
    let part = |buckets: usize| buckets as f64 / BUCKETS as f64;
    let owning: Vec<(u8, usize)> = rule
        .share
        .iter()
        .filter(|(_, buckets)| **buckets > 0)
        .map(|(id, buckets)| (*id, *buckets))
        .collect();
    match owning.as_slice() {
        [] => "nobody".to_owned(),
        [(id, BUCKETS)] => format!("all to host {id}"),
        few if !brief || few.len() <= LISTED_SHARES => {
            let each: Vec<String> = few
                .iter()
                .map(|(id, buckets)| format!("{id}: {}", percent(part(*buckets))))
                .collect();
            each.join(", ")
        }
        many => {
            let least = many.iter().map(|(_, buckets)| *buckets).min().unwrap_or(0);
            let most = many.iter().map(|(_, buckets)| *buckets).max().unwrap_or(0);
            format!(
                "{} hosts, {} to {}",
                many.len(),
                percent(part(least)),
                percent(part(most))
            )
        }
    }
}

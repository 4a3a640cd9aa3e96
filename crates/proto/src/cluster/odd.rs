//! Hosts whose virtual IPs or port rules differ: what differs, so that people need not compare files.
//!
//! Hosts that hear another wish than their own show their rule set, in chunks, when they notice it and then once a
//! second while it lasts. From the two sets each host tells the first difference, by host and rule. A host of an
//! earlier version shows nothing; then it is told without. Who is kept out is decided in `outlook.rs`.
//! Specification: docs/design.md, "Membership"; NLB's events 67 and 110: NLB facts §5.4.

use super::Cluster;
use super::outlook::LeftOut;
use super::transfer::Parts;
use crate::event::Event;
use crate::ids::{Digest, HostId, HostSet};
use crate::rules::{RuleDifference, RuleSet};
use crate::time::Time;
use crate::wire::heartbeat::{Chunk, Subject};
use std::sync::Arc;
use std::time::Duration;

/// How often a rule set is shown while somebody has another one.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// A rule set that a peer shows, as far as it has arrived.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    digest: Digest,
    parts: Parts,
    rules: Option<RuleSet>,
}

/// A host that is kept out, and another with which its rules are compared. One of the two is this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    out: HostId,
    other: HostId,
    here: Digest,
    there: Digest,
}

/// What people have been told of a pair.
#[derive(Clone, Debug)]
struct Odd {
    pair: Pair,
    since: Time,
    told: bool,
    difference: Option<RuleDifference>,
}

/// All that differs.
#[derive(Clone, Debug, Default)]
pub(super) struct OddRules {
    hosts: Vec<Odd>,
    /// To whom which rule set was shown last, and when.
    shown_to: HostSet,
    shown: Digest,
    shown_at: Time,
}

impl OddRules {
    /// When a difference is told though the rules have not been shown.
    pub(super) fn next_due(&self, patience: Duration) -> Option<Time> {
        let untold = self.hosts.iter().filter(|odd| !odd.told);
        untold.map(|odd| odd.since + patience).min()
    }
}

impl Cluster {
    /// Shows what this host offers, after a heartbeat, if others wish for something else.
    pub(super) fn show_rules(&mut self, now: Time) {
        let offered = self.offered.digest();
        let others = self.peers.alive().map(|(host, _)| host);
        let differing: HostSet = others
            .filter(|host| self.wish_of(*host) != Some(offered))
            .collect();
        let shows = self.takes_part() && !differing.is_empty();
        let state = &mut self.odd_rules;
        let known = state.shown == offered && differing.without(state.shown_to).is_empty();
        if !shows {
            state.shown_to = HostSet::EMPTY;
            return;
        }
        if known && now < state.shown_at + SHOW_EVERY {
            return;
        }
        (state.shown_to, state.shown, state.shown_at) = (differing, offered, now);
        let encoded = self.offered.encode();
        self.send_in_chunks(now, Subject::Rules(offered), &encoded);
    }

    /// Takes a part of the rule set that a peer shows.
    pub(super) fn on_rules_chunk(&mut self, from: HostId, digest: Digest, chunk: &Chunk) {
        let total = chunk.total as usize;
        let wished = self.wish_of(from) == Some(digest);
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        if !wished || total > RuleSet::MAX_ENCODED {
            return;
        }
        let known = peer.shown.take().filter(|shown| shown.digest == digest);
        let mut shown = known.unwrap_or_else(|| {
            Box::new(Shown {
                digest,
                parts: Parts::new(total),
                rules: None,
            })
        });
        if shown.rules.is_none()
            && let Some(bytes) = shown.parts.add(chunk)
        {
            let whole = RuleSet::decode(bytes).filter(|rules| rules.digest() == digest);
            shown.rules = whole;
        }
        peer.shown = Some(shown);
    }

    /// The pairs to compare: this host with each that is kept out, or if it is itself kept out, with the lowest of the
    /// others that wishes for something else.
    fn odd_pairs(&self) -> Vec<(Pair, Arc<RuleSet>)> {
        let in_force = self.rule_set(self.outlook.rules);
        let ours = in_force.unwrap_or_else(|| self.offered.clone());
        let of_rules = |(host, reason): &(HostId, LeftOut)| match reason {
            LeftOut::Rules => Some(*host),
            LeftOut::Mode | LeftOut::Flapping | LeftOut::Listening | LeftOut::Hearing(_) => None,
        };
        let out = self.outlook.left_out.iter().filter_map(of_rules);
        let pair = |out: HostId| {
            let (other, here) = if out == self.config.host {
                let wish = Some(self.offered.digest());
                let mut others = self.outlook.view.iter();
                let other = others.find(|host| self.wish_of(*host) != wish)?;
                (other, self.offered.clone())
            } else {
                (out, ours.clone())
            };
            let there = self.wish_of(other)?;
            let pair = Pair {
                out,
                other,
                here: here.digest(),
                there,
            };
            (pair.here != there).then_some((pair, here))
        };
        out.filter_map(pair).collect()
    }

    /// Tells people of each host that is kept out for its rules, with the difference as soon as it is known.
    pub(super) fn report_odd_rules(&mut self, now: Time) {
        if self.odd_rules.hosts.is_empty() && self.outlook.left_out.is_empty() {
            return;
        }
        let patience = self.config.timing.expiry();
        let before = std::mem::take(&mut self.odd_rules.hosts);
        for (pair, here) in self.odd_pairs() {
            let known = before.iter().find(|odd| odd.pair == pair);
            let mut odd = known.cloned().unwrap_or(Odd {
                pair,
                since: now,
                told: false,
                difference: None,
            });
            let other = self.peers.alive_peer(pair.other);
            let shown = other.and_then(|peer| peer.shown.as_ref());
            let shown = shown.filter(|shown| shown.digest == pair.there);
            let there = shown.and_then(|shown| shown.rules.as_ref());
            let news = odd.difference.is_none() && there.is_some();
            if news {
                odd.difference = there.and_then(|there| here.difference(there));
            }
            if news || (!odd.told && now >= odd.since + patience) {
                odd.told = true;
                self.emit(Event::RulesDiffer {
                    host: pair.other,
                    name: self.name_of(pair.other),
                    this_host_out: pair.out == self.config.host,
                    difference: odd.difference.clone(),
                });
            }
            self.odd_rules.hosts.push(odd);
        }
    }

    /// What is known of a host that is kept out for its rules, as words that follow on a sentence about them.
    pub(super) fn oddity_of(&self, host: HostId) -> String {
        let mut known = self.odd_rules.hosts.iter();
        let Some(odd) = known.find(|odd| odd.pair.out == host) else {
            return String::new();
        };
        let other = odd.pair.other;
        let than = if host == self.config.host {
            format!(" than host {other} ({})", self.name_of(other))
        } else {
            String::new()
        };
        match &odd.difference {
            Some(difference) => format!("{than}: {difference}"),
            None => than,
        }
    }
}

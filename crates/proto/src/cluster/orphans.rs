//! Connections that nobody has any more: what a client hears whose host has died, in a bucket that is still shared.
//!
//! ```text
//!   owner: its filter was silent to a segment in a shared bucket --- "who has this connection?" ---> who lingers there
//!   owner: the next such segment gets to the kernel, which resets it <--- "not I", from all of them ---
//! ```
//!
//! Only members that may have connections in the bucket are waited for. Nothing is remembered for long: a client
//! that goes on sending is asked about again. Specification: docs/design.md, "Connections".

use super::{Cluster, Output};
use crate::ids::{HostId, HostSet};
use crate::time::Time;
use crate::wire::heartbeat::{Body, Ends, Inquiry, MAX_INQUIRY, Message};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections that may be asked about at a time; what a flood of forged segments brings beyond is dropped.
const MOST: usize = 256;

/// What this host has asked the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Inquiries(BTreeMap<Ends, Open>);

impl Inquiries {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[derive(Clone, Copy, Debug)]
struct Open {
    asked_at: Time,
    /// Who has not answered.
    waiting_for: HostSet,
}

impl Cluster {
    /// Takes what the filter was silent to: segments in shared buckets for which there is no socket here.
    pub(super) fn on_unclaimed(&mut self, now: Time, unclaimed: &[Ends]) {
        self.inquiries
            .0
            .retain(|_, open| now < open.asked_at + PATIENCE);
        let (mut ask, mut orphans) = (Vec::new(), Vec::new());
        for ends in unclaimed {
            let known = self.inquiries.0.contains_key(ends);
            if known || self.inquiries.0.len() >= MOST || ask.len() >= MAX_INQUIRY {
                continue;
            }
            let Some(waiting_for) = self.may_linger_with(ends) else {
                continue;
            };
            if waiting_for.is_empty() {
                orphans.push(*ends);
            } else {
                let asked_at = now;
                let open = Open {
                    asked_at,
                    waiting_for,
                };
                self.inquiries.0.insert(*ends, open);
                ask.push(*ends);
            }
        }
        self.disown(orphans);
        self.inquire(now, Inquiry::Who, ask);
    }

    /// A peer asks, or answers this host's question; only what is said under the map in force counts.
    pub(super) fn on_inquiry(&mut self, from: HostId, inquiry: Inquiry, connections: &[Ends]) {
        match inquiry {
            Inquiry::Who => self.outputs.push_back(Output::Search(connections.to_vec())),
            Inquiry::NotI => {
                let mut orphans = Vec::new();
                for ends in connections {
                    let Some(open) = self.inquiries.0.get_mut(ends) else {
                        continue;
                    };
                    open.waiting_for.remove(from);
                    if open.waiting_for.is_empty() {
                        self.inquiries.0.remove(ends);
                        orphans.push(*ends);
                    }
                }
                self.disown(orphans);
            }
        }
    }

    /// Tells which of the connections that were asked for this host does not have.
    pub(super) fn on_missing(&mut self, now: Time, missing: &[Ends]) {
        self.inquire(now, Inquiry::NotI, missing.to_vec());
    }

    fn disown(&mut self, orphans: Vec<Ends>) {
        let Some(map) = &self.committed else { return };
        if !orphans.is_empty() {
            let map = map.name().tag();
            self.outputs.push_back(Output::Disown(map, orphans));
        }
    }

    fn inquire(&mut self, now: Time, inquiry: Inquiry, mut connections: Vec<Ends>) {
        connections.truncate(MAX_INQUIRY);
        let Some(map) = &self.committed else { return };
        if connections.is_empty() {
            return;
        }
        let epoch = map.proposal.ballot.epoch;
        self.sequence += 1;
        let message = Message {
            sender: self.sender(),
            body: Body::Inquiry {
                inquiry,
                epoch,
                connections,
            },
        };
        self.transmit_to_all(now, &message);
    }
}

//! Convergence: how the members agree on the next map (docs/design.md, "Membership").
//!
//! ```text
//!   coordinator                      every member                      all members
//!   proposal in its heartbeat  --->  computes the same map by itself
//!                                    acknowledgement in its heartbeat --> all acknowledged?
//!   commit in its heartbeat    --->  puts the map in force
//! ```
//!
//! Everything travels as state in heartbeats, so a lost frame is said again by the next one. Three rules make
//! it safe: a member acknowledges a map that leaves out a host only when that host's lease has surely run
//! out; a member that has acknowledged a ballot holds on to it while its proposer may still commit it; and a
//! map is put in force only under a lease that runs.

use super::announce::REPEATS;
use super::prepared::Prepared;
use super::{Cluster, Output, Staging};
use crate::buckets::BucketSet;
use crate::event::{Event, FenceReason};
use crate::ids::{Epoch, HostId, HostSet};
use crate::time::Time;
use crate::wire::auth::commit_token;
use crate::wire::heartbeat::{Acknowledgement, Ballot, CommittedMap, Proposal};
use crate::{config::Quorum, ids::Digest};
use covey_filter::Token;

impl Cluster {
    /// Takes over a map that a peer has committed, or notices that it cannot.
    pub(super) fn follow_commits(&mut self, now: Time) {
        // A proposer that leaves says in its goodbyes what it has committed.
        let is_committed = |map: CommittedMap| {
            self.peers
                .iter()
                .any(|(_, peer)| peer.heartbeat.committed == Some(map))
        };
        if let Some(staged) = &self.staged
            && is_committed(staged.name())
        {
            let staged = staged.clone();
            self.put_in_force(now, staged);
            return;
        }
        if let (Some(newest), Some(mine)) = (self.outlook.anchor, &self.committed)
            && newest > mine.base()
        {
            self.fence(
                now,
                FenceReason::MapMissed {
                    epoch: newest.epoch,
                },
            );
        }
    }

    /// As coordinator: opens a ballot if the map in force is not the one that should be, keeps it open while
    /// it is still right, closes it otherwise.
    pub(super) fn propose(&mut self, now: Time) {
        let open = self.proposed.take();
        let was_open = open.is_some();
        self.proposed = self.next_proposal(now, open);
        if was_open != self.proposed.is_some() {
            self.hurry(now);
        }
    }

    fn next_proposal(&mut self, now: Time, open: Option<Prepared>) -> Option<Prepared> {
        let outlook = &self.outlook;
        let (view, owners, rules) = (outlook.view, outlook.owners, outlook.rules);
        if outlook.coordinator != Some(self.config.host) || !self.may_converge(now) {
            return None;
        }
        let rule_set = self.rule_set(rules)?;
        let claims = self.claims(owners, &rule_set)?;
        let current = self
            .committed
            .as_ref()
            .is_some_and(|map| map.is_for(view, owners, rules, &claims));
        if current && !self.sticky.due && !self.someone_lacks_the_map() {
            return None;
        }
        let base = outlook.anchor;
        // An open ballot goes on when others turn up meanwhile: they join by the next one. With a new one for each
        // newcomer, many that start together would never get a map.
        let still_right = |open: &Prepared| {
            let ours = open.proposal.view;
            let claims = self.claims(open.proposal.owners, &rule_set);
            open.proposal.base == base
                && ours.without(view).is_empty()
                && !self.forgets_a_member(ours)
                && claims.is_some_and(|claims| {
                    open.is_for(ours, owners.intersection(ours), rules, &claims)
                })
        };
        if let Some(open) = open.filter(still_right) {
            return Some(open);
        }
        self.attempts += 1;
        let ballot = Ballot {
            epoch: self.highest_epoch.next(),
            proposer: self.config.host,
            incarnation: self.config.incarnation,
            attempt: self.attempts,
        };
        let held = base.map_or(BucketSet::EMPTY, |_| self.held_now(&rule_set));
        let proposal = Proposal {
            ballot,
            base,
            view,
            owners,
            rules,
            held: held.digest(),
            result: Digest::default(),
        };
        let mut prepared = self.compute(&proposal, rule_set, claims, held)?;
        prepared.proposal.result = prepared.placement.digest();
        self.hurry(now);
        Some(prepared)
    }

    /// A member that has lost its map, by a restart or because it fenced itself.
    fn someone_lacks_the_map(&self) -> bool {
        let Some(mine) = self.committed.as_ref().map(Prepared::name) else {
            return true;
        };
        self.outlook.view.without(self.me()).iter().any(|host| {
            self.peers.alive_peer(host).is_some_and(|peer| {
                let staged = peer.heartbeat.staged.map(|staged| staged.ballot);
                peer.heartbeat.committed != Some(mine) && staged != Some(mine.ballot)
            })
        })
    }

    /// Whether so many hosts may serve.
    pub(super) fn is_quorate(&self, hosts: HostSet) -> bool {
        match self.config.quorum {
            Quorum::None => true,
            Quorum::Majority(size) => 2 * hosts.len() > u32::from(size),
        }
    }

    /// Whether this host may form a cluster with its view at all.
    fn may_converge(&self, now: Time) -> bool {
        let view = self.outlook.view;
        let listened = self.has_listened(now);
        let fresh = self.outlook.anchor.is_none();
        if fresh && self.a_cluster_is_there() {
            return false;
        }
        let newly_alone = view == self.me()
            && self
                .committed
                .as_ref()
                .is_none_or(|map| map.proposal.view != view);
        self.is_quorate(view)
            && (listened || !fresh)
            && (!newly_alone || (listened && self.is_surely_alone(now)))
    }

    /// Whether hosts that hear each other already form a cluster, though they do not hear this host.
    fn a_cluster_is_there(&self) -> bool {
        self.peers.alive().any(|(host, peer)| {
            // Not its rival with the same ID.
            let hears = peer.heartbeat.hears().without(HostSet::only(host));
            peer.heartbeat.committed.is_some() && !hears.is_empty()
        })
    }

    /// Acknowledges a proposal, its own or another's, once it can and may.
    pub(super) fn acknowledge(&mut self, now: Time) {
        let bound_to = self
            .staged
            .as_ref()
            .map(|staged| staged.proposal.ballot)
            .filter(|b| self.may_be_committed(now, b));
        if bound_to.is_none() && self.withdraw() {
            self.hurry(now);
        }
        let own = self.proposed.as_ref().map(|own| own.proposal);
        let others = self.peers.alive().filter_map(|(host, peer)| {
            peer.heartbeat.proposal.filter(|proposal| {
                (proposal.ballot.proposer, proposal.ballot.incarnation)
                    == (host, peer.sender.incarnation)
            })
        });
        let proposals: Vec<Proposal> = own.into_iter().chain(others).collect();
        for proposal in proposals {
            let newer = bound_to.is_none_or(|bound| {
                bound.proposer == proposal.ballot.proposer
                    && bound.attempt < proposal.ballot.attempt
            });
            if newer && self.may_acknowledge(now, &proposal) && self.stage(now, &proposal) {
                if proposal.ballot.proposer == self.config.host {
                    self.hurry(now);
                } else {
                    self.answer(now);
                }
                return;
            }
        }
    }

    /// Whether the proposer of a ballot that this host has acknowledged may still commit it, or has.
    fn may_be_committed(&self, now: Time, ballot: &Ballot) -> bool {
        if ballot.proposer == self.config.host {
            return self
                .proposed
                .as_ref()
                .is_some_and(|own| own.proposal.ballot == *ballot);
        }
        // A proposer that is gone cannot: its lease, which a commit needs, has run out.
        self.peers.alive_peer(ballot.proposer).is_some_and(|peer| {
            let open = peer.heartbeat.proposal.map(|proposal| proposal.ballot);
            let committed = peer.heartbeat.committed.map(|map| map.ballot);
            // Nor can one that this host has granted no lease for long enough.
            let leased = self.outlook.view.contains(ballot.proposer) || now < peer.granted_until;
            peer.sender.incarnation == ballot.incarnation
                && (committed == Some(*ballot) || (open == Some(*ballot) && leased))
        })
    }

    fn may_acknowledge(&self, now: Time, proposal: &Proposal) -> bool {
        let mine = self.committed.as_ref().map(Prepared::base);
        let base_is_newest = match (mine, proposal.base) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(base)) => mine <= base,
        };
        let newer = proposal.ballot.epoch > mine.map_or(Epoch(0), |mine| mine.epoch);
        // Whoever is left out must have stopped serving: its lease lives on echoes of this host too.
        let may_still_serve = |(host, peer): (HostId, &super::peer::Peer)| {
            !proposal.view.contains(host) && peer.may_serve(now)
        };
        // Two that do not hear each other may both propose; bound to the one that this host grants no lease, it would
        // keep the other from committing too.
        self.outlook.view.contains(proposal.ballot.proposer)
            && !self.forgets_a_member(proposal.view)
            && proposal.view.contains(self.config.host)
            && base_is_newest
            && newer
            && !self.peers.iter().any(may_still_serve)
    }

    /// Whether a view leaves out a host with a map that fits in this host's eyes: whoever proposes it may not hear
    /// that host. Hosts without a map can join by the next one.
    fn forgets_a_member(&self, view: HostSet) -> bool {
        let left_out = self.outlook.view.without(view);
        left_out.iter().any(|host| self.base_of(host).is_some())
    }

    /// Computes a proposal's map and holds it ready if the result is the proposer's.
    fn stage(&mut self, now: Time, proposal: &Proposal) -> bool {
        // Only under a lease of that view: it is what the others wait for before they leave this host out
        // again, so without it the map could come into force long after that.
        let lease = self.lease_in(now, proposal.view);
        let Some(until) = lease.filter(|until| *until > now) else {
            return false;
        };
        if let Some(base) = proposal.base
            && self.placement_of(base).is_none()
        {
            self.ask_for(now, base);
            return false;
        }
        let Some(rules) = self.rule_set(proposal.rules) else {
            return false;
        };
        let Some(claims) = self.claims(proposal.owners, &rules) else {
            return false;
        };
        let inputs = (proposal.ballot, claims.clone());
        if self.declined.as_ref() == Some(&inputs) {
            return false;
        }
        let Some(held) = self.held_in(proposal) else {
            return false;
        };
        let Some(prepared) = self.compute(proposal, rules, claims, held) else {
            return false;
        };
        if prepared.placement.digest() != proposal.result {
            // One of the two has an old claim: either the proposer will propose again, or this host will hear
            // the new one.
            self.declined = Some(inputs);
            return false;
        }
        self.expect_new_map();
        self.staged = Some(prepared);
        self.staged_until = until;
        // Before the acknowledgement leaves: whoever has all of them may commit at once.
        self.hold_ready();
        true
    }

    /// Has the data path hold the acknowledged map ready, if there is one.
    pub(super) fn hold_ready(&mut self) {
        let Some(map) = &self.staged else { return };
        let staging = Staging {
            map: map.base(),
            view: map.proposal.view,
            image: self.image_of(map, &self.overlap_under(&map.placement)),
            token: self.token_of(map),
            lease: self.staged_until,
        };
        self.outputs.push_back(Output::Stage(Box::new(staging)));
    }

    fn token_of(&self, map: &Prepared) -> Token {
        commit_token(self.identity.hash_key, &map.name())
    }

    /// As proposer: commits when every member holds the map ready.
    pub(super) fn commit(&mut self, now: Time) {
        let Some(proposed) = &self.proposed else {
            return;
        };
        let proposal = proposed.proposal;
        let acknowledgement = Acknowledgement {
            ballot: proposal.ballot,
            result: proposal.result,
        };
        let own = self
            .staged
            .as_ref()
            .is_some_and(|staged| staged.proposal == proposal);
        let ready = |host: HostId| {
            self.peers.alive_peer(host).is_some_and(|peer| {
                now < peer.overdue_at() && peer.heartbeat.staged == Some(acknowledgement)
            })
        };
        let all = own && proposal.view.without(self.me()).iter().all(ready);
        let leased = self
            .lease_in(now, proposal.view)
            .is_some_and(|until| until > now);
        if all && leased {
            let proposed = proposed.clone();
            // Here and there it comes into force as this passes.
            self.reveal(now, proposed.name(), self.token_of(&proposed));
            self.put_in_force(now, proposed);
            // At once, for hosts to which that did not get through.
            self.repeats = REPEATS;
            self.send_heartbeat(now);
        }
    }

    pub(super) fn put_in_force(&mut self, now: Time, map: Prepared) {
        let host = self.config.host;
        let Proposal {
            ballot,
            view,
            owners,
            ..
        } = map.proposal;
        let cause = self.cause_of(&map);
        self.hurry(now);
        // They have all acknowledged it, though this host may not have heard so; until they say otherwise they serve.
        for member in view.without(self.me()).iter() {
            if let Some(peer) = self.peers.get_mut(member) {
                peer.heartbeat.committed = Some(map.name());
            }
        }
        let overlap = self.overlap_under(&map.placement);
        self.committed = Some(map);
        self.outputs.push_back(Output::Commit);
        self.note_new_map(overlap);
        self.sticky.due = false;
        (self.staged, self.proposed, self.transfer, self.wanted) = (None, None, None, None);
        // Not the old view's: who is new must have confirmed this host too.
        self.highest_epoch = self.highest_epoch.max(ballot.epoch);
        self.lease = self.staged_until;
        self.outputs.push_back(Output::Lease(self.lease));
        if owners.contains(host) {
            let took = now.since(self.converging_since.take().unwrap_or(now));
            let default = owners.lowest() == Some(host);
            self.emit(Event::Converged {
                host,
                default,
                view,
                epoch: ballot.epoch,
                took,
                cause,
            });
        }
        self.note_delivery();
    }
}

//! A map that has been worked out, with everything that led to it: proposed, acknowledged or committed. Every member works it
//! out by itself from the same inputs (docs/design.md, "Membership"); `convergence.rs` decides which one comes into force.

use super::Cluster;
use crate::allotment::place;
use crate::buckets::BucketSet;
use crate::ids::{Digest, HostId, HostSet};
use crate::placement::Placement;
use crate::rules::{Claim, RuleSet};
use crate::wire::heartbeat::{Announced, Base, CommittedMap, Proposal};
use std::sync::Arc;

/// What each owner brings to each rule.
pub(super) type Claims = Vec<(HostId, Vec<Claim>)>;

/// A map with everything that led to it: proposed, acknowledged or committed.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) proposal: Proposal,
    pub(super) rules: Arc<RuleSet>,
    /// What this host would bring to the rules if it took its share of all of them.
    pub(super) own_claims: Vec<Claim>,
    pub(super) placement: Arc<Placement>,
    /// The buckets that sticky rules left where they were.
    pub(super) held: BucketSet,
    pub(super) claims: Claims,
}

impl Prepared {
    pub(super) const fn name(&self) -> CommittedMap {
        CommittedMap {
            ballot: self.proposal.ballot,
            digest: self.proposal.result,
        }
    }

    pub(super) const fn base(&self) -> Base {
        Base {
            epoch: self.proposal.ballot.epoch,
            digest: self.proposal.result,
        }
    }

    /// What an owner brings to the port rule with this index, from 0.
    pub(super) fn claim_of(&self, host: HostId, rule: usize) -> Claim {
        claim_in(&self.claims, host, rule)
    }

    pub(super) fn is_for(
        &self,
        view: HostSet,
        owners: HostSet,
        rules: Digest,
        claims: &Claims,
    ) -> bool {
        let proposal = &self.proposal;
        (proposal.view, proposal.owners, proposal.rules) == (view, owners, rules)
            && self.claims == *claims
    }
}

fn claim_in(claims: &Claims, host: HostId, rule: usize) -> Claim {
    let owner = claims.binary_search_by_key(&host, |(owner, _)| *owner);
    claims[owner.expect("every owner has claims")].1[rule]
}

impl Cluster {
    /// Works out what a proposal says; `None` if this host lacks its base or knows other rules.
    pub(super) fn compute(
        &self,
        proposal: &Proposal,
        rules: Arc<RuleSet>,
        claims: Claims,
        held: BucketSet,
    ) -> Option<Prepared> {
        let base = match proposal.base {
            None => None,
            Some(base) => Some(self.placement_of(base)?),
        };
        let claim = |host: HostId, rule: usize| claim_in(&claims, host, rule);
        let placement = place(base.as_deref(), &rules, proposal.owners, claim, &held);
        let own_claims = self.own_claims(&rules)?;
        Some(Prepared {
            proposal: *proposal,
            rules,
            own_claims,
            placement: Arc::new(placement),
            held,
            claims,
        })
    }

    /// What a new map changes, in words.
    pub(super) fn cause_of(&self, next: &Prepared) -> String {
        let Some(now) = &self.committed else {
            return "this host joined".to_owned();
        };
        let (before, after) = (now.proposal, next.proposal);
        let gone = before.view.without(after.view);
        let (left, lost): (Vec<_>, Vec<_>) = gone.iter().partition(|host| {
            let peer = self.peers.get(*host);
            peer.is_none_or(|peer| peer.heartbeat.announced == Announced::Goodbye)
        });
        let named = |verb: &str, hosts: HostSet| {
            (!hosts.is_empty()).then(|| format!("host(s) {hosts} {verb}"))
        };
        let changes = [
            named("joined", after.view.without(before.view)),
            named("lost", lost.into_iter().collect()),
            named("left", left.into_iter().collect()),
            named(
                "leaving",
                before.owners.without(after.owners).intersection(after.view),
            ),
            named(
                "back",
                after
                    .owners
                    .without(before.owners)
                    .intersection(before.view),
            ),
            (before.rules != after.rules).then(|| "port rules changed".to_owned()),
        ];
        let changes: Vec<String> = changes.into_iter().flatten().collect();
        match (changes.is_empty(), now.claims == next.claims) {
            (false, _) => changes.join(", "),
            (true, false) => "load weights changed".to_owned(),
            (true, true) if self.sticky.due => "sticky clients have gone".to_owned(),
            (true, true) => "a host had lost its map".to_owned(),
        }
    }

    pub(super) fn rule_set(&self, digest: Digest) -> Option<Arc<RuleSet>> {
        let in_force = self.committed.as_ref().map(|map| &map.rules);
        [&self.offered]
            .into_iter()
            .chain(in_force)
            .find(|rules| rules.digest() == digest)
            .cloned()
    }

    fn own_claims(&self, rules: &RuleSet) -> Option<Vec<Claim>> {
        if rules.digest() == self.offered.digest() {
            return Some(self.offered_claims.clone());
        }
        let in_force = self
            .committed
            .as_ref()
            .filter(|map| map.rules.digest() == rules.digest());
        in_force.map(|map| map.own_claims.clone())
    }

    /// What every owner brings to these rules; `None` if that of one is not known.
    pub(super) fn claims(&self, owners: HostSet, rules: &RuleSet) -> Option<Claims> {
        let of = |host: HostId| {
            if host == self.config.host {
                let claims = self.own_claims(rules)?;
                return Some(self.port_states.apply(rules, &claims));
            }
            let offers = &self.peers.alive_peer(host)?.heartbeat.offers;
            let offer = offers.iter().find(|offer| offer.rules == rules.digest())?;
            (offer.claims.len() == rules.rules().len()).then(|| offer.claims.clone())
        };
        owners
            .iter()
            .map(|host| of(host).map(|claims| (host, claims)))
            .collect()
    }
}

//! Who should own which bucket: the pure function that every member computes by itself and whose result
//! they compare by digest.
//!
//! [`place`] goes from the placement in force to the next one. For a rule shared by several hosts it keeps
//! two promises (docs/design.md, "Membership"): every host's share is within one bucket of the exact one,
//! and no other assignment with such shares would move fewer buckets. Tests hold it to the lower bound.

use crate::buckets::BucketSet;
use crate::ids::{HostId, HostSet};
use crate::placement::{Map, Placement};
use crate::rules::{Claim, FilterMode, PortRule, RuleSet};
use covey_filter::{BUCKETS, NEIGHBOUR_RULE};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A host and the weight of its share.
pub type Weight = (HostId, u8);

/// The placement that follows `base` when `owners` share the traffic of `rules`. `claims` gives each owner's
/// claim on the port rule with that index, from 0; `held` are the buckets that sticky rules leave where they are.
pub fn place(
    base: Option<&Placement>,
    rules: &RuleSet,
    owners: HostSet,
    claims: impl Fn(HostId, usize) -> Claim,
    held: &BucketSet,
) -> Placement {
    let unowned = Arc::new(Map::unowned());
    let equal: Vec<Weight> = owners
        .iter()
        .map(|host| (host, Claim::EQUAL_WEIGHT.0))
        .collect();
    let spread = base.map_or(&unowned, |base| base.map(NEIGHBOUR_RULE));
    let neighbour = Arc::new(allot(spread, &equal, &BucketSet::EMPTY));
    let only = |host: Option<HostId>| Arc::new(Map::all(host));

    let port_map = |index: usize, rule: &PortRule| match rule.mode {
        FilterMode::Disabled => only(None),
        FilterMode::Single => only(
            owners
                .iter()
                .filter(|host| claims(*host, index) != Claim::NOTHING)
                .min_by_key(|host| (claims(*host, index).0, *host)),
        ),
        FilterMode::Multiple { .. } => {
            let weights: Vec<Weight> = owners
                .iter()
                .map(|host| (host, claims(host, index).0))
                .collect();
            // A rule that is new starts from the even spread, so that it shares its map with its like.
            let before = base
                .and_then(|base| base.port_map(rule.fingerprint()))
                .unwrap_or(spread);
            let held = rule.sticky.map_or(&BucketSet::EMPTY, |_| held);
            Arc::new(allot(before, &weights, held))
        }
    };
    let ports = rules.rules().iter().enumerate();
    let ports = ports
        .map(|(index, rule)| (rule.fingerprint(), port_map(index, rule)))
        .collect();
    Placement::new(only(owners.lowest()), ports, neighbour)
}

/// The map that gives every host its share by weight and moves as few buckets as that allows. With no
/// weight at all nobody owns anything. Buckets that are `held` stay with their owner even beyond its share, as long
/// as it has a weight; the others then get less for a while.
pub fn allot(base: &Map, weights: &[Weight], held: &BucketSet) -> Map {
    let mut quota = quotas(base, weights);
    let mut next = Map::unowned();
    let (held, free): (Vec<usize>, Vec<usize>) =
        (0..BUCKETS).partition(|bucket| held.contains(*bucket));
    let mut homeless = Vec::new();
    for (buckets, beyond_quota) in [(held, true), (free, false)] {
        for bucket in buckets {
            let owner = base.owner(bucket);
            match owner.and_then(|owner| Some((owner, quota.get_mut(&owner)?))) {
                // A bucket stays where it is as long as its owner's quota lasts.
                Some((owner, left)) if beyond_quota || *left > 0 => {
                    *left = left.saturating_sub(1);
                    next.set(bucket, owner);
                }
                Some(_) | None => homeless.push(bucket),
            }
        }
    }
    // Where some hold more than their share there is less for the others: those who lack most wait.
    let mut lacking: usize = quota.values().sum();
    while lacking > homeless.len() {
        let most = quota.iter_mut().max_by_key(|(_, left)| **left);
        *most.expect("somebody lacks something").1 -= 1;
        lacking -= 1;
    }
    // The others go to hosts below their quota, in order of ID.
    homeless.sort_unstable();
    let places = quota
        .iter()
        .flat_map(|(host, left)| std::iter::repeat_n(*host, *left));
    for (bucket, host) in homeless.into_iter().zip(places) {
        next.set(bucket, host);
    }
    next
}

/// How many buckets each host gets: the exact share rounded down or up. Rounding up goes first to the hosts
/// that now own more than the share rounded down, because each of them then has one bucket less to give
/// away; then to the largest remainders.
fn quotas(base: &Map, weights: &[Weight]) -> BTreeMap<HostId, usize> {
    let total: usize = weights.iter().map(|(_, weight)| usize::from(*weight)).sum();
    if total == 0 {
        return BTreeMap::new();
    }
    let mut quota = BTreeMap::new();
    let mut may_round_up = Vec::new();
    // A host without weight has no quota: it keeps nothing, not even what is held.
    for &(host, weight) in weights.iter().filter(|(_, weight)| *weight > 0) {
        let exact = BUCKETS * usize::from(weight);
        let (whole, remainder) = (exact / total, exact % total);
        quota.insert(host, whole);
        if remainder > 0 {
            let keeps_one = base.count(host) > whole;
            may_round_up.push((!keeps_one, std::cmp::Reverse(remainder), host));
        }
    }
    may_round_up.sort_unstable();
    let left_over = BUCKETS - quota.values().sum::<usize>();
    for (_, _, host) in may_round_up.into_iter().take(left_over) {
        *quota.get_mut(&host).expect("every host has a quota") += 1;
    }
    quota
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(id: u8) -> HostId {
        HostId::new(id).unwrap()
    }

    fn moved(before: &Map, after: &Map) -> usize {
        (0..BUCKETS)
            .filter(|&bucket| before.owner(bucket) != after.owner(bucket))
            .count()
    }

    /// Buckets that must move whatever rounding is chosen: what hosts own beyond their share rounded up or
    /// down, choosing for each surplus host the rounding up as long as there are any to give.
    fn least_moves(before: &Map, weights: &[Weight]) -> usize {
        let total: usize = weights.iter().map(|(_, weight)| usize::from(*weight)).sum();
        if total == 0 {
            return (0..BUCKETS)
                .filter(|&bucket| before.owner(bucket).is_some())
                .count();
        }
        let floor = |weight: u8| BUCKETS * usize::from(weight) / total;
        let mut ups = BUCKETS
            - weights
                .iter()
                .map(|(_, weight)| floor(*weight))
                .sum::<usize>();
        let mut kept = 0;
        for &(host, weight) in weights {
            let owned = before.count(host);
            kept += owned.min(floor(weight));
            let inexact = !(BUCKETS * usize::from(weight)).is_multiple_of(total);
            if owned > floor(weight) && inexact && ups > 0 {
                kept += 1;
                ups -= 1;
            }
        }
        BUCKETS - kept
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn shares_are_exact_and_moves_fewest(
            steps in proptest::collection::vec(proptest::collection::btree_map(1u8..=64, 0u8..=100, 1..12), 1..6)
        ) {
            let mut map = Map::unowned();
            for step in steps {
                let weights: Vec<Weight> = step.into_iter().map(|(id, weight)| (host(id), weight)).collect();
                let next = allot(&map, &weights, &BucketSet::EMPTY);
                let total: usize = weights.iter().map(|(_, weight)| usize::from(*weight)).sum();
                for &(host, weight) in &weights {
                    let share = next.count(host);
                    if total == 0 {
                        prop_assert_eq!(share, 0);
                    } else {
                        let exact = (BUCKETS * usize::from(weight)) as f64 / total as f64;
                        prop_assert!((share as f64 - exact).abs() < 1.0, "{} instead of {}", share, exact);
                    }
                }
                if total > 0 {
                    prop_assert!((0..BUCKETS).all(|bucket| next.owner(bucket).is_some()));
                }
                prop_assert_eq!(moved(&map, &next), least_moves(&map, &weights));
                prop_assert_eq!(&allot(&next, &weights, &BucketSet::EMPTY), &next, "a second time nothing moves");
                map = next;
            }
        }

        #[test]
        fn what_is_held_stays_and_the_rest_comes_as_near_as_it_can(
            before in proptest::collection::btree_map(1u8..=8, 1u8..=100, 1..8),
            after in proptest::collection::btree_map(1u8..=8, 0u8..=100, 1..8),
            held in proptest::collection::vec(0..BUCKETS, 0..3000),
        ) {
            let weights = |step: &std::collections::BTreeMap<u8, u8>| -> Vec<Weight> {
                step.iter().map(|(id, weight)| (host(*id), *weight)).collect()
            };
            let map = allot(&Map::unowned(), &weights(&before), &BucketSet::EMPTY);
            let held: BucketSet = held.into_iter().collect();
            let (next, free) = (allot(&map, &weights(&after), &held), allot(&map, &weights(&after), &BucketSet::EMPTY));
            let has_weight = |id: HostId| after.get(&id.get()).is_some_and(|weight| *weight > 0);
            for bucket in (0..BUCKETS).filter(|bucket| held.contains(*bucket)) {
                let owner = map.owner(bucket).unwrap();
                if has_weight(owner) {
                    prop_assert_eq!(next.owner(bucket), Some(owner));
                }
            }
            prop_assert!(moved(&map, &next) <= moved(&map, &free), "holding never moves more");
            let some_weight = after.values().any(|weight| *weight > 0);
            prop_assert!((0..BUCKETS).all(|bucket| next.owner(bucket).is_some() == some_weight));
            // Nobody has more than its share who does not hold it, and when nothing is held any more all is exact.
            for (id, _) in weights(&after) {
                let holds = (0..BUCKETS).filter(|b| held.contains(*b) && next.owner(*b) == Some(id)).count();
                prop_assert!(next.count(id) <= free.count(id).max(holds));
            }
            let settled = allot(&next, &weights(&after), &BucketSet::EMPTY);
            for (id, _) in weights(&after) {
                prop_assert!(settled.count(id).abs_diff(free.count(id)) <= 1);
            }
        }
    }

    #[test]
    fn a_lost_host_moves_only_its_own_buckets_and_its_return_only_its_share() {
        let equal = |ids: &[u8]| ids.iter().map(|id| (host(*id), 50)).collect::<Vec<_>>();
        let allot = |base: &Map, weights: &[Weight]| allot(base, weights, &BucketSet::EMPTY);
        let three = allot(&Map::unowned(), &equal(&[1, 2, 3]));
        let two = allot(&three, &equal(&[1, 3]));
        assert_eq!(moved(&three, &two), three.count(host(2)));
        let again = allot(&two, &equal(&[1, 2, 3]));
        assert_eq!(moved(&two, &again), again.count(host(2)));
        assert!((1365..=1366).contains(&again.count(host(2))));
    }
}

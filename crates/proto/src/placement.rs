//! Who owns which bucket: the result of convergence, and its compact form on the wire.
//!
//! A [`Placement`] has one [`Map`] for each rule: the default rule, the port rules and the neighbour rule.
//! Rules whose maps are equal share one. Single-host rules and the default host are maps that name one host
//! for every bucket, so nothing below this file treats them specially.

use crate::ids::{Digest, HostId};
use crate::rules::truncated;
use covey_filter::{BUCKETS, NEIGHBOUR_RULE, RULE_SLOTS};
use sha2::{Digest as _, Sha256};
use std::iter;
use std::sync::Arc;

/// The owner of each bucket; a bucket may have none.
#[derive(Clone, PartialEq, Eq)]
pub struct Map(Box<[u8; BUCKETS]>);

impl Map {
    /// No bucket is owned.
    pub fn unowned() -> Self {
        Self(Box::new([0; BUCKETS]))
    }

    /// Every bucket belongs to this host, or to nobody.
    pub fn all(owner: Option<HostId>) -> Self {
        Self(Box::new([owner.map_or(0, HostId::get); BUCKETS]))
    }

    /// The owner of a bucket.
    pub fn owner(&self, bucket: usize) -> Option<HostId> {
        HostId::new(self.0[bucket])
    }

    /// The owner of a bucket as a byte; 0 for none.
    pub fn owner_byte(&self, bucket: usize) -> u8 {
        self.0[bucket]
    }

    /// Gives a bucket to a host.
    pub fn set(&mut self, bucket: usize, owner: HostId) {
        self.0[bucket] = owner.get();
    }

    /// How many buckets a host owns.
    pub fn count(&self, host: HostId) -> usize {
        self.0.iter().filter(|owner| **owner == host.get()).count()
    }

    /// The owners as bytes, one per bucket.
    pub fn as_bytes(&self) -> &[u8; BUCKETS] {
        &self.0
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Map")?;
        let runs = runs(&self.0);
        f.debug_list().entries(runs.iter().take(8)).finish()
    }
}

/// Which map a rule has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RuleMap {
    /// [`crate::rules::PortRule::fingerprint`], so that a host can find a rule's map in the placement of an
    /// older rule set; 0 for the default rule and the neighbour rule.
    fingerprint: u32,
    /// Index into the distinct maps.
    map: u8,
}

/// The maps of all rules of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    maps: Vec<Arc<Map>>,
    /// Default rule, port rules, neighbour rule.
    rules: Vec<RuleMap>,
}

impl Placement {
    /// From the maps of the default rule, of each port rule (with its fingerprint) and of the neighbour rule.
    pub fn new(default: Arc<Map>, ports: Vec<(u32, Arc<Map>)>, neighbour: Arc<Map>) -> Self {
        debug_assert!(ports.len() + 2 <= RULE_SLOTS);
        let mut maps: Vec<Arc<Map>> = Vec::new();
        let rules = iter::once((0, default))
            .chain(ports)
            .chain(iter::once((0, neighbour)))
            .map(|(fingerprint, map)| {
                let index = maps
                    .iter()
                    .position(|known| *known == map)
                    .unwrap_or_else(|| {
                        maps.push(map);
                        maps.len() - 1
                    });
                RuleMap {
                    fingerprint,
                    map: u8::try_from(index).expect("one map per rule at most"),
                }
            })
            .collect();
        Self { maps, rules }
    }

    /// Nobody owns anything.
    pub fn unowned(port_rules: usize) -> Self {
        let nobody = Arc::new(Map::unowned());
        Self::new(
            nobody.clone(),
            vec![(0, nobody.clone()); port_rules],
            nobody,
        )
    }

    /// The distinct maps.
    pub fn maps(&self) -> &[Arc<Map>] {
        &self.maps
    }

    /// Index into [`Self::maps`] for a rule as the data path numbers them; rules that do not exist share
    /// the default rule's.
    pub fn map_of(&self, rule: u8) -> u8 {
        let position = if rule == NEIGHBOUR_RULE {
            self.rules.len() - 1
        } else {
            usize::from(rule)
        };
        self.rules.get(position).unwrap_or(&self.rules[0]).map
    }

    /// The map of a rule as the data path numbers them.
    pub fn map(&self, rule: u8) -> &Arc<Map> {
        &self.maps[usize::from(self.map_of(rule))]
    }

    /// The map of the port rule with this fingerprint.
    pub fn port_map(&self, fingerprint: u32) -> Option<&Arc<Map>> {
        let ports = self.rules.get(1..self.rules.len() - 1)?;
        let rule = ports.iter().find(|rule| rule.fingerprint == fingerprint)?;
        Some(&self.maps[usize::from(rule.map)])
    }

    /// The pairs of maps that like rules have here and in a later placement: the default rule's, and those of the
    /// port rules that are in both.
    pub fn like_maps<'a>(&'a self, later: &'a Self) -> Vec<(&'a Map, &'a Map)> {
        // The last is the neighbour rule's, which has no connections.
        let kept = |placement: &'a Self| {
            placement
                .rules
                .split_last()
                .map_or(&[][..], |(_, kept)| kept)
        };
        let mut pairs: Vec<(u8, u8)> = kept(self)
            .iter()
            .filter_map(|old| {
                let like = |new: &&RuleMap| new.fingerprint == old.fingerprint;
                kept(later).iter().find(like).map(|new| (old.map, new.map))
            })
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
            .into_iter()
            .map(|(old, new)| {
                (
                    &*self.maps[usize::from(old)],
                    &*later.maps[usize::from(new)],
                )
            })
            .collect()
    }

    /// Equal exactly if the placements are.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        hash.update(self.encode());
        truncated(hash)
    }

    /// The compact form that a joining host is sent. Integers are little-endian.
    ///
    /// ```text
    /// u8 rules | rules x (u32 fingerprint, u8 map) | u8 maps | per map: u16 runs, runs x (u8 owner, u16 length)
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.rules.len() as u8];
        for rule in &self.rules {
            out.extend_from_slice(&rule.fingerprint.to_le_bytes());
            out.push(rule.map);
        }
        out.push(self.maps.len() as u8);
        for map in &self.maps {
            let runs = runs(&map.0);
            out.extend_from_slice(&(runs.len() as u16).to_le_bytes());
            for (owner, length) in runs {
                out.push(owner);
                out.extend_from_slice(&length.to_le_bytes());
            }
        }
        out
    }

    /// The longest that [`Self::encode`] can be.
    pub const MAX_ENCODED: usize = 2 + 5 * RULE_SLOTS + RULE_SLOTS * (2 + 3 * BUCKETS);

    /// Reads the compact form. `None` if it is not exactly that.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&count, bytes) = bytes.split_first()?;
        if !(2..=RULE_SLOTS).contains(&usize::from(count)) {
            return None;
        }
        let (rules, bytes) = bytes.split_at_checked(5 * usize::from(count))?;
        let rules: Vec<RuleMap> = rules
            .as_chunks::<5>()
            .0
            .iter()
            .map(|&[a, b, c, d, map]| RuleMap {
                fingerprint: u32::from_le_bytes([a, b, c, d]),
                map,
            })
            .collect();
        let (&count, mut bytes) = bytes.split_first()?;
        if usize::from(count) > RULE_SLOTS || rules.iter().any(|rule| rule.map >= count) {
            return None;
        }
        let mut maps = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let (map, rest) = decode_map(bytes)?;
            maps.push(Arc::new(map));
            bytes = rest;
        }
        bytes.is_empty().then_some(Self { maps, rules })
    }
}

fn decode_map(bytes: &[u8]) -> Option<(Map, &[u8])> {
    let (count, mut bytes) = bytes.split_first_chunk::<2>()?;
    let mut map = Map::unowned();
    let mut filled = 0;
    for _ in 0..u16::from_le_bytes(*count) {
        let (&[owner, low, high], rest) = bytes.split_first_chunk::<3>()?;
        let end = filled + usize::from(u16::from_le_bytes([low, high]));
        if owner != 0 {
            HostId::new(owner)?;
        }
        map.0.get_mut(filled..end)?.fill(owner);
        (filled, bytes) = (end, rest);
    }
    (filled == BUCKETS).then_some((map, bytes))
}

/// Consecutive buckets with one owner: (owner, length).
fn runs(owners: &[u8; BUCKETS]) -> Vec<(u8, u16)> {
    owners
        .chunk_by(|a, b| a == b)
        .map(|run| {
            (
                run[0],
                u16::try_from(run.len()).expect("at most 4096 buckets"),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map() -> impl Strategy<Value = Arc<Map>> {
        proptest::collection::vec((0u8..=64, 1usize..600), 1..20).prop_map(|runs| {
            let mut map = Map::unowned();
            let mut at = 0;
            for (owner, length) in runs {
                let end = (at + length).min(BUCKETS);
                map.0[at..end].fill(owner);
                at = end;
            }
            Arc::new(map)
        })
    }

    proptest! {
        #[test]
        fn encoding_reads_back(
            default in map(),
            ports in proptest::collection::vec((any::<u32>(), map()), 0..64),
            neighbour in map(),
        ) {
            let placement = Placement::new(default, ports, neighbour);
            let encoded = placement.encode();
            prop_assert!(encoded.len() <= Placement::MAX_ENCODED);
            prop_assert_eq!(Placement::decode(&encoded), Some(placement));
            prop_assert_eq!(Placement::decode(&encoded[..encoded.len() - 1]), None);
        }

        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Placement::decode(&bytes);
        }
    }
}

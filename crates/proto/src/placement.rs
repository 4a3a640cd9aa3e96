//! Who owns which bucket: the result of convergence, and its compact form on the wire.
//!
//! A [`Placement`] has one [`Map`] for each rule: the default rule, the port rules and the neighbour rule.
//! Rules whose maps are equal share one. Single-host rules and the default host are maps that name one host
//! for every bucket, so nothing below this file treats them specially.

use crate::ids::{Digest, HostId};
use crate::rules::truncated;
use covey_filter::{BUCKETS, NEIGHBOUR_RULE, RULE_SLOTS};
use sha2::{Digest as _, Sha256};
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

/// The maps of all rules of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    maps: Vec<Arc<Map>>,
    /// Index into `maps` per rule slot: default rule, port rules, neighbour rule.
    of_rule: Vec<u8>,
}

impl Placement {
    /// From one map per rule: the default rule's, the port rules', the neighbour rule's.
    pub fn new(per_rule: Vec<Arc<Map>>) -> Self {
        debug_assert!((2..=RULE_SLOTS).contains(&per_rule.len()));
        let mut maps: Vec<Arc<Map>> = Vec::new();
        let of_rule = per_rule
            .into_iter()
            .map(|map| {
                let index = maps
                    .iter()
                    .position(|known| *known == map)
                    .unwrap_or_else(|| {
                        maps.push(map);
                        maps.len() - 1
                    });
                u8::try_from(index).expect("at most one map per rule slot")
            })
            .collect();
        Self { maps, of_rule }
    }

    /// Nobody owns anything.
    pub fn unowned(port_rules: usize) -> Self {
        let nobody = Arc::new(Map::unowned());
        Self::new(vec![nobody; port_rules + 2])
    }

    /// The distinct maps.
    pub fn maps(&self) -> &[Arc<Map>] {
        &self.maps
    }

    /// Number of port rules it was made for.
    pub fn port_rules(&self) -> usize {
        self.of_rule.len() - 2
    }

    /// Index into [`Self::maps`] for a rule as the data path numbers them; rules that do not exist share
    /// the default rule's.
    pub fn map_of(&self, rule: u8) -> u8 {
        let position = if rule == NEIGHBOUR_RULE {
            self.of_rule.len() - 1
        } else {
            usize::from(rule)
        };
        self.of_rule
            .get(position)
            .copied()
            .unwrap_or(self.of_rule[0])
    }

    /// The map of a rule as the data path numbers them.
    pub fn map(&self, rule: u8) -> &Arc<Map> {
        &self.maps[usize::from(self.map_of(rule))]
    }

    /// Equal exactly if the placements are.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        hash.update(self.encode());
        truncated(hash)
    }

    /// The compact form that a joining host is sent.
    ///
    /// ```text
    /// u8 rules | rules x u8 map index | u8 maps | per map: u16 LE runs, runs x (u8 owner, u16 LE length)
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.of_rule.len() as u8];
        out.extend_from_slice(&self.of_rule);
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
    pub const MAX_ENCODED: usize = 2 + RULE_SLOTS + RULE_SLOTS * (2 + 3 * BUCKETS);

    /// Reads the compact form. `None` if it is not exactly that.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&rules, bytes) = bytes.split_first()?;
        if !(2..=RULE_SLOTS).contains(&usize::from(rules)) {
            return None;
        }
        let (of_rule, bytes) = bytes.split_at_checked(usize::from(rules))?;
        let (&count, mut bytes) = bytes.split_first()?;
        if usize::from(count) > RULE_SLOTS || of_rule.iter().any(|index| *index >= count) {
            return None;
        }
        let mut maps = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let (map, rest) = decode_map(bytes)?;
            maps.push(Arc::new(map));
            bytes = rest;
        }
        bytes.is_empty().then(|| Self {
            maps,
            of_rule: of_rule.to_vec(),
        })
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

//! Sets of buckets: what a host tells the others about the buckets in which it has something.
//!
//! Used by `cluster/lingering.rs` and by the wire, as a bitmap of 512 bytes. Specification: docs/design.md,
//! "Data path".

use crate::ids::Digest;
use crate::rules::truncated;
use covey_filter::BUCKETS;
use sha2::{Digest as _, Sha256};

const WORDS: usize = BUCKETS / 64;

/// A set of buckets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BucketSet([u64; WORDS]);

impl BucketSet {
    /// No bucket.
    pub const EMPTY: Self = Self([0; WORDS]);
    /// Every bucket.
    pub const ALL: Self = Self([u64::MAX; WORDS]);
    /// Bytes on the wire.
    pub const LEN: usize = BUCKETS / 8;

    /// Whether the bucket is in the set.
    pub const fn contains(&self, bucket: usize) -> bool {
        self.0[bucket / 64] & 1 << (bucket % 64) != 0
    }

    /// Adds a bucket.
    pub const fn insert(&mut self, bucket: usize) {
        self.0[bucket / 64] |= 1 << (bucket % 64);
    }

    /// Whether no bucket is in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// Number of buckets.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn zip(mut self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = combine(*mine, theirs);
        }
        self
    }

    /// Buckets in either.
    #[must_use]
    pub fn union(self, other: &Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    /// Buckets in both.
    #[must_use]
    pub fn intersection(self, other: &Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    /// Buckets of `self` that are not in `other`.
    #[must_use]
    pub fn without(self, other: &Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }

    /// The wire's bitmap: bucket b is bit b % 8 of byte b / 8.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *chunk = word.to_le_bytes();
        }
        bytes
    }

    /// From the wire's bitmap.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let mut set = Self::EMPTY;
        for (word, chunk) in set.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        set
    }

    /// Equal exactly if the sets are; 0 for the empty one.
    pub fn digest(&self) -> Digest {
        if self.is_empty() {
            return Digest(0);
        }
        let mut hash = Sha256::new();
        hash.update(self.to_bytes());
        truncated(hash)
    }
}

impl Default for BucketSet {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl FromIterator<usize> for BucketSet {
    fn from_iter<I: IntoIterator<Item = usize>>(buckets: I) -> Self {
        let mut set = Self::EMPTY;
        for bucket in buckets {
            set.insert(bucket);
        }
        set
    }
}

impl std::fmt::Debug for BucketSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} buckets", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_travels_as_512_bytes() {
        let set: BucketSet = [0, 63, 64, 1000, 4095].into_iter().collect();
        assert_eq!(set.len(), 5);
        assert_eq!(BucketSet::from_bytes(&set.to_bytes()), set);
        assert!(set.contains(4095) && !set.contains(4094));
        assert_eq!(set.without(&set), BucketSet::EMPTY);
        assert_eq!(BucketSet::EMPTY.digest(), Digest(0));
        assert_ne!(set.digest(), BucketSet::ALL.digest());
    }
}

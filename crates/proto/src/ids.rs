//! The quantities of the field as types: host IDs, sets of hosts, epochs, incarnations, digests, MACs.
//!
//! Used by every other module of the core. Names follow docs/design.md, "Names".

use std::fmt;

/// The most hosts a cluster can have (NLB: 32).
pub const MAX_HOSTS: u8 = 64;

/// A host's unique number in the cluster, 1..=64. It is also its *host priority*, as in NLB: the lowest live
/// one is the default host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(u8);

impl HostId {
    /// A host ID, or `None` outside 1..=64.
    pub const fn new(id: u8) -> Option<Self> {
        if id >= 1 && id <= MAX_HOSTS {
            Some(Self(id))
        } else {
            None
        }
    }

    /// The number, 1..=64.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Zero-based, for indexing arrays of `MAX_HOSTS`.
    pub(crate) const fn index(self) -> usize {
        self.0 as usize - 1
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h{}", self.0)
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A set of hosts: bit `id - 1` of a 64-bit word. A *view* is one of these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HostSet(u64);

impl HostSet {
    /// No host.
    pub const EMPTY: Self = Self(0);

    /// Only this host.
    pub const fn only(id: HostId) -> Self {
        Self(1 << (id.get() - 1))
    }

    /// From the wire's bit mask.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The wire's bit mask.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether the host is in the set.
    pub const fn contains(self, id: HostId) -> bool {
        self.0 & Self::only(id).0 != 0
    }

    /// Adds a host.
    pub const fn insert(&mut self, id: HostId) {
        self.0 |= Self::only(id).0;
    }

    /// Removes a host.
    pub const fn remove(&mut self, id: HostId) {
        self.0 &= !Self::only(id).0;
    }

    /// Hosts in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Hosts in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Hosts of `self` that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Number of hosts.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether no host is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lowest ID in the set.
    pub fn lowest(self) -> Option<HostId> {
        self.iter().next()
    }

    /// The hosts in ascending order.
    pub fn iter(self) -> impl Iterator<Item = HostId> + Clone {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            let lowest = HostId::new(bits.trailing_zeros() as u8 + 1)?;
            bits &= bits - 1;
            Some(lowest)
        })
    }
}

impl FromIterator<HostId> for HostSet {
    fn from_iter<I: IntoIterator<Item = HostId>>(hosts: I) -> Self {
        let mut set = Self::EMPTY;
        for host in hosts {
            set.insert(host);
        }
        set
    }
}

impl fmt::Display for HostSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, host) in self.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{host}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for HostSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// The number of a committed map. 0 means "no map".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A random number that a daemon draws when it starts. It tells a restarted host from the one before, and
/// it is the nonce that others must echo to prove that they speak now (docs/design.md, "On the wire").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The short form that travels in echoes.
    pub const fn tag(self) -> u32 {
        (self.0 ^ (self.0 >> 32)) as u32
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The first eight bytes of a SHA-256: compares maps and rule sets between hosts. Not a defence against
/// a member with the key, only against accident; frames themselves are authenticated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xFF; 6]);

    /// Whether frames to it are for several machines: broadcast or multicast.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl std::str::FromStr for Mac {
    type Err = ();

    /// Six bytes of one or two hexadecimal digits, with colons or hyphens between them (as NLB writes them).
    fn from_str(text: &str) -> Result<Self, ()> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let byte = |digits: &str| {
            let plain = digits.len() <= 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            plain.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
        };
        let bytes: Option<Vec<u8>> = text.split(separator).map(byte).collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(())
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

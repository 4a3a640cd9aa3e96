//! IP addresses as the tables hold them and as the filter computes with them.
//!
//! Both families share one form, so that one table serves both: 16 bytes in network order, IPv4 as an IPv4-mapped
//! IPv6 address (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2). Two machine words rather than bytes, because that is what
//! the BPF compiler keeps in registers. Specification: docs/design.md, "Data path".

use core::net::IpAddr;

/// An IP address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// The first and the second eight bytes, as they lie in memory.
    words: [u64; 2],
}

impl Address {
    /// The unspecified address, which is nobody's: it marks unused table entries.
    pub const UNSPECIFIED: Self = Self { words: [0; 2] };

    /// From the 16 bytes of an IPv6 address.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self {
            words: [
                u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
            ],
        }
    }

    /// From the 4 bytes of an IPv4 address.
    #[inline(always)]
    pub const fn v4([a, b, c, d]: [u8; 4]) -> Self {
        Self {
            words: [0, u64::from_ne_bytes([0, 0, 0xFF, 0xFF, a, b, c, d])],
        }
    }

    /// The four bytes of an IPv4 address; [`None`] if it is an IPv6 address.
    #[inline(always)]
    pub const fn as_v4(self) -> Option<[u8; 4]> {
        match (self.words[0], self.words[1].to_ne_bytes()) {
            (0, [0, 0, 0xFF, 0xFF, a, b, c, d]) => Some([a, b, c, d]),
            _ => None,
        }
    }

    /// From the two halves, as [`Self::words`] gives them.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { words }
    }

    /// The two halves, as they lie in memory.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        self.words
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        let [high, low] = address.words.map(u64::from_be);
        IpAddr::from((u128::from(high) << 64 | u128::from(low)).to_be_bytes()).to_canonical()
    }
}

impl core::fmt::Debug for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

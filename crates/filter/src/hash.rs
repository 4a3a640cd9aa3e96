//! The keyed hash that spreads clients over buckets.
//!
//! SipHash-1-3 under a key that the cluster shares, so that a client cannot choose its addresses to pile load
//! on one host. Called by [`decide`](crate::decide()) once per packet; `covey why` calls [`bucket`] for flows
//! that a user types. Specification: docs/design.md, "Data path".
//!
//! What is hashed is the client alone, never the virtual IP or the destination port: under affinity *single*
//! a client keeps its host for all rules whose maps are equal, as in NLB. The message is the address (4 or
//! 16 bytes) or its network prefix (3 or 8 bytes), followed under affinity *none* by the source port (2 bytes,
//! network order). An IPv4 client is thus one SipHash word; SipHash mixes the length in, so the forms cannot
//! collide by construction.

use crate::{Address, Affinity, BUCKETS};

/// One of the [`BUCKETS`] into which clients fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(u16);

impl Bucket {
    /// The bucket with this number, or `None` from [`BUCKETS`] on.
    pub const fn new(number: u16) -> Option<Self> {
        if (number as usize) < BUCKETS {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Its number, below [`BUCKETS`].
    #[inline(always)]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The bucket of a client. `port` is the client's source port in host order; it counts only under
/// [`Affinity::None`].
#[inline(always)]
pub fn bucket(key: [u64; 2], affinity: Affinity, client: Address, port: u16) -> Bucket {
    let [high, low] = client.words().map(u64::from_le);
    let port = u64::from(port.to_be());
    let state = SipHasher13::new(key);
    let hash = if high == 0 && low as u32 == 0xFFFF_0000 {
        let v4 = low >> 32;
        state.finish(match affinity {
            Affinity::None => v4 | port << 32 | 6 << 56,
            Affinity::Single => v4 | 4 << 56,
            Affinity::Network => v4 & 0xFF_FFFF | 3 << 56,
        })
    } else {
        let state = state.word(high);
        match affinity {
            Affinity::None => state.word(low).finish(port | 18 << 56),
            Affinity::Single => state.word(low).finish(16 << 56),
            Affinity::Network => state.finish(8 << 56),
        }
    };
    Bucket((hash % BUCKETS as u64) as u16)
}

/// SipHash with one round per word and three to finish, for messages that the caller cuts into words.
#[derive(Clone, Copy)]
struct SipHasher13 {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl SipHasher13 {
    #[inline(always)]
    const fn new([k0, k1]: [u64; 2]) -> Self {
        Self {
            v0: k0 ^ 0x736f_6d65_7073_6575,
            v1: k1 ^ 0x646f_7261_6e64_6f6d,
            v2: k0 ^ 0x6c79_6765_6e65_7261,
            v3: k1 ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    const fn round(mut self) -> Self {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
        self
    }

    /// Takes in the next eight bytes of the message, little-endian.
    #[inline(always)]
    const fn word(mut self, word: u64) -> Self {
        self.v3 ^= word;
        self = self.round();
        self.v0 ^= word;
        self
    }

    /// The hash. `last` holds the remaining 0 to 7 bytes and, in its top byte, the length of the message.
    #[inline(always)]
    const fn finish(self, last: u64) -> u64 {
        let mut state = self.word(last);
        state.v2 ^= 0xFF;
        let state = state.round().round().round();
        state.v0 ^ state.v1 ^ state.v2 ^ state.v3
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::hash::Hasher;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn reference(key: [u64; 2], message: &[u8]) -> u16 {
        let mut hasher = siphasher::sip::SipHasher13::new_with_keys(key[0], key[1]);
        hasher.write(message);
        (hasher.finish() % BUCKETS as u64) as u16
    }

    fn message(affinity: Affinity, address: &[u8], prefix: usize, port: u16) -> Vec<u8> {
        match affinity {
            Affinity::None => [address, &port.to_be_bytes()].concat(),
            Affinity::Single => address.to_vec(),
            Affinity::Network => address[..prefix].to_vec(),
        }
    }

    fn affinity() -> impl Strategy<Value = Affinity> {
        prop_oneof![
            Just(Affinity::None),
            Just(Affinity::Single),
            Just(Affinity::Network)
        ]
    }

    proptest! {
        #[test]
        fn ipv4_is_siphash(key: [u64; 2], affinity in affinity(), client: [u8; 4], port: u16) {
            let mapped = Address::v6(Ipv4Addr::from(client).to_ipv6_mapped().octets());
            prop_assert_eq!(mapped, Address::v4(client));
            prop_assert_eq!(
                bucket(key, affinity, mapped, port).get(),
                reference(key, &message(affinity, &client, 3, port))
            );
        }

        #[test]
        fn ipv6_is_siphash(key: [u64; 2], affinity in affinity(), client: [u8; 16], port: u16) {
            prop_assume!(Ipv6Addr::from(client).to_ipv4_mapped().is_none());
            prop_assert_eq!(
                bucket(key, affinity, Address::v6(client), port).get(),
                reference(key, &message(affinity, &client, 8, port))
            );
        }

        #[test]
        fn affinity_hides_what_it_should(key: [u64; 2], client: [u8; 16], host: u64, ports: [u16; 2]) {
            let mut neighbour = client;
            neighbour[8..].copy_from_slice(&host.to_be_bytes());
            let of = |affinity, client: &[u8; 16], port| bucket(key, affinity, Address::v6(*client), port);
            prop_assert_eq!(of(Affinity::Single, &client, ports[0]), of(Affinity::Single, &client, ports[1]));
            prop_assert_eq!(of(Affinity::Network, &client, ports[0]), of(Affinity::Network, &neighbour, ports[1]));
        }
    }

    /// Linux picks even source ports for connect(): they alone must fill the buckets evenly.
    #[test]
    fn even_ports_of_one_client_spread_evenly() {
        let client = Address::v4([10, 77, 0, 200]);
        let mut quarters = [0u32; 4];
        for port in (32768..=60998).step_by(2) {
            let bucket = bucket([1, 2], Affinity::None, client, port).get();
            quarters[usize::from(bucket) / (BUCKETS / 4)] += 1;
        }
        for count in quarters {
            assert!((3_300..=3_760).contains(&count), "{quarters:?}");
        }
    }
}

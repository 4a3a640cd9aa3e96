//! A TCP connection by name, as the filter and the daemon tell each other of it.
//!
//! The filter reports segments of connections that it knows nothing of; the daemon says which of them nobody has
//! (`ebpf/src/orphans.rs`). Specification: docs/design.md, "Connections".

use crate::{Address, Ports};

/// Both ends of a TCP connection: the client's address and the service's, each as in [`Address`], then the client's port
/// in the upper and the service's in the lower half of a word of 32 bits. Words only, so that it can be the key of a map.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends(pub [u64; 5]);

impl Ends {
    /// The connection of a packet from the client to the service.
    #[inline(always)]
    pub const fn new(client: Address, service: Address, ports: Ports) -> Self {
        let ([a, b], [c, d]) = (client.words(), service.words());
        Self([
            a,
            b,
            c,
            d,
            (ports.source as u64) << 16 | ports.destination as u64,
        ])
    }

    /// The client's address and the service's.
    pub const fn addresses(self) -> (Address, Address) {
        let [a, b, c, d, _] = self.0;
        (Address::from_words([a, b]), Address::from_words([c, d]))
    }

    /// The client's port, then the service's.
    pub const fn ports(self) -> Ports {
        let [_, _, _, _, ports] = self.0;
        Ports {
            source: (ports >> 16) as u16,
            destination: ports as u16,
        }
    }
}

/// What is known of a connection that no host has.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disowned {
    /// Until when it counts, nanoseconds of CLOCK_MONOTONIC.
    pub until_ns: u64,
    /// The map under which it was found out, as in [`crate::Settings::map`].
    pub map: u64,
}

impl Disowned {
    /// Whether it still counts. Under another map some other host may have opened a connection with the same ends.
    #[inline(always)]
    pub const fn holds(&self, now_ns: u64, map: u64) -> bool {
        self.map == map && now_ns < self.until_ns
    }
}

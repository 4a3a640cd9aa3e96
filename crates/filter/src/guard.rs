//! What may leave a host: the rule behind the tc egress program.
//!
//! Two things must never leave. A frame with the cluster MAC as its *source* would teach that MAC to a switch,
//! which then stops flooding cluster traffic to the other hosts. And an ARP or neighbour discovery message
//! that ties a virtual IP to the NIC's own MAC would send that client's traffic to one host. The first is
//! dropped; in the second the cluster MAC is written over the advertised one, while the Ethernet source
//! stays the NIC's own. Called by `covey_guard` in `ebpf/` for every frame that leaves, and by the simulator.
//! Specification: docs/design.md, "Data path".

use crate::decide::vip;
use crate::flow::{
    ADVERTISEMENT, Malformed, Packet, SOLICITATION, big_endian, ether_type, payload, read,
};
use crate::{Address, MacBytes, Settings, Tables};

/// What becomes of a frame that wants to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// It leaves as it is.
    Pass,
    /// It does not leave.
    Drop,
    /// It leaves after the cluster MAC has been written into it.
    Correct(Correction),
}

/// Where a frame advertises a virtual IP with another MAC than the cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Offset of the advertised MAC in the frame.
    pub at: usize,
    /// The MAC that is there.
    pub old: MacBytes,
    /// The cluster MAC.
    pub new: MacBytes,
    /// Offset of the ICMPv6 checksum that covers it; none for ARP.
    pub checksum: Option<usize>,
}

/// Decides about one frame that is about to leave.
#[inline(always)]
pub fn guard<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T) -> Egress {
    let Some(settings) = tables.settings() else {
        return Egress::Pass;
    };
    if packet.read(6) == Some(settings.cluster_mac) {
        return Egress::Drop;
    }
    // What this host cannot parse, it did not build; it says nothing about a virtual IP that any machine
    // would believe.
    match advertisement(packet) {
        Ok(Some(says)) if says.old != settings.cluster_mac && says.of_vip(tables, settings) => {
            Egress::Correct(Correction {
                at: says.at,
                old: says.old,
                new: settings.cluster_mac,
                checksum: says.checksum,
            })
        }
        Ok(_) | Err(Malformed) => Egress::Pass,
    }
}

/// "This address has this MAC", as a frame says it.
struct Advertisement {
    address: Address,
    at: usize,
    old: MacBytes,
    checksum: Option<usize>,
}

impl Advertisement {
    #[inline(always)]
    fn of_vip<T: Tables>(&self, tables: &T, settings: &Settings) -> bool {
        vip(tables, settings, self.address).is_some()
    }
}

#[inline(always)]
fn advertisement<P: Packet + ?Sized>(packet: &P) -> Result<Option<Advertisement>, Malformed> {
    let (kind, at) = payload(packet)?;
    match kind {
        // Requests and replies alike: receivers learn the sender from both.
        ether_type::ARP => Ok(Some(Advertisement {
            address: Address::v4(read(packet, at + 14)?),
            at: at + 8,
            old: read(packet, at + 8)?,
            checksum: None,
        })),
        ether_type::IPV6 => neighbour_discovery(packet, at),
        _ => Ok(None),
    }
}

/// A solicitation speaks of its source, an advertisement of its target. The kernel puts the link-layer address
/// option first, right behind the fixed part of 24 bytes.
#[inline(always)]
fn neighbour_discovery<P: Packet + ?Sized>(
    packet: &P,
    at: usize,
) -> Result<Option<Advertisement>, Malformed> {
    const ICMPV6: u8 = 58;
    const SOURCE_LINK_ADDRESS: u8 = 1;
    const TARGET_LINK_ADDRESS: u8 = 2;
    let body = at + 40;
    if read(packet, at + 6)? != [ICMPV6] {
        return Ok(None);
    }
    let (address, option) = match read(packet, body)? {
        [SOLICITATION] => (at + 8, SOURCE_LINK_ADDRESS),
        [ADVERTISEMENT] => (body + 8, TARGET_LINK_ADDRESS),
        _ => return Ok(None),
    };
    // A solicitation for duplicate address detection ends here: it advertises nothing.
    if big_endian(packet, body + 24)? != u16::from_be_bytes([option, 1]) {
        return Ok(None);
    }
    Ok(Some(Advertisement {
        address: Address::v6(read(packet, address)?),
        at: body + 26,
        old: read(packet, body + 26)?,
        checksum: Some(body + 2),
    }))
}

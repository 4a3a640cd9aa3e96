//! Probes: how the hosts find out whether frames to the cluster MAC reach each of them.
//!
//! A probe is an IP packet from one host to a virtual IP and the cluster MAC, as a client's is, so that whatever loses
//! clients' frames on the way loses it too: a switch that has learned the cluster MAC, one that looks up the destination
//! address among the members of groups, a NIC that does not take the MAC. Every host's filter hands it to the daemon,
//! whether the host serves or not, and nobody's kernel sees it. Specification: docs/design.md, "Network evidence".

use crate::Address;
use crate::flow::{Packet, ether_type};

/// The protocol of probes: for experiments (RFC 3692).
pub const PROBE_PROTOCOL: u8 = 253;
/// Their time to live, or hop limit. A router would have taken one off, so nobody beyond the segment can send one.
pub const PROBE_HOPS: u8 = 255;
/// The EtherType under which the daemon gets them: for local experiments (IEEE 802), and no protocol of the kernel's. A
/// socket for all IP packets would cost a copy of each.
pub const TO_DAEMON: u16 = 0x88B5;

/// An IPv4 header without options.
const PLAIN: [u8; 1] = [0x45];
/// More fragments, or an offset: it is not whole.
const FRAGMENT: u16 = 0x3FFF;

/// Whether a frame with this EtherType may be a probe. One without VLAN tags, IP options and extension headers: hosts
/// send none.
#[inline(always)]
pub(crate) fn may_be<P: Packet + ?Sized>(packet: &P, kind: u16) -> bool {
    match kind {
        ether_type::IPV4 => packet.read(22) == Some([PROBE_HOPS, PROBE_PROTOCOL]),
        ether_type::IPV6 => packet.read(20) == Some([PROBE_PROTOCOL, PROBE_HOPS]),
        _ => false,
    }
}

/// The destination of a probe. It is one if that is a virtual IP.
#[inline(always)]
pub(crate) fn target<P: Packet + ?Sized>(packet: &P, kind: u16) -> Option<Address> {
    if !may_be(packet, kind) {
        return None;
    }
    if kind == ether_type::IPV6 {
        return packet.read(38).map(Address::v6);
    }
    let fragment = packet.read(20).map(u16::from_be_bytes)?;
    let whole = packet.read(14) == Some(PLAIN) && fragment & FRAGMENT == 0;
    if whole {
        packet.read(30).map(Address::v4)
    } else {
        None
    }
}

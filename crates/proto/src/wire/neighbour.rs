//! Neighbour discovery for IPv6 (RFC 4861), as far as the core speaks it: the unsolicited advertisement that a virtual
//! IP has another MAC now. Ordinary questions and answers are the kernel's business.

use super::ethernet::Ethernet;
use crate::ids::Mac;
use std::net::Ipv6Addr;

const IPV6: u16 = 0x86DD;
const ICMPV6: u8 = 58;
const ADVERTISEMENT: u8 = 136;
/// "Forget what you knew."
const OVERRIDE: u8 = 0x20;
/// The option that holds the MAC, and its length in units of eight bytes.
const TARGET_LINK_ADDRESS: [u8; 2] = [2, 1];
/// All nodes of the segment, and their MAC.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
/// Routers lower it, so what has it comes from this segment.
const HOP_LIMIT: u8 = 255;

/// Tells all nodes that `address` has the MAC `advertised`, as a whole frame from the NIC `source`.
pub fn announcement(source: Mac, advertised: Mac, address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend_from_slice(&address.octets());
    message.extend_from_slice(&TARGET_LINK_ADDRESS);
    message.extend_from_slice(&advertised.0);
    let checksum = checksum(address, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&(message.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[ICMPV6, HOP_LIMIT]);
    packet.extend_from_slice(&address.octets());
    packet.extend_from_slice(&ALL_NODES.octets());
    packet.extend_from_slice(&message);
    Ethernet {
        destination: ALL_NODES_MAC,
        source,
        ethertype: IPV6,
        payload: &packet,
    }
    .emit()
}

/// Of the message and its pseudo-header (RFC 8200 §8.1). The message has an even number of bytes.
fn checksum(source: Ipv6Addr, message: &[u8]) -> u16 {
    let addresses = [source.octets(), ALL_NODES.octets()].concat();
    let words = |bytes: &[u8]| -> u32 {
        let (pairs, _) = bytes.as_chunks::<2>();
        pairs
            .iter()
            .map(|pair| u32::from(u16::from_be_bytes(*pair)))
            .sum()
    };
    let mut sum = words(&addresses) + words(message) + message.len() as u32 + u32::from(ICMPV6);
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_as_other_machines_read_it() {
        let (own, cluster) = (Mac([2, 0, 0, 0, 0, 1]), Mac([3, 0xBF, 10, 77, 0, 100]));
        let address: Ipv6Addr = "fd77::100".parse().unwrap();
        let frame = announcement(own, cluster, address);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(frame[6..12], own.0);
        assert_eq!(frame[18..20], [0, 32], "payload length");
        let message = &frame[54..];
        assert_eq!(message[..2], [136, 0]);
        assert_eq!(message[8..24], address.octets());
        assert_eq!(message[24..], [2, 1, 3, 0xBF, 10, 77, 0, 100]);
        // Whoever sums up all of it, checksum included, gets all ones.
        assert_eq!(checksum(address, message), 0);
    }
}

//! ARP for IPv4 over Ethernet (RFC 826): the direct question "is the machine of that silent host still
//! there?" and its answer, and the announcement of a virtual IP's new MAC. Ordinary address resolution is the kernel's business.

use super::Reject;
use super::ethernet::{self, Ethernet};
use crate::ids::Mac;
use std::net::Ipv4Addr;

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const PREFIX: [u8; 6] = [0x00, 0x01, 0x08, 0x00, 6, 4];

/// Request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target's address?
    Request,
    /// The sender has its address.
    Reply,
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// Who speaks.
    pub sender_mac: Mac,
    /// Its address.
    pub sender_ip: Ipv4Addr,
    /// Who is spoken to; zero in a request.
    pub target_mac: Mac,
    /// The address in question, or of who asked.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// Reads the payload of an ARP frame.
    ///
    /// # Errors
    /// [`Reject::TooShort`] below 28 bytes, [`Reject::BadRecord`] for anything but Ethernet and IPv4.
    pub fn parse(payload: &[u8]) -> Result<Self, Reject> {
        let packet = payload.first_chunk::<28>().ok_or(Reject::TooShort)?;
        if packet[..6] != PREFIX {
            return Err(Reject::BadRecord);
        }
        let operation = match packet[6..8] {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return Err(Reject::BadRecord),
        };
        let mac = |at: usize| {
            let mut mac = Mac::default();
            mac.0.copy_from_slice(&packet[at..at + 6]);
            mac
        };
        let ip =
            |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
        Ok(Self {
            operation,
            sender_mac: mac(8),
            sender_ip: ip(14),
            target_mac: mac(18),
            target_ip: ip(24),
        })
    }

    /// A broadcast question for `target`, as a whole frame.
    pub fn question(sender_mac: Mac, sender_ip: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        request(sender_mac, (sender_mac, sender_ip), target)
    }

    /// Tells all that `address` has the MAC `advertised` (RFC 5227 §3), as a whole frame from the NIC `source`.
    pub fn announcement(source: Mac, advertised: Mac, address: Ipv4Addr) -> Vec<u8> {
        request(source, (advertised, address), address)
    }
}

fn request(source: Mac, (mac, ip): (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut payload = PREFIX.to_vec();
    payload.extend_from_slice(&[0, 1]);
    payload.extend_from_slice(&mac.0);
    payload.extend_from_slice(&ip.octets());
    payload.extend_from_slice(&[0; 6]);
    payload.extend_from_slice(&target.octets());
    Ethernet {
        destination: Mac::BROADCAST,
        source,
        ethertype: ethernet::ARP,
        payload: &payload,
    }
    .emit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_reads_back() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let frame = Arp::question(mac, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(frame.len(), 42);
        let ethernet = Ethernet::parse(&frame).unwrap();
        assert_eq!(
            (ethernet.destination, ethernet.ethertype),
            (Mac::BROADCAST, ethernet::ARP)
        );
        let arp = Arp::parse(ethernet.payload).unwrap();
        assert_eq!(arp.operation, Operation::Request);
        assert_eq!(
            (arp.sender_mac, arp.target_ip),
            (mac, Ipv4Addr::new(10, 0, 0, 2))
        );
    }

    #[test]
    fn an_announcement_speaks_for_the_address_in_question() {
        let (own, cluster) = (Mac([2, 0, 0, 0, 0, 1]), Mac([3, 0xBF, 10, 0, 0, 9]));
        let address = Ipv4Addr::new(10, 0, 0, 9);
        let frame = Arp::announcement(own, cluster, address);
        let ethernet = Ethernet::parse(&frame).unwrap();
        assert_eq!(
            (ethernet.destination, ethernet.source),
            (Mac::BROADCAST, own)
        );
        let arp = Arp::parse(ethernet.payload).unwrap();
        assert_eq!((arp.sender_mac, arp.sender_ip), (cluster, address));
        assert_eq!(arp.target_ip, address);
    }

    #[test]
    fn only_ethernet_and_ipv4() {
        assert_eq!(Arp::parse(&[0; 27]), Err(Reject::TooShort));
        assert_eq!(Arp::parse(&[0; 28]), Err(Reject::BadRecord));
    }
}

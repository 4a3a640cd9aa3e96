//! The packet round a probe: a [`Body::Probe`](super::heartbeat::Body::Probe) in IP, to the primary virtual IP and the
//! cluster MAC, so that it travels as clients' frames do. Probes to a host's own MAC are packets of the same kind under
//! the EtherType that the filter gives to the others.
//!
//! What marks it out, and how a host's filter finds it, is said once, in `crates/filter/src/probe.rs`. Sent and read by
//! `cluster/probing.rs`. Specification: docs/design.md, "Network evidence".

use super::Reject;
use super::ethernet::{self, Ethernet};
use super::reader::Reader;
use crate::ids::Mac;
use covey_filter::{PROBE_HOPS, PROBE_PROTOCOL};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an IPv4 header without options.
const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header.
const IPV6_LEN: usize = 40;

/// One end of a probe.
#[derive(Clone, Copy, Debug)]
pub struct End<A> {
    /// Its MAC.
    pub mac: Mac,
    /// Its address.
    pub address: A,
}

/// A probe to the cluster MAC. Over IPv6 its source is the link-local address that follows from the MAC; nobody answers
/// to it.
pub fn to_cluster(message: &[u8], from: End<Ipv4Addr>, to: End<IpAddr>) -> Vec<u8> {
    let ethertype = match to.address {
        IpAddr::V4(_) => ethernet::IPV4,
        IpAddr::V6(_) => ethernet::IPV6,
    };
    emit(ethertype, message, from, to)
}

/// A probe to a host's own MAC, over the protocol of the primary virtual IP.
pub fn to_host(message: &[u8], from: End<Ipv4Addr>, to: End<Ipv4Addr>, primary: IpAddr) -> Vec<u8> {
    let address = match primary {
        IpAddr::V4(_) => to.address.into(),
        IpAddr::V6(_) => link_local(to.mac).into(),
    };
    let to = End {
        mac: to.mac,
        address,
    };
    emit(ethernet::PROBE, message, from, to)
}

fn emit(ethertype: u16, message: &[u8], from: End<Ipv4Addr>, to: End<IpAddr>) -> Vec<u8> {
    let mut packet = match to.address {
        IpAddr::V4(address) => ipv4(from.address, address, message.len()),
        IpAddr::V6(address) => ipv6(link_local(from.mac), address, message.len()),
    };
    packet.extend_from_slice(message);
    Ethernet {
        destination: to.mac,
        source: from.mac,
        ethertype,
        payload: &packet,
    }
    .emit()
}

/// The message in the packet of a probe, padding included; the filter has seen that it is one.
///
/// # Errors
/// [`Reject::TooShort`]; [`Reject::BadRecord`] for anything that no filter hands over.
pub fn message(packet: &[u8]) -> Result<&[u8], Reject> {
    let mut reader = Reader::new(packet, Reject::TooShort);
    let header = match reader.u8()? >> 4 {
        4 => IPV4_LEN,
        6 => IPV6_LEN,
        _ => return Err(Reject::BadRecord),
    };
    reader.take(header - 1)?;
    reader.take(reader.remaining())
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, length: usize) -> Vec<u8> {
    let total = (IPV4_LEN + length) as u16;
    let mut header = vec![0x45, 0];
    header.extend_from_slice(&total.to_be_bytes());
    // No identification: it is never cut up.
    header.extend_from_slice(&[0, 0, 0x40, 0, PROBE_HOPS, PROBE_PROTOCOL, 0, 0]);
    header.extend_from_slice(&source.octets());
    header.extend_from_slice(&destination.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, length: usize) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend_from_slice(&(length as u16).to_be_bytes());
    header.extend_from_slice(&[PROBE_PROTOCOL, PROBE_HOPS]);
    header.extend_from_slice(&source.octets());
    header.extend_from_slice(&destination.octets());
    header
}

/// RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    !((sum & 0xFFFF) + (sum >> 16)) as u16
}

/// fe80::/64 and the modified EUI-64 (RFC 4291, appendix A).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    let word = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xFE80,
        0,
        0,
        0,
        word(a ^ 2, b),
        word(c, 0xFF),
        word(0xFE, d),
        word(e, f),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use covey_filter::Frame;

    fn probe(vip: &str) -> Vec<u8> {
        let from = End {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            address: Ipv4Addr::new(10, 77, 0, 1),
        };
        let to = End {
            mac: Mac([2, 0xBF, 10, 77, 0, 100]),
            address: vip.parse().unwrap(),
        };
        to_cluster(b"message", from, to)
    }

    #[test]
    fn it_is_a_sound_packet_of_the_protocol_for_experiments() {
        for (vip, source, at) in [
            ("10.77.0.100", "10.77.0.1", 34),
            ("fd77::100", "fe80::ff:fe00:1", 54),
        ] {
            let frame = probe(vip);
            let Ok(Frame::Ip(flow)) = Frame::parse(&frame[..]) else {
                panic!("{frame:02x?}");
            };
            assert_eq!(IpAddr::from(flow.source), source.parse::<IpAddr>().unwrap());
            assert_eq!(
                IpAddr::from(flow.destination),
                vip.parse::<IpAddr>().unwrap()
            );
            assert_eq!(flow.transport, covey_filter::Transport::Other(253));
            assert_eq!(&frame[at..], b"message");
            assert_eq!(message(&frame[14..]), Ok(&b"message"[..]));
            for length in 14..at {
                assert_eq!(message(&frame[14..length]), Err(Reject::TooShort));
            }
        }
        assert_eq!(message(&[0x55; 60]), Err(Reject::BadRecord));
    }

    #[test]
    fn the_header_sums_up() {
        // The example of RFC 1071 in words: the sum over a header with its checksum is zero.
        assert_eq!(checksum(&probe("10.77.0.100")[14..34]), 0);
    }
}

//! Frames for tests, built layer by layer. Used by the tests of covey-filter, and by those of the kernel's
//! side in the covey crate.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its share.

use std::net::{Ipv4Addr, Ipv6Addr};

pub type Mac = [u8; 6];

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const IGMP: u8 = 2;
pub const ICMPV6: u8 = 58;
pub const BROADCAST: Mac = [0xFF; 6];
pub const CLIENT_MAC: Mac = [0x02, 0, 0, 0, 0, 0xC8];

pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// The frame with one more VLAN tag.
pub fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
    [&frame[..12], &tag.to_be_bytes(), &[0, 5], &frame[12..]].concat()
}

pub fn to_ipv4(to: Mac, packet: &[u8]) -> Vec<u8> {
    ethernet(to, CLIENT_MAC, 0x0800, packet)
}

pub fn to_ipv6(to: Mac, packet: &[u8]) -> Vec<u8> {
    ethernet(to, CLIENT_MAC, 0x86DD, packet)
}

pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(source, destination, protocol, 0, &[], payload)
}

/// `fragment`: flags and offset as on the wire. `options`: a multiple of four bytes.
pub fn ipv4_with(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    fragment: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let length = (words * 4 + payload.len()) as u16;
    let mut header = vec![0x40 | words as u8, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 1]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    header.extend(options);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(payload);
    header
}

pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// An IPv6 extension header of `8 * (1 + more)` bytes before `payload`, whose protocol is `next`.
pub fn extension(next: u8, more: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8 * (1 + usize::from(more))];
    bytes[0] = next;
    bytes[1] = more;
    bytes.extend(payload);
    bytes
}

/// An IPv6 fragment header; `offset` in units of eight bytes.
pub fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    [&[next, 0, high, low, 0, 0, 0, 7], payload].concat()
}

/// A TCP or UDP header, as far as the filter looks, and a little behind it.
pub fn ports(source: u16, destination: u16) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    [&ports[..], &[0; 16]].concat()
}

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// A TCP header with these flags that acknowledges `acknowledgement`.
pub fn segment(source: u16, destination: u16, flags: u8, acknowledgement: u32) -> Vec<u8> {
    let mut header = ports(source, destination);
    header[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    header[12..14].copy_from_slice(&[0x50, flags]);
    header
}

/// An ICMP message of this type, with room for what follows.
pub fn icmp(kind: u8) -> Vec<u8> {
    let mut message = vec![0; 32];
    message[0] = kind;
    message
}

/// An ICMP or ICMPv6 message of this type that quotes a packet.
pub fn quote(kind: u8, packet: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0], packet].concat()
}

/// ARP between Ethernet and IPv4; operation 1 asks, 2 answers.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    for (mac, ip) in [sender, target] {
        packet.extend(mac);
        packet.extend(ip.octets());
    }
    packet
}

/// A neighbour solicitation (135) or advertisement (136) about `target` that ends with a link-layer address
/// option, as a whole IPv6 packet with a right checksum.
pub fn neighbour(
    kind: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    mac: Mac,
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([kind - 134, 1]);
    message.extend(mac);
    let pseudo = pseudo(source, destination, ICMPV6, message.len());
    let sum = checksum(&[&pseudo, &message[..]].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv6(source, destination, ICMPV6, &message)
}

/// Whether the ICMPv6 checksum of an IPv6 packet without extension headers is right.
pub fn icmpv6_checksum_holds(packet: &[u8]) -> bool {
    let mut pseudo = packet[8..40].to_vec();
    pseudo.extend(((packet.len() - 40) as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, ICMPV6]);
    checksum(&[&pseudo, &packet[40..]].concat()) == 0
}

/// A UDP header without a checksum, which IPv4 allows, and what it carries.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let words = [source, destination, (8 + payload.len()) as u16, 0];
    let header = words.map(u16::to_be_bytes).concat();
    [&header, payload].concat()
}

/// A UDP header with a checksum, and an even number of bytes that it carries.
pub fn udp_in_ipv6(
    source: (Ipv6Addr, u16),
    destination: (Ipv6Addr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut datagram = udp(source.1, destination.1, payload);
    let pseudo = pseudo(source.0, destination.0, UDP, datagram.len());
    let sum = checksum(&[&pseudo, &datagram[..]].concat());
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

fn pseudo(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: usize) -> Vec<u8> {
    let mut header = [source.octets(), destination.octets()].concat();
    header.extend((length as u32).to_be_bytes());
    header.extend([0, 0, 0, protocol]);
    header
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

//! From the bytes of a frame to what the filter must know of it.
//!
//! [`Frame::parse`] is compiled twice: over a byte slice for the simulator, `covey why` and tests, and over
//! the XDP context in `ebpf/`. What differs is only [`Packet`], the way to read a few bytes at an offset.
//! Specification: docs/design.md, "Data path".
//!
//! ```text
//!   Ethernet II (two VLAN tags at most) +-- ARP ------------------------------> Question, Answer
//!                                       +-- IPv4 (options) -------+-- TCP, UDP, other --> Flow
//!                                       +-- IPv6 (six extensions)-+-- ICMP error -------> Flow, quotation
//!                                                                 +-- fragment ---------> Fragment
//!                                                                 +-- ICMPv6 ND --------> Question, Answer
//! ```
//!
//! Nothing is trusted: a length that the bytes do not bear out is [`Malformed`], never a panic. Checksums and
//! what the kernel checks anyway are left to the kernel.

use crate::Address;
use crate::quote::Quotation;

/// Bytes of a frame, from its Ethernet header on.
pub trait Packet {
    /// The `N` bytes at `offset`, or `None` if the frame ends before them.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Packet for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// The bytes are not what the headers before them promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// "Who has `target`?": an ARP request or a neighbour solicitation.
    Question {
        /// Protocol address of the one who asks; unspecified for a probe whether the address is free.
        asker: Address,
        /// Protocol address asked for.
        target: Address,
    },
    /// An ARP reply or a neighbour advertisement, sent to the holder of `asker`.
    Answer {
        /// Protocol address of the one who had asked.
        asker: Address,
    },
    /// A whole IP packet.
    Ip(Flow),
    /// A part of an IP packet.
    Fragment(Fragment),
    /// Any other EtherType or ARP operation.
    Other,
}

/// The ends of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// What is inside.
    pub transport: Transport,
}

/// A part of an IP packet that was cut up on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The packet that it is a part of.
    pub datagram: Datagram,
    /// What is inside the packet, which only its first fragment says.
    pub first: Option<Transport>,
}

/// What the fragments of a packet have in common (RFC 791, RFC 8200). It lies in the BPF map as it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Datagram {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// The sender's number for it, in host order: 16 bits in IPv4, 32 in IPv6.
    pub identification: u32,
    /// The protocol inside; 0 in IPv6, where fragments of one packet may name different ones.
    pub protocol: u32,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(Segment),
    /// UDP.
    Udp(Ports),
    /// An ICMP or ICMPv6 message about a packet that was sent earlier, and where it quotes that.
    IcmpError(Quotation),
    /// Other ICMP and ICMPv6: echo requests above all.
    Icmp,
    /// Another protocol, by its number.
    Other(u8),
}

/// Ports in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The client's.
    pub source: u16,
    /// The service's.
    pub destination: u16,
}

impl Ports {
    /// Of a protocol without ports.
    pub(crate) const NONE: Self = Self {
        source: 0,
        destination: 0,
    };
}

/// What the filter reads of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The ports.
    pub ports: Ports,
    /// Sequence number, host order.
    pub sequence: u32,
    /// Acknowledgement number, host order.
    pub acknowledgement: u32,
    /// A SYN without ACK: the client opens a connection.
    pub opens: bool,
}

pub(crate) mod ether_type {
    pub(crate) const ARP: u16 = 0x0806;
    pub(crate) const IPV4: u16 = 0x0800;
    pub(crate) const IPV6: u16 = 0x86DD;
    pub(crate) const VLAN: u16 = 0x8100;
    pub(crate) const SERVICE_VLAN: u16 = 0x88A8;
    pub(crate) const HEARTBEAT: u16 = 0x886F;
    pub(crate) const OLD_HEARTBEAT: u16 = 0xBF01;
}

/// Numbers of protocols (IANA).
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const IGMP: u8 = 2;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const GRE: u8 = 47;
    pub(crate) const ESP: u8 = 50;
    pub(crate) const AH: u8 = 51;
    pub(crate) const ICMPV6: u8 = 58;
}

/// Types of ICMPv6 messages.
pub(crate) mod discovery {
    pub(crate) const ROUTER_SOLICITATION: u8 = 133;
    pub(crate) const SOLICITATION: u8 = 135;
    pub(crate) const ADVERTISEMENT: u8 = 136;
}

const MAX_VLAN_TAGS: usize = 2;
/// Extension headers of a packet.
const MAX_EXTENSIONS: usize = 6;
/// Extension headers behind a fragment header: destination options, as a rule none.
const MAX_EXTENSIONS_OF_FRAGMENT: usize = 1;

impl Frame {
    /// Parses a whole frame.
    ///
    /// # Errors
    /// [`Malformed`] if it is truncated or a length field cannot be right.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(packet: &P) -> Result<Self, Malformed> {
        let (kind, at) = payload(packet)?;
        match kind {
            ether_type::IPV4 => ipv4(packet, at),
            ether_type::IPV6 => ipv6(packet, at),
            ether_type::ARP => arp(packet, at),
            _ => Ok(Self::Other),
        }
    }
}

/// EtherType behind the VLAN tags, and where its payload starts.
#[inline(always)]
pub(crate) fn payload<P: Packet + ?Sized>(packet: &P) -> Result<(u16, usize), Malformed> {
    let mut at = 12;
    for _ in 0..MAX_VLAN_TAGS {
        match big_endian(packet, at)? {
            ether_type::VLAN | ether_type::SERVICE_VLAN => at += 4,
            kind => return Ok((kind, at + 2)),
        }
    }
    Ok((big_endian(packet, at)?, at + 2))
}

/// "I am in this group": an IGMP report of the first or the second version, which is sent to the group itself. Apart from
/// [`Frame::parse`], whose stack in the kernel has no room for it, and so without VLAN tags.
#[inline(always)]
pub(crate) fn is_group_report<P: Packet + ?Sized>(packet: &P) -> bool {
    if packet.read(12) != Some(ether_type::IPV4.to_be_bytes()) {
        return false;
    }
    let Some([version_length, .., protocol]) = packet.read::<10>(14) else {
        return false;
    };
    let message = 14 + usize::from(version_length & 0x0F) * 4;
    protocol == protocol::IGMP && matches!(packet.read(message), Some([0x12 | 0x16, _time]))
}

#[inline(always)]
fn arp<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Frame, Malformed> {
    // Hardware type and length and protocol type and length in one compare: Ethernet and IPv4.
    if read(packet, at)? != [0, 1, 8, 0, 6, 4] {
        return Ok(Frame::Other);
    }
    let asker = |offset| Ok(Address::v4(read(packet, at + offset)?));
    match big_endian(packet, at + 6)? {
        1 => Ok(Frame::Question {
            asker: asker(14)?,
            target: Address::v4(read(packet, at + 24)?),
        }),
        2 => Ok(Frame::Answer { asker: asker(24)? }),
        _ => Ok(Frame::Other),
    }
}

/// An IPv4 header.
pub(crate) struct Ipv4 {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) protocol: u8,
    /// Flags and offset.
    fragment: u16,
    /// Where the payload starts.
    pub(crate) body: usize,
}

impl Ipv4 {
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1FFF;

    #[inline(always)]
    pub(crate) fn read<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Self, Malformed> {
        let [version_length, _service] = read(packet, at)?;
        let header = usize::from(version_length & 0x0F) * 4;
        if version_length >> 4 != 4 || header < 20 {
            return Err(Malformed);
        }
        Ok(Self {
            fragment: big_endian(packet, at + 6)?,
            protocol: read(packet, at + 9).map(|[protocol]| protocol)?,
            source: Address::v4(read(packet, at + 12)?),
            destination: Address::v4(read(packet, at + 16)?),
            body: at + header,
        })
    }

    /// Whether it is a fragment other than the first.
    #[inline(always)]
    pub(crate) const fn is_later(&self) -> bool {
        self.fragment & Self::OFFSET != 0
    }
}

#[inline(always)]
fn ipv4<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Frame, Malformed> {
    let header = Ipv4::read(packet, at)?;
    if header.fragment & (Ipv4::MORE | Ipv4::OFFSET) == 0 {
        return Ok(Frame::Ip(Flow {
            source: header.source,
            destination: header.destination,
            transport: transport_in_ipv4(packet, &header)?,
        }));
    }
    let first = if header.is_later() {
        None
    } else {
        let end = at + usize::from(big_endian(packet, at + 2)?);
        holds_header(header.protocol, header.body, end)?;
        Some(transport_in_ipv4(packet, &header)?)
    };
    Ok(Frame::Fragment(Fragment {
        datagram: Datagram {
            source: header.source,
            destination: header.destination,
            identification: big_endian(packet, at + 4)?.into(),
            protocol: header.protocol.into(),
        },
        first,
    }))
}

#[inline(always)]
fn transport_in_ipv4<P: Packet + ?Sized>(
    packet: &P,
    header: &Ipv4,
) -> Result<Transport, Malformed> {
    match header.protocol {
        protocol::TCP => segment(packet, header.body).map(Transport::Tcp),
        protocol::UDP => ports(packet, header.body).map(Transport::Udp),
        protocol::ICMP => match icmp_kind(packet, header.body)? {
            // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
            3 | 4 | 5 | 11 | 12 => Ok(Transport::IcmpError(Quotation::Ipv4(header.body + 8))),
            _ => Ok(Transport::Icmp),
        },
        other => Ok(Transport::Other(other)),
    }
}

/// An IPv6 header.
pub(crate) struct Ipv6 {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    /// The protocol of what starts at `body`.
    pub(crate) next: u8,
    pub(crate) body: usize,
}

impl Ipv6 {
    #[inline(always)]
    pub(crate) fn read<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Self, Malformed> {
        let [version, _class] = read(packet, at)?;
        if version >> 4 != 6 {
            return Err(Malformed);
        }
        Ok(Self {
            source: Address::v6(read(packet, at + 8)?),
            destination: Address::v6(read(packet, at + 24)?),
            next: read(packet, at + 6).map(|[next]| next)?,
            body: at + 40,
        })
    }
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Frame, Malformed> {
    let header = Ipv6::read(packet, at)?;
    let flow = |transport| Flow {
        source: header.source,
        destination: header.destination,
        transport,
    };
    match upper_layer(packet, header.next, header.body, MAX_EXTENSIONS)? {
        UpperLayer::At(protocol::ICMPV6, body) => match icmp_kind(packet, body)? {
            discovery::SOLICITATION => Ok(Frame::Question {
                asker: header.source,
                target: Address::v6(read(packet, body + 8)?),
            }),
            discovery::ADVERTISEMENT => Ok(Frame::Answer {
                asker: header.destination,
            }),
            _ => transport_in_ipv6(packet, protocol::ICMPV6, body)
                .map(|transport| Frame::Ip(flow(transport))),
        },
        UpperLayer::At(protocol, body) => {
            transport_in_ipv6(packet, protocol, body).map(|transport| Frame::Ip(flow(transport)))
        }
        UpperLayer::Fragment(part) => {
            let first = if part.is_later {
                None
            } else {
                let end = at + 40 + usize::from(big_endian(packet, at + 4)?);
                match upper_layer(packet, part.next, part.body, MAX_EXTENSIONS_OF_FRAGMENT)? {
                    UpperLayer::At(protocol, body) => {
                        holds_header(protocol, body, end)?;
                        Some(transport_in_ipv6(packet, protocol, body)?)
                    }
                    UpperLayer::Fragment(_) => return Err(Malformed),
                }
            };
            Ok(Frame::Fragment(Fragment {
                datagram: Datagram {
                    source: header.source,
                    destination: header.destination,
                    identification: part.identification,
                    protocol: 0,
                },
                first,
            }))
        }
    }
}

#[inline(always)]
fn transport_in_ipv6<P: Packet + ?Sized>(
    packet: &P,
    protocol: u8,
    body: usize,
) -> Result<Transport, Malformed> {
    match protocol {
        protocol::TCP => segment(packet, body).map(Transport::Tcp),
        protocol::UDP => ports(packet, body).map(Transport::Udp),
        protocol::ICMPV6 => match icmp_kind(packet, body)? {
            // Destination unreachable, packet too big, time exceeded, parameter problem.
            1..=4 => Ok(Transport::IcmpError(Quotation::Ipv6(body + 8))),
            _ => Ok(Transport::Icmp),
        },
        other => Ok(Transport::Other(other)),
    }
}

/// What lies behind the extension headers of an IPv6 packet.
pub(crate) enum UpperLayer {
    /// A protocol, and where its header starts.
    At(u8, usize),
    /// A part of a packet.
    Fragment(Part),
}

/// An IPv6 fragment header.
pub(crate) struct Part {
    /// Whether it is another than the first.
    pub(crate) is_later: bool,
    identification: u32,
    /// The protocol of what starts at `body`; only the first fragment's counts.
    pub(crate) next: u8,
    pub(crate) body: usize,
}

/// Follows the extension headers from `next` at `body`, `most` of them at most.
#[inline(always)]
pub(crate) fn upper_layer<P: Packet + ?Sized>(
    packet: &P,
    mut next: u8,
    mut body: usize,
    most: usize,
) -> Result<UpperLayer, Malformed> {
    for _ in 0..=most {
        match next {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => {
                let [following, length] = read(packet, body)?;
                next = following;
                body += 8 * (usize::from(length) + 1);
            }
            44 => {
                let [following, _, high, low, a, b, c, d] = read(packet, body)?;
                let place = u16::from_be_bytes([high, low]);
                next = following;
                body += 8;
                // Neither an offset nor more to come: an atomic fragment, the whole packet (RFC 6946).
                if place & 0xFFF9 != 0 {
                    return Ok(UpperLayer::Fragment(Part {
                        is_later: place & 0xFFF8 != 0,
                        identification: u32::from_be_bytes([a, b, c, d]),
                        next,
                        body,
                    }));
                }
            }
            protocol => return Ok(UpperLayer::At(protocol, body)),
        }
    }
    Err(Malformed)
}

/// Whether a first fragment that ends at `end` holds what the filter reads of the header at `body`. What follows an IP
/// packet in its frame is padding, in which an attacker may write other ports than the later fragments bring.
#[inline(always)]
fn holds_header(protocol: u8, body: usize, end: usize) -> Result<(), Malformed> {
    let header = match protocol {
        protocol::TCP => SEGMENT,
        protocol::UDP | protocol::ICMP | protocol::ICMPV6 => 8,
        _ => 0,
    };
    if body + header <= end {
        Ok(())
    } else {
        Err(Malformed)
    }
}

/// The type of an ICMP or ICMPv6 message. (Its code is read with it: the verifier does not follow a comparison that
/// guards one byte at an offset that it does not know.)
#[inline(always)]
pub(crate) fn icmp_kind<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<u8, Malformed> {
    let [kind, _code] = read(packet, at)?;
    Ok(kind)
}

#[inline(always)]
pub(crate) fn ports<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Ports, Malformed> {
    let [a, b, c, d] = read(packet, at)?;
    Ok(Ports {
        source: u16::from_be_bytes([a, b]),
        destination: u16::from_be_bytes([c, d]),
    })
}

/// How much of a TCP header is read: a shorter one could hide what it does.
const SEGMENT: usize = 14;

#[inline(always)]
fn segment<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Segment, Malformed> {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let [a, b, c, d, s, t, u, v, e, f, g, h, _, flags]: [u8; SEGMENT] = read(packet, at)?;
    Ok(Segment {
        ports: Ports {
            source: u16::from_be_bytes([a, b]),
            destination: u16::from_be_bytes([c, d]),
        },
        sequence: u32::from_be_bytes([s, t, u, v]),
        acknowledgement: u32::from_be_bytes([e, f, g, h]),
        opens: flags & (SYN | ACK) == SYN,
    })
}

#[inline(always)]
pub(crate) fn read<P: Packet + ?Sized, const N: usize>(
    packet: &P,
    at: usize,
) -> Result<[u8; N], Malformed> {
    packet.read(at).ok_or(Malformed)
}

#[inline(always)]
pub(crate) fn big_endian<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<u16, Malformed> {
    read(packet, at).map(u16::from_be_bytes)
}

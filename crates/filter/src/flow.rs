//! From the bytes of a frame to what the filter must know of it.
//!
//! [`Frame::parse`] is compiled twice: over a byte slice for the simulator, `covey why` and tests, and over
//! the XDP context in `ebpf/`. What differs is only [`Packet`], the way to read a few bytes at an offset.
//! Specification: docs/design.md, "Data path".
//!
//! ```text
//!   Ethernet II (two VLAN tags at most) +-- ARP ------------------------------> Question, Answer
//!                                       +-- IPv4 (options) -------+
//!                                       +-- IPv6 (six extensions)-+-- TCP, UDP, other --> Flow
//!                                                                 +-- ICMPv6 ND --> Question, Answer
//! ```
//!
//! Nothing is trusted: a length that the bytes do not bear out is [`Malformed`], never a panic. Checksums and
//! what the kernel checks anyway are left to the kernel.

use crate::Address;

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
        /// Protocol address of the one who asks.
        asker: Address,
        /// Protocol address asked for.
        target: Address,
    },
    /// An ARP reply or a neighbour advertisement, sent to the holder of `asker`.
    Answer {
        /// Protocol address of the one who had asked.
        asker: Address,
    },
    /// An IP packet.
    Ip(Flow),
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

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(Segment),
    /// UDP.
    Udp(Ports),
    /// An ICMP or ICMPv6 error about a packet sent earlier.
    IcmpError,
    /// A fragment other than the first: it has no ports.
    LaterFragment,
    /// Echo requests and all other protocols.
    Other,
}

/// Ports in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The client's.
    pub source: u16,
    /// The service's.
    pub destination: u16,
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

const MAX_VLAN_TAGS: usize = 2;
const MAX_EXTENSIONS: usize = 6;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

pub(crate) const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;

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

#[inline(always)]
fn ipv4<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Frame, Malformed> {
    let [version_length] = read(packet, at)?;
    let header = usize::from(version_length & 0x0F) * 4;
    if version_length >> 4 != 4 || header < 20 {
        return Err(Malformed);
    }
    let fragment = big_endian(packet, at + 6)?;
    let [protocol] = read(packet, at + 9)?;
    let source = Address::v4(read(packet, at + 12)?);
    let destination = Address::v4(read(packet, at + 16)?);
    let transport = if fragment & 0x1FFF != 0 {
        Transport::LaterFragment
    } else {
        match protocol {
            TCP => Transport::Tcp(segment(packet, at + header)?),
            UDP => Transport::Udp(ports(packet, at + header)?),
            ICMP => match read(packet, at + header)? {
                // Destination unreachable, time exceeded, parameter problem.
                [3 | 11 | 12] => Transport::IcmpError,
                _ => Transport::Other,
            },
            _ => Transport::Other,
        }
    };
    Ok(Frame::Ip(Flow {
        source,
        destination,
        transport,
    }))
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Frame, Malformed> {
    let [version] = read(packet, at)?;
    if version >> 4 != 6 {
        return Err(Malformed);
    }
    let source = Address::v6(read(packet, at + 8)?);
    let destination = Address::v6(read(packet, at + 24)?);
    let transport = match upper_layer(packet, at)? {
        UpperLayer::LaterFragment => Transport::LaterFragment,
        UpperLayer::At(TCP, body) => Transport::Tcp(segment(packet, body)?),
        UpperLayer::At(UDP, body) => Transport::Udp(ports(packet, body)?),
        UpperLayer::At(ICMPV6, body) => match read(packet, body)? {
            // Destination unreachable, packet too big, time exceeded, parameter problem.
            [1..=4] => Transport::IcmpError,
            [SOLICITATION] => {
                return Ok(Frame::Question {
                    asker: source,
                    target: Address::v6(read(packet, body + 8)?),
                });
            }
            [ADVERTISEMENT] => return Ok(Frame::Answer { asker: destination }),
            _ => Transport::Other,
        },
        UpperLayer::At(..) => Transport::Other,
    };
    Ok(Frame::Ip(Flow {
        source,
        destination,
        transport,
    }))
}

/// What lies behind the extension headers of an IPv6 packet.
enum UpperLayer {
    /// A protocol, and where its header starts.
    At(u8, usize),
    /// A fragment other than the first.
    LaterFragment,
}

#[inline(always)]
fn upper_layer<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<UpperLayer, Malformed> {
    let [mut next] = read(packet, at + 6)?;
    let mut body = at + 40;
    for _ in 0..=MAX_EXTENSIONS {
        match next {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => {
                let [following, length] = read(packet, body)?;
                next = following;
                body += 8 * (usize::from(length) + 1);
            }
            // Fragment.
            44 => {
                let [following, _, high, low] = read(packet, body)?;
                if u16::from_be_bytes([high, low]) & 0xFFF8 != 0 {
                    return Ok(UpperLayer::LaterFragment);
                }
                next = following;
                body += 8;
            }
            protocol => return Ok(UpperLayer::At(protocol, body)),
        }
    }
    Err(Malformed)
}

#[inline(always)]
fn ports<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Ports, Malformed> {
    let [a, b, c, d] = read(packet, at)?;
    Ok(Ports {
        source: u16::from_be_bytes([a, b]),
        destination: u16::from_be_bytes([c, d]),
    })
}

/// The first 14 bytes of a TCP header: a shorter one could hide what it does.
#[inline(always)]
fn segment<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Segment, Malformed> {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let [a, b, c, d, s, t, u, v, e, f, g, h, _, flags] = read(packet, at)?;
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

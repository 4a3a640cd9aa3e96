//! What an ICMP error quotes: the packet that it is about, which this cluster has sent.
//!
//! The error must reach the host that has the flow, so the filter reads the ends of that flow from the quotation: the
//! quoted *source* is the virtual IP, the quoted *destination* the client. RFC 792 promises 8 bytes behind the quoted
//! IP header, enough for the ports. Called by `thorough.rs`. Specification: docs/design.md, "Data path".

use crate::Address;
use crate::flow::{Ipv4, Ipv6, Malformed, Packet, Ports, UpperLayer, ports, protocol, upper_layer};

/// Extension headers of a quoted packet, which this cluster has sent: a fragment header, as a rule none.
const MAX_EXTENSIONS: usize = 2;

/// Where an ICMP error quotes a packet of which family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotation {
    /// The IPv4 header is at this offset in the frame.
    Ipv4(usize),
    /// The IPv6 header is at this offset in the frame.
    Ipv6(usize),
}

/// A packet from the cluster to a client, as an ICMP error quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Who had sent it: a virtual IP, or the quotation is not about the cluster.
    pub source: Address,
    /// To whom it was sent.
    pub client: Address,
    /// What was in it.
    pub content: Quoted,
}

/// What a quoted packet carried. Ports are turned round: `source` is the client's, as in a packet from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoted {
    /// TCP.
    Tcp(Ports),
    /// UDP.
    Udp(Ports),
    /// ICMP or ICMPv6.
    Icmp,
    /// Another protocol, by its number.
    Other(u8),
    /// A fragment other than the first.
    LaterFragment,
}

impl Quote {
    /// Reads a quotation in a frame.
    ///
    /// # Errors
    /// [`Malformed`] if it ends before the ports, or has too many extension headers.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(packet: &P, quotation: Quotation) -> Result<Self, Malformed> {
        match quotation {
            Quotation::Ipv4(at) => Self::of_ipv4(packet, at),
            Quotation::Ipv6(at) => Self::of_ipv6(packet, at),
        }
    }

    #[inline(always)]
    fn of_ipv4<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Self, Malformed> {
        let header = Ipv4::read(packet, at)?;
        let content = if header.is_later() {
            Quoted::LaterFragment
        } else {
            Quoted::read(packet, header.protocol, protocol::ICMP, header.body)?
        };
        Ok(Self {
            source: header.source,
            client: header.destination,
            content,
        })
    }

    #[inline(always)]
    fn of_ipv6<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Self, Malformed> {
        let header = Ipv6::read(packet, at)?;
        let content = match upper_layer(packet, header.next, header.body, MAX_EXTENSIONS)? {
            UpperLayer::At(protocol, body) => {
                Quoted::read(packet, protocol, protocol::ICMPV6, body)?
            }
            UpperLayer::Fragment(part) if part.is_later => Quoted::LaterFragment,
            UpperLayer::Fragment(part) => {
                Quoted::read(packet, part.next, protocol::ICMPV6, part.body)?
            }
        };
        Ok(Self {
            source: header.source,
            client: header.destination,
            content,
        })
    }
}

impl Quoted {
    #[inline(always)]
    fn read<P: Packet + ?Sized>(
        packet: &P,
        protocol: u8,
        icmp: u8,
        body: usize,
    ) -> Result<Self, Malformed> {
        let turned = || {
            let sent = ports(packet, body)?;
            Ok(Ports {
                source: sent.destination,
                destination: sent.source,
            })
        };
        match protocol {
            protocol::TCP => turned().map(Self::Tcp),
            protocol::UDP => turned().map(Self::Udp),
            other if other == icmp => Ok(Self::Icmp),
            other => Ok(Self::Other(other)),
        }
    }
}

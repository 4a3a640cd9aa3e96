//! The bytes that clients and the hosts' network stacks exchange: IPv4 with TCP or UDP in Ethernet frames, with
//! valid checksums, so that a capture of a run opens in Wireshark and a flipped bit is noticed as a kernel would.
//!
//! Heartbeats and ARP questions are made and read by `covey_proto`, which simulated hosts use as real ones do.

use crate::site;
use covey_proto::ids::Mac;
use covey_proto::wire::arp::Arp;
use covey_proto::wire::ethernet::{self, Ethernet, HEADER_LEN};
use covey_proto::wire::heartbeat::{Body, Message};
use std::net::{Ipv4Addr, SocketAddrV4};

/// EtherType of IPv4.
pub(crate) const IPV4: u16 = 0x0800;
/// TCP flags, as in the header.
pub(crate) const FIN: u8 = 0x01;
/// Opens a connection.
pub(crate) const SYN: u8 = 0x02;
/// Ends one at once.
pub(crate) const RST: u8 = 0x04;
/// The acknowledgement number counts.
pub(crate) const ACK: u8 = 0x10;

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tcp<'a> {
    /// Sequence number of its first byte.
    pub(crate) sequence: u32,
    /// The next byte expected from the other side, if [`ACK`] is set.
    pub(crate) acknowledgement: u32,
    /// [`SYN`], [`ACK`], [`FIN`] and [`RST`].
    pub(crate) flags: u8,
    /// The data.
    pub(crate) payload: &'a [u8],
}

impl Tcp<'_> {
    /// Whether all these flags are set.
    pub(crate) const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The sequence number after it: SYN and FIN count as one byte each.
    pub(crate) const fn end(&self) -> u32 {
        let flags = self.has(SYN) as u32 + self.has(FIN) as u32;
        self.sequence
            .wrapping_add(self.payload.len() as u32 + flags)
    }
}

/// What is in an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport<'a> {
    /// A TCP segment.
    Tcp(Tcp<'a>),
    /// A UDP datagram's data.
    Udp(&'a [u8]),
}

/// An IPv4 packet between two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// Who sends.
    pub(crate) from: SocketAddrV4,
    /// To whom.
    pub(crate) to: SocketAddrV4,
    /// What.
    pub(crate) transport: Transport<'a>,
}

impl<'a> Packet<'a> {
    /// Reads the payload of an Ethernet frame; `None` for what a network stack would not take: other protocols,
    /// wrong lengths, wrong checksums.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<IP_HEADER>()?;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] != 0x45 || sum(header, 0) != 0xFFFF || total < IP_HEADER {
            return None;
        }
        let body = bytes.get(IP_HEADER..total)?;
        let protocol = header[9];
        if sum(body, pseudo_header(&header[12..20], protocol, body.len())) != 0xFFFF {
            return None;
        }
        let address =
            |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        let word = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u32::from_be_bytes(*body.get(at..)?.first_chunk()?));
        let transport = match protocol {
            PROTOCOL_TCP => Transport::Tcp(Tcp {
                sequence: long(4)?,
                acknowledgement: long(8)?,
                flags: *body.get(13)?,
                payload: body.get(TCP_HEADER..)?,
            }),
            PROTOCOL_UDP => Transport::Udp(body.get(UDP_HEADER..)?),
            _ => return None,
        };
        Some(Self {
            from: SocketAddrV4::new(address(12), word(0)?),
            to: SocketAddrV4::new(address(16), word(2)?),
            transport,
        })
    }

    /// The packet in a whole Ethernet frame.
    pub(crate) fn emit(&self, source: Mac, destination: Mac) -> Vec<u8> {
        let (protocol, header, data) = match &self.transport {
            Transport::Tcp(segment) => (PROTOCOL_TCP, TCP_HEADER, segment.payload),
            Transport::Udp(data) => (PROTOCOL_UDP, UDP_HEADER, *data),
        };
        let mut frame = vec![0; HEADER_LEN + IP_HEADER + header + data.len()];
        frame[..6].copy_from_slice(&destination.0);
        frame[6..12].copy_from_slice(&source.0);
        frame[12..14].copy_from_slice(&IPV4.to_be_bytes());
        let (ip, body) = frame[HEADER_LEN..].split_at_mut(IP_HEADER);
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&((IP_HEADER + body.len()) as u16).to_be_bytes());
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = protocol;
        ip[12..16].copy_from_slice(&self.from.ip().octets());
        ip[16..20].copy_from_slice(&self.to.ip().octets());
        let checksum = !sum(ip, 0);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        body[..2].copy_from_slice(&self.from.port().to_be_bytes());
        body[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        let checksum_at = match &self.transport {
            Transport::Tcp(segment) => {
                body[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
                body[8..12].copy_from_slice(&segment.acknowledgement.to_be_bytes());
                body[12] = 5 << 4;
                body[13] = segment.flags;
                body[14..16].copy_from_slice(&0xFFFF_u16.to_be_bytes());
                16
            }
            Transport::Udp(_) => {
                let length = body.len() as u16;
                body[4..6].copy_from_slice(&length.to_be_bytes());
                6
            }
        };
        body[header..].copy_from_slice(data);
        let checksum = !sum(body, pseudo_header(&ip[12..20], protocol, body.len()));
        // A UDP checksum of 0 would mean that there is none (RFC 768).
        let checksum = if checksum == 0 { 0xFFFF } else { checksum };
        body[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        frame
    }
}

fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> u32 {
    u32::from(sum(addresses, u32::from(protocol) + length as u32))
}

/// The sum of all 16-bit words in ones' complement (RFC 1071).
fn sum(bytes: &[u8], start: u32) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum = bytes.chunks(2).map(word).fold(start, u32::wrapping_add);
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// The answer to an ARP question: `mac` has the address that was asked for.
pub(crate) fn arp_reply(question: &Arp, mac: Mac) -> Vec<u8> {
    let mut frame = Arp::question(mac, question.target_ip, question.sender_ip);
    frame[..6].copy_from_slice(&question.sender_mac.0);
    frame[HEADER_LEN + 7] = 2;
    frame[HEADER_LEN + 18..HEADER_LEN + 24].copy_from_slice(&question.sender_mac.0);
    frame
}

/// One line about a frame, for traces.
pub(crate) fn describe(frame: &[u8]) -> String {
    let Ok(ethernet) = Ethernet::parse(frame) else {
        return format!("{} bytes that are no frame", frame.len());
    };
    let inside = match ethernet.ethertype {
        ethernet::HEARTBEAT | ethernet::LEGACY_HEARTBEAT => describe_heartbeat(ethernet.payload),
        ethernet::ARP => Arp::parse(ethernet.payload).map_or_else(
            |_| "broken ARP".to_owned(),
            |arp| {
                format!(
                    "ARP {:?}, {} asks or tells {}",
                    arp.operation, arp.sender_ip, arp.target_ip
                )
            },
        ),
        _ => match Packet::parse(ethernet.payload) {
            None => format!("{} bytes that no stack takes", frame.len()),
            Some(Packet {
                from,
                to,
                transport: Transport::Udp(data),
            }) => {
                format!("UDP {from} > {to}, {} bytes", data.len())
            }
            Some(Packet {
                from,
                to,
                transport: Transport::Tcp(tcp),
            }) => {
                let named = [(SYN, "SYN "), (FIN, "FIN "), (RST, "RST "), (ACK, "ACK ")];
                let flags: String = named
                    .iter()
                    .filter(|(flag, _)| tcp.has(*flag))
                    .map(|(_, name)| *name)
                    .collect();
                let (sequence, acknowledged) = (tcp.sequence, tcp.acknowledgement);
                format!(
                    "TCP {from} > {to} {flags}{sequence} {acknowledged} {} bytes",
                    tcp.payload.len()
                )
            }
        },
    };
    format!("{} > {}: {inside}", ethernet.source, ethernet.destination)
}

fn describe_heartbeat(payload: &[u8]) -> String {
    let length = payload.len();
    let message = match Message::parse(payload, site::VIP.octets(), &site::auth()) {
        Ok(message) => message,
        Err(reason) => return format!("heartbeat of {length} bytes, refused: {}", reason.label()),
    };
    let sequence = message.sender.sequence;
    let Body::Heartbeat(heartbeat) = message.body else {
        return format!("part {sequence} of something large, {length} bytes");
    };
    let proposes = heartbeat.proposal.map_or_else(String::new, |proposal| {
        let (ballot, view, owners) = (proposal.ballot, proposal.view, proposal.owners);
        format!(
            ", proposes {}.{} with {view}, owners {owners}",
            ballot.epoch, ballot.attempt
        )
    });
    let staged = heartbeat.staged.map_or_else(String::new, |staged| {
        let ballot = staged.ballot;
        format!(
            ", acknowledges {}.{} of {}",
            ballot.epoch, ballot.attempt, ballot.proposer
        )
    });
    let epoch = heartbeat
        .committed
        .map_or_else(String::new, |map| format!(", epoch {}", map.ballot.epoch));
    let (says, hears, grants) = (heartbeat.announced, heartbeat.hears(), heartbeat.grants);
    format!(
        "heartbeat {sequence}: {says:?}{epoch}, hears {hears}, grants {grants}{proposes}{staged}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use covey_proto::wire::arp::Operation;

    fn example(transport: Transport<'_>) -> Vec<u8> {
        let packet = Packet {
            from: "10.77.1.1:40000".parse().unwrap(),
            to: "10.77.0.100:80".parse().unwrap(),
            transport,
        };
        let frame = packet.emit(Mac([2, 0, 0, 0, 1, 1]), Mac([2, 0xBF, 10, 77, 0, 100]));
        assert_eq!(Packet::parse(&frame[HEADER_LEN..]), Some(packet));
        frame
    }

    #[test]
    fn what_is_sent_reads_back_and_a_flipped_bit_is_noticed() {
        let tcp = Tcp {
            sequence: 7,
            acknowledgement: 9,
            flags: SYN | ACK,
            payload: b"abc",
        };
        for frame in [
            example(Transport::Tcp(tcp)),
            example(Transport::Udp(b"odd")),
            example(Transport::Udp(b"even")),
        ] {
            for bit in HEADER_LEN * 8..frame.len() * 8 {
                let mut damaged = frame.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Packet::parse(&damaged[HEADER_LEN..]), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn the_checksum_of_a_known_header() {
        // The example of RFC 1071, §3.
        assert_eq!(
            sum(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7], 0),
            0xDDF2
        );
    }

    #[test]
    fn an_arp_answer_is_one() {
        let asker = Mac([2, 0, 0, 0, 1, 1]);
        let question = Arp::question(
            asker,
            Ipv4Addr::new(10, 0, 0, 1),
            Ipv4Addr::new(10, 0, 0, 2),
        );
        let question = Arp::parse(&question[HEADER_LEN..]).unwrap();
        let answer = arp_reply(&question, Mac([2, 0, 0, 0, 0, 2]));
        let read = Arp::parse(&answer[HEADER_LEN..]).unwrap();
        assert_eq!(
            (read.operation, read.sender_ip, read.target_mac),
            (Operation::Reply, question.target_ip, asker)
        );
    }
}

//! Heavy traffic at the virtual IP, from the client: SYN segments to the web server, or datagrams to the echo service.
//!
//! Frames are made by hand and sent at a fixed rate, whatever becomes of them. They come from addresses that nobody else
//! has (10.77.0.201 to 10.77.0.254). The flood answers ARP for these, so that the servers' answers leave their hosts;
//! nobody takes them, so half-open connections stay half-open, which a reset by the client's kernel would end.
//! docs/design.md, "The lab".

use crate::lab::interrupt::TICK;
use crate::lab::packet::{NOTHING, PacketSocket};
use crate::lab::topology::{CLIENT, NIC, VIP, mac};
use anyhow::Result;
use covey_proto::ids::Mac;
use covey_proto::wire::ethernet::{ARP, Ethernet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

/// The last bytes of the addresses that the flood comes from.
const SOURCES: std::ops::RangeInclusive<u8> = 201..=254;
/// How long the flood rests between two bursts.
const BURST: Duration = Duration::from_millis(1);

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lab) enum Kind {
    /// SYN segments to TCP port 80.
    Syn,
    /// Datagrams to UDP port 7.
    Udp,
}

impl Kind {
    /// The word for it.
    pub(in crate::lab) const fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Udp => "udp",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "syn" => Ok(Self::Syn),
            "udp" => Ok(Self::Udp),
            _ => Err(format!(
                "`{text}` is no kind of flood; those are syn and udp"
            )),
        }
    }
}

/// Frames per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lab) struct Rate(u32);

impl Default for Rate {
    fn default() -> Self {
        Self(20_000)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .filter(|rate| (1..=1_000_000).contains(rate))
            .map(Self)
            .ok_or_else(|| "a rate is a number of frames per second, 1 to 1000000".to_owned())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Rate {
    /// Frames that are due after this time.
    fn due(self, after: Duration) -> u64 {
        (after.as_secs_f64() * f64::from(self.0)) as u64
    }
}

/// Floods from the network namespace of this thread until it is over. Says how many frames were sent.
///
/// # Errors
/// If there is no NIC to send on.
pub(in crate::lab) fn flood(
    kind: Kind,
    rate: Rate,
    cluster_mac: Mac,
    over: &dyn Fn() -> bool,
) -> Result<u64> {
    let socket = PacketSocket::open(NIC, NOTHING)?.past_tc()?;
    let questions = PacketSocket::open(NIC, ARP)?;
    let start = Instant::now();
    let (mut tried, mut sent) = (0, 0);
    while !over() {
        let due = rate.due(start.elapsed());
        // Whoever was kept from sending for long does not make up for it in one burst.
        tried = tried.max(due.saturating_sub(rate.due(TICK)));
        for number in tried..due {
            sent += u64::from(socket.send(&frame(kind, cluster_mac, number)).is_ok());
        }
        tried = due;
        answer(&questions);
        thread::sleep(BURST);
    }
    Ok(sent)
}

/// The flood's frame of this number.
fn frame(kind: Kind, cluster_mac: Mac, number: u64) -> Vec<u8> {
    let count = u64::from(SOURCES.end() - SOURCES.start()) + 1;
    let source = source(SOURCES.start() + (number % count) as u8);
    // Each address goes through its ports in an order of its own, so that all buckets get some.
    let port = 1024 + (number.wrapping_mul(40_503) % 64_000) as u16;
    let (protocol, body) = match kind {
        Kind::Syn => {
            let sequence = (number as u32).wrapping_mul(2_654_435_761).to_be_bytes();
            let rest = [0, 0, 0, 0, 0x50, 0x02, 0xFF, 0xFF, 0, 0, 0, 0];
            let ports = [port.to_be_bytes(), 80_u16.to_be_bytes()].concat();
            (6, [&ports[..], &sequence, &rest].concat())
        }
        Kind::Udp => {
            let payload = b"covey flood";
            let length = 8 + payload.len() as u16;
            let header = [port, 7, length, 0].map(u16::to_be_bytes).concat();
            (17, [&header[..], payload].concat())
        }
    };
    let packet = packet(source, protocol, body);
    Ethernet {
        destination: cluster_mac,
        source: mac(CLIENT),
        ethertype: 0x0800,
        payload: &packet,
    }
    .emit()
}

fn source(last: u8) -> Ipv4Addr {
    let [a, b, c, _] = CLIENT.octets();
    Ipv4Addr::new(a, b, c, last)
}

/// An IPv4 packet to the virtual IP, with all checksums.
fn packet(source: Ipv4Addr, protocol: u8, mut body: Vec<u8>) -> Vec<u8> {
    let length = (20 + body.len() as u16).to_be_bytes();
    let addresses = [source.octets(), VIP.octets()].concat();
    let mut header = [
        &[
            0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0,
        ][..],
        &addresses,
    ]
    .concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    let counted = [0, protocol, 0, body.len() as u8];
    let sum = checksum(&[&addresses[..], &counted, &body].concat());
    let at = if protocol == 6 { 16 } else { 6 };
    body[at..at + 2].copy_from_slice(&sum);
    [header, body].concat()
}

/// The Internet checksum (RFC 1071), as it is written.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    (!((folded & 0xFFFF) + (folded >> 16)) as u16).to_be_bytes()
}

/// Answers who asks where the flood's addresses are.
fn answer(questions: &PacketSocket) {
    let mut buffer = [0; 128];
    while let Some(length) = questions.receive(&mut buffer) {
        if let Some(answer) = arp_answer(&buffer[..length]) {
            // One that is lost is asked for again.
            let _ = questions.send(&answer);
        }
    }
}

/// The answer to an ARP question for one of the flood's addresses.
fn arp_answer(frame: &[u8]) -> Option<Vec<u8>> {
    const ASKS: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    let question = Ethernet::parse(frame).ok()?;
    let body = question.payload.get(..28)?;
    let (asker, wanted) = (&body[8..18], &body[24..28]);
    let mine = wanted[..3] == CLIENT.octets()[..3] && SOURCES.contains(&wanted[3]);
    if body[..8] != ASKS || !mine {
        return None;
    }
    let answers = [0, 1, 8, 0, 6, 4, 0, 2];
    let payload = [&answers[..], &mac(CLIENT).0, wanted, asker].concat();
    let answer = Ethernet {
        destination: question.source,
        source: mac(CLIENT),
        ethertype: ARP,
        payload: &payload,
    };
    Some(answer.emit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const CLUSTER: Mac = Mac([0x02, 0xBF, 10, 77, 0, 100]);

    #[test]
    fn a_checksum_over_a_packet_with_its_checksum_is_zero() {
        for (kind, protocol) in [(Kind::Syn, 6), (Kind::Udp, 17)] {
            let frame = frame(kind, CLUSTER, 12_345);
            let (header, body) = frame[14..].split_at(20);
            assert_eq!(checksum(header), [0, 0]);
            let pseudo = [&header[12..20], &[0, protocol, 0, body.len() as u8]].concat();
            assert_eq!(checksum(&[&pseudo[..], body].concat()), [0, 0]);
        }
    }

    #[test]
    fn the_flood_comes_from_many_ports_of_many_addresses() {
        let sources: HashSet<Vec<u8>> = (0..100_000)
            .map(|number| {
                let frame = frame(Kind::Syn, CLUSTER, number);
                [&frame[26..30], &frame[34..36]].concat()
            })
            .collect();
        assert!(sources.len() > 60_000, "{}", sources.len());
    }

    #[test]
    fn its_addresses_are_answered_for_and_no_others() {
        let question = |wanted: u8, operation: u8| {
            let asker = [0x0A, 0, 10, 77, 0, 1, 10, 77, 0, 1];
            let head = [0, 1, 8, 0, 6, 4, 0, operation];
            let payload = [&head[..], &asker, &[0; 6], &[10, 77, 0, wanted]].concat();
            Ethernet {
                destination: Mac::BROADCAST,
                source: Mac([0x0A, 0, 10, 77, 0, 1]),
                ethertype: ARP,
                payload: &payload,
            }
            .emit()
        };
        let answer = arp_answer(&question(201, 1)).unwrap();
        assert_eq!(answer[..6], [0x0A, 0, 10, 77, 0, 1]);
        assert_eq!(answer[20..22], [0, 2]);
        assert_eq!(answer[22..32], [0x0A, 0, 10, 77, 0, 200, 10, 77, 0, 201]);
        for other in [1, 100, 200, 255] {
            assert_eq!(arp_answer(&question(other, 1)), None);
        }
        assert_eq!(arp_answer(&question(201, 2)), None);
        assert_eq!(arp_answer(&question(201, 1)[..30]), None);
    }
}

//! IGMP as bytes: what a querier asks, and the messages that the kernel's own IGMP does not send. Used by
//! [`super::sockets`]. Specification: docs/design.md, "IP multicast groups".
//!
//! ```text
//!   0x11  query          max response u8, checksum u16, group u32; version 3: 4 bytes more and sources
//!   0x16  report (v2)    0, checksum, group                       (0x12 is version 1's)
//!   0x22  report (v3)    0, checksum, 0 u16, records u16; of each: type u8, 0, sources u16, group
//!   0x30  advertisement  interval u8 (s), checksum, query interval u16 (s), robustness u16     (RFC 4286)
//!   0x31  solicitation   0, checksum;  0x32 termination, alike
//! ```
//!
//! All in network order. The checksum is the Internet's, over the message.

use super::{Asked, Query, Version};
use std::net::Ipv4Addr;
use std::time::Duration;

pub(super) const QUERY: u8 = 0x11;
pub(super) const SOLICITATION: u8 = 0x31;
const REPORT_V1: u8 = 0x12;
const REPORT_V2: u8 = 0x16;
const REPORT_V3: u8 = 0x22;
const ADVERTISEMENT: u8 = 0x30;
const TERMINATION: u8 = 0x32;
/// The record of version 3 that says "I want this group, whoever sends to it": MODE_IS_EXCLUDE, without sources.
const FROM_EVERYBODY: u8 = 2;

/// Whom version 3's reports are for: all routers that speak it.
pub(super) const REPORTS_V3: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
/// Whom solicitations are for.
pub(super) const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
/// Whom advertisements are for: switches that snoop.
pub(super) const ALL_SNOOPERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 106);

/// Reads what the raw socket hands out: an IPv4 packet with a query or a solicitation in it. `None` of everything else, of
/// what is truncated, and of what has a wrong checksum.
pub(super) fn parse(packet: &[u8]) -> Option<Asked> {
    let header = usize::from(packet.first()? & 0x0F) * 4;
    let message = packet.get(header..)?;
    if message.len() < 4 || checksum(message) != 0 {
        return None;
    }
    match message[0] {
        SOLICITATION => Some(Asked::WhoRoutes),
        QUERY => Some(Asked::WhoListens(query(message)?)),
        _ => None,
    }
}

/// RFC 3376 §7.1 tells the versions apart: by length, and version 1 by a time of zero.
fn query(message: &[u8]) -> Option<Query> {
    let (version, unit) = match (message.len(), message[1]) {
        (8, 0) => (Version::V1, None),
        (8, tenths) => (Version::V2, Some(u32::from(tenths))),
        (12.., code) => (Version::V3, Some(floating(code))),
        _ => return None,
    };
    // Version 1 has no time in it: it is ten seconds.
    let tenths = unit.unwrap_or(100);
    let interval = message.get(9).filter(|_| version == Version::V3);
    Some(Query {
        version,
        within: Duration::from_millis(100) * tenths,
        every: interval.map(|code| Duration::from_secs(floating(*code).into())),
    })
}

/// Version 3's numbers: from 128 on a mantissa of four bits and an exponent of three (RFC 3376 §4.1.1).
pub(super) fn floating(code: u8) -> u32 {
    let code = u32::from(code);
    if code < 128 {
        code
    } else {
        (code & 0x0F | 0x10) << ((code >> 4 & 0x07) + 3)
    }
}

/// That this host is in a group, and to whom that is said.
pub(super) fn report(group: Ipv4Addr, version: Version) -> (Ipv4Addr, Vec<u8>) {
    let group_bytes = group.octets();
    let simple = |kind| [&[kind, 0, 0, 0][..], &group_bytes].concat();
    let (to, message) = match version {
        Version::V1 => (group, simple(REPORT_V1)),
        Version::V2 => (group, simple(REPORT_V2)),
        Version::V3 => {
            let one_record = [REPORT_V3, 0, 0, 0, 0, 0, 0, 1, FROM_EVERYBODY, 0, 0, 0];
            (REPORTS_V3, [&one_record[..], &group_bytes].concat())
        }
    };
    (to, with_checksum(message))
}

/// That multicast is to be forwarded to this host, as to a router. It sends no queries, so it names no times of them.
pub(super) fn advertisement(interval: Duration) -> Vec<u8> {
    let seconds = u8::try_from(interval.as_secs()).unwrap_or(u8::MAX);
    with_checksum(vec![ADVERTISEMENT, seconds, 0, 0, 0, 0, 0, 0])
}

/// That it is no longer.
pub(super) fn termination() -> Vec<u8> {
    with_checksum(vec![TERMINATION, 0, 0, 0])
}

fn with_checksum(mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// The Internet checksum (RFC 1071); zero over a message that holds a right one.
fn checksum(message: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let sum: u32 = message.chunks(2).map(word).sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    !(folded as u16).wrapping_add((folded >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 0, 100);

    /// Query of a Linux bridge, version 2, 1 s, to 224.0.0.1, as captured; the header has the router alert option.
    const V2: &str = "46c00020 00004000 01020417 00000000 e0000001 94040000 110aeef5 00000000";
    /// The same bridge as a querier of version 3: 1 s, every 2 s.
    const V3: &str =
        "46c00024 00004000 01020413 00000000 e0000001 94040000 110aecf3 00000000 02020000";

    fn bytes(digits: &str) -> Vec<u8> {
        let digits: String = digits.split_whitespace().collect();
        let pairs = digits.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        pairs.map(|pair| byte(pair).unwrap()).collect()
    }

    /// A message in a plain IPv4 header.
    fn packet(message: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45];
        packet.resize(20, 0);
        [packet, with_checksum(message.to_vec())].concat()
    }

    #[test]
    fn queries_of_all_versions_are_read() {
        let query = |version, tenths, every: Option<u64>| {
            Some(Asked::WhoListens(Query {
                version,
                within: Duration::from_millis(100) * tenths,
                every: every.map(Duration::from_secs),
            }))
        };
        assert_eq!(parse(&bytes(V2)), query(Version::V2, 10, None));
        assert_eq!(parse(&bytes(V3)), query(Version::V3, 10, Some(2)));
        let plain = |kind, code: u8, more: &[u8]| {
            packet(&[&[kind, code, 0, 0, 239, 255, 0, 100], more].concat())
        };
        let v1 = plain(QUERY, 0, &[]);
        assert_eq!(parse(&v1), query(Version::V1, 100, None));
        let long = plain(QUERY, 0x9F, &[0x02, 0x8A, 0, 0]);
        assert_eq!(parse(&long), query(Version::V3, 31 << 4, Some(26 << 3)));
    }

    #[test]
    fn what_is_no_question_is_nothing() {
        assert_eq!(
            parse(&packet(&[SOLICITATION, 0, 0, 0])),
            Some(Asked::WhoRoutes)
        );
        for other in [REPORT_V2, ADVERTISEMENT, 0x17] {
            assert_eq!(parse(&packet(&[other, 0, 0, 0, 239, 255, 0, 100])), None);
        }
        let mut damaged = bytes(V2);
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(parse(&damaged), None, "the checksum is wrong");
        let whole = bytes(V3);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn reports_are_those_of_the_kernel() {
        // As the kernel of a member has sent them, captured.
        assert_eq!(
            report(GROUP, Version::V2),
            (GROUP, bytes("1600f99befff0064"))
        );
        assert_eq!(
            report(GROUP, Version::V1),
            (GROUP, bytes("1200fd9befff0064"))
        );
        let v3 = bytes("2200eb9a 00000001 02000000 efff0064");
        assert_eq!(report(GROUP, Version::V3), (REPORTS_V3, v3));
    }

    #[test]
    fn a_router_says_how_often_it_says_so() {
        assert_eq!(
            advertisement(Duration::from_secs(20)),
            bytes("3014cfeb00000000")
        );
        assert_eq!(advertisement(Duration::from_secs(900))[1], 255);
        assert_eq!(termination(), bytes("3200cdff"));
    }
}

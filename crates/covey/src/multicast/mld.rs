//! MLD as bytes, the same for IPv6: ICMPv6 messages, whose checksum and header the kernel makes. Used by
//! [`super::sockets`]. Specification: docs/design.md, "IP multicast groups".
//!
//! ```text
//!   130  query          0, checksum u16, max response u16 (ms), 0 u16, group; version 2: 4 bytes more and sources
//!   151  advertisement  interval u8 (s), checksum, query interval u16 (s), robustness u16     (RFC 4286)
//!   152  solicitation   0, checksum;  153 termination, alike
//! ```

use super::igmp::floating;
use super::{Asked, Query, Version};
use std::net::Ipv6Addr;
use std::time::Duration;

pub(super) const QUERY: u8 = 130;
pub(super) const SOLICITATION: u8 = 152;
const ADVERTISEMENT: u8 = 151;
const TERMINATION: u8 = 153;

/// Whom solicitations are for.
pub(super) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 2);
/// Whom advertisements are for: switches that snoop.
pub(super) const ALL_SNOOPERS: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 0x6A);

/// Reads what the raw socket hands out: an ICMPv6 message, whose checksum the kernel has looked at.
pub(super) fn parse(message: &[u8]) -> Option<Asked> {
    match *message {
        [SOLICITATION, _, _, _, ..] => Some(Asked::WhoRoutes),
        [QUERY, _, _, _, high, low, ..] => {
            let code = u16::from_be_bytes([high, low]);
            let (version, millis, interval) = match message.len() {
                24 => (Version::V1, u32::from(code), None),
                28.. => (Version::V2, floating_long(code), Some(message[25])),
                _ => return None,
            };
            Some(Asked::WhoListens(Query {
                version,
                within: Duration::from_millis(millis.into()),
                every: interval.map(|code| Duration::from_secs(floating(code).into())),
            }))
        }
        _ => None,
    }
}

/// Version 2's numbers of two bytes: from 32768 on a mantissa of twelve bits and an exponent of three (RFC 3810 §5.1.3).
fn floating_long(code: u16) -> u32 {
    let code = u32::from(code);
    if code < 32768 {
        code
    } else {
        (code & 0x0FFF | 0x1000) << ((code >> 12 & 0x07) + 3)
    }
}

/// That multicast is to be forwarded to this host, as to a router.
pub(super) fn advertisement(interval: Duration) -> Vec<u8> {
    let seconds = u8::try_from(interval.as_secs()).unwrap_or(u8::MAX);
    vec![ADVERTISEMENT, seconds, 0, 0, 0, 0, 0, 0]
}

/// That it is no longer.
pub(super) fn termination() -> Vec<u8> {
    vec![TERMINATION, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_both_versions_are_read() {
        let message = |code: u16, length: usize, interval: u8| {
            let mut message = vec![QUERY, 0, 0, 0];
            message.extend(code.to_be_bytes());
            message.resize(length, 0);
            if length > 25 {
                message[25] = interval;
            }
            message
        };
        let query = |version, millis, every: Option<u64>| {
            Some(Asked::WhoListens(Query {
                version,
                within: Duration::from_millis(millis),
                every: every.map(Duration::from_secs),
            }))
        };
        let v1 = message(10_000, 24, 0);
        assert_eq!(parse(&v1), query(Version::V1, 10_000, None));
        let v2 = message(1000, 28, 125);
        assert_eq!(parse(&v2), query(Version::V2, 1000, Some(125)));
        let long = message(0x8001, 28, 0x80);
        assert_eq!(parse(&long), query(Version::V2, 0x1001 << 3, Some(128)));
        for length in [0, 4, 6, 23, 25, 27] {
            assert_eq!(parse(&v2[..length]), None, "{length}");
        }
        assert_eq!(parse(&[SOLICITATION, 0, 0, 0]), Some(Asked::WhoRoutes));
        assert_eq!(parse(&advertisement(Duration::from_secs(20))), None);
    }
}

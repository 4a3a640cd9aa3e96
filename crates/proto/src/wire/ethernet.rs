//! Ethernet II frames, as far as the core needs them.

use super::Reject;
use crate::ids::Mac;

/// EtherType of heartbeats (IEEE registered; Q232711).
pub const HEARTBEAT: u16 = 0x886F;
/// EtherType of heartbeats of the generation before (Q232711).
pub const LEGACY_HEARTBEAT: u16 = 0xBF01;
/// Whether frames of this EtherType are heartbeats, of this generation or the previous one.
pub const fn is_heartbeat(ethertype: u16) -> bool {
    matches!(ethertype, HEARTBEAT | LEGACY_HEARTBEAT)
}

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86DD;
/// EtherType of probes to a host's own MAC, and that under which its filter hands it those to the cluster MAC.
pub const PROBE: u16 = covey_filter::TO_DAEMON;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// Bytes of the header: destination, source, EtherType.
pub const HEADER_LEN: usize = 14;

/// A frame, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet<'a> {
    /// To whom.
    pub destination: Mac,
    /// From whom.
    pub source: Mac,
    /// What is inside.
    pub ethertype: u16,
    /// The inside, padding included.
    pub payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// Takes a frame apart.
    ///
    /// # Errors
    /// [`Reject::TooShort`] below 14 bytes.
    pub fn parse(frame: &'a [u8]) -> Result<Self, Reject> {
        let (header, payload) = frame
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(Reject::TooShort)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, high, low] = *header;
        Ok(Self {
            destination: Mac([d0, d1, d2, d3, d4, d5]),
            source: Mac([s0, s1, s2, s3, s4, s5]),
            ethertype: u16::from_be_bytes([high, low]),
            payload,
        })
    }

    /// The frame as bytes, without padding or checksum.
    pub fn emit(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER_LEN + self.payload.len());
        frame.extend_from_slice(&self.destination.0);
        frame.extend_from_slice(&self.source.0);
        frame.extend_from_slice(&self.ethertype.to_be_bytes());
        frame.extend_from_slice(self.payload);
        frame
    }
}

//! The frame that a client's packet would be on the wire, as far as the filter looks: headers without payload and
//! without checksums, which the filter leaves to the kernel. Called by [`super::explain`].

use super::Protocol;
use covey_filter::MacBytes;
use std::net::IpAddr;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Anybody's: the filter does not look at the source.
const CLIENT_MAC: MacBytes = [0x02, 0, 0, 0, 0, 0];

/// A packet of a client to a virtual IP of the same family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) client: IpAddr,
    pub(super) client_port: u16,
    pub(super) vip: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    /// Of TCP: whether it opens a connection.
    pub(super) opens: bool,
}

impl Packet {
    /// The packet, sent to the cluster MAC.
    pub(super) fn frame(&self, cluster_mac: MacBytes) -> Vec<u8> {
        let ports = [self.client_port.to_be_bytes(), self.port.to_be_bytes()].concat();
        let is_v6 = self.vip.is_ipv6();
        let (number, body) = match self.protocol {
            Protocol::Tcp => {
                let flags = if self.opens { SYN } else { ACK };
                let rest = [0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0];
                (6, [&ports[..], &rest].concat())
            }
            Protocol::Udp => (17, [&ports[..], &[0, 8, 0, 0]].concat()),
            Protocol::Icmp if is_v6 => (58, vec![128, 0, 0, 0, 0, 0, 0, 0]),
            Protocol::Icmp => (1, vec![8, 0, 0, 0, 0, 0, 0, 0]),
        };
        let (kind, packet) = match (self.client, self.vip) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => {
                let [high, low] = (20 + body.len() as u16).to_be_bytes();
                let header = [0x45, 0, high, low, 0, 0, 0, 0, 64, number, 0, 0];
                let addresses = [client.octets(), vip.octets()].concat();
                (0x0800u16, [&header[..], &addresses, &body].concat())
            }
            (client, vip) => {
                let [high, low] = (body.len() as u16).to_be_bytes();
                let header = [0x60, 0, 0, 0, high, low, number, 64];
                let octets = |address: IpAddr| match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                let addresses = [octets(client), octets(vip)].concat();
                (0x86DD, [&header[..], &addresses, &body].concat())
            }
        };
        [&cluster_mac[..], &CLIENT_MAC, &kind.to_be_bytes(), &packet].concat()
    }
}

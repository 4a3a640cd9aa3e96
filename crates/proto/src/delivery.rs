//! How a frame reaches every host of the cluster: the mode and the MAC that all hosts share, which belong together.
//!
//! Part of what all hosts agree on ([`crate::rules::RuleSet`]), so a change of it is one commit. Read from the
//! configuration or from another host, and checked there once. Specification: docs/design.md, "Membership" and
//! "Data path"; NLB facts §2, Q232454.

use crate::config::{ClusterMode, SourceMac, cluster_mac, masked_mac};
use crate::ids::{HostId, Mac};
use std::net::{IpAddr, Ipv4Addr};

/// A mode, and a cluster MAC that works in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    mode: ClusterMode,
    mac: Mac,
}

/// Why a MAC cannot be the cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Zero or broadcast.
    #[error("it is no address that hosts can share")]
    Unusable,
    /// A group address in unicast mode.
    #[error("it is a group address (its first byte is odd), and the mode is unicast")]
    Group,
    /// An address of one NIC in multicast mode.
    #[error("it is no group address (its first byte must be odd), and the mode is multicast")]
    NoGroup,
    /// Not the MAC of an IPv4 multicast group in IGMP mode.
    #[error(
        "in mode igmp it is the MAC of an IPv4 multicast group: 01:00:5e and three bytes, of which the first is \
         below 80"
    )]
    NoIpGroup,
    /// A group that switches treat in a way of their own.
    #[error("switches keep that address for protocols of their own")]
    Reserved,
}

impl Delivery {
    /// Bytes of one, encoded.
    pub(crate) const ENCODED: usize = 7;

    /// With the MAC that NLB derives from the primary virtual IP.
    pub fn derived(mode: ClusterMode, primary: IpAddr) -> Self {
        let mac = cluster_mac(mode, primary);
        Self { mode, mac }
    }

    /// With a MAC that somebody has chosen.
    ///
    /// # Errors
    /// Why this MAC does not work in this mode.
    pub fn explicit(mode: ClusterMode, mac: Mac) -> Result<Self, MacError> {
        let Mac([a, b, c, d, e, _]) = mac;
        let ip_group = [a, b, c] == [0x01, 0x00, 0x5E] && d < 0x80;
        // 01:80:c2:00:00:0x is never forwarded (IEEE 802.1D); 224.0.0.x is always flooded (RFC 4541).
        let reserved =
            [a, b, c, d, e] == [0x01, 0x80, 0xC2, 0, 0] || (ip_group && [d, e] == [0, 0]);
        if mac == Mac::BROADCAST || mac == Mac::default() {
            return Err(MacError::Unusable);
        }
        match mode {
            ClusterMode::Unicast if mac.is_group() => Err(MacError::Group),
            ClusterMode::Multicast if !mac.is_group() => Err(MacError::NoGroup),
            ClusterMode::Igmp if !ip_group => Err(MacError::NoIpGroup),
            ClusterMode::Multicast | ClusterMode::Igmp if reserved => Err(MacError::Reserved),
            ClusterMode::Unicast | ClusterMode::Multicast | ClusterMode::Igmp => {
                Ok(Self { mode, mac })
            }
        }
    }

    /// How frames reach every host.
    pub const fn mode(self) -> ClusterMode {
        self.mode
    }

    /// The MAC that all hosts share.
    pub const fn mac(self) -> Mac {
        self.mac
    }

    /// Where heartbeats go (NLB facts §1.1).
    pub const fn heartbeats(self) -> Mac {
        match self.mode {
            ClusterMode::Unicast => Mac::BROADCAST,
            ClusterMode::Multicast | ClusterMode::Igmp => self.mac,
        }
    }

    /// The multicast group that hosts are members of in IGMP mode, as NLB derives it: the one in 239.128.0.0/9 that
    /// has the cluster MAC. `None` in the other modes.
    pub const fn group(self) -> Option<Ipv4Addr> {
        let Mac([_, _, _, d, e, f]) = self.mac;
        match self.mode {
            ClusterMode::Unicast | ClusterMode::Multicast => None,
            ClusterMode::Igmp => Some(Ipv4Addr::new(239, d | 0x80, e, f)),
        }
    }

    /// The Ethernet source of a host's frames that leave for a virtual IP. In the multicast modes always the NIC's own
    /// MAC, as NLB's: no switch learns a group address, and none may be a source.
    pub fn source(self, host: HostId, own: Mac, wish: SourceMac) -> Mac {
        match (self.mode, wish) {
            (ClusterMode::Multicast | ClusterMode::Igmp, _) | (_, SourceMac::Host) => own,
            (ClusterMode::Unicast, SourceMac::Masked) => masked_mac(host, self.mac),
            (ClusterMode::Unicast, SourceMac::Cluster) => self.mac,
        }
    }

    /// As hosts show it to each other: the mode's number (of the heartbeat's state record), then the MAC.
    pub(crate) fn encode(self) -> [u8; Self::ENCODED] {
        let Mac([a, b, c, d, e, f]) = self.mac;
        [self.mode.number(), a, b, c, d, e, f]
    }

    /// Reads what [`Self::encode`] wrote; `None` if it is not sound.
    pub(crate) fn decode([mode, mac @ ..]: [u8; Self::ENCODED]) -> Option<Self> {
        Self::explicit(ClusterMode::from_number(mode)?, Mac(mac)).ok()
    }
}

/// Every MAC that a cluster with this primary virtual IP has without being told one: that of each mode.
pub fn derived_macs(primary: IpAddr) -> [Mac; 3] {
    [
        ClusterMode::Unicast,
        ClusterMode::Multicast,
        ClusterMode::Igmp,
    ]
    .map(|mode| cluster_mac(mode, primary))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [ClusterMode; 3] = [
        ClusterMode::Unicast,
        ClusterMode::Multicast,
        ClusterMode::Igmp,
    ];

    #[test]
    fn what_nlb_derives_is_sound_in_its_own_mode_only() {
        for ip in ["10.77.0.100", "0.0.0.1", "fd77::100"] {
            for mode in MODES {
                let derived = Delivery::derived(mode, ip.parse().unwrap());
                assert_eq!(Delivery::explicit(mode, derived.mac()), Ok(derived));
                assert_eq!(Delivery::decode(derived.encode()), Some(derived));
            }
        }
        let mac = |mode| Delivery::derived(mode, "10.77.0.100".parse().unwrap()).mac();
        let refused = |mode, of| Delivery::explicit(mode, mac(of)).unwrap_err();
        use ClusterMode::{Igmp, Multicast, Unicast};
        assert_eq!(refused(Unicast, Multicast), MacError::Group);
        assert_eq!(refused(Unicast, Igmp), MacError::Group);
        assert_eq!(refused(Multicast, Unicast), MacError::NoGroup);
        assert_eq!(refused(Igmp, Unicast), MacError::NoIpGroup);
        assert_eq!(refused(Igmp, Multicast), MacError::NoIpGroup);
    }

    #[test]
    fn no_mode_takes_what_hosts_cannot_share() {
        for mode in MODES {
            for mac in [Mac::BROADCAST, Mac([0; 6])] {
                assert_eq!(Delivery::explicit(mode, mac), Err(MacError::Unusable));
            }
        }
        let reserved = |mode, mac| Delivery::explicit(mode, Mac(mac)) == Err(MacError::Reserved);
        assert!(reserved(ClusterMode::Multicast, [1, 0x80, 0xC2, 0, 0, 0xE]));
        assert!(reserved(ClusterMode::Multicast, [1, 0, 0x5E, 0, 0, 5]));
        assert!(reserved(ClusterMode::Igmp, [1, 0, 0x5E, 0, 0, 5]));
        let high = Mac([1, 0, 0x5E, 0x80, 1, 1]);
        assert_eq!(
            Delivery::explicit(ClusterMode::Igmp, high),
            Err(MacError::NoIpGroup)
        );
    }

    #[test]
    fn the_group_is_nlbs_and_has_the_cluster_mac() {
        let derived = Delivery::derived(ClusterMode::Igmp, "10.77.3.100".parse().unwrap());
        assert_eq!(derived.group(), Some(Ipv4Addr::new(239, 255, 3, 100)));
        let chosen = Delivery::explicit(ClusterMode::Igmp, Mac([1, 0, 0x5E, 1, 2, 3])).unwrap();
        assert_eq!(chosen.group(), Some(Ipv4Addr::new(239, 129, 2, 3)));
        let other = Delivery::derived(ClusterMode::Multicast, "10.77.3.100".parse().unwrap());
        assert_eq!(other.group(), None);
    }

    #[test]
    fn a_group_is_never_the_source_of_a_frame() {
        let (host, own) = (HostId::new(2).unwrap(), Mac([2, 0, 0, 0, 0, 2]));
        let wishes = [SourceMac::Host, SourceMac::Masked, SourceMac::Cluster];
        for mode in MODES {
            let delivery = Delivery::derived(mode, "10.77.0.100".parse().unwrap());
            let sources = wishes.map(|wish| delivery.source(host, own, wish).to_string());
            let expected = match mode {
                ClusterMode::Unicast => [
                    "02:00:00:00:00:02",
                    "02:02:0a:4d:00:64",
                    "02:bf:0a:4d:00:64",
                ],
                ClusterMode::Multicast | ClusterMode::Igmp => ["02:00:00:00:00:02"; 3],
            };
            assert_eq!(sources, expected, "{mode}");
        }
    }
}

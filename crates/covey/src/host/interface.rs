//! What Covey must know of a network interface.
//!
//! Read over netlink and not from /sys/class/net, because a mounted /sys shows the network namespace of
//! whoever mounted it: the lab's daemons live in namespaces of their own with the machine's /sys.
//! Called by the configuration (does the interface exist, which address is the DIP?) and by the daemon.
//! Specification: docs/design.md, "Data path".

use super::netlink::Netlink;
use covey_proto::ids::Mac;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// A network interface, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number in its network namespace.
    pub index: u32,
    /// Its own MAC; `None` unless it is Ethernet.
    pub mac: Option<Mac>,
    /// The largest packet it sends, bytes, without the Ethernet header.
    pub mtu: u32,
    /// Whether it is switched on and has a carrier.
    pub up: bool,
    /// What drives it (`veth`, `bridge`, `bond`, ...); `None` for plain hardware.
    pub kind: Option<String>,
    /// Its IPv4 addresses; the first is the one it prefers as source.
    pub addresses: Vec<Ipv4Addr>,
}

impl Interface {
    /// Looks at the interface with this name; `None` if there is none.
    ///
    /// # Errors
    /// If the kernel does not answer over netlink.
    pub fn find(name: &str) -> io::Result<Option<Self>> {
        let netlink = Netlink::open()?;
        let Some(link) = netlink.link(name)? else {
            return Ok(None);
        };
        let addresses = netlink.addresses(link.header.index)?;
        let addresses = addresses.into_iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        Ok(Some(Self::from_link(name, link, addresses.collect())))
    }

    fn from_link(name: &str, link: LinkMessage, addresses: Vec<Ipv4Addr>) -> Self {
        let ethernet = link.header.link_layer_type == LinkLayerType::Ether;
        let mut interface = Self {
            name: name.to_owned(),
            index: link.header.index,
            mac: None,
            mtu: 0,
            up: link.header.flags.contains(LinkFlags::LowerUp),
            kind: kind_of(&link),
            addresses,
        };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::Address(bytes) if ethernet => {
                    interface.mac = bytes.try_into().ok().map(Mac);
                }
                LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
                _ => {}
            }
        }
        interface
    }
}

/// What drives a link; `None` for plain hardware.
pub(super) fn kind_of(link: &LinkMessage) -> Option<String> {
    let infos = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

/// The machines behind an interface that this one has talked to of late, by address: `ip neigh show dev`.
///
/// # Errors
/// If the kernel does not answer over netlink.
pub fn neighbours(index: u32) -> io::Result<Vec<(IpAddr, Mac)>> {
    Netlink::open()?.neighbours(index)
}

/// The names of all interfaces, for the sentence that says which ones there are.
///
/// # Errors
/// If the kernel does not answer over netlink.
pub fn interface_names() -> io::Result<Vec<String>> {
    Netlink::open()?.link_names()
}

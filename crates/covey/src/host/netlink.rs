//! Requests to rtnetlink, one at a time: what `ip address`, `ip link show` and `bridge fdb` do.
//!
//! A blocking socket of its own per caller; the kernel answers every request before it returns from it, so
//! there is nothing to wait for and nothing to multiplex. Used only within [`crate::host`].
//! Specification: docs/design.md, "Data path".

use covey_proto::ids::Mac;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::io;
use std::net::IpAddr;

/// Where packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The number of the link.
    pub(super) link: u32,
    /// Whom they are handed to there, if it is not their destination.
    pub(super) gateway: Option<IpAddr>,
}

/// A connection to the kernel's routing part, in the network namespace of the thread that opened it.
pub(super) struct Netlink(Socket);

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// The link with this name, or `None` if there is none.
    pub(super) fn link(&self, name: &str) -> io::Result<Option<LinkMessage>> {
        let mut question = LinkMessage::default();
        question
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        match self.request(RouteNetlinkMessage::GetLink(question), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })),
            // ERANGE: a name longer than the kernel allows, so nothing is called so.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ERANGE)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// All links.
    pub(super) fn links(&self) -> io::Result<Vec<LinkMessage>> {
        let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.request(question, NLM_F_DUMP)?;
        let links = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        Ok(links.collect())
    }

    /// The names of all links.
    pub(super) fn link_names(&self) -> io::Result<Vec<String>> {
        let attributes = self.links()?.into_iter().flat_map(|link| link.attributes);
        let names = attributes.filter_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        });
        Ok(names.collect())
    }

    /// The addresses of a link, in the kernel's order: of the IPv4 ones the one used as source comes first.
    pub(super) fn addresses(&self, index: u32) -> io::Result<Vec<IpAddr>> {
        let all = self.all_addresses()?.into_iter();
        let own = all.filter(|(link, _)| *link == index);
        Ok(own.map(|(_, address)| address).collect())
    }

    /// The addresses of all links, each with the link's number.
    pub(super) fn all_addresses(&self) -> io::Result<Vec<(u32, IpAddr)>> {
        let question = AddressMessage::default();
        let answers = self.request(RouteNetlinkMessage::GetAddress(question), NLM_F_DUMP)?;
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(address) => {
                let own = own_address(&address.attributes)?;
                Some((address.header.index, own))
            }
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// `ip route get DESTINATION from SOURCE`; `None` if there is no way.
    pub(super) fn route(&self, source: IpAddr, destination: IpAddr) -> io::Result<Option<Route>> {
        let mut question = RouteMessage::default();
        let (family, prefix) = match destination {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        question.header.address_family = family;
        (
            question.header.source_prefix_length,
            question.header.destination_prefix_length,
        ) = (prefix, prefix);
        question.attributes = vec![
            RouteAttribute::Source(source.into()),
            RouteAttribute::Destination(destination.into()),
        ];
        match self.request(RouteNetlinkMessage::GetRoute(question), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => way(&route),
                _ => None,
            })),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => {
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    /// `ip address add ADDRESS/32 dev LINK scope host`, or `ip address add ADDRESS/128 dev LINK nodad noprefixroute preferred_lft 0`:
    /// several hosts have it on purpose, and none may choose it as a source.
    pub(super) fn add_address(&self, index: u32, address: IpAddr) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewAddress(address_message(index, address));
        self.request(message, NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// `ip address del ADDRESS/32 dev LINK`, or /128.
    pub(super) fn delete_address(&self, index: u32, address: IpAddr) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
        self.request(message, 0).map(drop)
    }

    /// Whether the NIC already takes frames for this MAC besides its own: `bridge fdb show dev LINK`.
    pub(super) fn has_mac(&self, index: u32, mac: Mac) -> io::Result<bool> {
        let mut question = NeighbourMessage::default();
        question.header.family = AddressFamily::Bridge;
        let answers = self.request(RouteNetlinkMessage::GetNeighbour(question), NLM_F_DUMP)?;
        let wanted = NeighbourAttribute::LinkLayerAddress(mac.0.to_vec());
        Ok(answers.iter().any(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(entry) => {
                entry.header.ifindex == index
                    && entry.header.flags.contains(NeighbourFlags::Own)
                    && entry.attributes.contains(&wanted)
            }
            _ => false,
        }))
    }

    /// The machines behind a link whose MACs the kernel knows, by address: `ip neigh show dev LINK`.
    pub(super) fn neighbours(&self, index: u32) -> io::Result<Vec<(IpAddr, Mac)>> {
        let question = NeighbourMessage::default();
        let answers = self.request(RouteNetlinkMessage::GetNeighbour(question), NLM_F_DUMP)?;
        let neighbours = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(entry) if entry.header.ifindex == index => {
                neighbour(&entry)
            }
            _ => None,
        });
        Ok(neighbours.collect())
    }

    /// `ip neigh replace ADDRESS dev LINK use`: the kernel asks the machine for its MAC, unless it has answered lately.
    pub(super) fn ask(&self, index: u32, address: IpAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.ifindex = index;
        message.header.flags = NeighbourFlags::Use;
        let address = match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message
            .attributes
            .push(NeighbourAttribute::Destination(address));
        let message = RouteNetlinkMessage::NewNeighbour(message);
        self.request(message, NLM_F_CREATE).map(drop)
    }

    /// `bridge fdb add MAC dev LINK self permanent`: the NIC's filter lets frames to this MAC in.
    pub(super) fn add_mac(&self, index: u32, mac: Mac) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewNeighbour(fdb_message(index, mac));
        self.request(message, NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// `bridge fdb del MAC dev LINK self permanent`.
    pub(super) fn delete_mac(&self, index: u32, mac: Mac) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelNeighbour(fdb_message(index, mac));
        self.request(message, 0).map(drop)
    }

    /// Sends one request and collects what the kernel answers, up to its acknowledgement.
    fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                // Messages in a datagram start on multiples of four bytes.
                let length = (answer.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    // Noop, Overrun and whatever comes later carry no answer.
                    _ => {}
                }
            }
        }
    }
}

fn way(route: &RouteMessage) -> Option<Route> {
    let (mut link, mut gateway) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => gateway = Some(IpAddr::from(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => gateway = Some(IpAddr::from(*v6)),
            _ => {}
        }
    }
    let link = link?;
    Some(Route { link, gateway })
}

/// Address and MAC of a machine that has answered, however long ago. Groups and those that do not answer are none.
fn neighbour(entry: &NeighbourMessage) -> Option<(IpAddr, Mac)> {
    use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
    let known = [Reachable, Stale, Delay, Probe, Permanent].contains(&entry.header.state);
    let (mut address, mut mac) = (None, None);
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::from(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::from(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes[..].try_into().ok().map(Mac);
            }
            _ => {}
        }
    }
    known.then_some(())?;
    Some((address?, mac?))
}

/// The address of this end: IPv4 says it as local, and so does IPv6 if the other end has one.
fn own_address(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let first = || {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    };
    local.or_else(first)
}

fn address_message(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Address(address),
        AddressAttribute::Local(address),
    ];
    match address {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            message.header.prefix_len = 32;
            message.header.scope = AddressScope::Host;
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.prefix_len = 128;
            let mut lifetime = CacheInfo::default();
            lifetime.ifa_valid = u32::MAX;
            lifetime.ifa_preferred = 0;
            message.attributes.extend([
                AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute),
                AddressAttribute::CacheInfo(lifetime),
            ]);
        }
    }
    message
}

fn fdb_message(index: u32, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

//! What Covey reads of a machine to find out what is wrong with it, and changes nothing: where addresses are, by which
//! NIC answers leave, what the NIC's filter and driver do.
//!
//! The kernel answers all questions but one within microseconds, in the network namespace of the calling thread; whether
//! another machine answers takes as long as that machine.
//! Called by `covey doctor` and by the daemon's check-ups (`crate::doctor`). Specification: docs/design.md, "Doctor".

use super::netlink::Netlink;
use super::sysctl;
use covey_proto::ids::Mac;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp, XdpAttached};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

/// For so long a neighbour may take to answer: the kernel asks once a second, so that one question falls into it.
const ANSWERS_WITHIN: Duration = Duration::from_millis(1100);
/// Time between two looks whether it has.
const LOOKS_EVERY: Duration = Duration::from_millis(10);

/// A NIC, as it stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its number in its network namespace.
    pub index: u32,
    /// Whether it is switched on and has a carrier.
    pub up: bool,
    /// The largest packet it sends, bytes.
    pub mtu: u32,
    /// Its MAC.
    pub mac: Option<Mac>,
    /// What drives it (`veth`, `bond`, ...); `None` for plain hardware.
    pub kind: Option<String>,
    /// The interface that it is a port of, and what drives that one.
    pub controller: Option<(String, Option<String>)>,
    /// Whether an XDP program is attached.
    pub has_xdp: bool,
}

/// How packets leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The name of the interface.
    pub interface: String,
    /// The machine that they are handed to there, if it is not their destination.
    pub gateway: Option<IpAddr>,
}

/// The kernel, asked about this network namespace.
pub struct Inspector {
    netlink: Netlink,
    names: BTreeMap<u32, String>,
    addresses: Vec<(u32, IpAddr)>,
}

impl Inspector {
    /// Asks for all links and addresses.
    ///
    /// # Errors
    /// If the kernel does not answer over netlink.
    pub fn open() -> io::Result<Self> {
        let netlink = Netlink::open()?;
        let links = netlink.links()?;
        let named = |link: &LinkMessage| {
            let name = link
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name.clone()),
                    _ => None,
                });
            name.map(|name| (link.header.index, name))
        };
        Ok(Self {
            names: links.iter().filter_map(named).collect(),
            addresses: netlink.all_addresses()?,
            netlink,
        })
    }

    /// The NIC with this name; `None` if there is none.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn nic(&self, name: &str) -> io::Result<Option<Nic>> {
        let Some(link) = self.netlink.link(name)? else {
            return Ok(None);
        };
        let mut nic = Nic {
            index: link.header.index,
            up: link.header.flags.contains(LinkFlags::LowerUp),
            mtu: 0,
            mac: None,
            kind: super::interface::kind_of(&link),
            controller: None,
            has_xdp: false,
        };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => nic.mtu = mtu,
                LinkAttribute::Address(bytes) => nic.mac = bytes.try_into().ok().map(Mac),
                LinkAttribute::Controller(index) => nic.controller = self.controller(index)?,
                LinkAttribute::Xdp(all) => nic.has_xdp = all.iter().any(is_attached),
                _ => {}
            }
        }
        Ok(Some(nic))
    }

    fn controller(&self, index: u32) -> io::Result<Option<(String, Option<String>)>> {
        let Some(name) = self.names.get(&index) else {
            return Ok(None);
        };
        let kind = self.netlink.link(name)?;
        let kind = kind.and_then(|link| super::interface::kind_of(&link));
        Ok(Some((name.clone(), kind)))
    }

    /// The names of the interfaces that have this address.
    pub fn holders(&self, address: IpAddr) -> Vec<String> {
        let having = self.addresses.iter().filter(|(_, own)| *own == address);
        let names = having.filter_map(|(index, _)| self.names.get(index));
        names.cloned().collect()
    }

    /// The addresses of an interface.
    pub fn addresses_of(&self, name: &str) -> Vec<IpAddr> {
        let of = |index: &u32| self.names.get(index).is_some_and(|known| known == name);
        let all = self.addresses.iter().filter(|(index, _)| of(index));
        all.map(|(_, address)| *address).collect()
    }

    /// By which interface a packet from one of this host's addresses to `destination` leaves, and by which gateway, if
    /// there is one; `None` if it cannot.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn way_out(&self, source: IpAddr, destination: IpAddr) -> io::Result<Option<Way>> {
        let route = self.netlink.route(source, destination)?;
        Ok(route.and_then(|route| {
            let interface = self.names.get(&route.link)?.clone();
            let gateway = route.gateway;
            Some(Way { interface, gateway })
        }))
    }

    /// Which machines on the NIC's segment tell their MAC when the kernel asks for it. Waits for the last one, but not for
    /// longer than a second or so.
    ///
    /// # Errors
    /// If the kernel does not answer, or lets only root ask.
    pub fn answering(&self, nic: &Nic, addresses: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
        let asked_at = Instant::now();
        let mut silent = addresses.to_vec();
        loop {
            // Again and again: when the kernel gives up, it has to begin anew.
            for address in &silent {
                self.netlink.ask(nic.index, *address)?;
            }
            let known = self.netlink.neighbours(nic.index)?;
            silent.retain(|address| !known.iter().any(|(known, _)| known == address));
            if silent.is_empty() || asked_at.elapsed() >= ANSWERS_WITHIN {
                let answers = |address: &&IpAddr| !silent.contains(address);
                return Ok(addresses.iter().filter(answers).copied().collect());
            }
            thread::sleep(LOOKS_EVERY);
        }
    }

    /// Whether the NIC takes frames for this MAC besides its own.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn takes_mac(&self, nic: &Nic, mac: Mac) -> io::Result<bool> {
        if nic.mac == Some(mac) || self.netlink.has_mac(nic.index, mac)? {
            return Ok(true);
        }
        // Groups that programs have asked for stand in another list: index, name, users, global users, MAC.
        let wanted: String = mac.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let groups = fs::read_to_string("/proc/thread-self/net/dev_mcast")?;
        Ok(groups.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(&nic.index.to_string()) && words.last() == Some(&wanted)
        }))
    }
}

fn is_attached(xdp: &LinkXdp) -> bool {
    match xdp {
        LinkXdp::Attached(how) => *how != XdpAttached::None,
        _ => false,
    }
}

/// `net.ipv4.conf.INTERFACE.NAME` as it counts there: the greater of the value for the interface and that for all.
///
/// # Errors
/// If one of them cannot be read.
pub fn effective_sysctl(interface: &str, name: &str) -> io::Result<i64> {
    let read = |of: &str| -> io::Result<i64> {
        let text = sysctl::read(of, name)?;
        text.parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    };
    Ok(read("all")?.max(read(interface)?))
}

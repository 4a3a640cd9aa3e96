//! The sockets through which this host is a member of groups, hears what is asked about them, and says what the kernel
//! does not say: one raw socket for IGMP and one for MLD. Used by [`super::Multicast`]. Specification: docs/design.md,
//! "IP multicast groups".
//!
//! Raw sockets and not packet sockets, which would look at every packet of the service: these see IGMP and MLD alone,
//! and nothing that the kernel itself would not heed. A membership lasts as long as a socket that has asked for it.
#![allow(unsafe_code)] // Options that neither std nor socket2 have.

use super::{Asked, igmp, mld};
use anyhow::{Context, Result};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockFilter, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use tokio::net::UdpSocket;

/// IGMP has no constant in socket2.
const IGMP: i32 = 2;
/// Longer than any query without very many sources, of which only the beginning counts.
const PACKET: usize = 2048;
/// "Routers look into this packet" (RFC 2113, RFC 2711), which snooping switches ask for too: in IPv4 an option, in IPv6 a
/// hop-by-hop header with the option and padding.
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
const ROUTER_ALERT6: [u8; 8] = [0, 0, 5, 2, 0, 0, 1, 0];
/// Internetwork control, as the kernel's own IGMP has it.
const INTERNETWORK_CONTROL: u32 = 0xC0;

/// A raw socket; what it does with datagrams is what std and tokio do with UDP's.
pub(super) struct Igmp {
    socket: UdpSocket,
    interface: u32,
}

impl Igmp {
    /// Must be called in a tokio runtime.
    pub(super) fn open(name: &str, interface: u32) -> Result<Self> {
        let open = || {
            let kind = Type::RAW.nonblocking().cloexec();
            let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::from(IGMP)))?;
            socket.attach_filter(&questions())?;
            socket.bind_device(Some(name.as_bytes()))?;
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_ttl_v4(1)?;
            socket.set_tos_v4(INTERNETWORK_CONTROL)?;
            set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &ROUTER_ALERT)?;
            watched(socket)
        };
        let socket = open();
        let socket = socket.context("cannot listen for IGMP; Covey needs root or CAP_NET_RAW")?;
        Ok(Self { socket, interface })
    }

    /// Makes this host a member of a group, as far as it is not.
    pub(super) fn join(&self, group: Ipv4Addr) -> io::Result<()> {
        let interface = InterfaceIndexOrAddress::Index(self.interface);
        let joined = self.socket().join_multicast_v4_n(&group, &interface);
        or_if(joined, libc::EADDRINUSE)
    }

    /// Takes it out.
    pub(super) fn leave(&self, group: Ipv4Addr) -> io::Result<()> {
        let interface = InterfaceIndexOrAddress::Index(self.interface);
        let left = self.socket().leave_multicast_v4_n(&group, &interface);
        // The interface has gone, and the membership with it.
        or_if(left, libc::EADDRNOTAVAIL)
    }

    /// Sends a message. One that cannot be sent is a lost one, which the protocol expects.
    pub(super) fn send(&self, to: Ipv4Addr, message: &[u8]) {
        send(&self.socket, to.into(), message);
    }

    /// Waits for a question. Safe to cancel.
    pub(super) async fn asked(&self) -> io::Result<(IpAddr, Asked)> {
        asked(&self.socket, igmp::parse).await
    }

    fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.socket)
    }
}

impl AsFd for Igmp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The same for IPv6.
pub(super) struct Mld {
    socket: UdpSocket,
    interface: u32,
}

impl Mld {
    /// Must be called in a tokio runtime.
    pub(super) fn open(name: &str, interface: u32) -> Result<Self> {
        let open = || {
            let kind = Type::RAW.nonblocking().cloexec();
            let socket = Socket::new(Domain::IPV6, kind, Some(Protocol::ICMPV6))?;
            set_option(&socket, libc::IPPROTO_ICMPV6, ICMP6_FILTER, &questions6())?;
            socket.bind_device(Some(name.as_bytes()))?;
            socket.set_multicast_if_v6(interface)?;
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_hops_v6(1)?;
            set_option(
                &socket,
                libc::IPPROTO_IPV6,
                libc::IPV6_HOPOPTS,
                &ROUTER_ALERT6,
            )?;
            watched(socket)
        };
        let socket = open();
        let socket = socket.context("cannot listen for MLD; Covey needs root or CAP_NET_RAW")?;
        Ok(Self { socket, interface })
    }

    /// Makes this host a member of a group, as far as it is not.
    pub(super) fn join(&self, group: Ipv6Addr) -> io::Result<()> {
        let socket = SockRef::from(&self.socket);
        let joined = socket.join_multicast_v6(&group, self.interface);
        or_if(joined, libc::EADDRINUSE)
    }

    /// Sends a message, from a link-local address, which the kernel chooses for such destinations.
    pub(super) fn send(&self, to: Ipv6Addr, message: &[u8]) {
        send(&self.socket, to.into(), message);
    }

    /// Waits for a question. Safe to cancel.
    pub(super) async fn asked(&self) -> io::Result<(IpAddr, Asked)> {
        asked(&self.socket, mld::parse).await
    }
}

fn watched(socket: Socket) -> io::Result<UdpSocket> {
    UdpSocket::from_std(StdSocket::from(socket))
}

fn send(socket: &UdpSocket, to: IpAddr, message: &[u8]) {
    // Not by tokio, which waits for the first event before it knows that a socket can send.
    let sent = SockRef::from(socket).send_to(message, &SocketAddr::new(to, 0).into());
    if let Err(error) = sent {
        tracing::debug!("a message to {to} could not be sent: {error}");
    }
}

async fn asked(
    socket: &UdpSocket,
    parse: impl Fn(&[u8]) -> Option<Asked>,
) -> io::Result<(IpAddr, Asked)> {
    let mut packet = [0; PACKET];
    loop {
        let (length, from) = socket.recv_from(&mut packet).await?;
        if let Some(asked) = parse(&packet[..length]) {
            return Ok((from.ip(), asked));
        }
    }
}

fn or_if(result: io::Result<()>, fine: i32) -> io::Result<()> {
    result.or_else(|error| match error.raw_os_error() {
        Some(code) if code == fine => Ok(()),
        _ => Err(error),
    })
}

/// Classic BPF over an IPv4 packet: queries and solicitations. Members' reports are no news.
fn questions() -> [SockFilter; 6] {
    const HEADER_LENGTH: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        SockFilter::new(HEADER_LENGTH, 0, 0, 0),
        SockFilter::new(LOAD_BYTE, 0, 0, 0),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, igmp::QUERY.into()),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, igmp::SOLICITATION.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// linux/icmpv6.h
const ICMP6_FILTER: libc::c_int = 1;

/// The types of ICMPv6 that are not wanted, one bit each: all but two.
fn questions6() -> [u8; 32] {
    let mut words = [u32::MAX; 8];
    for wanted in [mld::QUERY, mld::SOLICITATION] {
        words[usize::from(wanted) / 32] &= !(1 << (wanted % 32));
    }
    let mut bytes = [0; 32];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn set_option(
    socket: &Socket,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as it is told, which `value` has, and the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

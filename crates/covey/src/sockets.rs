//! This host's TCP connections, as the kernel lists them (`sock_diag`, what `ss -tna` asks), and ending them. The
//! daemon asks when the core wants to know in which buckets it has connections, and when it gives some up.
//! Specification: docs/design.md, "Data path".
//!
//! ```text
//!   request   family u8, protocol u8, extensions u8, pad u8, states u32, id          inet_diag_req_v2
//!   answer    family u8, state u8, timer u8, retries u8, id, 20 bytes more           inet_diag_msg
//!             and attributes, one of them INET_DIAG_INFO                             tcp_info
//!   id        ports u16 x 2, addresses 16 bytes x 2, interface u32, cookie u64: this end first, network order
//! ```
//!
//! The list is read in pieces of 32 KiB, so memory goes with the connections to virtual IPs and with nothing else.
//! It is no snapshot: a connection that comes or goes meanwhile may be in it or not.

use covey_filter::Socket as Found;
use covey_proto::Connection;
use covey_proto::wire::heartbeat::Ends;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as Kernel};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Once;
use std::time::Duration;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const ID: usize = 48;
/// What the kernel says of every connection, in bytes; then come attributes.
const MESSAGE: usize = 72;
/// The attribute that holds `tcp_info`.
const INET_DIAG_INFO: u16 = 2;
/// Where in it stands how long ago this host sent data, and how long ago it received some, in milliseconds.
const LAST_SENT: usize = 44;
const LAST_RECEIVED: usize = 52;
/// The most that the kernel puts into one datagram.
const PIECE: usize = 32 * 1024;

/// States by number (include/net/tcp_states.h): connections, neither listeners nor sockets without a client.
const STATES: u32 = 1 << 1 // established
    | 1 << 2 // SYN sent
    | 1 << SYN_RECV
    | 1 << 4 // FIN wait 1
    | 1 << 5 // FIN wait 2
    | 1 << TIME_WAIT
    | 1 << 8 // close wait
    | 1 << 9 // last ACK
    | 1 << 11; // closing
const SYN_RECV: u8 = 3;
const TIME_WAIT: u8 = 6;
const LISTEN: u8 = 10;

/// Whether to ask how long connections have been idle. The kernel says more than 200 bytes of each then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Tell it.
    Tell,
    /// All of them are said to be busy.
    Skip,
}

/// Why the kernel does not do with its sockets what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// They cannot be listed.
    #[error(
        "the kernel does not list this host's TCP connections: {0}; it needs CONFIG_INET_DIAG, and its module \
         (`modprobe tcp_diag`) if that is one"
    )]
    List(io::Error),
    /// They cannot be ended.
    #[error(
        "the kernel does not end a TCP connection: {0}; the daemon needs CAP_NET_ADMIN (or root)"
    )]
    End(io::Error),
}

/// The connections of this thread's network namespace to one of these addresses, those included that are half-open
/// or over and waiting. What a half-open one awaits is not known here.
///
/// # Errors
/// [`SocketsError::List`].
pub fn connections(vips: &[IpAddr], idle: Idle) -> Result<Vec<Connection>, SocketsError> {
    let mut found = Vec::new();
    list(STATES, idle, |entry| {
        let connection = entry.connection();
        if vips.contains(&connection.service.ip()) {
            found.push(connection);
        }
    })
    .map_err(SocketsError::List)?;
    Ok(found)
}

/// Where programs of this thread's network namespace listen for TCP connections.
///
/// # Errors
/// [`SocketsError::List`].
pub fn listeners() -> Result<Vec<SocketAddr>, SocketsError> {
    let mut found = Vec::new();
    list(1 << LISTEN, Idle::Skip, |entry| {
        found.push(entry.connection().service);
    })
    .map_err(SocketsError::List)?;
    Ok(found)
}

/// How many SYN cookies this thread's network namespace has sent since it was made.
///
/// # Errors
/// If the kernel does not show it.
pub fn cookies_sent() -> io::Result<u64> {
    let counters = std::fs::read_to_string("/proc/thread-self/net/netstat")?;
    counter(&counters, "TcpExt:", "SyncookiesSent")
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "there is no SyncookiesSent"))
}

/// How many connections this thread's network namespace has refused since it was made, because a listening queue was full.
///
/// # Errors
/// If the kernel does not show it.
pub fn refused() -> io::Result<u64> {
    let counters = std::fs::read_to_string("/proc/thread-self/net/netstat")?;
    counter(&counters, "TcpExt:", "ListenOverflows")
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "there is no ListenOverflows"))
}

/// A counter of /proc/net/netstat: names in one line, values in the next, both behind the group's name.
fn counter(counters: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix(group));
    let (names, values) = (lines.next()?, lines.next()?);
    let pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = pairs.into_iter().find(|(known, _)| *known == name)?;
    value.parse().ok()
}

/// Ends connections of this thread's network namespace, as if their service had been killed: the client gets a RST.
/// Those that are gone already, or over and waiting, are left alone. Returns how many have been ended; none on a
/// kernel that cannot do it (CONFIG_INET_DIAG_DESTROY), which is said once.
///
/// # Errors
/// If the kernel refuses.
pub fn destroy(connections: &[Connection]) -> Result<usize, SocketsError> {
    let wanted: HashSet<_> = connections.iter().map(ends).collect();
    let mut entries = Vec::new();
    // The kernel takes a listener for a connection that is gone, unless the request has the connection's cookie.
    list(STATES, Idle::Skip, |entry| {
        if entry.state != TIME_WAIT && wanted.contains(&ends(&entry.connection())) {
            entries.push(*entry);
        }
    })
    .map_err(SocketsError::List)?;
    let kernel = open().map_err(SocketsError::End)?;
    let mut ended = 0;
    for entry in entries {
        let question = Question {
            action: SOCK_DESTROY,
            family: entry.family,
            idle: Idle::Skip,
            states: STATES,
            id: entry.id,
        };
        match ask(&kernel, question, NLM_F_ACK, |_| {}) {
            Ok(()) => ended += 1,
            Err(error) => match error.raw_os_error() {
                // It has ended by itself, or its tuple is another connection's by now.
                Some(libc::ENOENT | libc::ESTALE) => {}
                Some(libc::EOPNOTSUPP) => {
                    say_unsupported();
                    break;
                }
                _ => return Err(SocketsError::End(error)),
            },
        }
    }
    Ok(ended)
}

/// Those of these connections that this thread's network namespace does not have; one that is over and waiting is not
/// had.
///
/// # Errors
/// [`SocketsError::List`].
pub fn missing(connections: &[Ends]) -> Result<Vec<Ends>, SocketsError> {
    let kernel = open().map_err(SocketsError::List)?;
    let mut missing = Vec::new();
    for ends in connections {
        let mut state = None;
        let question = Question {
            action: SOCK_DIAG_BY_FAMILY,
            family: if ends.service.is_ipv4() {
                libc::AF_INET as u8
            } else {
                libc::AF_INET6 as u8
            },
            idle: Idle::Skip,
            states: STATES,
            id: id_of(ends),
        };
        let answer = ask(&kernel, question, NLM_F_ACK, |entry| {
            state = Some(entry.state)
        });
        match answer {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(SocketsError::List(error)),
        }
        // Where there is no connection the kernel shows the listener.
        let open = state.is_some_and(|state| state != TIME_WAIT && STATES & 1 << state != 0);
        if !open {
            missing.push(*ends);
        }
    }
    Ok(missing)
}

/// The ID under which the kernel looks for one connection, whatever its cookie.
fn id_of(ends: &Ends) -> [u8; ID] {
    let mut id = [0; ID];
    for (end, port_at, address_at) in [(ends.service, 0, 4), (ends.client, 2, 20)] {
        id[port_at..port_at + 2].copy_from_slice(&end.port().to_be_bytes());
        match end.ip() {
            IpAddr::V4(v4) => id[address_at..address_at + 4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => id[address_at..address_at + 16].copy_from_slice(&v6.octets()),
        }
    }
    id[ID - 8..].fill(0xFF);
    id
}

fn ends(connection: &Connection) -> (SocketAddr, SocketAddr) {
    (connection.client, connection.service)
}

fn say_unsupported() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            "this kernel cannot end connections (it lacks CONFIG_INET_DIAG_DESTROY), so clients of connections that \
             are given up hear nothing and run into a timeout"
        );
    });
}

/// Shows every socket of the host that is in one of these states.
fn list(states: u32, idle: Idle, mut each: impl FnMut(&Entry)) -> io::Result<()> {
    let kernel = open()?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let question = Question {
            action: SOCK_DIAG_BY_FAMILY,
            family: family as u8,
            idle,
            states,
            id: [0; ID],
        };
        ask(&kernel, question, NLM_F_DUMP, &mut each)?;
    }
    Ok(())
}

fn open() -> io::Result<Socket> {
    let kernel = Socket::new(NETLINK_SOCK_DIAG)?;
    kernel.connect(&Kernel::new(0, 0))?;
    Ok(kernel)
}

/// Sends a request, and shows the answers up to the last one.
fn ask(
    kernel: &Socket,
    question: Question,
    flags: u16,
    mut each: impl FnMut(&Entry),
) -> io::Result<()> {
    let mut request = NetlinkMessage::new(
        NetlinkHeader::default(),
        NetlinkPayload::InnerMessage(question),
    );
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    kernel.send(&bytes, 0)?;

    let mut piece = Vec::with_capacity(PIECE);
    loop {
        piece.clear();
        kernel.recv(&mut piece, 0)?;
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            let answer = NetlinkMessage::<Entry>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // Messages in a datagram start on multiples of four bytes.
            let length = (answer.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            match answer.payload {
                NetlinkPayload::InnerMessage(entry) => each(&entry),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                // Noop, Overrun and whatever comes later carry no answer.
                _ => {}
            }
        }
    }
}

/// What the kernel is asked.
struct Question {
    action: u16,
    family: u8,
    idle: Idle,
    states: u32,
    id: [u8; ID],
}

impl NetlinkSerializable for Question {
    fn message_type(&self) -> u16 {
        self.action
    }

    fn buffer_len(&self) -> usize {
        8 + ID
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let extensions = match self.idle {
            Idle::Tell => 1 << (INET_DIAG_INFO - 1),
            Idle::Skip => 0,
        };
        buffer[..4].copy_from_slice(&[self.family, libc::IPPROTO_TCP as u8, extensions, 0]);
        buffer[4..8].copy_from_slice(&self.states.to_ne_bytes());
        buffer[8..].copy_from_slice(&self.id);
    }
}

/// A connection as the kernel names it.
#[derive(Clone, Copy)]
struct Entry {
    family: u8,
    state: u8,
    id: [u8; ID],
    idle: Duration,
}

impl Entry {
    fn connection(&self) -> Connection {
        Connection {
            service: SocketAddr::new(self.address(4), self.port(0)),
            client: SocketAddr::new(self.address(20), self.port(2)),
            socket: match self.state {
                SYN_RECV => Found::HalfOpen { awaits: None },
                TIME_WAIT => Found::TimeWait,
                _ => Found::Connected,
            },
            idle: self.idle,
        }
    }

    fn port(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.part(at))
    }

    fn address(&self, at: usize) -> IpAddr {
        if i32::from(self.family) == libc::AF_INET {
            Ipv4Addr::from(self.part(at)).into()
        } else {
            // A listener for both families has its IPv4 clients under mapped addresses.
            IpAddr::from(Ipv6Addr::from(self.part(at))).to_canonical()
        }
    }

    fn part<const N: usize>(&self, at: usize) -> [u8; N] {
        let part = self.id[at..].first_chunk();
        *part.expect("ports and addresses lie within the ID")
    }
}

/// How long neither end has sent data, from the attributes of an answer: length u16, type u16, content, each at a
/// multiple of four bytes.
fn idle(mut attributes: &[u8]) -> Option<Duration> {
    loop {
        let [l0, l1, t0, t1, ..] = *attributes else {
            return None;
        };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let info = attributes.get(4..length)?;
        if u16::from_ne_bytes([t0, t1]) == INET_DIAG_INFO {
            let ago = |at: usize| {
                info.get(at..)?
                    .first_chunk()
                    .map(|ms| u32::from_ne_bytes(*ms))
            };
            let idle = ago(LAST_SENT)?.min(ago(LAST_RECEIVED)?);
            return Some(Duration::from_millis(idle.into()));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// The kernel's answer is shorter than a connection.
#[derive(Debug, thiserror::Error)]
#[error("the answer is too short for a connection")]
struct Short;

impl NetlinkDeserializable for Entry {
    type Error = Short;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, Short> {
        let [family, state, _, _, rest @ ..] = payload else {
            return Err(Short);
        };
        Ok(Self {
            family: *family,
            state: *state,
            id: *rest.first_chunk().ok_or(Short)?,
            idle: payload.get(MESSAGE..).and_then(idle).unwrap_or_default(),
        })
    }
}

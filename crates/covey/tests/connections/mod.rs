//! Connections of a real kernel in every stage of their life, held there: what the filter asks the socket table for,
//! and what the daemon lists. Specification: docs/design.md, "Data path".
#![allow(dead_code, unreachable_pub)] // Each test binary uses its share.
#![allow(unsafe_code)] // Options of sockets that std and socket2 do not know.

use crate::cluster::{CLIENT4, CLIENT6, CLUSTER_MAC, VIP4, VIP6};
use crate::frames;
use crate::segment::Segment as Network;
use covey_filter::{Flow, Segment, Socket, Transport};
use socket2::{Domain, Type};
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Where a connection is, as the service's host sees it. Numbers are the client's ports.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// There is none, but a listener.
    Listener = 41000,
    /// Neither a connection nor a listener.
    Nothing,
    /// The SYN is answered and noted; the client's ACK is missing.
    HalfOpen,
    /// The SYN is answered with a cookie; the client's ACK is missing.
    Cookie,
    Established,
    /// The client has closed its side.
    CloseWait,
    /// The service has closed its side; bytes are under way.
    FinWait1,
    /// The service has closed its side, and the client knows.
    FinWait2,
    /// The same, and no process has the socket any more.
    Orphan,
    /// Both have closed; bytes of the service are under way.
    Closing,
    /// Both have closed, the client first; bytes of the service are under way.
    LastAck,
    /// Both have closed, the service first.
    TimeWait,
}

pub const STAGES: [Stage; 12] = [
    Stage::Listener,
    Stage::Nothing,
    Stage::HalfOpen,
    Stage::Cookie,
    Stage::Established,
    Stage::CloseWait,
    Stage::FinWait1,
    Stage::FinWait2,
    Stage::Orphan,
    Stage::Closing,
    Stage::LastAck,
    Stage::TimeWait,
];

/// A port with a listener; one whose listener completes a connection only with its first data; one without.
const PLAIN: u16 = 7;
const DEFERRED: u16 = 60000;
const CLOSED: u16 = 60001;

/// How far a wrong acknowledgement number must be from the right one: the low bits of a SYN cookie say which of four
/// segment sizes was agreed on, so its nearest neighbours are valid too.
pub const WRONG: u32 = 16;

impl Stage {
    fn service_port(self) -> u16 {
        match self {
            Self::HalfOpen => DEFERRED,
            Self::Nothing => CLOSED,
            _ => PLAIN,
        }
    }

    /// The state that /proc/net/tcp shows, or `None` if no connection is to be seen there.
    fn state(self) -> Option<u8> {
        match self {
            Self::Listener | Self::Nothing | Self::Cookie => None,
            Self::Established => Some(1),
            Self::HalfOpen => Some(3),
            Self::FinWait1 => Some(4),
            Self::FinWait2 | Self::Orphan => Some(5),
            Self::TimeWait => Some(6),
            Self::CloseWait => Some(8),
            Self::LastAck => Some(9),
            Self::Closing => Some(11),
        }
    }
}

/// A connection held in its stage. Sequence and acknowledgement numbers are those of the client's next segment.
pub struct Connection {
    pub stage: Stage,
    pub client: SocketAddr,
    pub service: SocketAddr,
    pub sequence: u32,
    pub acknowledgement: u32,
    _held: Vec<OwnedFd>,
}

impl Connection {
    /// What the filter must find for a segment of this connection.
    pub fn socket(&self, segment: &Segment) -> Socket {
        match self.stage {
            Stage::Listener | Stage::Nothing => Socket::None,
            Stage::HalfOpen => Socket::HalfOpen {
                awaits: Some(self.acknowledgement),
            },
            Stage::Cookie if segment.acknowledgement == self.acknowledgement => Socket::Connected,
            Stage::Cookie => Socket::None,
            Stage::Established
            | Stage::CloseWait
            | Stage::FinWait1
            | Stage::FinWait2
            | Stage::Orphan
            | Stage::Closing
            | Stage::LastAck => Socket::Connected,
            Stage::TimeWait => Socket::TimeWait,
        }
    }

    pub fn is(&self, flow: &Flow) -> bool {
        let Transport::Tcp(Segment { ports, .. }) = flow.transport else {
            return false;
        };
        let client = SocketAddr::new(flow.source.into(), ports.source);
        let service = SocketAddr::new(flow.destination.into(), ports.destination);
        (client, service) == (self.client, self.service)
    }

    /// A frame of the client with these flags; `shift` is added to the right acknowledgement number.
    pub fn frame(&self, flags: u8, shift: u32, body: &[u8]) -> Vec<u8> {
        let acknowledgement = self.acknowledgement.wrapping_add(shift);
        let mut segment = frames::segment(
            self.client.port(),
            self.service.port(),
            flags,
            acknowledgement,
        );
        segment[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        segment.extend(body);
        match (self.client.ip(), self.service.ip()) {
            (IpAddr::V4(client), IpAddr::V4(service)) => {
                let packet = frames::ipv4(client, service, frames::TCP, &segment);
                frames::to_ipv4(CLUSTER_MAC, &packet)
            }
            (IpAddr::V6(client), IpAddr::V6(service)) => {
                let packet = frames::ipv6(client, service, frames::TCP, &segment);
                frames::to_ipv6(CLUSTER_MAC, &packet)
            }
            mixed => panic!("{mixed:?} are of two families"),
        }
    }
}

/// The socket table of a host that has these connections.
pub fn table(connections: Rc<Vec<Connection>>) -> impl Fn(&Flow, &Segment) -> Socket {
    move |flow, segment| {
        let mut found = connections.iter().filter(|connection| connection.is(flow));
        found.next().map_or(Socket::None, |it| it.socket(segment))
    }
}

/// One connection in each stage over IPv4 and one over IPv6.
pub fn in_every_stage(network: &Network) -> Vec<Connection> {
    let ends = [(CLIENT4.into(), VIP4.into()), (CLIENT6.into(), VIP6.into())];
    let made = ends.map(|(client, vip)| between(network, client, vip));
    made.into_iter().flatten().collect()
}

fn between(network: &Network, client: IpAddr, vip: IpAddr) -> Vec<Connection> {
    let [plain, deferred] = [PLAIN, DEFERRED].map(|port| {
        let listener = network.on_host(|| TcpListener::bind((vip, port)));
        listener.expect("the virtual IP is local")
    });
    option(&deferred, libc::TCP_DEFER_ACCEPT, 60);
    let made = STAGES.map(|stage| {
        let ends = Ends {
            network,
            client: SocketAddr::new(client, stage as u16),
            service: SocketAddr::new(vip, stage.service_port()),
            listener: &plain,
        };
        let connection = ends.make(stage);
        ends.wait_for(stage);
        connection
    });
    // The listeners stay with a connection that is none.
    let mut made = Vec::from(made);
    made[0]._held.extend([plain.into(), deferred.into()]);
    made
}

/// The ends of a connection to be made.
struct Ends<'a> {
    network: &'a Network,
    client: SocketAddr,
    service: SocketAddr,
    listener: &'a TcpListener,
}

impl Ends<'_> {
    fn make(&self, stage: Stage) -> Connection {
        match stage {
            Stage::Listener | Stage::Nothing => self.held(stage, [0; 2], []),
            Stage::HalfOpen => {
                let client = self.connect();
                self.held(stage, numbers(&client), [client.into()])
            }
            Stage::Cookie => {
                self.send_cookies("2");
                let (client, server) = self.pair();
                self.send_cookies("1");
                let numbers = numbers(&client);
                // In repair mode a socket is closed without a word, and all is as if the ACK had been lost.
                option(&server, libc::TCP_REPAIR, 1);
                drop(server);
                self.held(stage, numbers, [client.into()])
            }
            Stage::Established => {
                let (client, server) = self.pair();
                self.held(stage, numbers(&client), [client.into(), server.into()])
            }
            Stage::CloseWait => {
                let (client, server) = self.pair();
                close(&client);
                self.held(stage, [1, 1], [client.into(), server.into()])
            }
            Stage::FinWait1 => {
                let (client, server) = self.pair();
                fill(&server);
                close(&server);
                self.held(stage, [1, 1], [client.into(), server.into()])
            }
            Stage::FinWait2 => {
                let (client, server) = self.pair();
                close(&server);
                self.held(stage, [1, 1], [client.into(), server.into()])
            }
            Stage::Orphan => {
                let (client, _) = self.pair();
                self.held(stage, [1, 1], [client.into()])
            }
            Stage::Closing => {
                let (client, server) = self.pair();
                fill(&server);
                close(&server);
                close(&client);
                self.held(stage, [1, 1], [client.into(), server.into()])
            }
            Stage::LastAck => {
                let (client, server) = self.pair();
                close(&client);
                self.wait_for(Stage::CloseWait);
                fill(&server);
                close(&server);
                self.held(stage, [1, 1], [client.into(), server.into()])
            }
            Stage::TimeWait => {
                let (client, server) = self.pair();
                drop(server);
                self.wait_for(Stage::Orphan);
                drop(client);
                self.held(stage, [1, 1], [])
            }
        }
    }

    fn held<const N: usize>(
        &self,
        stage: Stage,
        [sequence, acknowledgement]: [u32; 2],
        sockets: [OwnedFd; N],
    ) -> Connection {
        Connection {
            stage,
            client: self.client,
            service: self.service,
            sequence,
            acknowledgement,
            _held: Vec::from(sockets),
        }
    }

    fn connect(&self) -> TcpStream {
        let connected = self.network.on_client(|| {
            let socket =
                socket2::Socket::new(Domain::for_address(self.client), Type::STREAM, None)?;
            // A small window, so that what the service has to say does not fit.
            socket.set_recv_buffer_size(4096)?;
            socket.bind(&self.client.into())?;
            socket.connect(&self.service.into())?;
            io::Result::Ok(socket.into())
        });
        connected.expect("the client connects")
    }

    fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.connect();
        let (server, _) = self.listener.accept().expect("the client has connected");
        (client, server)
    }

    fn send_cookies(&self, when: &str) {
        const SYSCTL: &str = "/proc/sys/net/ipv4/tcp_syncookies";
        let written = self.network.on_host(|| std::fs::write(SYSCTL, when));
        written.expect("the kernel has SYN cookies");
    }

    /// The other host hears of it within a few softirqs.
    fn wait_for(&self, stage: Stage) {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut seen = self.state();
        while seen != stage.state() && Instant::now() < deadline {
            std::thread::yield_now();
            seen = self.state();
        }
        assert_eq!(seen, stage.state(), "{} is to be {stage:?}", self.client);
    }

    /// The state of the connection in the host's /proc/net/tcp, where ports are in hexadecimal.
    fn state(&self) -> Option<u8> {
        let table = match self.client {
            SocketAddr::V4(_) => "/proc/thread-self/net/tcp",
            SocketAddr::V6(_) => "/proc/thread-self/net/tcp6",
        };
        let table = self.network.on_host(|| std::fs::read_to_string(table));
        let table = table.expect("/proc is there");
        let [service, client] =
            [self.service, self.client].map(|end| format!(":{:04X}", end.port()));
        table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields[1].ends_with(&service) && fields[2].ends_with(&client))
                .then(|| u8::from_str_radix(fields[3], 16).expect("a state is a number"))
        })
    }
}

fn close(side: &TcpStream) {
    side.shutdown(Shutdown::Write)
        .expect("the connection stands");
}

/// Writes until neither the client nor this side has room for more.
fn fill(mut server: &TcpStream) {
    server.set_nonblocking(true).expect("the socket is there");
    loop {
        match server.write(&[0; 65536]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("the connection stands: {error}"),
        }
    }
}

/// The numbers of a client's next segment.
fn numbers(client: &TcpStream) -> [u32; 2] {
    const RECEIVED: i32 = 1;
    const SENT: i32 = 2;
    option(client, libc::TCP_REPAIR, 1);
    let numbers = [SENT, RECEIVED].map(|queue| {
        option(client, libc::TCP_REPAIR_QUEUE, queue);
        let mut value = 0u32;
        let mut length = size_of::<u32>() as libc::socklen_t;
        // SAFETY: the kernel writes as many bytes as it is told there are.
        let result = unsafe {
            libc::getsockopt(
                client.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_QUEUE_SEQ,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        value
    });
    const OFF_WITHOUT_PROBE: i32 = -1;
    option(client, libc::TCP_REPAIR, OFF_WITHOUT_PROBE);
    numbers
}

fn option(socket: &impl AsRawFd, name: i32, value: i32) {
    // SAFETY: the kernel reads as many bytes as it is told there are.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

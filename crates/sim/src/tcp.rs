//! A host's TCP, as far as it matters who answers: listener, half-open connections, established ones, closing,
//! TIME_WAIT, resets for segments without a socket (RFC 9293, and what Linux does where that leaves a choice).
//!
//! Called by `kernel.rs` for segments that the filter lets through. Its socket table answers the filter's question
//! whether a connection is this host's. One request and one answer are under way at a time, and the client
//! repeats what is not answered, so there is no window and no congestion control.

use crate::packet::{ACK, FIN, Packet, RST, SYN, Tcp, Transport};
use crate::segment::Frame;
use crate::site;
use covey_filter::Socket as Kind;
use covey_proto::Connection;
use covey_proto::ids::Mac;
use covey_proto::time::Time;
use covey_proto::wire::heartbeat::Ends;
use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub(crate) client: SocketAddrV4,
    pub(crate) service: SocketAddrV4,
}

impl Tuple {
    /// The ends of a connection; none if it is not IPv4.
    pub(crate) fn of(client: SocketAddr, service: SocketAddr) -> Option<Self> {
        match (client, service) {
            (SocketAddr::V4(client), SocketAddr::V4(service)) => Some(Self { client, service }),
            (SocketAddr::V4(_) | SocketAddr::V6(_), _) => None,
        }
    }
}

impl From<Tuple> for Ends {
    fn from(Tuple { client, service }: Tuple) -> Self {
        Self {
            client: client.into(),
            service: service.into(),
        }
    }
}

/// How often a host repeats its SYN-ACK: after 1 s, 2 s and so on.
const SYN_ACKS: u8 = 5;
const SYN_ACK_AGAIN: Duration = Duration::from_secs(1);
/// How often it repeats its FIN: after 200 ms, doubled each time up to 3.2 s.
const FINS: u8 = 15;
const FIN_AGAIN: Duration = Duration::from_millis(200);
/// How long a closed connection waits for stragglers.
const TIME_WAIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    HalfOpen,
    Established,
    /// This host has closed first.
    FinWait,
    /// The client has closed first.
    LastAck,
    TimeWait,
}

#[derive(Clone, Debug)]
struct Socket {
    state: State,
    client_mac: Mac,
    client_isn: u32,
    isn: u32,
    /// Next byte expected.
    received: u32,
    /// Next byte to send.
    sent: u32,
    /// What was sent last, for repeating: sequence, flags, data.
    last: (u32, u8, Vec<u8>),
    repeats: u8,
    due: Time,
}

/// What comes of a segment or a timer.
#[derive(Default)]
pub(crate) struct Effects {
    /// Whole frames to send.
    pub(crate) frames: Vec<Vec<u8>>,
    /// When to call [`Stack::on_timer`].
    pub(crate) timers: Vec<(Time, Tuple)>,
    /// Connections whose handshake is complete, with the client's initial sequence number.
    pub(crate) established: Vec<(Tuple, u32)>,
    /// The filter has something to tell the daemon, and had nothing before.
    pub(crate) unclaimed: bool,
    /// A frame that the filter hands to the daemon.
    pub(crate) for_daemon: Option<Frame>,
}

/// The sockets of one host.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    mac: Mac,
    sockets: BTreeMap<Tuple, Socket>,
}

const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

impl Stack {
    pub(crate) const fn new(mac: Mac) -> Self {
        Self {
            mac,
            sockets: BTreeMap::new(),
        }
    }

    /// What the filter is told about a connection.
    pub(crate) fn kind(&self, tuple: &Tuple) -> Kind {
        let Some(socket) = self.sockets.get(tuple) else {
            return Kind::None;
        };
        match socket.state {
            State::HalfOpen => Kind::HalfOpen {
                awaits: Some(socket.isn.wrapping_add(1)),
            },
            State::Established | State::FinWait | State::LastAck => Kind::Connected,
            State::TimeWait => Kind::TimeWait,
        }
    }

    /// All sockets that have a client.
    pub(crate) fn connections(&self) -> Vec<Connection> {
        let connection = |tuple: &Tuple| Connection {
            client: tuple.client.into(),
            service: tuple.service.into(),
            socket: self.kind(tuple),
            idle: Duration::ZERO,
        };
        self.sockets.keys().map(connection).collect()
    }

    /// Takes a segment that has come to a virtual IP.
    pub(crate) fn receive(
        &mut self,
        now: Time,
        tuple: Tuple,
        client_mac: Mac,
        segment: &Tcp<'_>,
        effects: &mut Effects,
    ) {
        let opens = segment.has(SYN) && !segment.has(ACK);
        let mut wire = Wire {
            mac: self.mac,
            client_mac,
            tuple,
            effects,
        };
        let Some(socket) = self.sockets.get_mut(&tuple) else {
            if opens && !segment.has(RST) {
                self.sockets
                    .insert(tuple, Socket::open(now, segment, &mut wire));
            } else if !segment.has(RST) {
                wire.reset(segment);
            }
            return;
        };
        match socket.receive(now, segment, &mut wire) {
            Fate::Stays => {}
            Fate::Gone => {
                self.sockets.remove(&tuple);
            }
            Fate::Opens => *socket = Socket::open(now, segment, &mut wire),
        }
    }

    /// A time that was asked for has come; if it is not that socket's any more, nothing happens.
    pub(crate) fn on_timer(&mut self, now: Time, tuple: Tuple, effects: &mut Effects) {
        let Some(socket) = self
            .sockets
            .get_mut(&tuple)
            .filter(|socket| socket.due <= now)
        else {
            return;
        };
        let most = match socket.state {
            State::HalfOpen => SYN_ACKS,
            State::FinWait | State::LastAck => FINS,
            State::TimeWait => 0,
            // It has no timer of its own.
            State::Established => return,
        };
        if socket.repeats >= most {
            self.sockets.remove(&tuple);
            return;
        }
        socket.repeats += 1;
        let client_mac = socket.client_mac;
        let mut wire = Wire {
            mac: self.mac,
            client_mac,
            tuple,
            effects,
        };
        socket.repeat(&mut wire);
        socket.arm(now, &mut wire);
    }

    /// Drops a connection with a reset.
    pub(crate) fn cut(&mut self, tuple: Tuple, effects: &mut Effects) {
        if let Some(socket) = self.sockets.remove(&tuple) {
            let mut wire = Wire {
                mac: self.mac,
                client_mac: socket.client_mac,
                tuple,
                effects,
            };
            wire.send(socket.sent, socket.received, RST | ACK, &[]);
        }
    }
}

/// What becomes of a socket.
enum Fate {
    Stays,
    Gone,
    /// The tuple is used again.
    Opens,
}

impl Socket {
    fn open(now: Time, segment: &Tcp<'_>, wire: &mut Wire<'_>) -> Self {
        let isn = wire.initial_sequence(now);
        let received = segment.sequence.wrapping_add(1);
        let mut socket = Self {
            state: State::HalfOpen,
            client_mac: wire.client_mac,
            client_isn: segment.sequence,
            isn,
            received,
            sent: isn.wrapping_add(1),
            last: (isn, SYN | ACK, Vec::new()),
            repeats: 0,
            due: Time::NEVER,
        };
        socket.repeat(wire);
        socket.arm(now, wire);
        socket
    }

    fn arm(&mut self, now: Time, wire: &mut Wire<'_>) {
        let wait = match self.state {
            State::HalfOpen => SYN_ACK_AGAIN * (1 << self.repeats),
            State::FinWait | State::LastAck => FIN_AGAIN * (1 << self.repeats.min(4)),
            State::TimeWait => TIME_WAIT,
            State::Established => {
                self.due = Time::NEVER;
                return;
            }
        };
        self.due = now + wait;
        wire.effects.timers.push((self.due, wire.tuple));
    }

    fn repeat(&self, wire: &mut Wire<'_>) {
        let (sequence, flags, data) = &self.last;
        wire.send(*sequence, self.received, *flags, data);
    }

    fn acknowledge(&self, wire: &mut Wire<'_>) {
        wire.send(self.sent, self.received, ACK, &[]);
    }

    fn send(&mut self, flags: u8, data: &[u8], wire: &mut Wire<'_>) {
        self.last = (self.sent, flags, data.to_vec());
        self.repeat(wire);
        self.sent = self
            .sent
            .wrapping_add(data.len() as u32 + u32::from(flags & FIN != 0));
    }

    fn receive(&mut self, now: Time, segment: &Tcp<'_>, wire: &mut Wire<'_>) -> Fate {
        let opens = segment.has(SYN) && !segment.has(ACK);
        if segment.has(RST) {
            return if segment.sequence == self.received {
                Fate::Gone
            } else {
                Fate::Stays
            };
        }
        match self.state {
            State::TimeWait if opens && after(segment.sequence, self.received) => Fate::Opens,
            // Two ends that disagree must not acknowledge each other's bare acknowledgements for ever (RFC 5961, §7).
            State::TimeWait if segment.end() == segment.sequence => Fate::Stays,
            State::TimeWait => {
                self.acknowledge(wire);
                Fate::Stays
            }
            State::HalfOpen if opens && segment.sequence == self.client_isn => {
                self.repeat(wire);
                Fate::Stays
            }
            State::HalfOpen | State::Established | State::FinWait | State::LastAck
                if segment.has(SYN) =>
            {
                // A client that has forgotten the connection answers this with a reset (RFC 5961, §4).
                self.acknowledge(wire);
                Fate::Stays
            }
            State::HalfOpen if segment.acknowledgement != self.sent => {
                wire.reset(segment);
                Fate::Stays
            }
            State::HalfOpen => {
                self.state = State::Established;
                self.due = Time::NEVER;
                wire.effects.established.push((wire.tuple, self.client_isn));
                self.take(now, segment, wire)
            }
            State::LastAck if segment.acknowledgement == self.sent => Fate::Gone,
            State::Established | State::FinWait | State::LastAck => self.take(now, segment, wire),
        }
    }

    /// Data and FIN of an established connection.
    fn take(&mut self, now: Time, segment: &Tcp<'_>, wire: &mut Wire<'_>) -> Fate {
        if segment.end() == segment.sequence {
            return Fate::Stays;
        }
        if segment.sequence != self.received {
            // What was taken before: its answer was lost.
            if self.last.1 & SYN == 0 {
                self.repeat(wire)
            } else {
                self.acknowledge(wire)
            }
            return Fate::Stays;
        }
        self.received = segment.end();
        let short = wire.tuple.service.port() == site::SHORT;
        match (self.state, segment.has(FIN)) {
            (State::Established, false) if short => {
                self.state = State::FinWait;
                self.send(ACK | FIN, segment.payload, wire);
                self.repeats = 0;
                self.arm(now, wire);
            }
            (State::Established, false) => self.send(ACK, segment.payload, wire),
            (State::Established, true) => {
                self.state = State::LastAck;
                self.send(ACK | FIN, &[], wire);
                self.repeats = 0;
                self.arm(now, wire);
            }
            (State::FinWait, true) => {
                self.state = State::TimeWait;
                self.acknowledge(wire);
                self.arm(now, wire);
            }
            (State::FinWait | State::LastAck, _) | (State::HalfOpen | State::TimeWait, _) => {
                self.acknowledge(wire)
            }
        }
        Fate::Stays
    }
}

/// Where answers go.
struct Wire<'a> {
    mac: Mac,
    client_mac: Mac,
    tuple: Tuple,
    effects: &'a mut Effects,
}

impl Wire<'_> {
    fn send(&mut self, sequence: u32, acknowledgement: u32, flags: u8, payload: &[u8]) {
        let segment = Tcp {
            sequence,
            acknowledgement,
            flags,
            payload,
        };
        let packet = Packet {
            from: self.tuple.service,
            to: self.tuple.client,
            transport: Transport::Tcp(segment),
        };
        self.effects
            .frames
            .push(packet.emit(self.mac, self.client_mac));
    }

    /// There is no such connection (RFC 9293, §3.10.7.1).
    fn reset(&mut self, segment: &Tcp<'_>) {
        if segment.has(ACK) {
            self.send(segment.acknowledgement, 0, RST, &[]);
        } else {
            self.send(0, segment.end(), RST | ACK, &[]);
        }
    }

    /// Grows with time (RFC 9293, §3.4.1) and differs from host to host.
    fn initial_sequence(&self, now: Time) -> u32 {
        let salt = u64::from(self.mac.0[5]) << 32 | u64::from(self.tuple.client.port());
        let mixed = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        (mixed as u32).wrapping_add((now.as_micros() / 4) as u32)
    }
}

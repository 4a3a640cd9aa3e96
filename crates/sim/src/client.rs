//! A client: it asks for the cluster's MAC, opens connections, sends requests, holds connections idle, closes or
//! aborts them, uses address pairs again, and sends datagrams.
//!
//! It behaves as a TCP client does towards several hosts that all say they are one: repeats its SYN after 1 s,
//! 2 s and so on, answers a second SYN-ACK by a bare acknowledgement, and believes a reset only at the exact
//! sequence number. What happens to its connections goes to `invariant/` as [`Happening`]s.

mod connection;

use crate::packet::{Packet, RST, SYN, Transport};
use crate::rng::Rng;
use crate::scenario::Load;
use crate::site;
use crate::tcp::Tuple;
use connection::{Connection, SYN_AGAIN, State, Wire};
use covey_proto::ids::Mac;
use covey_proto::time::Time;
use covey_proto::wire::arp::{Arp, Operation};
use covey_proto::wire::ethernet::{self, Ethernet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// How long a datagram's answers are counted.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// How long a MAC is believed.
const NEIGHBOUR: Duration = Duration::from_secs(30);

/// What a client wants next, or waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// To open the next connection.
    Open,
    /// To send the next datagram.
    Send,
    /// To ask for the cluster's MAC.
    Ask,
    /// Something on a connection: local port and service port.
    Connection(u16, u16),
    /// To see how often this datagram was answered.
    Answers(u64),
}

/// A connection: its ends and the client's initial sequence number, which tells it from others of the same ends.
pub(crate) type Key = (Tuple, u32);

/// What happened to a client's connection or datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    /// A SYN is sent for the first time.
    Syn(Key),
    /// It is sent again. `stale`: the one before was answered, but for an earlier connection of the same ends.
    SynAgain { key: Key, stale: bool },
    /// A SYN-ACK has come.
    Established,
    /// The last SYN was not answered either (`stale`: as above), or refused.
    Refused { key: Key, stale: bool },
    /// It ended as the client wanted.
    Finished(Key),
    /// A reset has come, though the client wanted more.
    Reset(Key),
    /// Repeats are not answered as they should be. `stale`: a host may have kept an earlier connection of these ends, and
    /// answers for that one.
    Hung { key: Key, stale: bool },
    /// Another host than the one that accepted it says something in a connection.
    OtherVoice { key: Key, mac: Mac },
    /// A datagram was answered so often.
    Answered {
        sent_at: Time,
        from: SocketAddrV4,
        times: u32,
    },
    /// A virtual IP was told to be at a MAC that is not the cluster's.
    WrongMac(Mac),
}

/// What comes of a frame or an alarm.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) frames: Vec<Vec<u8>>,
    pub(crate) alarms: Vec<(Time, Alarm)>,
    pub(crate) happenings: Vec<Happening>,
}

/// A client and its connections.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    ip: Ipv4Addr,
    mac: Mac,
    cluster: Option<Mac>,
    connections: BTreeMap<(u16, u16), Connection>,
    /// Local port and service port that are free to use again.
    reusable: Vec<(u16, u16)>,
    /// Likewise, of connections that did not end as they should: their host may still have them.
    abandoned: BTreeSet<(u16, u16)>,
    datagrams: BTreeMap<u64, (Time, u16, u32)>,
    sent: u64,
    load: Load,
    rng: Rng,
    /// No new connections and datagrams from then on, so that all can end before the run does.
    until: Time,
}

impl Client {
    pub(crate) fn new(number: usize, load: &Load, seed: Rng, until: Time) -> Self {
        let (ip, mac) = site::client(number);
        Self {
            ip,
            mac,
            cluster: None,
            connections: BTreeMap::new(),
            reusable: Vec::new(),
            abandoned: BTreeSet::new(),
            datagrams: BTreeMap::new(),
            sent: 0,
            load: load.clone(),
            rng: seed,
            until,
        }
    }

    /// Time to the next of `per_second` things that all clients together do; none if there are none.
    fn pause(&mut self, per_second: u32) -> Option<Duration> {
        let mean = 1_000_000 * u64::from(self.load.clients) / u64::from(per_second).max(1);
        (per_second > 0).then(|| Duration::from_micros(1 + self.rng.below(2 * mean)))
    }

    /// A time has come that was asked for.
    pub(crate) fn on_alarm(&mut self, now: Time, alarm: Alarm, results: &mut Results) {
        match alarm {
            Alarm::Ask => self.ask(now, results),
            Alarm::Open | Alarm::Send if now >= self.until => {}
            Alarm::Open => {
                if let Some(pause) = self.pause(self.load.connections) {
                    results.alarms.push((now + pause, Alarm::Open));
                    self.open(now, results);
                }
            }
            Alarm::Send => {
                if let Some(pause) = self.pause(self.load.datagrams) {
                    results.alarms.push((now + pause, Alarm::Send));
                    self.send_datagram(now, results);
                }
            }
            Alarm::Connection(port, service) => {
                self.continue_connection(now, (port, service), results)
            }
            Alarm::Answers(number) => {
                if let Some((sent_at, port, times)) = self.datagrams.remove(&number) {
                    let from = SocketAddrV4::new(self.ip, port);
                    results.happenings.push(Happening::Answered {
                        sent_at,
                        from,
                        times,
                    });
                }
            }
        }
    }

    fn ask(&self, now: Time, results: &mut Results) {
        let again = if self.cluster.is_some() {
            NEIGHBOUR
        } else {
            SYN_AGAIN
        };
        results
            .frames
            .push(Arp::question(self.mac, self.ip, site::VIP));
        results.alarms.push((now + again, Alarm::Ask));
    }

    fn open(&mut self, now: Time, results: &mut Results) {
        let Some(cluster) = self.cluster else {
            return;
        };
        let again = !self.reusable.is_empty() && self.rng.percent(30.0);
        let (port, service) = if again {
            let index = self.rng.below(self.reusable.len() as u64) as usize;
            self.reusable.swap_remove(index)
        } else {
            // Linux gives connect() even ports.
            let port = 32_768 + 2 * self.rng.below(14_000) as u16;
            (port, *self.rng.pick(&site::SERVICES))
        };
        if self.connections.contains_key(&(port, service)) {
            return;
        }
        let tuple = Tuple {
            client: SocketAddrV4::new(self.ip, port),
            service: SocketAddrV4::new(site::VIP, service),
        };
        // Later connections of a tuple have later numbers (RFC 9293, §3.4.1).
        let isn = (u32::from(port) << 16).wrapping_add((now.as_micros() / 4) as u32);
        let requests = self.rng.between(0, u64::from(self.load.requests)) as u8;
        let requests = if service == site::SHORT { 1 } else { requests };
        let pause = self.rng.span(self.load.holds.0) / (u32::from(requests) + 1);
        let connection = Connection {
            tuple,
            isn,
            state: State::SynSent,
            sent: isn.wrapping_add(1),
            received: 0,
            tries: 1,
            due: now + SYN_AGAIN,
            requests_left: requests,
            pause,
            aborts: service != site::SHORT && self.rng.percent(20.0),
            complete: false,
            stale: false,
            voice: None,
            first: !self.abandoned.contains(&(port, service)),
            closed: false,
        };
        results.happenings.push(Happening::Syn((tuple, isn)));
        results
            .alarms
            .push((connection.due, Alarm::Connection(port, service)));
        Wire {
            mac: self.mac,
            cluster,
            results,
        }
        .send(tuple, isn, 0, SYN, &[]);
        self.connections.insert((port, service), connection);
    }

    fn send_datagram(&mut self, now: Time, results: &mut Results) {
        let Some(cluster) = self.cluster else {
            return;
        };
        self.sent += 1;
        let port = 32_768 + self.rng.below(28_000) as u16;
        self.datagrams.insert(self.sent, (now, port, 0));
        let packet = Packet {
            from: SocketAddrV4::new(self.ip, port),
            to: SocketAddrV4::new(site::VIP, site::NAMES),
            transport: Transport::Udp(&self.sent.to_be_bytes()),
        };
        results.frames.push(packet.emit(self.mac, cluster));
        results
            .alarms
            .push((now + ANSWERS_WITHIN, Alarm::Answers(self.sent)));
    }

    fn continue_connection(&mut self, now: Time, key: (u16, u16), results: &mut Results) {
        let (Some(connection), Some(cluster)) = (self.connections.get_mut(&key), self.cluster)
        else {
            return;
        };
        if connection.due > now {
            return;
        }
        let mut wire = Wire {
            mac: self.mac,
            cluster,
            results,
        };
        let goes_on = connection.on_due(&mut wire);
        if goes_on {
            connection.arm(now);
            results
                .alarms
                .push((connection.due, Alarm::Connection(key.0, key.1)));
        } else {
            self.forget(key);
        }
    }

    fn forget(&mut self, key: (u16, u16)) {
        let gone = self.connections.remove(&key);
        if gone.as_ref().is_some_and(|gone| !gone.closed) {
            self.abandoned.insert(key);
        }
        // Who closes first keeps TIME_WAIT and does not use the tuple again soon.
        if gone.is_some_and(|gone| gone.state != State::Closing || key.1 == site::SHORT) {
            self.reusable.push(key);
        }
    }

    /// Takes a frame from the wire.
    pub(crate) fn receive(&mut self, now: Time, frame: &[u8], results: &mut Results) {
        let Ok(parsed) = Ethernet::parse(frame) else {
            return;
        };
        if parsed.destination != self.mac {
            return;
        }
        if parsed.ethertype == ethernet::ARP {
            self.learn(now, parsed.payload, results);
            return;
        }
        let (Some(packet), Some(cluster)) = (Packet::parse(parsed.payload), self.cluster) else {
            return;
        };
        if *packet.to.ip() != self.ip {
            // A flipped bit can bring a frame to the wrong machine.
            return;
        }
        match packet.transport {
            Transport::Udp(data) => {
                let number = data.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
                if let Some((_, _, times)) =
                    number.and_then(|number| self.datagrams.get_mut(&number))
                {
                    *times += 1;
                }
            }
            Transport::Tcp(segment) => {
                let tuple = Tuple {
                    client: packet.to,
                    service: packet.from,
                };
                let key = (packet.to.port(), packet.from.port());
                let mut wire = Wire {
                    mac: self.mac,
                    cluster,
                    results,
                };
                let Some(connection) = self.connections.get_mut(&key) else {
                    if !segment.has(RST) {
                        wire.send(tuple, segment.acknowledgement, 0, RST, &[]);
                    }
                    return;
                };
                let due = connection.due;
                connection.hear_voice(parsed.source, &segment, &mut wire);
                if !connection.receive(now, &segment, &mut wire) {
                    self.forget(key);
                } else if connection.due != due {
                    results
                        .alarms
                        .push((connection.due, Alarm::Connection(key.0, key.1)));
                }
            }
        }
    }

    fn learn(&mut self, now: Time, payload: &[u8], results: &mut Results) {
        let Ok(arp) = Arp::parse(payload) else {
            return;
        };
        let announced = arp.sender_ip == arp.target_ip;
        if (arp.operation != Operation::Reply && !announced) || arp.sender_ip != site::VIP {
            return;
        }
        if !site::cluster_macs().contains(&arp.sender_mac) {
            results.happenings.push(Happening::WrongMac(arp.sender_mac));
            return;
        }
        if self.cluster.is_none() && now < self.until {
            for (alarm, per_second) in [
                (Alarm::Open, self.load.connections),
                (Alarm::Send, self.load.datagrams),
            ] {
                if let Some(pause) = self.pause(per_second) {
                    results.alarms.push((now + pause, alarm));
                }
            }
        }
        self.cluster = Some(arp.sender_mac);
    }
}

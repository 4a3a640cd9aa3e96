//! Datagrams to the lab's echo service at a steady rate, from source ports whose owner is known: the instrument
//! for what is dark, where, and for how long. Nobody repeats a datagram, so what is lost shows; an answer names
//! the host and the datagram, so what is answered twice shows too. Called by the tests of crashes and by the
//! failover bench. docs/design.md, "Tests".

use crate::lab::Lab;
use crate::netns;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time between two datagrams from one port.
pub(crate) const EVERY: Duration = Duration::from_millis(2);
/// First of the ports that are tried; other tests keep below it.
const FIRST_PORT: u16 = 61_000;
/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

fn socket(vip: IpAddr, port: u16) -> UdpSocket {
    let any: IpAddr = match vip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, port)).unwrap();
    socket.connect((vip, 7)).unwrap();
    socket
}

/// The host and the number in an answer: `hN `, then the four bytes that were sent.
fn read_answer(answer: &[u8]) -> (u8, usize) {
    let (head, number) = answer.split_last_chunk().expect("an echo of four bytes");
    let host = std::str::from_utf8(head)
        .ok()
        .and_then(|head| head.strip_prefix('h'));
    let host = host.and_then(|head| head.trim_end().parse().ok());
    (
        host.expect("an echo names its host"),
        u32::from_be_bytes(*number) as usize,
    )
}

/// Source ports of the client, `count` for each host, by the host that answers them.
pub(crate) fn ports_by_owner(lab: &Lab, count: usize) -> BTreeMap<u8, Vec<u16>> {
    let (hosts, vip) = (lab.hosts().len(), lab.vip());
    netns::inside(&lab.namespace("client"), move || {
        let mut ports: BTreeMap<u8, Vec<u16>> = BTreeMap::new();
        for port in FIRST_PORT.. {
            let socket = socket(vip, port);
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket.send(&[0; 4]).unwrap();
            let mut answer = [0; 64];
            let length = socket
                .recv(&mut answer)
                .expect("a converged cluster echoes");
            let of_host = ports.entry(read_answer(&answer[..length]).0).or_default();
            if of_host.len() < count {
                of_host.push(port);
            }
            if ports.len() == hosts && ports.values().all(|ports| ports.len() == count) {
                break;
            }
        }
        ports
    })
}

/// One port's datagrams, in order.
struct Lane {
    /// Who owned the port at the start.
    owner: u8,
    /// Each datagram: when it was sent, and who has answered it.
    datagrams: Vec<(Instant, Vec<u8>)>,
}

impl Lane {
    /// The longest time between two datagrams that were answered, by the time they were sent. What was dark
    /// from the start or to the end counts from the first or to the last datagram.
    fn longest_gap(&self) -> Duration {
        let lit = self
            .datagrams
            .iter()
            .filter(|(_, answers)| !answers.is_empty());
        let (first, last) = (self.datagrams.first(), self.datagrams.last());
        let counted = first.into_iter().chain(lit).chain(last);
        let times: Vec<Instant> = counted.map(|(sent, _)| *sent).collect();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or(Duration::MAX)
    }
}

/// A port that is in use.
struct Port {
    socket: UdpSocket,
    lane: Lane,
}

impl Port {
    fn open(vip: IpAddr, owner: u8, port: u16) -> Self {
        let socket = socket(vip, port);
        socket.set_nonblocking(true).unwrap();
        let lane = Lane {
            owner,
            datagrams: Vec::new(),
        };
        Self { socket, lane }
    }

    fn send(&mut self) {
        let number = u32::try_from(self.lane.datagrams.len()).unwrap();
        self.lane.datagrams.push((Instant::now(), Vec::new()));
        // A datagram that cannot be sent is one without an answer.
        let _ = self.socket.send(&number.to_be_bytes());
    }

    fn receive(&mut self) {
        let mut answer = [0; 64];
        loop {
            match self.socket.recv(&mut answer) {
                Ok(length) => {
                    let (host, number) = read_answer(&answer[..length]);
                    // What an earlier probe on this port has sent is not counted here.
                    if let Some((_, answers)) = self.lane.datagrams.get_mut(number) {
                        answers.push(host);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error: the datagram stays without an answer.
                Err(_) => (),
            }
        }
    }

    fn is_answered(&self) -> bool {
        self.lane
            .datagrams
            .last()
            .is_none_or(|(_, answers)| !answers.is_empty())
    }
}

/// What the probe has seen.
pub(crate) struct Record(Vec<Lane>);

impl Record {
    /// The longest gap among the ports of these owners.
    pub(crate) fn longest_gap(&self, of: impl Fn(u8) -> bool) -> Duration {
        let lanes = self.0.iter().filter(|lane| of(lane.owner));
        lanes.map(Lane::longest_gap).max().unwrap_or_default()
    }

    /// For each port, who answered its first datagram, and the longest gap.
    #[allow(dead_code, reason = "benchmarks call it")]
    pub(crate) fn gaps(&self) -> Vec<(Option<u8>, Duration)> {
        let first = |lane: &Lane| lane.datagrams.first()?.1.first().copied();
        let gap = |lane: &Lane| (first(lane), lane.longest_gap());
        self.0.iter().map(gap).collect()
    }

    /// Datagrams in all.
    pub(crate) fn sent(&self) -> usize {
        self.0.iter().map(|lane| lane.datagrams.len()).sum()
    }

    /// Datagrams from ports of these owners that nobody has answered.
    pub(crate) fn unanswered(&self, of: impl Fn(u8) -> bool) -> usize {
        self.count(of, |answers| answers.is_empty())
    }

    /// Datagrams that were answered more than once.
    pub(crate) fn answered_twice(&self) -> usize {
        self.count(|_| true, |answers| answers.len() > 1)
    }

    fn count(&self, of: impl Fn(u8) -> bool, which: impl Fn(&[u8]) -> bool) -> usize {
        let lanes = self.0.iter().filter(|lane| of(lane.owner));
        lanes
            .flat_map(|lane| &lane.datagrams)
            .filter(|(_, answers)| which(answers))
            .count()
    }
}

/// Datagrams from many ports, each every [`EVERY`], until told to stop.
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Record>,
}

impl Probe {
    /// Starts sending from these ports of the client, given by owner, and returns when each has sent once.
    pub(crate) fn start(lab: &Lab, ports: &BTreeMap<u8, Vec<u16>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, ports) = (stop.clone(), ports.clone());
        let vip = lab.vip();
        let (begin, begun) = mpsc::channel();
        let thread = netns::spawn_in(&lab.namespace("client"), move || {
            let owned = ports
                .iter()
                .flat_map(|(owner, ports)| ports.iter().map(|port| (*owner, *port)));
            let mut sockets: Vec<Port> = owned
                .map(|(owner, port)| Port::open(vip, owner, port))
                .collect();
            while !stopped.load(Ordering::Relaxed) {
                let next = Instant::now() + EVERY;
                for socket in &mut sockets {
                    socket.send();
                    socket.receive();
                }
                // Nobody listens after the first round.
                let _ = begin.send(());
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            let end = Instant::now() + LAST_ANSWERS;
            while Instant::now() < end && !sockets.iter().all(Port::is_answered) {
                sockets.iter_mut().for_each(Port::receive);
            }
            Record(sockets.into_iter().map(|port| port.lane).collect())
        });
        // It fails if the thread has panicked, which `finish` passes on.
        let _ = begun.recv();
        Self { stop, thread }
    }

    /// Stops, waits for the last answers, and hands over what was seen.
    pub(crate) fn finish(self) -> Record {
        self.stop.store(true, Ordering::Relaxed);
        netns::join(self.thread)
    }
}

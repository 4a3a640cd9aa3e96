//! A virtual Ethernet segment with a few hosts on it: the test bench of the core. Time jumps from one thing
//! that happens to the next. The full simulator has clients and packets; this has only what the state
//! machine itself can get wrong.
//!
//! Here: hosts, the wire, the clock. `segment/deeds.rs`: what is done to hosts. `segment/verdict.rs`: how they are doing.

use super::super::{Answer, Cluster, Command, Connection, Input, Output};
use crate::buckets::BucketSet;
use crate::config::{Auth, ClusterConfig, ClusterMode, Key, Quorum, SourceMac, Timing};
use crate::datapath::Image;
use crate::delivery::Delivery;
use crate::event::Event;
use crate::ids::{Epoch, HostId, HostSet, Incarnation, Mac};
use crate::rules::{Affinity, Claim, FilterMode, PortRule, Protocol, RuleSet};
use crate::time::Time;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::heartbeat::{Body, Ends, Message, PROTOCOL_VERSION};
use crate::wire::probe;
use covey_filter::{BUCKETS, Row};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

mod deeds;
mod verdict;

pub(super) const LATENCY: Duration = Duration::from_micros(100);
pub(super) const TIMING: Timing = Timing {
    period: Duration::from_millis(100),
    tolerance: 5,
};

pub(super) fn id(host: u8) -> HostId {
    HostId::new(host).unwrap()
}

pub(super) fn set(hosts: &[u8]) -> HostSet {
    hosts.iter().map(|host| id(*host)).collect()
}

pub(super) fn vip() -> IpAddr {
    "10.77.0.100".parse().unwrap()
}

/// Whether a frame is a probe, to whatever MAC.
pub(super) fn is_probe(frame: &Ethernet<'_>) -> bool {
    let payload = match frame.ethertype {
        ethernet::IPV4 | ethernet::IPV6 | ethernet::PROBE => probe::message(frame.payload).unwrap(),
        _ => return false,
    };
    let Some(primary) = payload.get(12..).and_then(|rest| rest.first_chunk()) else {
        return false;
    };
    let message = Message::parse(payload, *primary, &config(1).auth);
    message.is_ok_and(|message| message.body == Body::Probe)
}

pub(super) fn web_rules(port: u16) -> RuleSet {
    let mode = FilterMode::Multiple {
        affinity: Affinity::None,
    };
    let web = PortRule {
        vip: None,
        start: port,
        end: port,
        protocol: Protocol::Tcp,
        mode,
        sticky: None,
    };
    RuleSet::new(vec![vip()], vec![web]).unwrap()
}

/// The rules of [`config`], in this mode.
pub(super) fn in_mode(mode: ClusterMode) -> RuleSet {
    web_rules(80).delivered_by(Delivery::derived(mode, vip()))
}

pub(super) fn config(host: u8) -> ClusterConfig {
    ClusterConfig {
        host: id(host),
        name: format!("h{host}"),
        mac: Mac([2, 0, 0, 0, 0, host]),
        dip: Ipv4Addr::new(10, 77, 0, host),
        timing: TIMING,
        auth: Auth::Keys(vec![Key {
            id: 1,
            secret: [7; 32],
        }]),
        rules: web_rules(80),
        claims: vec![Claim::EQUAL_WEIGHT],
        port_states: Vec::new(),
        quorum: Quorum::None,
        legacy: false,
        version: PROTOCOL_VERSION,
        unicast_fallback: true,
        max_linger: None,
        source_mac: SourceMac::Host,
        filter_icmp: true,
        clock_granularity: Duration::from_millis(4),
        incarnation: Incarnation(u64::from(host) << 32),
    }
}

pub(super) struct Host {
    pub(super) config: ClusterConfig,
    pub(super) cluster: Cluster,
    pub(super) image: Option<Image>,
    /// What may come into force, and until when it would let the host serve.
    staged: Option<(Image, Time)>,
    pub(super) lease: Time,
    wait: Time,
    /// Not running until then.
    stalled_until: Time,
    inbox: VecDeque<Vec<u8>>,
    /// The machine is on: its kernel answers ARP and its data path works, even if the daemon does not.
    pub(super) powered: bool,
    pub(super) running: bool,
    pub(super) events: Vec<(Time, Event)>,
    /// How often it has heard nobody.
    pub(super) unheard: u32,
    /// The sockets of its clients.
    pub(super) connections: Vec<Connection>,
    /// In which buckets of which sticky rule it has had traffic lately.
    pub(super) seen: Vec<(u8, BucketSet)>,
    /// Connections that nobody has, as far as it has found out.
    pub(super) disowned: Vec<Ends>,
    /// Whether it gets round to counting them.
    pub(super) counts: bool,
}

impl Host {
    pub(super) fn serves(&self, now: Time, bucket: usize) -> bool {
        let image = self
            .image
            .as_ref()
            .filter(|image| image.settings.serving == 1);
        self.powered
            && now < self.lease
            && image.is_some_and(|image| {
                let map = usize::from(image.rules[1].map);
                Row(image.rows[map][bucket]).is_mine()
            })
    }

    fn has(&self, ends: &Ends) -> bool {
        let mut connections = self.connections.iter();
        connections.any(|one| (one.client, one.service) == (ends.client, ends.service))
    }

    fn commit(&mut self) {
        let (image, lease) = self.staged.take().expect("something is staged");
        (self.image, self.lease) = (Some(image), lease);
    }

    /// Whether it may answer anything at all.
    fn is_serving(&self, now: Time) -> bool {
        let programmed = self
            .image
            .as_ref()
            .is_some_and(|image| image.settings.serving == 1);
        self.powered && now < self.lease && programmed
    }

    fn map_in_force(&self) -> (Epoch, HostSet) {
        let map = self.cluster.committed.as_ref().map(|map| map.proposal);
        map.map_or((Epoch(0), HostSet::EMPTY), |map| {
            (map.ballot.epoch, map.view)
        })
    }

    /// Whether its daemon is alive and not stalled.
    pub(super) fn runs(&self, now: Time) -> bool {
        self.running && now >= self.stalled_until
    }

    pub(super) fn saw(&self, matching: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(|(_, event)| matching(event))
    }
}

/// The frame as a daemon gets it: the filter gives probes to the cluster MAC another EtherType.
fn handed_over(frame: &[u8]) -> Vec<u8> {
    let parsed = Ethernet::parse(frame).unwrap();
    let ip = [ethernet::IPV4, ethernet::IPV6].contains(&parsed.ethertype);
    let ethertype = if ip && is_probe(&parsed) {
        ethernet::PROBE
    } else {
        parsed.ethertype
    };
    Ethernet {
        ethertype,
        ..parsed
    }
    .emit()
}

/// Arrival, number of the frame, receiver's index, bytes.
type InFlight = (Time, u64, usize, Vec<u8>);

/// Decides whether a frame from one host to another is lost.
type Loss = Box<dyn FnMut(HostId, HostId, &Ethernet<'_>) -> bool>;

pub(super) struct Segment {
    pub(super) now: Time,
    pub(super) hosts: Vec<Host>,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    frames_sent: u64,
    pub(super) loss: Loss,
    pub(super) recorded: Vec<Vec<u8>>,
    /// The segment is in parts and there is no quorum, so each part may serve.
    pub(super) split: bool,
    dark_since: Option<Time>,
    /// The longest time for which some bucket was served by nobody, since last taken.
    pub(super) longest_dark: Duration,
}

impl Segment {
    pub(super) fn new(configs: impl IntoIterator<Item = ClusterConfig>) -> Self {
        let hosts = configs.into_iter().map(|config| Host {
            cluster: Cluster::new(config.clone()),
            config,
            image: None,
            staged: None,
            unheard: 0,
            lease: Time::ZERO,
            wait: Time::NEVER,
            stalled_until: Time::ZERO,
            inbox: VecDeque::new(),
            powered: true,
            running: true,
            events: Vec::new(),
            connections: Vec::new(),
            disowned: Vec::new(),
            counts: true,
            seen: Vec::new(),
        });
        Self {
            now: Time::from_micros(1_000_000),
            hosts: hosts.collect(),
            in_flight: BinaryHeap::new(),
            frames_sent: 0,
            loss: Box::new(|_, _, _| false),
            recorded: Vec::new(),
            split: false,
            dark_since: None,
            longest_dark: Duration::ZERO,
        }
    }

    /// Hosts 1..=count, started and converged.
    pub(super) fn converged(count: u8) -> Self {
        let mut segment = Self::new((1..=count).map(config));
        segment.start_all();
        segment.run_until_converged(&(1..=count).collect::<Vec<_>>());
        segment.run(LATENCY * 3);
        segment.longest_dark = Duration::ZERO;
        segment
    }

    pub(super) fn index(&self, host: u8) -> usize {
        self.hosts
            .iter()
            .position(|known| known.config.host == id(host))
            .unwrap()
    }

    /// How many such events the host at this index has told.
    pub(super) fn count(&self, index: usize, matching: impl Fn(&Event) -> bool) -> usize {
        let events = self.hosts[index].events.iter();
        events.filter(|(_, event)| matching(event)).count()
    }

    /// Why the host at this index is not in the cluster, if it is not.
    pub(super) fn waiting_for(&self, index: usize) -> Option<String> {
        self.hosts[index].cluster.snapshot(self.now).waiting_for
    }

    pub(super) fn host(&self, host: u8) -> &Host {
        &self.hosts[self.index(host)]
    }

    fn drain(&mut self, index: usize) {
        loop {
            match self.hosts[index].cluster.poll_output() {
                Output::Transmit(frame) => self.transmit(index, frame),
                Output::Stage(staging) => {
                    self.hosts[index].staged = Some((staging.image, staging.lease));
                }
                Output::StagedLease(until) => {
                    self.hosts[index]
                        .staged
                        .as_mut()
                        .expect("something is staged")
                        .1 = until;
                }
                Output::Unheard => self.hosts[index].unheard += 1,
                Output::Withdraw => self.hosts[index].staged = None,
                Output::Commit => self.hosts[index].commit(),
                Output::Amend(image) => self.hosts[index].image = Some(*image),
                Output::Fence => {
                    let host = &mut self.hosts[index];
                    (host.image, host.staged, host.lease) = (None, None, Time::ZERO);
                }
                Output::Lease(until) => self.hosts[index].lease = until,
                Output::CountConnections => {
                    let Host {
                        cluster,
                        connections,
                        counts,
                        seen,
                        ..
                    } = &mut self.hosts[index];
                    if *counts {
                        cluster.handle_input(self.now, Input::Seen(seen));
                        cluster.handle_input(self.now, Input::Connections(connections));
                    }
                }
                Output::Cut(cut) => self.hosts[index]
                    .connections
                    .retain(|connection| !cut.contains(connection)),
                Output::Search(connections) => {
                    let host = &mut self.hosts[index];
                    let missing: Vec<Ends> = connections
                        .into_iter()
                        .filter(|ends| !host.has(ends))
                        .collect();
                    host.cluster
                        .handle_input(self.now, Input::Missing(&missing));
                }
                Output::Disown(_, mut connections) => {
                    self.hosts[index].disowned.append(&mut connections);
                }
                Output::Event(event) => self.hosts[index].events.push((self.now, event)),
                Output::Wait(until) => break self.hosts[index].wait = until,
            }
        }
    }

    fn transmit(&mut self, from: usize, frame: Vec<u8>) {
        let sender = self.hosts[from].config.host;
        let parsed = Ethernet::parse(&frame).unwrap();
        self.answer_arp(from, &parsed);
        for to in (0..self.hosts.len()).filter(|to| *to != from) {
            let Host {
                config,
                cluster,
                powered,
                ..
            } = &self.hosts[to];
            let addressed = [Mac::BROADCAST, config.mac].contains(&parsed.destination)
                || cluster.macs().contains(&parsed.destination);
            if addressed && *powered && !(self.loss)(sender, config.host, &parsed) {
                self.send(self.now + LATENCY, to, handed_over(&frame));
            }
        }
        self.recorded.push(frame);
    }

    fn send(&mut self, arrival: Time, to: usize, frame: Vec<u8>) {
        self.frames_sent += 1;
        self.in_flight
            .push(Reverse((arrival, self.frames_sent, to, frame)));
    }

    /// The kernel of every machine that is on answers for its dedicated IP.
    fn answer_arp(&mut self, from: usize, question: &Ethernet<'_>) {
        let Some(arp) =
            (question.ethertype == ethernet::ARP).then(|| Arp::parse(question.payload).unwrap())
        else {
            return;
        };
        let asker = self.hosts[from].config.host;
        let machine = self
            .hosts
            .iter()
            .find(|host| host.powered && host.config.dip == arp.target_ip);
        let Some(Host { config, .. }) = machine else {
            return;
        };
        let (mac, host) = (config.mac, config.host);
        if (self.loss)(asker, host, question) {
            return;
        }
        let mut answer = Arp::question(mac, arp.target_ip, arp.sender_ip);
        answer[..6].copy_from_slice(&arp.sender_mac.0);
        answer[21] = 2;
        debug_assert_eq!(
            Arp::parse(&answer[14..]).unwrap().operation,
            Operation::Reply
        );
        self.send(self.now + LATENCY * 2, from, answer);
    }

    /// Lets happen what comes next, at most until `end`. False when nothing is left before it.
    pub(super) fn step(&mut self, end: Time) -> bool {
        let arrival = self
            .in_flight
            .peek()
            .map_or(Time::NEVER, |Reverse(frame)| frame.0);
        let now = self.now;
        let wake = move |host: &Host| {
            let due = if host.inbox.is_empty() {
                host.wait
            } else {
                Time::ZERO
            };
            if host.running {
                due.max(host.stalled_until).max(now)
            } else {
                Time::NEVER
            }
        };
        let next_wake = self.hosts.iter().map(wake).min().unwrap_or(Time::NEVER);
        let next = arrival.min(next_wake);
        if next > end {
            self.now = end;
            return false;
        }
        self.now = next;
        if arrival <= next {
            let Reverse((_, _, to, frame)) = self.in_flight.pop().unwrap();
            self.hosts[to].inbox.push_back(frame);
            return true;
        }
        let index = self
            .hosts
            .iter()
            .position(|host| wake(host) == next)
            .unwrap();
        // As the daemon does: read everything that has arrived, then let the timers fire.
        while let Some(frame) = self.hosts[index].inbox.pop_front() {
            self.hosts[index]
                .cluster
                .handle_input(self.now, Input::Frame(&frame));
            self.drain(index);
        }
        self.hosts[index]
            .cluster
            .handle_input(self.now, Input::Timer);
        self.drain(index);
        true
    }

    /// Runs for a time and checks after every step that nobody serves who was left out.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {
            self.check_fencing();
        }
    }

    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Duration {
        let (start, end) = (self.now, self.now + limit);
        while !done(self) {
            assert!(self.step(end), "not within {limit:?}: {}", self.account());
            self.check_fencing();
        }
        self.now.since(start)
    }

    pub(super) fn run_until_converged(&mut self, hosts: &[u8]) -> Duration {
        self.run_until(TIMING.budget() * 6, |segment| segment.is_converged(hosts))
    }
}

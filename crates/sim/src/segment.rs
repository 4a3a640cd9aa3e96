//! The Ethernet segment: a learning switch with one port for each machine and each client, and links between
//! them that can misbehave (`faults.rs`).
//!
//! It carries bytes. A frame goes to every port unless the switch has learnt where its destination is; the
//! cluster MAC it must never learn (promise 5), because nobody may send from it. Called by `world.rs`.

use crate::faults::{Kind, LinkFault, Quality};
use crate::report::Counts;
use crate::rng::Rng;
use covey_proto::ids::Mac;
use covey_proto::time::Time;
use covey_proto::wire::ethernet::{self, Ethernet};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// A frame on its way; the copies for several receivers are one.
pub(crate) type Frame = Rc<[u8]>;

/// One direction between two ports.
#[derive(Clone, Debug, Default)]
struct Link {
    quality: Quality,
    in_burst: bool,
    /// Frames do not overtake each other, unless a fault makes them.
    last_arrival: Time,
}

/// A fault in force.
#[derive(Clone, Debug)]
struct Active {
    number: u64,
    fault: LinkFault,
}

/// A frame that will arrive.
pub(crate) struct Delivery {
    pub(crate) at: Time,
    pub(crate) port: usize,
    pub(crate) frame: Frame,
}

/// The switch and its links. Ports below `machines` are machines, then come the clients, and last one for whoever
/// has no business here.
pub(crate) struct Segment {
    machines: usize,
    ports: usize,
    links: Vec<Link>,
    learnt: BTreeMap<Mac, usize>,
    active: Vec<Active>,
    started: u64,
    latency: Duration,
    jitter: Duration,
    rng: Rng,
    /// Frames that were sent, however many hear them, and their bytes.
    pub(crate) sent_frames: u64,
    pub(crate) sent_bytes: u64,
}

impl Segment {
    pub(crate) fn new(
        machines: usize,
        clients: usize,
        latency: Duration,
        jitter: Duration,
        rng: Rng,
    ) -> Self {
        let ports = machines + clients + 1;
        Self {
            machines,
            ports,
            links: vec![Link::default(); ports * ports],
            learnt: BTreeMap::new(),
            active: Vec::new(),
            started: 0,
            latency,
            jitter,
            rng,
            sent_frames: 0,
            sent_bytes: 0,
        }
    }

    /// The longest time that a frame can travel over a sound link.
    pub(crate) fn longest_travel(&self) -> Duration {
        self.latency + self.jitter
    }

    /// Begins a fault; returns a number to end it by.
    pub(crate) fn begin(&mut self, fault: LinkFault) -> u64 {
        self.started += 1;
        self.active.push(Active {
            number: self.started,
            fault,
        });
        self.judge_links();
        self.started
    }

    /// Ends a fault.
    pub(crate) fn end(&mut self, number: u64) {
        self.active.retain(|active| active.number != number);
        self.judge_links();
    }

    /// Whether no fault is in force.
    pub(crate) const fn is_sound(&self) -> bool {
        self.active.is_empty()
    }

    /// Whether one machine may miss another for longer than its tolerance.
    pub(crate) fn is_unreliable(&self, from: usize, to: usize) -> bool {
        self.links[from * self.ports + to].quality.is_unreliable()
    }

    fn judge_links(&mut self) {
        let number = |port: usize| (port < self.machines).then_some(port as u8 + 1);
        for (index, link) in self.links.iter_mut().enumerate() {
            link.quality = Quality::default();
            for active in &self.active {
                let (from, to) = (index / self.ports, index % self.ports);
                active
                    .fault
                    .afflict(&mut link.quality, number(from), number(to));
            }
        }
    }

    /// The port at which the switch has learnt a MAC to be.
    pub(crate) fn learnt(&self, mac: Mac) -> Option<usize> {
        self.learnt.get(&mac).copied()
    }

    /// Takes a frame from a port and says where and when it arrives.
    pub(crate) fn carry(
        &mut self,
        now: Time,
        from: usize,
        frame: &Frame,
        counts: &mut Counts,
        out: &mut Vec<Delivery>,
    ) {
        let Ok(parsed) = Ethernet::parse(frame) else {
            return;
        };
        self.sent_frames += 1;
        self.sent_bytes += frame.len() as u64;
        if parsed.source.0[0] & 1 == 0 {
            self.learnt.insert(parsed.source, from);
        }
        let known = self.learnt.get(&parsed.destination).copied();
        let receivers = known.map_or(0..self.ports, |port| port..port + 1);
        for to in receivers.filter(|to| *to != from) {
            self.pass(now, (from, to), frame, &parsed, counts, out);
        }
    }

    fn pass(
        &mut self,
        now: Time,
        (from, to): (usize, usize),
        frame: &Frame,
        parsed: &Ethernet<'_>,
        counts: &mut Counts,
        out: &mut Vec<Delivery>,
    ) {
        let (rng, link) = (&mut self.rng, &mut self.links[from * self.ports + to]);
        let quality = &link.quality;
        let heartbeat = ethernet::is_heartbeat(parsed.ethertype);
        let blocked = (quality.broadcasts_cut && heartbeat && parsed.destination.is_group())
            .then_some(Kind::BroadcastBlocked);
        let deafness = quality.heartbeats_cut.filter(|_| heartbeat);
        let mut lost = quality.cut.or(deafness).or(blocked);
        if lost.is_none() && rng.percent(quality.loss) {
            lost = Some(Kind::Loss);
        }
        if let Some((percent, length)) = quality.burst {
            let changes = if link.in_burst {
                100.0 / f64::from(length)
            } else {
                percent
            };
            link.in_burst ^= rng.percent(changes);
            if lost.is_none() && link.in_burst {
                lost = Some(Kind::Burst);
            }
        }
        if let Some(kind) = lost {
            counts.fault(kind);
            return;
        }
        let mut frame = frame.clone();
        if rng.percent(quality.corrupt) {
            counts.fault(Kind::Corrupt);
            if parsed.ethertype == ethernet::ARP {
                return;
            }
            let mut bytes = frame.to_vec();
            let bit = rng.below(bytes.len() as u64 * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
            frame = bytes.into();
        }
        if !quality.delay.is_zero() {
            counts.fault(Kind::Delay);
        }
        let copies = 1 + u32::from(rng.percent(quality.duplicate));
        if copies > 1 {
            counts.fault(Kind::Duplicate);
        }
        for _ in 0..copies {
            let travel = self.latency + rng.span(self.jitter) + quality.delay;
            let mut at = (now + travel).max(link.last_arrival);
            match quality.reorder {
                Some((percent, by)) if rng.percent(percent) => {
                    counts.fault(Kind::Reorder);
                    at = at + rng.span(by);
                }
                Some(_) | None => link.last_arrival = at,
            }
            counts.frames += 1;
            out.push(Delivery {
                at,
                port: to,
                frame: frame.clone(),
            });
        }
    }
}

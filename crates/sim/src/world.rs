//! The world: one queue of things that will happen, machines, clients and the segment between them. Time jumps from
//! one thing to the next; after each, the invariants look (`invariant/`).
//!
//! Everything random comes from the seed, everything happens in the order of (time, number), so that a seed gives the
//! same run everywhere. How daemons run is in `daemons.rs`, what steps of a scenario do in `steps.rs`. Called by
//! `run.rs`.

use crate::client::{Alarm, Client, Happening, Results};
use crate::clock::Clock;
use crate::invariant::{Disturbance, Watch};
use crate::log::Log;
use crate::machine::{Inbound, Machine};
use crate::packet;
use crate::pcap::Pcap;
use crate::report::Counts;
use crate::rng::{Rng, Stream};
use crate::scenario::{Action, Scenario, Step};
use crate::segment::{Delivery, Frame, Segment};
use crate::site;
use crate::tcp::{Effects, Tuple};
use covey_proto::ids::{Incarnation, Mac};
use covey_proto::time::Time;
use covey_proto::wire::ethernet::{self, Ethernet};
use covey_proto::wire::heartbeat::Ends;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// How long it may take until connections are being counted, and then until the daemon hears of it.
pub(crate) const COUNTING: Duration = Duration::from_millis(5);
/// How long a daemon gathers what its filter tells.
const REPORTED: Duration = Duration::from_millis(2);

/// Something that will happen.
pub(crate) enum Next {
    /// A frame arrives at a port.
    Arrive(usize, Frame),
    /// A daemon runs; the number tells whether this is still the wake-up that counts.
    Wake(usize, u64),
    /// A lease may end.
    LeaseEnd(usize),
    /// A host's socket has something to do.
    Socket(usize, Tuple),
    /// A client has something to do.
    Client(usize, Alarm),
    /// A step of the schedule.
    Do(Box<Action>),
    /// A fault of the links ends.
    EndFault(u64),
    /// A network card gets its link back.
    Plug(usize),
    /// A recorded frame is sent again.
    Replay(Frame),
    /// A host's connections are counted, for the daemon with this incarnation.
    Count(usize, Incarnation),
    /// The daemon hears how many there are.
    Counted(usize, Box<Inbound>),
    /// The daemon reads what the filter was silent to.
    Report(usize),
}

struct Entry {
    at: Time,
    number: u64,
    next: Next,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A run in progress.
pub(crate) struct World {
    pub(crate) now: Time,
    queue: BinaryHeap<Reverse<Entry>>,
    numbered: u64,
    pub(crate) machines: Vec<Machine>,
    pub(crate) clients: Vec<Client>,
    pub(crate) segment: Segment,
    pub(crate) watch: Watch,
    pub(crate) counts: Counts,
    pub(crate) log: Log,
    pub(crate) pcap: Option<Pcap>,
    pub(crate) rng: Rng,
    /// Steps that wait for a moment.
    pub(crate) waiting: Vec<Step>,
    /// Heartbeats that were sent, for replaying.
    pub(crate) recorded: std::collections::VecDeque<(Time, usize, Frame)>,
    /// Outcomes of carrying, kept to save allocations.
    deliveries: Vec<Delivery>,
}

impl World {
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut rng = Rng::new(seed, Stream::Hosts);
        let ids = (1..=scenario.hosts).chain(scenario.twins.iter().copied());
        let machines: Vec<Machine> = (1..)
            .zip(ids)
            .map(|(number, id)| {
                let ppm = scenario
                    .skew
                    .get(usize::from(number) - 1)
                    .copied()
                    .unwrap_or(0);
                let clock = Clock::new(
                    Time::from_micros(1_000_000_000 + rng.below(1_000_000_000)),
                    ppm,
                );
                let priority = site::priority(scenario, number);
                Machine::new(number, site::config(scenario, number, id), priority, clock)
            })
            .collect();
        let clients = usize::from(scenario.load.clients);
        let links = Rng::new(seed, Stream::Links);
        let segment = Segment::new(
            machines.len(),
            clients,
            scenario.latency.0,
            scenario.jitter.0,
            links,
        );
        let mut load = Rng::new(seed, Stream::Load);
        let until = Time::ZERO + scenario.load.until.unwrap_or(scenario.lasts).0;
        let clients = (0..clients)
            .map(|number| {
                Client::new(
                    number,
                    &scenario.load,
                    Rng::new(load.draw(), Stream::Load),
                    until,
                )
            })
            .collect();
        let mut world = Self {
            now: Time::ZERO,
            queue: BinaryHeap::new(),
            numbered: 0,
            watch: Watch::new(scenario, segment.longest_travel()),
            machines,
            clients,
            segment,
            counts: Counts {
                runs: 1,
                ..Counts::default()
            },
            log: Log::default(),
            pcap: None,
            rng,
            waiting: Vec::new(),
            recorded: std::collections::VecDeque::new(),
            deliveries: Vec::new(),
        };
        world.set_up(scenario);
        world
    }

    fn set_up(&mut self, scenario: &Scenario) {
        for host in 0..usize::from(scenario.hosts) {
            if scenario.later.contains(&(host as u8 + 1)) {
                continue;
            }
            self.boot(host);
        }
        let off = self
            .machines
            .iter_mut()
            .filter(|machine| machine.daemon.is_none());
        for machine in off {
            machine.powered = false;
        }
        for client in 0..self.clients.len() {
            self.push(
                Time::ZERO + scenario.load.from.0,
                Next::Client(client, Alarm::Ask),
            );
        }
        for step in &scenario.steps {
            if step.when.is_some() {
                self.waiting.push(step.clone());
            } else {
                self.push(
                    Time::ZERO + step.at.0,
                    Next::Do(Box::new(step.action.clone())),
                );
            }
        }
    }

    pub(crate) fn push(&mut self, at: Time, next: Next) {
        if at == Time::NEVER {
            return;
        }
        self.numbered += 1;
        self.queue.push(Reverse(Entry {
            at: at.max(self.now),
            number: self.numbered,
            next,
        }));
    }

    /// Lets the next thing happen, unless it is after `end`. False when nothing is left before it.
    pub(crate) fn step(&mut self, end: Time) -> bool {
        if self
            .queue
            .peek()
            .is_none_or(|Reverse(entry)| entry.at > end)
        {
            self.now = end;
            self.look();
            return false;
        }
        let Some(Reverse(Entry { at, next, .. })) = self.queue.pop() else {
            return false;
        };
        self.now = at;
        match next {
            Next::Arrive(port, frame) => self.arrive(port, frame),
            Next::Wake(machine, number) => {
                if self.machines[machine].wake == number {
                    self.run(machine);
                }
            }
            Next::LeaseEnd(machine) => self.end_lease(machine),
            Next::Socket(machine, tuple) => {
                let mut effects = Effects::default();
                self.machines[machine]
                    .kernel
                    .stack
                    .on_timer(at, tuple, &mut effects);
                self.take_effects(machine, effects);
            }
            Next::Client(client, alarm) => {
                let mut results = Results::default();
                self.clients[client].on_alarm(at, alarm, &mut results);
                self.take_results(client, results);
            }
            Next::Do(action) => self.perform(*action),
            Next::EndFault(number) => {
                self.segment.end(number);
                self.log.note(at, format_args!("a fault of the links ends"));
                self.watch_links();
                self.watch.disturbed(at, Disturbance::Fault);
            }
            Next::Plug(machine) => self.plug(machine, true),
            Next::Count(machine, incarnation) => {
                let counted = Inbound::Counted(
                    incarnation,
                    self.machines[machine].kernel.stack.connections(),
                );
                let later = at + self.rng.span(COUNTING);
                self.push(later, Next::Counted(machine, Box::new(counted)));
            }
            Next::Counted(machine, counted) => self.deliver(machine, *counted),
            Next::Report(machine) => {
                let unclaimed = self.machines[machine].kernel.take_unclaimed();
                let unclaimed = unclaimed.into_iter().map(Ends::from).collect();
                self.deliver(machine, Inbound::Unclaimed(unclaimed));
            }
            Next::Replay(frame) => {
                self.counts.fault(crate::faults::Kind::Replay);
                let intruder = self.machines.len() + self.clients.len();
                self.transmit(intruder, &frame);
            }
        }
        self.look();
        true
    }

    fn look(&mut self) {
        for machine in &mut self.machines {
            if machine.refresh(self.now, &self.watch.probes) {
                self.watch.stale = true;
            }
        }
        self.watch
            .look(self.now, &self.machines, &self.segment, &mut self.counts);
    }

    fn arrive(&mut self, port: usize, frame: Frame) {
        if let Some(client) = port.checked_sub(self.machines.len()) {
            let mut results = Results::default();
            // Behind the last client there is only the port of an intruder.
            if let Some(receiver) = self.clients.get_mut(client) {
                receiver.receive(self.now, &frame, &mut results);
                self.take_results(client, results);
            }
            return;
        }
        let machine = &mut self.machines[port];
        if !machine.powered || !machine.plugged {
            return;
        }
        let Ok(parsed) = Ethernet::parse(&frame) else {
            return;
        };
        // A NIC takes frames to its own MAC, to all, and to the cluster's MACs, which its daemon has added to it.
        let daemon = machine.daemon.as_ref();
        let to_me = [machine.config.mac, Mac::BROADCAST].contains(&parsed.destination)
            || daemon.is_some_and(|it| it.cluster.macs().contains(&parsed.destination));
        let heartbeat = ethernet::is_heartbeat(parsed.ethertype);
        let answer = [ethernet::ARP, ethernet::PROBE].contains(&parsed.ethertype)
            && parsed.destination == machine.config.mac;
        if heartbeat || answer {
            self.heed_commit(port, &frame);
            if to_me && let Some(daemon) = &mut self.machines[port].daemon {
                daemon.inbox.push_back(Inbound::Frame(frame));
                self.run(port);
            }
            return;
        }
        let mut effects = Effects::default();
        machine.kernel.receive(
            self.now,
            machine.clock.coarse(self.now),
            &frame,
            &mut effects,
        );
        self.take_effects(port, effects);
    }

    pub(crate) fn take_effects(&mut self, machine: usize, effects: Effects) {
        for (tuple, isn) in effects.established {
            self.watch.accepted(self.now, machine, tuple, isn);
        }
        for (at, tuple) in effects.timers {
            self.push(at, Next::Socket(machine, tuple));
        }
        if let Some(frame) = effects.for_daemon {
            self.deliver(machine, Inbound::Frame(frame));
        }
        if effects.unclaimed {
            self.push(self.now + REPORTED, Next::Report(machine));
        }
        for frame in effects.frames {
            self.send(machine, frame);
        }
    }

    fn take_results(&mut self, client: usize, results: Results) {
        let port = self.machines.len() + client;
        for happening in results.happenings {
            self.note_happening(happening);
        }
        for (at, alarm) in results.alarms {
            self.push(at, Next::Client(client, alarm));
        }
        for frame in results.frames {
            self.transmit(port, &frame.into());
        }
    }

    fn note_happening(&mut self, happening: Happening) {
        let trouble = matches!(
            happening,
            Happening::Reset(..)
                | Happening::Hung { .. }
                | Happening::Refused { .. }
                | Happening::WrongMac(..)
        );
        if trouble {
            self.log
                .note(self.now, format_args!("client: {happening:?}"));
        } else {
            self.log
                .detail(self.now, || format!("client: {happening:?}"));
        }
        self.watch.happened(self.now, happening, &mut self.counts);
    }

    /// A machine sends something: through its egress filter, if its link is up.
    pub(crate) fn send(&mut self, machine: usize, frame: Vec<u8>) {
        let sender = &self.machines[machine];
        if !sender.powered || !sender.plugged {
            return;
        }
        if let Some(frame) = sender.kernel.guard(frame) {
            self.heed_commit(machine, &frame);
            self.transmit(machine, &frame.into());
        }
    }

    fn transmit(&mut self, port: usize, frame: &Frame) {
        self.log.detail(self.now, || packet::describe(frame));
        if let Some(pcap) = &mut self.pcap
            && let Err(error) = pcap.frame(self.now, frame)
        {
            self.log
                .note(self.now, format_args!("the capture ends here: {error}"));
            self.pcap = None;
        }
        let mut deliveries = std::mem::take(&mut self.deliveries);
        self.segment
            .carry(self.now, port, frame, &mut self.counts, &mut deliveries);
        for Delivery { at, port, frame } in deliveries.drain(..) {
            self.push(at, Next::Arrive(port, frame));
        }
        self.deliveries = deliveries;
    }

    /// What each host says of itself, a line each, for the account of a violation.
    pub(crate) fn accounts(&self) -> Vec<String> {
        let account = |machine: &Machine| {
            let state = &machine.state;
            let serving = if state.serving { "serving" } else { "silent" };
            let says = machine.daemon.as_ref().map_or_else(
                || "no daemon".to_owned(),
                |daemon| {
                    let snapshot = daemon.cluster.snapshot(machine.clock.local(self.now));
                    format!(
                        "{:?}, waiting for {:?}",
                        snapshot.announced, snapshot.waiting_for
                    )
                },
            );
            let (number, epoch, view) = (machine.number, state.in_force.epoch, state.in_force.view);
            format!("host {number} is {serving} in epoch {epoch} with {view}: {says}")
        };
        self.machines.iter().map(account).collect()
    }
}

//! How the daemons of the simulated machines run: what has arrived is handed to the core, then its timers fire, and
//! whatever it asks for is done.
//!
//! A part of the [`World`]; `world.rs` calls it when a frame arrives or a time has come.

use crate::invariant::Disturbance;
use crate::machine::Machine;
use crate::scenario::{Moment, Step};
use crate::tcp::{Effects, Tuple};
use crate::world::{COUNTING, Next, World};
use covey_proto::event::Event;
use covey_proto::ids::Digest;
use covey_proto::time::Time;
use covey_proto::wire::ethernet::{self, Ethernet};
use covey_proto::wire::heartbeat::{Body, Ends, Message};
use covey_proto::{Connection, Input, Output};

/// Heartbeats that are kept for replaying.
const RECORDED: usize = 4096;

impl World {
    /// Lets a daemon do what is due.
    pub(crate) fn run(&mut self, machine: usize) {
        let Some(daemon) = &self.machines[machine].daemon else {
            return;
        };
        if daemon.stall.is_some_and(|stall| stall.until > self.now) {
            return;
        }
        let stall = self.machines[machine]
            .daemon
            .as_mut()
            .and_then(|daemon| daemon.stall.take());
        if let Some(stall) = stall {
            self.log
                .note(self.now, format_args!("daemon {} wakes", machine + 1));
            self.watch.disturbed(self.now, Disturbance::Fault);
            self.machines[machine].state.dirty = true;
            if stall.timers_first {
                self.fire(machine);
            }
        }
        while let Some(inbound) = self.machines[machine]
            .daemon
            .as_mut()
            .and_then(|daemon| daemon.inbox.pop_front())
        {
            self.learn_of_commit(machine);
            self.machines[machine].hand_in(self.now, inbound);
            self.drain(machine);
        }
        self.fire(machine);
        self.schedule(machine);
    }

    /// Lets a daemon's timers fire, if they are due.
    fn fire(&mut self, machine: usize) {
        self.learn_of_commit(machine);
        let Machine {
            clock,
            daemon: Some(daemon),
            ..
        } = &mut self.machines[machine]
        else {
            return;
        };
        let local = clock.local(self.now);
        if daemon.wait <= local {
            daemon.cluster.handle_input(local, Input::Timer);
            self.drain(machine);
        }
    }

    /// Puts a daemon's next wake-up into the queue, in place of the one that is there.
    pub(crate) fn schedule(&mut self, machine: usize) {
        let at = self.machines[machine].wakes_at(self.now);
        self.machines[machine].wake += 1;
        let number = self.machines[machine].wake;
        self.push(at, Next::Wake(machine, number));
    }

    /// Does what the core asks for.
    fn drain(&mut self, index: usize) {
        let mut something = false;
        loop {
            let Some(daemon) = &mut self.machines[index].daemon else {
                return;
            };
            let output = daemon.cluster.poll_output();
            match output {
                Output::Wait(until) => {
                    daemon.wait = until;
                    break;
                }
                Output::Transmit(frame) => {
                    self.look_out_for(index, &frame);
                    self.send_heartbeat(index, frame);
                }
                Output::Stage(staging) => self.machines[index].kernel.data_path.stage(*staging),
                Output::StagedLease(until) => {
                    self.machines[index]
                        .kernel
                        .data_path
                        .set_staged_lease(until);
                }
                // The switch of the simulator does not snoop.
                Output::Unheard => {}
                Output::Withdraw => {
                    self.machines[index].kernel.data_path.withdraw();
                    self.tables_changed(index);
                }
                Output::Commit => {
                    self.machines[index].kernel.data_path.commit();
                    self.tables_changed(index);
                }
                Output::Amend(image) => {
                    self.machines[index].kernel.data_path.amend(*image);
                    self.tables_changed(index);
                }
                Output::Fence => {
                    self.machines[index].kernel.data_path.fence();
                    self.tables_changed(index);
                }
                Output::Lease(until) => {
                    self.machines[index].kernel.data_path.set_lease(until);
                    self.watch_lease(index);
                }
                Output::CountConnections => {
                    // Beside the daemon's loop, so it may take a while.
                    let later = self.now + self.rng.span(COUNTING);
                    self.push(
                        later,
                        Next::Count(index, self.machines[index].config.incarnation),
                    );
                }
                Output::Search(connections) => self.search(index, &connections),
                Output::Disown(map, connections) => self.disown(index, map, &connections),
                Output::Cut(connections) => self.cut(index, &connections),
                Output::Event(event) => self.note_event(index, &event),
            }
            something = true;
        }
        if something {
            self.machines[index].state.dirty = true;
        }
    }

    /// Another lease counts, and the probes must be tried again.
    fn tables_changed(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        (machine.state.reprobe, machine.state.dirty) = (true, true);
        machine.watched = false;
        self.watch_lease(index);
    }

    /// The filter of a machine sees a heartbeat pass, inwards or outwards.
    pub(crate) fn heed_commit(&mut self, index: usize, frame: &[u8]) {
        if self.machines[index].kernel.heed_commit(frame) {
            let now = self.now;
            self.log.detail(now, || {
                format!("the filter of host {} goes over to the next map", index + 1)
            });
            self.tables_changed(index);
        }
    }

    /// The daemon learns what its filter has done.
    fn learn_of_commit(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        if machine.daemon.is_some() && machine.kernel.data_path.has_flipped() {
            machine.input(self.now, Input::Committed);
            self.drain(index);
        }
    }

    fn send_heartbeat(&mut self, index: usize, frame: Vec<u8>) {
        if Ethernet::parse(&frame).is_ok_and(|frame| ethernet::is_heartbeat(frame.ethertype)) {
            if self.recorded.len() == RECORDED {
                self.recorded.pop_front();
            }
            self.recorded
                .push_back((self.now, index, frame.as_slice().into()));
        }
        self.send(index, frame);
    }

    /// Tells a daemon which connections its host does not have.
    fn search(&mut self, index: usize, connections: &[Ends]) {
        let machine = &mut self.machines[index];
        let has = |ends: &Ends| {
            Tuple::of(ends.client, ends.service)
                .is_some_and(|tuple| machine.kernel.stack.kind(&tuple).is_open())
        };
        let missing: Vec<Ends> = connections
            .iter()
            .copied()
            .filter(|ends| !has(ends))
            .collect();
        machine.input(self.now, Input::Missing(&missing));
    }

    /// The filter learns of connections that nobody has.
    fn disown(&mut self, index: usize, map: Digest, connections: &[Ends]) {
        let Machine { clock, kernel, .. } = &mut self.machines[index];
        let coarse = clock.coarse(self.now);
        for tuple in connections
            .iter()
            .filter_map(|ends| Tuple::of(ends.client, ends.service))
        {
            kernel.disown(coarse, map, tuple);
        }
    }

    /// Resets connections of a host.
    fn cut(&mut self, index: usize, connections: &[Connection]) {
        let mut effects = Effects::default();
        for tuple in connections
            .iter()
            .filter_map(|connection| Tuple::of(connection.client, connection.service))
        {
            self.watch.cut(tuple);
            self.machines[index].kernel.stack.cut(tuple, &mut effects);
        }
        self.take_effects(index, effects);
    }

    fn note_event(&mut self, index: usize, event: &Event) {
        let number = self.machines[index].number;
        self.log
            .note(self.now, format_args!("host {number}: {event}"));
        self.watch.event(self.now, index, event);
        if let Event::Fenced { .. } = event {
            self.machines[index].state.breaks += 1;
        }
        if let Event::Converged { .. } = event {
            self.counts.commits += 1;
            self.moment(Moment::Commits(number));
        }
    }

    /// Whether a step waits for this frame.
    fn look_out_for(&mut self, index: usize, frame: &[u8]) {
        if self.waiting.is_empty() {
            return;
        }
        let config = &self.machines[index].config;
        let primary = covey_proto::config::four_bytes(config.rules.primary());
        let heartbeat = Ethernet::parse(frame)
            .and_then(|frame| Message::parse(frame.payload, primary, &config.auth))
            .ok()
            .and_then(|message| match message.body {
                Body::Heartbeat(heartbeat) => Some(heartbeat),
                Body::Chunk(_) | Body::Commit(_) | Body::Inquiry { .. } | Body::Probe => None,
            });
        let Some(heartbeat) = heartbeat else {
            return;
        };
        let number = self.machines[index].number;
        if heartbeat.proposal.is_some() {
            self.moment(Moment::Proposes(number));
        }
        if heartbeat.staged.is_some() {
            self.moment(Moment::Acknowledges(number));
        }
    }

    /// Steps that have waited for this moment happen as soon as the frame is on its way.
    fn moment(&mut self, moment: Moment) {
        let now = self.now;
        let due = |step: &Step| step.when == Some(moment) && Time::ZERO + step.at.0 <= now;
        let waiting = std::mem::take(&mut self.waiting);
        let (due, waiting): (Vec<Step>, Vec<Step>) = waiting.into_iter().partition(due);
        self.waiting = waiting;
        for step in due {
            self.push(now, Next::Do(Box::new(step.action)));
        }
    }

    /// Sees to it that the end of a lease is noticed when it comes.
    pub(crate) fn watch_lease(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        if machine.watched || machine.kernel.data_path.lease() == Time::ZERO {
            return;
        }
        machine.watched = true;
        let end = machine.clock.world_coarse(machine.kernel.data_path.lease());
        self.push(end, Next::LeaseEnd(index));
    }

    pub(crate) fn end_lease(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        machine.watched = false;
        let holds = machine.kernel.lease_holds(machine.clock.coarse(self.now));
        if holds && machine.powered && machine.kernel.heeds_lease {
            self.watch_lease(index);
        } else if machine.state.serving && !holds {
            machine.state.dirty = true;
            machine.state.breaks += 1;
            self.log.note(
                self.now,
                format_args!("the lease of host {} ends", index + 1),
            );
        }
    }
}

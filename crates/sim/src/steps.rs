//! What the steps of a scenario do to the world.
//!
//! Called by `world.rs` when a step is due. Each step is logged and counted by its kind, and the invariants are told
//! whether it is a fault or something that must harm nobody.

use crate::faults::{Kind, LinkFault};
use crate::invariant::Disturbance;
use crate::machine::{Inbound, Stall};
use crate::scenario::{Action, PortChange};
use crate::site;
use crate::span::Span;
use crate::world::{Next, World};
use covey_proto::rules::RuleSet;
use covey_proto::wire::heartbeat::PROTOCOL_VERSION;
use covey_proto::{Command, RuleChange, RuleScope, VipScope};
use std::time::Duration;

const fn index(host: u8) -> usize {
    host as usize - 1
}

impl World {
    pub(crate) fn perform(&mut self, action: Action) {
        self.log.note(self.now, format_args!("step: {action:?}"));
        let disturbance = match action {
            Action::Crash { host } => Disturbance::Crash {
                dark: self.machines[index(host)].state.taken(),
            },
            Action::Start { host } if self.is_twin(index(host)) => Disturbance::Fault,
            _ if action.is_planned() => Disturbance::Planned,
            _ => Disturbance::Fault,
        };
        self.watch.disturbed(self.now, disturbance);
        match action {
            Action::Crash { host } => {
                self.counts.fault(Kind::Crash);
                self.crash(index(host));
            }
            Action::Kill { host } => {
                self.counts.fault(Kind::Kill);
                self.kill(index(host));
            }
            Action::Restart { host } => self.restart(index(host)),
            Action::Flap { host, times, every } => self.flap(host, times, every),
            Action::Stall {
                host,
                lasting,
                timers_first,
            } => self.stall(index(host), lasting, timers_first),
            Action::Skew { host, ppm } => {
                self.counts.fault(Kind::Skew);
                let machine = &mut self.machines[index(host)];
                machine.clock.set_rate(self.now, ppm);
                machine.watched = false;
                self.watch_lease(index(host));
                self.schedule(index(host));
            }
            Action::Unplug { host, lasting } => {
                self.counts.fault(Kind::Unplug);
                self.plug(index(host), false);
                self.push(self.now + lasting.0, Next::Plug(index(host)));
            }
            Action::Link { fault, lasting } => self.afflict(fault, lasting),
            Action::Replay { host, age, count } => self.replay(index(host), age, count),
            Action::Start { host } => self.start(index(host)),
            Action::Stop { host } => self.end(host, Kind::Stop, Command::Stop),
            Action::Suspend { host } => self.end(host, Kind::Suspend, Command::Suspend),
            Action::Drainstop {
                host,
                within: Some(within),
            } => {
                let within = Some(within.0);
                self.end(host, Kind::Drainstop, Command::Drainstop { within });
            }
            Action::Drainstop { host, within: None } => {
                self.command(host, Kind::Drainstop, Command::Drainstop { within: None });
            }
            Action::Resume { host } => self.command(host, Kind::Resume, Command::Resume),
            Action::Port { host, change } => self.change_port(host, change),
            Action::Weight { host, weight } => {
                self.machines[index(host)].set_weight(weight);
                let reload = self.machines[index(host)].reload();
                self.command(host, Kind::Weight, reload);
            }
            Action::Rules { set, hosts } => {
                self.change_rules(hosts, Kind::Rules, |now| {
                    site::rules(set).delivered_by(now.delivery())
                });
            }
            Action::Mode { mode, hosts } => {
                self.change_rules(hosts, Kind::Mode, |now| {
                    site::in_mode(now.clone(), mode.into())
                });
            }
        }
    }

    /// Writes other rules into the configuration of these hosts, or of all, and has their daemons read it.
    fn change_rules(&mut self, hosts: Vec<u8>, kind: Kind, change: impl Fn(&RuleSet) -> RuleSet) {
        let all = || (1..=self.machines.len() as u8).collect();
        let hosts: Vec<u8> = if hosts.is_empty() { all() } else { hosts };
        for host in hosts {
            let machine = &mut self.machines[index(host)];
            let rules = change(&machine.config.rules);
            machine.set_rules(rules);
            let reload = machine.reload();
            self.command(host, kind, reload);
        }
    }

    /// Whether a machine has the ID of one before it.
    fn is_twin(&self, machine: usize) -> bool {
        let id = self.machines[machine].config.host;
        self.machines[..machine]
            .iter()
            .any(|other| other.config.host == id)
    }

    /// Switches a machine on, if it is off, and starts its daemon and the host.
    pub(crate) fn boot(&mut self, machine: usize) {
        let incarnation = self.rng.draw();
        let number = self.machines[machine].number;
        let twin = self.is_twin(machine);
        if twin {
            self.counts.fault(Kind::Twin);
        }
        if self.machines[machine].config.version > PROTOCOL_VERSION {
            self.counts.fault(Kind::Newer);
        }
        if self.machines[machine].config.legacy {
            self.counts.fault(Kind::Legacy);
        }
        self.machines[machine].powered = true;
        self.machines[machine].state.misfit = twin;
        self.machines[machine].start_daemon(incarnation);
        self.machines[machine].state.reprobe = true;
        self.log
            .note(self.now, format_args!("daemon {number} starts"));
        self.deliver(machine, Inbound::Command(Command::Start));
    }

    pub(crate) fn deliver(&mut self, machine: usize, inbound: Inbound) {
        self.machines[machine].state.dirty = true;
        if let Some(daemon) = &mut self.machines[machine].daemon {
            daemon.inbox.push_back(inbound);
            self.run(machine);
        }
    }

    fn command(&mut self, host: u8, kind: Kind, command: Command) {
        self.counts.fault(kind);
        self.deliver(index(host), Inbound::Command(command));
    }

    /// A host whose daemon does not run is booted.
    fn start(&mut self, machine: usize) {
        self.counts.fault(Kind::Start);
        if self.machines[machine].daemon.is_some() {
            self.deliver(machine, Inbound::Command(Command::Start));
        } else {
            self.boot(machine);
        }
    }

    /// A command that ends what connections are left, because that is what it is for.
    fn end(&mut self, host: u8, kind: Kind, command: Command) {
        self.broke(index(host));
        self.command(host, kind, command);
    }

    fn change_port(&mut self, host: u8, change: PortChange) {
        // If every host does this, nobody takes new connections to that port.
        self.watch.loosen(site::SHORT);
        let change = match change {
            PortChange::Enable => RuleChange::Enable,
            PortChange::Disable => RuleChange::Disable,
            PortChange::Drain => RuleChange::Drain,
        };
        let scope = RuleScope {
            vip: VipScope::Every,
            port: Some(site::SHORT),
        };
        let command = Command::Rules { change, scope };
        if change == RuleChange::Disable {
            self.end(host, Kind::Port, command);
        } else {
            self.command(host, Kind::Port, command);
        }
    }

    fn crash(&mut self, machine: usize) {
        self.machines[machine].lose_power();
        self.broke(machine);
    }

    fn kill(&mut self, machine: usize) {
        self.machines[machine].daemon = None;
        self.machines[machine].state.dirty = true;
    }

    /// Connections of this machine may break by what has just been done to it.
    fn broke(&mut self, machine: usize) {
        let state = &mut self.machines[machine].state;
        state.breaks += 1;
        (state.dirty, state.reprobe) = (true, true);
    }

    fn restart(&mut self, machine: usize) {
        self.counts.fault(Kind::Restart);
        self.broke(machine);
        self.boot(machine);
    }

    fn flap(&mut self, host: u8, times: u8, every: Span) {
        self.counts.fault(Kind::Flap);
        self.crash(index(host));
        self.push(
            self.now + every.0 / 2,
            Next::Do(Box::new(Action::Restart { host })),
        );
        if times > 1 {
            let again = Action::Flap {
                host,
                times: times - 1,
                every,
            };
            self.push(self.now + every.0, Next::Do(Box::new(again)));
        }
    }

    fn stall(&mut self, machine: usize, lasting: Span, timers_first: bool) {
        let until = self.now + lasting.0;
        let Some(daemon) = &mut self.machines[machine].daemon else {
            return;
        };
        let until = daemon.stall.map_or(until, |stall| stall.until.max(until));
        daemon.stall = Some(Stall {
            until,
            timers_first,
        });
        self.counts.fault(if timers_first {
            Kind::StallTimers
        } else {
            Kind::Stall
        });
        self.machines[machine].state.dirty = true;
        self.schedule(machine);
    }

    pub(crate) fn plug(&mut self, machine: usize, up: bool) {
        self.machines[machine].plugged = up;
        self.watch_links();
        self.watch.disturbed(self.now, Disturbance::Fault);
        self.log.note(
            self.now,
            format_args!(
                "the link of host {} is {}",
                machine + 1,
                if up { "up" } else { "down" }
            ),
        );
        self.deliver(machine, Inbound::Link(up));
    }

    fn afflict(&mut self, fault: LinkFault, lasting: Span) {
        let number = self.segment.begin(fault);
        self.watch_links();
        self.push(self.now + lasting.0, Next::EndFault(number));
    }

    /// Tells the invariants which hosts may lose each other.
    pub(crate) fn watch_links(&mut self) {
        let plugged: Vec<bool> = self
            .machines
            .iter()
            .map(|machine| machine.plugged)
            .collect();
        let segment = &self.segment;
        self.watch.links_changed(self.now, |from, to| {
            plugged[from] && plugged[to] && !segment.is_unreliable(from, to)
        });
    }

    fn replay(&mut self, machine: usize, age: Span, count: u32) {
        let until = self.now - age.0;
        let old = self
            .recorded
            .iter()
            .filter(|(at, from, _)| *from == machine && *at <= until);
        let frames: Vec<_> = old.map(|(_, _, frame)| frame.clone()).collect();
        let last = frames.len().saturating_sub(count as usize);
        for (position, frame) in (0..).zip(frames.into_iter().skip(last)) {
            let at = self.now + Duration::from_millis(1) * position;
            self.push(at, Next::Replay(frame));
        }
    }
}

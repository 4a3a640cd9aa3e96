//! The promises, held against a run at every step (docs/design.md, "Promises").
//!
//! ```text
//!   settled.rs      is the cluster settled, so that the strictest promises hold? and promise: it settles again
//!   coverage.rs     every part of the traffic has one owner, but for the moment of a change or after a crash
//!   fencing.rs      nobody serves who was left out
//!   connections.rs  connections: one owner, none breaks without a reason, every one that is tried succeeds
//! ```
//!
//! `world.rs` tells a [`Watch`] what happens and lets it look after each step. The first violation ends the run.

mod connections;
mod coverage;
mod fencing;
mod settled;

pub(crate) use coverage::Probes;
pub(crate) use settled::Disturbance;

use crate::client::Happening;
use crate::datapath::MapInForce;
use crate::expect::Expectations;
use crate::machine::Machine;
use crate::report::Counts;
use crate::scenario::Scenario;
use crate::segment::Segment;
use crate::site;
use crate::tcp::Tuple;
use connections::Connections;
use coverage::Coverage;
use covey_proto::config::{ClusterConfig, Timing};
use covey_proto::event::Event;
use covey_proto::ids::{Digest, Epoch, HostId, HostSet};
use covey_proto::time::Time;
use fencing::Fencing;
use settled::Settling;
use std::fmt;
use std::time::Duration;

/// What hosts take to do what a frame asks of them; they do it at once, so this is for rounding.
const PROCESSING: Duration = Duration::from_micros(100);

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// When, in the time of the run.
    pub at: Time,
    /// Which promise, in a word or two: runs that break the same one fail for the same reason.
    pub promise: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.at, self.promise, self.what)
    }
}

/// Hosts of one camp can be one cluster: they have the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Camp {
    /// Follows from the key.
    hash_key: [u64; 2],
}

impl Camp {
    pub(crate) fn of(config: &ClusterConfig) -> Self {
        Self {
            hash_key: config.auth.hash_key(&config.rules),
        }
    }
}

/// What the invariants must know of a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) id: HostId,
    pub(crate) camp: Camp,
    pub(crate) powered: bool,
    /// It has a daemon.
    pub(crate) daemon: bool,
    pub(crate) stalled: bool,
    /// It takes part and means to go on.
    pub(crate) wants: bool,
    /// It takes part, but is on its way out.
    pub(crate) draining: bool,
    /// It has no right to be in the cluster: its ID is another's.
    pub(crate) misfit: bool,
    /// Its data path may take something.
    pub(crate) serving: bool,
    /// It says that it is converged.
    pub(crate) converged: bool,
    /// The map by which it serves.
    pub(crate) in_force: MapInForce,
    /// Hosts that, as far as it knows, may not join for now, because they were lost again and again.
    pub(crate) kept_out: HostSet,
    /// It asks the others for more patience, because it runs late itself.
    pub(crate) late: bool,
    /// The rules in its configuration.
    pub(crate) offered: Digest,
    /// The probes that its tables say are its own.
    pub(crate) takes: u64,
    /// How often something happened to it that may break its connections.
    pub(crate) breaks: u32,
    /// Something has changed.
    pub(crate) dirty: bool,
    /// Its tables have changed.
    pub(crate) reprobe: bool,
}

impl Account {
    pub(crate) fn new(id: HostId, camp: Camp) -> Self {
        Self {
            id,
            camp,
            powered: true,
            daemon: false,
            stalled: false,
            wants: false,
            draining: false,
            misfit: false,
            serving: false,
            converged: false,
            in_force: MapInForce::default(),
            kept_out: HostSet::EMPTY,
            late: false,
            offered: Digest(0),
            takes: 0,
            breaks: 0,
            dirty: true,
            reprobe: true,
        }
    }

    /// The probes that it really takes.
    pub(crate) const fn taken(&self) -> u64 {
        if self.serving { self.takes } else { 0 }
    }
}

/// Everything that watches a run.
pub(crate) struct Watch {
    pub(crate) probes: Probes,
    /// Some host's account has changed since the last look.
    pub(crate) stale: bool,
    pub(crate) violation: Option<Violation>,
    settling: Settling,
    coverage: Coverage,
    fencing: Fencing,
    connections: Connections,
    expectations: Expectations,
    /// The map of each host, as last seen.
    epochs: Vec<Epoch>,
    enabled: bool,
}

impl Watch {
    pub(crate) fn new(scenario: &Scenario, travel: Duration) -> Self {
        let machines = usize::from(scenario.machines());
        let timing = Timing {
            period: scenario.period.0,
            tolerance: scenario.tolerance,
        };
        let commit = travel * 2 + PROCESSING;
        Self {
            probes: Probes::new(),
            stale: true,
            violation: None,
            settling: Settling::new(timing, scenario.quorum, travel),
            coverage: Coverage::new(machines, commit, timing),
            fencing: Fencing::new(machines, scenario.quorum != 0, timing),
            connections: Connections::new(commit),
            expectations: Expectations::new(scenario),
            epochs: vec![Epoch(0); machines],
            enabled: true,
        }
    }

    /// For measurements: nothing is looked at but whether the cluster has settled.
    pub(crate) const fn disable(&mut self) {
        self.enabled = false;
    }

    /// Whether all hosts that want to serve are in one converged view.
    pub(crate) const fn agreed(&self) -> bool {
        self.settling.agreed()
    }

    /// A step of the schedule, or the end of a fault.
    pub(crate) fn disturbed(&mut self, now: Time, disturbance: Disturbance) {
        self.stale = true;
        self.settling.disturbed(now, disturbance);
        self.connections.disturbed(now, disturbance);
    }

    /// The links have changed; `sound` says whether a host can rely on hearing another.
    pub(crate) fn links_changed(&mut self, now: Time, sound: impl Fn(usize, usize) -> bool) {
        self.fencing.links_changed(now, sound);
    }

    /// A host has reset this connection, because it was told to.
    pub(crate) fn cut(&mut self, tuple: Tuple) {
        self.connections.cut(tuple);
    }

    /// From now on there may be no host for new connections to this port.
    pub(crate) fn loosen(&mut self, port: u16) {
        self.connections.loosen(port);
    }

    /// A host tells people something.
    pub(crate) fn event(&mut self, now: Time, machine: usize, event: &Event) {
        self.expectations.event(now, machine as u8 + 1, event.id());
        if let Event::Fenced { .. } = event
            && !self.settling.excuses_fences()
        {
            let what = format!(
                "host {} fences itself though no fault gives it a reason: {event}",
                machine + 1
            );
            self.report(now, "nothing breaks on purpose", what);
        }
    }

    /// A host has completed the handshake of a connection.
    pub(crate) fn accepted(&mut self, now: Time, machine: usize, tuple: Tuple, isn: u32) {
        if let Err(what) = self.connections.accepted(machine, tuple, isn) {
            self.report(now, "one owner", what);
        }
    }

    /// Something happened at a client.
    pub(crate) fn happened(&mut self, now: Time, happening: Happening, counts: &mut Counts) {
        let verdict =
            self.connections
                .happened(now, happening, &self.settling, &self.fencing, counts);
        if let Err((promise, what)) = verdict {
            self.report(now, promise, what);
        }
        self.expectations.broken(counts.broken);
    }

    fn report(&mut self, at: Time, promise: &'static str, what: String) {
        if self.violation.is_none() && self.enabled {
            self.violation = Some(Violation { at, promise, what });
        }
    }

    /// Looks at everything, if something has changed or time alone may break a promise.
    pub(crate) fn look(
        &mut self,
        now: Time,
        machines: &[Machine],
        segment: &Segment,
        counts: &mut Counts,
    ) {
        if std::mem::take(&mut self.stale) {
            self.look_closely(now, machines, segment, counts);
        }
        if !self.enabled {
            return;
        }
        for machine in machines {
            self.connections
                .note_breaks(usize::from(machine.number) - 1, machine.state.breaks);
        }
        let checks = [
            self.settling
                .check(now)
                .map_err(|what| ("it settles again", what)),
            self.coverage
                .check_darkness(now, &self.settling)
                .map_err(|what| ("the traffic has an owner", what)),
            self.coverage
                .check_doubling(now, &self.settling)
                .map_err(|what| ("a sick host is silent", what)),
            self.expectations
                .check(now, machines, self.coverage.dark_for(now))
                .map_err(|what| ("expectation", what)),
        ];
        for (promise, what) in checks.into_iter().filter_map(Result::err) {
            self.report(now, promise, what);
        }
    }

    fn look_closely(
        &mut self,
        now: Time,
        machines: &[Machine],
        segment: &Segment,
        counts: &mut Counts,
    ) {
        for (epoch, machine) in self.epochs.iter_mut().zip(machines) {
            if *epoch != machine.state.in_force.epoch {
                *epoch = machine.state.in_force.epoch;
                self.connections.committed(now);
            }
        }
        let sound = segment.is_sound() && machines.iter().all(|machine| machine.plugged);
        let newly_settled = self.settling.look(now, machines, sound);
        if !self.enabled {
            return;
        }
        self.fencing.look(now, machines);
        if newly_settled {
            counts.settled += 1;
            self.fencing.merged();
        }
        self.coverage.look(now, machines, &self.fencing);
        if let Err(what) = self.fencing.check(now, machines) {
            self.report(now, "a sick host is silent", what);
        }
        let learnt = site::cluster_macs()
            .into_iter()
            .find_map(|mac| segment.learnt(mac));
        if let Some(port) = learnt {
            let what = format!("the switch has learnt the cluster MAC at port {port}");
            self.report(now, "the switch is never taught the cluster MAC", what);
        }
        if let Err(what) = self.coverage.check_same_map() {
            self.report(now, "one owner", what);
        }
    }

    /// The run is over: what was expected and has not come?
    pub(crate) fn finish(&mut self, now: Time, machines: &[Machine]) {
        if let Err(what) = self.expectations.finish(machines) {
            self.report(now, "expectation", what);
        }
    }
}

//! A machine of the cluster: power, clock, link, kernel with data path (`kernel.rs`), and the daemon, which is the
//! real core, [`covey_proto::Cluster`].
//!
//! The parts fail apart from each other. A data path goes on while its daemon is stalled or dead, until its lease
//! ends; frames for a stalled daemon wait for it. Called by `world.rs`, which carries frames.

use crate::clock::Clock;
use crate::datapath::MapInForce;
use crate::invariant::{Account, Camp, Probes};
use crate::kernel::{Kernel, Seen};
use crate::segment::Frame;
use crate::site;
use covey_proto::buckets::BucketSet;
use covey_proto::config::ClusterConfig;
use covey_proto::datapath::{Identity, Image};
use covey_proto::ids::{Digest, Incarnation};
use covey_proto::rules::{Claim, RuleSet};
use covey_proto::time::Time;
use covey_proto::wire::heartbeat::Ends;
use covey_proto::{Cluster, Command, Connection, HostState, Input};
use std::collections::VecDeque;
use std::sync::Arc;

/// What waits for a daemon.
#[derive(Clone, Debug)]
pub(crate) enum Inbound {
    Frame(Frame),
    /// An operator's command.
    Command(Command),
    Link(bool),
    /// Sockets that were counted for the daemon with this incarnation.
    Counted(Incarnation, Vec<Connection>),
    /// Connections that the filter was silent to.
    Unclaimed(Vec<Ends>),
}

/// A daemon that does not run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    pub(crate) until: Time,
    /// On waking it lets its timers fire before it reads what has arrived.
    pub(crate) timers_first: bool,
}

/// A running daemon.
pub(crate) struct Daemon {
    pub(crate) cluster: Cluster,
    /// The rules that the numbers in [`Kernel::seen`] mean.
    seen_under: Digest,
    /// When the core wants to be called, by the host's clock.
    pub(crate) wait: Time,
    pub(crate) inbox: VecDeque<Inbound>,
    pub(crate) stall: Option<Stall>,
}

impl Daemon {
    /// Which buckets of sticky rules have had traffic within their time, as the real daemon tells the core.
    fn busy_buckets(&mut self, local: Time, seen: &mut Seen) -> Vec<(u8, BucketSet)> {
        let rules = self.cluster.snapshot(local).rules;
        if self.seen_under != rules.digest() {
            // The numbers of the rules mean other ones.
            self.seen_under = rules.digest();
            seen.clear();
        }
        let second = local.since(Time::ZERO).as_secs();
        let sticky = (1u8..)
            .zip(rules.rules())
            .filter_map(|(index, rule)| Some((index, rule.sticky?)));
        sticky
            .map(|(index, time)| {
                let recent = |at: &u64| second.saturating_sub(*at) <= time.as_secs();
                let buckets = seen
                    .iter()
                    .filter(|((rule, _), at)| *rule == index && recent(at));
                (index, buckets.map(|((_, bucket), _)| *bucket).collect())
            })
            .collect()
    }
}

/// A machine.
pub(crate) struct Machine {
    /// From 1 on.
    pub(crate) number: u8,
    /// What its configuration file says; it survives everything.
    pub(crate) config: ClusterConfig,
    /// Its load weight for all rules that share traffic.
    weight: u8,
    /// Its handling priority for single-host rules.
    priority: u8,
    pub(crate) clock: Clock,
    pub(crate) powered: bool,
    pub(crate) plugged: bool,
    pub(crate) kernel: Kernel,
    pub(crate) daemon: Option<Daemon>,
    /// Tells the wake-up that counts from older ones in the queue.
    pub(crate) wake: u64,
    /// Whether the end of its lease is in the queue.
    pub(crate) watched: bool,
    pub(crate) state: Account,
}

impl Machine {
    pub(crate) fn new(number: u8, config: ClusterConfig, priority: u8, clock: Clock) -> Self {
        Self {
            number,
            weight: Claim::EQUAL_WEIGHT.0,
            priority,
            clock,
            powered: true,
            plugged: true,
            kernel: Kernel::new(config.mac, config.dip),
            daemon: None,
            wake: 0,
            watched: false,
            state: Account::new(config.host, Camp::of(&config)),
            config,
        }
    }

    /// The daemon begins: it attaches the filter with sound tables that take nothing.
    pub(crate) fn start_daemon(&mut self, incarnation: u64) {
        self.config.incarnation = Incarnation(incarnation);
        let identity = Identity::from(&self.config);
        let image = Image::fenced(&identity, &self.config.rules);
        self.kernel.data_path.attach(image);
        self.daemon = Some(Daemon {
            cluster: Cluster::new(self.config.clone()),
            seen_under: Digest::default(),
            wait: Time::NEVER,
            inbox: VecDeque::from([Inbound::Link(self.plugged)]),
            stall: None,
        });
    }

    /// Power failure: nothing of the running system is left.
    pub(crate) fn lose_power(&mut self) {
        self.powered = false;
        self.daemon = None;
        let heeds_lease = self.kernel.heeds_lease;
        self.kernel = Kernel::new(self.config.mac, self.config.dip);
        self.kernel.heeds_lease = heeds_lease;
    }

    /// Writes another weight into the configuration file, for all rules that share traffic.
    pub(crate) fn set_weight(&mut self, weight: u8) {
        self.weight = weight;
        self.config.claims = site::claims(&self.config.rules, weight, self.priority);
    }

    /// Writes other rules into it; the weight stays.
    pub(crate) fn set_rules(&mut self, rules: RuleSet) {
        self.config.claims = site::claims(&rules, self.weight, self.priority);
        self.config.rules = rules;
    }

    /// When the daemon runs next, in the world's time.
    pub(crate) fn wakes_at(&self, now: Time) -> Time {
        let Some(daemon) = &self.daemon else {
            return Time::NEVER;
        };
        match daemon.stall {
            Some(stall) => stall.until,
            None if daemon.inbox.is_empty() => self.clock.world(daemon.wait),
            None => now,
        }
    }

    /// Tells the core something, if it runs.
    pub(crate) fn input(&mut self, now: Time, input: Input<'_>) {
        if let Some(daemon) = &mut self.daemon {
            daemon.cluster.handle_input(self.clock.local(now), input);
        }
    }

    /// Gives the core one thing that has arrived.
    pub(crate) fn hand_in(&mut self, now: Time, inbound: Inbound) {
        let local = self.clock.local(now);
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        match inbound {
            Inbound::Frame(frame) => daemon.cluster.handle_input(local, Input::Frame(&frame)),
            Inbound::Link(up) => daemon.cluster.handle_input(local, Input::Link(up)),
            Inbound::Command(command) => {
                // What it answers is the operator's business.
                let _ = daemon.cluster.command(local, command);
            }
            Inbound::Counted(incarnation, connections)
                if incarnation == self.config.incarnation =>
            {
                let busy = daemon.busy_buckets(local, &mut self.kernel.seen);
                if !busy.is_empty() {
                    daemon.cluster.handle_input(local, Input::Seen(&busy));
                }
                daemon
                    .cluster
                    .handle_input(local, Input::Connections(&connections));
            }
            Inbound::Counted(..) => {}
            Inbound::Unclaimed(unclaimed) => {
                daemon
                    .cluster
                    .handle_input(local, Input::Unclaimed(&unclaimed));
            }
        }
    }

    /// The command by which a daemon reads its configuration file again.
    pub(crate) fn reload(&self) -> Command {
        Command::Reload {
            rules: Arc::new(self.config.rules.clone()),
            claims: self.config.claims.clone(),
        }
    }

    /// Whether the data path takes anything.
    pub(crate) fn is_serving(&self, now: Time) -> bool {
        let programmed = self
            .kernel
            .data_path
            .image()
            .is_some_and(|image| image.settings.serving != 0);
        self.powered && programmed && self.kernel.lease_holds(self.clock.coarse(now))
    }

    /// Brings the account for the invariants up to date, if something has happened; what it takes of the probes only
    /// when its tables have changed.
    pub(crate) fn refresh(&mut self, now: Time, probes: &Probes) -> bool {
        if !std::mem::take(&mut self.state.dirty) {
            return false;
        }
        if std::mem::take(&mut self.state.reprobe) {
            self.state.takes = probes.taken(|frame| self.kernel.takes(frame));
        }
        self.account(now);
        true
    }

    fn account(&mut self, now: Time) {
        self.state.serving = self.is_serving(now);
        self.state.powered = self.powered;
        self.state.stalled = self
            .daemon
            .as_ref()
            .is_some_and(|daemon| daemon.stall.is_some());
        self.state.offered = self.config.rules.digest();
        // A data path whose daemon is stalled or dead goes on in the map that it was in, or goes over to the next.
        if self.kernel.data_path.has_flipped() || self.daemon.is_none() {
            self.state.in_force = self.kernel.data_path.map();
        }
        let Some(daemon) = &self.daemon else {
            self.state.daemon = false;
            self.state.wants = false;
            self.state.draining = false;
            self.state.converged = false;
            return;
        };
        let snapshot = daemon.cluster.snapshot(self.clock.local(now));
        self.state.daemon = true;
        self.state.converged = matches!(snapshot.state, HostState::Converged | HostState::Default);
        self.state.wants = self.state.converged || snapshot.state == HostState::Converging;
        self.state.draining = snapshot.state == HostState::Draining;
        self.state.kept_out = snapshot.kept_out;
        self.state.late = snapshot.timing != self.config.timing;
        if !self.kernel.data_path.has_flipped() {
            self.state.in_force = MapInForce {
                epoch: snapshot.epoch,
                digest: snapshot.digest,
                view: snapshot.view,
            };
        }
    }
}

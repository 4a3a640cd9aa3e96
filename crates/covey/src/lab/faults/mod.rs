//! Faults: what can happen to the lab, and how it is undone.
//!
//! A fault acts on a host from outside, as fate would; the daemon is never asked to play along. What is in force is read
//! back from the kernel ([`Fault`], [`Widespread`]), so nothing has to be remembered to be undone.
//! docs/design.md, "The lab".
//!
//! ```text
//!   command   what can be typed             wiring   crossover cable, hub, what the switch has learned
//!   ports     frames that the switch loses  harm     starving and flooding, by processes of their own
//!   leak      the frame of Q258609          flood    heavy traffic
//! ```

mod command;
mod flood;
mod harm;
mod leak;
mod ports;
mod wiring;

pub(super) use command::{FaultCommand, Pair, Percent, Victim};
pub(super) use flood::{Kind, Rate};
pub(super) use harm::{Harm, harm};
pub(super) use leak::llc_frame;

use super::bridge::Bridge;
use super::convergence::patience;
use super::host::{Host, config_path};
use super::interrupt::{Interrupt, TICK};
use super::netns::run_in;
use super::process::{Condition, Process, Signal, kill_all};
use super::state::Lab;
use super::topology::{self, Place};
use crate::config::{Config, Machine};
use anyhow::{Context, Result, bail, ensure};
use covey_proto::ids::{HostId, HostSet, Mac};
use ports::{DEAF, MUTE, NO_BROADCAST, Ports};
use serde::{Serialize, Serializer};
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// A fault in force that a host suffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its port of the switch is down.
    Cut,
    /// It is cut off from these hosts.
    CutFrom(HostSet),
    /// Its cable leads to this host, not to the switch.
    Crossover(HostId),
    /// Nobody hears its heartbeats.
    Mute,
    /// It hears nobody's heartbeats.
    Deaf,
    /// This part of its frames is lost.
    Loss(Percent),
    /// Its NIC does not accept the cluster MAC.
    Refuse,
    /// The switch believes that the cluster MAC is behind its port.
    Leak,
    /// Its daemon does not run.
    Killed,
    /// SIGSTOP holds its daemon.
    Stalled,
    /// Its daemon has the processor for a moment only, again and again.
    Starved,
}

/// A fault in force that is nobody's in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Widespread {
    /// No broadcast gets from host to host.
    NoBroadcast,
    /// The switch is a hub.
    Hub,
    /// Somebody floods the virtual IP.
    Flood(Kind, Rate),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut => f.write_str("cut"),
            Self::CutFrom(hosts) => write!(f, "cut from {hosts}"),
            Self::Crossover(host) => write!(f, "crossover to {host}"),
            Self::Mute => f.write_str("mute"),
            Self::Deaf => f.write_str("deaf"),
            Self::Loss(percent) => write!(f, "loss {percent}"),
            Self::Refuse => f.write_str("refuse"),
            Self::Leak => f.write_str("leak"),
            Self::Killed => f.write_str("killed"),
            Self::Stalled => f.write_str("stalled"),
            Self::Starved => f.write_str("starved"),
        }
    }
}

impl fmt::Display for Widespread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBroadcast => f.write_str("no-broadcast"),
            Self::Hub => f.write_str("hub"),
            Self::Flood(kind, rate) => write!(f, "flood {} {rate}/s", kind.name()),
        }
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Serialize for Widespread {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// What there is to know of the faults in force, looked at once.
pub(super) struct Evidence {
    bridge: Bridge,
    ports: Option<Ports>,
    learned: Vec<HostId>,
    harms: Vec<(Process, Harm)>,
}

impl Evidence {
    /// Looks.
    ///
    /// # Errors
    /// If the switch cannot be asked.
    pub(super) fn of(lab: &Lab) -> Result<Self> {
        let bridge = Bridge::look(&lab.name)?;
        Ok(Self {
            ports: Ports::find(&lab.name, &bridge)?,
            learned: bridge.learned(lab.cluster_mac()?)?,
            harms: Harm::in_force(&lab.name),
            bridge,
        })
    }

    /// The faults that a host suffers.
    ///
    /// # Errors
    /// If the switch has no port for it.
    pub(super) fn faults(&self, host: &Host) -> Result<Vec<Fault>> {
        let place = Place::Host(host.id);
        let link = self.bridge.port(place)?;
        let mut faults = Vec::new();
        faults.extend((!link.is_up()).then_some(Fault::Cut));
        faults.extend(wiring::other_end(link, host.id).map(Fault::Crossover));
        if let Some(ports) = &self.ports {
            let port = ports.read(place)?;
            let cut_off = port.cut_off();
            faults.extend((!cut_off.is_empty()).then_some(Fault::CutFrom(cut_off)));
            faults.extend(port.has(MUTE).then_some(Fault::Mute));
            faults.extend(port.has(DEAF).then_some(Fault::Deaf));
            faults.extend(Percent::from_two_to_32(port.loss).map(Fault::Loss));
            faults.extend((port.refused != 0).then_some(Fault::Refuse));
        }
        faults.extend(self.learned.contains(&host.id).then_some(Fault::Leak));
        let starved = self.starves(host.id).then_some(Fault::Starved);
        faults.extend(match host.daemon.map(Process::condition) {
            None | Some(Condition::Alive) => starved,
            Some(Condition::Stopped) => starved.or(Some(Fault::Stalled)),
            Some(Condition::Gone) => Some(Fault::Killed),
        });
        Ok(faults)
    }

    /// The faults that are nobody's in particular.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub(super) fn widespread(&self) -> Result<Vec<Widespread>> {
        let mut faults = Vec::new();
        if let Some(ports) = &self.ports {
            let blocked = ports.read(Place::Client)?.has(NO_BROADCAST);
            faults.extend(blocked.then_some(Widespread::NoBroadcast));
        }
        faults.extend(self.bridge.is_hub().then_some(Widespread::Hub));
        faults.extend(self.harms.iter().filter_map(|(_, harm)| match harm {
            Harm::Flood { kind, rate } => Some(Widespread::Flood(*kind, *rate)),
            Harm::Starve { .. } => None,
        }));
        Ok(faults)
    }

    fn starves(&self, id: HostId) -> bool {
        let starves = |(_, harm): &(Process, Harm)| *harm == Harm::Starve { host: id };
        self.harms.iter().any(starves)
    }
}

impl Lab {
    /// The MAC that its hosts share, by the configuration of its first host.
    ///
    /// # Errors
    /// If that cannot be read.
    pub(super) fn cluster_mac(&self) -> Result<Mac> {
        let first = self.hosts.first().context("this lab has no hosts yet")?;
        let path = config_path(&self.name, first.id);
        run_in(&self.name.namespace(Place::Host(first.id)), || {
            Ok(Config::load(&path, &Machine)?.cluster_mac())
        })
    }

    /// Kills a host's daemon. Its kernel side stays as it is.
    ///
    /// # Errors
    /// If the daemon is dead already.
    pub(super) fn kill(&self, id: HostId) -> Result<()> {
        self.live_daemon(id)?.kill()
    }

    /// Cuts a host's port and kills its daemon, in this order: its last words are not heard.
    ///
    /// # Errors
    /// If the daemon is dead already, or the port cannot be set.
    pub(super) fn crash(&self, id: HostId) -> Result<()> {
        let daemon = self.live_daemon(id)?;
        topology::set_port(&self.name, id, false)?;
        daemon.kill()
    }

    /// Stops a host's daemon with SIGSTOP, and lets it go on after `time` (or when interrupted) if one is given.
    ///
    /// # Errors
    /// If the daemon is dead or starved, or does not stop.
    pub(super) fn stall(
        &self,
        id: HostId,
        time: Option<Duration>,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let daemon = self.live_daemon(id)?;
        self.refuse_starved(id)?;
        let start = Instant::now();
        daemon.signal(Signal::Stop)?;
        while daemon.condition() != Condition::Stopped {
            if start.elapsed() > Duration::from_secs(5) {
                bail!("the daemon of host {id} does not react to SIGSTOP");
            }
            thread::sleep(Duration::from_millis(1));
        }
        if let Some(time) = time {
            while start.elapsed() < time && !interrupt.is_set() {
                thread::sleep(TICK.min(time.saturating_sub(start.elapsed())));
            }
            daemon.signal(Signal::Continue)?;
        }
        Ok(())
    }

    /// Does harm for a time, or (without one) until `heal`. Says how many frames were sent, if it is a flood that is over.
    ///
    /// # Errors
    /// If the same is being done already, or it cannot be done.
    pub(super) fn do_harm(
        &self,
        harm: Harm,
        time: Option<Duration>,
        interrupt: &Interrupt,
    ) -> Result<Option<u64>> {
        match harm {
            Harm::Starve { host } => {
                self.live_daemon(host)?;
                self.refuse_starved(host)?;
            }
            Harm::Flood { .. } => {
                let floods = |(_, harm): &(Process, Harm)| matches!(harm, Harm::Flood { .. });
                ensure!(
                    !Harm::in_force(&self.name).iter().any(floods),
                    "somebody floods this lab already; `covey lab fault heal` ends it"
                );
            }
        }
        let Some(time) = time else {
            return harm.begin(self).map(|()| None);
        };
        let start = Instant::now();
        harm.act(self, &|| start.elapsed() >= time || interrupt.is_set())
            .map(Some)
    }

    fn refuse_starved(&self, id: HostId) -> Result<()> {
        let starves = |(_, harm): &(Process, Harm)| *harm == Harm::Starve { host: id };
        ensure!(
            !Harm::in_force(&self.name).iter().any(starves),
            "the daemon of host {id} is starved already; `covey lab fault heal` ends that"
        );
        Ok(())
    }

    /// Loses a host's heartbeats on their way to all others.
    ///
    /// # Errors
    /// If there is no such host, or the switch cannot be changed.
    pub(super) fn mute(&self, id: HostId) -> Result<()> {
        self.change_port(id, |port| port.flags |= MUTE)
    }

    /// Loses the others' heartbeats on their way to a host.
    ///
    /// # Errors
    /// As [`Self::mute`].
    pub(super) fn deafen(&self, id: HostId) -> Result<()> {
        self.change_port(id, |port| port.flags |= DEAF)
    }

    /// Loses a part of all frames from and to a host.
    ///
    /// # Errors
    /// As [`Self::mute`].
    pub(super) fn lose(&self, id: HostId, percent: Percent) -> Result<()> {
        self.change_port(id, |port| port.loss = percent.of_two_to_32())
    }

    /// Loses the frames to the cluster MAC on their way to a host.
    ///
    /// # Errors
    /// As [`Self::mute`].
    pub(super) fn refuse(&self, id: HostId) -> Result<()> {
        let mac = self.cluster_mac()?;
        self.change_port(id, |port| port.refuse(mac))
    }

    /// Loses all frames between two hosts.
    ///
    /// # Errors
    /// As [`Self::mute`].
    pub(super) fn cut(&self, Pair(first, second): Pair) -> Result<()> {
        for id in [first, second] {
            self.host(id)?;
        }
        self.change_port(first, |port| port.cut |= HostSet::only(second).bits())?;
        self.change_port(second, |port| port.cut |= HostSet::only(first).bits())
    }

    /// Loses all broadcasts between hosts.
    ///
    /// Not those from and to the client: a switch that blocked these would let nobody find the virtual IP at all, and
    /// what KB812870 describes is a cluster that is found and whose hosts do not find each other.
    ///
    /// # Errors
    /// If the switch cannot be changed.
    pub(super) fn block_broadcast(&self) -> Result<()> {
        let bridge = Bridge::look(&self.name)?;
        Ports::attach(&self.name, &bridge)?.change_all(|port| port.flags |= NO_BROADCAST)
    }

    fn change_port(&self, id: HostId, change: impl FnOnce(&mut ports::Port)) -> Result<()> {
        self.host(id)?;
        let bridge = Bridge::look(&self.name)?;
        Ports::attach(&self.name, &bridge)?.change(Place::Host(id), change)
    }

    /// Sends a frame with the cluster MAC as source from a host, from below the guard.
    ///
    /// # Errors
    /// If there is no such host, the frame cannot be sent, or the switch does not learn from it.
    pub(super) fn leak(&self, id: HostId) -> Result<()> {
        self.host(id)?;
        let mac = self.cluster_mac()?;
        ensure!(
            !mac.is_group(),
            "{mac} is a multicast MAC, which no switch learns; this takes a lab in unicast mode"
        );
        leak::leak(&self.name.namespace(Place::Host(id)), mac)
    }

    /// Undoes the faults of one host; does not wait for the cluster.
    ///
    /// # Errors
    /// If the port cannot be set or the daemon not be started.
    pub(super) fn repair(&mut self, id: HostId) -> Result<()> {
        topology::set_port(&self.name, id, true)?;
        let host = self
            .hosts
            .iter_mut()
            .find(|host| host.id == id)
            .with_context(|| format!("this lab has no host {id}"))?;
        match (host.daemon_condition(), host.daemon) {
            (Condition::Stopped, Some(daemon)) => daemon.signal(Signal::Continue)?,
            (Condition::Alive, _) => (),
            (Condition::Gone, _) | (Condition::Stopped, None) => {
                host.start_daemon(&self.name, &self.program)?;
                self.save()?;
            }
        }
        Ok(())
    }

    /// Undoes all faults and waits until all hosts have converged; says how long that took.
    ///
    /// # Errors
    /// If a fault cannot be undone, or the cluster does not converge in time.
    pub(super) fn heal(&mut self, interrupt: &Interrupt) -> Result<Duration> {
        self.undo()?;
        self.wait_converged(self.everyone(), patience(self.timing), interrupt)
    }

    /// Undoes all faults; does not wait for the cluster.
    ///
    /// # Errors
    /// If a fault cannot be undone.
    pub(super) fn undo(&mut self) -> Result<()> {
        // Who does harm first, lest he do it again.
        let harms: Vec<Process> = Harm::in_force(&self.name)
            .into_iter()
            .map(|(process, _)| process)
            .collect();
        kill_all(&harms)?;
        Ports::detach(&self.name, &Bridge::look(&self.name)?)?;
        self.restore_switch()?;
        self.everyone().iter().try_for_each(|id| self.repair(id))
    }

    fn live_daemon(&self, id: HostId) -> Result<Process> {
        self.host(id)?
            .daemon
            .filter(|daemon| daemon.condition() != Condition::Gone)
            .with_context(|| {
                format!("the daemon of host {id} does not run; `covey lab fault heal` starts it")
            })
    }
}

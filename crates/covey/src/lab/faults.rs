//! Faults: what can happen to a host of the lab, and how it is undone.
//!
//! A fault acts on the host from outside, as fate would; the daemon is never asked to play along. What is in
//! force is read back from the kernel ([`Fault`]), so nothing has to be remembered to be undone.
//! docs/design.md, "Command line".

use super::convergence::patience;
use super::host::Host;
use super::interrupt::{Interrupt, TICK};
use super::process::{Condition, Process, Signal};
use super::state::Lab;
use super::topology;
use anyhow::{Context, Result, bail};
use covey_proto::ids::HostId;
use serde::Serialize;
use std::thread;
use std::time::{Duration, Instant};

/// A fault in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fault {
    /// The host's port of the switch is down.
    Cut,
    /// Its daemon does not run.
    Killed,
    /// SIGSTOP holds its daemon.
    Stalled,
}

impl Lab {
    /// The faults that a host suffers now.
    ///
    /// # Errors
    /// If the switch cannot be asked.
    pub(super) fn faults(&self, host: &Host) -> Result<Vec<Fault>> {
        let cut = !topology::port_is_up(&self.name, host.id)?;
        let daemon = match host.daemon.map(Process::condition) {
            None | Some(Condition::Alive) => None,
            Some(Condition::Stopped) => Some(Fault::Stalled),
            Some(Condition::Gone) => Some(Fault::Killed),
        };
        Ok(cut
            .then_some(Fault::Cut)
            .into_iter()
            .chain(daemon)
            .collect())
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
    /// If the daemon is dead, or does not stop.
    pub(super) fn stall(
        &self,
        id: HostId,
        time: Option<Duration>,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let daemon = self.live_daemon(id)?;
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
    /// If a host cannot be repaired, or the cluster does not converge in time.
    pub(super) fn heal(&mut self, interrupt: &Interrupt) -> Result<Duration> {
        for id in self.everyone().iter() {
            self.repair(id)?;
        }
        self.wait_converged(self.everyone(), patience(self.timing), interrupt)
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

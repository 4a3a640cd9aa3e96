//! Whether the lab's hosts agree: the one question that `lab up`, `lab fault heal` and `lab demo` wait for.
//!
//! Agreement is judged from outside, from what each daemon says on its control socket: state converged, the
//! expected view, and one epoch and map in all of them. docs/design.md, "Membership".

use super::interrupt::{Interrupt, TICK};
use super::process::Condition;
use super::state::Lab;
use crate::status::{HostState, Status};
use anyhow::{Result, bail};
use covey_proto::config::Timing;
use covey_proto::ids::{HostId, HostSet};
use std::thread;
use std::time::{Duration, Instant};

/// How long a lab may take to converge after its daemons were started: ten times the silence that counts as
/// death, and at least 20 s, because a busy machine takes its time to start 64 daemons.
pub(super) fn patience(timing: Timing) -> Duration {
    (timing.budget() * 10).max(Duration::from_secs(20))
}

impl Lab {
    /// Waits until exactly the hosts in `expected` form a converged cluster; says how long that took.
    ///
    /// # Errors
    /// If it has not happened after `bound`, with the reason; if a daemon among them has ended; or if interrupted.
    pub(super) fn wait_converged(
        &self,
        expected: HostSet,
        bound: Duration,
        interrupt: &Interrupt,
    ) -> Result<Duration> {
        let start = Instant::now();
        loop {
            interrupt.check()?;
            self.check_daemons(expected)?;
            let Some(obstacle) = self.obstacle(expected) else {
                return Ok(start.elapsed());
            };
            if start.elapsed() > bound {
                bail!(
                    "the cluster has not converged after {:.1} s: {obstacle}",
                    bound.as_secs_f64()
                );
            }
            thread::sleep(TICK);
        }
    }

    /// Why the hosts in `expected` are not one converged cluster; none if they are. Asks no more hosts than it
    /// takes to know, because answering costs a daemon time, and in a large lab it has none to spare.
    pub(super) fn obstacle(&self, expected: HostSet) -> Option<String> {
        let mut first: Option<Status> = None;
        for host in self.hosts.iter().filter(|host| expected.contains(host.id)) {
            let status = match host.status() {
                Ok(status) => status,
                Err(error) => return Some(format!("{error:#}")),
            };
            let obstacle = disagreement(expected, first.as_ref(), &status);
            if obstacle.is_some() {
                return obstacle;
            }
            first.get_or_insert(status);
        }
        None
    }

    fn check_daemons(&self, expected: HostSet) -> Result<()> {
        for host in self.hosts.iter().filter(|host| expected.contains(host.id)) {
            if host.daemon_condition() == Condition::Gone {
                bail!(
                    "the daemon of host {} has ended; the end of its log:{}",
                    host.id,
                    host.log_tail(&self.name)
                );
            }
        }
        Ok(())
    }
}

/// What keeps a host from being part of one converged cluster of `expected`, in words. `other` is the answer of a
/// host that is part of it.
fn disagreement(expected: HostSet, other: Option<&Status>, status: &Status) -> Option<String> {
    let id = status.host.id;
    match status.host.state {
        HostState::Converged => (),
        HostState::Converging => {
            let reason = status.host.waiting_for.as_deref();
            let reason = reason.unwrap_or("no reason given");
            return Some(format!("host {id} is converging ({reason})"));
        }
        HostState::Draining => return Some(format!("host {id} is draining")),
        HostState::Stopped => return Some(format!("host {id} is stopped")),
        HostState::Suspended => return Some(format!("host {id} is suspended")),
    }
    let members = status.cluster.view.iter();
    let view: HostSet = members.filter_map(|id| HostId::new(*id)).collect();
    if view != expected {
        return Some(format!(
            "host {id} is in a cluster of hosts {view}, not {expected}"
        ));
    }
    let map = |status: &Status| (status.cluster.epoch, status.cluster.map_digest.clone());
    other
        .filter(|other| map(other) != map(status))
        .map(|other| {
            let other = other.host.id;
            format!("hosts {other} and {id} have committed different maps")
        })
}

#[cfg(test)]
mod tests {
    use super::super::fake::status;
    use super::*;

    fn hosts(ids: &[u8]) -> HostSet {
        ids.iter().filter_map(|id| HostId::new(*id)).collect()
    }

    fn converged(id: u8) -> Status {
        status(HostId::new(id).unwrap(), &[1, 2, 3])
    }

    #[test]
    fn agreement_is_agreement() {
        let expected = hosts(&[1, 2, 3]);
        assert_eq!(disagreement(expected, None, &converged(1)), None);
        assert_eq!(
            disagreement(expected, Some(&converged(1)), &converged(2)),
            None
        );
    }

    #[test]
    fn each_obstacle_is_named() {
        type Spoil = fn(&mut Status);
        let cases: [(Spoil, &str); 7] = [
            (
                |s| s.host.state = HostState::Converging,
                "host 2 is converging (no reason given)",
            ),
            (
                |s| {
                    s.host.state = HostState::Converging;
                    s.host.waiting_for = Some("host 3 does not hear host 2".to_owned());
                },
                "host 2 is converging (host 3 does not hear host 2)",
            ),
            (|s| s.host.state = HostState::Stopped, "host 2 is stopped"),
            (
                |s| s.host.state = HostState::Suspended,
                "host 2 is suspended",
            ),
            (
                |s| s.cluster.view = vec![1, 2],
                "host 2 is in a cluster of hosts 1,2, not 1,2,3",
            ),
            (
                |s| s.cluster.epoch += 1,
                "hosts 1 and 2 have committed different maps",
            ),
            (
                |s| s.cluster.map_digest = "other".to_owned(),
                "hosts 1 and 2 have committed different maps",
            ),
        ];
        for (spoil, sentence) in cases {
            let mut second = converged(2);
            spoil(&mut second);
            let obstacle = disagreement(hosts(&[1, 2, 3]), Some(&converged(1)), &second);
            assert_eq!(obstacle.as_deref(), Some(sentence));
        }
    }

    #[test]
    fn a_lab_waits_at_least_20_seconds() {
        let timing = |millis, tolerance| Timing {
            period: Duration::from_millis(millis),
            tolerance,
        };
        assert_eq!(patience(timing(20, 8)), Duration::from_secs(20));
        assert_eq!(patience(timing(1000, 5)), Duration::from_secs(50));
    }
}

//! Is the cluster settled? And promise: after the last fault it settles again.
//!
//! The strictest promises hold only when nothing is wrong, so everything that is done to the cluster passes here.
//!
//! ```text
//!                all agree, no fault for a budget               a crash
//!   Unsettled  ----------------------------------->  Settled  ----------> Mourning
//!       ^                                              |  ^                |    |
//!       '------------------ any other fault -----------'  '-- all agree ---'    '-- any fault --> Unsettled
//! ```
//!
//! Planned changes (start, stop, weights, rules) do not unsettle a cluster: that is promise 2. A crash out of a
//! settled state costs only what the dead host served, and only for a time that is known: promise 3.

use super::Camp;
use crate::machine::Machine;
use covey_proto::config::Timing;
use covey_proto::ids::{Digest, HostId, HostSet};
use covey_proto::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// What was done to the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disturbance {
    /// Something that must harm nobody.
    Planned,
    /// A machine lost power; these probes were its own.
    Crash {
        /// Bits as in [`super::Probes`].
        dark: u64,
    },
    /// Anything else that is wrong, or its end.
    Fault,
}

/// How settled the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Something is or was wrong.
    Unsettled,
    /// Nothing is wrong, since then.
    Settled(Time),
    /// A host has crashed out of a settled state: its probes may be dark until the deadline. The last survivor hears
    /// nobody any more and so fences itself until it is sure to be alone: then all probes may be dark.
    Mourning {
        dark: u64,
        deadline: Time,
        alone: bool,
    },
}

/// Budgets that a cluster has to settle again after the last disturbance: a host that comes back listens for one,
/// one may be needed to find the others silent, and agreement may have to begin again when it is interrupted.
const BUDGETS_TO_SETTLE: u32 = 6;

/// Budgets for which a host may be kept out that was lost again and again; the core's longest wait is 64.
const BUDGETS_KEPT_OUT: u32 = 65;

/// Keeps watch over the state of the cluster as a whole.
pub(crate) struct Settling {
    timing: Timing,
    quorum: u8,
    travel: Duration,
    mode: Mode,
    agreed: bool,
    /// Hosts that should be in the cluster.
    wanting: usize,
    /// When the last fault began or ended.
    troubled_at: Time,
    /// When the last step or end of a fault was.
    disturbed_at: Time,
    /// When some host last ran late; the others have to wait longer for it, and for a while after.
    late_at: Option<Time>,
    /// Hosts that are kept out, and since when.
    kept_out: BTreeMap<HostId, Time>,
    /// Nobody can be expected to agree now: a fault is in force, or too few hosts are left.
    excused: bool,
}

impl Settling {
    pub(crate) const fn new(timing: Timing, quorum: u8, travel: Duration) -> Self {
        Self {
            timing,
            quorum,
            travel,
            mode: Mode::Unsettled,
            agreed: false,
            wanting: 0,
            troubled_at: Time::ZERO,
            disturbed_at: Time::ZERO,
            late_at: None,
            kept_out: BTreeMap::new(),
            excused: false,
        }
    }

    pub(crate) const fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) const fn agreed(&self) -> bool {
        self.agreed
    }

    /// Whether the cluster has been settled since a time.
    pub(crate) fn settled_since(&self, since: Time) -> bool {
        match self.mode {
            Mode::Settled(from) => from <= since,
            Mode::Unsettled | Mode::Mourning { .. } => false,
        }
    }

    /// Whether a host may fence itself now.
    pub(crate) fn excuses_fences(&self) -> bool {
        match self.mode {
            Mode::Unsettled => true,
            Mode::Settled(_) => false,
            Mode::Mourning { alone, .. } => alone,
        }
    }

    /// How long after a crash the dead host's share may be dark: its peers wait until its lease has surely run out, by
    /// clocks that differ by 400 millionths at most; then three heartbeats out of turn, each up to a tenth of a
    /// period late; the last survivor asks for a period before it believes that it is alone.
    fn mourning(&self, now: Time) -> Duration {
        let expiry = self.timing(now).expiry();
        expiry
            + expiry / 2500
            + self.timing.period * 3 / 2
            + self.travel * 6
            + Duration::from_millis(5)
    }

    /// The longest timing that a host may have announced of late.
    fn timing(&self, now: Time) -> Timing {
        let longest = self.timing.longest();
        let late = |at: Time| now < at + longest.expiry() * 2;
        if self.late_at.is_some_and(late) {
            longest
        } else {
            self.timing
        }
    }

    pub(crate) fn disturbed(&mut self, now: Time, disturbance: Disturbance) {
        self.disturbed_at = now;
        let survivors = self.wanting.saturating_sub(1);
        let quorate = 2 * survivors > usize::from(self.quorum);
        self.mode = match (self.mode, disturbance) {
            // The last survivor has no map any more, so whoever comes now founds a new cluster with it, and listens first.
            (Mode::Mourning { alone: true, .. }, Disturbance::Planned) => {
                self.troubled_at = now;
                Mode::Unsettled
            }
            (mode, Disturbance::Planned) => mode,
            (Mode::Settled(_), Disturbance::Crash { dark })
                if self.agreed && survivors > 0 && quorate =>
            {
                self.troubled_at = now;
                let alone = survivors == 1;
                Mode::Mourning {
                    dark: if alone { u64::MAX } else { dark },
                    deadline: now + self.mourning(now),
                    alone,
                }
            }
            (
                Mode::Unsettled | Mode::Settled(_) | Mode::Mourning { .. },
                Disturbance::Crash { .. } | Disturbance::Fault,
            ) => {
                self.troubled_at = now;
                Mode::Unsettled
            }
        };
    }

    /// Looks at all hosts. True if the cluster has just settled.
    pub(crate) fn look(&mut self, now: Time, machines: &[Machine], sound: bool) -> bool {
        if machines.iter().any(|machine| machine.state.late) {
            self.late_at = Some(now);
        }
        let kept_out = machines
            .iter()
            .filter(|machine| machine.state.converged)
            .fold(HostSet::EMPTY, |all, machine| {
                all.union(machine.state.kept_out)
            });
        self.kept_out.retain(|host, _| kept_out.contains(*host));
        for host in kept_out.iter() {
            self.kept_out.entry(host).or_insert(now);
        }
        let wanting = Self::wanting(machines, kept_out);
        let members: HostSet = wanting.iter().map(|machine| machine.state.id).collect();
        let draining = machines.iter().filter(|machine| machine.state.draining);
        let draining: HostSet = draining.map(|machine| machine.state.id).collect();
        let first = wanting
            .first()
            .map(|machine| (machine.state.in_force.epoch, machine.state.in_force.digest));
        self.agreed = wanting.iter().all(|machine| {
            let state = &machine.state;
            state.converged
                && state.in_force.view.without(draining) == members.without(draining)
                && Some((state.in_force.epoch, state.in_force.digest)) == first
        }) && first.is_some();
        self.wanting = wanting.len();
        let stalled = machines.iter().any(|machine| machine.state.stalled);
        // A host that has lost its map and hears nobody cannot tell whether a machine that answers ARP takes part.
        let answering = machines
            .iter()
            .filter(|machine| machine.state.powered)
            .count();
        let lonely = wanting.len() == 1 && answering > 1;
        // Hosts that have just come cannot tell which of two with one ID is the right one.
        let twins = machines
            .iter()
            .any(|machine| machine.state.misfit && machine.state.wants);
        let inquorate = 2 * wanting.len() <= usize::from(self.quorum);
        let hopeless = twins || !sound || stalled || wanting.is_empty() || inquorate;
        self.excused = hopeless || (lonely && !matches!(self.mode, Mode::Settled(_)));
        if self.excused || self.agreed {
            self.disturbed_at = now;
        }
        let mourns = matches!(self.mode, Mode::Mourning { .. });
        if wanting.is_empty() || inquorate || (self.excused && mourns) {
            (self.mode, self.troubled_at) = (Mode::Unsettled, now);
        }
        let calm = sound && !stalled && self.agreed;
        let healed = match self.mode {
            // Leases may still be short of what was lost before.
            Mode::Unsettled => calm && now >= self.troubled_at + self.timing(now).expiry(),
            Mode::Mourning { .. } => calm,
            Mode::Settled(_) => false,
        };
        if healed {
            self.mode = Mode::Settled(now);
        }
        healed
    }

    /// Hosts that should be in the cluster: those that want to, but for twins, hosts that were lost too often, and
    /// hosts whose rules, mode or key most do not have.
    fn wanting(machines: &[Machine], kept_out: HostSet) -> Vec<&Machine> {
        let able = || {
            machines.iter().filter(|machine| {
                let state = &machine.state;
                let fit = !state.misfit && !kept_out.contains(state.id);
                state.wants && state.powered && fit
            })
        };
        let wish = |machine: &Machine| (machine.state.camp, machine.state.offered);
        let mut votes: BTreeMap<(Camp, Digest), usize> = BTreeMap::new();
        for machine in able() {
            *votes.entry(wish(machine)).or_default() += 1;
        }
        let most = votes.values().copied().max().unwrap_or(0);
        let wanted = able().map(wish).find(|wish| votes[wish] == most);
        able()
            .filter(|machine| Some(wish(machine)) == wanted)
            .collect()
    }

    /// Promise: it settles again.
    pub(crate) fn check(&self, now: Time) -> Result<(), String> {
        let longest = self.timing.longest().expiry() * BUDGETS_KEPT_OUT;
        if let Some((host, since)) = self
            .kept_out
            .iter()
            .find(|(_, since)| now > **since + longest)
        {
            return Err(format!("host {host} has been kept out since {since:?}"));
        }
        let bound = self.timing(now).expiry() * BUDGETS_TO_SETTLE;
        if !self.agreed && !self.excused && now > self.disturbed_at + bound {
            return Err(format!(
                "hosts that run and hear each other are not in one converged view {bound:?} after the last disturbance"
            ));
        }
        match self.mode {
            Mode::Mourning { deadline, .. } if now > deadline => Err(format!(
                "after a crash the others have not converged by {deadline:?}"
            )),
            Mode::Mourning { .. } | Mode::Settled(_) | Mode::Unsettled => Ok(()),
        }
    }
}

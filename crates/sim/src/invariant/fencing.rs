//! Promise 4: a host that the others have left out of a map in force takes nothing.
//!
//! With `quorum = "none"` the parts of a split may serve each for itself, as with NLB. Two hosts are excused from each
//! other when the links between them were so bad that they may have been in different parts, directly or through
//! others, until the cluster has merged again, or until they have heard each other for long enough to know better.

use crate::machine::Machine;
use covey_proto::config::Timing;
use covey_proto::time::Time;
use std::time::Duration;

/// Watches that nobody serves who must not.
pub(crate) struct Fencing {
    /// With a quorum no two parts may serve.
    quorum: bool,
    /// For each machine, as bits: with whom it hears each other.
    sound: Vec<u128>,
    /// With whom it has done so ever since the cluster was whole.
    always: Vec<u128>,
    /// Machines that have taken part ever since: only those can tell two others of each other.
    steady: u128,
    active: u128,
    /// Machines that take part, rightly or not, or still serve.
    present: u128,
    /// When the cluster may last have been split.
    split_at: Option<Time>,
    /// Since when two hosts hear each other, by index.
    sound_since: Vec<Time>,
    /// How long hosts that hear each other may disagree: a lease, and another until the last has taken note.
    patience: Duration,
}

impl Fencing {
    pub(crate) fn new(machines: usize, quorum: bool, timing: Timing) -> Self {
        let all = vec![u128::MAX; machines];
        Self {
            quorum,
            sound: all.clone(),
            always: all,
            steady: 0,
            active: 0,
            present: 0,
            split_at: None,
            sound_since: vec![Time::ZERO; machines * machines],
            patience: timing.expiry() * 2,
        }
    }

    /// The links have changed; `sound` says whether a host can rely on hearing another.
    pub(crate) fn links_changed(&mut self, now: Time, sound: impl Fn(usize, usize) -> bool) {
        let machines = self.sound.len();
        for one in 0..machines {
            let before = self.sound[one];
            let both = |other: &usize| sound(one, *other) && sound(*other, one);
            self.sound[one] = (0..machines)
                .filter(both)
                .fold(0, |bits, other| bits | 1 << other);
            self.always[one] &= self.sound[one];
            for other in (0..machines).filter(|other| before >> other & 1 == 0) {
                self.sound_since[one * machines + other] = now;
            }
        }
    }

    /// Hosts have come or gone.
    pub(crate) fn look(&mut self, now: Time, machines: &[Machine]) {
        (self.active, self.present) = (0, 0);
        for machine in machines {
            let (state, bit) = (&machine.state, 1 << (machine.number - 1));
            let takes_part = state.daemon && (state.wants || state.draining);
            if takes_part || state.serving {
                self.present |= bit;
            }
            if takes_part && !state.stalled && !state.misfit {
                self.active |= bit;
            }
        }
        self.steady &= self.active;
        if self.is_split() {
            self.split_at = Some(now);
        }
    }

    /// Whether the cluster may have been split at some time since then.
    pub(crate) fn was_split(&self, since: Time) -> bool {
        self.is_split() || self.split_at.is_some_and(|at| at >= since)
    }

    /// Whether one of two hosts may serve though the other does, because the cluster is split.
    pub(crate) fn excuses(&self, now: Time, one: usize, other: usize) -> bool {
        let since = self.sound_since[one * self.sound.len() + other];
        let know_better = self.sound[one] >> other & 1 != 0 && now > since + self.patience;
        self.are_apart(one, other) && !know_better
    }

    /// All hosts are in one view again.
    pub(crate) fn merged(&mut self) {
        self.always.clone_from(&self.sound);
        self.steady = self.active;
    }

    /// Whether two hosts may be in different parts of a split: no chain of hosts that have always heard each other
    /// connects them.
    pub(crate) fn are_apart(&self, one: usize, other: usize) -> bool {
        if self.quorum {
            return false;
        }
        let (mut reached, mut before) = (1u128 << one, 0);
        while reached != before {
            before = reached;
            for (machine, hears) in self.always.iter().enumerate() {
                let passes_on = machine == one || self.steady >> machine & 1 != 0;
                if passes_on && reached >> machine & 1 != 0 {
                    reached |= hears;
                }
            }
        }
        reached >> other & 1 == 0
    }

    /// Whether the cluster may be split.
    fn is_split(&self) -> bool {
        let present = |one: &usize| self.present >> one & 1 != 0;
        let hear_all = |one: usize| self.always[one] & self.present == self.present;
        if (0..self.always.len()).filter(present).all(hear_all) {
            return false;
        }
        let hosts = || (0..self.always.len()).filter(|host| self.present >> host & 1 != 0);
        hosts().any(|one| hosts().any(|other| self.are_apart(one, other)))
    }

    /// Nobody serves who was left out.
    pub(crate) fn check(&self, now: Time, machines: &[Machine]) -> Result<(), String> {
        let serving = || {
            machines
                .iter()
                .enumerate()
                .filter(|(_, machine)| machine.state.serving)
        };
        for (one, left_out) in serving() {
            for (other, member) in serving() {
                let (mine, theirs) = (left_out.state.in_force.epoch, member.state.in_force.epoch);
                if theirs > mine
                    && !member.state.in_force.view.contains(left_out.state.id)
                    && !self.excuses(now, one, other)
                {
                    return Err(format!(
                        "host {} serves in epoch {mine}, though host {} does in epoch {theirs} with hosts {} only",
                        one + 1,
                        other + 1,
                        member.state.in_force.view
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        period: Duration::from_millis(100),
        tolerance: 5,
    };

    fn whole() -> Fencing {
        let mut fencing = Fencing::new(4, false, TIMING);
        fencing.active = 0b1111;
        fencing.merged();
        fencing
    }

    #[test]
    fn hosts_are_apart_only_if_no_others_connect_them() {
        let mut fencing = whole();
        fencing.links_changed(Time::ZERO, |from, to| (from, to) != (0, 1));
        assert!(!fencing.are_apart(0, 1) && !fencing.is_split());
        fencing.links_changed(Time::ZERO, |from, to| (from < 2) == (to < 2));
        assert!(fencing.are_apart(0, 2) && fencing.are_apart(1, 3));
        // Both cuts together have left no pair that connects host 1 with anybody.
        assert!(fencing.are_apart(0, 1));
        fencing.links_changed(Time::ZERO, |_, _| true);
        assert!(fencing.are_apart(0, 2));
        let after = |time: Duration| Time::ZERO + time;
        assert!(fencing.excuses(after(TIMING.expiry()), 0, 2));
        assert!(
            !fencing.excuses(after(TIMING.expiry() * 3), 0, 2),
            "they know better by now"
        );
        fencing.merged();
        assert!(!fencing.is_split());
    }

    #[test]
    fn a_host_that_was_away_connects_nobody() {
        let mut fencing = whole();
        fencing.steady = 0b0011;
        fencing.links_changed(Time::ZERO, |from, to| (from, to) != (0, 1));
        assert!(fencing.are_apart(0, 1));
        assert!(!fencing.are_apart(0, 2));
        assert!(!Fencing::new(4, true, TIMING).are_apart(0, 1));
    }
}

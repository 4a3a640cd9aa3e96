//! Promise 4: a host that the others have left out of a map in force takes nothing.
//!
//! With `quorum = "none"` the parts of a split may serve each for itself, as with NLB. Two hosts are excused from each
//! other when the links between them were so bad that they may have been in different parts, directly or through
//! others, until the cluster has merged again.

use crate::machine::Machine;

/// Watches that nobody serves who must not.
pub(crate) struct Fencing {
    /// With a quorum no two parts may serve.
    quorum: bool,
    machines: usize,
    /// Whether two hosts hear each other, by index.
    sound: Vec<bool>,
    /// Whether they have done so ever since the cluster was whole.
    always: Vec<bool>,
    /// The part in which each host may have been.
    part: Vec<usize>,
}

impl Fencing {
    pub(crate) fn new(machines: usize, quorum: bool) -> Self {
        let all = vec![true; machines * machines];
        Self {
            quorum,
            machines,
            sound: all.clone(),
            always: all,
            part: vec![0; machines],
        }
    }

    /// The links have changed.
    pub(crate) fn links_changed(&mut self, sound: impl Fn(usize, usize) -> bool) {
        for one in 0..self.machines {
            for other in 0..self.machines {
                let mutual = sound(one, other) && sound(other, one);
                self.sound[one * self.machines + other] = mutual;
                self.always[one * self.machines + other] &= mutual;
            }
        }
        self.divide();
    }

    /// All hosts are in one view again.
    pub(crate) fn merged(&mut self) {
        self.always.clone_from(&self.sound);
        self.divide();
    }

    /// Finds the parts: hosts that are connected by pairs that have always heard each other.
    fn divide(&mut self) {
        self.part = (0..self.machines).collect();
        for one in 0..self.machines {
            for other in 0..one {
                if self.always[one * self.machines + other] && self.part[one] != self.part[other] {
                    let (kept, gone) = (self.part[other], self.part[one]);
                    for part in self.part.iter_mut().filter(|part| **part == gone) {
                        *part = kept;
                    }
                }
            }
        }
    }

    /// Whether two hosts may be in different parts of a split.
    pub(crate) fn are_apart(&self, one: usize, other: usize) -> bool {
        !self.quorum && self.part[one] != self.part[other]
    }

    /// Whether the cluster may be split.
    pub(crate) fn is_split(&self) -> bool {
        !self.quorum && self.part.iter().any(|part| *part != self.part[0])
    }

    /// Nobody serves who was left out.
    pub(crate) fn check(&self, machines: &[Machine]) -> Result<(), String> {
        let serving = || {
            machines
                .iter()
                .enumerate()
                .filter(|(_, machine)| machine.state.serving)
        };
        for (one, left_out) in serving() {
            for (other, member) in serving() {
                let (mine, theirs) = (left_out.state.epoch, member.state.epoch);
                if theirs > mine
                    && !member.state.view.contains(left_out.state.id)
                    && !self.are_apart(one, other)
                {
                    return Err(format!(
                        "host {} serves in epoch {mine}, though host {} does in epoch {theirs} with hosts {} only",
                        one + 1,
                        other + 1,
                        member.state.view
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

    #[test]
    fn hosts_are_apart_only_if_no_others_connect_them() {
        let mut fencing = Fencing::new(4, false);
        fencing.links_changed(|from, to| (from, to) != (0, 1));
        assert!(!fencing.are_apart(0, 1) && !fencing.is_split());
        fencing.links_changed(|from, to| (from < 2) == (to < 2));
        assert!(fencing.are_apart(0, 2) && fencing.are_apart(1, 3));
        // Both cuts together have left no pair that connects host 1 with anybody.
        assert!(fencing.are_apart(0, 1));
        fencing.links_changed(|_, _| true);
        assert!(fencing.are_apart(0, 2));
        fencing.merged();
        assert!(!fencing.is_split());
    }
}

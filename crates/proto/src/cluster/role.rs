//! The host's own part in the cluster: NLB's host states and what moves a host from one to another.
//!
//! ```text
//!             Start              Stop, Suspend               map without me
//!   Stopped --------> Active --------------------> Leaving ----------------.
//!      ^  ^             ^ |                           ^ Stop               v
//!      |  | Start:      | | Drainstop                 |                 Parting
//!      |  | rejoins     | v                           |                    |
//!      |  |             '-- Draining -----------------'                    |
//!      |  |           Start    '---- last connection ended --------------->|
//!      |  '------------------------------ three goodbyes ------------------|
//!      '-- Resume -- Suspended <--------- three goodbyes, if suspended ----'
//! ```
//!
//! A leaving host serves until a map without it is in force, so nothing is dark meanwhile. A suspended one heeds
//! nothing but Resume, already on its way there. Specification: docs/design.md, "Membership"; NLB facts §5.1.

use super::command::Answer;
use super::legacy::Generations;
use super::lingering::Lingering;
use super::outlook::Outlook;
use super::peer::Peers;
use super::prepared::Prepared;
use super::sticky::Sticky;
use super::{Cluster, announce};
use crate::event::Event;
use crate::time::{Time, Timer, TimerTable};
use std::time::Duration;

/// The host's own part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Stopped,
    Suspended,
    Active,
    /// Waits for a map without it.
    Leaving {
        deadline: Time,
        then: Rest,
    },
    /// Waits for a map without it and then for its last connection.
    Draining {
        until: Time,
    },
    /// Says goodbye.
    Parting {
        goodbyes_left: u8,
        then: Rest,
    },
}

/// Where a host that leaves comes to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Stopped,
    Suspended,
}

impl From<Rest> for Role {
    fn from(rest: Rest) -> Self {
        match rest {
            Rest::Stopped => Self::Stopped,
            Rest::Suspended => Self::Suspended,
        }
    }
}

/// What moves the host from one role to another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trigger {
    Start,
    Stop,
    Drainstop { until: Time },
    Suspend,
    Resume,
    HandedOver,
    GoodbyeSent,
}

impl Cluster {
    pub(super) fn change_role(&mut self, now: Time, trigger: Trigger) -> Answer {
        let (role, answer) = self.next_role(now, trigger);
        if role != self.role {
            let before = std::mem::replace(&mut self.role, role);
            self.enter(now, before);
        }
        answer
    }

    /// The whole state machine: where a trigger leads, and what is answered to whoever pulled it.
    fn next_role(&self, now: Time, trigger: Trigger) -> (Role, Answer) {
        use Answer::{Already, Done, DrainInterrupted};
        let deadline = now + self.patience();
        let leave = |then| Role::Leaving { deadline, then };
        let part = |then| Role::Parting {
            goodbyes_left: announce::REPEATS,
            then,
        };
        let stay = self.role;
        match (self.role, trigger) {
            (Role::Stopped, Trigger::Start) => (Role::Active, Done),
            (Role::Stopped, Trigger::Stop) => (stay, Already),
            (Role::Stopped, Trigger::Drainstop { .. }) => (stay, Answer::Stopped),
            (Role::Stopped, Trigger::Suspend) => (Role::Suspended, Done),
            (Role::Stopped, Trigger::Resume) => (stay, Already),

            (Role::Suspended, Trigger::Start | Trigger::Stop | Trigger::Drainstop { .. }) => {
                (stay, Answer::Suspended)
            }
            (Role::Suspended, Trigger::Suspend) => (stay, Already),
            (Role::Suspended, Trigger::Resume) => (Role::Stopped, Done),

            (Role::Active, Trigger::Start) => (stay, Already),
            (Role::Active, Trigger::Stop) => (leave(Rest::Stopped), Done),
            (Role::Active, Trigger::Drainstop { until }) => (Role::Draining { until }, Done),
            (Role::Active, Trigger::Suspend) => (leave(Rest::Suspended), Answer::Stopped),
            (Role::Active, Trigger::Resume) => (stay, Already),

            (Role::Leaving { then, .. }, Trigger::Start) => match then {
                Rest::Stopped => (Role::Active, Done),
                Rest::Suspended => (stay, Answer::Suspended),
            },
            (Role::Leaving { then, .. }, Trigger::Stop) => match then {
                Rest::Stopped => (stay, Already),
                Rest::Suspended => (stay, Answer::Suspended),
            },
            (Role::Leaving { then, .. }, Trigger::Drainstop { .. }) => match then {
                Rest::Stopped => (stay, Answer::Stopped),
                Rest::Suspended => (stay, Answer::Suspended),
            },
            (Role::Leaving { deadline, then }, Trigger::Suspend) => match then {
                Rest::Stopped => {
                    let then = Rest::Suspended;
                    (Role::Leaving { deadline, then }, Answer::Stopped)
                }
                Rest::Suspended => (stay, Already),
            },
            (Role::Leaving { deadline, then }, Trigger::Resume) => match then {
                Rest::Stopped => (stay, Already),
                Rest::Suspended => {
                    let then = Rest::Stopped;
                    (Role::Leaving { deadline, then }, Done)
                }
            },
            (Role::Leaving { then, .. }, Trigger::HandedOver) => (part(then), Done),

            (Role::Draining { .. }, Trigger::Start) => (Role::Active, DrainInterrupted),
            (Role::Draining { .. }, Trigger::Stop) => (leave(Rest::Stopped), DrainInterrupted),
            (Role::Draining { until }, Trigger::Drainstop { until: sooner }) => {
                // A deadline can be brought forward, or set where there was none.
                let until = until.min(sooner);
                (Role::Draining { until }, Already)
            }
            (Role::Draining { .. }, Trigger::Suspend) => (leave(Rest::Suspended), DrainInterrupted),
            (Role::Draining { .. }, Trigger::Resume) => (stay, Already),
            (Role::Draining { .. }, Trigger::HandedOver) => (part(Rest::Stopped), Done),

            (Role::Parting { then, .. }, Trigger::Start) => match then {
                Rest::Stopped => (Role::Active, Done),
                Rest::Suspended => (stay, Answer::Suspended),
            },
            (Role::Parting { then, .. }, Trigger::Stop) => match then {
                Rest::Stopped => (stay, Already),
                Rest::Suspended => (stay, Answer::Suspended),
            },
            (Role::Parting { then, .. }, Trigger::Drainstop { .. }) => match then {
                Rest::Stopped => (stay, Answer::Stopped),
                Rest::Suspended => (stay, Answer::Suspended),
            },
            (
                Role::Parting {
                    goodbyes_left,
                    then,
                },
                Trigger::Suspend,
            ) => match then {
                Rest::Stopped => {
                    let then = Rest::Suspended;
                    (
                        Role::Parting {
                            goodbyes_left,
                            then,
                        },
                        Done,
                    )
                }
                Rest::Suspended => (stay, Already),
            },
            (
                Role::Parting {
                    goodbyes_left,
                    then,
                },
                Trigger::Resume,
            ) => match then {
                Rest::Stopped => (stay, Already),
                Rest::Suspended => {
                    let then = Rest::Stopped;
                    (
                        Role::Parting {
                            goodbyes_left,
                            then,
                        },
                        Done,
                    )
                }
            },
            (
                Role::Parting {
                    goodbyes_left,
                    then,
                },
                Trigger::GoodbyeSent,
            ) => {
                let goodbyes_left = goodbyes_left - 1;
                if goodbyes_left > 0 {
                    (
                        Role::Parting {
                            goodbyes_left,
                            then,
                        },
                        Done,
                    )
                } else {
                    (then.into(), Done)
                }
            }

            (Role::Stopped | Role::Suspended | Role::Active, Trigger::HandedOver)
            | (Role::Parting { .. }, Trigger::HandedOver)
            | (
                Role::Stopped
                | Role::Suspended
                | Role::Active
                | Role::Leaving { .. }
                | Role::Draining { .. },
                Trigger::GoodbyeSent,
            ) => (stay, Already),
        }
    }

    /// Longer than any agreement takes among hosts that hear each other.
    fn patience(&self) -> Duration {
        self.config.timing.expiry() * 3
    }

    /// When a host on its way out stops waiting: for its connections, and at last for a map without it. The time
    /// that an operator gives a drainstop may be shorter than the agreement that takes its buckets over.
    pub(super) fn departures(&self) -> impl Iterator<Item = Time> + use<> {
        let times = match self.role {
            Role::Leaving { deadline, .. } => [Some(deadline), None],
            Role::Draining { until } => [Some(until), Some(until + self.patience())],
            Role::Stopped | Role::Suspended | Role::Active | Role::Parting { .. } => [None, None],
        };
        times.into_iter().flatten()
    }

    /// Whether a host on its way out has waited long enough.
    pub(super) fn departs_by(&self, now: Time) -> bool {
        match self.role {
            Role::Leaving { deadline, .. } => now >= deadline,
            Role::Draining { until } => {
                now >= until && (!self.owns_buckets() || now >= until + self.patience())
            }
            Role::Stopped | Role::Suspended | Role::Active | Role::Parting { .. } => false,
        }
    }

    /// What a new role brings with it.
    fn enter(&mut self, now: Time, before: Role) {
        let host = self.config.host;
        if matches!(before, Role::Draining { .. })
            && matches!(self.role, Role::Active | Role::Leaving { .. })
        {
            self.emit(Event::DrainingInterrupted { host });
        }
        match (before, self.role) {
            (Role::Stopped | Role::Parting { .. }, Role::Active) => {
                self.join(now);
                self.emit(Event::Started { host });
            }
            (Role::Leaving { .. }, Role::Active) => self.emit(Event::LeavingInterrupted { host }),
            (Role::Active | Role::Draining { .. }, Role::Leaving { .. }) => {
                self.emit(Event::Leaving { host });
            }
            (Role::Active, Role::Draining { .. }) => {
                self.emit(Event::Draining { host });
                self.count_soon(now);
            }
            (Role::Leaving { .. } | Role::Draining { .. }, Role::Parting { .. }) => {
                self.handed_over = self.committed.as_ref().map(Prepared::name);
                self.stop_serving();
                self.count_now();
            }
            (Role::Parting { .. }, Role::Stopped) => self.rest(Event::Stopped { host }),
            (Role::Stopped | Role::Parting { .. }, Role::Suspended) => {
                self.rest(Event::Suspended { host });
            }
            (Role::Suspended, Role::Stopped) => self.emit(Event::Resumed { host }),
            _ => {}
        }
        if self.takes_part() || matches!(self.role, Role::Parting { .. }) {
            self.hurry(now);
        }
    }

    /// Begins to listen and to speak, as a host that nobody knows yet.
    fn join(&mut self, now: Time) {
        self.config.incarnation.0 = self.config.incarnation.0.wrapping_add(1);
        self.sequence = 0;
        self.sent.clear();
        self.peers = Peers::new();
        (self.rivals, self.odd_rules) = Default::default();
        (self.conflicts, self.flapping) = Default::default();
        self.generations = Generations::new(self.config.version);
        self.handed_over = None;
        self.heartbeats_blocked = false;
        self.asking_since = None;
        self.outlook = Outlook::default();
        self.lingering = Lingering::default();
        self.sticky = Sticky::default();
        (self.repeats, self.declined, self.last_announced) = (0, None, None);
        self.listening_since = now;
        (self.converging_since, self.times_converging) = (None, 0);
        self.set_converging(now);
        self.timers = TimerTable::default();
        self.timers.set(Timer::Heartbeat, now);
    }

    fn rest(&mut self, event: Event) {
        self.timers = TimerTable::default();
        self.lingering.open = None;
        self.emit(event);
    }
}

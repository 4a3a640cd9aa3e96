//! The host's own part in the cluster: stopped, taking part, leaving, saying goodbye.
//!
//! ```text
//!             Start                 Stop                      map without me
//!   Stopped --------> Active ----------------------> Leaving ----------------> Parting
//!      ^                 ^--------- Start --------------'                         |
//!      '------------------------------ three goodbyes ---------------------------'
//! ```
//!
//! A leaving host serves until a map without it is in force, so nothing is dark meanwhile.
//! Specification: docs/design.md, "Membership".

use super::convergence::Prepared;
use super::outlook::Outlook;
use super::peer::Peers;
use super::{Cluster, announce};
use crate::event::Event;
use crate::ids::HostSet;
use crate::time::{Time, Timer, TimerTable};

/// The host's own part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Stopped,
    Active,
    Leaving { deadline: Time },
    Parting { goodbyes_left: u8 },
}

/// What moves the host from one role to another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trigger {
    Start,
    Stop,
    HandedOver,
    GoodbyeSent,
}

impl Cluster {
    pub(super) fn change_role(&mut self, now: Time, trigger: Trigger) {
        let host = self.config.host;
        self.role = match (self.role, trigger) {
            (Role::Stopped, Trigger::Start) => {
                self.join(now);
                self.emit(Event::Started { host });
                Role::Active
            }
            (Role::Active, Trigger::Stop) => {
                self.emit(Event::Leaving { host });
                self.hurry(now);
                // Longer than any agreement takes among hosts that hear each other.
                Role::Leaving {
                    deadline: now + self.config.timing.expiry() * 3,
                }
            }
            (Role::Leaving { .. }, Trigger::Start) => {
                self.emit(Event::LeavingInterrupted { host });
                self.hurry(now);
                Role::Active
            }
            (Role::Leaving { .. }, Trigger::HandedOver) => {
                self.handed_over = self.committed.as_ref().map(Prepared::name);
                self.stop_serving();
                self.hurry(now);
                Role::Parting {
                    goodbyes_left: announce::REPEATS,
                }
            }
            (Role::Parting { goodbyes_left }, Trigger::GoodbyeSent) if goodbyes_left > 1 => {
                Role::Parting {
                    goodbyes_left: goodbyes_left - 1,
                }
            }
            (Role::Parting { .. }, Trigger::GoodbyeSent) => {
                self.timers = TimerTable::default();
                self.emit(Event::Stopped { host });
                Role::Stopped
            }
            (Role::Parting { .. }, Trigger::Start) => {
                self.join(now);
                self.emit(Event::Started { host });
                Role::Active
            }
            (role @ Role::Active, Trigger::Start | Trigger::HandedOver | Trigger::GoodbyeSent)
            | (role @ Role::Stopped, Trigger::Stop | Trigger::HandedOver | Trigger::GoodbyeSent)
            | (role @ Role::Leaving { .. }, Trigger::Stop | Trigger::GoodbyeSent)
            | (role @ Role::Parting { .. }, Trigger::Stop | Trigger::HandedOver) => role,
        };
    }

    /// Begins to listen and to speak, as a host that nobody knows yet.
    fn join(&mut self, now: Time) {
        self.config.incarnation.0 = self.config.incarnation.0.wrapping_add(1);
        self.sequence = 0;
        self.sent.clear();
        self.peers = Peers::new();
        self.rival_at = None;
        self.handed_over = None;
        self.heartbeats_blocked = false;
        self.asking_since = None;
        self.odd_hosts = HostSet::EMPTY;
        self.outlook = Outlook::default();
        (self.repeats, self.declined, self.last_announced) = (0, None, None);
        self.listening_since = now;
        (self.converging_since, self.times_converging) = (None, 0);
        self.set_converging(now);
        self.timers = TimerTable::default();
        self.timers.set(Timer::Heartbeat, now);
    }
}

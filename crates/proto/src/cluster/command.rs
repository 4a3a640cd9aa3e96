//! What an operator can ask of a host, and what the host answers: NLB's verbs and NLB's answers
//! (NLB facts §5.1, NLB cmdlets §2.2).
//!
//! Commands to the host go to its [`Role`]; commands to port rules are kept here. A rule that is not enabled on
//! a host has no weight there, so all of it follows from the next map: nothing else in the core knows of it.

use super::role::{Role, Trigger};
use super::{Cluster, Time};
use crate::event::Event;
use crate::rules::{Claim, PortRule, RuleSet};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// An operator's command.
#[derive(Clone, Debug)]
pub enum Command {
    /// Take part.
    Start,
    /// Leave: serve until the others have a map without this host, reset what connections are left, say goodbye.
    Stop,
    /// Leave as above, but say goodbye only when the last connection has ended.
    Drainstop {
        /// Reset what is left after this time.
        within: Option<Duration>,
    },
    /// Stop, and ignore every command but [`Command::Resume`].
    Suspend,
    /// Heed commands again; the host stays stopped.
    Resume,
    /// Change how this host handles the traffic of port rules.
    Rules {
        /// How.
        change: RuleChange,
        /// Of which.
        scope: RuleScope,
    },
    /// Offer other rules and claims; they bind when all members offer the same.
    Reload {
        /// The rules.
        rules: Arc<RuleSet>,
        /// One claim per rule.
        claims: Vec<Claim>,
    },
}

/// NLB's port control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleChange {
    /// Take a share again.
    Enable,
    /// Take no share, and reset the connections there are.
    Disable,
    /// Take no share, and let the connections end.
    Drain,
}

/// Which rules a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleScope {
    /// Rules for which virtual IP.
    pub vip: VipScope,
    /// The rule that holds this port; `None` for all rules.
    pub port: Option<u16>,
}

/// NLB's way of naming rules by virtual IP (NLB cmdlets §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipScope {
    /// Whatever virtual IP a rule is for (0.0.0.0).
    Every,
    /// Rules that are for no virtual IP in particular (255.255.255.255).
    Common,
    /// Rules for this virtual IP.
    One(IpAddr),
}

impl RuleScope {
    /// Whether a rule for this virtual IP (`None`: for all) and these ports is meant.
    pub fn covers(&self, vip: Option<IpAddr>, ports: RangeInclusive<u16>) -> bool {
        let vip_fits = match self.vip {
            VipScope::Every => true,
            VipScope::Common => vip.is_none(),
            VipScope::One(meant) => vip == Some(meant),
        };
        vip_fits && self.port.is_none_or(|port| ports.contains(&port))
    }
}

/// NLB's state of a port rule on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// The host takes its share.
    Enabled,
    /// The host takes nothing.
    Disabled,
    /// The host takes no new connections, and finishes those it has.
    Draining,
}

/// What a host answers to a command: NLB's codes (NLB cmdlets §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, or begun.
    Done,
    /// The host, or the rules, were in that state already.
    Already,
    /// Done, and a drainstop was interrupted by it.
    DrainInterrupted,
    /// Not done: the host is stopped. (To suspend: done, and the host was stopped by it.)
    Stopped,
    /// Not done: the host is suspended.
    Suspended,
    /// Not done: the host is draining.
    Draining,
    /// Not done: there is no such rule.
    NotFound,
}

impl Answer {
    /// WMI's return value.
    pub const fn code(self) -> u16 {
        match self {
            Self::Done => 1000,
            Self::Already => 1001,
            Self::DrainInterrupted => 1002,
            Self::NotFound => 1004,
            Self::Stopped => 1005,
            Self::Draining => 1009,
            Self::Suspended => 1013,
        }
    }

    /// WMI's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "WLBS_OK",
            Self::Already => "WLBS_ALREADY",
            Self::DrainInterrupted => "WLBS_DRAIN_STOP",
            Self::NotFound => "WLBS_NOT_FOUND",
            Self::Stopped => "WLBS_STOPPED",
            Self::Draining => "WLBS_DRAINING",
            Self::Suspended => "WLBS_SUSPENDED",
        }
    }
}

/// The rules that this host does not take its share of, by [`PortRule::fingerprint`].
#[derive(Clone, Debug, Default)]
pub(super) struct PortStates(BTreeMap<u32, PortState>);

impl PortStates {
    pub(super) fn new(states: &[(u32, PortState)]) -> Self {
        let held_back = states
            .iter()
            .filter(|(_, state)| *state != PortState::Enabled);
        Self(held_back.copied().collect())
    }

    pub(super) fn of(&self, rule: &PortRule) -> PortState {
        let state = self.0.get(&rule.fingerprint());
        state.copied().unwrap_or(PortState::Enabled)
    }

    fn set(&mut self, rule: &PortRule, state: PortState) {
        match state {
            PortState::Enabled => self.0.remove(&rule.fingerprint()),
            PortState::Disabled | PortState::Draining => self.0.insert(rule.fingerprint(), state),
        };
    }

    /// What is left of this host's claims.
    pub(super) fn apply(&self, rules: &RuleSet, claims: &[Claim]) -> Vec<Claim> {
        let pairs = rules.rules().iter().zip(claims);
        pairs
            .map(|(rule, claim)| match self.of(rule) {
                PortState::Enabled => *claim,
                PortState::Disabled | PortState::Draining => Claim::NOTHING,
            })
            .collect()
    }

    /// The rules that are not enabled.
    fn held_back(&self) -> Vec<(u32, PortState)> {
        self.0.iter().map(|(rule, state)| (*rule, *state)).collect()
    }

    pub(super) fn any_draining(&self) -> bool {
        self.0.values().any(|state| *state == PortState::Draining)
    }
}

impl Cluster {
    /// Carries out an operator's command, as far as it can be carried out. Drain [`Self::poll_output`] afterwards.
    pub fn command(&mut self, now: Time, command: Command) -> Answer {
        self.begin(now);
        let answer = match command {
            Command::Start => self.change_role(now, Trigger::Start),
            Command::Stop => self.change_role(now, Trigger::Stop),
            Command::Drainstop { within } => {
                let until = within.map_or(Time::NEVER, |within| now + within);
                self.change_role(now, Trigger::Drainstop { until })
            }
            Command::Suspend => self.change_role(now, Trigger::Suspend),
            Command::Resume => self.change_role(now, Trigger::Resume),
            Command::Rules { change, scope } => self.change_rules(now, change, scope),
            Command::Reload { rules, claims } => {
                debug_assert_eq!(claims.len(), rules.rules().len());
                let known = self.macs();
                (self.offered, self.offered_claims) = (rules, claims);
                if self.macs() != known {
                    self.amend();
                }
                self.emit(Event::Reloaded);
                self.hurry(now);
                Answer::Done
            }
        };
        self.review(now);
        answer
    }

    /// The port rules that are not enabled on this host, as [`crate::config::ClusterConfig::port_states`] takes
    /// them: of rules that are not offered any more too.
    pub fn port_states(&self) -> Vec<(u32, PortState)> {
        self.port_states.held_back()
    }

    fn change_rules(&mut self, now: Time, change: RuleChange, scope: RuleScope) -> Answer {
        match self.role {
            Role::Active => {}
            Role::Draining { .. } => return Answer::Draining,
            Role::Suspended => return Answer::Suspended,
            Role::Stopped | Role::Leaving { .. } | Role::Parting { .. } => return Answer::Stopped,
        }
        let wanted = match change {
            RuleChange::Enable => PortState::Enabled,
            RuleChange::Disable => PortState::Disabled,
            RuleChange::Drain => PortState::Draining,
        };
        let rules = Arc::clone(&self.offered);
        let meant = |rule: &&PortRule| scope.covers(rule.vip, rule.start..=rule.end);
        let covered = || rules.rules().iter().filter(meant);
        if covered().next().is_none() {
            return Answer::NotFound;
        }
        let done = |state: PortState| {
            // What has been drained is disabled.
            state == wanted || (wanted == PortState::Draining && state == PortState::Disabled)
        };
        if covered().all(|rule| done(self.port_states.of(rule))) {
            return Answer::Already;
        }
        for rule in covered() {
            if !done(self.port_states.of(rule)) {
                self.port_states.set(rule, wanted);
            }
        }
        self.emit(Event::RulesChanged {
            change,
            port: scope.port,
        });
        self.amend();
        self.count_soon(now);
        self.hurry(now);
        Answer::Done
    }

    /// A rule that drains is disabled when its last connection here has ended.
    pub(super) fn end_draining_rules(&mut self, still_used: impl Fn(&PortRule) -> bool) {
        let rules = Arc::clone(&self.offered);
        for rule in rules.rules() {
            if self.port_states.of(rule) == PortState::Draining && !still_used(rule) {
                self.port_states.set(rule, PortState::Disabled);
                self.emit(Event::RuleDrained { port: rule.start });
            }
        }
    }
}

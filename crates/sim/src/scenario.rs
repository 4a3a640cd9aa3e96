//! What happens in a run, as data: hosts, timing, load, timed steps and what is expected. A named scenario is a
//! TOML file of this shape (`scenarios/`), a random one is drawn from a seed (`random.rs`), and a failing one is
//! made smaller by leaving parts of it out (`shrink.rs`).
//!
//! ```toml
//! about = "One of three hosts loses power."
//! hosts = 3
//! period = "100ms"
//! tolerance = 5
//! lasts = "5s"
//!
//! [[step]]
//! at = "2s"
//! do = "crash"
//! host = 3
//!
//! [[expect]]
//! from = "2s"
//! within = "600ms"
//! what = "converged"
//! hosts = [1, 2]
//! ```

use crate::faults::LinkFault;
use crate::span::Span;
use serde::{Deserialize, Serialize};

/// A whole run, but for its seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// What it shows, in a sentence or two.
    pub about: String,
    /// Hosts 1..=hosts. They start together at the beginning, but for those in `later`.
    pub hosts: u8,
    /// Hosts that a step starts.
    pub later: Vec<u8>,
    /// Further machines with the ID of another host; numbered after the hosts, off until a step starts them.
    pub twins: Vec<u8>,
    /// Hosts that speak a later version of the protocol.
    pub newer: Vec<u8>,
    /// Hosts that only speak the EtherType of the previous generation.
    pub legacy: Vec<u8>,
    /// Hosts with another key than the rest.
    pub other_key: Vec<u8>,
    /// Hosts without a key (`auth = "none"`).
    pub unsigned: Vec<u8>,
    /// Hosts that are set to multicast mode; the rest are set to unicast mode.
    pub multicast: Vec<u8>,
    /// The port rules that hosts begin with, a number for [`crate::site::rules`].
    pub rules: u8,
    /// The hosts' handling priorities for single-host rules, host by host; the rest have their own numbers.
    pub priorities: Vec<u8>,
    /// Heartbeat period.
    pub period: Span,
    /// Heartbeat tolerance, in periods.
    pub tolerance: u16,
    /// Only more than half of this many hosts may serve; 0: each part of a split serves.
    pub quorum: u8,
    /// Whether hosts that cannot broadcast to each other go on by unicast.
    pub unicast_fallback: bool,
    /// Time that every frame travels.
    pub latency: Span,
    /// Time that a frame travels longer, at most; drawn for each.
    pub jitter: Span,
    /// How fast the hosts' clocks run, in parts per million, host by host; the rest are exact.
    pub skew: Vec<i32>,
    /// How long the run is.
    pub lasts: Span,
    /// What clients do.
    pub load: Load,
    /// What is done to the cluster, in order of time.
    #[serde(rename = "step", skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// What must come of it, beyond the invariants.
    #[serde(rename = "expect", skip_serializing_if = "Vec::is_empty")]
    pub expectations: Vec<Expectation>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            about: String::new(),
            hosts: 3,
            later: Vec::new(),
            twins: Vec::new(),
            newer: Vec::new(),
            legacy: Vec::new(),
            other_key: Vec::new(),
            unsigned: Vec::new(),
            multicast: Vec::new(),
            rules: 0,
            priorities: Vec::new(),
            period: Span::millis(100),
            tolerance: 5,
            quorum: 0,
            unicast_fallback: true,
            latency: Span(std::time::Duration::from_micros(100)),
            jitter: Span(std::time::Duration::from_micros(50)),
            skew: Vec::new(),
            lasts: Span::millis(5000),
            load: Load::default(),
            steps: Vec::new(),
            expectations: Vec::new(),
        }
    }
}

/// What clients do, all together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    /// Number of clients; each has an address of its own.
    pub clients: u8,
    /// Connections that all clients together open in a second.
    pub connections: u32,
    /// Datagrams that they send in a second.
    pub datagrams: u32,
    /// How long a connection stays open, at most; drawn for each.
    pub holds: Span,
    /// Requests on a connection, at most, spread over that time; drawn for each.
    pub requests: u8,
    /// When they begin. The time that the hosts need to converge is not counted against them.
    pub from: Span,
    /// When they stop to open connections and to send datagrams; the end of the run if not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Span>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            clients: 4,
            connections: 20,
            datagrams: 10,
            holds: Span::millis(2000),
            requests: 4,
            from: Span::millis(1500),
            until: None,
        }
    }
}

/// Something that is done at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// When, from the beginning of the run; with `when`, not before.
    pub at: Span,
    /// What to wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Moment>,
    /// What.
    #[serde(flatten)]
    pub action: Action,
}

/// A moment in a convergence that no schedule can hit by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Moment {
    /// This host has just sent a heartbeat with a proposal.
    Proposes(u8),
    /// This host has just sent a heartbeat with an acknowledgement.
    Acknowledges(u8),
    /// This host has just put a map into force and has not told anyone.
    Commits(u8),
}

/// What can be done. Hosts are named by their numbers: 1..=hosts, then the twins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// A machine loses power: its kernel forgets everything.
    Crash {
        /// Which.
        host: u8,
    },
    /// A daemon dies; the machine's data path lives on.
    Kill {
        /// Whose.
        host: u8,
    },
    /// A machine is switched on, if it was off, and its daemon started anew.
    Restart {
        /// Which.
        host: u8,
    },
    /// A machine loses power and comes back, again and again.
    Flap {
        /// Which.
        host: u8,
        /// How often.
        times: u8,
        /// From one crash to the next; half of it the machine is off.
        every: Span,
    },
    /// A daemon does not run for a while. Its frames wait for it.
    Stall {
        /// Whose.
        host: u8,
        /// How long.
        #[serde(rename = "for")]
        lasting: Span,
        /// When it wakes, its timers fire before it reads what has arrived.
        #[serde(default)]
        timers_first: bool,
    },
    /// A clock runs faster or slower from now on.
    Skew {
        /// Whose.
        host: u8,
        /// Parts per million that it gains.
        ppm: i32,
    },
    /// A network card loses its link.
    Unplug {
        /// Whose.
        host: u8,
        /// How long.
        #[serde(rename = "for")]
        lasting: Span,
    },
    /// Links misbehave.
    Link {
        /// How.
        fault: LinkFault,
        /// How long.
        #[serde(rename = "for")]
        lasting: Span,
    },
    /// Somebody sends recorded heartbeats again.
    Replay {
        /// Whose.
        host: u8,
        /// How long ago they were sent.
        age: Span,
        /// How many.
        count: u32,
    },
    /// Operator: take part.
    Start {
        /// Which host.
        host: u8,
    },
    /// Operator: leave, and reset what connections are left.
    Stop {
        /// Which host.
        host: u8,
    },
    /// Operator: leave, and stop when the last connection has ended.
    Drainstop {
        /// Which host.
        host: u8,
        /// Reset what is left after this time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within: Option<Span>,
    },
    /// Operator: stop, and heed nothing but resume.
    Suspend {
        /// Which host.
        host: u8,
    },
    /// Operator: heed commands again.
    Resume {
        /// Which host.
        host: u8,
    },
    /// Operator: change how a host handles the rule for [`crate::site::SHORT`].
    Port {
        /// Which host.
        host: u8,
        /// How.
        change: PortChange,
    },
    /// Operator: another load weight for all rules.
    Weight {
        /// Which host.
        host: u8,
        /// 0..=100.
        weight: u8,
    },
    /// Operator: other port rules, a number for [`crate::site::rules`].
    Rules {
        /// Which rules.
        set: u8,
        /// On which hosts; all if none is named.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hosts: Vec<u8>,
    },
    /// Operator: another mode.
    Mode {
        /// Which mode.
        mode: Mode,
        /// On which hosts; all if none is named.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hosts: Vec<u8>,
    },
}

/// How frames reach the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// As the cluster MAC of one NIC that nobody has.
    Unicast,
    /// As a group's.
    Multicast,
    /// As that of an IP multicast group.
    Igmp,
}

/// What can be done to a port rule on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortChange {
    /// It takes a share again.
    Enable,
    /// It takes no share, and resets its connections.
    Disable,
    /// It takes no share, and lets its connections end.
    Drain,
}

/// Something that must be so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expectation {
    /// From when on; the beginning if not said.
    #[serde(default)]
    pub from: Span,
    /// For or within how long; until the end if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What can be expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum What {
    /// At some time, these hosts are converged with each other and with nobody else.
    Converged {
        /// Which.
        hosts: Vec<u8>,
    },
    /// All the time, these hosts are converged with each other and with nobody else.
    Stays {
        /// Which.
        hosts: Vec<u8>,
    },
    /// All the time, these hosts take nothing.
    Silent {
        /// Which.
        hosts: Vec<u8>,
    },
    /// At some time, a host takes so much of the traffic.
    Share {
        /// Which.
        host: u8,
        /// At least so much.
        from_percent: u8,
        /// At most so much.
        to_percent: u8,
    },
    /// All the time, new web connections of each client go to the host to which they went at the beginning.
    Sticks {},
    /// At some time, new web connections of some client go to another host than at the beginning.
    Moves {},
    /// A host reports this, at least once.
    Event {
        /// The event's number.
        id: u16,
        /// Which host; any if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<u8>,
    },
    /// No host reports this.
    NoEvent {
        /// The event's number.
        id: u16,
        /// Which host; any if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<u8>,
    },
    /// No part of the traffic is without a host for longer than this.
    Dark {
        /// How long.
        most: Span,
    },
    /// So many established connections break, at most.
    Broken {
        /// How many.
        most: u32,
    },
    /// A host refuses frames for this reason, at least once.
    Rejected {
        /// Which host.
        host: u8,
        /// The reason's label.
        reason: String,
    },
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// What is wrong with it, with line and column where there is one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scenario: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The scenario as a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every value of a scenario has a TOML form")
    }

    /// Hosts and twins.
    pub fn machines(&self) -> u8 {
        self.hosts + self.twins.len() as u8
    }

    fn check(&self) -> Result<(), String> {
        let known = |host: u8| (1..=self.machines()).contains(&host);
        if !(1..=64).contains(&self.hosts) || self.machines() > 66 {
            return Err("hosts must be 1 to 64, and twins two at most".to_owned());
        }
        if self.tolerance < 3 || self.period.0.is_zero() {
            return Err("tolerance must be at least 3, and period more than nothing".to_owned());
        }
        if self.rules >= crate::site::RULE_SETS {
            return Err(format!(
                "there are no rules {}: they are numbered from 0 to {}",
                self.rules,
                crate::site::RULE_SETS - 1
            ));
        }
        let special = [
            &self.later,
            &self.twins,
            &self.newer,
            &self.legacy,
            &self.other_key,
            &self.unsigned,
            &self.multicast,
        ];
        let hosts = special.into_iter().flatten().copied();
        let acted_on = self.steps.iter().flat_map(|step| step.action.hosts());
        let watched = self
            .expectations
            .iter()
            .flat_map(|expectation| expectation.what.hosts());
        match hosts
            .chain(acted_on)
            .chain(watched)
            .find(|host| !known(*host))
        {
            Some(host) => Err(format!(
                "there is no host {host}: this scenario has {} machines",
                self.machines()
            )),
            None => Ok(()),
        }
    }
}

impl What {
    /// The hosts that it names.
    pub fn hosts(&self) -> Vec<u8> {
        match self {
            Self::Converged { hosts } | Self::Stays { hosts } | Self::Silent { hosts } => {
                hosts.clone()
            }
            Self::Share { host, .. } | Self::Rejected { host, .. } => vec![*host],
            Self::Event { host, .. } | Self::NoEvent { host, .. } => host.iter().copied().collect(),
            Self::Sticks {} | Self::Moves {} | Self::Dark { .. } | Self::Broken { .. } => {
                Vec::new()
            }
        }
    }
}

impl Action {
    /// The hosts that it names.
    pub fn hosts(&self) -> Vec<u8> {
        match self {
            Self::Crash { host }
            | Self::Kill { host }
            | Self::Restart { host }
            | Self::Flap { host, .. }
            | Self::Stall { host, .. }
            | Self::Skew { host, .. }
            | Self::Unplug { host, .. }
            | Self::Replay { host, .. }
            | Self::Start { host }
            | Self::Stop { host }
            | Self::Drainstop { host, .. }
            | Self::Suspend { host }
            | Self::Resume { host }
            | Self::Port { host, .. }
            | Self::Weight { host, .. } => vec![*host],
            Self::Link { fault, .. } => fault.hosts(),
            Self::Rules { hosts, .. } | Self::Mode { hosts, .. } => hosts.clone(),
        }
    }

    /// Whether an operator may do this at any time without harm (promise 2).
    pub const fn is_planned(&self) -> bool {
        match self {
            Self::Start { .. }
            | Self::Stop { .. }
            | Self::Drainstop { .. }
            | Self::Suspend { .. }
            | Self::Resume { .. }
            | Self::Port { .. }
            | Self::Weight { .. }
            | Self::Rules { .. }
            | Self::Mode { .. } => true,
            Self::Crash { .. }
            | Self::Kill { .. }
            | Self::Restart { .. }
            | Self::Flap { .. }
            | Self::Stall { .. }
            | Self::Skew { .. }
            | Self::Unplug { .. }
            | Self::Link { .. }
            | Self::Replay { .. } => false,
        }
    }
}

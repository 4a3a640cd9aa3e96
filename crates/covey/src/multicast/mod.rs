//! The cluster's IP multicast groups. In IGMP mode the cluster MAC belongs to one, and switches that snoop forward it to
//! its members alone; so this host is a member, by the kernel's own IGMP, which answers every query after a random
//! time within the querier's limit. Besides that it watches whether there is a querier, reports unasked if that is
//! wanted, and announces itself as a multicast router where switches look at the destination IP.
//!
//! ```text
//!   igmp, mld   messages as bytes          agent     what is to be said when, without I/O
//!   sockets     raw sockets, membership    Multicast all of it, for the daemon's loop
//! ```
//!
//! Used by the daemon. Specification: docs/design.md, "IP multicast groups"; KB838408 is what happens without it.

mod agent;
mod igmp;
mod mld;
mod sockets;

pub use agent::Notice;

use crate::daemon::now;
use agent::{ADVERTISE_EVERY, Action, Agent, Input, Watch};
use anyhow::{Context, Result};
use covey_proto::event::Severity;
use covey_proto::time::Time;
use serde::{Deserialize, Serialize};
use sockets::{Igmp, Mld};
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// How long no query may be heard: with the times of the RFCs a switch forgets a member that it has not heard for twice
/// the interval of queries, 125 s, and the 10 s within which it answers.
pub const QUERIER_TIMEOUT: Duration = Duration::from_secs(260);

/// What a host is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The groups that cluster MACs belong to; none except in IGMP mode.
    pub groups: Vec<Ipv4Addr>,
    /// Time between reports that nobody has asked for.
    pub report_interval: Option<Duration>,
    /// After how long without a query people are told.
    pub querier_timeout: Duration,
    /// Whether it announces itself as a multicast router.
    pub announce: bool,
    /// Whether the cluster has IPv6 addresses.
    pub ipv6: bool,
}

impl Settings {
    fn advertises(&self, family: Family) -> bool {
        self.announce
            && match family {
                Family::V4 => true,
                Family::V6 => self.ipv6,
            }
    }
}

/// IGMP or MLD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// A question to the members of groups or to routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    WhoListens(Query),
    WhoRoutes,
}

/// What a querier says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Of IGMP or MLD.
    pub version: Version,
    /// Members answer within this time.
    pub within: Duration,
    /// How often it asks, if it says so.
    pub every: Option<Duration>,
}

/// A version of IGMP; MLD has the first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// RFC 1112, RFC 2710.
    V1,
    /// RFC 2236, RFC 3810.
    V2,
    /// RFC 3376.
    V3,
}

impl Version {
    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Querier {
    /// Its address; unspecified of a switch that has none.
    pub from: IpAddr,
    /// What it says.
    pub query: Query,
}

impl fmt::Display for Querier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from.is_unspecified() {
            f.write_str("a switch without an address")?;
        } else {
            write!(f, "{}", self.from)?;
        }
        write!(f, " (IGMP version {})", self.query.version.number())
    }
}

/// What one daemon leaves to the next that takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inheritance {
    /// Since when no query has been heard, microseconds of CLOCK_MONOTONIC.
    silent_since_us: u64,
    /// Whether that has been told.
    told: bool,
}

/// This host's part in the cluster's groups. Dropping it leaves them, and takes back what was announced.
pub struct Multicast {
    name: String,
    link_up: bool,
    /// What there was to tell at another moment.
    untold: Vec<Notice>,
    agent: Agent,
    igmp: Igmp,
    mld: Option<Mld>,
}

impl Multicast {
    /// Joins. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the kernel refuses a socket or a group.
    pub fn open(interface: &str, index: u32, settings: Settings) -> Result<Self> {
        let multicast = Self {
            igmp: Igmp::open(interface, index)?,
            mld: settings
                .ipv6
                .then(|| Mld::open(interface, index))
                .transpose()?,
            agent: Agent::new(settings, now()),
            name: interface.to_owned(),
            link_up: true,
            untold: Vec::new(),
        };
        multicast.join(multicast.agent.settings())?;
        Ok(multicast)
    }

    /// Goes on where the daemon before was.
    pub const fn resume(&mut self, before: Inheritance) {
        self.agent.resume(Watch {
            since: Time::from_micros(before.silent_since_us),
            told: before.told,
        });
    }

    /// What the next daemon is to know.
    pub const fn inheritance(&self) -> Inheritance {
        let watch = self.agent.watch();
        Inheritance {
            silent_since_us: watch.since.as_micros(),
            told: watch.told,
        }
    }

    /// The socket that is the membership: as long as somebody has it open, nothing is left.
    pub fn membership(&self) -> BorrowedFd<'_> {
        self.igmp.as_fd()
    }

    /// Does something else from now on: joins what is new at once, and leaves what is no longer wanted after a while.
    ///
    /// # Errors
    /// If the kernel refuses a group; then the host stays in those that it is in.
    pub fn follow(&mut self, settings: Settings) -> Result<()> {
        self.join(&settings)?;
        let actions = self.agent.follow(settings, now());
        self.carry_out(actions);
        Ok(())
    }

    /// The state of the link. When it comes back the switch may have forgotten what it knew of this port, and the kernel
    /// says nothing by itself unless the interface was switched off.
    pub fn link(&mut self, up: bool) {
        if up && !std::mem::replace(&mut self.link_up, up) {
            self.show();
        }
        self.link_up = up;
    }

    /// Says at once, and once more, that this host is a member: the switch may have forgotten it.
    pub fn show(&mut self) {
        let actions = self.agent.handle(now(), Input::Forgotten, random);
        let notices = self.carry_out(actions);
        self.untold.extend(notices);
    }

    /// Does what is due and hears what is asked, until there is something to tell. Safe to cancel.
    ///
    /// # Errors
    /// If a socket fails.
    pub async fn told(&mut self) -> std::io::Result<Vec<Notice>> {
        if !self.untold.is_empty() {
            return Ok(std::mem::take(&mut self.untold));
        }
        loop {
            let deadline = self.agent.deadline();
            let wait = tokio::time::sleep(deadline.since(now()));
            let input = tokio::select! {
                asked = self.igmp.asked() => {
                    let (from, asked) = asked?;
                    Input::Asked(Family::V4, from, asked)
                }
                asked = asked_in_ipv6(self.mld.as_ref()) => {
                    let (from, asked) = asked?;
                    Input::Asked(Family::V6, from, asked)
                }
                () = wait => Input::Timer,
            };
            let actions = self.agent.handle(now(), input, random);
            let told = self.carry_out(actions);
            if !told.is_empty() {
                return Ok(told);
            }
        }
    }

    /// What it does.
    pub const fn settings(&self) -> &Settings {
        self.agent.settings()
    }

    /// Who has asked last, and how long ago: by IGMP, and by MLD.
    pub fn queriers(&self) -> [Option<(Duration, Querier)>; 2] {
        let now = now();
        Family::ALL.map(|family| {
            let heard = self.agent.querier(family);
            heard.map(|(at, querier)| (now.since(at), querier))
        })
    }

    /// For how long no IGMP query has been heard, if one should be.
    pub fn silent(&self) -> Option<Duration> {
        let watched = !self.agent.settings().groups.is_empty();
        watched.then(|| now().since(self.agent.watch().since))
    }

    fn join(&self, settings: &Settings) -> Result<()> {
        for group in &settings.groups {
            let joined = self.igmp.join(*group);
            joined.with_context(|| format!("cannot join group {group} on {}", self.name))?;
        }
        if settings.announce {
            // Who wants to know of routers asks all of them.
            let joined = self.igmp.join(igmp::ALL_ROUTERS);
            joined.with_context(|| format!("cannot listen to all routers on {}", self.name))?;
            if let Some(mld) = &self.mld {
                let joined = mld.join(mld::ALL_ROUTERS);
                joined.with_context(|| format!("cannot listen to all routers on {}", self.name))?;
            }
        }
        Ok(())
    }

    /// Does what the agent wants, and returns what is to be told.
    fn carry_out(&self, actions: Vec<Action>) -> Vec<Notice> {
        let mut notices = Vec::new();
        for action in actions {
            match action {
                Action::Report(group, version) => {
                    let (to, message) = igmp::report(group, version);
                    self.igmp.send(to, &message);
                }
                Action::Advertise(Family::V4) => {
                    let message = igmp::advertisement(ADVERTISE_EVERY);
                    self.igmp.send(igmp::ALL_SNOOPERS, &message);
                }
                Action::Retire(Family::V4) => {
                    self.igmp.send(igmp::ALL_SNOOPERS, &igmp::termination());
                }
                Action::Advertise(Family::V6) => {
                    self.send_mld(&mld::advertisement(ADVERTISE_EVERY));
                }
                Action::Retire(Family::V6) => self.send_mld(&mld::termination()),
                Action::Leave(group) => {
                    if let Err(error) = self.igmp.leave(group) {
                        tracing::warn!("group {group} cannot be left on {}: {error}", self.name);
                    }
                }
                Action::Tell(notice) => notices.push(notice),
            }
        }
        notices
    }

    fn send_mld(&self, message: &[u8]) {
        if let Some(mld) = &self.mld {
            mld.send(mld::ALL_SNOOPERS, message);
        }
    }
}

impl Drop for Multicast {
    fn drop(&mut self) {
        let nothing = Settings {
            groups: Vec::new(),
            announce: false,
            ..self.agent.settings().clone()
        };
        let actions = self.agent.follow(nothing, now());
        self.carry_out(actions);
    }
}

async fn asked_in_ipv6(mld: Option<&Mld>) -> std::io::Result<(IpAddr, Asked)> {
    match mld {
        Some(mld) => mld.asked().await,
        None => std::future::pending().await,
    }
}

/// A time from zero to this. That hosts do not speak all at once takes no secret: the keys of std's hash maps will do.
fn random(longest: Duration) -> Duration {
    let drawn = RandomState::new().build_hasher().finish();
    longest.mul_f64(drawn as f64 / u64::MAX as f64)
}

impl Notice {
    /// The number of its event.
    pub const fn id(&self) -> u16 {
        match self {
            Self::NoQuerier(_) => 1106,
            Self::Querier(_) => 1107,
        }
    }

    /// How much it matters.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::NoQuerier(_) => Severity::Warning,
            Self::Querier(_) => Severity::Info,
        }
    }

    /// What people are told.
    pub fn tell(&self, settings: &Settings) -> String {
        match self {
            Self::NoQuerier(silent) => {
                let groups: Vec<String> = settings.groups.iter().map(Ipv4Addr::to_string).collect();
                let advice = match settings.report_interval {
                    Some(interval) => format!(
                        "this host reports by itself every {}, which keeps it known to switches that learn without a querier",
                        crate::duration::format(interval)
                    ),
                    None => "switch on an IGMP querier on the segment, or set cluster.igmp_report_interval = \"60s\""
                        .to_owned(),
                };
                format!(
                    "no IGMP query has been heard for {}: nobody asks who is in group {}, so a switch that snoops forgets \
                     this host and sends it nothing more; {advice}",
                    crate::duration::format(Duration::from_secs(silent.as_secs())),
                    groups.join(" or ")
                )
            }
            Self::Querier(querier) => {
                format!("IGMP queries are heard again, from {querier}")
            }
        }
    }
}

//! One host's part in the cluster: a state machine without I/O.
//!
//! The contract (docs/design.md, "Layout"): after every [`Cluster::handle_input`], drain
//! [`Cluster::poll_output`] until it says [`Output::Wait`]. The caller owns sockets, clock and data path.
//! Frames that have arrived are handed in before [`Input::Timer`], so that a host that was stopped for a
//! while reads what the others said before it finds them overdue.
//!
//! ```text
//!                frames      timers      commands
//!                   \           |           /
//!   hearing.rs  what a frame changes             lease.rs     until when may I serve?
//!   peer.rs  who is believed, who is alive       isolation.rs nobody is heard: what now?
//!   view.rs  who hears whom                      flapping.rs  who is lost again and again
//!   outlook.rs  which view, which coordinator, which rules
//!   convergence.rs  propose, acknowledge, commit               transfer.rs  a map for a host that lacks it
//!   prepared.rs  the map that follows from a proposal
//!   lingering.rs connections that stay where they were opened    orphans.rs those that nobody has any more
//!   sticky.rs    buckets that stay
//!   readdressing.rs   mode and cluster MAC, and those from before
//!   command.rs, role.rs   what the operator asks: taking part, draining, leaving
//!   announce.rs  what I tell the others          lateness.rs  how late I am myself
//!   rival.rs, conflict.rs, odd.rs, strangers.rs  what keeps hosts from being one cluster, by name
//!   legacy.rs    how those of other generations are spoken to
//!   probing.rs   what can be found out about the segment
//!   export.rs    the same host in another daemon
//!   snapshot.rs, trouble.rs   how it stands, and what is wrong, for people
//! ```

mod announce;
mod command;
mod conflict;
mod convergence;
mod export;
mod flapping;
mod hearing;
mod isolation;
mod lateness;
mod lease;
mod legacy;
mod lingering;
mod odd;
mod orphans;
mod outlook;
mod peer;
mod prepared;
mod probing;
mod readdressing;
mod rival;
mod role;
mod snapshot;
mod sticky;
mod strangers;
mod transfer;
mod trouble;
mod view;

pub use command::{Answer, Command, PortState, RuleChange, RuleScope, VipScope};
pub use export::{EXPORT_FORMAT, ImportError};
pub use lingering::Connection;
pub use probing::Claimant;
pub use snapshot::{HostState, MemberSnapshot, NetworkSnapshot, Snapshot};
pub use trouble::{Exclusion, Late, Troubles, Twins};

use crate::buckets::BucketSet;
use crate::config::ClusterConfig;
use crate::datapath::{Identity, Image};
use crate::event::Event;
use crate::ids::{Digest, Epoch, HostSet};
use crate::rules::{Claim, RuleSet};
use crate::time::{Time, Timer, TimerTable};
use crate::wire::Reject;
use crate::wire::heartbeat::{Announced, Ballot, Base, CommittedMap, Ends, MAX_FINDINGS};
use command::PortStates;
use conflict::Conflicts;
use covey_filter::Token;
use flapping::Flapping;
use lateness::Lateness;
use lease::SentLog;
use legacy::Generations;
use lingering::Lingering;
use odd::OddRules;
use orphans::Inquiries;
use outlook::Outlook;
use peer::Peers;
use prepared::{Claims, Prepared};
use probing::Probing;
use readdressing::Readdressing;
use rival::Rivals;
use role::{Role, Trigger};
use std::collections::VecDeque;
use std::sync::Arc;
use sticky::Sticky;
use strangers::Strangers;
use transfer::Transfer;

/// What the world tells the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// A frame arrived: EtherType 0x886F or 0xBF01, an ARP reply or gratuitous ARP, or a probe that the filter has handed
    /// over ([`ethernet::PROBE`](crate::wire::ethernet::PROBE)). Anything else is ignored.
    Frame(&'a [u8]),
    /// The time that [`Output::Wait`] named has come (or any other time).
    Timer,
    /// This host has sent SYN cookies since it was asked last: clients may complete handshakes of which it knows
    /// nothing. Handed in before [`Input::Connections`].
    CookiesSent,
    /// In which buckets the sticky rules with these numbers (from 1) have had traffic within their time; given before
    /// [`Input::Connections`].
    Seen(&'a [(u8, BucketSet)]),
    /// The TCP sockets that are bound to virtual IPs and have a client, after [`Output::CountConnections`].
    Connections(&'a [Connection]),
    /// The data path has seen the token of [`Output::Stage`] and put that map into force by itself; given before
    /// anything else, as soon as it is known.
    Committed,
    /// Segments in shared buckets that belong to no socket of this host, so that the filter has dropped them.
    Unclaimed(&'a [Ends]),
    /// Those connections of an [`Output::Search`] that this host does not have.
    Missing(&'a [Ends]),
    /// The NIC's link came up (true) or went down.
    Link(bool),
    /// What is wrong with this host, as numbers that the others know
    /// ([`Heartbeat::findings`](crate::wire::heartbeat::Heartbeat)): told with the next heartbeat, and from then on.
    Findings(&'a [u8]),
    /// Bytes of the largest packet that the NIC sends; for the others to know.
    Mtu(u32),
}

/// What the core asks of the world.
#[derive(Debug)]
pub enum Output {
    /// Send this frame.
    Transmit(Vec<u8>),
    /// Hold this map ready beside the one in force, in place of what was held ready before.
    Stage(Box<Staging>),
    /// By the map that is held ready, once it is in force, the data path may accept packets until this time.
    StagedLease(Time),
    /// Hold nothing ready any more.
    Withdraw,
    /// Put what is held ready into force as a whole, unless the data path has done so by itself.
    Commit,
    /// Change rows and rules in force in place; the map is the same.
    Amend(Box<Image>),
    /// Accept nothing from now on, until the next map comes into force.
    Fence,
    /// The data path may accept packets until this time.
    Lease(Time),
    /// Say which TCP sockets are bound to virtual IPs, by [`Input::Connections`].
    CountConnections,
    /// Reset these connections, so that their clients need not wait for an answer that will not come.
    Cut(Vec<Connection>),
    /// Look which of these connections this host does not have, and say so by [`Input::Missing`].
    Search(Vec<Ends>),
    /// Under the map with this tag nobody has these connections: for a few seconds, and while that map is in force,
    /// their segments get to the kernel, which resets them.
    Disown(Digest, Vec<Ends>),
    /// No other host has been heard for two periods: make this one known to switches again.
    Unheard,
    /// Tell people.
    Event(Event),
    /// Nothing more for now: call again with [`Input::Timer`] at this time, or earlier with anything else.
    Wait(Time),
}

/// A map that may come into force at any moment.
#[derive(Debug)]
pub struct Staging {
    /// Its name.
    pub map: Base,
    /// Its members.
    pub view: HostSet,
    /// The tables.
    pub image: Image,
    /// What the commit frame reveals ([`covey_filter::token()`]).
    pub token: Token,
    /// By this map the data path may accept packets until then.
    pub lease: Time,
}

/// One host of a cluster.
pub struct Cluster {
    config: ClusterConfig,
    identity: Identity,
    role: Role,
    link_up: bool,
    timers: TimerTable,
    outputs: VecDeque<Output>,
    rejected: [u64; Reject::ALL.len()],

    /// Sequence of the last message sent.
    sequence: u64,
    last_heartbeat_at: Time,
    sent: SentLog,
    /// Heartbeats still to be sent out of turn, after a commit or as goodbyes.
    repeats: u8,

    peers: Peers,
    outlook: Outlook,
    /// Since when this host has listened without a gap: since it joined, its link came up, or it ran late.
    listening_since: Time,
    lateness: Lateness,
    /// Other hosts with this host's ID.
    rivals: Rivals,
    /// Hosts that share the address but cannot be talked to.
    strangers: Strangers,
    conflicts: Conflicts,
    odd_rules: OddRules,
    flapping: Flapping,
    generations: Generations,
    heartbeats_blocked: bool,
    /// What is wrong with this host, for the others ([`Input::Findings`]).
    findings: Vec<u8>,
    /// Since when silent hosts have been asked directly.
    asking_since: Option<Time>,
    /// Whether no host has been heard for two periods.
    unheard: bool,
    probing: Probing,

    /// What this host wants to serve; binds when committed.
    offered: Arc<RuleSet>,
    offered_claims: Vec<Claim>,
    port_states: PortStates,
    committed: Option<Prepared>,
    readdressing: Readdressing,
    /// The map that this host has acknowledged, and until when it may come into force.
    staged: Option<Prepared>,
    staged_until: Time,
    proposed: Option<Prepared>,
    /// The map with which this host left, for its goodbyes.
    handed_over: Option<CommittedMap>,
    attempts: u32,
    /// The newest epoch this host has ever heard of; a new map is newer, so epochs never go backwards.
    highest_epoch: Epoch,
    /// A ballot whose result this host computed differently.
    declined: Option<(Ballot, Claims)>,
    /// The map that a proposal starts from and that this host lacks.
    wanted: Option<Base>,
    /// When this host may send its map again.
    chunks_after: Time,
    transfer: Option<Transfer>,
    lease: Time,
    lingering: Lingering,
    inquiries: Inquiries,
    sticky: Sticky,

    converging_since: Option<Time>,
    times_converging: u64,
    /// What the others were last told, or are about to be.
    last_announced: Option<Announced>,
}

impl Cluster {
    /// A host that is stopped. Give it [`Command::Start`].
    pub fn new(config: ClusterConfig) -> Self {
        debug_assert_eq!(config.claims.len(), config.rules.rules().len());
        Self {
            identity: Identity::from(&config),
            role: Role::Stopped,
            link_up: true,
            timers: TimerTable::default(),
            outputs: VecDeque::new(),
            rejected: [0; Reject::ALL.len()],
            sequence: 0,
            last_heartbeat_at: Time::ZERO,
            sent: SentLog::default(),
            repeats: 0,
            peers: Peers::new(),
            outlook: Outlook::default(),
            listening_since: Time::ZERO,
            lateness: Lateness::default(),
            rivals: Rivals::default(),
            strangers: Strangers::default(),
            conflicts: Conflicts::default(),
            odd_rules: OddRules::default(),
            flapping: Flapping::default(),
            generations: Generations::new(config.version),
            heartbeats_blocked: false,
            findings: Vec::new(),
            asking_since: None,
            unheard: false,
            probing: Probing::default(),
            offered: Arc::new(config.rules.clone()),
            offered_claims: config.claims.clone(),
            port_states: PortStates::new(&config.port_states),
            committed: None,
            readdressing: Readdressing::default(),
            staged: None,
            staged_until: Time::ZERO,
            proposed: None,
            handed_over: None,
            attempts: 0,
            highest_epoch: Epoch(0),
            declined: None,
            wanted: None,
            chunks_after: Time::ZERO,
            transfer: None,
            lease: Time::ZERO,
            lingering: Lingering::default(),
            inquiries: Inquiries::default(),
            sticky: Sticky::default(),
            converging_since: None,
            times_converging: 0,
            last_announced: None,
            config,
        }
    }

    /// Takes one input at a time that never goes backwards. Drain [`Self::poll_output`] afterwards.
    pub fn handle_input(&mut self, now: Time, input: Input<'_>) {
        self.begin(now);
        match input {
            Input::Frame(frame) => {
                if let Err(reason) = self.on_frame(now, frame) {
                    self.rejected[reason as usize] += 1;
                    if reason != Reject::Unproven {
                        // It has changed nothing, so there is nothing to conclude.
                        return;
                    }
                }
            }
            Input::Timer => self.on_timer(now),
            Input::Seen(seen) => self.lingering.note_seen(seen),
            Input::CookiesSent => self.lingering.note_cookies(now),
            Input::Connections(connections) => self.on_connections(now, connections),
            Input::Unclaimed(unclaimed) => self.on_unclaimed(now, unclaimed),
            Input::Missing(missing) => self.on_missing(now, missing),
            Input::Committed => {
                if let Some(staged) = self.staged.clone() {
                    self.put_in_force(now, staged);
                }
            }
            Input::Findings(findings) => {
                self.findings = findings.iter().copied().take(MAX_FINDINGS).collect();
            }
            Input::Mtu(mtu) => self.probing.mtu = mtu,
            Input::Link(up) => {
                if up && !self.link_up {
                    self.listening_since = now;
                }
                self.link_up = up;
                if self.takes_part() && !self.timers.is_set(Timer::Heartbeat) {
                    // Taken over: no moment was due before this one.
                    self.timers.set(Timer::Heartbeat, now);
                }
            }
        }
        self.review(now);
    }

    /// What comes before anything else.
    fn begin(&mut self, now: Time) {
        // Before anything that was heard may renew it: a lapsed lease is final.
        self.check_lease(now);
        self.notice_lateness(now);
    }

    /// The next thing to do; [`Output::Wait`] when there is nothing more.
    pub fn poll_output(&mut self) -> Output {
        let waiting = || Output::Wait(self.timers.next().unwrap_or(Time::NEVER));
        self.outputs.pop_front().unwrap_or_else(waiting)
    }

    /// Whether the host takes no part and has said so.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.role, Role::Stopped | Role::Suspended)
    }

    /// Frames that were not used, by reason.
    pub fn rejected(&self) -> impl Iterator<Item = (Reject, u64)> {
        Reject::ALL
            .into_iter()
            .map(|reason| (reason, self.rejected[reason as usize]))
    }

    fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn me(&self) -> HostSet {
        HostSet::only(self.config.host)
    }

    const fn takes_part(&self) -> bool {
        matches!(
            self.role,
            Role::Active | Role::Leaving { .. } | Role::Draining { .. }
        )
    }

    fn on_timer(&mut self, now: Time) {
        let lost = self
            .peers
            .expire(now, self.listening_since, self.config.timing.expiry());
        for (host, silent) in lost {
            self.emit(Event::HostLost { host, silent });
        }
        self.outlive_rivals(now);
        if self.departs_by(now) {
            self.change_role(now, Trigger::HandedOver);
        }
        for timer in Timer::ALL {
            if self.timers.take_due(timer, now) {
                match timer {
                    Timer::Review => {}
                    Timer::Urgent => self.send_heartbeat(now),
                    Timer::Heartbeat => self.on_period(now),
                }
            }
        }
    }

    /// Once per period.
    fn on_period(&mut self, now: Time) {
        self.timers
            .set(Timer::Heartbeat, now + self.config.timing.period);
        self.send_heartbeat(now);
        self.announce_again();
        if self.takes_part() {
            self.probe(now);
        }
    }

    fn set_converging(&mut self, now: Time) {
        if self.converging_since.is_none() {
            self.converging_since = Some(now);
            self.times_converging += 1;
        }
    }

    /// Draws the conclusions from all that is known, after every input.
    fn review(&mut self, now: Time) {
        if !self.takes_part() {
            return;
        }
        let before = self.outlook.view;
        self.outlook = self.look(now);
        if self.outlook.view != before {
            // Those who have just come need this host's echoes to count.
            self.hurry(now);
        }
        self.report_blocked_heartbeats(now);
        self.report_odd_rules(now);
        self.report_kept_out(now);
        self.report_conflicts();
        self.report_generations();
        self.yield_to_rival(now);
        self.follow_commits(now);
        self.review_sticky(now);
        self.propose(now);
        self.acknowledge(now);
        self.commit(now);
        self.count_losses(now);
        let leaving = matches!(self.role, Role::Leaving { .. }) && !self.owns_buckets();
        if leaving || self.departs_by(now) {
            self.change_role(now, Trigger::HandedOver);
            return;
        }
        self.review_lingering(now);
        if !self.is_converged() {
            self.set_converging(now);
        }
        let announced = self.announced(now);
        if announced != self.last_announced {
            self.last_announced = announced;
            self.hurry(now);
        }
        self.schedule_review(now);
    }

    /// In a committed map, and there is no other map under way.
    fn is_converged(&self) -> bool {
        let settled = self.proposed.is_none() && self.staged.is_none();
        let current = |map: &Prepared| map.proposal.view == self.outlook.view;
        settled && self.role == Role::Active && self.committed.as_ref().is_some_and(current)
    }

    /// Wakes up when time alone changes something.
    fn schedule_review(&mut self, now: Time) {
        let peers = self.peers.iter().flat_map(|(_, peer)| {
            let silence = [peer.overdue_at(), peer.alive_until]
                .into_iter()
                .filter(|_| peer.alive);
            silence.chain([peer.granted_until])
        });
        let lease = self.committed.as_ref().map(|_| self.lease);
        let lease = lease
            .into_iter()
            .chain(self.staged.as_ref().map(|_| self.staged_until));
        let listening = self.listening_since + self.config.timing.longest().expiry();
        let next = peers
            .chain(lease)
            .chain(self.departures())
            .chain([listening])
            .chain(self.odd_rules.next_due(self.config.timing.expiry()))
            .chain(self.flapping.next_release(now))
            .chain(self.next_lingering_review())
            .chain(
                self.looks_after_sticky_rules()
                    .then_some(self.sticky.look_at),
            )
            .filter(|at| *at > now)
            .min();
        match next {
            Some(at) => self.timers.set(Timer::Review, at),
            None => self.timers.stop(Timer::Review),
        }
    }
}

#[cfg(test)]
impl Cluster {
    /// Whether it has acknowledged a map that is not in force.
    fn is_bound(&self) -> bool {
        self.staged.is_some()
    }
}

#[cfg(test)]
mod tests;

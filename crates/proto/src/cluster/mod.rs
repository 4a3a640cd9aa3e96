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
//!   peer.rs  who is believed, who is alive       lease.rs     until when may I serve?
//!   view.rs  who hears whom                      isolation.rs nobody is heard: what now?
//!   outlook.rs  which view, which coordinator, which rules
//!   convergence.rs  propose, compute, acknowledge, commit      transfer.rs  a map for a host that lacks it
//!   lingering.rs connections that stay where they were opened    sticky.rs buckets that do
//!   command.rs, role.rs   what the operator asks: taking part, draining, leaving
//!   announce.rs  what I tell the others
//! ```

mod announce;
mod command;
mod convergence;
mod isolation;
mod lease;
mod lingering;
mod outlook;
mod peer;
mod role;
mod snapshot;
mod sticky;
mod transfer;
mod view;

pub use command::{Answer, Command, PortState, RuleChange, RuleScope, VipScope};
pub use lingering::Connection;
pub use snapshot::{HostState, MemberSnapshot, Snapshot};

use crate::buckets::BucketSet;
use crate::config::ClusterConfig;
use crate::datapath::{Identity, Image};
use crate::event::Event;
use crate::ids::{Epoch, HostId, HostSet};
use crate::rules::{Claim, RuleSet};
use crate::time::{Time, Timer, TimerTable};
use crate::wire::Reject;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::heartbeat::{
    Announced, Ballot, Base, Body, Chunk, CommittedMap, Message, Subject,
};
use command::PortStates;
use convergence::{Claims, Prepared};
use lease::SentLog;
use lingering::Lingering;
use outlook::{LeftOut, Outlook};
use peer::{Heard, Peers};
use role::{Role, Trigger};
use std::collections::VecDeque;
use std::sync::Arc;
use sticky::Sticky;
use transfer::Transfer;

/// What the world tells the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// A frame arrived: EtherType 0x886F, or an ARP reply. Anything else is ignored.
    Frame(&'a [u8]),
    /// The time that [`Output::Wait`] named has come (or any other time).
    Timer,
    /// In which buckets the sticky rules with these numbers (from 1) have had traffic within their time; given before
    /// [`Input::Connections`].
    Seen(&'a [(u8, BucketSet)]),
    /// The TCP sockets that are bound to virtual IPs and have a client, after [`Output::CountConnections`].
    Connections(&'a [Connection]),
    /// The NIC's link came up (true) or went down.
    Link(bool),
}

/// What the core asks of the world.
#[derive(Debug)]
pub enum Output {
    /// Send this frame.
    Transmit(Vec<u8>),
    /// Put this into the data path, replacing what is there as a whole.
    Program(Box<Image>),
    /// The data path may accept packets until this time.
    Lease(Time),
    /// Say which TCP sockets are bound to virtual IPs, by [`Input::Connections`].
    CountConnections,
    /// Reset these connections, so that their clients need not wait for an answer that will not come.
    Cut(Vec<Connection>),
    /// Tell people.
    Event(Event),
    /// Nothing more for now: call again with [`Input::Timer`] at this time, or earlier with anything else.
    Wait(Time),
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
    /// When another host with this host's ID was last heard.
    rival_at: Option<Time>,
    heartbeats_blocked: bool,
    /// Since when silent hosts have been asked directly.
    asking_since: Option<Time>,
    /// Hosts kept out for their rules, as last told.
    odd_hosts: HostSet,

    /// What this host wants to serve; binds when committed.
    offered: Arc<RuleSet>,
    offered_claims: Vec<Claim>,
    port_states: PortStates,
    committed: Option<Prepared>,
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
            rival_at: None,
            heartbeats_blocked: false,
            asking_since: None,
            odd_hosts: HostSet::EMPTY,
            offered: Arc::new(config.rules.clone()),
            offered_claims: config.claims.clone(),
            port_states: PortStates::new(&config.port_states),
            committed: None,
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
            Input::Connections(connections) => self.on_connections(now, connections),
            Input::Link(up) => {
                if up && !self.link_up {
                    self.listening_since = now;
                }
                self.link_up = up;
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

    fn on_frame(&mut self, now: Time, frame: &[u8]) -> Result<(), Reject> {
        let frame = Ethernet::parse(frame)?;
        match frame.ethertype {
            ethernet::HEARTBEAT => {
                let primary = crate::config::four_bytes(self.config.rules.primary());
                let message = Message::parse(frame.payload, primary, &self.config.auth)?;
                self.on_message(now, frame.destination == self.config.mac, message)
            }
            ethernet::ARP => {
                let arp = Arp::parse(frame.payload)?;
                if arp.operation == Operation::Reply {
                    self.on_arp_reply(now, arp);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_message(&mut self, now: Time, direct: bool, message: Message) -> Result<(), Reject> {
        let Message { sender, body } = message;
        if !self.takes_part() {
            return Err(Reject::Stopped);
        }
        if sender.host == self.config.host {
            if sender.mac == self.config.mac {
                return Err(Reject::OwnFrame);
            }
            if self.rival_at.is_none() {
                self.emit(Event::DuplicateId {
                    host: sender.host,
                    mac: sender.mac,
                    name: sender.name,
                });
            }
            self.rival_at = Some(now);
            return Err(Reject::DuplicateId);
        }
        let heartbeat = match body {
            Body::Heartbeat(heartbeat) => *heartbeat,
            Body::Chunk(chunk) => {
                self.peers.hear_other(&sender)?;
                self.on_chunk(sender.host, &chunk);
                return Ok(());
            }
        };
        let host = sender.host;
        let joined = Event::HostJoined {
            host,
            name: sender.name.clone(),
            mac: sender.mac,
        };
        let echo = heartbeat.echo_of(self.config.host, self.config.incarnation);
        let echoed = echo.and_then(|echo| self.whole_sequence(echo.sequence));
        let heard = self
            .peers
            .hear(now, sender, heartbeat, echoed, self.sequence + 1);
        match heard {
            Ok(Heard::Known) => {}
            Ok(Heard::Joined) => {
                self.emit(joined);
                self.hurry(now);
            }
            Ok(Heard::Left) => self.emit(Event::HostLeft { host }),
            // The newcomer needs an echo at once to prove itself.
            Err(Reject::Unproven) => self.hurry(now),
            Err(_) => {}
        }
        heard?;
        self.after_hearing(now, host, direct, echoed);
        Ok(())
    }

    fn after_hearing(&mut self, now: Time, host: HostId, direct: bool, echoed: Option<u64>) {
        self.lingering.news = true;
        let confirmed = echoed.and_then(|sequence| self.sent.serves_until(sequence));
        let me = self.config.host;
        self.note_path(now, host, direct);
        let Some(peer) = self.peers.get_mut(host) else {
            return;
        };
        peer.echoed = echoed;
        if peer.heartbeat.grants.contains(me) {
            peer.renews_until = peer.renews_until.max(confirmed.unwrap_or(Time::ZERO));
        }
        let wanted = peer.heartbeat.wanted;
        let epoch = peer
            .heartbeat
            .committed
            .map_or(Epoch(0), |map| map.ballot.epoch);
        self.highest_epoch = self.highest_epoch.max(epoch);
        self.renew_lease(now);
        if let Some(wanted) = wanted {
            self.send_wanted_map(now, wanted);
        }
    }

    /// Takes a part of something large.
    fn on_chunk(&mut self, from: HostId, chunk: &Chunk) {
        match chunk.subject {
            Subject::Map(base) => self.on_map_chunk(from, base, chunk),
            Subject::Lingering(digest) | Subject::Sticky(digest) | Subject::Held(digest) => {
                self.on_bucket_chunk(from, digest, chunk);
            }
            Subject::Rules(_) => {}
        }
    }

    /// The full sequence of a message of this host, from the low half in an echo.
    fn whole_sequence(&self, low: u32) -> Option<u64> {
        let behind = (self.sequence as u32).wrapping_sub(low);
        self.sequence.checked_sub(u64::from(behind))
    }

    fn on_timer(&mut self, now: Time) {
        let lost = self
            .peers
            .expire(now, self.listening_since, self.config.timing.expiry());
        for (host, silent) in lost {
            self.emit(Event::HostLost { host, silent });
        }
        if self
            .rival_at
            .is_some_and(|at| now >= at + self.config.timing.expiry())
        {
            self.rival_at = None;
        }
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
        self.report_odd_hosts();
        self.follow_commits(now);
        self.review_sticky(now);
        self.propose(now);
        self.acknowledge(now);
        self.commit(now);
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

    /// Tells people once of each host that is kept out for its rules.
    fn report_odd_hosts(&mut self) {
        let odd: HostSet = self
            .outlook
            .left_out
            .iter()
            .filter(|(_, reason)| *reason == LeftOut::Rules)
            .map(|(host, _)| *host)
            .collect();
        for host in odd.without(self.odd_hosts).iter() {
            self.emit(Event::RulesDiffer { host });
        }
        self.odd_hosts = odd;
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
            let silence = [peer.overdue_at(), peer.expires_at()]
                .into_iter()
                .filter(|_| peer.alive);
            silence.chain([peer.granted_until])
        });
        let lease = self.committed.as_ref().map(|_| self.lease);
        let lease = lease
            .into_iter()
            .chain(self.staged.as_ref().map(|_| self.staged_until));
        let listening = self.listening_since + self.config.timing.expiry();
        let next = peers
            .chain(lease)
            .chain(self.departures())
            .chain([listening])
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

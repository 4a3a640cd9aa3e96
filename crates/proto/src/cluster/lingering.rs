//! Connections that stay where they were opened, though their bucket has moved on (docs/design.md, "Data path").
//!
//! ```text
//!   former owner: counts its sockets ---- report: "under epoch E I have connections in these buckets" ---> owner
//!                 row LINGERING                                                                    row SHARED
//! ```
//!
//! A host *lingers* in the buckets that it does not own and has connections in. It needs no history for that: its
//! socket table says it all. An owner holds a bucket as *shared* while any other member has not reported under
//! the map in force, or lists the bucket. A bucket is cleared after two scans without a connection in it, because
//! one may run just before a SYN that is on its way has become a socket; and not while SYN cookies are out, which leave no
//! trace in the socket table.

use super::command::PortState;
use super::orphans::Inquiries;
use super::prepared::Prepared;
use super::role::Role;
use super::sticky::is_any_sticky;
use super::{Cluster, Output, Trigger};
use crate::buckets::BucketSet;
use crate::datapath::{Image, Overlap};
use crate::ids::{Digest, HostId, HostSet};
use crate::placement::Placement;
use crate::rules::{FilterMode, PortRule, RuleSet};
use crate::time::Time;
use crate::wire::heartbeat::{Chunk, Ends, Report, Subject};
use covey_filter::{Address, Affinity, BUCKETS, DEFAULT_RULE, Socket, bucket};
use std::net::SocketAddr;
use std::time::Duration;

/// How often sockets are counted while it matters, and a set is told again that has not changed.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// For how long the kernel takes a SYN cookie back.
const COOKIES_LAST: Duration = Duration::from_secs(120);

/// One TCP socket of this host that is bound to a virtual IP and has a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The client's end.
    pub client: SocketAddr,
    /// This end; its address is a virtual IP.
    pub service: SocketAddr,
    /// What the socket table says of it.
    pub socket: Socket,
    /// How long neither end has sent data; zero if that is not known.
    pub idle: Duration,
}

/// Foreign buckets in which this host lingers, and its own in which others may.
pub(super) struct Sets {
    lingering: BucketSet,
    shared: BucketSet,
}

impl Sets {
    /// As they are for a daemon that has just taken over from another: until it has looked, others may linger anywhere.
    pub(super) const fn taken_over(lingering: BucketSet) -> Self {
        let shared = BucketSet::ALL;
        Self { lingering, shared }
    }
}

/// Where this host has connections, and where others have.
#[derive(Clone, Debug, Default)]
pub(super) struct Lingering {
    /// Foreign buckets in which this host has connections, or must be taken to have.
    mine: BucketSet,
    /// Those of them in which the last scan found none.
    clean_once: BucketSet,
    /// Whether sockets have been counted under the map in force.
    looked: bool,
    /// The part of this host's buckets that the data path holds as shared.
    shared: BucketSet,
    /// From here on the data path may be told again what is shared no more.
    unshare_at: Time,
    /// A peer has reported something new.
    pub(super) news: bool,
    /// Own buckets that sticky rules do not move yet.
    busy: BucketSet,
    /// Buckets of sticky rules with traffic, by rule, as last told.
    seen: Vec<(u8, BucketSet)>,
    told: (Digest, Time),
    told_busy: (Digest, Time),
    /// An answer is outstanding.
    counting: bool,
    count_at: Option<Time>,
    /// Open connections in the last scan, while it matters how many there are.
    pub(super) open: Option<usize>,
    /// Until then a SYN cookie of this host may come back as a connection.
    cookies_until: Time,
    /// Rules with connections in the last scan and in the one before: bit 0 is the default rule.
    in_use: u128,
    in_use_before: u128,
}

impl Lingering {
    pub(super) fn note_seen(&mut self, seen: &[(u8, BucketSet)]) {
        self.seen = seen.to_vec();
    }

    pub(super) fn note_cookies(&mut self, now: Time) {
        self.cookies_until = now + COOKIES_LAST;
    }

    /// Foreign buckets in which this host has connections, or must be taken to have.
    pub(super) const fn mine(&self) -> &BucketSet {
        &self.mine
    }

    /// What the data path holds under the map in force.
    pub(super) const fn sets(&self) -> Sets {
        Sets {
            lingering: self.mine,
            shared: self.shared,
        }
    }

    /// Own buckets that sticky rules do not move yet; `None` before the first count.
    pub(super) fn busy(&self) -> Option<BucketSet> {
        self.looked.then_some(self.busy)
    }

    /// No connection at all, twice in a row.
    const fn is_idle(&self) -> bool {
        self.looked && self.in_use == 0 && self.in_use_before == 0
    }
}

impl Cluster {
    /// Takes the answer to [`Output::CountConnections`].
    pub(super) fn on_connections(&mut self, now: Time, connections: &[Connection]) {
        self.lingering.counting = false;
        self.lingering.count_at = None;
        let rules = self
            .committed
            .as_ref()
            .map_or_else(|| self.offered.clone(), |map| map.rules.clone());
        let own = |connection: &Connection| {
            let client = connection.client.ip();
            client == self.config.dip || rules.vips().contains(&client)
        };
        // What the host says to itself does not come through the cluster.
        let open: Vec<&Connection> = connections
            .iter()
            .filter(|connection| connection.socket.is_open() && !own(connection))
            .collect();
        self.lingering.open = Some(open.len());
        let mut found = BucketSet::EMPTY;
        let mut in_use = 0u128;
        let mut busy = self.busy_by_traffic();
        let mut cut = Vec::new();
        for connection in open {
            let (index, rule) = rule_of(&rules, connection.service);
            in_use |= 1 << index;
            let mut lingers = false;
            if let Some(map) = &self.committed {
                let place = bucket_of(self.identity.hash_key, rule, connection.client);
                if map.placement.map(index).owner(place) != Some(self.config.host) {
                    lingers = true;
                    found.insert(place);
                } else if rule.is_some_and(|rule| rule.sticky.is_some()) {
                    busy.insert(place);
                }
            }
            if self.gives_up(rule) || (lingers && self.is_over(connection)) {
                cut.push(*connection);
            }
        }
        if !cut.is_empty() {
            self.outputs.push_back(Output::Cut(cut));
        }
        let before = self.lingering.mine;
        let state = &mut self.lingering;
        let gone = if now < state.cookies_until {
            BucketSet::EMPTY
        } else {
            state.clean_once.without(&found)
        };
        state.mine = state.mine.without(&gone).union(&found);
        state.clean_once = state.mine.without(&found);
        state.busy = busy;
        state.in_use_before = if state.looked {
            state.in_use
        } else {
            u128::MAX
        };
        state.in_use = in_use;
        let first = !state.looked;
        state.looked = true;
        if state.mine != before {
            self.amend();
        }
        if first || self.lingering.mine != before {
            self.hurry(now);
        }
        self.end_draining(now);
    }

    /// Whether this host has left, or has given up the rule of a connection.
    fn gives_up(&self, rule: Option<&PortRule>) -> bool {
        let disabled = |rule: &PortRule| self.port_states.of(rule) == PortState::Disabled;
        !self.takes_part() || rule.is_some_and(disabled)
    }

    /// Whether a connection that lingers has been idle for too long.
    fn is_over(&self, connection: &Connection) -> bool {
        let too_long = |most| connection.idle >= most;
        self.config.max_linger.is_some_and(too_long)
    }

    /// Ends what waits for connections to end: rules that drain, and this host.
    fn end_draining(&mut self, now: Time) {
        if let Some(map) = &self.committed {
            let rules = map.rules.clone();
            let used = self.lingering.in_use | self.lingering.in_use_before;
            let handed_over: Vec<u32> = (1u8..)
                .zip(rules.rules())
                .filter(|(index, _)| {
                    used & 1 << index == 0 && map.placement.map(*index).count(self.config.host) == 0
                })
                .map(|(_, rule)| rule.fingerprint())
                .collect();
            self.end_draining_rules(|rule| !handed_over.contains(&rule.fingerprint()));
        }
        if let Role::Draining { .. } = self.role
            && self.lingering.is_idle()
            && !self.owns_buckets()
        {
            self.change_role(now, Trigger::HandedOver);
        }
    }

    pub(super) fn owns_buckets(&self) -> bool {
        self.committed
            .as_ref()
            .is_some_and(|map| map.proposal.owners.contains(self.config.host))
    }

    /// How the next map comes into force: this host lingers in what it gives up and where it lingers already, and
    /// others may in all that it takes or keeps.
    pub(super) fn overlap_under(&self, after: &Placement) -> Sets {
        let me = Some(self.config.host);
        let mut lingering = self.lingering.mine;
        let before = self.committed.as_ref().map(|map| &map.placement);
        // Maps of like rules lie at like places, if the rules have not changed; if they have, only a scan can tell.
        for (old, new) in before.iter().flat_map(|old| old.like_maps(after)) {
            for place in 0..BUCKETS {
                if old.owner(place) == me && new.owner(place) != me {
                    lingering.insert(place);
                }
            }
        }
        Sets {
            lingering,
            shared: BucketSet::ALL,
        }
    }

    /// A map has come into force: this host must count what it has.
    pub(super) fn note_new_map(&mut self, sets: Sets) {
        self.lingering = Lingering {
            mine: sets.lingering,
            shared: sets.shared,
            news: true,
            counting: self.lingering.counting,
            open: self.lingering.open,
            cookies_until: self.lingering.cookies_until,
            ..Lingering::default()
        };
        self.inquiries = Inquiries::default();
    }

    /// What this host tells of the buckets it lingers in.
    pub(super) fn report(&self) -> Option<Report> {
        let map = self.committed.as_ref().filter(|_| self.lingering.looked)?;
        Some(Report {
            epoch: map.proposal.ballot.epoch,
            lingering: self.lingering.mine.digest(),
            sticky: self.lingering.busy.digest(),
        })
    }

    /// Sends the set that a heartbeat reports, if it is new or was told long ago.
    pub(super) fn tell_lingering(&mut self, now: Time) {
        let Some(report) = self.report() else { return };
        let again = COUNT_EVERY.max(self.config.timing.period);
        let due = |digest: Digest, (told, at): (Digest, Time)| {
            digest != Digest(0) && (told != digest || now >= at + again)
        };
        if due(report.lingering, self.lingering.told) {
            self.lingering.told = (report.lingering, now);
            let bytes = self.lingering.mine.to_bytes();
            self.send_in_chunks(now, Subject::Lingering(report.lingering), &bytes);
        }
        if due(report.sticky, self.lingering.told_busy) {
            self.lingering.told_busy = (report.sticky, now);
            let bytes = self.lingering.busy.to_bytes();
            self.send_in_chunks(now, Subject::Sticky(report.sticky), &bytes);
        }
    }

    /// Own buckets of sticky rules that have had traffic within their time.
    fn busy_by_traffic(&self) -> BucketSet {
        let Some(map) = &self.committed else {
            return BucketSet::EMPTY;
        };
        let mut busy = BucketSet::EMPTY;
        let rules = map.rules.rules();
        for (index, seen) in &self.lingering.seen {
            let rule = usize::from(*index)
                .checked_sub(1)
                .and_then(|at| rules.get(at));
            if rule.is_some_and(|rule| rule.sticky.is_some()) {
                let owners = map.placement.map(*index);
                let mine = (0..BUCKETS).filter(|b| owners.owner(*b) == Some(self.config.host));
                busy = busy.union(&mine.filter(|bucket| seen.contains(*bucket)).collect());
            }
        }
        busy
    }

    /// Takes a set of buckets that a peer tells.
    pub(super) fn on_bucket_chunk(&mut self, from: HostId, digest: Digest, chunk: &Chunk) {
        let Ok(bytes) = <&[u8; BucketSet::LEN]>::try_from(&chunk.bytes[..]) else {
            return;
        };
        let set = BucketSet::from_bytes(bytes);
        if set.digest() != digest {
            return;
        }
        if let Some(peer) = self.peers.get_mut(from) {
            let told = Some((digest, Box::new(set)));
            match chunk.subject {
                Subject::Lingering(_) => peer.lingering = told,
                Subject::Sticky(_) => peer.sticky = told,
                Subject::Held(_) => peer.held = told,
                Subject::Map(_) | Subject::Rules(_) => {}
            }
            self.lingering.news = true;
        }
    }

    /// Buckets in which some other member has connections, as far as this host can exclude it.
    fn shared_now(&self) -> BucketSet {
        let others = self.other_members().iter();
        others.fold(BucketSet::EMPTY, |shared, host| {
            shared.union(&self.told_by(host).unwrap_or(BucketSet::ALL))
        })
    }

    fn other_members(&self) -> HostSet {
        let view = self.committed.as_ref().map(|map| map.proposal.view);
        view.unwrap_or_default().without(self.me())
    }

    /// The foreign buckets in which another host has connections, as it has told under the map in force.
    fn told_by(&self, host: HostId) -> Option<BucketSet> {
        let epoch = self.committed.as_ref()?.proposal.ballot.epoch;
        let peer = self.peers.get(host)?;
        let report = peer
            .heartbeat
            .report
            .filter(|report| report.epoch == epoch)?;
        if report.lingering == Digest(0) {
            return Some(BucketSet::EMPTY);
        }
        let told = peer.lingering.as_ref();
        told.filter(|(digest, _)| *digest == report.lingering)
            .map(|(_, set)| **set)
    }

    /// Which other members may have a connection; nothing if it is not for this host, the owner, to say.
    pub(super) fn may_linger_with(&self, ends: &Ends) -> Option<HostSet> {
        let map = self.committed.as_ref()?;
        let (index, rule) = rule_of(&map.rules, ends.service);
        let place = bucket_of(self.identity.hash_key, rule, ends.client);
        let owner = map.placement.map(index).owner(place);
        if owner != Some(self.config.host) {
            return None;
        }
        let may = |host: &HostId| {
            let told = self.told_by(*host);
            told.is_none_or(|set| set.contains(place))
        };
        Some(self.other_members().iter().filter(may).collect())
    }

    /// From here on a commit may be on its way, which the others may hear first: a SYN can then be answered by two
    /// hosts, and the one that the client has not chosen must not reset the connection of the other.
    pub(super) fn expect_new_map(&mut self) {
        if self.committed.is_some() && self.lingering.shared != BucketSet::ALL {
            self.lingering.shared = BucketSet::ALL;
            self.amend();
        }
    }

    /// Lets the data path know what others have reported. What is shared no more can wait a little: with many hosts,
    /// one of them has cleared some bucket at every moment.
    fn review_shared(&mut self, now: Time) {
        if !self.lingering.news || self.staged.is_some() {
            return;
        }
        let (before, shared) = (self.lingering.shared, self.shared_now());
        let grows = !shared.without(&before).is_empty();
        let waits = now < self.lingering.unshare_at && !grows && before != BucketSet::ALL;
        if shared == before {
            self.lingering.news = false;
        } else if !waits {
            self.lingering.news = false;
            self.lingering.shared = shared;
            self.lingering.unshare_at = now + COUNT_EVERY;
            self.amend();
        }
    }

    /// When sockets are to be counted, or the data path is to hear what others have reported.
    pub(super) fn next_lingering_review(&self) -> impl Iterator<Item = Time> {
        let shared = Some(self.lingering.unshare_at).filter(|_| self.lingering.news);
        self.lingering.count_at.into_iter().chain(shared)
    }

    /// Has sockets counted when it is time.
    pub(super) fn review_lingering(&mut self, now: Time) {
        self.review_shared(now);
        let state = &self.lingering;
        let wanted = self.committed.as_ref().is_some_and(|map| {
            let someone_waits = !state.mine.is_empty() || self.port_states.any_draining();
            !state.looked || someone_waits || is_any_sticky(&map.rules)
        });
        if !wanted && !matches!(self.role, Role::Draining { .. }) {
            self.lingering.open = None;
            return;
        }
        match state.count_at {
            _ if state.counting => {}
            Some(at) if now >= at => self.count_now(),
            Some(_) => {}
            None if !state.looked => self.count_now(),
            None => {
                self.lingering.count_at = Some(now + COUNT_EVERY.max(self.config.timing.period));
            }
        }
    }

    /// Has sockets counted at the next review.
    pub(super) fn count_soon(&mut self, now: Time) {
        self.lingering.count_at = Some(now);
    }

    pub(super) fn count_now(&mut self) {
        self.lingering.counting = true;
        self.lingering.count_at = None;
        self.outputs.push_back(Output::CountConnections);
    }

    /// Lets the data path know what has changed under the map in force, and will have under the next.
    pub(super) fn amend(&mut self) {
        let Some(map) = &self.committed else { return };
        let image = self.image_of(map, &self.lingering.sets());
        self.outputs.push_back(Output::Amend(Box::new(image)));
        self.hold_ready();
    }

    /// What the data path holds for a map.
    pub(super) fn image_of(&self, map: &Prepared, sets: &Sets) -> Image {
        let cut = |rule: &PortRule| self.port_states.of(rule) == PortState::Disabled;
        let overlap = Overlap {
            lingering: &sets.lingering,
            shared: &sets.shared,
            cut: &cut,
        };
        let owners = map.proposal.owners;
        Image::serving(&self.identity, &map.rules, &map.placement, owners, &overlap)
            .also_for(&self.macs())
            .of_map(map.name().tag())
    }
}

/// The rule that covers connections to a service, and its index as the data path numbers them.
fn rule_of(rules: &RuleSet, service: SocketAddr) -> (u8, Option<&PortRule>) {
    match rules.covering_tcp(service.ip(), service.port()) {
        Some((index, rule)) => (index, Some(rule)),
        None => (DEFAULT_RULE, None),
    }
}

/// The bucket of a client under a rule, or under the default rule.
fn bucket_of(hash_key: [u64; 2], rule: Option<&PortRule>, client: SocketAddr) -> usize {
    let affinity = match rule.map(|rule| rule.mode) {
        Some(FilterMode::Multiple { affinity }) => affinity,
        Some(FilterMode::Single | FilterMode::Disabled) | None => Affinity::Single,
    };
    let place = bucket(
        hash_key,
        affinity,
        Address::from(client.ip()),
        client.port(),
    );
    usize::from(place.get())
}

//! When something is to be said about the cluster's groups: the reports that nobody asked for, the advertisements of
//! RFC 4286, and the watch for a querier. Without I/O, clock or randomness: it is handed the time and what was
//! heard, and says what to send and to tell. Driven by [`super::Multicast`], and by its tests through hours in no time.
//! Specification: docs/design.md, "IP multicast groups".
//!
//! What the kernel does by itself is not here: reports when a group is joined, answers to queries, leaves.

use super::{Asked, Family, Querier, Query, Settings, Version};
use covey_proto::time::Time;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Time between advertisements (RFC 4286 §4.1), and how much it varies to either side, so that hosts drift apart.
pub(super) const ADVERTISE_EVERY: Duration = Duration::from_secs(20);
const VARIATION: Duration = Duration::from_millis(500);
/// The first ones follow each other faster, because frames get lost.
const FIRST_ADVERTISEMENTS: u8 = 3;
const FIRST_EVERY: Duration = Duration::from_secs(2);
/// Who asks for advertisements waits at most this long.
const SOLICITED_WITHIN: Duration = Duration::from_secs(2);
/// A report to a switch that may have forgotten is said twice (RFC 2236's robustness variable), this far apart.
const REPORT_AGAIN: Duration = Duration::from_secs(1);

/// How long the host stays in a group that it has no use for any more: neighbours remember its MAC for minutes.
const PARTING: Duration = Duration::from_secs(300);

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Somebody on the segment has asked something.
    Asked(Family, IpAddr, Asked),
    /// The switch may have forgotten what it knew of this port: the link was down, or nobody is heard.
    Forgotten,
    /// Time has passed.
    Timer,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Say that this host is in a group.
    Report(Ipv4Addr, Version),
    /// Say that multicast is to be forwarded to this host.
    Advertise(Family),
    /// Say that it is no longer.
    Retire(Family),
    /// Leave a group.
    Leave(Ipv4Addr),
    /// Tell people.
    Tell(Notice),
}

/// What people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// No query has been heard for so long.
    NoQuerier(Duration),
    /// Queries are heard again.
    Querier(Querier),
}

/// What the watch for a querier has come to; a daemon hands it to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watch {
    /// Since when none has been heard.
    pub(super) since: Time,
    /// People know.
    pub(super) told: bool,
}

/// Advertising to one family.
#[derive(Clone, Copy, Debug)]
struct Advertising {
    next: Time,
    /// How many of the first ones are still to come.
    first: u8,
}

/// See above.
pub(super) struct Agent {
    settings: Settings,
    watch: Watch,
    /// Who has asked last, by family.
    queriers: [Option<(Time, Querier)>; 2],
    report_at: Time,
    report_again: bool,
    advertising: [Option<Advertising>; 2],
    /// Groups that are still to be left, and when.
    parting: Vec<(Ipv4Addr, Time)>,
}

impl Agent {
    /// Begins now. The kernel reports by itself what it has joined.
    pub(super) fn new(settings: Settings, now: Time) -> Self {
        let watch = Watch {
            since: now,
            told: false,
        };
        let mut agent = Self {
            watch,
            queriers: [None; 2],
            report_at: Time::NEVER,
            report_again: false,
            advertising: [None; 2],
            parting: Vec::new(),
            settings: Settings {
                groups: Vec::new(),
                announce: false,
                ..settings.clone()
            },
        };
        agent.follow(settings, now);
        agent
    }

    /// Goes on where another has been.
    pub(super) const fn resume(&mut self, watch: Watch) {
        self.watch = watch;
    }

    pub(super) const fn watch(&self) -> Watch {
        self.watch
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Who has asked last, and when.
    pub(super) fn querier(&self, family: Family) -> Option<(Time, Querier)> {
        self.queriers[family as usize]
    }

    /// Goes by other settings from now on; what is to be taken back is returned.
    pub(super) fn follow(&mut self, settings: Settings, now: Time) -> Vec<Action> {
        let old = std::mem::replace(&mut self.settings, settings);
        let mut actions = Vec::new();
        for family in Family::ALL {
            let advertises = self.settings.advertises(family);
            let slot = &mut self.advertising[family as usize];
            match (advertises, slot.is_some()) {
                (true, false) => *slot = Some(Advertising::beginning(now)),
                (false, true) => {
                    *slot = None;
                    actions.push(Action::Retire(family));
                }
                (true, true) | (false, false) => {}
            }
        }
        self.parting
            .retain(|(group, _)| !self.settings.groups.contains(group));
        for group in &old.groups {
            if !self.settings.groups.contains(group) {
                self.parting.push((*group, now + PARTING));
            }
        }
        if old.groups.is_empty() {
            self.watch = Watch {
                since: now,
                told: false,
            };
        }
        if old.report_interval != self.settings.report_interval
            || old.groups.is_empty() != self.settings.groups.is_empty()
        {
            self.report_again = false;
            self.report_at = self.next_report(now);
        }
        actions
    }

    /// When it wants to be called again.
    pub(super) fn deadline(&self) -> Time {
        let advertisements = self.advertising.iter().flatten();
        advertisements
            .map(|advertising| advertising.next)
            .chain(self.parting.iter().map(|(_, at)| *at))
            .chain([self.report_at, self.silent_at()])
            .min()
            .unwrap_or(Time::NEVER)
    }

    /// `random` draws a time from zero to the one it is given.
    pub(super) fn handle(
        &mut self,
        now: Time,
        input: Input,
        mut random: impl FnMut(Duration) -> Duration,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Asked(family, from, Asked::WhoListens(query)) => {
                actions.extend(self.note_query(now, family, from, query).map(Action::Tell));
            }
            Input::Asked(family, _, Asked::WhoRoutes) => {
                if let Some(advertising) = &mut self.advertising[family as usize] {
                    let answer_at = now + random(SOLICITED_WITHIN);
                    advertising.next = advertising.next.min(answer_at);
                }
            }
            Input::Forgotten => {
                if !self.settings.groups.is_empty() {
                    (self.report_at, self.report_again) = (now, true);
                }
                for advertising in self.advertising.iter_mut().flatten() {
                    *advertising = Advertising::beginning(now);
                }
            }
            Input::Timer => {}
        }
        self.do_what_is_due(now, &mut random, &mut actions);
        actions
    }

    fn note_query(
        &mut self,
        now: Time,
        family: Family,
        from: IpAddr,
        query: Query,
    ) -> Option<Notice> {
        let querier = Querier { from, query };
        self.queriers[family as usize] = Some((now, querier));
        match family {
            Family::V4 => {
                self.watch.since = now;
                let told = std::mem::take(&mut self.watch.told);
                told.then_some(Notice::Querier(querier))
            }
            // The cluster's MAC belongs to a group of IPv4.
            Family::V6 => None,
        }
    }

    fn do_what_is_due(
        &mut self,
        now: Time,
        random: &mut impl FnMut(Duration) -> Duration,
        actions: &mut Vec<Action>,
    ) {
        if self.silent_at() <= now {
            self.watch.told = true;
            let silent = now.since(self.watch.since);
            actions.push(Action::Tell(Notice::NoQuerier(silent)));
        }
        if self.report_at <= now {
            let version = self.version(now);
            let parting = self.parting.iter().map(|(group, _)| group);
            let groups = self.settings.groups.iter().chain(parting);
            actions.extend(groups.map(|group| Action::Report(*group, version)));
            self.report_at = if std::mem::take(&mut self.report_again) {
                now + REPORT_AGAIN
            } else {
                self.next_report(now)
            };
        }
        let due = self.parting.extract_if(.., |(_, at)| *at <= now);
        actions.extend(due.map(|(group, _)| Action::Leave(group)));
        for family in Family::ALL {
            if let Some(advertising) = &mut self.advertising[family as usize]
                && advertising.next <= now
            {
                actions.push(Action::Advertise(family));
                advertising.said(now, random);
            }
        }
    }

    fn next_report(&self, now: Time) -> Time {
        match self.settings.report_interval {
            Some(interval) if !self.settings.groups.is_empty() => now + interval,
            Some(_) | None => Time::NEVER,
        }
    }

    /// When the lack of a querier is to be told.
    fn silent_at(&self) -> Time {
        if self.watch.told || self.settings.groups.is_empty() {
            Time::NEVER
        } else {
            self.watch.since + self.settings.querier_timeout
        }
    }

    /// In which version reports are understood: that of the querier, and without one the second, which switches have
    /// known for longest.
    fn version(&self, now: Time) -> Version {
        match self.querier(Family::V4) {
            Some((heard, querier)) if now.since(heard) < self.settings.querier_timeout => {
                querier.query.version
            }
            Some(_) | None => Version::V2,
        }
    }
}

impl Advertising {
    const fn beginning(now: Time) -> Self {
        Self {
            next: now,
            first: FIRST_ADVERTISEMENTS,
        }
    }

    fn said(&mut self, now: Time, random: &mut impl FnMut(Duration) -> Duration) {
        self.first = self.first.saturating_sub(1);
        let pause = if self.first > 0 {
            FIRST_EVERY
        } else {
            ADVERTISE_EVERY - VARIATION + random(VARIATION * 2)
        };
        self.next = now + pause;
    }
}

#[cfg(test)]
mod tests;

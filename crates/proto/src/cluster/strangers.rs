//! Those who use this cluster's address but cannot be talked to: hosts with another key or none, and Microsoft's NLB.
//!
//! Nothing vouches for such frames: anybody on the segment can send them, with any host ID. So two things only follow
//! from them. People are told: one event per host ID and reason until it has been silent for a while, and never more
//! than a few per minute. And a host that has not served yet does not begin to serve *alone* beside them: it may well
//! be the one with the wrong key. Hosts that serve or have served, and several that believe each other, go on as if
//! nothing had been heard. What is remembered is bounded by the number of IDs and reasons. The counters of rejected
//! frames (`Cluster::rejected`) count all of them. Specification: docs/design.md, "On the wire".

use super::Cluster;
use crate::event::{Distrust, Event};
use crate::ids::HostId;
use crate::time::Time;
use crate::wire::Reject;
use crate::wire::heartbeat::Header;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// After so long a silence a stranger is told of again.
const SILENCE: Duration = Duration::from_secs(60);
/// Events in one window, of all strangers together.
const MOST_EVENTS: u32 = 8;
/// The window.
const WINDOW: Duration = Duration::from_secs(60);

/// Who has been told of.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers {
    /// When each was last heard. Without a reason: Microsoft's NLB.
    told: BTreeMap<(HostId, Option<Distrust>), Time>,
    window_began: Time,
    events: u32,
    /// Who was heard last, its dedicated IP, and when.
    last: Option<(HostId, Ipv4Addr, Time)>,
}

impl Strangers {
    /// Whether people should be told of a stranger that is heard.
    fn is_news(&mut self, now: Time, stranger: (HostId, Option<Distrust>)) -> bool {
        if let Some(heard_at) = self.told.get_mut(&stranger)
            && now < std::mem::replace(heard_at, now) + SILENCE
        {
            return false;
        }
        if self.events == 0 || now >= self.window_began + WINDOW {
            (self.window_began, self.events) = (now, 0);
        }
        if self.events == MOST_EVENTS {
            // Its turn comes in a later window.
            self.told.remove(&stranger);
            return false;
        }
        self.events += 1;
        self.told.insert(stranger, now);
        true
    }
}

impl Cluster {
    /// A stranger that speaks now, and its dedicated IP.
    pub(super) fn stranger_that_speaks(&self, now: Time) -> Option<(HostId, Ipv4Addr)> {
        let recently = self.config.timing.expiry() * 2;
        let last = self.strangers.last;
        last.filter(|(_, _, heard_at)| now < *heard_at + recently)
            .map(|(host, dip, _)| (host, dip))
    }

    /// Notes a frame that was rejected and tells people of it, if it names this cluster and the reason is one they should know.
    pub(super) fn note_stranger(&mut self, now: Time, payload: &[u8], reason: Reject) {
        let distrust = Distrust::from_reject(reason);
        if !self.takes_part() || (distrust.is_none() && reason != Reject::ForeignNlb) {
            return;
        }
        let primary = crate::config::four_bytes(self.config.rules.primary());
        let Ok(header) = Header::parse(payload) else {
            return;
        };
        let Some(host) = header.host_of(primary) else {
            return;
        };
        let dip = header.dip;
        self.strangers.last = Some((host, dip, now));
        if self.strangers.is_news(now, (host, distrust)) {
            self.emit(match distrust {
                Some(reason) => Event::NotBelieved { host, dip, reason },
                None => Event::ForeignNlb { host, dip },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_told_of_once_until_it_has_been_silent() {
        let mut strangers = Strangers::default();
        let host = HostId::new(3).unwrap();
        let mut now = Time::ZERO;
        let mut news = |pause: Duration| {
            now = now + pause;
            strangers.is_news(now, (host, None))
        };
        assert!(news(Duration::ZERO));
        for _ in 0..100 {
            assert!(!news(Duration::from_secs(59)));
        }
        assert!(news(Duration::from_secs(60)));
    }

    #[test]
    fn a_flood_is_told_of_a_few_times_a_minute_and_does_not_grow() {
        let mut strangers = Strangers::default();
        let reasons = [
            None,
            Some(Distrust::Unsigned),
            Some(Distrust::UnexpectedSignature),
            Some(Distrust::UnknownKey),
            Some(Distrust::BadSignature),
        ];
        let mut told = 0;
        for millis in 0..600_000u64 {
            let host = HostId::new((millis % 64) as u8 + 1).unwrap();
            let stranger = (host, reasons[(millis / 64 % 5) as usize]);
            let now = Time::from_micros(millis * 1000);
            told += u32::from(strangers.is_news(now, stranger));
        }
        assert_eq!(told, 8 * 10);
        assert!(strangers.told.len() <= 64 * 5);
    }
}

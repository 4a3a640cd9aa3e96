//! What the clients of the demo met: samples in, counts and the effect of an event out.
//!
//! Samples are kept only as long as an event may still ask for them ([`Ledger::forget_before`]); totals are
//! kept for good.

use crate::lab::generator::{Datagram, KeptNews, Request, Sample};
use covey_proto::ids::HostId;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A connection that took longer had its first SYN dropped: TCP tries again after 1 s.
const SLOW: Duration = Duration::from_millis(900);

/// The time over which the table counts requests.
pub(super) const RATE_SPAN: Duration = Duration::from_secs(1);

/// Everything so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    /// New connections asked for.
    pub(super) connections: usize,
    /// Of these, answered by one host.
    pub(super) answered: usize,
    /// Of these, failed.
    pub(super) failed: usize,
    /// Of these, answered only after TCP had tried again.
    pub(super) retried: usize,
    /// Datagrams sent.
    pub(super) datagrams: usize,
    /// Of these, answered by nobody.
    pub(super) lost: usize,
    /// Of these, answered more than once or wrongly.
    pub(super) twice: usize,
    /// Kept connections that broke.
    pub(super) broken: usize,
}

/// What an event did to clients.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Effect {
    /// Requests that began while it worked (until `dark` was over, or the cluster had converged).
    pub(super) requests: usize,
    /// Of these, how many waited for TCP's next try.
    pub(super) retried: usize,
    /// The longest time that a request took.
    pub(super) longest: Duration,
    /// Requests under way when it began that failed.
    pub(super) failed_under_way: usize,
    /// Requests begun after it that failed.
    pub(super) failed_after: usize,
    /// Why the first of all these failed.
    pub(super) reason: Option<String>,
    /// Datagrams without an answer.
    pub(super) lost: usize,
    /// Datagrams that both the old and the new owner of their bucket answered.
    pub(super) twice: usize,
    /// From the event to the last sign that something was amiss: the start of a request that failed or had to be
    /// tried again, or a datagram without an answer.
    pub(super) dark: Duration,
    /// Kept connections that broke, by the host that had them.
    pub(super) broken: BTreeMap<HostId, usize>,
}

/// The samples.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pending: BTreeMap<u64, Instant>,
    requests: Vec<Request>,
    datagrams: Vec<Datagram>,
    broken: Vec<(Instant, HostId)>,
    kept: BTreeMap<usize, HostId>,
    /// Counts since the start.
    pub(super) totals: Totals,
}

impl Request {
    fn was_retried(&self) -> bool {
        self.connected
            .is_some_and(|connected| connected - self.began > SLOW)
    }
}

impl Ledger {
    /// Takes in one sample.
    pub(super) fn enter(&mut self, sample: Sample) {
        match sample {
            Sample::Began { number, at } => {
                self.totals.connections += 1;
                self.pending.insert(number, at);
            }
            Sample::Ended(request) => {
                self.pending.remove(&request.number);
                match request.outcome {
                    Ok(_) => self.totals.answered += 1,
                    Err(_) => self.totals.failed += 1,
                }
                self.totals.retried += usize::from(request.was_retried());
                self.requests.push(request);
            }
            Sample::Datagram(datagram) => {
                self.totals.datagrams += 1;
                match datagram.answers.as_deref() {
                    Ok([]) => self.totals.lost += 1,
                    Ok([_]) => (),
                    Ok(_) | Err(_) => self.totals.twice += 1,
                }
                self.datagrams.push(datagram);
            }
            Sample::Kept { connection, news } => match news {
                KeptNews::Opened(host) => {
                    self.kept.insert(connection, host);
                }
                KeptNews::Broke { host, at } => {
                    self.totals.broken += 1;
                    self.kept.remove(&connection);
                    self.broken.push((at, host));
                }
            },
        }
    }

    /// Drops samples of what was over before this time.
    pub(super) fn forget_before(&mut self, time: Instant) {
        self.requests.retain(|request| request.ended >= time);
        self.datagrams.retain(|datagram| datagram.sent >= time);
        self.broken.retain(|(at, _)| *at >= time);
    }

    /// Whether a request that began before this time is still under way.
    pub(super) fn is_pending_from_before(&self, time: Instant) -> bool {
        self.pending.values().any(|began| *began < time)
    }

    /// Requests under way.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Requests that began after `from` and were answered, by host.
    pub(super) fn answered_by(&self, from: Instant) -> BTreeMap<HostId, usize> {
        let mut counts = BTreeMap::new();
        for request in self.requests.iter().filter(|request| request.began >= from) {
            if let Ok(host) = request.outcome {
                *counts.entry(host).or_default() += 1;
            }
        }
        counts
    }

    /// Kept connections that a host has.
    pub(super) fn kept_by(&self, host: HostId) -> usize {
        self.kept.values().filter(|owner| **owner == host).count()
    }

    /// What an event did that was brought about between `began` and `done`, after which the cluster converged at
    /// `converged`. To be asked when nothing from before `converged` is under way any more.
    pub(super) fn effect(&self, began: Instant, done: Instant, converged: Instant) -> Effect {
        let mut effect = Effect::default();
        let touched = self
            .requests
            .iter()
            .filter(|request| request.ended >= began && request.began < converged);
        let mut amiss = Vec::new();
        for request in touched.clone() {
            if let Err(reason) = &request.outcome {
                effect.reason.get_or_insert_with(|| reason.clone());
                if request.began < done {
                    effect.failed_under_way += 1;
                } else {
                    effect.failed_after += 1;
                }
            }
            if request.outcome.is_err() || request.was_retried() {
                amiss.push(request.began);
            }
            effect.longest = effect.longest.max(request.ended - request.began);
        }
        let sent_meanwhile = self
            .datagrams
            .iter()
            .filter(|datagram| datagram.sent >= began && datagram.sent < converged);
        for datagram in sent_meanwhile {
            match datagram.answers.as_deref() {
                Ok([]) => {
                    effect.lost += 1;
                    amiss.push(datagram.sent);
                }
                Ok([_, _]) => effect.twice += 1,
                Ok(_) | Err(_) => {}
            }
        }
        let last = amiss.into_iter().max();
        effect.dark = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(began));

        let working_until = last.unwrap_or(converged);
        let began_meanwhile =
            touched.filter(|request| request.began >= began && request.began <= working_until);
        for request in began_meanwhile {
            effect.requests += 1;
            effect.retried += usize::from(request.was_retried());
        }
        // A kept connection notices when it is used again, which may be after the convergence.
        for (_, host) in self.broken.iter().filter(|(at, _)| *at >= began) {
            *effect.broken.entry(*host).or_default() += 1;
        }
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u8) -> HostId {
        HostId::new(id).unwrap()
    }

    /// A request that began and ended at these milliseconds, and was connected at once unless it was tried again.
    fn request(start: Instant, began: u64, ended: u64, outcome: Result<HostId, String>) -> Sample {
        let at = |millis| start + Duration::from_millis(millis);
        let connected = outcome.is_ok().then(|| at(ended));
        Sample::Ended(Request {
            number: began,
            began: at(began),
            connected,
            ended: at(ended),
            outcome,
        })
    }

    fn datagram(start: Instant, sent: u64, answers: &[u8]) -> Sample {
        Sample::Datagram(Datagram {
            sent: start + Duration::from_millis(sent),
            answers: Ok(answers.iter().map(|answer| id(*answer)).collect()),
        })
    }

    #[test]
    fn a_crash_is_dark_until_the_last_sign_of_it() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut ledger = Ledger::default();
        let reset = || Err("reset".to_owned());
        for sample in [
            request(start, 10, 11, reset()),   // over before the event
            request(start, 95, 1300, reset()), // under way when it came
            request(start, 110, 1112, Ok(id(1))),
            request(start, 120, 121, Ok(id(1))),
            request(start, 900, 1905, Ok(id(3))),
            request(start, 950, 951, Ok(id(3))),
            request(start, 1250, 1251, Ok(id(3))),
            request(start, 1600, 1601, reset()), // after convergence
            datagram(start, 500, &[1]),
            datagram(start, 1000, &[]),
            datagram(start, 1550, &[]), // after convergence
        ] {
            ledger.enter(sample);
        }
        let effect = ledger.effect(at(100), at(110), at(1500));
        assert_eq!(
            effect,
            Effect {
                requests: 4,
                retried: 2,
                longest: Duration::from_millis(1205),
                failed_under_way: 1,
                failed_after: 0,
                reason: Some("reset".to_owned()),
                lost: 1,
                twice: 0,
                dark: Duration::from_millis(900),
                broken: BTreeMap::new(),
            }
        );
    }

    #[test]
    fn an_event_that_nobody_notices_has_no_effect() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut ledger = Ledger::default();
        ledger.enter(request(start, 100, 103, Ok(id(1))));
        ledger.enter(datagram(start, 101, &[2]));
        let effect = ledger.effect(at(50), at(60), at(200));
        assert_eq!((effect.requests, effect.retried, effect.lost), (1, 0, 0));
        assert_eq!(effect.dark, Duration::ZERO);
        assert_eq!(effect.reason, None);
    }

    #[test]
    fn totals_outlive_the_samples() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.enter(Sample::Began {
            number: 5,
            at: start,
        });
        assert!(ledger.is_pending_from_before(start + Duration::from_millis(1)));
        ledger.enter(request(start, 5, 6, Ok(id(2))));
        ledger.enter(datagram(start, 7, &[2, 2]));
        ledger.enter(datagram(start, 8, &[]));
        assert!(!ledger.is_pending_from_before(start + Duration::from_millis(10)));
        assert_eq!(ledger.answered_by(start), BTreeMap::from([(id(2), 1)]));
        ledger.forget_before(start + Duration::from_millis(10));
        assert_eq!(ledger.answered_by(start), BTreeMap::new());
        assert_eq!(
            ledger.totals,
            Totals {
                connections: 1,
                answered: 1,
                datagrams: 2,
                lost: 1,
                twice: 1,
                ..Totals::default()
            }
        );
    }

    #[test]
    fn kept_connections_belong_to_who_answers() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        let opened = KeptNews::Opened(id(1));
        ledger.enter(Sample::Kept {
            connection: 0,
            news: opened.clone(),
        });
        ledger.enter(Sample::Kept {
            connection: 1,
            news: opened,
        });
        assert_eq!(ledger.kept_by(id(1)), 2);
        let later = start + Duration::from_secs(1);
        let broke = KeptNews::Broke {
            host: id(1),
            at: later,
        };
        ledger.enter(Sample::Kept {
            connection: 0,
            news: broke,
        });
        assert_eq!(ledger.kept_by(id(1)), 1);
        let broken = |began| ledger.effect(began, began, later).broken;
        assert_eq!(broken(start), BTreeMap::from([(id(1), 1)]));
        assert_eq!(broken(later + Duration::from_millis(1)), BTreeMap::new());
    }
}

//! The events of the demo: what is done, what is said about it, and what clients may notice of it.
//!
//! The limits are those of docs/design.md, "Promises": a crash costs only the dead host's own connections; joining
//! and leaving lose nothing. A kept connection that breaks when its bucket moves is told, and not held
//! against the cluster unless a crash elsewhere broke it.

use super::ledger::Effect;
use crate::lab::state::Lab;
use anyhow::Result;
use covey_proto::config::Timing;
use covey_proto::ids::{HostId, HostSet};
use std::time::Duration;

/// Something that happens to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Its cable is cut and its daemon killed.
    Crash(HostId),
    /// It is repaired after a crash.
    Return(HostId),
    /// It is asked to leave the cluster.
    Stop(HostId),
    /// It is asked to join again.
    Start(HostId),
}

/// One round of events; after it all hosts are up again.
pub(super) fn round() -> [Event; 4] {
    let host = |id| HostId::new(id).expect("the demo's hosts are 1 to 3");
    [
        Event::Crash(host(2)),
        Event::Return(host(2)),
        Event::Stop(host(3)),
        Event::Start(host(3)),
    ]
}

impl Event {
    /// Lets it happen.
    pub(super) fn act(self, lab: &mut Lab) -> Result<()> {
        match self {
            Self::Crash(host) => lab.crash(host),
            Self::Return(host) => lab.repair(host),
            Self::Stop(host) => lab.host(host)?.stop(),
            Self::Start(host) => lab.host(host)?.start(),
        }
    }

    /// One word for it, in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Crash(_) => "crash",
            Self::Return(_) => "return",
            Self::Stop(_) => "stop",
            Self::Start(_) => "start",
        }
    }

    /// To whom it happens.
    pub(super) fn host(self) -> HostId {
        match self {
            Self::Crash(host) | Self::Return(host) | Self::Stop(host) | Self::Start(host) => host,
        }
    }

    /// The hosts that form the cluster after it.
    pub(super) fn survivors(self, everyone: HostSet) -> HostSet {
        match self {
            Self::Crash(host) | Self::Stop(host) => everyone.without(HostSet::only(host)),
            Self::Return(_) | Self::Start(_) => everyone,
        }
    }

    /// How long the cluster may take to converge after it: the silence that counts as death where one must be
    /// noticed or ruled out, the start of a daemon where there is one, and a second for a busy machine.
    pub(super) fn bound(self, timing: Timing) -> Duration {
        let second = Duration::from_secs(1);
        match self {
            Self::Crash(_) => timing.expiry() + 2 * timing.period + second,
            Self::Return(_) => 2 * timing.expiry() + 5 * second,
            Self::Stop(_) | Self::Start(_) => timing.expiry() + 2 * timing.period + second,
        }
    }

    /// What is done, as a line for the person who watches.
    pub(super) fn announcement(self) -> String {
        let host = self.host();
        match self {
            Self::Crash(_) => format!("host {host} crashes: cable cut, daemon killed"),
            Self::Return(_) => format!("host {host} comes back: cable plugged in, daemon started"),
            Self::Stop(_) => format!("host {host} leaves: covey stop"),
            Self::Start(_) => format!("host {host} joins again: covey start"),
        }
    }
}

/// An event and what was seen of it.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) event: Event,
    /// Time until the cluster had converged again; or what kept it from that within `bound`.
    pub(super) converged_after: Result<Duration, String>,
    pub(super) bound: Duration,
    pub(super) effect: Effect,
}

impl Outcome {
    /// What was seen, as a line for the person who watches.
    pub(super) fn told(&self) -> String {
        let effect = &self.effect;
        let host = self.event.host();
        let did = match self.event {
            Event::Crash(_) => format!("host {host} died"),
            Event::Return(_) => format!("host {host} came back"),
            Event::Stop(_) => format!("host {host} left"),
            Event::Start(_) => format!("host {host} joined"),
        };
        let failed = effect.failed_under_way + effect.failed_after;
        let mut seen = Vec::new();
        if effect.retried > 0 {
            seen.push(format!(
                "{:.0} % of new connections stalled for {:.2} s (the slowest took {:.2} s)",
                effect.retried as f64 / effect.requests.max(1) as f64 * 100.0,
                effect.dark.as_secs_f64(),
                effect.longest.as_secs_f64()
            ));
        }
        if effect.lost > 0 {
            seen.push(format!("{} got no answer", count(effect.lost, "datagram")));
        }
        if effect.twice > 0 {
            seen.push(format!(
                "{} got two answers",
                count(effect.twice, "datagram")
            ));
        }
        if failed > 0 {
            let reason = effect.reason.as_deref().unwrap_or("no reason known");
            seen.push(format!("{} failed ({reason})", count(failed, "request")));
        }
        for (owner, broken) in &effect.broken {
            seen.push(format!(
                "{} to host {owner} broke",
                count(*broken, "kept connection")
            ));
        }
        let rest = match self.event {
            Event::Crash(_) if effect.failed_after == 0 && effect.retried > 0 => {
                "everybody else noticed nothing"
            }
            _ if seen.is_empty() => "nobody noticed",
            _ => "",
        };
        seen.extend((!rest.is_empty()).then(|| rest.to_owned()));
        let converged = match &self.converged_after {
            Ok(took) => format!("converged after {:.2} s", took.as_secs_f64()),
            Err(obstacle) => format!(
                "not converged within {:.2} s: {obstacle}",
                self.bound.as_secs_f64()
            ),
        };
        format!("{did}: {}; {converged}", seen.join(", "))
    }

    /// Requests that failed and may not have. A request that is under way while its bucket moves is on an
    /// established connection, and breaks with it: that is told, as with kept connections.
    pub(super) fn failures_not_allowed(&self) -> usize {
        self.effect.failed_after
    }

    /// Kept connections that broke though their host did not crash and no bucket had to move.
    pub(super) fn breaks_not_allowed(&self) -> usize {
        let broken = self.effect.broken.iter();
        match self.event {
            Event::Crash(host) => broken
                .filter(|(owner, _)| **owner != host)
                .map(|(_, count)| count)
                .sum(),
            Event::Return(_) | Event::Stop(_) | Event::Start(_) => 0,
        }
    }
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn id(id: u8) -> HostId {
        HostId::new(id).unwrap()
    }

    fn outcome(event: Event, effect: Effect) -> Outcome {
        Outcome {
            event,
            converged_after: Ok(Duration::from_millis(1070)),
            bound: Duration::from_secs(3),
            effect,
        }
    }

    fn crash() -> Effect {
        Effect {
            requests: 200,
            retried: 62,
            longest: Duration::from_millis(2010),
            failed_under_way: 1,
            failed_after: 0,
            reason: Some("the connection broke: reset".to_owned()),
            twice: 0,
            lost: 33,
            dark: Duration::from_millis(1066),
            broken: BTreeMap::from([(id(2), 4)]),
        }
    }

    #[test]
    fn a_crash_is_told_as_clients_saw_it() {
        assert_eq!(
            outcome(Event::Crash(id(2)), crash()).told(),
            "host 2 died: 31 % of new connections stalled for 1.07 s (the slowest took 2.01 s), \
             33 datagrams got no answer, 1 request failed (the connection broke: reset), \
             4 kept connections to host 2 broke, everybody else noticed nothing; converged after 1.07 s"
        );
        assert_eq!(
            outcome(Event::Stop(id(3)), Effect::default()).told(),
            "host 3 left: nobody noticed; converged after 1.07 s"
        );
    }

    #[test]
    fn a_crash_may_cost_the_dead_hosts_own_and_nothing_else() {
        let crashed = outcome(Event::Crash(id(2)), crash());
        assert_eq!(crashed.failures_not_allowed(), 0);
        assert_eq!(crashed.breaks_not_allowed(), 0);
        let elsewhere = outcome(Event::Crash(id(1)), crash());
        assert_eq!(elsewhere.breaks_not_allowed(), 4);
        let mut later = crash();
        later.failed_after = 1;
        assert_eq!(outcome(Event::Stop(id(2)), later).failures_not_allowed(), 1);
    }

    #[test]
    fn after_a_round_everybody_is_up() {
        let everyone: HostSet = [1, 2, 3].into_iter().filter_map(HostId::new).collect();
        let last = round()[3];
        assert_eq!(last.survivors(everyone), everyone);
        assert_eq!(round()[0].survivors(everyone).to_string(), "1,3");
    }
}

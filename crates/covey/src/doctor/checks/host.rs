//! Checks of the host itself: its daemon, its configuration, its services.

use super::{Looked, found};
use crate::doctor::evidence::{Daemon, Evidence};
use crate::doctor::{Finding, Kind};
use crate::duration;
use crate::status::Status;
use std::time::Duration;

/// A host that boots starts its services beside the daemon, or after it.
const SERVICES_START: Duration = Duration::from_secs(10);
/// For so long afterwards people are told that the host was late.
const LATE_FOR: Duration = Duration::from_secs(600);
/// Connections refused lately, from which on they are no accident.
const REFUSED: u64 = 10;

pub(super) fn milliseconds(ms: f64) -> String {
    duration::format(Duration::from_secs_f64(ms.max(0.0) / 1e3))
}

/// How long a lease lasts, ms.
pub(super) fn budget(status: &Status) -> f64 {
    status.cluster.period_ms * f64::from(status.cluster.tolerance)
}

pub(super) fn daemon(evidence: &Evidence) -> Looked {
    found(match &evidence.daemon {
        Daemon::Answers(_) => None,
        Daemon::NotRunning(why) => Some(
            Finding::new(
                Kind::DaemonNotRunning,
                "No covey daemon runs in this network namespace, so this host takes no part in a cluster.",
            )
            .seen(why),
        ),
        Daemon::Hangs(why) => Some(
            Finding::new(
                Kind::DaemonHangs,
                "The covey daemon of this host is there, but does not answer.",
            )
            .seen(why),
        ),
    })
}

pub(super) fn configuration(evidence: &Evidence) -> Looked {
    let errors = evidence.configuration.as_ref()?.as_ref().err();
    found(errors.map(|errors| {
        let mut finding = Finding::new(
            Kind::ConfigurationWrong,
            "The configuration file cannot be used as it stands.",
        );
        finding.evidence = errors.lines().map(str::to_owned).collect();
        finding
    }))
}

pub(super) fn realtime(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let how = evidence.machine.as_ref()?.scheduling?;
    let lacks = match (how.first, how.locked) {
        (true, true) => None,
        (false, true) => Some("real-time priority"),
        (true, false) => Some("locked memory"),
        (false, false) => Some("real-time priority and locked memory"),
    };
    found(lacks.filter(|_| status.host.realtime).map(|lacks| {
        let pid = status.host.pid;
        Finding::new(
            Kind::NoRealtime,
            format!("The daemon asks for {lacks} and does not have it, so a busy machine may make heartbeats late."),
        )
        .seen(format!("process {pid}; daemon.realtime is true"))
    }))
}

pub(super) fn lateness(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let recent = |ago_ms: f64| ago_ms <= LATE_FOR.as_secs_f64() * 1e3;
    let Some(late) = &status.troubles.late else {
        return Some(Vec::new());
    };
    let budget = budget(status);
    // A little late is what the tolerance is for.
    let matters = late.worst_ms * 2.0 >= budget && recent(late.ago_ms);
    found(matters.then(|| {
        let (worst, ago) = (milliseconds(late.worst_ms), milliseconds(late.ago_ms));
        let fenced = status.troubles.fenced.as_ref();
        let fenced = fenced.filter(|fenced| recent(fenced.ago_ms));
        let so = match fenced {
            Some(_) => ", and it stopped serving meanwhile",
            None => "",
        };
        let finding = Finding::new(
            Kind::Starved,
            format!(
                "The timers of this host fired up to {worst} late, last {ago} ago{so}: it was stopped, or got no processor."
            ),
        )
        .seen(format!(
            "a lease lasts {} (period {}, tolerance {})",
            milliseconds(budget),
            milliseconds(status.cluster.period_ms),
            status.cluster.tolerance
        ));
        match fenced {
            Some(fenced) => finding.seen(format!(
                "stopped serving {} time(s), last {} ago: {}",
                fenced.times,
                milliseconds(fenced.ago_ms),
                fenced.why
            )),
            None => finding,
        }
    }))
}

pub(super) fn services(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let unserved = evidence.machine.as_ref()?.unserved.as_ref()?;
    if u128::from(status.host.uptime_ms) < SERVICES_START.as_millis() {
        return None;
    }
    let finding = |service: &crate::doctor::evidence::Service| {
        let (rule, traffic) = (service.rule, service.traffic());
        Finding::new(
            Kind::ServiceNotListening,
            format!(
                "Nothing on this host listens for port rule {rule} ({traffic}): clients that are sent here are refused."
            ),
        )
        .about(rule)
    };
    Some(unserved.iter().map(finding).collect())
}

pub(super) fn full_queues(evidence: &Evidence) -> Looked {
    let recent = &evidence.status()?.recent;
    if recent.window_ms == 0 {
        return None;
    }
    found((recent.refused >= REFUSED).then(|| {
        Finding::new(
            Kind::ClientsRefused,
            format!(
                "The kernel refused {} connections in the last {} because the listening queue of a service was full.",
                recent.refused,
                duration::format(Duration::from_millis(recent.window_ms))
            ),
        )
        .seen(format!("ListenOverflows grew by {}", recent.refused))
    }))
}

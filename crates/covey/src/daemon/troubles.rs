//! Puts what the core knows to be wrong between hosts into the read model. Used by report.rs.
//! Specification: docs/design.md, "Doctor".

use super::journal::ids;
use crate::status::{EqualPriorities, Exclusion, Fenced, Late, LeftOut, Troubles, Twins};
use covey_proto::cluster;
use covey_proto::ids::HostId;
use covey_proto::time::Time;
use std::time::Duration;

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// As the core sees it at time `now`, with what the daemon knows of its own stops.
pub(super) fn told(now: Time, core: cluster::Troubles, fenced: Option<Fenced>) -> Troubles {
    Troubles {
        left_out: core.left_out.into_iter().map(left_out).collect(),
        twins: core.twins.into_iter().map(twins).collect(),
        equal_priorities: core
            .equal_priorities
            .into_iter()
            .map(|(rule, taker, other)| EqualPriorities {
                rule,
                taker: taker.get(),
                other: other.get(),
            })
            .collect(),
        other_mode: ids(core.other_mode),
        direct_only: ids(core.direct_only),
        probing_only: ids(core.probing_only),
        answer_arp_only: ids(core.answer_arp_only),
        late: core.late.map(|late| Late {
            worst_ms: millis(late.worst),
            ago_ms: millis(now.since(late.at)),
        }),
        fenced,
        converging_ms: core.converging_since.map(|since| millis(now.since(since))),
    }
}

fn left_out((host, why): (HostId, cluster::Exclusion)) -> LeftOut {
    let (mut difference, mut other, mut wait_ms) = (None, None, None);
    let reason = match why {
        cluster::Exclusion::Rules(words) => {
            difference = Some(words).filter(|words| !words.is_empty());
            Exclusion::Rules
        }
        cluster::Exclusion::Mode => Exclusion::Mode,
        cluster::Exclusion::Flapping(wait) => {
            wait_ms = Some(millis(wait));
            Exclusion::Flapping
        }
        cluster::Exclusion::Listening => Exclusion::Listening,
        cluster::Exclusion::Hearing(host) => {
            other = Some(host.get());
            Exclusion::Hearing
        }
    };
    LeftOut {
        host: host.get(),
        reason,
        difference,
        other,
        wait_ms,
    }
}

fn twins(twins: cluster::Twins) -> Twins {
    let ((name, mac), (other_name, other_mac)) = (twins.one, twins.other);
    Twins {
        host: twins.host.get(),
        name,
        mac: mac.to_string(),
        other_name,
        other_mac: other_mac.to_string(),
    }
}

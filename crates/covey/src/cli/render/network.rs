//! `covey status -v`, the part about the segment: what reaches whom, and what else has been seen.
//!
//! Facts only; what follows from them is `covey doctor`'s to say. Specification: docs/design.md, "Network evidence".

use super::ranges;
use super::table::{Align, Cell, Paint, Table, Tone, labelled};
use crate::duration;
use crate::status::{Arrivals, Count, NetworkStatus, Status};
use std::time::Duration;

/// A table with a row per host, and lines below it.
pub(super) fn network(status: &Status, paint: Paint) -> String {
    let network = &status.network;
    if network.reach.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        ("AT HOST", Align::Right),
        ("MTU", Align::Right),
        ("BROADCAST FROM", Align::Left),
        ("CLUSTER MAC FROM", Align::Left),
        ("OWN MAC FROM", Align::Left),
    ]);
    for row in &network.reach {
        let mtu = row
            .mtu
            .map_or_else(|| "-".to_owned(), |mtu| mtu.to_string());
        table.push([
            row.host.to_string().into(),
            mtu.into(),
            arrivals(&row.broadcast),
            arrivals(&row.cluster_mac),
            arrivals(&row.own_mac),
        ]);
    }
    let mut lines = vec![
        ("Probes", probes(network)),
        ("Leaks", leaks(network)),
        ("Arrived", arrived(network)),
        ("Lost", lost(network)),
        ("Neighbours", neighbours(network)),
    ];
    let claims = claims(network);
    if !claims.is_empty() {
        lines.push(("Claimed", claims));
    }
    format!("{}\n{}", table.render(paint), labelled(&lines))
}

/// `1,2`, `1, not 3`, or `-` for nobody and nothing known.
fn arrivals(arrivals: &Arrivals) -> Cell {
    let from = ranges(&arrivals.from, ",");
    let missing = ranges(&arrivals.missing, ",");
    match (from.is_empty(), missing.is_empty()) {
        (true, true) => "-".into(),
        (false, true) => from.into(),
        (true, false) => Cell::toned(format!("not {missing}"), Tone::Bad),
        (false, false) => Cell::toned(format!("{from}, not {missing}"), Tone::Bad),
    }
}

fn milliseconds(ms: u64) -> String {
    duration::format(Duration::from_millis(ms))
}

fn probes(network: &NetworkStatus) -> String {
    let interval = Duration::from_secs_f64(network.probe_interval_ms.max(0.0) / 1e3);
    let every = format!("every {}", duration::format(interval));
    match network.cluster_mac_learned_at {
        Some(host) => format!(
            "{every}; those to the cluster MAC reach host {host} alone: a switch has learned it at that host's port"
        ),
        None => every,
    }
}

/// `17, 3 of them in the last 50 s`.
fn count(count: Count, network: &NetworkStatus) -> String {
    format!(
        "{}, {} of them in the last {}",
        count.total,
        count.recent,
        milliseconds(network.recent_ms)
    )
}

fn leaks(network: &NetworkStatus) -> String {
    format!(
        "frames with the cluster MAC as their source: {} seen here, {} stopped here ({} and {} of them in the last {})",
        network.leaks_seen.total,
        network.leaks_stopped.total,
        network.leaks_seen.recent,
        network.leaks_stopped.recent,
        milliseconds(network.recent_ms)
    )
}

fn arrived(network: &NetworkStatus) -> String {
    format!(
        "for the cluster {}; for other machines {}",
        count(network.cluster_frames, network),
        count(network.frames_for_others, network)
    )
}

fn lost(network: &NetworkStatus) -> String {
    let rows = network.heartbeats.iter().filter(|row| row.lost > 0);
    let rows: Vec<String> = rows
        .map(|row| {
            let sent = row.received + row.lost;
            format!("{} of {sent} heartbeats of host {}", row.lost, row.host)
        })
        .collect();
    let recent = milliseconds(network.recent_ms);
    if rows.is_empty() {
        format!("no heartbeat in the last {recent}")
    } else {
        format!("{}, in the last {recent}", rows.join(", "))
    }
}

fn neighbours(network: &NetworkStatus) -> String {
    let neighbours = network.neighbours.iter();
    let neighbours: Vec<String> = neighbours
        .map(|neighbour| format!("{} ({})", neighbour.address, neighbour.mac))
        .collect();
    if neighbours.is_empty() {
        "none but the hosts of the cluster".to_owned()
    } else {
        neighbours.join(", ")
    }
}

fn claims(network: &NetworkStatus) -> String {
    let claims = network.claimants.iter().map(|claimant| {
        let host = claimant
            .host
            .map_or_else(String::new, |host| format!(", which is host {host}"));
        format!(
            "{} by {}{host}, {} ago",
            claimant.vip,
            claimant.mac,
            milliseconds(claimant.last_ms)
        )
    });
    claims.collect::<Vec<_>>().join("; ")
}

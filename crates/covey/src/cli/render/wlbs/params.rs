//! NLB's parameters, under NLB's names (NLB facts §4.1, §5.2; NLB cmdlets §1.2), as far as Covey has them.

use crate::status::{HostState, Status};
use std::net::{IpAddr, Ipv4Addr};

/// One `name = value` per line.
pub(super) fn params(status: &Status) -> String {
    let (cluster, host) = (&status.cluster, &status.host);
    let primary = cluster.vips.first();
    let current = match host.state {
        HostState::Stopped => "STOPPED",
        HostState::Suspended => "SUSPENDED",
        HostState::Converging | HostState::Draining | HostState::Converged => "STARTED",
    };
    let persisted = if host.persist_state {
        "STARTED, STOPPED, SUSPENDED"
    } else {
        "NONE"
    };
    let on = |flag: bool| u8::from(flag).to_string();
    let vips: Vec<String> = cluster.vips.iter().map(ToString::to_string).collect();
    [
        ("AliveMsgPeriod", cluster.period_ms.to_string()),
        ("AliveMsgTolerance", cluster.tolerance.to_string()),
        ("ClusterNetworkAddress", dashed(&cluster.mac)),
        ("ClusterName", cluster.name.clone()),
        (
            "ClusterIPAddress",
            primary.map_or_else(String::new, ToString::to_string),
        ),
        ("ClusterNetworkMask", mask(primary, cluster.prefix)),
        ("VirtualIPAddresses", vips.join(", ")),
        ("DedicatedIPAddress", host.dip.to_string()),
        ("HostPriority", host.id.to_string()),
        ("ClusterModeOnStart", host.initial_state.to_uppercase()),
        ("PersistedStates", persisted.to_owned()),
        ("CurrentHostState", current.to_owned()),
        ("MulticastSupportEnable", on(cluster.mode != "unicast")),
        ("IGMPSupport", on(cluster.mode == "igmp")),
        (
            "NumberOfRules",
            status.rules.len().saturating_sub(1).to_string(),
        ),
    ]
    .iter()
    .map(|(name, value)| format!("{name} = {value}\n"))
    .collect()
}

/// A MAC as NLB writes it.
pub(super) fn dashed(mac: &str) -> String {
    mac.replace(':', "-")
}

/// NLB shows masks, and `::` for IPv6 (NLB cmdlets §1.1).
fn mask(primary: Option<&IpAddr>, prefix: u8) -> String {
    match primary {
        Some(IpAddr::V4(_)) => {
            let ones = u32::MAX.checked_shl(32 - u32::from(prefix.min(32)));
            Ipv4Addr::from_bits(ones.unwrap_or(0)).to_string()
        }
        Some(IpAddr::V6(_)) | None => "::".to_owned(),
    }
}

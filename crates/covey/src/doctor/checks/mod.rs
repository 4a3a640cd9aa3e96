//! The checks: each looks at one thing. It says what is wrong with it, or nothing if the evidence for it is not there.
//!
//! Called by [`super::examine`], one after the other. A check never remembers anything and never asks the machine.
//! Specification: docs/design.md, "Doctor".

mod cluster;
mod host;
mod nic;
mod segment;

use super::{Evidence, Finding, hosts};

/// What is wrong with what was looked at; `None` if it could not be looked at.
type Looked = Option<Vec<Finding>>;

/// One of the checks.
pub(super) type Check = fn(&Evidence) -> Looked;

/// All of them.
pub(super) const ALL: [Check; 43] = [
    host::daemon,
    host::configuration,
    host::realtime,
    host::lateness,
    host::services,
    host::full_queues,
    nic::link,
    nic::filter,
    nic::attachment,
    nic::cluster_mac,
    nic::teaming,
    nic::receive_offload,
    nic::vips,
    nic::vips_elsewhere,
    nic::loopback,
    nic::own_ipv6,
    nic::arp_settings,
    nic::reverse_path,
    nic::ways_out,
    cluster::convergence,
    cluster::company,
    cluster::silent_hosts,
    cluster::rules,
    cluster::modes,
    cluster::identities,
    cluster::priorities,
    cluster::flapping,
    cluster::keys,
    cluster::signatures,
    cluster::versions,
    cluster::unruled_traffic,
    segment::broadcasts,
    segment::unheard,
    segment::silent_daemons,
    segment::lost_heartbeats,
    segment::hearing,
    segment::strangers,
    segment::flooding,
    segment::querier,
    segment::leaks,
    segment::claimants,
    segment::neighbourhood,
    segment::gateways,
];

/// The finding, if it is one.
fn found(finding: Option<Finding>) -> Looked {
    Some(finding.into_iter().collect())
}

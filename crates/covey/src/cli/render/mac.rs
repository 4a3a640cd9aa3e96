//! `covey ip2mac`: the cluster MACs that NLB derives from a primary virtual IP (NLB facts §2.1).

use super::table::labelled;
use covey_proto::config::{ClusterMode, cluster_mac};
use serde::Serialize;
use std::net::IpAddr;

/// The cluster MACs of one address, by mode.
#[derive(Serialize)]
pub(in crate::cli) struct ClusterMacs {
    ip: IpAddr,
    unicast: String,
    multicast: String,
    igmp: String,
}

impl ClusterMacs {
    pub(in crate::cli) fn of(ip: IpAddr) -> Self {
        let mac = |mode| cluster_mac(mode, ip).to_string();
        Self {
            ip,
            unicast: mac(ClusterMode::Unicast),
            multicast: mac(ClusterMode::Multicast),
            igmp: mac(ClusterMode::Igmp),
        }
    }
}

/// The MACs as a list.
pub(in crate::cli) fn ip2mac(macs: &ClusterMacs) -> String {
    labelled(&[
        ("Cluster", macs.ip.to_string()),
        ("Unicast", macs.unicast.clone()),
        ("Multicast", macs.multicast.clone()),
        ("IGMP", macs.igmp.clone()),
    ])
}

//! What follows on the machine when the mode or the cluster MAC changes, or is about to.
//!
//! Called by the daemon when it starts, when a configuration was read again, so that the NIC takes a new cluster MAC before any host
//! uses it, and when a map has come into force. Specification: docs/design.md, "Modes".

use super::Daemon;
use crate::config::Config;
use crate::host::Plan;
use covey_proto::Cluster;

/// What the machine must look like for a host of this cluster.
pub(super) fn plan(config: &Config, cluster: &Cluster) -> Plan {
    Plan {
        interface: config.host.interface.clone(),
        vips: config.rules.vips().to_vec(),
        macs: cluster.macs(),
    }
}

impl Daemon {
    /// Has the NIC take frames to every MAC that the cluster has, had or may have, and switches bring them.
    pub(super) fn take_macs(&mut self) {
        let plan = plan(&self.config, &self.cluster);
        if let Err(error) = self.setup.adapt(&plan) {
            tracing::error!("this host may miss frames to the cluster: {error}");
        }
        self.join_groups();
    }

    /// A map has come into force: if it is for another mode or cluster MAC, the machine follows.
    pub(super) fn follow_delivery(&mut self) {
        let delivery = self.cluster.delivery();
        if std::mem::replace(&mut self.delivery, delivery) != delivery {
            tracing::info!(
                "the cluster is in {} mode now, its MAC is {}",
                delivery.mode(),
                delivery.mac()
            );
            self.take_macs();
        }
    }
}

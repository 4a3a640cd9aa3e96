//! What a host tells of the paths on which others reach it: a record of the heartbeat, 64 bytes however many hosts
//! there are.
//!
//! Filled and read by `cluster/probing.rs`. Specification: docs/design.md, "Network evidence".

use crate::ids::HostSet;
use crate::wire::Reject;
use crate::wire::reader::Reader;

/// From whom something arrives. Hosts in neither set are not heard, or it is not known yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// It arrives from these.
    pub from: HostSet,
    /// Heartbeats of these arrive somehow, but not this.
    pub missing: HostSet,
}

/// On which paths the sender hears whom, and what the others need to know to find out the same of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The sequence under which it has sent its last probes; 0 before the first.
    pub probed: u64,
    /// Bytes of the largest packet that its NIC sends; 0 if it does not know.
    pub mtu: u32,
    /// Heartbeats that are sent to all.
    pub broadcast: Arrivals,
    /// Probes to the cluster MAC.
    pub cluster_mac: Arrivals,
    /// Probes to its own MAC.
    pub own_mac: Arrivals,
}

impl Reach {
    pub(super) fn emit(&self, value: &mut Vec<u8>) {
        value.extend_from_slice(&self.probed.to_le_bytes());
        value.extend_from_slice(&self.mtu.to_le_bytes());
        for arrivals in [self.broadcast, self.cluster_mac, self.own_mac] {
            value.extend_from_slice(&arrivals.from.bits().to_le_bytes());
            value.extend_from_slice(&arrivals.missing.bits().to_le_bytes());
        }
    }

    pub(super) fn parse(value: &mut Reader<'_>) -> Result<Self, Reject> {
        let (probed, mtu) = (value.u64()?, value.u32()?);
        let mut arrivals = || {
            Ok(Arrivals {
                from: HostSet::from_bits(value.u64()?),
                missing: HostSet::from_bits(value.u64()?),
            })
        };
        Ok(Self {
            probed,
            mtu,
            broadcast: arrivals()?,
            cluster_mac: arrivals()?,
            own_mac: arrivals()?,
        })
    }
}

//! The frame of Q258609: an LLC frame with the cluster MAC as source, from below the guard.
//!
//! Network Monitor sent such frames to tell others that it was listening; they came from a driver below WLBS, which could
//! not mask them. A packet socket that goes past tc is below Covey's guard in the same way. docs/design.md, "The lab".

use crate::lab::netns::run_in;
use crate::lab::packet::{NOTHING, PacketSocket};
use crate::lab::topology::NIC;
use anyhow::{Context, Result};
use covey_proto::ids::Mac;

/// A group address that every switch floods and no stack listens to.
const DESTINATION: Mac = Mac([0x03, 0, 0, 0, 0, 0x02]);

/// Sends one such frame from a host.
///
/// # Errors
/// If it cannot be sent.
pub(super) fn leak(namespace: &str, cluster_mac: Mac) -> Result<()> {
    run_in(namespace, || {
        PacketSocket::open(NIC, NOTHING)?
            .past_tc()?
            .send(&llc_frame(cluster_mac))
            .context("the frame with the cluster MAC as source cannot be sent")
    })
}

/// A length in place of an EtherType, then LLC: unnumbered information of the null service. Padded to Ethernet's least.
pub(in crate::lab) fn llc_frame(source: Mac) -> Vec<u8> {
    let llc = [0x00, 0x00, 0x03];
    let length = (llc.len() as u16).to_be_bytes();
    let mut frame = [&DESTINATION.0[..], &source.0, &length, &llc].concat();
    frame.resize(60, 0);
    frame
}

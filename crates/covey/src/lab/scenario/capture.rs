//! Heartbeats as they pass on the wire, heard by the client: what each frame says, and when it came.

use super::super::netns::run_in;
use super::super::packet::PacketSocket;
use super::super::topology::NIC;
use anyhow::Result;
use covey_proto::ids::Mac;
use covey_proto::wire::ethernet::{Ethernet, HEARTBEAT, LEGACY_HEARTBEAT};
use std::thread;
use std::time::{Duration, Instant};

/// A heartbeat frame that was heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) at: Instant,
    pub(super) destination: Mac,
    pub(super) source: Mac,
    pub(super) ethertype: u16,
    /// Bytes, without the checksum.
    pub(super) length: usize,
}

/// Listens for a time, in a namespace, to both EtherTypes.
///
/// # Errors
/// If the namespace cannot be entered or the NIC not be listened to.
pub(super) fn listen(namespace: &str, time: Duration) -> Result<Vec<Heard>> {
    run_in(namespace, || {
        let sockets = [
            PacketSocket::open(NIC, HEARTBEAT)?,
            PacketSocket::open(NIC, LEGACY_HEARTBEAT)?,
        ];
        let mut heard = Vec::new();
        let start = Instant::now();
        let mut buffer = [0; 2048];
        while start.elapsed() < time {
            for socket in &sockets {
                while let Some(length) = socket.receive(&mut buffer) {
                    if let Ok(frame) = Ethernet::parse(&buffer[..length]) {
                        heard.push(Heard {
                            at: Instant::now(),
                            destination: frame.destination,
                            source: frame.source,
                            ethertype: frame.ethertype,
                            length,
                        });
                    }
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(heard)
    })
}

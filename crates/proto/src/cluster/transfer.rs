//! Giving a map to a host that lacks it: a newcomer can compute the next map only from the one in force.
//!
//! The host asks in its heartbeat, the proposer answers with the encoded map in parts. At most one map is
//! received at a time, into a buffer whose size is bounded. [`Parts`] puts together whatever travels in chunks.
//! Specification: docs/design.md, "On the wire".

use super::Cluster;
use crate::ids::HostId;
use crate::placement::Placement;
use crate::time::Time;
use crate::wire::heartbeat::{Base, CHUNK_LEN, Chunk, Subject};
use std::sync::Arc;

/// Something large that arrives in chunks.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    bytes: Vec<u8>,
    missing: Vec<bool>,
}

impl Parts {
    /// A buffer for `total` bytes; whoever calls this has bounded it.
    pub(super) fn new(total: usize) -> Self {
        Self {
            bytes: vec![0; total],
            missing: vec![true; total.div_ceil(CHUNK_LEN)],
        }
    }

    /// Puts a chunk in its place; the whole, once it is complete. Chunks of something of another length are ignored.
    pub(super) fn add(&mut self, chunk: &Chunk) -> Option<&[u8]> {
        let start = chunk.offset as usize;
        let fits = chunk.total as usize == self.total();
        let part = self.bytes.get_mut(start..start + chunk.bytes.len());
        let missing = self.missing.get_mut(start / CHUNK_LEN);
        if let (true, Some(part), Some(missing)) = (fits, part, missing) {
            part.copy_from_slice(&chunk.bytes);
            *missing = false;
        }
        (!self.missing.contains(&true)).then_some(&self.bytes)
    }

    /// Length of the whole, bytes.
    fn total(&self) -> usize {
        self.bytes.len()
    }
}

/// A map that is being received in parts.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    base: Base,
    parts: Parts,
    placement: Option<Arc<Placement>>,
}

impl Cluster {
    /// Asks the proposer for the map that its proposal starts from.
    pub(super) fn ask_for(&mut self, now: Time, base: Base) {
        if self.wanted != Some(base) {
            self.wanted = Some(base);
            self.hurry(now);
        }
    }

    /// A member needs the map that the open proposal starts from: sends it to all, but not more often than
    /// heartbeats out of turn, because several may ask at once.
    pub(super) fn send_wanted_map(&mut self, now: Time, wanted: Base) {
        let offered = self
            .proposed
            .as_ref()
            .is_some_and(|open| open.proposal.base == Some(wanted));
        let Some(committed) = self
            .committed
            .as_ref()
            .filter(|_| offered && now >= self.chunks_after)
        else {
            return;
        };
        self.chunks_after = now + self.urgent_gap();
        let encoded = committed.placement.encode();
        self.send_in_chunks(now, Subject::Map(wanted), &encoded);
    }

    /// Takes a part of a map from the host whose open proposal starts from it.
    pub(super) fn on_map_chunk(&mut self, from: HostId, base: Base, chunk: &Chunk) {
        let proposal = self
            .peers
            .alive_peer(from)
            .and_then(|peer| peer.heartbeat.proposal);
        let wanted = proposal.is_some_and(|proposal| proposal.base == Some(base));
        let total = chunk.total as usize;
        if !wanted || total > Placement::MAX_ENCODED || self.placement_of(base).is_some() {
            return;
        }
        let fits = |transfer: &Transfer| transfer.base == base && transfer.parts.total() == total;
        let mut transfer = self
            .transfer
            .take()
            .filter(fits)
            .unwrap_or_else(|| Transfer {
                base,
                parts: Parts::new(total),
                placement: None,
            });
        if let Some(bytes) = transfer.parts.add(chunk) {
            let whole = Placement::decode(bytes).filter(|map| map.digest() == base.digest);
            transfer.placement = whole.map(Arc::new);
            self.wanted = None;
        }
        self.transfer = Some(transfer);
    }

    pub(super) fn placement_of(&self, base: Base) -> Option<Arc<Placement>> {
        let committed = self.committed.as_ref().filter(|map| map.base() == base);
        let received = self
            .transfer
            .as_ref()
            .filter(|transfer| transfer.base == base);
        committed
            .map(|map| map.placement.clone())
            .or_else(|| received.and_then(|transfer| transfer.placement.clone()))
    }
}

//! Connections that this host owns and does not have. A segment of one that is still shared is dropped in silence,
//! because another host may have it; user space hears of it, asks the others, and says if nobody does: then the
//! next segment gets to the kernel, which resets it. Specification: docs/design.md, "Connections".
//!
//! | map         | holds                                                    | written by     |
//! |-------------|----------------------------------------------------------|----------------|
//! | `UNCLAIMED` | ring of `Ends`; what does not fit is not told            | these programs |
//! | `ORPHANS`   | `Ends` -> CLOCK_MONOTONIC, ns, until which that is known | user space     |

use crate::maps::coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, RingBuf};
use covey_filter::Ends;

#[map]
static UNCLAIMED: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

#[map]
static ORPHANS: LruHashMap<[u64; 5], u64> = LruHashMap::with_max_entries(1024, 0);

/// Whether nobody has the connection of a segment, as far as is known.
#[inline(always)]
pub(crate) fn is_known(ends: Ends) -> bool {
    ORPHANS
        .get_ptr(&ends.0)
        // SAFETY: the pointer is to a map value, which user space writes whole.
        .is_some_and(|until| coarse_ns() < unsafe { until.read_volatile() })
}

/// Tells user space of a segment that this host has dropped though its bucket is this host's.
#[inline(always)]
pub(crate) fn report(ends: Ends) {
    // If the ring is full there is more to ask about than anybody will.
    let _ = UNCLAIMED.output::<[u64; 5]>(&ends.0, 0);
}

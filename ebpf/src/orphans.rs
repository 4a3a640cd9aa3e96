//! Connections that this host owns and does not have. A segment of one that is still shared is dropped in silence,
//! because another host may have it; user space hears of it, asks the others, and says if nobody does: then the
//! next segment gets to the kernel, which resets it. Specification: docs/design.md, "Connections".
//!
//! | map         | holds                                                    | written by     |
//! |-------------|----------------------------------------------------------|----------------|
//! | `UNCLAIMED` | ring of `Ends`; what does not fit is not told            | these programs |
//! | `ORPHANS`   | `Ends` -> `Disowned`                                     | user space     |

use crate::maps::coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, RingBuf};
use covey_filter::{Disowned, Ends};

#[map]
static UNCLAIMED: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

#[map]
static ORPHANS: LruHashMap<[u64; 5], Disowned> = LruHashMap::with_max_entries(1024, 0);

/// Whether nobody has the connection of a segment, as far as is known under the map in force.
#[inline(always)]
pub(crate) fn is_known(ends: Ends, map: u64) -> bool {
    ORPHANS
        .get_ptr(&ends.0)
        // SAFETY: the pointer is to a map value. It is written before it is found, and each word whole.
        .map(|known| unsafe { known.read_volatile() })
        .is_some_and(|known| known.holds(coarse_ns(), map))
}

/// Tells user space of a segment that this host has dropped though its bucket is this host's.
#[inline(always)]
pub(crate) fn report(ends: Ends) {
    // If the ring is full there is more to ask about than anybody will.
    let _ = UNCLAIMED.output::<[u64; 5]>(&ends.0, 0);
}

//! The maps, and the tables of the generation in force as `covey-filter` wants them. User space
//! (`crates/covey/src/datapath`) knows them by these names, and writes the first three as mapped memory.
//! Specification: docs/design.md, "Data path".
//!
//! | map          | value        | entries        | written by                                   |
//! |--------------|--------------|----------------|----------------------------------------------|
//! | `TABLES`     | `Generation` | 2              | user space, only the one that is not in force |
//! | `IN_FORCE`   | u64          | 1              | user space: one aligned store flips           |
//! | `LEASE`      | u64, ns      | 1              | user space: end of the lease                  |
//! | `COUNTERS`   | u64          | one per reason | these programs, per CPU                       |
//! | `SEEN`       | u32 x 4096   | one per rule   | these programs: last second with traffic      |

use crate::sockets;
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use core::cell::Cell;
use core::ffi::c_void;
use covey_filter::{
    BUCKETS, Flow, Generation, MacBytes, RULE_SLOTS, Reason, Row, RuleEntry, Segment, Settings,
    Socket, Tables, VipSlot,
};

#[map]
static TABLES: Array<Generation> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// Index into `TABLES`.
#[map]
static IN_FORCE: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// CLOCK_MONOTONIC until which this host may serve.
#[map]
static LEASE: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// For each bucket of a sticky rule the second of CLOCK_MONOTONIC in which it last had traffic that this host took;
/// 0: not yet. User space sets it back.
#[map]
static SEEN: Array<[u32; BUCKETS]> = Array::with_max_entries(RULE_SLOTS as u32, BPF_F_MMAPABLE);

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::ALL.len() as u32, 0);

/// The tables of the generation that was in force when the frame came.
pub(crate) struct InForce {
    tables: &'static Generation,
    /// The running program's: the kernel asks for it with a question to its socket table.
    ctx: *mut c_void,
    /// The rule and the bucket that were looked up last. A decision holds them too, but only if it came that far;
    /// the compiler then leaves a register unset that the verifier wants set.
    rule: Cell<u8>,
    bucket: Cell<u16>,
}

impl InForce {
    #[inline(always)]
    pub(crate) fn load(ctx: &impl EbpfContext) -> Option<Self> {
        let index = read_word(&IN_FORCE)?;
        Some(Self {
            tables: TABLES.get(index as u32)?,
            ctx: ctx.as_ptr(),
            rule: Cell::new(0),
            bucket: Cell::new(0),
        })
    }

    #[inline(always)]
    pub(crate) fn host_mac(&self) -> MacBytes {
        self.tables.settings.host_mac
    }

    /// Notes when a bucket of a sticky rule had traffic that this host took.
    #[inline(always)]
    pub(crate) fn note(&self, reason: Reason) {
        let rule = self.rule.get();
        let (Reason::Mine | Reason::Lingering, Some(entry)) = (reason, self.tables.rule(rule))
        else {
            return;
        };
        if entry.sticky == 0 {
            return;
        }
        let Some(seen) = SEEN.get_ptr_mut(u32::from(rule)) else {
            return;
        };
        let bucket = usize::from(self.bucket.get()) % BUCKETS;
        let now = (coarse_ns() / 1_000_000_000) as u32;
        // SAFETY: the pointer is to a map value, and the index lies within it. Other CPUs and user space store whole
        // words too. All CPUs share the line, so it is written only once a second.
        unsafe {
            let place = seen.cast::<u32>().add(bucket);
            if place.read_volatile() != now {
                place.write_volatile(now);
            }
        }
    }
}

impl Tables for InForce {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        Some(&self.tables.settings)
    }
    #[inline(always)]
    fn vip(&self, slot: usize) -> Option<&VipSlot> {
        self.tables.vip(slot)
    }
    #[inline(always)]
    fn rule_at(&self, table: u16, port: u16) -> Option<u8> {
        self.tables.rule_at(table, port)
    }
    #[inline(always)]
    fn rule(&self, index: u8) -> Option<&RuleEntry> {
        self.rule.set(index);
        self.tables.rule(index)
    }
    #[inline(always)]
    fn row(&self, map: u8, bucket: u16) -> Option<Row> {
        self.bucket.set(bucket);
        self.tables.row(map, bucket)
    }
    #[inline(always)]
    fn socket(&self, flow: &Flow, segment: &Segment) -> Socket {
        sockets::find(self.ctx, flow, segment)
    }
    #[inline(always)]
    fn lease_holds(&self) -> bool {
        let now = coarse_ns();
        read_word(&LEASE).is_some_and(|until| now < until)
    }
}

/// CLOCK_MONOTONIC as of the last tick.
#[inline(always)]
fn coarse_ns() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Counts a frame on this CPU.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is to this CPU's slot; programs on one hook of one CPU do not interrupt each other,
        // and a count lost between hooks would do no harm.
        unsafe { *counter += 1 };
    }
}

/// The only value of a map that user space may write at any time.
#[inline(always)]
fn read_word(map: &'static Array<u64>) -> Option<u64> {
    // SAFETY: the pointer is valid and aligned; user space stores all eight bytes at once.
    map.get_ptr(0).map(|word| unsafe { word.read_volatile() })
}

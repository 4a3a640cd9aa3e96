//! The maps, and the tables of the generation in force as `covey-filter` wants them. User space
//! (`crates/covey/src/datapath`) knows them by these names, and writes the first three as mapped memory.
//! Specification: docs/design.md, "Data path".
//!
//! | map        | value         | entries                        | written by                                               |
//! |------------|---------------|--------------------------------|----------------------------------------------------------|
//! | `TABLES`   | `Generation`  | 2                              | user space; as a whole only the one that is not in force |
//! | `CONTROL`  | `Control`     | 1                              | user space, and these programs when a commit passes      |
//! | `COUNTERS` | u64 x reasons | one per rule, one without rule | these programs, per CPU                                  |
//! | `SEEN`     | u32 x 4096    | one per rule                   | these programs: last second with traffic                 |

use crate::sockets;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, xdp_md};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use core::cell::UnsafeCell;
use covey_filter::{
    BUCKETS, Control, Flow, Generation, MacBytes, NO_RULE, Packet, RULE_SLOTS, Reason, Row,
    RuleEntry, Segment, Settings, Socket, Tables, VipSlot, Word,
};

#[map]
static TABLES: Array<Generation> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// Which of `TABLES` is in force, and until when.
#[map]
static CONTROL: Array<Control<Volatile>> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// For each bucket of a sticky rule the second of CLOCK_MONOTONIC in which it last had traffic that this host took;
/// 0: not yet. User space sets it back.
#[map]
static SEEN: Array<[u32; BUCKETS]> = Array::with_max_entries(RULE_SLOTS as u32, BPF_F_MMAPABLE);

#[map]
static COUNTERS: PerCpuArray<[u64; Reason::ALL.len()]> =
    PerCpuArray::with_max_entries(NO_RULE as u32 + 1, 0);

/// The tables of the generation that was in force when the frame came.
pub(crate) struct InForce {
    tables: &'static Generation,
    generation: Kept<u32>,
    /// The context of the running program if it is the filter, which alone asks for sockets.
    xdp: Option<Kept<*mut xdp_md>>,
    /// The rule and the bucket that were looked up last. A decision holds them too, but only if it came that far;
    /// the compiler then leaves a register unset that the verifier wants set.
    rule: Kept<u8>,
    bucket: Kept<u16>,
}

impl InForce {
    #[inline(always)]
    pub(crate) fn load(xdp: Option<&XdpContext>) -> Option<Self> {
        let generation = CONTROL.get(0)?.in_force() as u32;
        Some(Self {
            tables: TABLES.get(generation)?,
            generation: Kept::new(generation),
            xdp: xdp.map(|ctx| Kept::new(ctx.ctx)),
            rule: Kept::new(NO_RULE),
            bucket: Kept::new(0),
        })
    }

    #[inline(always)]
    pub(crate) fn host_mac(&self) -> MacBytes {
        self.tables.settings.host_mac
    }

    /// Counts a frame on this CPU, under the rule that was looked up for it.
    #[inline(always)]
    pub(crate) fn count(&self, reason: Reason) {
        count(self.rule.get(), reason);
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

/// A word that user space may write at any time.
#[repr(transparent)]
struct Volatile(UnsafeCell<u64>);

// SAFETY: whoever writes it, user space or a program on some CPU, stores all eight bytes at once.
unsafe impl Sync for Volatile {}

impl Word for Volatile {
    #[inline(always)]
    fn get(&self) -> u64 {
        // SAFETY: valid and aligned, and written whole.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn set(&self, value: u64) {
        // SAFETY: as in `get`.
        unsafe { self.0.get().write_volatile(value) };
    }
}

/// A value that stays on the stack until it is asked for. Few packets need it, and registers are few: what the compiler
/// would keep in them pushes out what every packet needs.
struct Kept<T>(UnsafeCell<T>);

impl<T: Copy> Kept<T> {
    #[inline(always)]
    fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    #[inline(always)]
    fn set(&self, value: T) {
        // SAFETY: valid and aligned, and nobody else is here.
        unsafe { self.0.get().write_volatile(value) };
    }

    #[inline(always)]
    fn get(&self) -> T {
        // SAFETY: as in `set`.
        unsafe { self.0.get().read_volatile() }
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
    fn socket(&self, _flow: &Flow, _segment: &Segment) -> Socket {
        // Which of the sockets that take a segment it is makes no difference.
        let epoch = self.tables.settings.epoch;
        match &self.xdp {
            Some(ctx) if sockets::take(ctx.get(), epoch) => Socket::Connected,
            Some(_) | None => Socket::None,
        }
    }
    #[inline(always)]
    fn lease_holds(&self) -> bool {
        let now = coarse_ns();
        CONTROL
            .get(0)
            .is_some_and(|control| now < control.lease(self.generation.get() as usize))
    }
}

/// CLOCK_MONOTONIC as of the last tick.
#[inline(always)]
pub(crate) fn coarse_ns() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Counts a frame that meets no rule on this CPU.
#[inline(always)]
pub(crate) fn count_without_rule(reason: Reason) {
    count(NO_RULE, reason);
}

#[inline(always)]
fn count(rule: u8, reason: Reason) {
    if let Some(counters) = COUNTERS.get_ptr_mut(u32::from(rule)) {
        // SAFETY: the pointer is to this CPU's slot; programs on one hook of one CPU do not interrupt each other,
        // and a count lost between hooks would do no harm.
        unsafe { (*counters)[reason as usize] += 1 };
    }
}

/// A heartbeat passes, in or out: if it is the commit of the map that is held ready, that comes into force now.
#[inline(always)]
pub(crate) fn heed_commit<P: Packet>(frame: &P) {
    if let (Some(token), Some(control)) = (covey_filter::token(frame), CONTROL.get(0)) {
        control.reveal(token);
    }
}

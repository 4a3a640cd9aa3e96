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
//! | `THOROUGH` | program       | 1                              | user space, once: `covey_thorough`                       |
//! | `FIRSTS`   | u64, ns       | 8192, by packet                | these programs: when its first fragment came, if taken   |

use crate::sockets;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, xdp_md};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;
use core::cell::UnsafeCell;
use covey_filter::{
    BUCKETS, Control, Datagram, Flow, Generation, MacBytes, NO_RULE, Packet, RULE_SLOTS, Reason,
    Row, RuleEntry, Segment, Settings, Socket, Tables, VipSlot, Word,
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

/// For packets that came in fragments: the time in ns of CLOCK_MONOTONIC at which the first one came, and in the lowest bit
/// whether it was taken. Only fragments come here; who sends many makes the kernel forget the oldest, and a fragment whose
/// first is forgotten is taken by every host.
#[map]
static FIRSTS: LruHashMap<Datagram, u64> = LruHashMap::with_max_entries(8192, 0);

/// How long the word of a first fragment counts. Fragments of a packet come within milliseconds, and a sender that counts
/// its packets in 16 bits uses a number again after 65536 of them.
const FIRSTS_LAST_NS: u64 = 1_000_000_000;

/// Holds `covey_thorough`.
#[map]
static THOROUGH: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Goes on as `covey_thorough`. Returns only if user space has not put it there.
#[inline(always)]
pub(crate) fn leave_to_thorough(ctx: &XdpContext) {
    // SAFETY: the map holds XDP programs only; the kernel sees to that.
    let _ = unsafe { THOROUGH.tail_call(ctx, 0) };
}

/// The tables of the generation that was in force when the frame came.
pub(crate) struct InForce {
    tables: &'static Generation,
    generation: Kept<u32>,
    asker: Asker,
    /// The rule and the bucket that were looked up last. A decision holds them too, but only if it came that far;
    /// the compiler then leaves a register unset that the verifier wants set.
    rule: Kept<u8>,
    bucket: Kept<u16>,
}

/// Which program looks into the tables, and its context if it is one that asks for sockets.
pub(crate) enum Asker {
    /// `covey_ingress`, whose segments are whole packets.
    Ingress(Kept<*mut xdp_md>),
    /// `covey_thorough`, whose segments are in first fragments.
    Thorough(Kept<*mut xdp_md>),
    /// A tc program.
    Neither,
}

impl InForce {
    #[inline(always)]
    pub(crate) fn load(asker: Asker) -> Option<Self> {
        let generation = CONTROL.get(0)?.in_force() as u32;
        Some(Self {
            tables: TABLES.get(generation)?,
            generation: Kept::new(generation),
            asker,
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
pub(crate) struct Kept<T>(UnsafeCell<T>);

impl<T: Copy> Kept<T> {
    #[inline(always)]
    pub(crate) fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    #[inline(always)]
    fn set(&self, value: T) {
        // SAFETY: valid and aligned, and nobody else is here.
        unsafe { self.0.get().write_volatile(value) };
    }

    #[inline(always)]
    pub(crate) fn get(&self) -> T {
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
        let map = self.tables.settings.map;
        let takes = match &self.asker {
            Asker::Ingress(ctx) => sockets::take(ctx.get(), map),
            Asker::Thorough(ctx) => sockets::take_first(ctx.get(), map),
            Asker::Neither => false,
        };
        if takes {
            Socket::Connected
        } else {
            Socket::None
        }
    }
    #[inline(always)]
    fn took_first(&self, datagram: &Datagram) -> Option<bool> {
        // SAFETY: the value is one aligned word. If the kernel uses its place for another packet meanwhile, the word is
        // that packet's: no more harm than one fragment.
        let word = unsafe { FIRSTS.get_ptr(datagram)?.read_volatile() };
        (coarse_ns().wrapping_sub(word & !1) < FIRSTS_LAST_NS).then_some(word & 1 != 0)
    }
    #[inline(always)]
    fn note_first(&self, datagram: &Datagram, taken: bool) {
        let word = coarse_ns() & !1 | u64::from(taken);
        // It fails only for want of memory; then every host takes the fragments that follow.
        let _ = FIRSTS.insert(datagram, &word, 0);
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

//! XDP programs for the benchmarks (`crates/covey/benches`): what stands beside the filter, and what feeds it. Not part
//! of the product.
//!
//! | program  | does                                                                     |
//! |----------|--------------------------------------------------------------------------|
//! | `floor`  | drops everything: the least that a program can cost                      |
//! | `pass`   | passes everything                                                        |
//! | `replay` | makes the frame the next one of `FRAMES`, then goes on with `NEXT`       |
//! | `flood`  | makes the frame the next one of `FRAMES`, then sends it to an interface  |
//!
//! All say `frags` as the filter does: the kernel wants that of programs that go on with one another.
#![no_std]
#![no_main]

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::XdpContext;

/// Frames in the table: a power of two.
const FRAMES_COUNT: u32 = 1 << 16;
/// The first bytes of a frame, in words as they lie in memory.
type Head = [u64; 10];

#[map]
static FRAMES: Array<Head> = Array::with_max_entries(FRAMES_COUNT, 0);

/// How many frames have been written.
#[map]
static WRITTEN: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Where `flood` sends, an interface's index; 0: nowhere, the frame is dropped.
#[unsafe(no_mangle)]
static TARGET: Global<u32> = Global::new(0);

#[xdp(frags)]
pub fn floor(_: XdpContext) -> u32 {
    XDP_DROP
}

#[xdp(frags)]
pub fn pass(_: XdpContext) -> u32 {
    XDP_PASS
}

#[xdp(frags)]
pub fn replay(ctx: XdpContext) -> u32 {
    if write_next(&ctx).is_some() {
        // SAFETY: the programs are of one kind. It returns only if there is none.
        let _ = unsafe { NEXT.tail_call(&ctx, 0) };
    }
    XDP_ABORTED
}

#[xdp(frags)]
pub fn flood(ctx: XdpContext) -> u32 {
    if write_next(&ctx).is_none() {
        return XDP_ABORTED;
    }
    match TARGET.load() {
        0 => XDP_DROP,
        // SAFETY: the helper takes numbers.
        interface => unsafe { bpf_redirect(interface, 0) as u32 },
    }
}

/// Writes the next frame over this one. `None` if it does not fit, or there is no table.
#[inline(always)]
fn write_next(ctx: &XdpContext) -> Option<()> {
    let written = WRITTEN.get_ptr_mut(0)?;
    // SAFETY: the pointer is to a map value; the benchmark runs one program at a time.
    let number = unsafe {
        let number = *written;
        *written = number.wrapping_add(1);
        number
    };
    let head = FRAMES.get(number % FRAMES_COUNT)?;
    let place = ctx.data();
    if place + size_of::<Head>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bounds have just been checked; user space writes the table only while nothing runs.
    unsafe { (place as *mut Head).write_unaligned(*head) };
    Some(())
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// `tail_call` is lent to everyone, but the programs that it goes on with say the same.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

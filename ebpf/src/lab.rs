//! The program at the ports of the lab's switch (`crates/covey/src/lab`): it loses the frames that the faults in force say. Not
//! part of the product.
//!
//! It sits where frames leave the bridge (tc egress), because there both ports are known: the one that a frame came in at
//! and the one it is about to leave by. What a fault means stands in `port.rs`.
#![no_std]
#![no_main]

mod port;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::TcContext;
use port::{Frame, Port};

/// The ports with their faults, by interface index.
#[map]
static PORTS: HashMap<u32, Port> = HashMap::with_max_entries(128, 0);

#[classifier]
pub fn lab_port(ctx: TcContext) -> i32 {
    match loses(&ctx) {
        Some(true) => TC_ACT_SHOT,
        Some(false) | None => TC_ACT_UNSPEC,
    }
}

/// `None` for frames of the switch itself, and for what is no frame.
#[inline(always)]
fn loses(ctx: &TcContext) -> Option<bool> {
    // SAFETY: the context is valid while the program runs.
    let (from, to) = unsafe { ((*ctx.skb.skb).ingress_ifindex, (*ctx.skb.skb).ifindex) };
    // SAFETY: user space writes whole entries; a frame that meets half of one is lost or not, like its neighbours.
    let (from, to) = unsafe { (PORTS.get(from)?, PORTS.get(to)?) };
    let frame = Frame {
        destination: ctx.load(0).ok()?,
        ethertype: u16::from_be_bytes(ctx.load(12).ok()?),
    };
    // SAFETY: the helper takes nothing and gives a number.
    let random = || unsafe { bpf_get_prandom_u32() };
    Some(port::is_lost(from, to, &frame, random))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The helpers used here are lent to everyone.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

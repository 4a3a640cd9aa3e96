//! The programs that make the lab's bridge a switch which forwards by MAC group, as hardware does
//! (`crates/covey/src/lab/snooping.rs`). Not part of the product.
//!
//! | program   | hook       | does                                                                         |
//! |-----------|------------|------------------------------------------------------------------------------|
//! | `learn`   | tc ingress | notes what comes in at a port: members by their reports, routers by their word |
//! | `forward` | tc egress  | keeps frames to a group's MAC from ports that are no member's and no router's |
//!
//! As RFC 4541 has it: 01-00-5E-00-00-xx goes everywhere, and so does a group of which nobody is known; reports go to
//! routers alone, or members would hear each other and be silent. What counts is the MAC, whatever the frame holds.
#![no_std]
#![no_main]

use aya_ebpf::Global;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::TcContext;

/// Until when (CLOCK_MONOTONIC, ns) something is so, by what it is about: the port's interface index in the upper half;
/// in the lower half a group, by the last three bytes of its MAC, or one of the words below. Port 0 is any port.
#[map]
static KNOWN: HashMap<u64, u64> = HashMap::with_max_entries(4096, 0);

/// There is a router behind the port.
const ROUTER: u32 = 0x0100_0000;
/// What is said at the port is not heeded.
const IGNORED: u32 = 0x0200_0000;

/// For how long a report counts, a querier's word, and an advertisement; and after a leave, how long the other members
/// behind the port have to answer. All in ns.
#[unsafe(no_mangle)]
static MEMBER_NS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static QUERIER_NS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static ROUTER_NS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static LEAVE_NS: Global<u64> = Global::new(0);

const IPV4: [u8; 2] = [8, 0];
const IGMP: u8 = 2;
const QUERY: u8 = 0x11;
const REPORT_V1: u8 = 0x12;
const REPORT_V2: u8 = 0x16;
const LEAVE: u8 = 0x17;
const REPORT_V3: u8 = 0x22;
const ADVERTISEMENT: u8 = 0x30;
const TERMINATION: u8 = 0x32;
/// Records of a version 3 report that are looked at.
const RECORDS: u16 = 16;

#[classifier]
pub fn learn(ctx: TcContext) -> i32 {
    if let Some((kind, body)) = message(&ctx)
        && !holds(key(port(&ctx), IGNORED))
    {
        heed(&ctx, kind, body);
    }
    TC_ACT_UNSPEC
}

#[classifier]
pub fn forward(ctx: TcContext) -> i32 {
    let Ok([0x01, 0x00, 0x5E, a, b, c]) = ctx.load::<[u8; 6]>(0) else {
        return TC_ACT_UNSPEC;
    };
    let port = port(&ctx);
    if holds(key(port, ROUTER)) {
        return TC_ACT_UNSPEC;
    }
    if let Some((REPORT_V1 | REPORT_V2 | LEAVE | REPORT_V3, _)) = message(&ctx) {
        return TC_ACT_SHOT;
    }
    let group = u32::from_be_bytes([0, a, b, c]);
    let unlimited = group < 0x100;
    if unlimited || holds(key(port, group)) || !holds(key(0, group)) {
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT
    }
}

#[inline(always)]
fn port(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.skb.skb).ifindex }
}

#[inline(always)]
const fn key(port: u32, what: u32) -> u64 {
    (port as u64) << 32 | what as u64
}

/// Type of an IGMP message, and where it begins.
#[inline(always)]
fn message(ctx: &TcContext) -> Option<(u8, usize)> {
    if ctx.load::<[u8; 2]>(12).ok()? != IPV4 || ctx.load::<u8>(23).ok()? != IGMP {
        return None;
    }
    let words = ctx.load::<u8>(14).ok()? & 0x0F;
    let body = 14 + usize::from(words) * 4;
    Some((ctx.load(body).ok()?, body))
}

#[inline(always)]
fn heed(ctx: &TcContext, kind: u8, body: usize) {
    let port = port(ctx);
    match kind {
        REPORT_V1 | REPORT_V2 => {
            if let Some(group) = group(ctx, body + 4) {
                join(port, group);
            }
        }
        LEAVE => {
            if let Some(group) = group(ctx, body + 4) {
                leave(port, group);
            }
        }
        REPORT_V3 => records(ctx, port, body),
        // A switch that asks without an address is no router (RFC 4541 §2.1.1).
        QUERY => {
            if ctx.load::<[u8; 4]>(26).is_ok_and(|source| source != [0; 4]) {
                know(key(port, ROUTER), QUERIER_NS.load());
            }
        }
        ADVERTISEMENT => know(key(port, ROUTER), ROUTER_NS.load()),
        TERMINATION => know(key(port, ROUTER), 0),
        _ => {}
    }
}

#[inline(always)]
fn records(ctx: &TcContext, port: u32, body: usize) {
    let Ok(count) = ctx.load::<[u8; 2]>(body + 6).map(u16::from_be_bytes) else {
        return;
    };
    let mut at = body + 8;
    for number in 0..RECORDS {
        if number >= count {
            return;
        }
        let Ok([kind, more, high, low]) = ctx.load::<[u8; 4]>(at) else {
            return;
        };
        let Some(group) = group(ctx, at + 4) else {
            return;
        };
        let sources = u16::from_be_bytes([high, low]);
        match (kind, sources) {
            // Include of no source, or a change to it.
            (1 | 3, 0) => leave(port, group),
            (1..=5, _) => join(port, group),
            _ => {}
        }
        at += 8 + 4 * (usize::from(sources & 0xFF) + usize::from(more));
    }
}

/// The MAC's part of a group's address.
#[inline(always)]
fn group(ctx: &TcContext, at: usize) -> Option<u32> {
    let [_, a, b, c] = ctx.load::<[u8; 4]>(at).ok()?;
    Some(u32::from_be_bytes([0, a & 0x7F, b, c]))
}

#[inline(always)]
fn join(port: u32, group: u32) {
    know(key(port, group), MEMBER_NS.load());
    know(key(0, group), MEMBER_NS.load());
}

#[inline(always)]
fn leave(port: u32, group: u32) {
    if holds(key(port, group)) {
        know(key(port, group), LEAVE_NS.load());
    }
}

#[inline(always)]
fn know(key: u64, length_ns: u64) {
    // It fails if the table is full: then the switch knows no more, as others do.
    let _ = KNOWN.insert(key, now() + length_ns, 0);
}

#[inline(always)]
fn holds(key: u64) -> bool {
    // SAFETY: the value is one word, which everybody stores whole.
    unsafe { KNOWN.get(key) }.is_some_and(|until| *until > now())
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes nothing and gives a number.
    unsafe { bpf_ktime_get_ns() }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The helpers used here are lent to everyone.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

//! Covey's programs in the kernel: thin shells that show frames and tables to `covey-filter` and carry out what
//! it says. Everything that could be wrong is decided over there, where it is tested.
//!
//! | program          | hook       | does                                                            |
//! |------------------|------------|-----------------------------------------------------------------|
//! | `covey_ingress`  | XDP        | keeps this host's share of the cluster's traffic, drops the rest |
//! | `covey_thorough` | tail call  | the same for the frames that are few                            |
//! | `covey_promote`  | tc ingress | says "for this host" of frames that XDP accepted (see there)     |
//! | `covey_guard`    | tc egress  | lets nobody outside learn the cluster MAC wrongly                |
//!
//! Both ends see commit frames: the new map comes into force as they pass (`covey_filter::Control`).
//!
//! Loaded, fed and attached by `crates/covey/src/datapath`. All maps have fixed sizes, and the cost per packet
//! does not depend on what is in them. Specification: docs/design.md, "Data path".
#![no_std]
#![no_main]

mod maps;
mod orphans;
mod packet;
mod sockets;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action, xdp_md};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use covey_filter::{Decision, Egress, Reason, TO_DAEMON, Verdict, guard, quick, thorough};
use maps::{Asker, InForce, Kept};
use packet::{Bytes, Skb};

/// The filter. `frags`: it reads headers only, so packets in several buffers (large MTU) are no trouble.
#[xdp(frags)]
pub fn covey_ingress(ctx: XdpContext) -> u32 {
    let frame = Bytes::of_xdp(&ctx);
    let Some(tables) = InForce::load(Asker::Ingress(Kept::new(ctx.ctx))) else {
        return xdp_action::XDP_DROP;
    };
    match quick(&frame, &tables) {
        Some(decision) => {
            if decision.reason == Reason::Heartbeat {
                maps::heed_commit(&frame);
            }
            carry_out(decision, &ctx, &tables, sockets::report)
        }
        None => {
            maps::leave_to_thorough(&ctx);
            // As without a filter: the kernel ignores what is for the cluster, and the host keeps its own ARP.
            xdp_action::XDP_PASS
        }
    }
}

/// The filter for the frames that are few. A program of its own that begins anew, so that those that are many need not
/// carry what it asks for, and with a stack of its own, which is small.
#[xdp(frags)]
pub fn covey_thorough(ctx: XdpContext) -> u32 {
    let frame = Bytes::of_xdp(&ctx);
    let Some(tables) = InForce::load(Asker::Thorough(Kept::new(ctx.ctx))) else {
        return xdp_action::XDP_DROP;
    };
    let decision = thorough(&frame, &tables);
    carry_out(decision, &ctx, &tables, sockets::report_first)
}

/// `report`: how to tell of a segment that this program has dropped for want of its connection.
#[inline(always)]
fn carry_out(
    decision: Decision,
    ctx: &XdpContext,
    tables: &InForce,
    report: impl FnOnce(*mut xdp_md),
) -> u32 {
    tables.count(decision.reason);
    match decision.verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => {
            if decision.reason == Reason::Unclaimed {
                report(ctx.ctx);
            }
            xdp_action::XDP_DROP
        }
        Verdict::Daemon => {
            Bytes::of_xdp(ctx).set_ether_type(TO_DAEMON);
            xdp_action::XDP_PASS
        }
        Verdict::Accept => {
            tables.note(decision.reason);
            Bytes::of_xdp(ctx).set_destination(tables.host_mac());
            xdp_action::XDP_PASS
        }
    }
}

/// Drivers that run native XDP over an skb (veth) have classified the frame by its old destination before XDP
/// rewrites it, so the stack would ignore it as another machine's, or as a group's. A frame that now bears this host's MAC is this
/// host's. Attached wherever XDP is native, so that no list of drivers is needed; only accepted and passed
/// frames pay for it.
#[classifier]
pub fn covey_promote(ctx: TcContext) -> i32 {
    const PACKET_HOST: u32 = 0;
    if packet::kind(&ctx) != PACKET_HOST
        && let Some(tables) = InForce::load(Asker::Neither)
        && Bytes::of_tc(&ctx).destination() == Some(tables.host_mac())
    {
        // It fails only for kinds that do not exist.
        let _ = ctx.change_type(PACKET_HOST);
    }
    TC_ACT_UNSPEC
}

/// The egress guard.
#[classifier]
pub fn covey_guard(ctx: TcContext) -> i32 {
    let Some(tables) = InForce::load(Asker::Neither) else {
        return TC_ACT_UNSPEC;
    };
    let frame = Skb::new(&ctx);
    match guard(&frame, &tables) {
        Egress::Pass => {
            // The coordinator's own commit, as it leaves.
            maps::heed_commit(&frame);
            TC_ACT_UNSPEC
        }
        Egress::Drop => {
            maps::count_without_rule(Reason::SourceMac);
            TC_ACT_SHOT
        }
        Egress::Change(changes) => {
            if packet::change(&ctx, &changes).is_err() {
                // Rather no answer than a wrong one.
                return TC_ACT_SHOT;
            }
            if changes.advertised.is_some() {
                maps::count_without_rule(Reason::Advertised);
            }
            TC_ACT_UNSPEC
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The linker removes it: nothing here can panic.
    loop {}
}

/// The licence that the kernel asks for before it lends GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

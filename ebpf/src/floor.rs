//! An XDP program that drops everything: the floor under what the benchmark (`crates/covey/benches/filter.rs`)
//! measures. Not part of the product.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

#[xdp]
pub fn floor(_: XdpContext) -> u32 {
    XDP_DROP
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

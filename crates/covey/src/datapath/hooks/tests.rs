//! The way of kernels before 6.6, which the tests in `tests/kernel_attach.rs` do not take on newer ones.

#[path = "../../../tests/cluster/mod.rs"]
mod cluster;
#[path = "../../../tests/segment/mod.rs"]
mod segment;

use super::*;
use segment::{HOST_MAC, INTERFACE, Segment};

fn filters(segment: &Segment) -> usize {
    let shown = segment.host_tc("filter show dev eth0 egress");
    shown
        .lines()
        .filter(|line| line.contains("covey_guard"))
        .count()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn clsact_filters_outlive_the_program_and_are_replaced() {
    let segment = Segment::new();
    let hooks = Hooks::new(INTERFACE, &segment.pins);
    for _ in 0..2 {
        let image = cluster::fenced(1, HOST_MAC);
        let mut programs = Programs::load(&image).expect("the kernel loads the programs");
        segment
            .on_host(|| hooks.clsact(programs.guard(), &GUARD))
            .expect("the filter is attached");
        drop(programs);
        assert_eq!(filters(&segment), 1);
    }
    segment
        .on_host(|| hooks.remove_clsact(&GUARD))
        .expect("the filter is removed");
    assert_eq!(filters(&segment), 0);
    segment
        .on_host(|| hooks.remove_clsact(&GUARD))
        .expect("there is nothing to remove");
}

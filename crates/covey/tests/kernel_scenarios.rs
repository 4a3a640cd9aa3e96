//! The articles of the Knowledge Base, end to end: each test plays a scenario as `covey lab scenario` does, so that what people
//! can see is what is tested. What happens in them, and what should, is in `crates/covey/src/lab/scenario`.
//!
//! They need root and are listed as ignored without `--ignored`. They run one at a time: several clusters on two cores would
//! measure each other.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::process::Command;
use std::sync::{Mutex, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

/// Plays a scenario; its account is shown with `--nocapture`, and if it fails.
fn play(scenario: &str) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let name = format!("covey-t{}", std::process::id());
    let output = Command::new(env!("CARGO_BIN_EXE_covey"))
        .args(["lab", "--name", &name, "scenario", scenario])
        .output()
        .unwrap();
    let account = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    println!("{account}{complaint}");
    assert!(
        output.status.success(),
        "{scenario} did not go as it should"
    );
}

/// A test for each scenario, so that each has a name and a verdict of its own; and one that none is missing.
macro_rules! scenarios {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            #[ignore = "needs root: network namespaces and eBPF"]
            fn $test() {
                play($name);
            }
        )*

        #[test]
        #[ignore = "needs root: the lab does"]
        fn no_scenario_is_left_out() {
            let output = Command::new(env!("CARGO_BIN_EXE_covey"))
                .args(["lab", "scenario", "list", "--json"])
                .output()
                .unwrap();
            let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let listed: Vec<&str> = listed
                .as_array()
                .unwrap()
                .iter()
                .map(|scenario| scenario["name"].as_str().unwrap())
                .collect();
            assert_eq!(listed, [$($name),*]);
        }
    };
}

scenarios! {
    a_switch_that_blocks_broadcast: "broadcast-blocked",
    hosts_that_converge_with_themselves: "converging-alone",
    a_crossover_cable: "crossover-cable",
    a_nic_that_refuses_the_cluster_mac: "cluster-mac-refused",
    a_team_of_nics: "teaming",
    a_hub_with_masking: "hub-with-masking",
    a_sniffer_above_the_guard: "sniffer-guarded",
    a_leak_below_the_guard: "leak-below-the-guard",
    heavy_traffic: "heavy-traffic",
    a_starved_daemon: "starved",
    a_host_that_is_alone: "alone",
    heartbeats_on_the_wire: "heartbeats",
    memberships_that_are_kept: "memberships-kept",
    a_member_that_is_forgotten: "forgotten-by-the-switch",
    the_way_out_of_igmp: "away-from-igmp",
}

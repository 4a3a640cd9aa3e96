//! A whole cluster in a lab, end to end: real daemons, real kernel, a client that sees only the virtual IP.
//!
//! What docs/design.md, "Promises", says about crashes is measured by `covey lab demo`; here it is whether the lab
//! reports and repairs what it does to its hosts. Needs root, and the eBPF program built in.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod lab_support;

use lab_support::{Lab, wait_until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Heartbeats that make a test short: death is noticed after half a second.
const FAST: [&str; 4] = ["--period", "100ms", "--tolerance", "5"];

fn up(test: &str, hosts: &str) -> Lab {
    let lab = Lab::new(test);
    lab.ok(&[&["up", "--hosts", hosts], &FAST[..]].concat());
    lab
}

/// Who answers this many requests in a row, each on a connection of its own.
fn who_answers(lab: &Lab, requests: u32) -> BTreeSet<String> {
    let script = format!(
        "for i in $(seq {requests}); do curl -sS --max-time 5 http://10.77.0.100/ || exit 1; echo; done"
    );
    lab.client(&["bash", "-c", &script])
        .lines()
        .map(str::to_owned)
        .collect()
}

fn names(hosts: &[&str]) -> BTreeSet<String> {
    hosts.iter().map(|name| (*name).to_owned()).collect()
}

/// The view that a host says it is in; null if it says nothing.
fn view(lab: &Lab, host: usize) -> Value {
    lab.status()["hosts"][host - 1]["status"]["cluster"]["view"].clone()
}

fn faults(lab: &Lab, host: usize) -> Value {
    lab.status()["hosts"][host - 1]["faults"].clone()
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn all_hosts_answer_for_one_address() {
    let lab = up("all", "3");
    assert_eq!(who_answers(&lab, 60), names(&["h1", "h2", "h3"]));
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_crash_is_survived_reported_and_healed() {
    let lab = up("crash", "3");
    lab.ok(&["fault", "crash", "2"]);
    assert_eq!(faults(&lab, 2), serde_json::json!(["cut", "killed"]));
    let complaint = lab.fails(&["fault", "crash", "2"]);
    assert!(complaint.contains("does not run"), "{complaint}");
    wait_until("the others are among themselves", || {
        view(&lab, 1) == serde_json::json!([1, 3]) && view(&lab, 3) == view(&lab, 1)
    });
    assert_eq!(who_answers(&lab, 40), names(&["h1", "h3"]));
    lab.ok(&["fault", "heal"]);
    assert_eq!(faults(&lab, 2), serde_json::json!([]));
    assert_eq!(who_answers(&lab, 60), names(&["h1", "h2", "h3"]));
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_stalled_daemon_is_missed_and_comes_back() {
    // Three, because a host that is left alone with a stalled one does not serve: its kernel still answers ARP.
    let lab = up("stall", "3");
    lab.ok(&["fault", "stall", "1"]);
    assert_eq!(faults(&lab, 1), serde_json::json!(["stalled"]));
    wait_until("the others are among themselves", || {
        view(&lab, 2) == serde_json::json!([2, 3]) && view(&lab, 3) == view(&lab, 2)
    });
    assert_eq!(who_answers(&lab, 40), names(&["h2", "h3"]));
    lab.ok(&["fault", "heal"]);
    assert_eq!(view(&lab, 1), serde_json::json!([1, 2, 3]));
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn down_removes_what_the_daemons_have_left() {
    let lab = up("left", "2");
    let left = |host: u32| {
        let netns = fs::metadata(format!("/run/netns/{}-h{host}", lab.0)).unwrap();
        [
            format!("/run/covey/control-{}.sock", netns.ino()),
            format!("/sys/fs/bpf/covey/{}-eth0", netns.ino()),
        ]
    };
    let [first, second] = [left(1), left(2)];
    lab.ok(&["fault", "kill", "2"]);
    assert!(
        fs::exists(&second[0]).unwrap(),
        "a killed daemon leaves its socket"
    );
    lab.ok(&["down"]);
    lab.assert_gone();
    for path in first.iter().chain(&second) {
        assert!(!fs::exists(path).unwrap(), "{path}");
    }
}

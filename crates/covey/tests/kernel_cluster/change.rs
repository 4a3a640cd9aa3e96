//! Nothing breaks on purpose: hosts leave and return, configurations are read again, and no client notices.

use crate::lab::{Lab, Timing, succeed};
use crate::web::{self, FIRST_PORT, Load, Request, VIP};
use covey::status::Status;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// Time between two requests of the load: 200 per second.
const EVERY: Duration = Duration::from_millis(5);
/// A SYN that got lost is repeated after a second.
const REPEATED_SYN: Duration = Duration::from_millis(900);
/// Leaves and returns.
const ROUNDS: usize = 20;

fn signal(lab: &Lab, host: u8, name: &str) {
    let mut kill = Command::new("kill");
    kill.args(["-s", name, &lab.status(host).host.pid.to_string()]);
    succeed("kill", kill);
}

/// Requests whose connection took so long that a SYN must have been lost.
fn slow(requests: &[Request]) -> usize {
    let late = |time: Duration| time >= REPEATED_SYN;
    requests
        .iter()
        .filter(|request| request.connected.is_some_and(late))
        .count()
}

fn slowest(requests: &[Request]) -> Duration {
    requests
        .iter()
        .filter_map(|request| request.connected)
        .max()
        .unwrap_or_default()
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_host_leaves_and_returns_and_no_request_fails() {
    let lab = Lab::up("leave", 3, TIMING);
    let load = Load::start(&lab, EVERY, FIRST_PORT..);
    for round in 0..ROUNDS {
        // Both ways to leave: the command, after which the daemon stays, and the end of the daemon.
        let end = round % 5 == 4;
        if end {
            signal(&lab, 3, "TERM");
        } else {
            lab.covey(3, &["stop"]);
        }
        lab.await_agreement(&[1, 2]);
        if end {
            lab.await_end(3);
            lab.fault(&["heal"]);
        } else {
            lab.covey(3, &["start"]);
        }
        lab.await_agreement(&[1, 2, 3]);
    }
    let requests = load.finish();
    let failures = web::failures(&requests);
    println!(
        "{ROUNDS} leaves and returns, {} requests at 200 per second: {} failed, {} connected late, slowest connect \
         {} ms",
        requests.len(),
        failures.len(),
        slow(&requests),
        slowest(&requests).as_millis()
    );
    web::assert_none_failed(&requests);
    assert_eq!(slow(&requests), 0);
}

/// What must not change when a configuration is refused.
fn in_force(status: &Status) -> (u32, u64, &str, &[covey::status::RuleStatus]) {
    let cluster = &status.cluster;
    (
        status.host.pid,
        cluster.epoch,
        &cluster.map_digest,
        &status.rules,
    )
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_broken_configuration_changes_nothing_and_another_weight_moves_the_share() {
    let lab = Lab::up("reload", 3, TIMING);
    let path = lab.directory().join("h3/covey.toml");
    let sound = fs::read_to_string(&path).unwrap();
    let before = lab.status(3);

    fs::write(&path, sound.replace("ports = 80", "prots = 80")).unwrap();
    signal(&lab, 3, "HUP");
    lab.await_log(3, "the configuration stays as it was");
    assert_eq!(in_force(&lab.status(3)), in_force(&before));

    let load = Load::start(&lab, EVERY, FIRST_PORT..);
    fs::write(
        &path,
        sound.replace("ports = 80", "ports = 80\nweight = 100"),
    )
    .unwrap();
    signal(&lab, 3, "HUP");
    let doubled = BTreeMap::from([(1, 1024), (2, 1024), (3, 2048)]);
    lab.await_status(1, |status| status.rules[1].share == doubled);
    lab.await_agreement(&[1, 2, 3]);
    let requests = load.finish();
    let after = FIRST_PORT + u16::try_from(requests.len()).unwrap();
    let answered = web::in_a_row(&lab, VIP, after..after + 600);
    let by_3 = answered
        .iter()
        .filter(|request| request.outcome == Ok(3))
        .count();
    println!(
        "weight 50 -> 100 on host 3: its share of 600 requests {:.1} %; of {} requests meanwhile {} failed, {} \
         connected late",
        by_3 as f64 / 6.0,
        requests.len(),
        web::failures(&requests).len(),
        slow(&requests)
    );
    assert!(
        (264..=336).contains(&by_3),
        "{by_3} of 600 is not 44 to 56 %"
    );
    web::assert_none_failed(&requests);
    web::assert_none_failed(&answered);
    // The other rule keeps its weights.
    assert_eq!(lab.status(2).rules[2].share, before.rules[2].share);
}

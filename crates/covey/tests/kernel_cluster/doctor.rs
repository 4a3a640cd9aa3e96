//! `covey doctor` on real clusters: silent where nothing is wrong, however the cluster has come to where it is; and by
//! name where something is, on the host itself, in its events, and on the others. docs/design.md, "Doctor".

use crate::echo::{self, Probe};
use crate::ipv6::restart_with;
use crate::lab::{COVEY, Lab, Timing};
use covey::doctor::{Diagnosis, Severity};
use covey::status::{EventRecord, Status};
use std::process::Command;

use std::time::{Duration, Instant};

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// Two check-ups of a daemon with this timing, and the heartbeats that tell of them.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

/// What doctor says on a host, and its exit status.
fn doctor(lab: &Lab, host: u8, options: &[&str]) -> (i32, String) {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &lab.namespace(&format!("h{host}"))])
        .args([COVEY, "doctor"])
        .args(options);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text + &errors)
}

fn diagnosis(lab: &Lab, host: u8) -> Diagnosis {
    let (_, text) = doctor(lab, host, &["--json"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What doctor names on a host: the findings that somebody should look at, each with the host that tells it.
fn named(lab: &Lab, host: u8) -> Vec<(String, Option<u8>)> {
    let found = diagnosis(lab, host).findings.into_iter();
    let trouble = found.filter(|finding| finding.severity > Severity::Info);
    trouble
        .map(|finding| (finding.name, finding.host))
        .collect()
}

/// The finding that a whole run is about when its labs are to use generic XDP (`COVEY_TEST_XDP`): not what a test is about.
const GENERIC: &str = "generic-xdp";

fn assert_well(lab: &Lab, hosts: &[u8]) {
    for host in hosts {
        let (code, text) = doctor(lab, *host, &[]);
        assert_eq!(code, 0, "host {host}: {text}");
        if lab.status(*host).datapath.attach == "generic" {
            let found = diagnosis(lab, *host).findings;
            let others: Vec<_> = found.iter().filter(|found| found.name != GENERIC).collect();
            assert!(others.is_empty() && !found.is_empty(), "{found:#?}");
        } else {
            assert!(text.contains("nothing is wrong ("), "{text}");
        }
    }
}

/// The names of what a host has found to be wrong with itself.
fn names_of(status: &Status) -> Vec<&str> {
    let names = status.findings.iter().map(|finding| finding.name.as_str());
    names.filter(|name| *name != GENERIC).collect()
}

fn await_named(lab: &Lab, host: u8, finding: &str, of: u8) {
    let begun = Instant::now();
    let wanted = (finding.to_owned(), Some(of));
    loop {
        let named = named(lab, host);
        if named.contains(&wanted) {
            return;
        }
        assert!(
            begun.elapsed() < TOLD_WITHIN,
            "{wanted:?} is not in {named:?}"
        );
    }
}

fn events(lab: &Lab, host: u8, id: u16) -> Vec<EventRecord> {
    let told = lab.covey(host, &["events", "--json"]);
    let all = told.lines().map(|line| serde_json::from_str(line).unwrap());
    let all = all.filter(|event: &EventRecord| event.id == id);
    all.filter(|event| !event.text.starts_with(GENERIC))
        .collect()
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn nothing_is_wrong_with_a_cluster_that_is_well() {
    let lab = Lab::up("doctor-well", 3, TIMING);
    // Right after the start, before the daemons have counted anything.
    assert_well(&lab, &[1, 2, 3]);
    // Under load.
    let ports = echo::ports_by_owner(&lab, 4);
    let probe = Probe::start(&lab, &ports);
    assert_well(&lab, &[1, 2, 3]);
    // After a host has left in order, and come back.
    lab.covey(2, &["stop"]);
    lab.await_agreement(&[1, 3]);
    assert_well(&lab, &[1, 2, 3]);
    lab.covey(2, &["start"]);
    lab.await_agreement(&[1, 2, 3]);
    assert_well(&lab, &[1, 2, 3]);
    probe.finish();
    // Long enough for several check-ups.
    lab.await_status(1, |status| status.recent.window_ms > 10_000);
    assert_well(&lab, &[1, 2, 3]);
    for host in lab.hosts() {
        assert_eq!(events(&lab, host, 1120), []);
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_crash_elsewhere_is_the_only_thing_that_is_named() {
    let lab = Lab::up("doctor-crash", 3, TIMING);
    lab.fault(&["crash", "2"]);
    lab.await_agreement(&[1, 3]);
    let silent = || ("host-silent".to_owned(), None::<u8>);
    for host in [1, 3] {
        let mut named = named(&lab, host);
        named.iter_mut().for_each(|finding| finding.1 = None);
        assert_eq!(named, [silent()], "host {host}");
        assert_eq!(doctor(&lab, host, &[]).0, 1);
    }
    lab.fault(&["heal"]);
    lab.await_agreement(&[1, 2, 3]);
    // What the others tell is as old as their last check-up.
    let well = |host: &u8| named(&lab, *host).is_empty();
    lab.until("got well", || [1, 2, 3].iter().all(well));
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn what_is_changed_on_a_machine_is_named_there_and_elsewhere_and_told_once() {
    let lab = Lab::up("doctor-host", 3, TIMING);
    let on_2 = |command: &str| lab.exec("h2", &command.split(' ').collect::<Vec<_>>());
    on_2("ip address del 10.77.0.100/32 dev lo");
    on_2("sysctl -q -w net.ipv4.conf.eth0.arp_ignore=1");
    let own = named(&lab, 2);
    assert_eq!(
        own,
        [
            ("sysctl-arp".to_owned(), Some(2)),
            ("vip-missing".to_owned(), Some(2))
        ]
    );
    // The others name them once the host's own check-ups have.
    await_named(&lab, 1, "vip-missing", 2);
    let (code, text) = doctor(&lab, 3, &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("run covey doctor on host 2"), "{text}");
    let status = lab.covey(1, &["status"]);
    assert!(
        status.contains("host 2: sysctl-arp, vip-missing"),
        "{status}"
    );

    on_2("ip address add 10.77.0.100/32 dev lo");
    on_2("sysctl -q -w net.ipv4.conf.eth0.arp_ignore=0");
    assert_well(&lab, &[2]);
    lab.await_status(2, |status| names_of(status).is_empty());
    lab.until("heard that it is over", || named(&lab, 1).is_empty());
    let texts = |id| {
        let told = events(&lab, 2, id).into_iter();
        let mut names: Vec<String> = told
            .map(|event| event.text.split([':', ' ']).next().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(texts(1120), ["sysctl-arp", "vip-missing"]);
    assert_eq!(texts(1121), ["sysctl-arp", "vip-missing"]);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_host_that_stood_still_says_how_late_it_was() {
    let lab = Lab::up("doctor-stall", 3, TIMING);
    lab.fault(&["stall", "2"]);
    lab.await_agreement(&[1, 3]);
    let (code, text) = doctor(&lab, 2, &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("daemon-hangs"), "{text}");
    lab.fault(&["heal"]);
    lab.await_agreement(&[1, 2, 3]);
    let found = diagnosis(&lab, 2).findings;
    let starved = found.iter().find(|finding| finding.name == "starved");
    let starved = starved.unwrap_or_else(|| panic!("{found:?}"));
    assert!(starved.what.contains("stopped serving"), "{}", starved.what);
    println!("{}", starved.what);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn without_a_daemon_the_configuration_and_the_machine_are_looked_at() {
    let lab = Lab::up("doctor-none", 2, TIMING);
    let config = lab.directory().join("h2/covey.toml");
    let config = config.to_str().unwrap();
    lab.fault(&["kill", "2"]);
    lab.await_end(2);
    let (code, text) = doctor(&lab, 2, &["--config", config]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("daemon-not-running"), "{text}");
    assert!(!text.contains("vip-missing"), "{text}");
    let (code, text) = doctor(&lab, 2, &["--config", "/nonexistent/covey.toml"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("configuration-wrong"), "{text}");
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn hosts_whose_rules_differ_are_named_by_all() {
    let lab = Lab::up("doctor-rules", 3, TIMING);
    let path = lab.directory().join("h3/covey.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text + "[[rule]]\nports = 8089\nprotocol = \"udp\"\naffinity = \"single\"\n",
    )
    .unwrap();
    lab.signal(3, "TERM");
    lab.await_end(3);
    // It starts the daemon, and says that not all hosts converge: one of them is to be kept out.
    let healed = lab.command(&["fault", "heal"]).output().unwrap();
    assert!(!healed.status.success());
    lab.await_agreement(&[1, 2]);
    await_named(&lab, 1, "rules-differ", 1);
    await_named(&lab, 3, "rules-differ", 3);
    let found = diagnosis(&lab, 1).findings;
    let differ = found.iter().find(|finding| finding.name == "rules-differ");
    let what = &differ.unwrap().what;
    assert!(what.starts_with("Host 3 (h3) is kept out"), "{what}");
    println!("{what}");
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_daemon_that_takes_over_tells_nothing_twice() {
    let lab = Lab::up("doctor-upgrade", 2, TIMING);
    restart_with(&lab, |text, _| {
        format!("{text}[[rule]]\nports = 8089\nprotocol = \"tcp\"\naffinity = \"single\"\n")
    });
    lab.await_agreement(&[1, 2]);
    lab.await_status(1, |status| !names_of(status).is_empty());
    lab.covey(1, &["upgrade"]);
    let told = |lab: &Lab| events(lab, 1, 1105).len();
    assert_eq!(told(&lab), 1);
    // A few check-ups of the new daemon.
    lab.await_status(1, |status| status.recent.window_ms > 4_000);
    assert_eq!((told(&lab), events(&lab, 1, 1121).len()), (1, 0));
    assert_eq!(names_of(&lab.status(1)).len(), 1);
}

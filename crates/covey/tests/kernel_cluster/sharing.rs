//! One owner for every connection, in fair shares; a cluster of two; and nothing left when a lab is down.

use crate::ipv6::restart_with;
use crate::lab::{COVEY, Lab, Timing, VIP};
use crate::netns;
use crate::web::{self, FIRST_PORT};
use crate::wire::{self, Capture};
use covey::status::EventRecord;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

const FAST: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn every_connection_has_one_owner_and_every_host_its_share() {
    share(&Lab::up("share", 3, FAST));
}

/// 3000 connections to a settled cluster of three.
pub(crate) fn share(lab: &Lab) {
    let capture = Capture::start(lab);
    let requests = web::in_a_row(lab, lab.vip(), FIRST_PORT..FIRST_PORT + 3000);
    let accepted = wire::accepted_by(&wire::read(&capture.finish()));

    web::assert_none_failed(&requests);
    let mut answers = [0; 3];
    for request in &requests {
        let host = *request.outcome.as_ref().unwrap();
        answers[usize::from(host) - 1] += 1;
        // The switch has seen this host accept the connection, and no other.
        let hosts: Vec<_> = accepted[&request.port].iter().collect();
        assert_eq!(hosts, [&wire::nic(host)], "port {}", request.port);
    }
    println!(
        "3000 requests from 3000 ports: 3000 answers, none from two hosts; shares {:.1} / {:.1} / {:.1} %",
        answers[0] as f64 / 30.0,
        answers[1] as f64 / 30.0,
        answers[2] as f64 / 30.0
    );
    for answers in answers {
        assert!(
            (810..=1170).contains(&answers),
            "{answers} of 3000 is not 27 to 39 %"
        );
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn of_two_hosts_the_other_takes_over_alone() {
    let lab = Lab::up("two", 2, FAST);
    let wlbs = lab.directory().join("wlbs");
    symlink(COVEY, &wlbs).unwrap();
    let query = |place| lab.exec(place, &[wlbs.to_str().unwrap(), "query"]);
    let list = "with the following host(s) as part of the cluster:";
    let (first, second) = (query("h1"), query("h2"));
    assert!(
        first.ends_with(&format!("\nHost 1 converged as DEFAULT {list}\n1, 2\n")),
        "{first}"
    );
    assert!(
        second.ends_with(&format!("\nHost 2 converged {list}\n1, 2\n")),
        "{second}"
    );

    lab.fault(&["crash", "1"]);
    lab.await_agreement(&[2]);
    let requests = web::in_a_row(&lab, VIP, FIRST_PORT..FIRST_PORT + 300);
    web::assert_none_failed(&requests);
    assert!(requests.iter().all(|request| request.outcome == Ok(2)));
    let alone = query("h2");
    assert!(
        alone.ends_with(&format!("\nHost 2 converged as DEFAULT {list}\n2\n")),
        "{alone}"
    );

    lab.fault(&["heal"]);
    let after = query("h2");
    assert!(
        after.ends_with(&format!("\nHost 2 converged {list}\n1, 2\n")),
        "{after}"
    );
    println!("two hosts, one crashed: the other answered 300 of 300 requests; wlbs query says so");
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn nothing_is_left_after_down() {
    let lab = Lab::up("down", 2, FAST);
    let places = ["h1", "h2", "client", "switch"].map(|place| lab.namespace(place));
    let inodes = places
        .each_ref()
        .map(|name| fs::metadata(netns::path(name)).unwrap().ino());
    // A process that is stopped does not react to polite signals; it goes all the same.
    lab.fault(&["stall", "1"]);
    let before = [left_behind(&lab, &inodes), processes_in(&inodes)].concat();
    let told = lab.lab(&["down"]);
    let after = [left_behind(&lab, &inodes), processes_in(&inodes)].concat();
    println!(
        "{} files and processes of the lab before `down`, {} after",
        before.len(),
        after.len()
    );
    // Two daemons, two servers, their sockets, pins and records, four namespaces, the lab's directory.
    assert!(before.len() >= 15, "{before:?}");
    assert_eq!(after, Vec::<String>::new(), "{told}");
}

/// Files of a lab outside of its directory are named by the inodes of its namespaces.
fn left_behind(lab: &Lab, inodes: &[u64]) -> Vec<String> {
    let of_lab = |name: &str| {
        name.starts_with(lab.name()) || inodes.iter().any(|inode| name.contains(&inode.to_string()))
    };
    let directories = ["/run", "/run/netns", "/run/covey", "/sys/fs/bpf/covey"];
    directories
        .iter()
        .flat_map(|directory| fs::read_dir(directory).into_iter().flatten())
        .map(|entry| entry.unwrap())
        .filter(|entry| of_lab(entry.file_name().to_str().unwrap()))
        .map(|entry| entry.path().display().to_string())
        .collect()
}

fn processes_in(inodes: &[u64]) -> Vec<String> {
    let in_lab = |process: &Path| {
        fs::metadata(process.join("ns/net")).is_ok_and(|netns| inodes.contains(&netns.ino()))
    };
    let processes = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    processes
        .filter(|path| in_lab(path))
        .map(|path| path.display().to_string())
        .collect()
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_rule_without_a_service_is_told_of_and_the_others_are_not() {
    let lab = Lab::up("services", 2, FAST);
    restart_with(&lab, |text, _| {
        format!("{text}[[rule]]\nports = 8089\nprotocol = \"tcp\"\naffinity = \"single\"\n")
    });
    lab.await_agreement(&[1, 2]);
    for host in lab.hosts() {
        lab.await_log(host, "listens for port rule 3 (tcp 8089)");
        let told = lab.covey(host, &["events", "--json"]);
        let told = told.lines().map(|line| serde_json::from_str(line).unwrap());
        let unserved = told.filter(|event: &EventRecord| event.id == 1105);
        assert_eq!(unserved.count(), 1);
    }
}

//! The lab's network, servers and life cycle, with the real `covey` program and the real kernel, but without
//! daemons: what `covey lab` promises before any cluster is involved (docs/design.md, "Command line").
//!
//! All of it runs in about a second; nothing here waits for a cluster. The helpers are in lab_support.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod lab_support;

use lab_support::{Lab, runs, wait_until};
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn dip(host: u8) -> String {
    Ipv4Addr::new(10, 77, 0, host).to_string()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_client_reaches_every_server_by_its_dedicated_address() {
    let lab = Lab::new("reach");
    lab.up("3");
    for host in 1..=3 {
        let name = format!("h{host}");
        let url = format!("http://{}/any/path", dip(host));
        assert_eq!(lab.client(&["curl", "-s", &url]), name);
        // Two requests on one connection: curl reports how many it had to open.
        let opened = "%{num_connects} ";
        let kept = lab.client(&["curl", "-s", "-w", opened, &url, &url]);
        assert_eq!(kept, format!("{name}1 {name}0 "));
        let echo = format!(
            "exec 3<>/dev/udp/{}/7; printf hello >&3; timeout 5 head -c 8 <&3",
            dip(host)
        );
        assert_eq!(lab.client(&["bash", "-c", &echo]), format!("{name} hello"));
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_echo_of_the_virtual_address_comes_from_the_virtual_address() {
    let lab = Lab::new("echo");
    lab.up("1");
    // What the daemon and the data path would do, for a single host.
    lab.ok(&[
        "exec",
        "h1",
        "--",
        "ip",
        "address",
        "add",
        "10.77.0.100/32",
        "dev",
        "lo",
    ]);
    // Bash connects its socket, so an answer from another address would not arrive.
    let echo = "exec 3<>/dev/udp/10.77.0.100/7; printf hello >&3; timeout 5 head -c 8 <&3";
    assert_eq!(lab.client(&["bash", "-c", echo]), "h1 hello");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn requests_in_a_row_are_answered_in_a_row() {
    let lab = Lab::new("pipeline");
    lab.up("1");
    let request = r"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = r"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let script =
        format!("exec 3<>/dev/tcp/10.77.0.1/80; printf '{request}{request}{last}' >&3; cat <&3");
    let answers = lab.client(&["bash", "-c", &script]);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert_eq!(answers.matches("\r\n\r\nh1").count(), 3, "{answers}");
    assert!(answers.ends_with("\r\n\r\nh1"), "{answers}");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_command_inside_keeps_its_exit_code_and_the_machines_files() {
    let lab = Lab::new("exec");
    lab.up("1");
    let output = lab.covey(&["exec", "h1", "--", "sh", "-c", "exit 42"]);
    assert_eq!(output.status.code(), Some(42));
    let addresses = lab.ok(&["exec", "h1", "--", "ip", "-br", "address", "show", "eth0"]);
    assert!(addresses.contains("10.77.0.1/24"), "{addresses}");
    let outside = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let inside = lab.ok(&["exec", "h1", "--", "readlink", "/proc/self/ns/mnt"]);
    assert_eq!(Path::new(inside.trim()), outside);

    let complaint = lab.fails(&["exec", "h2", "--", "true"]);
    assert!(complaint.contains("there is no h2 here"), "{complaint}");
    let complaint = lab.fails(&["exec", "h1", "--", "no-such-command"]);
    assert!(
        complaint.contains("cannot run no-such-command"),
        "{complaint}"
    );
}

#[test]
#[ignore = "needs root: network namespaces"]
fn down_leaves_nothing() {
    let lab = Lab::new("down");
    lab.up("2");
    let servers = [lab.server(1), lab.server(2)];
    let mut visitor = Command::new(env!("CARGO_BIN_EXE_covey"))
        .args([
            "lab", "--name", &lab.0, "exec", "client", "--", "sleep", "600",
        ])
        .spawn()
        .unwrap();
    let outside = std::fs::read_link("/proc/self/ns/net").unwrap();
    let inside = format!("/proc/{}/ns/net", visitor.id());
    wait_until("the visitor is inside", || {
        std::fs::read_link(&inside).unwrap() != outside
    });

    let told = lab.ok(&["down"]);
    lab.assert_gone();
    assert!(servers.iter().all(|pid| !runs(*pid)));
    assert_eq!(visitor.wait().unwrap().signal(), Some(9));
    assert!(told.contains("4 namespaces removed"), "{told}");

    let told = lab.ok(&["down"]);
    assert!(
        told.contains("0 namespaces removed, 0 processes ended"),
        "{told}"
    );
    lab.up("1");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn down_does_without_the_state_file() {
    let lab = Lab::new("lost");
    lab.up("2");
    let servers = [lab.server(1), lab.server(2)];
    std::fs::remove_dir_all(lab.directory()).unwrap();
    lab.ok(&["down"]);
    lab.assert_gone();
    assert!(servers.iter().all(|pid| !runs(*pid)));
}

#[test]
#[ignore = "needs root: network namespaces"]
fn down_does_without_parts_that_are_gone() {
    let lab = Lab::new("parts");
    lab.up("2");
    let servers = [lab.server(1), lab.server(2)];
    lab.ok(&["exec", "h1", "--", "kill", "-9", &servers[0].to_string()]);
    let deleted = Command::new("ip")
        .args(["netns", "del", &format!("{}-h2", lab.0)])
        .status()
        .unwrap();
    assert!(deleted.success());
    // Its namespace has no name any more, but the state file knows the server.
    assert!(runs(servers[1]));
    lab.ok(&["down"]);
    lab.assert_gone();
    assert!(servers.iter().all(|pid| !runs(*pid)));
}

/// Starts an `up` and returns as soon as it has built something.
fn up_under_way(lab: &Lab) -> Child {
    let up = Command::new(env!("CARGO_BIN_EXE_covey"))
        .args([
            "lab",
            "--name",
            &lab.0,
            "up",
            "--no-daemons",
            "--hosts",
            "64",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("something is built", || lab.namespaces().len() >= 3);
    up
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_up_that_is_interrupted_leaves_nothing() {
    let lab = Lab::new("half");
    let up = up_under_way(&lab);
    let kill = Command::new("kill").arg(up.id().to_string()).status();
    assert!(kill.unwrap().success());
    let output = up.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains("nothing is left of it"), "{complaint}");
    assert!(complaint.contains("interrupted"), "{complaint}");
    lab.assert_gone();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn down_removes_what_a_killed_up_has_left() {
    let lab = Lab::new("killed");
    let mut up = up_under_way(&lab);
    up.kill().unwrap();
    up.wait().unwrap();
    let complaint = lab.fails(&["up", "--no-daemons"]);
    assert!(complaint.contains("there is a lab already"), "{complaint}");
    lab.ok(&["down"]);
    lab.assert_gone();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_file_in_the_place_of_a_namespace_goes_too() {
    let lab = Lab::new("file");
    // What `ip netns add` leaves when it is killed between its two steps.
    std::fs::create_dir_all("/run/netns").unwrap();
    std::fs::write(format!("/run/netns/{}-client", lab.0), "").unwrap();
    lab.ok(&["down"]);
    lab.assert_gone();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn there_is_one_lab_of_a_name() {
    let lab = Lab::new("one");
    assert!(lab.fails(&["status"]).contains("there is no lab here"));
    lab.up("1");
    let server = lab.server(1);
    let complaint = lab.fails(&["up", "--no-daemons"]);
    assert!(complaint.contains("there is a lab already"), "{complaint}");
    assert!(runs(server));
}

#[test]
#[ignore = "needs root: network namespaces"]
fn sixty_four_hosts_fit() {
    let lab = Lab::new("many");
    lab.up("64");
    assert_eq!(lab.namespaces().len(), 66);
    assert_eq!(lab.client(&["curl", "-s", "http://10.77.0.64/"]), "h64");
    let status = lab.ok(&["status"]);
    assert!(
        status.lines().any(|line| line.starts_with("h64 ")),
        "{status}"
    );
}

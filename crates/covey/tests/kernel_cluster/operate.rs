//! What an operator asks of a host: it leaves, is suspended and returns as NLB's hosts do; port rules are drained and
//! disabled on one host while the others go on; and what was wanted last is what a new daemon begins with.

use crate::lab::{COVEY, Lab, Timing, VIP};
use crate::netns;
use crate::web::{self, FIRST_PORT};
use covey::status::{HostState, RuleState, Status};
use serde_json::Value;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const FAST: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// The lab's rule for port 80, as `covey rules` counts.
const WEB: usize = 1;
/// The lab's rule for port 7.
const ECHO: usize = 2;
/// How long an answer may take on a connection that is there.
const ANSWER: Duration = Duration::from_secs(2);

/// Gives a host a command; its exit code, and NLB's code for the answer.
fn ask(lab: &Lab, host: u8, words: &[&str]) -> (i32, u64) {
    let place = format!("h{host}");
    let mut command = lab.command(&["exec", &place, "--", COVEY]);
    let output = command.args(words).arg("--json").output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{words:?}: {}", String::from_utf8_lossy(&output.stderr)));
    (
        output.status.code().unwrap(),
        answer["code"].as_u64().unwrap(),
    )
}

fn share(status: &Status, rule: usize, host: u8) -> usize {
    status.rules[rule].share.get(&host).copied().unwrap_or(0)
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_host_is_stopped_suspended_and_resumed_with_nlbs_answers() {
    const OK: (i32, u64) = (0, 1000);
    const ALREADY: (i32, u64) = (0, 1001);
    const SUSPENDED: (i32, u64) = (1, 1013);
    use HostState::{Converged, Stopped, Suspended};
    let lab = Lab::up("operate", 2, FAST);
    // What host 2 is asked, what it answers, and what it is then.
    let steps: [(&[&str], (i32, u64), HostState); 19] = [
        (&["start"], ALREADY, Converged),
        (&["resume"], ALREADY, Converged),
        (&["enable", "80"], ALREADY, Converged),
        (&["enable", "81"], (1, 1004), Converged),
        (&["suspend"], (0, 1005), Suspended),
        (&["suspend"], ALREADY, Suspended),
        (&["start"], SUSPENDED, Suspended),
        (&["stop"], SUSPENDED, Suspended),
        (&["drainstop"], SUSPENDED, Suspended),
        (&["drain", "all"], SUSPENDED, Suspended),
        (&["resume"], OK, Stopped),
        (&["stop"], ALREADY, Stopped),
        (&["drain", "all"], (1, 1005), Stopped),
        (&["drainstop"], (1, 1005), Stopped),
        (&["start"], OK, Converged),
        // Nobody is connected, so it is over soon.
        (&["drainstop"], OK, Stopped),
        (&["suspend"], OK, Suspended),
        (&["resume"], OK, Stopped),
        (&["start"], OK, Converged),
    ];
    for (number, (words, answer, state)) in steps.into_iter().enumerate() {
        assert_eq!(ask(&lab, 2, words), answer, "step {number}: {words:?}");
        assert_eq!(
            lab.status(2).host.state,
            state,
            "after step {number}: {words:?}"
        );
        let members: &[u8] = if state == Converged { &[1, 2] } else { &[1] };
        lab.await_agreement(members);
    }
    web::assert_none_failed(&web::in_a_row(&lab, VIP, FIRST_PORT..FIRST_PORT + 100));
}

/// Connections that stay open, from the client.
struct Visit {
    stream: TcpStream,
    host: u8,
}

impl Visit {
    /// One that has been answered by this host.
    fn to(lab: &Lab, host: u8) -> Self {
        netns::inside(&lab.namespace("client"), move || {
            for _ in 0..200 {
                let stream = TcpStream::connect((VIP, 80)).unwrap();
                stream.set_read_timeout(Some(ANSWER)).unwrap();
                let mut visit = Self { stream, host: 0 };
                visit.host = visit.ask().unwrap();
                if visit.host == host {
                    return visit;
                }
            }
            panic!("200 connections, and none with host {host}");
        })
    }

    /// Who answers on it.
    fn ask(&mut self) -> io::Result<u8> {
        let request = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";
        self.stream.write_all(request)?;
        let mut answer = String::new();
        let mut part = [0; 512];
        while !answer.contains("\r\n\r\nh") {
            let length = self.stream.read(&mut part)?;
            assert!(length > 0, "closed after {answer:?}");
            answer.push_str(std::str::from_utf8(&part[..length]).unwrap());
        }
        Ok(answer.rsplit_once('h').unwrap().1.parse().unwrap())
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_disabled_rule_is_cut_off_on_one_host_and_a_drained_one_takes_nothing_new() {
    let lab = Lab::up("ports", 3, FAST);
    let (mut first, mut second) = (Visit::to(&lab, 1), Visit::to(&lab, 2));

    assert_eq!(ask(&lab, 2, &["disable", "80"]), (0, 1000));
    lab.await_status(1, |status| share(status, WEB, 2) == 0);
    lab.await_agreement(&[1, 2, 3]);
    assert_eq!(lab.status(2).rules[WEB].state, RuleState::Disabled);
    assert_eq!(first.ask().unwrap(), 1, "host 1 keeps what it has");
    let reset = second.ask().unwrap_err().kind();
    assert_eq!(
        reset,
        ErrorKind::ConnectionReset,
        "host 2 has given its connection up"
    );
    // Its other rule goes on.
    assert!(share(&lab.status(1), ECHO, 2) > 1300);

    assert_eq!(ask(&lab, 2, &["enable", "80"]), (0, 1000));
    lab.await_status(1, |status| share(status, WEB, 2) > 1300);
    let mut second = Visit::to(&lab, 2);
    assert_eq!(
        ask(&lab, 2, &["drain", "80", "--vip", "0.0.0.0"]),
        (0, 1000)
    );
    lab.await_status(1, |status| share(status, WEB, 2) == 0);
    lab.await_agreement(&[1, 2, 3]);
    let requests = web::in_a_row(&lab, VIP, FIRST_PORT..FIRST_PORT + 300);
    web::assert_none_failed(&requests);
    assert!(requests.iter().all(|request| request.outcome != Ok(2)));
    assert_eq!(second.ask().unwrap(), 2, "host 2 finishes what it has");
    lab.await_status(2, |status| status.host.connections == Some(1));
    assert_eq!(lab.status(2).rules[WEB].state, RuleState::Draining);
    drop(second);
    lab.await_status(2, |status| status.rules[WEB].state == RuleState::Disabled);
    assert_eq!(ask(&lab, 2, &["drain", "80"]), (0, 1001));
    assert_eq!(ask(&lab, 2, &["enable", "all"]), (0, 1000));
    lab.await_status(1, |status| share(status, WEB, 2) > 1300);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_drainstop_waits_for_the_last_connection_or_for_its_time() {
    let lab = Lab::up("drain", 2, FAST);
    let mut visit = Visit::to(&lab, 2);
    let draining = |words: &[&str]| {
        let mut command = lab.command(&["exec", "h2", "--", COVEY, "drainstop"]);
        let command = command.args(words).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).spawn().unwrap()
    };

    // Whoever waits sees how many are left; that he goes does not matter.
    let mut child = draining(&[]);
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(progress.any(|line| line.unwrap() == "1 connection left"));
    child.kill().unwrap();
    child.wait().unwrap();
    for host in [1, 2] {
        lab.await_status(host, |status| share(status, WEB, 2) == 0);
    }
    let requests = web::in_a_row(&lab, VIP, FIRST_PORT..FIRST_PORT + 100);
    web::assert_none_failed(&requests);
    assert!(requests.iter().all(|request| request.outcome == Ok(1)));
    assert_eq!(lab.status(2).host.state, HostState::Draining);
    assert_eq!(visit.ask().unwrap(), 2);
    assert_eq!(ask(&lab, 2, &["drain", "80"]), (1, 1009));

    // A start interrupts.
    assert_eq!(ask(&lab, 2, &["start"]), (0, 1002));
    assert_eq!(visit.ask().unwrap(), 2);
    lab.await_agreement(&[1, 2]);

    // When the time is up, what is left is reset.
    assert_eq!(
        ask(&lab, 2, &["drainstop", "--timeout", "500ms"]),
        (0, 1000)
    );
    assert_eq!(lab.status(2).host.state, HostState::Stopped);
    assert_eq!(visit.ask().unwrap_err().kind(), ErrorKind::ConnectionReset);

    assert_eq!(ask(&lab, 2, &["start"]), (0, 1000));
    let visit = Visit::to(&lab, 2);
    let child = draining(&[]);
    lab.await_status(2, |status| status.host.connections == Some(1));
    drop(visit);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.ends_with("\nhost 2 has left the cluster and is stopped\n"),
        "{text}"
    );
}

/// A host whose state is kept, and whose daemon ends and begins.
struct Kept<'a> {
    lab: &'a Lab,
    host: u8,
    config: PathBuf,
    file: PathBuf,
}

impl Kept<'_> {
    /// Starts the daemon, and waits until it is this.
    fn begin(&self, state: HostState) -> Status {
        // It waits for all hosts to converge, which is not what is wanted here.
        let mut heal = self.lab.command(&["fault", "heal"]);
        let heal = heal.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let _heal = Ended(heal.unwrap());
        self.lab
            .await_status(self.host, |status| status.host.state == state);
        self.lab.status(self.host)
    }

    /// Ends the daemon by a signal, and starts it again.
    fn restart(&self, signal: &str, state: HostState) -> Status {
        self.lab.signal(self.host, signal);
        self.lab.await_end(self.host);
        self.begin(state)
    }

    /// The IDs of the first events of its daemon.
    fn first_event(&self) -> (u64, String) {
        let events = self.lab.covey(self.host, &["events", "--json"]);
        let first: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
        let severity = first["severity"].as_str().unwrap().to_owned();
        (first["id"].as_u64().unwrap(), severity)
    }

    /// Waits until the disk has it.
    fn await_file(&self, text: &str) {
        let start = Instant::now();
        while !fs::read_to_string(&self.file).is_ok_and(|found| found.contains(text)) {
            assert!(
                start.elapsed() < ANSWER,
                "{}: no {text}",
                self.file.display()
            );
            thread::yield_now();
        }
    }
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_new_daemon_begins_with_what_was_wanted_last() {
    use HostState::{Converged, Stopped, Suspended};
    let lab = Lab::up("keep", 2, FAST);
    let directory = lab.directory().join("h2");
    let kept = Kept {
        lab: &lab,
        host: 2,
        config: directory.join("covey.toml"),
        file: directory.join("10.77.0.100-2.json"),
    };
    let config = fs::read_to_string(&kept.config).unwrap();
    let keeping = config.replace("[host]\n", "[host]\npersist_state = true\n");

    // Without the key nothing is kept.
    assert_eq!(ask(&lab, 2, &["stop"]), (0, 1000));
    kept.restart("TERM", Converged);
    assert!(!kept.file.exists());

    fs::write(&kept.config, &keeping).unwrap();
    kept.restart("TERM", Converged);
    assert_eq!(kept.first_event(), (76, "info".to_owned()));
    assert_eq!(ask(&lab, 2, &["drain", "81"]), (1, 1004));
    assert!(!kept.file.exists(), "nothing was changed");

    assert_eq!(ask(&lab, 2, &["disable", "80"]), (0, 1000));
    kept.await_file("disabled");
    let status = kept.restart("KILL", Converged);
    assert_eq!(kept.first_event(), (77, "info".to_owned()));
    assert_eq!(status.rules[WEB].state, RuleState::Disabled);
    lab.await_agreement(&[1, 2]);
    assert_eq!(share(&lab.status(1), WEB, 2), 0);
    assert_eq!(share(&lab.status(1), ECHO, 2), 2048);

    // A signal is not the operator's word.
    kept.restart("TERM", Converged);

    assert_eq!(ask(&lab, 2, &["suspend"]), (0, 1005));
    kept.restart("TERM", Suspended);
    assert_eq!(kept.first_event(), (1101, "info".to_owned()));
    assert_eq!(ask(&lab, 2, &["start"]), (1, 1013));
    assert_eq!(ask(&lab, 2, &["resume"]), (0, 1000));
    kept.restart("TERM", Stopped);
    assert_eq!(kept.first_event(), (78, "info".to_owned()));

    // What makes no sense is not obeyed.
    fs::write(&kept.file, "{\"state\":\"stopped\"").unwrap();
    let status = kept.restart("TERM", Converged);
    assert_eq!(kept.first_event(), (76, "warning".to_owned()));
    assert_eq!(status.rules[WEB].state, RuleState::Enabled);

    // What is not kept any more does not come back.
    assert_eq!(ask(&lab, 2, &["stop"]), (0, 1000));
    fs::write(&kept.config, &config).unwrap();
    kept.restart("TERM", Converged);
    fs::write(&kept.config, &keeping).unwrap();
    kept.restart("TERM", Converged);
    assert_eq!(kept.first_event(), (76, "info".to_owned()));
}

//! The binary as a shell sees it: exit codes, stdout, stderr, and the names it is called by.
//!
//! The daemon is played by a thread with canned answers. Covers docs/design.md, "Command line".
#![allow(clippy::unwrap_used)] // Helpers of a test, outside of its functions.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const COVEY: &str = env!("CARGO_BIN_EXE_covey");
/// A socket on which no daemon answers.
const NOBODY: &str = "/nonexistent/sock";

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("covey-command-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A daemon that gives each request the next of these answers, and then hangs up.
    fn daemon(&self, answers: &'static [&'static str]) -> PathBuf {
        let socket = self.path("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            for answer in answers {
                stream.read_line(&mut String::new()).unwrap();
                writeln!(stream.get_mut(), "{answer}").unwrap();
            }
        });
        socket
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the program with a socket; what it exits with, and what it says to stdout and stderr.
fn ask(program: &Path, socket: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output: Output = Command::new(program)
        .args(arguments)
        .env("COVEY_SOCKET", socket)
        .env_remove("COVEY_CONFIG")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn covey(socket: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    ask(Path::new(COVEY), socket, arguments)
}

#[test]
fn starting_what_is_started_is_done() {
    let scratch = Scratch::new("start");
    let socket = scratch
        .daemon(&[r#"{"ok":{"answer":"WLBS_ALREADY","code":1001,"text":"already started"}}"#]);
    assert_eq!(
        covey(&socket, &["start"]),
        (Some(0), "already started\n".to_owned(), String::new())
    );
}

#[test]
fn what_the_host_does_not_do_is_exit_1_and_json_all_the_same() {
    let scratch = Scratch::new("suspended");
    const SUSPENDED: &str =
        r#"{"ok":{"answer":"WLBS_SUSPENDED","code":1013,"text":"resume it first"}}"#;
    let socket = scratch.daemon(&[SUSPENDED]);
    assert_eq!(
        covey(&socket, &["drain", "80", "--vip", "10.0.0.1"]),
        (
            Some(1),
            String::new(),
            "covey: resume it first\n".to_owned()
        )
    );
    let scratch = Scratch::new("suspended-json");
    let socket = scratch.daemon(&[SUSPENDED]);
    let (code, stdout, stderr) = covey(&socket, &["enable", "all", "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    let answer: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        answer,
        serde_json::json!({"answer": "WLBS_SUSPENDED", "code": 1013, "text": "resume it first"})
    );
}

#[test]
fn only_a_suspend_is_done_when_the_host_is_stopped() {
    for (verb, code) in [("suspend", 0), ("drainstop", 1)] {
        let scratch = Scratch::new(verb);
        let answers: &[&str] = match verb {
            "suspend" => &[r#"{"ok":{"answer":"WLBS_STOPPED","code":1005,"text":"so be it"}}"#],
            _ => &[
                r#"{"ok":[]}"#,
                r#"{"ok":{"answer":"WLBS_STOPPED","code":1005,"text":"so be it"}}"#,
            ],
        };
        let socket = scratch.daemon(answers);
        assert_eq!(covey(&socket, &[verb]).0, Some(code), "{verb}");
    }
}

#[test]
fn a_refusal_is_one_sentence_and_exit_1() {
    let scratch = Scratch::new("refusal");
    let socket = scratch.daemon(&[r#"{"error":"not today","code":"failed"}"#]);
    assert_eq!(
        covey(&socket, &["stop"]),
        (Some(1), String::new(), "covey: not today\n".to_owned())
    );
}

#[test]
fn nobody_there_is_one_sentence_and_exit_1() {
    let (code, stdout, stderr) = covey(Path::new(NOBODY), &["status"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(
        stderr,
        "covey: no covey daemon answers at /nonexistent/sock: is it running in this network namespace?\n"
    );
}

#[test]
fn events_are_followed_until_the_daemon_ends() {
    let scratch = Scratch::new("events");
    let socket = scratch.daemon(&[
        r#"{"ok":[{"number":1,"time":"2026-11-20T23:01:02.345Z","id":5,"severity":"info","text":"One."}]}"#,
        r#"{"ok":[]}"#,
        r#"{"ok":[{"number":2,"time":"2026-11-20T23:01:03.000Z","id":6,"severity":"info","text":"Two."}]}"#,
    ]);
    let (code, stdout, stderr) = covey(&socket, &["events", "--follow", "--json"]);
    let numbers: Vec<u64> = stdout
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["number"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.starts_with("covey: the connection to the covey daemon broke off"),
        "{stderr}"
    );
}

#[test]
fn a_bad_configuration_is_exit_2_and_so_is_bad_usage() {
    let scratch = Scratch::new("config");
    let config = scratch.path("covey.toml");
    std::fs::write(&config, "[host]\nid = 0\n").unwrap();
    let config = config.to_str().unwrap();
    for verb in ["check", "run"] {
        let (code, stdout, stderr) = covey(Path::new(NOBODY), &[verb, "--config", config]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(
            stderr.starts_with("covey: the configuration has 3 errors\n"),
            "{stderr}"
        );
        assert!(
            stderr.contains(":2:6: host id 0 is not possible"),
            "{stderr}"
        );
    }
    let (code, _, stderr) = covey(
        Path::new(NOBODY),
        &["check", "--config", "/nonexistent.toml"],
    );
    assert_eq!(code, Some(2), "{stderr}");
    for words in [
        &["dance"][..],
        &["drain"],
        &["drain", "http"],
        &["drainstop", "--timeout", "5"],
        &["wlbs"],
        &["wlbs", "dance"],
        &["wlbs", "stop", "all"],
    ] {
        let (code, stdout, stderr) = covey(Path::new(NOBODY), words);
        assert_eq!(
            (code, stdout.as_str()),
            (Some(2), ""),
            "{words:?}: {stderr}"
        );
    }
    let (code, stdout, _) = covey(Path::new(NOBODY), &["--help"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("Usage: covey"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(COVEY)
        .args(["ip2mac", "10.0.0.1"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn under_the_name_wlbs_it_speaks_as_wlbs_does() {
    let scratch = Scratch::new("wlbs");
    let link = scratch.path("wlbs");
    std::os::unix::fs::symlink(COVEY, &link).unwrap();
    let (code, stdout, _) = ask(&link, Path::new(NOBODY), &["QUERY", "/?"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("Usage: wlbs <verb>"), "{stdout}");
    let (code, stdout, _) = ask(&link, Path::new(NOBODY), &["ip2mac", "10.165.2.19"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("02-bf-0a-a5-02-13"), "{stdout}");
}

//! A lab of a test's own, driven through the real `covey` program as a person would drive it.
//!
//! Used by the tests in kernel_lab_*.rs. They need root (network namespaces) and are listed as ignored without
//! `--ignored`. Each test has a lab of its own name, so they run side by side and do not meet a lab of the user's.
#![allow(clippy::unwrap_used)] // helpers of tests are tests
#![allow(dead_code)] // each of the test programs uses a part

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A lab that is taken down at the end of a test, whatever its outcome.
pub(crate) struct Lab(pub(crate) String);

impl Lab {
    /// Takes the name; the lab is not up yet.
    pub(crate) fn new(test: &str) -> Self {
        let lab = Self(format!("covey-t{}-{test}", std::process::id()));
        lab.assert_gone();
        lab
    }

    pub(crate) fn covey(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_covey"))
            .args(["lab", "--name", &self.0])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs `covey lab` and hands back what it prints; it must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.covey(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "covey lab {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `covey lab` and hands back its complaint; it must fail with exit code 1.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let output = self.covey(arguments);
        assert_eq!(output.status.code(), Some(1), "covey lab {arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs a command in the client.
    pub(crate) fn client(&self, command: &[&str]) -> String {
        self.ok(&[&["exec", "client", "--"], command].concat())
    }

    pub(crate) fn up(&self, hosts: &str) {
        self.ok(&["up", "--no-daemons", "--hosts", hosts]);
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["status", "--json"])).unwrap()
    }

    pub(crate) fn server(&self, host: usize) -> u64 {
        self.status()["hosts"][host - 1]["server"].as_u64().unwrap()
    }

    pub(crate) fn directory(&self) -> PathBuf {
        PathBuf::from(format!("/run/{}-lab", self.0))
    }

    pub(crate) fn namespaces(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir("/run/netns") else {
            return Vec::new();
        };
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(&self.0))
            .collect()
    }

    pub(crate) fn assert_gone(&self) {
        assert_eq!(self.namespaces(), Vec::<String>::new());
        assert!(!self.directory().exists());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.covey(&["down"]);
    }
}

/// Whether a process runs; one that has ended and was not waited for does not.
pub(crate) fn runs(pid: u64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::yield_now();
    }
}

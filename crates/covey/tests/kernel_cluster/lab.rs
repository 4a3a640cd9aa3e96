//! A lab of its own for each test, through the same `covey lab` that people type, and gone when the test is over.
//!
//! Tests wait for conditions, never for time: a condition is what daemons say of themselves
//! (`Lab::await_...`), with a bound. Labs are up one at a time:
//! several clusters on two cores would measure each other. docs/design.md, "Tests".

use crate::netns;
use covey::control::client::Client;
use covey::control::socket_of;
use covey::status::{HostState, Status};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The virtual IP of every lab.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The other one of a lab with IPv6.
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, 0x100);
/// The program under test.
pub(crate) const COVEY: &str = env!("CARGO_BIN_EXE_covey");
/// How long anything that a test waits for may take; far more than it should.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two questions, where nobody tells when the answer changes.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Heartbeat period and tolerance of a lab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// The period, ms.
    pub(crate) period_ms: u64,
    /// The tolerance, periods.
    pub(crate) tolerance: u32,
}

impl Timing {
    /// Tolerance times period: the longest that a lease can run.
    pub(crate) fn budget(self) -> Duration {
        Duration::from_millis(self.period_ms) * self.tolerance
    }
}

impl std::fmt::Display for Timing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ms x {}", self.period_ms, self.tolerance)
    }
}

/// A lab that is up, and is taken down at the end, whatever the outcome.
pub(crate) struct Lab {
    name: String,
    hosts: u8,
    vip: IpAddr,
    // Dropped last: the next lab comes up when this one is gone.
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// Builds a lab and waits until it has converged.
    pub(crate) fn up(test: &str, hosts: u8, timing: Timing) -> Self {
        Self::timed(test, hosts, timing, VIP.into(), &[])
    }

    /// As [`Self::up`], with IPv6 addresses too; its clients talk to [`VIP6`].
    pub(crate) fn up_with_ipv6(test: &str, hosts: u8, timing: Timing) -> Self {
        Self::timed(test, hosts, timing, VIP6.into(), &["--ipv6"])
    }

    /// As [`Self::up`], with more options of `covey lab up`.
    pub(crate) fn up_with(test: &str, hosts: u8, timing: Timing, options: &[&str]) -> Self {
        Self::timed(test, hosts, timing, VIP.into(), options)
    }

    /// As [`Self::up`], in `multicast` or another mode, with IPv6 addresses too; its clients talk to `vip`.
    pub(crate) fn up_in_mode(test: &str, mode: &str, timing: Timing, vip: IpAddr) -> Self {
        Self::timed(test, 3, timing, vip, &["--mode", mode, "--ipv6"])
    }

    /// Builds a lab without daemons: network and servers alone.
    #[allow(dead_code, reason = "benchmarks call it")]
    pub(crate) fn bare(test: &str, hosts: u8) -> Self {
        Self::build(test, hosts, VIP.into(), &["--no-daemons"])
    }

    fn timed(test: &str, hosts: u8, timing: Timing, vip: IpAddr, options: &[&str]) -> Self {
        let period = format!("{}ms", timing.period_ms);
        let tolerance = timing.tolerance.to_string();
        let xdp = std::env::var("COVEY_TEST_XDP").unwrap_or_else(|_| "auto".to_owned());
        let timed = [
            "--xdp",
            &xdp,
            "--period",
            &period,
            "--tolerance",
            &tolerance,
        ];
        let lab = Self::build(test, hosts, vip, &[&timed, options].concat());
        if xdp != "auto" {
            assert_eq!(lab.status(1).datapath.attach, xdp);
        }
        lab
    }

    fn build(test: &str, hosts: u8, vip: IpAddr, options: &[&str]) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Self {
            name: format!("covey-t{}-{test}", std::process::id()),
            hosts,
            vip,
            _turn: turn,
        };
        lab.lab(&[&["up", "--hosts", &hosts.to_string()], options].concat());
        lab
    }

    /// The IDs of its hosts.
    pub(crate) fn hosts(&self) -> Vec<u8> {
        (1..=self.hosts).collect()
    }

    /// The same lab, but for the virtual IP that its clients talk to.
    pub(crate) fn talking_to(self, vip: IpAddr) -> Self {
        let mut lab = self;
        lab.vip = vip;
        lab
    }

    /// The virtual IP that its clients talk to.
    pub(crate) const fn vip(&self) -> IpAddr {
        self.vip
    }

    /// The first part of the names of its namespaces.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The namespace of `h1`, `client` or `switch`.
    pub(crate) fn namespace(&self, place: &str) -> String {
        format!("{}-{place}", self.name)
    }

    /// Its state directory.
    pub(crate) fn directory(&self) -> PathBuf {
        PathBuf::from(format!("/run/{}-lab", self.name))
    }

    /// `covey lab ...`, not yet run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(COVEY);
        command.args(["lab", "--name", &self.name]).args(arguments);
        command
    }

    /// Runs `covey lab ...`, which must succeed, and hands back what it prints.
    pub(crate) fn lab(&self, arguments: &[&str]) -> String {
        succeed(&format!("covey lab {arguments:?}"), self.command(arguments))
    }

    /// Runs a command in `h1`, `client` or `switch`; it must succeed.
    pub(crate) fn exec(&self, place: &str, command: &[&str]) -> String {
        self.lab(&[&["exec", place, "--"], command].concat())
    }

    /// Runs a `covey` command beside a host's daemon; it must succeed.
    pub(crate) fn covey(&self, host: u8, arguments: &[&str]) -> String {
        self.exec(&format!("h{host}"), &[&[COVEY], arguments].concat())
    }

    /// Lets something happen to a host.
    pub(crate) fn fault(&self, arguments: &[&str]) {
        self.lab(&[&["fault"], arguments].concat());
    }

    /// Writes something else into a host's configuration; its daemon has yet to be told.
    pub(crate) fn reconfigure(&self, host: u8, change: impl Fn(&str) -> String) {
        let path = self.directory().join(format!("h{host}/covey.toml"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, change(&text)).unwrap();
    }

    /// The MAC that the client knows for the virtual IP, if it knows one.
    pub(crate) fn neighbour(&self) -> Option<String> {
        let vip = self.vip.to_string();
        let known = self.exec("client", &["ip", "neigh", "show", "to", &vip]);
        let mut words = known.split(' ').skip_while(|word| *word != "lladdr");
        words.nth(1).map(str::to_owned)
    }

    /// Sends a signal to a host's daemon.
    pub(crate) fn signal(&self, host: u8, name: &str) {
        let mut kill = Command::new("kill");
        kill.args(["-s", name, &self.status(host).host.pid.to_string()]);
        succeed("kill", kill);
    }

    /// What a host says on `covey status --json`.
    pub(crate) fn status(&self, host: u8) -> Status {
        serde_json::from_str(&self.covey(host, &["status", "--json"])).unwrap()
    }

    fn client(&self, host: u8) -> Option<Client> {
        let path = netns::path(&self.namespace(&format!("h{host}")));
        let inode = fs::metadata(path).unwrap().ino();
        Client::connect(&socket_of(inode)).ok()
    }

    /// Waits until this holds of what a host says.
    pub(crate) fn await_status(&self, host: u8, holds: impl Fn(&Status) -> bool) {
        self.wait(&[host], "come to it", || {
            let status = self.client(host)?.status().ok()?;
            holds(&status).then_some(())
        });
    }

    /// Waits until host 1 has heard so many more heartbeats of another host.
    pub(crate) fn await_heartbeats(&self, host: u8, more: u64) {
        let heard = |status: &Status| {
            status
                .hosts
                .iter()
                .find(|peer| peer.id == host)
                .map(|peer| peer.heartbeats)
        };
        let before = heard(&self.status(1)).unwrap();
        self.await_status(1, |status| heard(status) >= Some(before + more));
    }

    /// Waits until this holds; `what` the hosts have done then.
    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        self.wait(&self.hosts(), what, || holds().then_some(()));
    }

    /// Waits until a host's log has this in it.
    pub(crate) fn await_log(&self, host: u8, text: &str) {
        self.wait(&[host], &format!("logged `{text}`"), || {
            self.log(host).contains(text).then_some(())
        });
    }

    /// Waits until a host's daemon has ended.
    pub(crate) fn await_end(&self, host: u8) {
        self.wait(&[host], "ended", || {
            self.client(host).is_none().then_some(())
        });
    }

    /// Waits until exactly these hosts form a converged cluster with one map; says which epoch.
    pub(crate) fn await_agreement(&self, hosts: &[u8]) -> u64 {
        self.wait(hosts, "agreed", || self.agreement(hosts))
    }

    /// Asks until there is an answer.
    fn wait<T>(&self, hosts: &[u8], what: &str, ask: impl Fn() -> Option<T>) -> T {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(answer) = ask() {
                return answer;
            }
            thread::sleep(ASK_EVERY);
        }
        let logs: Vec<String> = hosts.iter().map(|host| self.log(*host)).collect();
        panic!(
            "host(s) {hosts:?} have not {what} after {PATIENCE:?}: {}",
            logs.join("\n")
        );
    }

    fn agreement(&self, hosts: &[u8]) -> Option<u64> {
        let statuses = hosts.iter().map(|host| self.client(*host)?.status().ok());
        let statuses: Vec<Status> = statuses.collect::<Option<_>>()?;
        let map = |status: &Status| (status.cluster.epoch, status.cluster.map_digest.clone());
        let first = map(&statuses[0]);
        let agree = statuses.iter().all(|status| {
            status.host.state == HostState::Converged
                && status.cluster.view == hosts
                && map(status) == first
        });
        agree.then_some(first.0)
    }

    /// A host's log, to stand below a failure.
    pub(crate) fn log(&self, host: u8) -> String {
        let path = self.directory().join(format!("h{host}/daemon.log"));
        fs::read_to_string(path).unwrap_or_default()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down: Output = self.command(&["down"]).output().unwrap();
        if !down.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&down.stderr));
        }
    }
}

/// Runs a command, which must succeed, and hands back what it prints.
pub(crate) fn succeed(what: &str, mut command: Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

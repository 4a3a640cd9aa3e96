//! The vocabulary of the scenarios: say, expect, until; a lab to act upon, its clients and its doctor.

use super::super::args::Xdp;
use super::super::faults::Harm;
use super::super::host::{Host, config_path};
use super::super::interrupt::{Interrupt, TICK};
use super::super::lifecycle::{self, Spec};
use super::super::netns::run_in;
use super::super::snooping::{Asking, Switch};
use super::super::state::Lab;
use super::super::topology::{CLIENT, LabName, Place, VIP, host_name};
use super::super::{own_program, say};
use crate::status::Status;
use anyhow::{Context, Result, bail};
use covey_proto::config::{ClusterMode, Timing};
use covey_proto::ids::{HostId, HostSet};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How long doctor may take to find out: probes are sent every few seconds, and it looks back over a window.
const DOCTOR_PATIENCE: Duration = Duration::from_secs(45);
/// How long a client waits for an answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(1);

/// NLB's timing, and Covey's: a heartbeat a second, five missed mean death.
pub(super) const USUAL: Timing = Timing {
    period: Duration::from_secs(1),
    tolerance: 5,
};

/// A step that was told.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    /// When, in seconds since the scenario began.
    at_s: f64,
    /// What happened.
    what: String,
}

/// What clients met.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Requests that were answered, by host.
    pub(super) by: BTreeMap<HostId, usize>,
    /// Requests that were not answered in time.
    pub(super) none: usize,
}

impl Answers {
    /// The hosts that answer.
    pub(super) fn hosts(&self) -> HostSet {
        self.by.keys().copied().collect()
    }

    /// In words.
    fn told(&self) -> String {
        let answered: usize = self.by.values().sum();
        let by: Vec<String> = self
            .by
            .iter()
            .map(|(host, count)| format!("h{host} {count}"))
            .collect();
        let of = answered + self.none;
        match by.as_slice() {
            [] => format!("none of {of} requests is answered"),
            by => format!(
                "{answered} of {of} requests are answered ({})",
                by.join(", ")
            ),
        }
    }
}

/// Where a scenario plays.
pub(super) struct Stage<'a> {
    name: LabName,
    interrupt: &'a Interrupt,
    quiet: bool,
    began: Instant,
    steps: Vec<Step>,
    lab: Option<Lab>,
}

/// A host's ID, of one that is named in a scenario.
pub(super) fn host(id: u8) -> HostId {
    HostId::new(id).expect("scenarios name hosts from 1 to 64")
}

/// A set of hosts.
pub(super) fn hosts(ids: &[u8]) -> HostSet {
    ids.iter().map(|id| host(*id)).collect()
}

impl<'a> Stage<'a> {
    pub(super) fn new(name: LabName, interrupt: &'a Interrupt, quiet: bool) -> Self {
        Self {
            name,
            interrupt,
            quiet,
            began: Instant::now(),
            steps: Vec::new(),
            lab: None,
        }
    }

    /// What was told.
    pub(super) fn end(self) -> Vec<Step> {
        self.steps
    }

    /// Tells what happens.
    pub(super) fn say(&mut self, what: impl Into<String>) {
        let what = what.into();
        let at_s = self.began.elapsed().as_secs_f64();
        if !self.quiet {
            say(&format!("{at_s:>6.1} s  {what}"));
        }
        self.steps.push(Step { at_s, what });
    }

    /// Tells what is so; if it is not, the scenario has failed.
    pub(super) fn expect(&mut self, what: impl Into<String>, holds: bool) -> Result<()> {
        let what = what.into();
        if !holds {
            bail!("not so: {what}");
        }
        self.say(what);
        Ok(())
    }

    /// Waits until nothing keeps it from being so, and tells it; if that takes too long, the scenario has failed.
    pub(super) fn until(
        &mut self,
        what: &str,
        bound: Duration,
        mut obstacle: impl FnMut(&Lab) -> Result<Option<String>>,
    ) -> Result<Duration> {
        let start = Instant::now();
        loop {
            self.interrupt.check()?;
            let Some(obstacle) = obstacle(self.lab()?)? else {
                break;
            };
            if start.elapsed() > bound {
                let bound = bound.as_secs_f64();
                bail!("not so after {bound:.0} s: {what} ({obstacle})");
            }
            thread::sleep(TICK);
        }
        let took = start.elapsed();
        self.say(format!("after {:.2} s {what}", took.as_secs_f64()));
        Ok(took)
    }

    /// Lets time pass; an interrupt ends it.
    pub(super) fn wait(&self, time: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.interrupt.check()?;
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// What labs of scenarios have in common: three hosts that notice a death after a second.
    pub(super) fn spec(&self) -> Result<Spec> {
        Ok(Spec {
            name: self.name.clone(),
            program: own_program()?,
            hosts: host(3),
            timing: Timing {
                period: Duration::from_millis(200),
                tolerance: 5,
            },
            ipv6: false,
            mode: ClusterMode::Unicast,
            xdp: Xdp::Auto,
            daemons: true,
            switch: Switch::Bridge,
            asking: Asking::default(),
            announce_mrouter: false,
            cluster: Vec::new(),
        })
    }

    /// Builds a lab, in place of the one before.
    pub(super) fn up(&mut self, spec: &Spec) -> Result<()> {
        if self.lab.take().is_some() {
            lifecycle::down(&self.name)?;
        }
        let lab = lifecycle::up(spec, self.interrupt, &|_| ())?;
        let everyone = lab.everyone();
        self.lab = Some(lab);
        let settings = match spec.cluster.as_slice() {
            [] => String::new(),
            settings => format!(", {}", settings.join(", ")),
        };
        self.say(format!(
            "a lab in {} mode is up, hosts {everyone}, a heartbeat every {}, {} missed mean death{settings}",
            spec.mode,
            crate::duration::format(spec.timing.period),
            spec.timing.tolerance
        ));
        Ok(())
    }

    /// The lab.
    pub(super) fn lab(&self) -> Result<&Lab> {
        self.lab.as_ref().context("there is no lab yet")
    }

    /// Undoes all faults and waits until all hosts have converged.
    pub(super) fn heal(&mut self) -> Result<()> {
        let lab = self.lab.as_mut().context("there is no lab yet")?;
        let took = lab.heal(self.interrupt)?;
        let everyone = lab.everyone();
        self.say(format!(
            "covey lab fault heal: hosts {everyone} converged after {:.2} s",
            took.as_secs_f64()
        ));
        Ok(())
    }

    /// Waits until these hosts are one converged cluster, in their own eyes.
    pub(super) fn until_converged(
        &mut self,
        expected: HostSet,
        bound: Duration,
    ) -> Result<Duration> {
        self.until(
            &format!("hosts {expected} are one cluster, and serve"),
            bound,
            |lab| Ok(lab.obstacle(expected)),
        )
    }

    /// What a host's daemon says of itself.
    pub(super) fn status(&self, id: u8) -> Result<Status> {
        self.lab()?.host(host(id))?.status()
    }

    /// Sends requests to the virtual IP from the client, one after the other, and tells who answers.
    pub(super) fn ask(&mut self, requests: usize) -> Result<Answers> {
        let namespace = self.lab()?.name.namespace(Place::Client);
        let answers = run_in(&namespace, || {
            let mut answers = Answers::default();
            for _ in 0..requests {
                match request() {
                    Some(host) => *answers.by.entry(host).or_default() += 1,
                    None => answers.none += 1,
                }
            }
            Ok(answers)
        })?;
        self.say(format!(
            "the client at {CLIENT} asks {VIP}: {}",
            answers.told()
        ));
        Ok(answers)
    }

    /// Sends requests; all must be answered, by these hosts and by no other.
    pub(super) fn expect_service(&mut self, by: HostSet) -> Result<()> {
        let answers = self.ask(60)?;
        if answers.none > 0 || answers.hosts() != by {
            bail!("not so: all requests are answered, by hosts {by}");
        }
        Ok(())
    }

    /// How many connections per second the client gets answered while several of its threads ask all the time.
    pub(super) fn load(&mut self, time: Duration) -> Result<usize> {
        let namespace = self.lab()?.name.namespace(Place::Client);
        let start = Instant::now();
        let count = || {
            run_in(&namespace, || {
                let mut answered = 0;
                while start.elapsed() < time {
                    answered += usize::from(request().is_some());
                }
                Ok(answered)
            })
        };
        let answered: usize = thread::scope(|scope| {
            let askers: Vec<_> = (0..8).map(|_| scope.spawn(count)).collect();
            askers
                .into_iter()
                .map(|asker| {
                    asker
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .sum::<Result<usize>>()
        })?;
        Ok((answered as f64 / time.as_secs_f64()) as usize)
    }

    /// Begins harm that goes on until [`Self::heal`].
    pub(super) fn harm(&mut self, harm: Harm) -> Result<()> {
        self.lab()?.do_harm(harm, None, self.interrupt).map(drop)
    }

    /// What a command prints in one of the lab's machines, whatever its exit code.
    pub(super) fn run(&self, place: Place, command: &[&str]) -> Result<String> {
        run(self.lab()?, place, command)
    }

    /// What `covey` prints on a host.
    pub(super) fn covey(&self, id: u8, arguments: &[&str]) -> Result<String> {
        covey(self.lab()?, id, arguments)
    }

    /// `wlbs query` on a host, in NLB's words: must contain each of these.
    pub(super) fn expect_query(&mut self, id: u8, words: &[&str]) -> Result<()> {
        let said = self.covey(id, &["wlbs", "query"])?;
        for line in said.lines().filter(|line| !line.trim().is_empty()) {
            self.say(format!("h{id}# wlbs query: {}", line.trim()));
        }
        let joined = said.split_whitespace().collect::<Vec<_>>().join(" ");
        match words.iter().find(|word| !joined.contains(**word)) {
            None => Ok(()),
            Some(word) => bail!("not so: `wlbs query` on host {id} says `{word}`"),
        }
    }

    /// Waits until `covey doctor` on a host names something, and tells it. More arguments are doctor's.
    pub(super) fn doctor(&mut self, id: u8, name: &str, more: &[&str]) -> Result<()> {
        self.doctor_says(id, name, "", more)
    }

    /// The same, and what it says must contain this.
    pub(super) fn doctor_says(
        &mut self,
        id: u8,
        name: &str,
        words: &str,
        more: &[&str],
    ) -> Result<()> {
        let arguments = [&["doctor", "--json"], more].concat();
        let start = Instant::now();
        loop {
            self.interrupt.check()?;
            let said = self.covey(id, &arguments)?;
            let diagnosis: Value = serde_json::from_str(&said).with_context(|| {
                format!("`covey doctor --json` on host {id} says: {}", said.trim())
            })?;
            let findings = diagnosis["findings"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let text = |finding: &Value, field: &str| {
                finding[field].as_str().unwrap_or_default().to_owned()
            };
            let mut named = findings
                .iter()
                .filter(|finding| finding["name"] == name && text(finding, "what").contains(words));
            if let Some(finding) = named.next() {
                let text = |field| text(finding, field);
                self.say(format!("h{id}# covey doctor: {name}: {}", text("what")));
                self.say(format!("          what to do: {}", text("cure")));
                return Ok(());
            }
            if start.elapsed() > DOCTOR_PATIENCE {
                let names: Vec<&str> = findings
                    .iter()
                    .filter_map(|finding| finding["name"].as_str())
                    .collect();
                bail!(
                    "not so after {} s: doctor on host {id} names {name}; it names {names:?}",
                    DOCTOR_PATIENCE.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// `covey doctor` on a host finds nothing wrong with the cluster.
    pub(super) fn expect_health(&mut self, id: u8) -> Result<()> {
        let said = self.covey(id, &["doctor"])?;
        let well = said.starts_with("nothing is wrong");
        let first = said.lines().next().unwrap_or_default().to_owned();
        self.expect(format!("covey doctor on host {id}: {first}"), well)
    }

    /// Changes a line of the configuration of some hosts. `covey reload` is what makes it count.
    pub(super) fn reconfigure(&self, ids: HostSet, from: &str, to: &str) -> Result<()> {
        let lab = self.lab()?;
        for Host { id, .. } in lab.hosts.iter().filter(|host| ids.contains(host.id)) {
            let path = config_path(&lab.name, *id);
            let text = fs::read_to_string(&path)?;
            if !text.contains(from) {
                bail!("{} has no line `{from}`", path.display());
            }
            fs::write(&path, text.replace(from, to))?;
        }
        Ok(())
    }

    /// Kills a host's daemon and starts it again.
    pub(super) fn restart(&mut self, id: u8) -> Result<()> {
        let lab = self.lab.as_mut().context("there is no lab yet")?;
        lab.kill(host(id))?;
        lab.repair(host(id))
    }
}

/// What `covey` prints on a host of a lab.
pub(super) fn covey(lab: &Lab, id: u8, arguments: &[&str]) -> Result<String> {
    let program = lab.program.display().to_string();
    run(
        lab,
        Place::Host(host(id)),
        &[&[program.as_str()], arguments].concat(),
    )
}

fn run(lab: &Lab, place: Place, command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().context("no command")?;
    run_in(&lab.name.namespace(place), || {
        let output = Command::new(program)
            .args(arguments)
            .env_remove("COVEY_SOCKET")
            .env("NO_COLOR", "1")
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        let said = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&said).into_owned())
    })
}

/// One HTTP request to the virtual IP on a connection of its own; the host that answers in time.
fn request() -> Option<HostId> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((VIP, 80)), CLIENT_PATIENCE).ok()?;
    stream.set_read_timeout(Some(CLIENT_PATIENCE)).ok()?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    host_name(answer.split("\r\n\r\n").nth(1)?)
}

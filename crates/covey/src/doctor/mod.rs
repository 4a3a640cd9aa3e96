//! `covey doctor`: what is wrong with a host and its cluster, by what one can see of it, and what to do.
//!
//! ```text
//!   daemon --> Status --.
//!   kernel --> machine.rs --+--> Evidence --> checks/ --> Finding, Finding, ... --> Diagnosis
//!   covey.toml ---------'                        |
//!                                           catalogue/   name, number, severity, cure, article --> guide.rs
//! ```
//!
//! Gathering evidence touches the machine; what follows from it is a pure function ([`examine`]), so every finding has a
//! table test that produces it and one that does not. The command line gathers and examines when it is asked; the daemon
//! does the same at a low rate, tells what begins and what ends as events, and has the numbers of its findings told to
//! the other hosts. Specification: docs/design.md, "Doctor".

mod catalogue;
mod checks;
mod evidence;
mod guide;
mod machine;
mod teaming;
#[cfg(test)]
mod tests;

pub use catalogue::{BEGINS, ENDS, Entry, Kind, Scope, Told};
pub use evidence::{Daemon, Evidence, Patient, Service};
pub use guide::guide;
pub use machine::{Gateway, Machine, Sources, WayOut, gather};

use crate::status::{MemberStatus, Status};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; nothing has to be done.
    Info,
    /// Someone should look at it.
    Warning,
    /// Service is affected.
    Error,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is called everywhere ([`Kind::name`]).
    pub name: String,
    /// How much it matters.
    pub severity: Severity,
    /// The host that tells it.
    #[serde(default)]
    pub host: Option<u8>,
    /// What it is about, where there can be several of a kind: a virtual IP, a port rule, a host.
    #[serde(default)]
    pub about: Option<String>,
    /// What is wrong, in a sentence, with the values as they are.
    pub what: String,
    /// What it follows from: a line each.
    #[serde(default)]
    pub evidence: Vec<String>,
    /// What to do.
    #[serde(default)]
    pub cure: String,
    /// Articles of the Knowledge Base that it belongs to.
    #[serde(default)]
    pub articles: Vec<String>,
}

impl Finding {
    /// One of this kind, with the cure that the catalogue has for it.
    fn new(kind: Kind, what: impl Into<String>) -> Self {
        let entry = kind.entry();
        Self {
            name: entry.name.to_owned(),
            severity: entry.severity,
            host: None,
            about: None,
            what: what.into(),
            evidence: Vec::new(),
            cure: entry.cure.to_owned(),
            articles: entry.articles.iter().copied().map(str::to_owned).collect(),
        }
    }

    /// The same, about one of several things.
    fn about(mut self, what: impl ToString) -> Self {
        self.about = Some(what.to_string());
        self
    }

    /// The same, with one more line of evidence.
    fn seen(mut self, line: impl Into<String>) -> Self {
        self.evidence.push(line.into());
        self
    }

    /// The same, with what to do in just this case.
    fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = cure.into();
        self
    }

    /// Whether it is the same as another one, whatever the figures.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.name, self.host, &self.about) == (&other.name, other.host, &other.about)
    }

    /// The kind with this name; `None` if a later version has found it.
    pub fn kind(&self) -> Option<Kind> {
        Kind::named(&self.name)
    }
}

/// What has been found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// How many checks this host's evidence allowed.
    pub checks: usize,
    /// The hosts that were looked at, or tell of themselves; this one first.
    pub hosts: Vec<u8>,
    /// What is wrong: the worst first, then by name and host.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// Whether there is anything that somebody should look at.
    pub fn is_trouble(&self) -> bool {
        let worst = self.findings.iter().map(|finding| finding.severity).max();
        worst > Some(Severity::Info)
    }
}

/// What follows from the evidence for this host: how many checks it allowed, and what they have found, the worst first.
pub fn examine(evidence: &Evidence) -> Diagnosis {
    let looked: Vec<Vec<Finding>> = checks::ALL
        .into_iter()
        .filter_map(|check| check(evidence))
        .collect();
    let me = evidence.status().map(|status| status.host.id);
    let mut diagnosis = Diagnosis {
        checks: looked.len(),
        hosts: me.into_iter().collect(),
        findings: looked.into_iter().flatten().collect(),
    };
    for finding in &mut diagnosis.findings {
        finding.host = finding.host.or(me);
    }
    diagnosis.sort();
    diagnosis
}

impl Diagnosis {
    fn sort(&mut self) {
        self.findings
            .sort_by(|one, other| one.order().cmp(&other.order()));
    }

    /// Adds what the other hosts tell of themselves. What all see alike is said once.
    #[must_use]
    pub fn with_others(mut self, status: &Status) -> Self {
        let is_other = |host: &&MemberStatus| host.alive && host.id != status.host.id;
        let mut told: BTreeMap<&str, Vec<&MemberStatus>> = BTreeMap::new();
        for host in status.hosts.iter().filter(is_other) {
            self.hosts.push(host.id);
            for name in &host.findings {
                told.entry(name).or_default().push(host);
            }
        }
        for (name, tellers) in told {
            match Kind::named(name) {
                Some(kind) if kind.entry().scope == Scope::Cluster => {
                    self.add_common(kind, &tellers);
                }
                Some(kind) => {
                    let findings = tellers.iter().map(|host| told_of(kind, host));
                    self.findings.extend(findings);
                }
                None => {
                    let findings = tellers.iter().map(|host| unknown(name, host));
                    self.findings.extend(findings);
                }
            }
        }
        self.sort();
        self
    }

    /// Adds what these hosts say of the cluster.
    fn add_common(&mut self, kind: Kind, tellers: &[&MemberStatus]) {
        let known = self
            .findings
            .iter()
            .position(|known| known.name == kind.name());
        let (index, others) = match (known, tellers.split_first()) {
            (Some(index), _) => (index, tellers),
            (None, Some((first, others))) => {
                self.findings.push(told_of(kind, first));
                (self.findings.len() - 1, others)
            }
            (None, None) => return,
        };
        let ids: Vec<u8> = others.iter().map(|host| host.id).collect();
        let says = match ids.as_slice() {
            [] => return,
            [_] => "says",
            _ => "say",
        };
        let line = format!("{} {says} so too", hosts(&ids));
        self.findings[index].evidence.push(line);
    }
}

/// What another host tells of itself or of the cluster.
fn told_of(kind: Kind, host: &MemberStatus) -> Finding {
    let (id, name) = (host.id, &host.name);
    let what = format!("Host {id} ({name}) says: {}.", kind.entry().title);
    let there = format!("run covey doctor on host {id} for the figures");
    let mut finding = Finding::new(kind, what).seen(there);
    finding.host = Some(id);
    finding
}

/// What another host has found by a later version than this.
fn unknown(finding: &str, host: &MemberStatus) -> Finding {
    let (id, name) = (host.id, &host.name);
    Finding {
        name: finding.to_owned(),
        severity: Severity::Warning,
        host: Some(id),
        about: None,
        what: format!(
            "Host {id} ({name}) has found something that this version does not know: {finding}."
        ),
        evidence: Vec::new(),
        cure: format!("Run covey doctor on host {id}."),
        articles: Vec::new(),
    }
}

/// `host 2`, `hosts 2 and 3`, `hosts 2, 3 and 4`.
fn hosts(ids: &[u8]) -> String {
    let names: Vec<String> = ids.iter().map(u8::to_string).collect();
    match names.as_slice() {
        [] => "no host".to_owned(),
        [one] => format!("host {one}"),
        [most @ .., last] => format!("hosts {} and {last}", most.join(", ")),
    }
}

impl Finding {
    fn order(&self) -> (Reverse<Severity>, &str, Option<u8>) {
        (Reverse(self.severity), &self.name, self.host)
    }
}

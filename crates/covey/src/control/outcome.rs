//! What comes of a command, in NLB's words for programs and in a sentence for people.
//!
//! The core answers with NLB's codes ([`Answer`]); what each means for each command is said here, once, for the
//! daemon's answers on the control socket and so for `covey` and `covey wlbs`. Specification: docs/design.md,
//! "Command line"; codes: NLB cmdlets §2.

use super::{Ports, Request};
use covey_proto::ids::HostId;
use covey_proto::{Answer, VipScope};
use serde::{Deserialize, Serialize};

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// WMI's name of the answer, like `WLBS_OK`.
    pub answer: String,
    /// WMI's return value.
    pub code: u16,
    /// What it means, in a sentence.
    pub text: String,
}

impl Outcome {
    /// The core's answer and what it means.
    pub fn new(answer: Answer, text: impl Into<String>) -> Self {
        Self::of(answer.name(), answer.code(), text)
    }

    /// It has come to what was wanted.
    pub fn ok(text: impl Into<String>) -> Self {
        Self::new(Answer::Done, text)
    }

    /// The host was to leave, and is in the cluster again.
    pub fn still_member(converged: bool, text: impl Into<String>) -> Self {
        if converged {
            Self::of("WLBS_CONVERGED", 1007, text)
        } else {
            Self::of("WLBS_CONVERGING", 1006, text)
        }
    }

    /// The configuration cannot be used.
    pub fn bad_params(text: impl Into<String>) -> Self {
        Self::of("WLBS_BAD_PARAMS", 1003, text)
    }

    /// The configuration is good, and takes a restart of the daemon.
    pub fn reboot(text: impl Into<String>) -> Self {
        Self::of("WLBS_REBOOT", 1050, text)
    }

    fn of(answer: &str, code: u16, text: impl Into<String>) -> Self {
        Self {
            answer: answer.to_owned(),
            code,
            text: text.into(),
        }
    }

    /// Whether the host is, or will be, as the command wants it.
    pub const fn is_done(&self, command: &Request) -> bool {
        match self.code {
            1000..=1002 => true,
            // To suspend: the host has been stopped by it.
            1005 => matches!(command, Request::Suspend {}),
            _ => false,
        }
    }
}

/// What an answer means to a command, at the moment it is given. Start, stop and suspend take time; what they lead
/// to is the daemon's to say.
pub(crate) fn sentence(host: HostId, command: &Request, answer: Answer) -> String {
    let suspended = || format!("host {host} is suspended: resume it first (covey resume)");
    match (command, answer) {
        (_, Answer::Suspended) => suspended(),

        (Request::Start {}, Answer::Already) => format!("host {host} is already started"),
        (Request::Start {}, Answer::DrainInterrupted) => {
            format!("connection draining is interrupted: host {host} stays in the cluster")
        }
        (Request::Start {}, _) => format!("host {host} is started"),

        (Request::Stop {}, Answer::Already) => format!("host {host} is already stopped"),
        (Request::Stop {}, Answer::DrainInterrupted) => {
            format!("connection draining is interrupted: host {host} leaves the cluster")
        }
        (Request::Stop {}, _) => format!("host {host} leaves the cluster"),

        (Request::Drainstop { .. }, Answer::Already) => format!("host {host} is already draining"),
        (Request::Drainstop { .. }, Answer::Stopped) => {
            format!("host {host} is stopped: there is nothing to drain")
        }
        (Request::Drainstop { .. }, _) => format!(
            "host {host} is draining: it takes no new connections and stops when the last one has ended"
        ),

        (Request::Suspend {}, Answer::Already) => format!("host {host} is already suspended"),
        (Request::Suspend {}, Answer::DrainInterrupted) => format!(
            "connection draining is interrupted: host {host} leaves the cluster, and heeds no command until it is resumed"
        ),
        (Request::Suspend {}, Answer::Stopped) => {
            format!("host {host} leaves the cluster, and heeds no command until it is resumed")
        }
        (Request::Suspend {}, _) => {
            format!("host {host} is suspended: it heeds no command until it is resumed (covey resume)")
        }

        (Request::Resume {}, Answer::Already) => format!("host {host} is not suspended"),
        (Request::Resume {}, _) => {
            format!("host {host} is resumed, and stays stopped until it is started (covey start)")
        }

        (Request::Enable(ports), answer) => rules(host, ports, answer, "takes its share of", "enabled"),
        (Request::Disable(ports), answer) => rules(host, ports, answer, "takes nothing any more of", "disabled"),
        (Request::Drain(ports), answer) => {
            rules(host, ports, answer, "takes no new connections of", "draining or drained")
        }

        (Request::Reload {}, _) => {
            "the configuration has been read again; it takes effect as soon as all hosts offer the same".to_owned()
        }
        (Request::Upgrade { program }, _) => {
            format!("{} takes the place of host {host}'s daemon", program.display())
        }
        (Request::Status {} | Request::Events { .. } | Request::Why(_), _) => "this is not a command".to_owned(),
    }
}

/// What an answer means to a command to port rules: `does` what of them, and how they `are` if they were so already.
fn rules(host: HostId, ports: &Ports, answer: Answer, does: &str, are: &str) -> String {
    match answer {
        Answer::Done => format!("host {host} {does} {}", named(ports)),
        Answer::Already => match ports.port {
            Some(_) => format!("{} is already {are} on host {host}", named(ports)),
            None => format!("{} are already {are} on host {host}", named(ports)),
        },
        Answer::NotFound => not_found(ports),
        Answer::Draining => format!(
            "host {host} is draining: port rules cannot be changed until it is started again"
        ),
        Answer::Stopped => format!("host {host} is stopped: start it first (covey start)"),
        Answer::Suspended => format!("host {host} is suspended: resume it first (covey resume)"),
        Answer::DrainInterrupted => format!("host {host} {does} {}", named(ports)),
    }
}

fn named(ports: &Ports) -> String {
    let whose = whose(ports);
    match ports.port {
        Some(port) => format!("the port rule{whose} that holds port {port}"),
        None => format!("all port rules{whose}"),
    }
}

fn not_found(ports: &Ports) -> String {
    let whose = whose(ports);
    match ports.port {
        Some(port) => {
            format!("no port rule{whose} holds port {port}: \"covey rules\" shows them all")
        }
        None => format!("there is no port rule{whose}: \"covey rules\" shows them all"),
    }
}

fn whose(ports: &Ports) -> String {
    match ports.scope().vip {
        VipScope::Every => String::new(),
        VipScope::Common => " for no virtual IP in particular".to_owned(),
        VipScope::One(vip) => format!(" for {vip} alone"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_sentence() {
        let ports = |vip: Option<&str>, port| Ports {
            vip: vip.map(|vip| vip.parse().unwrap()),
            port,
        };
        use Answer::{Already, Done, DrainInterrupted, Draining, NotFound, Stopped, Suspended};
        let to_rules: &[Answer] = &[Done, Already, NotFound, Suspended, Stopped, Draining];
        // What each method may return: NLB cmdlets §2.2.
        let table: [(Request, &[Answer]); 10] = [
            (
                Request::Start {},
                &[Done, Already, Suspended, DrainInterrupted],
            ),
            (
                Request::Stop {},
                &[Done, Already, Suspended, DrainInterrupted],
            ),
            (
                Request::Drainstop { within_ms: None },
                &[Done, Already, Suspended, Stopped],
            ),
            (
                Request::Suspend {},
                &[Done, Already, Stopped, DrainInterrupted],
            ),
            (Request::Resume {}, &[Done, Already]),
            (Request::Enable(ports(None, Some(80))), to_rules),
            (
                Request::Disable(ports(Some("10.77.0.100"), Some(80))),
                to_rules,
            ),
            (Request::Drain(ports(None, None)), to_rules),
            (
                Request::Drain(ports(Some("255.255.255.255"), None)),
                to_rules,
            ),
            (Request::Reload {}, &[Done]),
        ];
        let host = HostId::new(1).unwrap();
        let mut lines = String::new();
        for (command, answers) in table {
            lines += &format!("{}\n", serde_json::to_string(&command).unwrap());
            for answer in answers {
                let outcome = Outcome::new(*answer, sentence(host, &command, *answer));
                let exit = u8::from(!outcome.is_done(&command));
                lines += &format!("  exit {exit}  {:16} {}\n", outcome.answer, outcome.text);
            }
        }
        insta::assert_snapshot!(lines);
    }
}

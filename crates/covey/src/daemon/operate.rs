//! What the operator asks over the control socket: commands go to the core, and those that take time are answered
//! when the host has come to what they want.
//!
//! Called by the daemon's loop. Specification: docs/design.md, "Command line".

use super::keep::Will;
use super::{Daemon, sys};
use crate::config::{Config, Machine};
use crate::control::{Code, Outcome, Request, Response, sentence};
use covey_proto::time::Time;
use covey_proto::{Answer, Command, HostState, RuleChange};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A drainstop that may take longer than this may as well take for ever.
const LONGEST_DRAIN: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Somebody who waits for what a command leads to.
pub(super) struct Waiting {
    answer: oneshot::Sender<Response>,
    /// The core's answer at the time.
    given: Answer,
    goal: Goal,
}

/// What a command leads to.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// The host has its place in the map, or this time has come.
    Serving { patience: Time },
    /// The host has left.
    Rest,
}

impl Daemon {
    /// Answers a request, now or later.
    pub(super) fn answer(&mut self, request: Request, answer: oneshot::Sender<Response>) {
        let command = match &request {
            Request::Status {} => return respond(answer, Response::ok(self.status())),
            Request::Events { after, follow } => {
                return self.journal.tell(*after, *follow, answer);
            }
            Request::Why(question) => return respond(answer, self.why(question)),
            _ if self.ending => {
                let ending = Response::error(Code::Ending, "the daemon is about to end");
                return respond(answer, ending);
            }
            Request::Reload {} => return respond(answer, Response::ok(self.reload())),
            Request::Upgrade { program } => return self.upgrade_to(program.clone(), answer),
            Request::Start {} => Command::Start,
            Request::Stop {} => Command::Stop,
            Request::Drainstop { within_ms } => Command::Drainstop {
                within: within_ms.map(|ms| Duration::from_millis(ms).min(LONGEST_DRAIN)),
            },
            Request::Suspend {} => Command::Suspend,
            Request::Resume {} => Command::Resume,
            Request::Enable(ports) => Command::Rules {
                change: RuleChange::Enable,
                scope: ports.scope(),
            },
            Request::Disable(ports) => Command::Rules {
                change: RuleChange::Disable,
                scope: ports.scope(),
            },
            Request::Drain(ports) => Command::Rules {
                change: RuleChange::Drain,
                scope: ports.scope(),
            },
        };
        let given = self.command(command);
        if let Some(will) = will_after(&request, given) {
            self.will = will;
            self.keep_state();
        }
        match self.goal_of(&request, given) {
            Some(goal) => self.waiting.push(Waiting {
                answer,
                given,
                goal,
            }),
            None => {
                let text = sentence(self.config.host.id, &request, given);
                respond(answer, Response::ok(Outcome::new(given, text)));
            }
        }
    }

    /// What is still to come before the command can be answered.
    fn goal_of(&self, request: &Request, given: Answer) -> Option<Goal> {
        match (request, given) {
            (Request::Start {}, Answer::Done | Answer::DrainInterrupted) => {
                // As long as joining takes when nothing is in the way, and a little more.
                let patience = sys::now() + self.config.cluster.timing.expiry() * 2;
                Some(Goal::Serving { patience })
            }
            (Request::Stop {}, Answer::Done | Answer::Already | Answer::DrainInterrupted)
            | (
                Request::Suspend {},
                Answer::Done | Answer::Already | Answer::Stopped | Answer::DrainInterrupted,
            ) if !self.is_stopped() => Some(Goal::Rest),
            _ => None,
        }
    }

    /// Answers those whose wait is over.
    pub(super) fn answer_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            match self.result(waiting.goal) {
                None => self.waiting.push(waiting),
                Some(Ok(text)) => {
                    let text = if waiting.given == Answer::DrainInterrupted {
                        format!("connection draining was interrupted: {text}")
                    } else {
                        text
                    };
                    let outcome = Outcome::new(waiting.given, text);
                    respond(waiting.answer, Response::ok(outcome));
                }
                Some(Err(text)) => {
                    respond(waiting.answer, Response::error(Code::Failed, text));
                }
            }
        }
    }

    /// What has come of it, or what came in between; nothing if that is still open.
    fn result(&self, goal: Goal) -> Option<Result<String, String>> {
        let host = self.config.host.id;
        match (goal, self.cluster.state()) {
            (
                Goal::Serving { patience },
                state @ (HostState::Converging | HostState::Converged | HostState::Default),
            ) => {
                let now = sys::now();
                let snapshot = self.cluster.snapshot(now);
                // Right after an interrupted leave the map in force is one without this host.
                if state != HostState::Converging && snapshot.owners.contains(host) {
                    let role = if state == HostState::Default {
                        " as DEFAULT host"
                    } else {
                        ""
                    };
                    return Some(Ok(format!(
                        "host {host} has converged{role} with host(s) {}",
                        snapshot.view
                    )));
                }
                (now >= patience).then(|| {
                    let reason = snapshot.waiting_for;
                    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
                    Ok(format!(
                        "host {host} is started and still converging{reason}"
                    ))
                })
            }
            (
                Goal::Serving { .. },
                HostState::Draining | HostState::Stopped | HostState::Suspended,
            ) => Some(Err(format!(
                "host {host} was told to leave again before it had converged"
            ))),
            (Goal::Rest, HostState::Draining) => None,
            (Goal::Rest, HostState::Stopped) => Some(Ok(format!(
                "host {host} has left the cluster and is stopped"
            ))),
            (Goal::Rest, HostState::Suspended) => Some(Ok(format!(
                "host {host} has left the cluster and is suspended: it heeds no command until it is resumed (covey resume)"
            ))),
            (Goal::Rest, HostState::Converging | HostState::Converged | HostState::Default) => {
                Some(Err(format!(
                    "host {host} was started again before it had left the cluster"
                )))
            }
        }
    }

    /// Reads the configuration again and offers its rules and weights to the cluster. A bad one changes nothing.
    pub(super) fn reload(&mut self) -> Outcome {
        let new = match Config::load(&self.config_path, &Machine) {
            Ok(new) => new,
            Err(error) => {
                return Outcome::bad_params(format!("the configuration stays as it was: {error}"));
            }
        };
        let fixed = self.config.needs_restart_for(&new);
        if !fixed.is_empty() {
            return Outcome::reboot(format!(
                "the configuration stays as it was: {} can only be changed by a restart of the daemon",
                fixed.join(", ")
            ));
        }
        let (rules, claims) = (Arc::new(new.rules.clone()), new.claims.clone());
        self.config = new;
        let answer = self.command(Command::Reload { rules, claims });
        self.take_macs();
        self.keep_state();
        let text = sentence(self.config.host.id, &Request::Reload {}, answer);
        Outcome::new(answer, text)
    }
}

/// What the operator wants from now on, if the command was heeded.
fn will_after(request: &Request, given: Answer) -> Option<Will> {
    let heeded = match given {
        Answer::Done | Answer::Already | Answer::DrainInterrupted => true,
        // To suspend and drainstop: the host is stopped, as was wanted, or on its way.
        Answer::Stopped => true,
        Answer::Suspended | Answer::Draining | Answer::NotFound => false,
    };
    match request {
        _ if !heeded => None,
        Request::Start {} => Some(Will::Started),
        Request::Stop {} | Request::Drainstop { .. } => Some(Will::Stopped),
        Request::Suspend {} => Some(Will::Suspended),
        Request::Resume {} => (given == Answer::Done).then_some(Will::Stopped),
        Request::Status {}
        | Request::Events { .. }
        | Request::Why(_)
        | Request::Enable(_)
        | Request::Disable(_)
        | Request::Drain(_)
        | Request::Reload {}
        | Request::Upgrade { .. } => None,
    }
}

pub(super) fn respond(answer: oneshot::Sender<Response>, response: Response) {
    // One who does not wait any more has no use for the answer.
    let _ = answer.send(response);
}

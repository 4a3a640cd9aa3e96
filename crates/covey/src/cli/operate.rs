//! Commands to the host: what the daemon is asked, and what is told of its answer.
//!
//! Called by [`super::run`]. A command that the host has not carried out is a failure, with the reason on stderr; with
//! `--json` the answer is on stdout whatever it is. Specification: docs/design.md, "Command line".

use super::args::Format;
use super::output::{print, print_json};
use super::render::connections;
use super::run::connect;
use crate::control::client::Client;
use crate::control::{Outcome, Request};
use crate::status::HostState;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// NLB's event for a drainstop that was interrupted.
const INTERRUPTED: u16 = 45;
/// Time between two looks at a host that drains.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Gives a command and tells what came of it.
pub(super) fn command(
    socket: Option<&Path>,
    command: &Request,
    format: &Format,
) -> anyhow::Result<ExitCode> {
    let outcome = connect(socket)?.command(command)?;
    tell(&outcome, command, format)
}

fn tell(outcome: &Outcome, command: &Request, format: &Format) -> anyhow::Result<ExitCode> {
    let done = outcome.is_done(command);
    match (format.json, done) {
        (true, _) => print_json(outcome)?,
        (false, true) => print(&format!("{}\n", outcome.text))?,
        (false, false) => eprintln!("covey: {}", outcome.text),
    }
    Ok(if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Lets the host drain, and shows how far it is.
pub(super) fn drainstop(
    socket: Option<&Path>,
    timeout: Option<Duration>,
    wait: bool,
    format: &Format,
) -> anyhow::Result<ExitCode> {
    let client = &mut connect(socket)?;
    let before = client
        .events(0, false)?
        .last()
        .map_or(0, |event| event.number);
    let within_ms = timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let command = Request::Drainstop { within_ms };
    let mut outcome = client.command(&command)?;
    if wait && outcome.is_done(&command) {
        if !format.json {
            print(&format!("{}\n", outcome.text))?;
        }
        outcome = watch(client, before, !format.json)?;
    }
    tell(&outcome, &command, format)
}

/// Waits until the host does not drain any more. `before` is the number of the last event before it did.
fn watch(client: &mut Client, before: u64, aloud: bool) -> anyhow::Result<Outcome> {
    let mut shown = None;
    loop {
        let host = client.status()?.host;
        let (id, left) = (host.id, host.connections);
        let converged = match host.state {
            HostState::Draining => {
                if let Some(count) = left
                    && aloud
                    && left != shown
                {
                    eprintln!("{} left", connections(count));
                    shown = left;
                }
                thread::sleep(LOOK_EVERY);
                continue;
            }
            HostState::Stopped | HostState::Suspended => {
                let events = client.events(before, false)?;
                let interrupted = events.iter().any(|event| event.id == INTERRUPTED);
                let how = if interrupted {
                    "connection draining was interrupted: "
                } else {
                    ""
                };
                let state = if host.state == HostState::Stopped {
                    "stopped"
                } else {
                    "suspended"
                };
                return Ok(Outcome::ok(format!(
                    "{how}host {id} has left the cluster and is {state}"
                )));
            }
            HostState::Converging => false,
            HostState::Converged => true,
        };
        return Ok(Outcome::still_member(
            converged,
            format!("connection draining was interrupted: host {id} stays in the cluster"),
        ));
    }
}

//! Commands to the host: what the daemon is asked, and what is told of its answer.
//!
//! Called by [`super::run`]. A command that the host has not carried out is a failure, with the reason on stderr; with
//! `--json` the answer is on stdout whatever it is. Specification: docs/design.md, "Command line".

use super::args::Format;
use super::output::{print, print_json};
use super::render::connections;
use super::run::connect;
use crate::control::client::{Client, ClientError};
use crate::control::{Outcome, Request};
use crate::status::{HostState, HostStatus};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// NLB's event for a drainstop that was interrupted.
const INTERRUPTED: u16 = 45;
/// Time between two looks at a host that drains.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the next daemon may take until it answers.
const NEXT_DAEMON: Duration = Duration::from_secs(10);
/// Time between two attempts to reach it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

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
        outcome = watch(client, before, |count| {
            if !format.json {
                eprintln!("{} left", connections(count));
            }
        })?;
    }
    tell(&outcome, &command, format)
}

/// Puts a program in the place of the daemon, and waits until that serves.
pub(super) fn upgrade(
    socket: Option<&Path>,
    program: Option<PathBuf>,
    format: &Format,
) -> anyhow::Result<ExitCode> {
    let program = match program {
        Some(program) => program.canonicalize(),
        None => std::env::current_exe(),
    };
    let program = program.context("the program cannot be found")?;
    let command = Request::Upgrade { program };
    let mut client = connect(socket)?;
    let before = client.status()?.host;
    let outcome = match client.command(&command) {
        Ok(outcome) => outcome,
        // The daemon that was asked is no more.
        Err(ClientError::Broken(_)) => await_next(socket, &before)?,
        Err(error) => return Err(error.into()),
    };
    tell(&outcome, &command, format)
}

/// Waits for the daemon that takes the place of the one that said this.
fn await_next(socket: Option<&Path>, before: &HostStatus) -> anyhow::Result<Outcome> {
    let deadline = Instant::now() + NEXT_DAEMON;
    let status = loop {
        let status = connect(socket).and_then(|mut client| Ok(client.status()?));
        match status {
            Ok(status) => break status,
            Err(error) if Instant::now() >= deadline => {
                return Err(
                    error.context("the daemon was replaced, and the next one does not answer")
                );
            }
            Err(_) => thread::sleep(LOOK_AGAIN),
        }
    };
    let (id, host) = (status.host.id, status.host);
    ensure!(
        host.upgrades == before.upgrades + 1,
        "the daemon of host {id} was replaced, but the next one could not go on where it was and begins anew: \
         \"covey events\" says why"
    );
    Ok(Outcome::ok(format!(
        "the daemon of host {id} is covey {} now (it was {})",
        host.version, before.version
    )))
}

/// Waits until the host does not drain any more, and tells `show` how many connections are left when that changes.
/// `before` is the number of the last event before it did.
fn watch(client: &mut Client, before: u64, mut show: impl FnMut(usize)) -> anyhow::Result<Outcome> {
    let mut shown = None;
    loop {
        let host = client.status()?.host;
        let (id, left) = (host.id, host.connections);
        let converged = match host.state {
            HostState::Draining => {
                if let Some(count) = left
                    && left != shown
                {
                    show(count);
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

#[cfg(test)]
mod tests {
    use super::super::tests::values::converged;
    use super::*;
    use crate::control::Response;
    use crate::status::EventRecord;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    /// Watches a host that says these things one after the other; what came of it, and what was shown.
    fn watched(name: &str, answers: Vec<Response>) -> (Outcome, Vec<usize>) {
        let path = std::env::temp_dir().join(format!("covey-watch-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            for answer in answers {
                stream.read_line(&mut String::new()).unwrap();
                let answer = serde_json::to_string(&answer).unwrap();
                writeln!(stream.get_mut(), "{answer}").unwrap();
            }
        });
        let mut shown = Vec::new();
        let mut client = Client::connect(&path).unwrap();
        let outcome = watch(&mut client, 7, |count| shown.push(count)).unwrap();
        daemon.join().unwrap();
        std::fs::remove_file(&path).unwrap();
        (outcome, shown)
    }

    fn host(state: HostState, connections: Option<usize>) -> Response {
        let mut status = converged();
        status.host.state = state;
        status.host.connections = connections;
        Response::ok(status)
    }

    fn events(ids: &[u16]) -> Response {
        let event = |id: &u16| EventRecord {
            number: 8,
            time: String::new(),
            id: *id,
            severity: "info".to_owned(),
            text: String::new(),
        };
        Response::ok(ids.iter().map(event).collect::<Vec<_>>())
    }

    #[test]
    fn a_drain_is_watched_to_its_end() {
        use HostState::{Converged, Draining, Stopped, Suspended};
        let begin = || {
            [None, Some(2), Some(2), Some(1)]
                .map(|count| host(Draining, count))
                .to_vec()
        };
        for (name, end, code, text) in [
            (
                "done",
                vec![host(Stopped, None), events(&[44, 6])],
                1000,
                "host 1 has left the cluster and is stopped",
            ),
            (
                "stopped",
                vec![host(Stopped, None), events(&[44, 45, 1009, 6])],
                1000,
                "connection draining was interrupted: host 1 has left the cluster and is stopped",
            ),
            (
                "suspended",
                vec![host(Suspended, None), events(&[45])],
                1000,
                "connection draining was interrupted: host 1 has left the cluster and is suspended",
            ),
            (
                "started",
                vec![host(Converged, None)],
                1007,
                "connection draining was interrupted: host 1 stays in the cluster",
            ),
        ] {
            let (outcome, shown) = watched(name, [begin(), end].concat());
            assert_eq!((outcome.code, outcome.text.as_str()), (code, text));
            assert_eq!(shown, [2, 1], "{name}");
        }
    }
}

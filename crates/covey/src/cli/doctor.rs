//! `covey doctor`: asks the daemon, looks at the machine, and says what is wrong.
//!
//! Without a daemon it still reads the configuration and looks at the machine. Called by [`super::run`].
//! Specification: docs/design.md, "Doctor".

use super::BAD_USAGE;
use super::args::Format;
use super::output::{print, print_json, wants_colours};
use super::render::{self, Paint};
use super::run::connect;
use crate::config::{Config, Machine};
use crate::control::client::ClientError;
use crate::doctor::{Daemon, Diagnosis, Evidence, Patient, Sources, examine, gather};
use crate::status::Status;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// Where the configuration is, unless somebody says otherwise.
const CONFIG: &str = "/etc/covey/covey.toml";
/// What is wrong for a shorter time than this passes by itself: a host joins, a map changes.
const PASSES: Duration = Duration::from_millis(500);

pub(super) fn run(
    socket: Option<&Path>,
    config: Option<PathBuf>,
    sysfs: PathBuf,
    format: &Format,
) -> anyhow::Result<ExitCode> {
    let sources = Sources {
        sysfs,
        ..Sources::default()
    };
    let first = look(socket, config.as_deref(), &sources)?;
    let seen = match first.status() {
        // What is there now and not in a moment is nothing to tell.
        Some(status) if !examine(&first).findings.is_empty() => {
            let period = Duration::from_secs_f64(status.cluster.period_ms.max(0.0) / 1e3);
            thread::sleep((period * 2).max(PASSES));
            let again = look(socket, config.as_deref(), &sources)?;
            Seen::twice(&first, &again)
        }
        Some(_) | None => Seen::once(&first),
    };
    if format.json {
        print_json(&seen.diagnosis)?;
    } else {
        let status = seen.status.as_ref();
        let paint = Paint::new(wants_colours());
        print(&render::doctor(&seen.diagnosis, status, paint))?;
    }
    Ok(if seen.unusable {
        ExitCode::from(BAD_USAGE)
    } else if seen.diagnosis.is_trouble() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What there is to tell.
struct Seen {
    diagnosis: Diagnosis,
    status: Option<Status>,
    /// There is no daemon, and the configuration is no help either.
    unusable: bool,
}

impl Seen {
    fn once(evidence: &Evidence) -> Self {
        Self::of(examine(evidence), evidence)
    }

    /// What both looks have found, as the second one has it.
    fn twice(first: &Evidence, second: &Evidence) -> Self {
        let before = examine(first).findings;
        let mut diagnosis = examine(second);
        let stays =
            |finding: &crate::doctor::Finding| before.iter().any(|one| one.is_same(finding));
        diagnosis.findings.retain(stays);
        Self::of(diagnosis, second)
    }

    fn of(diagnosis: Diagnosis, evidence: &Evidence) -> Self {
        let status = evidence.status().cloned();
        let wrong = matches!(evidence.configuration, Some(Err(_)));
        Self {
            diagnosis: match &status {
                Some(status) => diagnosis.with_others(status),
                None => diagnosis,
            },
            unusable: wrong && status.is_none(),
            status,
        }
    }
}

/// Gathers all the evidence there is.
fn look(
    socket: Option<&Path>,
    config: Option<&Path>,
    sources: &Sources,
) -> anyhow::Result<Evidence> {
    let daemon = ask(socket)?;
    let status = match &daemon {
        Daemon::Answers(status) => Some(status),
        Daemon::NotRunning(_) | Daemon::Hangs(_) => None,
    };
    let told = status.map(|status| PathBuf::from(&status.host.config));
    let named = config.map(Path::to_owned).or(told);
    // A daemon that hangs cannot say by which file it runs.
    let unknown = named.is_none() && matches!(daemon, Daemon::Hangs(_));
    let path = named.unwrap_or_else(|| PathBuf::from(CONFIG));
    let read = Config::load(&path, &Machine);
    let patient = match (status, &read) {
        (Some(status), _) => Some(Patient::of_status(status)),
        (None, Ok(config)) => Some(Patient::of_config(config)),
        (None, Err(_)) => None,
    };
    let machine = patient.map(|patient| gather(&patient, sources));
    let machine = machine.transpose();
    Ok(Evidence {
        configuration: match read {
            Err(_) if unknown => None,
            Err(error) => Some(Err(error.to_string())),
            Ok(_) => Some(Ok(())),
        },
        machine: machine.context("this machine's network cannot be looked at")?,
        daemon,
    })
}

fn ask(socket: Option<&Path>) -> anyhow::Result<Daemon> {
    let answer = connect(socket).and_then(|mut client| Ok(client.status()?));
    let error = match answer {
        Ok(status) => return Ok(Daemon::Answers(Box::new(status))),
        Err(error) => error,
    };
    let sentence = error.to_string();
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::NotRunning(_)) => Ok(Daemon::NotRunning(sentence)),
        Some(ClientError::Silent(_)) => Ok(Daemon::Hangs(sentence)),
        Some(
            ClientError::Denied(_)
            | ClientError::Broken(_)
            | ClientError::Strange(_)
            | ClientError::Refused { .. },
        )
        | None => Err(error),
    }
}

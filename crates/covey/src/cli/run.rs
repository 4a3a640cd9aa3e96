//! What each subcommand does.
//!
//! Called by [`super::main`] with parsed arguments. Specification: docs/design.md, "Command line".

use super::args::{Cli, Command, Format, question};
use super::operate::{command, drainstop, upgrade};
use super::output::{print, print_json, print_json_line, wants_colours};
use super::render::{self, CheckSummary, ClusterMacs, Paint, QuerySummary};
use crate::config::{Config, Machine};
use crate::control::client::Client;
use crate::control::{Request, default_socket};
use crate::status::EventRecord;
use anyhow::Context;
use std::io::{self, IsTerminal};
use std::os::fd::RawFd;
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

pub(super) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let socket = cli.socket.as_deref();
    match cli.command {
        Command::Run { config, take_over } => run_daemon(&config.path, socket, take_over),
        Command::Prepare {
            config,
            state,
            counters,
        } => {
            let config = Config::load(&config.path, &Machine)?;
            crate::daemon::prepare(&config, state, &counters)
        }
        Command::Check { config, format } => {
            let summary = CheckSummary::of(&Config::load(&config.path, &Machine)?);
            report(&format, &summary, |_| render::check(&summary))
        }
        Command::Status { verbose, format } => {
            let status = connect(socket)?.status()?;
            report(&format, &status, |paint| {
                render::status(&status, verbose, paint)
            })
        }
        Command::Doctor {
            config,
            sysfs,
            format,
        } => return super::doctor::run(socket, config, sysfs, &format),
        Command::Query { format } => {
            let summary = QuerySummary::of(&connect(socket)?.status()?);
            report(&format, &summary, |paint| render::query(&summary, paint))
        }
        Command::Events {
            follow,
            after,
            format,
        } => events(&mut connect(socket)?, after, follow, &format),
        Command::Rules { format } => {
            let status = connect(socket)?.status()?;
            report(&format, &status.rules, |paint| {
                render::rules(&status, paint)
            })
        }
        Command::Why {
            client,
            service,
            format,
        } => {
            let explanation = connect(socket)?.why(question(client, service))?;
            report(&format, &explanation, |paint| {
                render::why(&explanation, paint)
            })
        }
        Command::Start { format } => return command(socket, &Request::Start {}, &format),
        Command::Stop { format } => return command(socket, &Request::Stop {}, &format),
        Command::Drainstop {
            timeout,
            no_wait,
            format,
        } => return drainstop(socket, timeout, !no_wait, &format),
        Command::Suspend { format } => return command(socket, &Request::Suspend {}, &format),
        Command::Resume { format } => return command(socket, &Request::Resume {}, &format),
        Command::Reload { format } => return command(socket, &Request::Reload {}, &format),
        Command::Upgrade { program, format } => return upgrade(socket, program, &format),
        Command::Enable { ports, format } => {
            return command(socket, &Request::Enable(ports.ports()), &format);
        }
        Command::Disable { ports, format } => {
            return command(socket, &Request::Disable(ports.ports()), &format);
        }
        Command::Drain { ports, format } => {
            return command(socket, &Request::Drain(ports.ports()), &format);
        }
        Command::Wlbs { words } => return super::wlbs::run(&words, socket),
        Command::Lab(args) => return crate::lab::run(args),
        Command::Ip2mac { ip, format } => {
            let macs = ClusterMacs::of(ip);
            report(&format, &macs, |_| render::ip2mac(&macs))
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

fn run_daemon(path: &Path, socket: Option<&Path>, take_over: Option<RawFd>) -> anyhow::Result<()> {
    let mut config = Config::load(path, &Machine)?;
    if let Some(socket) = socket {
        config.daemon.socket = socket.to_owned();
    }
    let filter = EnvFilter::try_new(&config.daemon.log)
        .expect("the configuration only takes filters that can be used");
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    crate::daemon::run(path, config, take_over)
}

pub(super) fn connect(socket: Option<&Path>) -> anyhow::Result<Client> {
    let client = match socket {
        Some(path) => Client::connect(path)?,
        None => {
            let path = default_socket().context("cannot name the control socket")?;
            Client::connect(&path)?
        }
    };
    Ok(client)
}

/// Prints an answer for people or for programs.
fn report(
    format: &Format,
    value: &impl serde::Serialize,
    text: impl FnOnce(Paint) -> String,
) -> anyhow::Result<()> {
    if format.json {
        print_json(value)
    } else {
        print(&text(Paint::new(wants_colours())))
    }
}

fn events(
    client: &mut Client,
    mut after: u64,
    follow: bool,
    format: &Format,
) -> anyhow::Result<()> {
    let paint = Paint::new(wants_colours());
    let mut wait = false;
    loop {
        for event in client.events(after, wait)? {
            after = event.number;
            show(&event, format, paint)?;
        }
        if !follow {
            return Ok(());
        }
        wait = true;
    }
}

fn show(event: &EventRecord, format: &Format, paint: Paint) -> anyhow::Result<()> {
    if format.json {
        print_json_line(event)
    } else {
        print(&render::event(event, paint))
    }
}

//! `covey lab`: a whole cluster on one machine, out of network namespaces, a bridge and veth pairs.
//!
//! For people who want to see Covey work, for end-to-end tests, and for anything that wants to script a
//! cluster. Called by the command line only. docs/design.md, "Command line".
//!
//! ```text
//!   args       what can be typed              topology   names, addresses, `ip` commands
//!   lifecycle  up and down                    netns      entering namespaces, who lives in them
//!   faults     crash, kill, stall, heal       process    PIDs that cannot be mistaken
//!   report     status                         host       configuration, daemon, server of one host
//!   exec       a command inside               state      what is remembered between commands
//!   serve      the balanced service           generator  steady client traffic
//!   snooping   kinds of switch                demo       all of it as a show
//!   convergence, interrupt
//! ```

mod args;
mod convergence;
mod demo;
mod exec;
#[cfg(test)]
pub(crate) mod fake;
mod faults;
mod generator;
mod host;
mod interrupt;
mod lifecycle;
mod netns;
mod process;
mod report;
mod serve;
mod snooping;
mod state;
mod topology;

pub use args::LabArgs;

use anyhow::{Context, Result, bail};
use args::{FaultCommand, LabCommand, UpArgs};
use interrupt::Interrupt;
use lifecycle::Spec;
use report::Report;
use state::Lab;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use topology::{LabName, VIP, VIP6};

/// Runs one `covey lab` command.
///
/// # Errors
/// A sentence for the person who typed it.
pub fn run(args: LabArgs) -> Result<ExitCode> {
    require_root()?;
    let name = args.name;
    match args.command {
        LabCommand::Up(args) => up(name, &args)?,
        LabCommand::Status { json } => print_status(&Lab::load(name)?, json)?,
        LabCommand::Exec { place, command } => match exec::exec(&name, place, &command)? {},
        LabCommand::Fault(fault) => do_fault(&mut Lab::load(name)?, &fault)?,
        LabCommand::Down => {
            let removed = lifecycle::down(&name)?;
            say(&format!(
                "the lab is down ({} namespaces removed, {} processes ended)",
                removed.namespaces, removed.processes
            ));
        }
        LabCommand::Demo(args) => return demo::demo(name, &args),
        LabCommand::Forget { host, ignore, heed } => {
            let switch = Lab::load(name.clone())?.switch;
            if ignore || heed {
                switch.heed(&name, host, heed)?;
            }
            if !heed {
                switch.forget(&name, host)?;
            }
        }
        LabCommand::Serve { host, vips } => serve::serve(&host, &vips)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn require_root() -> Result<()> {
    let owner = std::fs::metadata("/proc/self").context("cannot read /proc/self")?;
    if owner.uid() != 0 {
        bail!(
            "a lab is made of network namespaces, which only root can make; try `sudo covey lab ...`"
        );
    }
    Ok(())
}

fn up(name: LabName, args: &UpArgs) -> Result<()> {
    let spec = Spec {
        name,
        program: own_program()?,
        hosts: args.hosts,
        timing: args.timing(),
        ipv6: args.ipv6,
        mode: args.mode.into(),
        xdp: args.xdp,
        daemons: !args.no_daemons,
        switch: args.switch,
        asking: args.asking(),
        announce_mrouter: args.announce_mrouter,
    };
    let tell = if args.json { say_aside } else { say };
    let lab = lifecycle::up(&spec, &Interrupt::install()?, &tell)?;
    if args.json {
        return print_status(&lab, true);
    }
    let service = if lab.ipv6 {
        format!("http://[{VIP6}]/")
    } else {
        format!("http://{VIP}/")
    };
    say(&format!(
        "go on with
  covey lab exec client -- curl -s {service}
  covey lab status
  covey lab fault crash {}
  covey lab down",
        spec.hosts
    ));
    Ok(())
}

fn do_fault(lab: &mut Lab, fault: &FaultCommand) -> Result<()> {
    match *fault {
        FaultCommand::Kill { host } => {
            lab.kill(host)?;
            say(&format!("the daemon of host {host} is killed"));
        }
        FaultCommand::Crash { host } => {
            lab.crash(host)?;
            say(&format!("host {host} is cut off and its daemon killed"));
        }
        FaultCommand::Stall { host, time } => {
            lab.stall(host, time, &Interrupt::install()?)?;
            say(&match time {
                Some(_) => format!("the daemon of host {host} was stalled and goes on"),
                None => format!("the daemon of host {host} is stalled"),
            });
        }
        FaultCommand::Heal => {
            let took = lab.heal(&Interrupt::install()?)?;
            say(&format!(
                "hosts {} converged after {:.2} s",
                lab.everyone(),
                took.as_secs_f64()
            ));
        }
    }
    Ok(())
}

fn print_status(lab: &Lab, json: bool) -> Result<()> {
    let report = Report::of(lab)?;
    if json {
        say(&serde_json::to_string_pretty(&report).context("cannot encode the report")?);
    } else {
        say(report.to_string().trim_end());
    }
    Ok(())
}

/// The program that the hosts run is the one that builds the lab.
fn own_program() -> Result<std::path::PathBuf> {
    std::env::current_exe().context("cannot find out which program this is")
}

/// A line on standard output. A reader who has gone away is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line on standard error, when standard output is kept for JSON.
fn say_aside(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

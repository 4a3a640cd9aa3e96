//! `covey lab`: a whole cluster on one machine, out of network namespaces, a bridge and veth pairs.
//!
//! For people who want to see Covey work, for end-to-end tests, and for anything that wants to script a
//! cluster. Called by the command line only. docs/design.md, "Command line".
//!
//! ```text
//!   args       what can be typed              topology   names, addresses, `ip` commands
//!   lifecycle  up and down                    bridge     the switch as the kernel has it
//!   scenario   the articles, played
//!   faults     what can happen, and heal      netns      entering namespaces, who lives in them
//!   report     status                         process    PIDs that cannot be mistaken
//!   exec       a command inside               host       configuration, daemon, server of one host
//!   serve      the balanced service           state      what is remembered between commands
//!   demo       all of it as a show            generator  steady client traffic
//!   packet     frames made by hand            snooping   kinds of switch
//!   convergence, interrupt
//! ```

mod args;
mod bridge;
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
mod packet;
mod process;
mod report;
mod scenario;
mod serve;
mod snooping;
mod state;
mod topology;

pub use args::LabArgs;

use anyhow::{Context, Result, bail};
use args::{LabCommand, UpArgs};
use faults::{FaultCommand, Harm, Kind, Victim};
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
        LabCommand::Scenario { scenario, json } => {
            return scenario::run(&name, &scenario, json);
        }
        LabCommand::Harm(harm) => faults::harm(&Lab::load(name)?, harm)?,
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
        cluster: Vec::new(),
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
    let told = match *fault {
        FaultCommand::Kill(Victim { host }) => {
            lab.kill(host)?;
            format!("the daemon of host {host} is killed")
        }
        FaultCommand::Crash(Victim { host }) => {
            lab.crash(host)?;
            format!("host {host} is cut off and its daemon killed")
        }
        FaultCommand::Stall { victim, time } => {
            let Victim { host } = victim;
            lab.stall(host, time, &Interrupt::install()?)?;
            match time {
                Some(_) => format!("the daemon of host {host} was stalled and goes on"),
                None => format!("the daemon of host {host} is stalled"),
            }
        }
        FaultCommand::Starve { victim, time } => {
            let Victim { host } = victim;
            lab.do_harm(Harm::Starve { host }, time, &Interrupt::install()?)?;
            match time {
                Some(_) => format!("the daemon of host {host} was starved and goes on"),
                None => format!("the daemon of host {host} is starved"),
            }
        }
        FaultCommand::Mute(Victim { host }) => {
            lab.mute(host)?;
            format!("nobody hears the heartbeats of host {host}")
        }
        FaultCommand::Deaf(Victim { host }) => {
            lab.deafen(host)?;
            format!("host {host} hears nobody's heartbeats")
        }
        FaultCommand::Cut { pair } => {
            lab.cut(pair)?;
            format!("hosts {pair} are cut off from each other")
        }
        FaultCommand::Loss { victim, percent } => {
            lab.lose(victim.host, percent)?;
            format!(
                "{percent} of the frames from and to host {} are lost",
                victim.host
            )
        }
        FaultCommand::NoBroadcast => {
            lab.block_broadcast()?;
            "no broadcast gets from one host to another".to_owned()
        }
        FaultCommand::Refuse(Victim { host }) => {
            lab.refuse(host)?;
            format!("the NIC of host {host} does not accept the cluster MAC")
        }
        FaultCommand::Leak(Victim { host }) => {
            lab.leak(host)?;
            format!("host {host} has sent a frame with the cluster MAC as source")
        }
        FaultCommand::Crossover { pair } => {
            lab.wire(pair)?;
            format!("hosts {pair} are wired to each other, and to nobody else")
        }
        FaultCommand::Hub => {
            lab.make_hub()?;
            "the switch is a hub".to_owned()
        }
        FaultCommand::AgedOut(Victim { host }) => {
            lab.age_out(host)?;
            format!("the switch has forgotten which groups host {host} is a member of")
        }
        FaultCommand::Flood { udp, rate, time } => {
            let kind = if udp { Kind::Udp } else { Kind::Syn };
            let flood = Harm::Flood { kind, rate };
            match lab.do_harm(flood, time, &Interrupt::install()?)? {
                Some(frames) => format!("the flood is over: {frames} frames"),
                None => format!("the client floods {VIP} with {rate} frames per second"),
            }
        }
        FaultCommand::Heal => {
            let took = lab.heal(&Interrupt::install()?)?;
            format!(
                "hosts {} converged after {:.2} s",
                lab.everyone(),
                took.as_secs_f64()
            )
        }
    };
    say(&told);
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

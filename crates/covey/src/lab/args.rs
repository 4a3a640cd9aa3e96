//! The command line of `covey lab`. docs/design.md, "Command line".

use super::faults::{FaultCommand, Harm};
use super::snooping::{Asking, Switch};
use super::topology::{LabName, Place, host_name};
use crate::duration;
use clap::{Args, Subcommand, ValueEnum};
use covey_proto::config::{ClusterMode, Timing};
use covey_proto::ids::HostId;
use std::ffi::OsString;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// `covey lab`
#[derive(Debug, Args)]
pub struct LabArgs {
    /// First part of the names of the lab's namespaces and of its directory in /run
    #[arg(long, global = true, hide = true, default_value = "covey")]
    pub(super) name: LabName,
    #[command(subcommand)]
    pub(super) command: LabCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum LabCommand {
    /// Build a cluster: switch, hosts, client; return when it has converged
    Up(UpArgs),
    /// Show hosts, processes, links, faults and what the daemons say
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a command inside a host, the client or the switch
    Exec {
        /// h1, h2, ..., client or switch
        place: Place,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Do harm to a host or to the switch, or undo all harm
    #[command(subcommand)]
    Fault(FaultCommand),
    /// Take the lab down; nothing is left of it
    Down,
    /// Build three hosts, send traffic, let things happen, and tell what clients notice
    Demo(DemoArgs),
    /// Play an article of the Knowledge Base in a lab of its own, and tell what happens; exit code 0 only if all goes as it should
    Scenario {
        /// One of the scenarios, `all`, or `list`
        #[arg(value_name = "NAME", default_value = "list")]
        scenario: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Harm that goes on until `fault heal`
    #[command(hide = true, subcommand)]
    Harm(Harm),
    /// Let the switch forget which groups have members behind a host's port
    #[command(hide = true)]
    Forget {
        /// The host's number
        #[arg(value_name = "N", value_parser = parse_host)]
        host: HostId,
        /// Heed no reports from there any more
        #[arg(long, conflicts_with = "heed")]
        ignore: bool,
        /// Forget nothing; heed reports again
        #[arg(long)]
        heed: bool,
    },
    /// The server inside each host
    #[command(hide = true)]
    Serve {
        /// The host's name
        host: String,
        /// The virtual IPs
        #[arg(required = true)]
        vips: Vec<IpAddr>,
    },
}

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    /// Number of hosts, 1 to 64
    #[arg(long, default_value = "3", value_parser = parse_host)]
    pub(super) hosts: HostId,
    /// How frames reach the hosts
    #[arg(long, value_enum, default_value_t = Mode::Unicast)]
    pub(super) mode: Mode,
    /// What the hosts are plugged into
    #[arg(long, value_enum, value_name = "KIND", default_value_t = Switch::Bridge)]
    pub(super) switch: Switch,
    /// Let the hosts announce themselves as multicast routers to the switch
    #[arg(long)]
    pub(super) announce_mrouter: bool,
    /// Time between two queries of a switch that snoops, from 1s; all other times of membership follow from it
    #[arg(long, hide = true, value_name = "TIME", value_parser = query_interval)]
    query_interval: Option<Duration>,
    /// Version of IGMP in which it asks
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=3))]
    igmp_version: Option<u8>,
    /// Time between two heartbeats, 10ms to 10s
    #[arg(long, value_name = "TIME", default_value = "1s")]
    period: Period,
    /// Missed heartbeats after which a host counts as dead, 3 to 100
    #[arg(long, value_name = "PERIODS", default_value = "5")]
    tolerance: Tolerance,
    /// Give hosts, client and cluster IPv6 addresses too: fd77::1, ..., fd77::c8 and fd77::100
    #[arg(long)]
    pub(super) ipv6: bool,
    /// Where in the kernel the filter runs
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = Xdp::Auto)]
    pub(super) xdp: Xdp,
    /// Start no daemons, only network and servers (`fault heal` starts them)
    #[arg(long)]
    pub(super) no_daemons: bool,
    /// Print the lab's status as JSON when it is up (steps go to standard error)
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// End after this time, or after the first round of events if that takes longer, with exit code 0 only if
    /// all went as it should [default: until Ctrl-C]
    #[arg(long = "for", value_name = "TIME", value_parser = duration::parse)]
    pub(super) length: Option<Duration>,
    /// Send every other request and datagram over IPv6
    #[arg(long)]
    pub(super) ipv6: bool,
    /// How frames reach the hosts
    #[arg(long, value_enum, default_value_t = Mode::Unicast)]
    pub(super) mode: Mode,
    /// Print nothing but the summary, as JSON, on standard output
    #[arg(long)]
    pub(super) json: bool,
    /// Time between two heartbeats, 10ms to 10s
    #[arg(long, value_name = "TIME", default_value = "200ms")]
    period: Period,
    /// Missed heartbeats after which a host counts as dead, 3 to 100
    #[arg(long, value_name = "PERIODS", default_value = "5")]
    tolerance: Tolerance,
}

impl UpArgs {
    pub(super) fn asking(&self) -> Asking {
        let usual = Asking::default();
        Asking {
            interval: self.query_interval.unwrap_or(usual.interval),
            version: self.igmp_version.unwrap_or(usual.version),
        }
    }

    pub(super) fn timing(&self) -> Timing {
        Timing {
            period: self.period.0,
            tolerance: self.tolerance.0,
        }
    }
}

impl DemoArgs {
    pub(super) fn timing(&self) -> Timing {
        Timing {
            period: self.period.0,
            tolerance: self.tolerance.0,
        }
    }
}

/// A heartbeat period within the limits of [`Timing`].
#[derive(Clone, Copy, Debug)]
struct Period(Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let period = duration::parse(text)?;
        if (Timing::MIN_PERIOD..=Timing::MAX_PERIOD).contains(&period) {
            Ok(Self(period))
        } else {
            Err(format!(
                "a period lies between {} and {}",
                duration::format(Timing::MIN_PERIOD),
                duration::format(Timing::MAX_PERIOD)
            ))
        }
    }
}

/// A heartbeat tolerance within the limits of [`Timing`].
#[derive(Clone, Copy, Debug)]
struct Tolerance(u16);

impl FromStr for Tolerance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .filter(|periods| (Timing::MIN_TOLERANCE..=Timing::MAX_TOLERANCE).contains(periods))
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "a tolerance is a number of periods, {} to {}",
                    Timing::MIN_TOLERANCE,
                    Timing::MAX_TOLERANCE
                )
            })
    }
}

/// As the configuration says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Xdp {
    /// In the driver if it can, else generic
    Auto,
    /// In the driver, or not at all
    Native,
    /// After the driver
    Generic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// A unicast cluster MAC that no switch learns, so it floods its frames
    Unicast,
    /// A multicast cluster MAC
    Multicast,
    /// The cluster MAC of an IP multicast group
    Igmp,
}

impl From<Mode> for ClusterMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Unicast => Self::Unicast,
            Mode::Multicast => Self::Multicast,
            Mode::Igmp => Self::Igmp,
        }
    }
}

fn query_interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if interval < Asking::SHORTEST {
        let shortest = duration::format(Asking::SHORTEST);
        return Err(format!(
            "the kernel does not ask more often than every {shortest}"
        ));
    }
    Ok(interval)
}

/// A host's number, with or without the `h` of its name.
pub(super) fn parse_host(text: &str) -> Result<HostId, String> {
    text.parse()
        .ok()
        .and_then(HostId::new)
        .or_else(|| host_name(text))
        .ok_or_else(|| "hosts are numbered from 1 to 64".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        lab: LabArgs,
    }

    fn parse(line: &str) -> Result<LabArgs, String> {
        Cli::try_parse_from(std::iter::once("lab").chain(line.split(' ')))
            .map(|cli| cli.lab)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn up_has_the_defaults_of_nlb() {
        let LabCommand::Up(up) = parse("up").unwrap().command else {
            panic!("not up");
        };
        assert_eq!(up.hosts.get(), 3);
        assert_eq!(up.timing().budget(), Duration::from_secs(5));
    }

    #[test]
    fn the_demo_shows_failover_in_a_second() {
        let LabCommand::Demo(demo) = parse("demo --for 30s").unwrap().command else {
            panic!("not demo");
        };
        assert_eq!(demo.length, Some(Duration::from_secs(30)));
        assert_eq!(demo.timing().budget(), Duration::from_secs(1));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "up --hosts 0",
            "up --hosts 65",
            "up --period 10",
            "up --period 5ms",
            "up --period 11s",
            "up --tolerance 2",
            "up --tolerance 101",
            "up --switch hub",
            "up --query-interval 500ms",
            "up --igmp-version 1",
            "up --mode anycast",
            "--name ../x up",
            "exec h1",
            "exec h65 -- true",
            "fault crash",
            "fault stall 2 5",
            "fault starve 65",
            "fault cut 1",
            "fault cut 1 2",
            "fault crossover 2,2",
            "fault loss 2",
            "fault loss 2 101",
            "fault no-broadcast 2",
            "fault flood --rate 0",
            "fault flood 2",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn faults_are_typed_as_the_design_says() {
        for line in [
            "fault kill 2",
            "fault crash h2",
            "fault stall 2 5s",
            "fault starve 2",
            "fault starve 2 5s",
            "fault mute 2",
            "fault deaf 2",
            "fault cut 1,2",
            "fault loss 2 12.5",
            "fault no-broadcast",
            "fault refuse 2",
            "fault leak 2",
            "fault crossover 1,2",
            "fault hub",
            "fault aged-out 2",
            "fault flood",
            "fault flood --udp --rate 500 10s",
            "fault heal",
        ] {
            let parsed = parse(line).map(|args| args.command);
            assert!(matches!(parsed, Ok(LabCommand::Fault(_))), "{line}");
        }
    }

    #[test]
    fn a_scenario_has_its_name_and_the_lab_its_own() {
        let args = parse("--name covey-x scenario alone --json").unwrap();
        assert_eq!(args.name.to_string(), "covey-x");
        let LabCommand::Scenario { scenario, json } = args.command else {
            panic!("not scenario");
        };
        assert_eq!((&scenario[..], json), ("alone", true));
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        let LabCommand::Exec { place, command } = parse("exec h2 -- ls --json -l").unwrap().command
        else {
            panic!("not exec");
        };
        assert_eq!(place, Place::Host(HostId::new(2).unwrap()));
        assert_eq!(command, ["ls", "--json", "-l"]);
    }
}

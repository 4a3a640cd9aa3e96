//! What can be typed: subcommands, options and their help texts.
//!
//! Parsed by [`super::main`]. Help texts are under golden tests. Specification: docs/design.md, "Command line".

use crate::lab::LabArgs;
use clap::{Args, Parser, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;

/// Network Load Balancing for Linux: many hosts, one address, no load balancer box.
#[derive(Debug, Parser)]
#[command(
    name = "covey",
    bin_name = "covey",
    version,
    disable_help_subcommand = true,
    after_help = "Exit status: 0 done, 1 failed, 2 bad usage or configuration."
)]
pub(super) struct Cli {
    /// Control socket of the daemon, if not the one of this network namespace
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "COVEY_SOCKET",
        hide_env_values = true,
        display_order = 100
    )]
    pub(super) socket: Option<PathBuf>,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon of this host, in the foreground
    Run {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Check the configuration against this machine, and show what it means
    Check {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        format: Format,
    },
    /// Show the cluster as this host sees it
    Status {
        /// Also counters of the data path and past convergences
        #[arg(long, short)]
        verbose: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Show the state of this host in one line
    Query {
        #[command(flatten)]
        format: Format,
    },
    /// Show what happened since the daemon started
    Events {
        /// Go on, and show events as they happen
        #[arg(long, short)]
        follow: bool,
        /// Only events with a higher number
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        after: u64,
        #[command(flatten)]
        format: Format,
    },
    /// Let this host join its cluster, and wait until it has
    Start,
    /// Let this host leave its cluster, and wait until it has
    Stop,
    /// Speak as NLB's wlbs.exe does; also under the names wlbs and nlb
    Wlbs {
        #[command(subcommand)]
        verb: WlbsVerb,
    },
    /// Show the cluster MACs that belong to a primary virtual IP
    Ip2mac {
        /// The primary virtual IP
        ip: IpAddr,
        #[command(flatten)]
        format: Format,
    },
    /// A whole cluster on this machine, to try things out
    Lab(LabArgs),
}

/// NLB's verbs.
#[derive(Debug, Subcommand)]
pub(super) enum WlbsVerb {
    /// Show the state of this host and the members of its cluster
    Query,
}

#[derive(Debug, Args)]
pub(super) struct ConfigFile {
    /// Configuration file
    #[arg(
        long = "config",
        short = 'c',
        value_name = "FILE",
        env = "COVEY_CONFIG",
        hide_env_values = true,
        default_value = "/etc/covey/covey.toml"
    )]
    pub(super) path: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Format {
    /// For programs: JSON
    #[arg(long)]
    pub(super) json: bool,
}

//! What can be typed: subcommands, options and their help texts.
//!
//! Parsed by [`super::main`]. Help texts are under golden tests. Specification: docs/design.md, "Command line".

use crate::control::Ports;
use crate::lab::LabArgs;
use crate::why::{Protocol, Question};
use clap::{Args, Parser, Subcommand};
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

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
        /// Go on where the program was that this one has replaced, which has left its state under this descriptor
        #[arg(long, value_name = "DESCRIPTOR", hide = true)]
        take_over: Option<RawFd>,
    },
    /// Say whether this program can take the place of the daemon that runs, and have its filter ready
    #[command(hide = true)]
    Prepare {
        #[command(flatten)]
        config: ConfigFile,
        /// The format of the state that the daemon would leave
        #[arg(long)]
        state: u16,
        /// What its packet counters count, in their order
        #[arg(long, value_delimiter = ',')]
        counters: Vec<String>,
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
    /// Say what is wrong with this host and its cluster, why, and what to do
    #[command(
        after_help = "Exit status: 0 nothing is wrong, 1 something is, 2 bad usage or configuration. docs/troubleshooting.md lists all \
                      that it finds."
    )]
    Doctor {
        /// Configuration file, if not the one that the daemon was started with
        #[arg(
            long = "config",
            short = 'c',
            value_name = "FILE",
            env = "COVEY_CONFIG",
            hide_env_values = true
        )]
        config: Option<PathBuf>,
        /// What to look at in place of /sys
        #[arg(long, value_name = "DIRECTORY", hide = true, default_value = "/sys")]
        sysfs: PathBuf,
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
    /// Show the port rules: weights, states on this host, and who serves how much
    Rules {
        #[command(flatten)]
        format: Format,
    },
    /// Say which host takes a client's packet, and why
    #[command(
        after_help = "Bucket, owner and rule are the same on every host of the cluster; the verdict is this host's. Of TCP, \
                      the packet is one that opens a connection. An IPv6 address before a port stands in brackets."
    )]
    Why {
        /// The client's address; its port too, if the rule's affinity is none
        #[arg(value_name = "SRC[:PORT]")]
        client: Endpoint,
        /// The virtual IP, the port there, and tcp (the default), udp or icmp
        #[arg(value_name = "VIP[:PORT][/PROTOCOL]")]
        service: Service,
        #[command(flatten)]
        format: Format,
    },
    /// Let this host join its cluster, and wait until it has
    Start {
        #[command(flatten)]
        format: Format,
    },
    /// Let this host leave its cluster, and wait until it has
    Stop {
        #[command(flatten)]
        format: Format,
    },
    /// Let this host take no new connections, and leave its cluster when the last one has ended
    #[command(after_help = "Ctrl-C ends the waiting, not the draining: start or stop does that.")]
    Drainstop {
        /// Reset what is left after this time, like 10m
        #[arg(long, value_name = "TIME", value_parser = crate::duration::parse)]
        timeout: Option<Duration>,
        /// Do not wait until the host has stopped
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Let this host leave its cluster, and heed no command until it is resumed
    Suspend {
        #[command(flatten)]
        format: Format,
    },
    /// Let this host heed commands again; it stays stopped
    Resume {
        #[command(flatten)]
        format: Format,
    },
    /// Let the daemon read its configuration again
    Reload {
        #[command(flatten)]
        format: Format,
    },
    /// Put this program in the place of the daemon that runs; the host stays in its cluster and loses no packet
    #[command(
        after_help = "After an update of the package, or to start the daemon again. What takes a restart of the daemon in \
                      the configuration takes one here too."
    )]
    Upgrade {
        /// Another program than this one
        #[arg(long, value_name = "PATH")]
        program: Option<PathBuf>,
        #[command(flatten)]
        format: Format,
    },
    /// Let this host take its share of the traffic of port rules again
    Enable {
        #[command(flatten)]
        ports: PortArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Let this host take no traffic of port rules, and reset the connections there are
    Disable {
        #[command(flatten)]
        ports: PortArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Let this host take no new connections of port rules, and finish those there are
    Drain {
        #[command(flatten)]
        ports: PortArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Speak as NLB's wlbs.exe does; also under the names wlbs and nlb
    #[command(after_help = "\"covey wlbs help\" lists the verbs.")]
    Wlbs {
        /// A verb and what belongs to it
        #[arg(
            value_name = "VERB",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        words: Vec<String>,
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

#[derive(Debug, Args)]
pub(super) struct PortArgs {
    /// Any port of the rule, or all
    #[arg(value_name = "PORT|all")]
    port: PortOrAll,
    /// Only rules for this virtual IP; 255.255.255.255 means those that are for none in particular
    #[arg(long, value_name = "IP")]
    vip: Option<IpAddr>,
}

impl PortArgs {
    pub(super) fn ports(&self) -> Ports {
        let (vip, port) = (self.vip, self.port.0);
        Ports { vip, port }
    }
}

/// A port, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortOrAll(pub(super) Option<u16>);

impl FromStr for PortOrAll {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(Self(None));
        }
        let port = text.parse();
        port.map(|port| Self(Some(port)))
            .map_err(|_| format!("\"{text}\" is no port: write a number from 0 to 65535, or all"))
    }
}

/// An address, and perhaps a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse() {
            return Ok(Self {
                address,
                port: None,
            });
        }
        let (address, port) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("\"{text}\" is no IP address"))?;
        let inner = match address.strip_prefix('[') {
            Some(bracketed) => bracketed.strip_suffix(']').filter(|it| it.contains(':')),
            None => Some(address).filter(|it| !it.contains(':')),
        };
        let address = inner
            .and_then(|inner| inner.parse().ok())
            .ok_or_else(|| format!("\"{address}\" is no IP address"))?;
        match port.parse() {
            Ok(port @ 1..) => Ok(Self {
                address,
                port: Some(port),
            }),
            Ok(0) | Err(_) => Err(format!(
                "\"{port}\" is no port: write a number from 1 to 65535"
            )),
        }
    }
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) endpoint: Endpoint,
    pub(super) protocol: Protocol,
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (endpoint, protocol) = match text.split_once('/') {
            Some((endpoint, protocol)) => (endpoint, protocol_named(protocol)?),
            None => (text, Protocol::Tcp),
        };
        Ok(Self {
            endpoint: endpoint.parse()?,
            protocol,
        })
    }
}

/// The protocol with this name.
pub(super) fn protocol_named(name: &str) -> Result<Protocol, String> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Icmp]
        .into_iter()
        .find(|protocol| protocol.name() == name.to_ascii_lowercase())
        .ok_or_else(|| format!("\"{name}\" is no protocol that is known here: tcp, udp or icmp"))
}

/// The packet of this client that asks for this service.
pub(super) fn question(client: Endpoint, service: Service) -> Question {
    Question {
        client: client.address,
        client_port: client.port,
        vip: service.endpoint.address,
        port: service.endpoint.port,
        protocol: service.protocol,
    }
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

//! The benchmarks of docs/benchmarks.md, part by part: `cargo xtask bench` runs all of them, `cargo xtask bench filter
//! http` these two. Each part is a bench target of the covey crate (`crates/covey/benches`), prints its tables, and
//! draws its plot into docs/ if it has one. They need root, and a machine that does nothing else.

use crate::{cargo, setup, step};
use anyhow::Result;
use clap::ValueEnum;
use std::fmt;

/// One question that is answered by measuring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Nanoseconds per packet in the filter, and on what they depend
    Filter,
    /// Packets of other hosts' shares per second of CPU time, against netfilter's ways to drop them
    Flood,
    /// HTTP requests per second and latency of a host with and without the filter
    Http,
    /// CPU time and memory of the daemon among up to 31 others
    Daemon,
    /// How long clients wait after a crash and a join
    Failover,
    /// Held and new connections while an operator changes all that can be changed
    Survival,
    /// Whose connections a crash breaks, and how soon their clients learn of it
    Crash,
    /// Lost and doubled SYNs across 200 maps
    Commit,
    /// How long and how much a crash darkens, beside keepalived and ucarp
    Blackout,
    /// The fast settings under full load: which view changes that should not
    Steady,
}

impl Part {
    /// Programs that it runs besides covey, and the Debian packages that they are in.
    const fn tools(self) -> &'static [setup::Tool] {
        match self {
            Self::Flood => &[
                ("ethtool", "ethtool"),
                ("iptables-legacy", "iptables"),
                ("nft", "nftables"),
            ],
            Self::Http => &[("nginx", "nginx-light"), ("wrk", "wrk")],
            Self::Blackout => &[("keepalived", "keepalived"), ("ucarp", "ucarp")],
            Self::Steady => &[("keepalived", "keepalived")],
            Self::Filter
            | Self::Daemon
            | Self::Failover
            | Self::Survival
            | Self::Crash
            | Self::Commit => &[],
        }
    }

    /// The bench target that measures it, and what it is called there if the target has several parts.
    fn target(self) -> (String, Option<String>) {
        match self {
            Self::Filter | Self::Flood | Self::Http | Self::Daemon | Self::Failover => {
                (self.to_string(), None)
            }
            Self::Survival | Self::Crash | Self::Commit | Self::Blackout | Self::Steady => {
                ("cluster".to_owned(), Some(self.to_string()))
            }
        }
    }
}

/// As on the command line.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no part is hidden");
        f.write_str(value.get_name())
    }
}

/// Runs these parts, or all if none is named.
pub(crate) fn run(parts: &[Part]) -> Result<()> {
    let parts = match parts {
        [] => Part::value_variants(),
        some => some,
    };
    setup::run()?;
    for part in parts {
        setup::install_missing(part.tools())?;
    }
    let targets: Vec<_> = parts.iter().map(|part| part.target()).collect();
    let mut build = vec!["bench", "--package", "covey", "--no-run"];
    build.extend(targets.iter().flat_map(|(target, _)| ["--bench", target]));
    step::run("build", || cargo::run(&build))?;
    for (target, part) in &targets {
        println!();
        let measure = ["bench", "--package", "covey", "--bench", target, "--"];
        let words: Vec<&str> = measure.into_iter().chain(part.as_deref()).collect();
        cargo::run(&words)?;
    }
    Ok(())
}

/// Installs the programs that any part runs besides covey.
pub(crate) fn install_tools() -> Result<()> {
    let tools = Part::value_variants().iter().map(|part| part.tools());
    setup::install_missing(&tools.collect::<Vec<_>>().concat())
}

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
            Self::Filter | Self::Daemon | Self::Failover => &[],
        }
    }
}

/// As on the command line, which is also the name of the bench target.
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
    let targets: Vec<String> = parts.iter().map(Part::to_string).collect();
    let named = targets.iter().flat_map(|target| ["--bench", target]);
    let build: Vec<&str> = ["bench", "--package", "covey", "--no-run"]
        .into_iter()
        .chain(named)
        .collect();
    step::run("build", || cargo::run(&build))?;
    for target in &targets {
        println!();
        cargo::run(&["bench", "--package", "covey", "--bench", target])?;
    }
    Ok(())
}

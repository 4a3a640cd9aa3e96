//! The command line of `covey-sim`: what can be typed, and what is printed.
//!
//! Exit codes: 0 all promises were kept, 1 one was broken, 2 bad usage or a bad scenario. A violation is printed with
//! the last things that happened, what is left of its scenario when everything needless is left out, and how to
//! see it again.

use crate::pcap::Pcap;
use crate::report::Counts;
use crate::run::{Options, run_with};
use crate::runner::{self, Failure, Total, Until};
use crate::scenario::Scenario;
use crate::{catalogue, plot, random, scale, shrink};
use anyhow::{Context, anyhow};
use clap::{Parser, Subcommand};
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

/// Whole clusters in virtual time: is each of Covey's promises kept, whatever happens?
#[derive(Debug, Parser)]
#[command(
    name = "covey-sim",
    version,
    disable_help_subcommand = true,
    after_help = "Exit status: 0 all promises were kept, 1 one was broken, 2 bad usage or scenario."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one scenario: a name from the list, a scenario file, or "random" for what a seed draws
    Run {
        /// Name, file or "random"
        scenario: String,
        /// Seed of everything random
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Write all frames into a capture for Wireshark
        #[arg(long, value_name = "FILE")]
        pcap: Option<PathBuf>,
        /// Print everything that happens
        #[arg(long)]
        trace: bool,
    },
    /// List the named scenarios
    List,
    /// Run every named scenario, each with several seeds
    All {
        /// Seeds for each
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: u64,
    },
    /// Print a scenario as a file: a name from the list, or what a seed draws
    Show {
        /// Name or "random"
        scenario: String,
        /// Seed of what is drawn
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Run random scenarios, one for each seed
    Seeds {
        /// First seed
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many
        #[arg(long, default_value_t = 1000)]
        count: u64,
    },
    /// Run random scenarios until time is up
    Soak {
        /// For how long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// For how long, in seconds instead
        #[arg(long, conflicts_with = "minutes")]
        seconds: Option<u64>,
        /// Stop at the first broken promise, and do not look for the smallest case
        #[arg(long)]
        first: bool,
        /// First seed
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
    /// Measure how clusters of different sizes behave
    Scale {
        /// Numbers of hosts
        #[arg(long, value_delimiter = ',', default_values_t = [3, 8, 16, 32, 64], value_parser = clap::value_parser!(u8).range(3..=64))]
        hosts: Vec<u8>,
        /// For programs: JSON
        #[arg(long)]
        json: bool,
        /// Also draw it
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout and is no failure; nothing can be done if it cannot be printed.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match perform(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // A reader that has had enough is no failure.
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
            {
                return ExitCode::SUCCESS;
            }
            eprintln!("covey-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// True if all promises were kept.
fn perform(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Run {
            scenario,
            seed,
            pcap,
            trace,
        } => run_one(&scenario, seed, pcap, trace),
        Command::List => list(),
        Command::All { seeds } => all(seeds),
        Command::Show { scenario, seed } => {
            print(&load(&scenario, seed)?.to_toml())?;
            Ok(true)
        }
        Command::Seeds { from, count } => many(from, Until::Count(count), Stop::AfterSome),
        Command::Soak {
            minutes,
            seconds,
            first,
            from,
        } => {
            let time = Duration::from_secs(seconds.unwrap_or(minutes * 60));
            let stop = if first {
                Stop::AtFirst
            } else {
                Stop::AfterSome
            };
            many(from, Until::Over(time), stop)
        }
        Command::Scale { hosts, json, svg } => {
            let rows: Vec<_> = hosts.into_iter().map(scale::measure).collect();
            if let Some(path) = svg {
                std::fs::write(&path, plot::svg(&rows))
                    .with_context(|| format!("{} cannot be written", path.display()))?;
            }
            let text = if json {
                scale::json(&rows)
            } else {
                scale::table(&rows)
            };
            print(&text)?;
            Ok(true)
        }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn load(name: &str, seed: u64) -> anyhow::Result<Scenario> {
    if name == "random" {
        return Ok(random::scenario(seed));
    }
    if name.contains(['.', '/']) {
        let text = std::fs::read_to_string(name)
            .with_context(|| format!("the scenario file {name} cannot be read"))?;
        return Scenario::parse(&text).map_err(|error| anyhow!("{name}: {error}"));
    }
    catalogue::find(name).map_err(|error| anyhow!(error))
}

fn list() -> anyhow::Result<bool> {
    let width = catalogue::ALL
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (name, _) in catalogue::ALL {
        let about = load(name, 0)?.about;
        text += &format!("{name:<width$}  {about}\n");
    }
    print(&text)?;
    Ok(true)
}

fn run_one(name: &str, seed: u64, pcap: Option<PathBuf>, trace: bool) -> anyhow::Result<bool> {
    let scenario = load(name, seed)?;
    let mut options = Options {
        trace,
        ..Options::default()
    };
    if let Some(path) = pcap {
        let open = || Pcap::new(Box::new(BufWriter::new(File::create(&path)?)));
        options.pcap = Some(
            open().with_context(|| format!("the capture {} cannot be written", path.display()))?,
        );
    }
    let outcome = run_with(&scenario, seed, options);
    print(&outcome.counts.to_string())?;
    let Some(violation) = outcome.violation else {
        print("\nall promises kept\n")?;
        return Ok(true);
    };
    let failure = Failure {
        scenario,
        seed,
        violation,
        last: outcome.last,
    };
    print(&account(
        &failure,
        &format!("covey-sim run {name} --seed {seed} --trace"),
    ))?;
    Ok(false)
}

/// A violation as people need it.
fn account(failure: &Failure, again: &str) -> String {
    let last = failure.last.join("\n");
    let Failure {
        seed, violation, ..
    } = failure;
    format!(
        "\nbroken, with seed {seed}: {violation}\n\nthe last things that happened:\n{last}\n\nto see it again: {again}\n"
    )
}

fn all(seeds: u64) -> anyhow::Result<bool> {
    let mut counts = Counts::default();
    let mut kept = true;
    let width = catalogue::ALL
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0);
    for (name, _) in catalogue::ALL {
        let scenario = load(name, 0)?;
        let outcomes =
            (1..=seeds).map(|seed| (seed, run_with(&scenario, seed, Options::default())));
        let mut failure = None;
        for (seed, outcome) in outcomes {
            counts.add(&outcome.counts);
            if let Some(violation) = outcome.violation {
                failure = Some(Failure {
                    scenario: scenario.clone(),
                    seed,
                    violation,
                    last: outcome.last,
                });
                break;
            }
        }
        let verdict = if failure.is_none() { "kept" } else { "BROKEN" };
        print(&format!("{name:<width$}  {verdict}\n"))?;
        if let Some(failure) = failure {
            kept = false;
            let seed = failure.seed;
            print(&account(
                &failure,
                &format!("covey-sim run {name} --seed {seed} --trace"),
            ))?;
        }
    }
    print(&format!("\n{counts}"))?;
    Ok(kept)
}

/// What broken promises do to a search.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The first one ends it, and is told as it is.
    AtFirst,
    /// Ten end it, and the first of them is made small.
    AfterSome,
}

fn many(from: u64, until: Until, stop: Stop) -> anyhow::Result<bool> {
    let shown = Mutex::new(Duration::ZERO);
    let interactive = std::io::stderr().is_terminal();
    let progress = |total: &Total, elapsed: Duration| {
        let mut shown = shown.lock().expect("nothing panics while it is held");
        if elapsed
            < *shown
                + if interactive {
                    Duration::from_millis(200)
                } else {
                    Duration::from_secs(10)
                }
        {
            return;
        }
        *shown = elapsed;
        let (runs, hours) = (
            total.counts.runs,
            total.counts.simulated.as_secs_f64() / 3600.0,
        );
        let (failures, seconds) = (total.failures.len(), elapsed.as_secs());
        let (begin, end) = if interactive { ("\r", "") } else { ("", "\n") };
        eprint!(
            "{begin}{runs} seeds, {hours:.1} simulated hours, {failures} violations, {seconds} s {end}"
        );
    };
    let most = if stop == Stop::AtFirst { 1 } else { 10 };
    let total = runner::seeds(from, until, most, &progress);
    if interactive {
        eprintln!();
    }
    for failure in &total.failures {
        let seed = failure.seed;
        print(&account(
            failure,
            &format!("covey-sim run random --seed {seed} --trace"),
        ))?;
    }
    if let Some(failure) = total.failures.first().filter(|_| stop == Stop::AfterSome) {
        let small = shrink::shrink(&failure.scenario, failure.seed, &failure.violation);
        let (seed, tries, toml) = (failure.seed, small.tries, small.scenario.to_toml());
        let violation = small.violation;
        print(&format!(
            "\nwhat is left of seed {seed} after {tries} runs, to be run as a file with --seed {seed}:\n\n# {violation}\n{toml}"
        ))?;
    }
    let missing: Vec<&str> = total
        .counts
        .missing()
        .map(crate::faults::Kind::label)
        .collect();
    print(&format!(
        "\n{}{:<26} {:>14}\n",
        total.counts,
        "violations",
        total.failures.len()
    ))?;
    if !missing.is_empty() {
        print(&format!("never happened: {}\n", missing.join(", ")))?;
    }
    Ok(total.failures.is_empty())
}

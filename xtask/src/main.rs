//! Covey's own build and test steps: `cargo xtask help`. A person or a machine with nothing but Rust and this
//! repository starts here; continuous integration runs `cargo xtask test` (see `.ci/run`).
//!
//! ```text
//!   setup.rs   install what the build and the tests need     test.rs   run all tests, print one line for each
//!   step.rs    name and time what is done                    bench.rs  measure what docs/benchmarks.md tells
//!   mutants.rs break the core's rules, to see that the       cargo.rs  cargo as a child
//!              simulator notices
//! ```

mod bench;
mod cargo;
mod mutants;
mod setup;
mod step;
mod test;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Covey's own build and test steps")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing: rust-src, bpf-linker, and the Debian packages that the tests and benchmarks use
    Setup,
    /// Build the optimized binary, target/release/covey
    Build,
    /// Build, then run a whole cluster on this machine (`covey lab demo`)
    Lab {
        /// Options of `covey lab demo`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Run all tests; those of the kernel's side only as root
    Test,
    /// Run the benchmarks, as root: all, or the parts that are named
    Bench { parts: Vec<bench::Part> },
    /// Break the core's safety rules one at a time, and see whether the simulator notices
    Mutants {
        /// Only those with this in their name
        only: Option<String>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Setup => setup::run()
            .and_then(|()| bench::install_tools())
            .map(|()| true),
        Task::Build => build().map(|()| true),
        Task::Lab { options } => lab(&options),
        Task::Test => Ok(test::run()),
        Task::Bench { parts } => bench::run(&parts).map(|()| true),
        Task::Mutants { only } => mutants::run(only.as_deref()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    setup::run()?;
    step::run("build", || {
        cargo::run(&["build", "--release", "--package", "covey"])
    })
}

fn lab(options: &[String]) -> Result<bool> {
    build()?;
    let covey = cargo::target_dir()?.join("release/covey");
    // On success this process becomes covey.
    Err(Command::new(&covey)
        .args(["lab", "demo"])
        .args(options)
        .exec())
    .with_context(|| format!("{} cannot be run", covey.display()))
}

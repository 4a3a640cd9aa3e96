//! All tests, with one line for each test program and the output of those that fail. The last line is the sum,
//! alone: `N passed, N failed`, and `, N skipped` if some were. As root the tests of the kernel's side
//! run too (they are marked `#[ignore = "needs root: ..."]`). Specification: docs/design.md, "Tests".

use crate::{cargo, setup, step};
use anyhow::{Context, Result, bail};
use std::fmt;
use std::io::{BufRead, BufReader, pipe};
use std::time::Instant;

/// Runs everything. Returns whether all is well.
pub(crate) fn run() -> bool {
    let mut sum = Counts::default();
    if let Err(error) = steps(&mut sum) {
        println!("{error:#}");
        sum.failed += 1;
    }
    println!();
    if sum.skipped > 0 && !setup::is_root() {
        println!("Tests of the kernel's side were skipped, because they need root.");
    }
    println!("{sum}");
    sum.failed == 0
}

fn steps(sum: &mut Counts) -> Result<()> {
    setup::run()?;
    step::run("build the tests", || {
        cargo::run(&["test", "--workspace", "--no-run"])
    })?;
    let ignored: &[&str] = if setup::is_root() {
        &["--", "--include-ignored"]
    } else {
        &[]
    };
    let programs = [
        "test",
        "--workspace",
        "--no-fail-fast",
        "--lib",
        "--bins",
        "--tests",
    ];
    watch(&[&programs, ignored].concat(), sum)?;
    watch(&["test", "--workspace", "--no-fail-fast", "--doc"], sum)
}

/// What became of tests.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        match self.skipped {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} skipped"),
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Runs `cargo test` and reports each test program as it ends.
fn watch(arguments: &[&str], sum: &mut Counts) -> Result<()> {
    // Both streams in one, because the names of the test programs come on one and their results on the other.
    let (reader, writer) = pipe()?;
    let mut cargo = cargo::command();
    let mut child = cargo
        .args(arguments)
        .env("CARGO_TERM_COLOR", "never")
        .env("RUST_BACKTRACE", "0")
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .context("cargo cannot be run")?;
    // It holds our ends of the pipe, and reading ends only when all of them are closed.
    drop(cargo);
    let before = sum.failed;
    let mut program = Program::default();
    for line in BufReader::new(reader).lines() {
        let line = line?;
        if let Some(name) = program_name(&line) {
            std::mem::replace(&mut program, Program::new(name)).end(sum);
        } else if let Some(counts) = result(&line) {
            program.counts = Some(counts);
        } else {
            program.output.push(line);
        }
    }
    let said = program.output.join("\n");
    program.end(sum);
    if !child.wait()?.success() && sum.failed == before {
        bail!("cargo test failed:\n{said}");
    }
    Ok(())
}

/// A test program, as far as its output has been read.
#[derive(Default)]
struct Program {
    /// None for what cargo says before the first.
    name: Option<String>,
    start: Option<Instant>,
    counts: Option<Counts>,
    output: Vec<String>,
}

impl Program {
    fn new(name: String) -> Self {
        Self {
            name: Some(name),
            start: Some(Instant::now()),
            ..Self::default()
        }
    }

    /// Prints its line, and its output from the first failure on.
    fn end(self, sum: &mut Counts) {
        let (Some(name), Some(start)) = (self.name, self.start) else {
            return;
        };
        // One that died has not told how many; what is known is that it failed.
        let counts = self.counts.unwrap_or(Counts {
            failed: 1,
            ..Counts::default()
        });
        if counts != Counts::default() {
            let seconds = start.elapsed().as_secs_f64();
            println!("{name:<44}{seconds:>10.1} s  {counts}");
        }
        if counts.failed > 0 {
            let failures = self.output.iter().position(|line| line == "failures:");
            println!("{}", self.output[failures.unwrap_or(0)..].join("\n"));
        }
        *sum += counts;
    }
}

/// The test program that cargo says it runs now.
fn program_name(line: &str) -> Option<String> {
    if let Some(name) = line.strip_prefix("   Doc-tests ") {
        return Some(format!("{name} (documentation)"));
    }
    let (source, path) = line.strip_prefix("     Running ")?.split_once(" (")?;
    let Some(source) = source.strip_prefix("unittests ") else {
        return Some(source.to_owned());
    };
    let (_, file) = path.rsplit_once('/')?;
    let (name, _) = file.rsplit_once('-')?;
    Some(format!("{name} {source}"))
}

/// The counts in a line like "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; ...".
fn result(line: &str) -> Option<Counts> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    Some(Counts {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        let line = "test result: FAILED. 12 passed; 1 failed; 3 ignored; 0 measured; 7 filtered out; finished in 0.00s";
        let counts = result(line).unwrap();
        assert_eq!(counts.to_string(), "12 passed, 1 failed, 3 skipped");
        assert_eq!(result("test frames::result ... ok"), None);
    }

    #[test]
    fn programs_are_named() {
        let name = |line| program_name(line).unwrap_or_default();
        assert_eq!(
            name("     Running unittests src/lib.rs (target/debug/deps/covey_filter-7aece8ca)"),
            "covey_filter src/lib.rs"
        );
        assert_eq!(
            name("     Running tests/kernel_filter.rs (target/debug/deps/kernel_filter-16d759)"),
            "tests/kernel_filter.rs"
        );
        assert_eq!(
            name("   Doc-tests covey_proto"),
            "covey_proto (documentation)"
        );
        assert_eq!(name("     Finished test"), "");
    }
}

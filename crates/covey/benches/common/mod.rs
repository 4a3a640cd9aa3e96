//! What the benchmarks share: when they run, medians, the machine's name, plots. docs/benchmarks.md has the results.
#![allow(dead_code, unreachable_pub)] // Each benchmark uses its share.

pub mod bars;
pub mod cpu;
pub mod traffic;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

/// Whether to measure: `cargo test --benches` runs these files too, and has no time for it.
pub fn wanted(name: &str) -> bool {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("{name}: measures only under `cargo bench --bench {name}`");
        return false;
    }
    if fs::metadata("/proc/self").is_ok_and(|owner| owner.uid() != 0) {
        println!("SKIPPED {name}: it needs root");
        return false;
    }
    println!("# {name}, on {}", machine());
    println!();
    true
}

/// The kernel, the processor and how many of it there are.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let values = |key: &str| -> Vec<&str> {
        cpus.lines()
            .filter(|line| line.starts_with(key))
            .filter_map(|line| Some(line.split_once(':')?.1.trim()))
            .collect()
    };
    let name = values("model name");
    format!(
        "Linux {}, {} x {}",
        read("/proc/sys/kernel/osrelease").trim(),
        name.len(),
        name.first().unwrap_or(&"a processor without a name")
    )
}

/// The one in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Writes a plot into docs/.
pub fn draw(name: &str, picture: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    match fs::write(path.join(name), picture) {
        Ok(()) => println!("\ndocs/{name} drawn"),
        Err(error) => println!("\ndocs/{name} cannot be written: {error}"),
    }
}

/// Runs a line of shell in this thread's network namespace, and says what it printed.
pub fn shell(line: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", line])
        .output()
        .expect("there is a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

//! One line for each thing that is done: its name when it begins, its time when it ends. On stderr, because
//! stdout belongs to what is run at the end.

use anyhow::Result;
use std::io::Write;
use std::time::Instant;

/// Runs a step whose own output, if any, goes between the two.
pub(crate) fn run<T>(name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    eprint!("{name:<44}");
    // Progress is a courtesy: a closed terminal is no reason to stop.
    let _ = std::io::stderr().flush();
    let start = Instant::now();
    let result = step();
    let seconds = start.elapsed().as_secs_f64();
    match &result {
        Ok(_) => eprintln!("{seconds:>10.1} s"),
        Err(_) => eprintln!("{seconds:>10.1} s  failed"),
    }
    result
}

//! What the daemon costs: CPU time and memory of one in a cluster of 3, 16 and 32, with NLB's timing and with fast
//! heartbeats. `cargo xtask bench daemon` runs it; it needs root.
//!
//! All daemons are real ones in a lab on this machine. CPU time is what the kernel has counted for the process with all
//! of its threads, memory what is resident (VmRSS) at the end of the run, and the most that ever was (VmHWM), which is
//! while the programs are loaded. The median host is told, and the one that took most.

#![allow(clippy::unwrap_used)] // as in the tests whose instruments these are

mod common;
#[path = "../../filter/tests/frames/mod.rs"]
mod frames;
#[path = "../tests/kernel_cluster/lab.rs"]
#[expect(dead_code, reason = "the tests do more with a lab")]
mod lab;
#[path = "../tests/kernel_cluster/netns.rs"]
#[expect(dead_code, reason = "the tests do more with namespaces")]
mod netns;

use common::bars::{Bar, svg};
use common::{cpu, median};
use lab::{Lab, Timing};
use std::thread;
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_secs(20);
const SIZES: [u8; 3] = [3, 16, 32];
const NLB: Timing = Timing {
    period_ms: 1000,
    tolerance: 5,
};
const FAST: Timing = Timing {
    period_ms: 20,
    tolerance: 8,
};

/// What one daemon takes.
struct Taken {
    /// Percent of a CPU.
    cpu: f64,
    /// MiB, at the end and at most.
    resident: f64,
    most_resident: f64,
    /// MiB that are the process's alone, and of files that all share.
    own: f64,
    of_files: f64,
}

fn measure(hosts: u8, timing: Timing) -> Vec<Taken> {
    let lab = Lab::up("daemon", hosts, timing);
    let daemons: Vec<u32> = lab
        .hosts()
        .into_iter()
        .map(|host| lab.status(host).host.pid)
        .collect();
    // Whatever the start brought about is over.
    thread::sleep(timing.budget() + Duration::from_secs(2));
    let used = || daemons.iter().map(|pid| cpu::of_process(*pid));
    let (start, before) = (Instant::now(), used().collect::<Vec<_>>());
    thread::sleep(RUN);
    let (time, after) = (start.elapsed(), used().collect::<Vec<_>>());
    // All of the time it was a cluster.
    lab.await_agreement(&lab.hosts());
    let spent = before.iter().zip(&after).zip(&daemons);
    spent
        .map(|((before, after), pid)| Taken {
            cpu: 100.0 * (*after - *before).as_secs_f64() / time.as_secs_f64(),
            resident: memory(*pid, "VmRSS"),
            most_resident: memory(*pid, "VmHWM"),
            own: memory(*pid, "RssAnon"),
            of_files: memory(*pid, "RssFile"),
        })
        .collect()
}

/// A line of /proc/PID/status, in MiB.
fn memory(pid: u32, key: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = text.lines().find(|line| line.starts_with(key));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.expect("the kernel writes a number of KiB") / 1024.0
}

fn main() {
    if !common::wanted("daemon") {
        return;
    }
    println!(
        "| heartbeats | hosts | CPU, median | CPU, most | resident | own | of files | at most, ever |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let mut bars = Vec::new();
    for (group, timing) in [NLB, FAST].into_iter().enumerate() {
        for hosts in SIZES {
            let taken = measure(hosts, timing);
            let values = |of: fn(&Taken) -> f64| taken.iter().map(of).collect::<Vec<_>>();
            let most = |of| values(of).into_iter().fold(0.0, f64::max);
            let cpu = median(&values(|one| one.cpu));
            println!(
                "| {timing} | {hosts} | {cpu:.2} % | {:.2} % | {:.1} MiB | {:.1} MiB | {:.1} MiB | {:.1} MiB |",
                most(|one| one.cpu),
                most(|one| one.resident),
                most(|one| one.own),
                most(|one| one.of_files),
                most(|one| one.most_resident),
            );
            bars.push(Bar {
                name: format!("{hosts} hosts, {timing}"),
                value: cpu,
                label: format!("{cpu:.2} %"),
                group,
            });
        }
    }
    println!();
    println!(
        "CPU in percent of one, over {} s. Memory is that of the host that has most.",
        RUN.as_secs()
    );
    let title = "CPU time of one daemon, percent of a CPU";
    common::draw("bench-daemon.svg", &svg(title, &bars, None));
}

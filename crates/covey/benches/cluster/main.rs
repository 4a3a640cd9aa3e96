//! What a whole cluster does to its clients, measured in labs: `cargo bench --bench cluster -- PART`, as root. The
//! results stand in docs/benchmarks.md. `cargo xtask bench` runs the parts, each by its name.
//!
//! ```text
//!   survival   held and new connections while hosts join, leave, drain, reload, restart, crash
//!   commit     lost and doubled SYNs across 200 changes of the map
//!   blackout   how long and how much a crash darkens, beside keepalived and ucarp
//!   steady     the fast settings under full load: does a view change that should not?
//!
//!   clients    connections, many          sniffer   what passes the switch
//!   rivals     keepalived and ucarp       load      busy processors
//!   plot       the picture                changes   what an operator does
//! ```

#![allow(clippy::unwrap_used)] // as in the tests whose instruments these are

mod blackout;
mod changes;
mod clients;
mod commit;
mod load;
mod plot;
mod rivals;
mod sniffer;
mod steady;
mod survival;

#[path = "../../tests/kernel_cluster/echo.rs"]
#[expect(dead_code, reason = "the tests ask more of the probe")]
mod echo;
#[path = "../../tests/kernel_cluster/lab.rs"]
#[expect(dead_code, reason = "the tests do more with a lab")]
mod lab;
#[path = "../../tests/kernel_cluster/netns.rs"]
mod netns;
#[path = "../../tests/kernel_cluster/web.rs"]
#[expect(dead_code, reason = "the tests make their requests with it")]
mod web;

use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    // `cargo test --benches` runs this file too, and has no time for it.
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let measure = arguments.iter().any(|argument| argument == "--bench");
    arguments.retain(|argument| argument != "--bench");
    if !measure {
        println!("cluster: measures only under `cargo bench --bench cluster -- PART`");
        return ExitCode::SUCCESS;
    }
    if std::fs::metadata("/proc/self").is_ok_and(|owner| owner.uid() != 0) {
        println!("SKIPPED cluster: a lab needs root");
        return ExitCode::SUCCESS;
    }
    let mut words = arguments.iter().map(String::as_str);
    let part = words.next();
    let options: Vec<&str> = words.collect();
    match part {
        Some("survival") => survival::measure(),
        Some("commit") => commit::measure(),
        Some("blackout") => blackout::measure(&options),
        Some("steady") => steady::measure(&options),
        other => {
            eprintln!(
                "`{}` is no part; say survival, commit, blackout or steady",
                other.unwrap_or_default()
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

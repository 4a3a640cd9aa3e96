//! What a whole cluster does to its clients, measured in labs: `cargo bench --bench cluster -- PART`, as root. The
//! results stand in docs/benchmarks.md. `cargo xtask bench` runs the parts, each by its name.
//!
//! ```text
//!   survival   held and new connections while hosts join, leave, drain, reload, upgrade
//!   crash      whose connections a crash breaks, and how soon their clients learn of it
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
mod crash;
mod load;
mod plot;
mod rivals;
mod sniffer;
mod steady;
mod survival;

#[path = "../common/mod.rs"]
mod common;
#[path = "../../tests/kernel_cluster/echo.rs"]
#[expect(dead_code, reason = "the tests ask more of the probe")]
mod echo;
#[path = "../../../filter/tests/frames/mod.rs"]
mod frames;
#[path = "../../tests/kernel_cluster/lab.rs"]
#[expect(dead_code, reason = "the tests do more with a lab")]
mod lab;
#[path = "../../tests/kernel_cluster/netns.rs"]
mod netns;
#[path = "../../tests/kernel_cluster/web.rs"]
#[expect(dead_code, reason = "the tests make their requests with it")]
mod web;

use lab::Timing;
use std::process::ExitCode;

/// Heartbeat timing, as short as it is written in the documents.
const fn timing(period_ms: u64, tolerance: u32) -> Timing {
    Timing {
        period_ms,
        tolerance,
    }
}

fn main() -> ExitCode {
    if !common::wanted("cluster") {
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words = arguments.iter().map(String::as_str);
    let mut words = words.filter(|word| *word != "--bench");
    let part = words.next();
    let options: Vec<&str> = words.collect();
    match part {
        Some("survival") => survival::measure(&options),
        Some("crash") => crash::measure(),
        Some("commit") => commit::measure(),
        Some("blackout") => blackout::measure(&options),
        Some("steady") => steady::measure(&options),
        other => {
            eprintln!(
                "`{}` is no part; say survival, crash, commit, blackout or steady",
                other.unwrap_or_default()
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

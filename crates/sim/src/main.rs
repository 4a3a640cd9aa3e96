//! The `covey-sim` binary, see [`covey_sim::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    covey_sim::cli::main()
}

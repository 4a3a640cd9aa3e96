//! The `covey` binary. It also answers to the names `wlbs` and `nlb`, see [`covey::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    covey::cli::main()
}

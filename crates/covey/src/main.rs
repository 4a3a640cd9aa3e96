//! The `covey` binary.
mod status;
fn main() {}

//! The `covey` binary.
fn main() {}

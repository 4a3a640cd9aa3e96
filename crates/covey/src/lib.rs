//! Covey's one binary as a library: all I/O lives here, each module for one part of it. `main.rs` only calls
//! in; tests and benchmarks use the modules directly. Map of the modules: docs/design.md, "Layout".

pub mod datapath;
pub mod status;

//! Covey's one binary as a library: the daemon's edge, the command line and the lab. All input and output
//! of the project lives in this crate (docs/design.md, "Layout").

pub mod cli;
pub mod duration;
pub mod lab;
pub mod status;

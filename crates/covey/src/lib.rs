//! covey: the daemon, the command line and the lab; everything of Covey that touches the machine.
//!
//! The decisions live elsewhere, without any I/O: which host takes a packet in `covey-filter`, membership and
//! convergence in `covey-proto`. The modules here feed them and carry out what they answer. The binary is one
//! call to [`cli::main`]; the modules are public for the integration tests.
//! Specification: docs/design.md, "Layout".

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod doctor;
pub mod duration;
pub mod host;
pub mod lab;
pub mod multicast;
pub mod sockets;
pub mod status;
pub mod why;

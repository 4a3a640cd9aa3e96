//! covey-sim: whole clusters with clients and faults, in virtual time.
//!
//! Real hosts are slow to break. Here the real core ([`covey_proto::Cluster`]) and the real filter
//! ([`covey_filter::decide`]) run on simulated machines, thousands of hours in minutes, and the project's promises are
//! checked at every step. A run depends on its scenario and seed alone, so whatever is found can be looked at again.
//!
//! ```text
//!   clients --- segment (bytes) --- machines: kernel with data path, daemon with the core, clock
//!                  |                                  |
//!               faults                             invariants: each promise, at every step
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`scenario`], [`faults`], [`site`], [`span`] | what happens in a run, as data |
//! | [`catalogue`], [`random`] | the named scenarios; a scenario from a seed |
//! | `world`, `daemons`, `steps`, `segment`, `machine`, `kernel`, `tcp`, `client`, `packet`, `clock`, [`rng`] | the simulated world |
//! | `invariant`, `expect` | what must be so |
//! | [`run`], [`shrink`], [`runner`], [`report`], [`pcap`], `log` | runs, their outcomes, many of them |
//! | [`scale`] | how large clusters behave, measured |
//! | [`cli`] | the command line |
//!
//! Specification: docs/design.md.
#![forbid(unsafe_code)]

pub mod catalogue;
pub mod cli;
mod client;
mod clock;
mod daemons;
mod datapath;
mod expect;
pub mod faults;
mod invariant;
mod kernel;
mod log;
mod machine;
mod packet;
pub mod pcap;
pub mod plot;
pub mod random;
pub mod report;
pub mod rng;
pub mod run;
pub mod runner;
pub mod scale;
pub mod scenario;
mod segment;
pub mod shrink;
pub mod site;
pub mod span;
mod steps;
mod tcp;
mod world;

pub use invariant::Violation;

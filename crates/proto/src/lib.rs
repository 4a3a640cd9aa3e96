//! covey-proto: the core of Covey.
#![forbid(unsafe_code)]

pub mod config;
pub mod datapath;
pub mod ids;
pub mod placement;
pub mod rules;
pub mod time;
pub mod wire;

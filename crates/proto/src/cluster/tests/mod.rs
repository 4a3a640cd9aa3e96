//! The state machine as a whole: hosts joined by a virtual segment.

mod agreement;
mod faults;
mod operate;
mod segment;
mod sticky;

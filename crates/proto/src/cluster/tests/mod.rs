//! The state machine as a whole: hosts joined by a virtual segment.

mod agreement;
mod differences;
mod faults;
mod generations;
mod health;
mod lingering;
mod modes;
mod operate;
mod orphans;
mod probing;
mod segment;
mod sticky;
mod strangers;
mod trouble;
mod twins;
mod upgrade;

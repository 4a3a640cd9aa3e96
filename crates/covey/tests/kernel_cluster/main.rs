//! The whole of Covey end to end: clusters of real daemons, the real filter in the real kernel, clients with plain
//! sockets and a capture on the switch, in labs made of network namespaces. Each promise of docs/design.md,
//! "Promises", that one can see from outside is a test here; each test prints its figures in one line
//! (`--nocapture`).
//!
//! ```text
//!   articles   what single articles of the knowledge base tell: outgoing connections, several virtual IPs, other NICs
//!   sharing    one owner for every connection; two hosts; nothing is left after `down`
//!   crash      a crash costs the dead host's share alone, for the detection time; a minimum of buckets moves
//!   fencing    a stalled or dead daemon's host is silent before the others take over
//!   drain      draining, weights: held connections stay where they are
//!   change     leaving, returning, reloading: nothing fails
//!   upgrade    daemons are replaced in place: nothing fails, nobody notices; what becomes of one that cannot go on
//!   operate    stop, suspend, drain, disable with NLB's answers; what was wanted last outlives the daemon
//!   sticky     buckets that are busy wait with their host until they are idle
//!   why        what `covey why` says is what happens; packets are counted by rule
//!   ipv6       the same over IPv6; neighbour discovery, clusters without an IPv4 address
//!   modes      multicast and IGMP mode; a change of mode, host by host, under load
//!   rare       path MTU discovery, fragments and echo requests, over both
//!   multicast  switches that snoop: members get the cluster's frames, others do not, and nobody is forgotten
//!   doctor     what is wrong is named, by all hosts, and nothing else
//!   network    what the hosts find out about the switch and who else is on it
//!   heartbeat  what the switch sees: heartbeats that Wireshark reads, and never the cluster MAC as a source
//! ```
//!
//! They run with the filter where it runs best; `COVEY_TEST_XDP=generic` has it run after the driver.
//! They need root and are listed as ignored without `--ignored`. They run one at a time ([`lab`]) and take
//! about nine minutes in all.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod articles;
mod change;
mod connections;
mod crash;
mod doctor;
mod drain;
mod echo;
mod fencing;
#[path = "../../../filter/tests/frames/mod.rs"]
mod frames;
mod heartbeat;
mod ipv6;
mod lab;
mod modes;
mod multicast;
mod netns;
mod network;
mod operate;
mod rare;
#[path = "../segment/mod.rs"]
mod segment;
mod sharing;
mod sticky;
mod upgrade;
mod web;
mod why;
mod wire;

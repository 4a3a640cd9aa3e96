//! covey-proto: the core of Covey. Who is alive, who owns what, and how the hosts agree on it, without any
//! I/O.
//!
//! A [`Cluster`] is one host's part in a cluster. It has no clock, socket, randomness, thread or log of its
//! own: the daemon gives it frames and the time and carries out what it asks for, and so does the simulator,
//! which is why thousands of simulated hours can be checked in seconds. This is the whole loop:
//!
//! ```
//! use covey_proto::config::{Auth, ClusterConfig, Quorum, SourceMac, Timing};
//! use covey_proto::ids::{HostId, Incarnation, Mac};
//! use covey_proto::rules::RuleSet;
//! use covey_proto::time::Time;
//! use covey_proto::wire::heartbeat::PROTOCOL_VERSION;
//! use covey_proto::{Cluster, Command, Input, Output};
//! use std::time::Duration;
//!
//! let vip = "192.0.2.100".parse().unwrap();
//! let mut cluster = Cluster::new(ClusterConfig {
//!     host: HostId::new(1).unwrap(),
//!     name: "web1".to_owned(),
//!     mac: Mac([2, 0, 0, 0, 0, 1]),
//!     dip: "192.0.2.1".parse().unwrap(),
//!     timing: Timing { period: Duration::from_secs(1), tolerance: 5 },
//!     auth: Auth::None,
//!     rules: RuleSet::new(vec![vip], vec![]).unwrap(),
//!     claims: vec![],
//!     port_states: vec![],
//!     quorum: Quorum::None,
//!     legacy: false,
//!     version: PROTOCOL_VERSION,
//!     unicast_fallback: true,
//!     max_linger: None,
//!     source_mac: SourceMac::Host,
//!     filter_icmp: true,
//!     clock_granularity: Duration::from_millis(4),
//!     incarnation: Incarnation(7),
//! });
//! let (mut now, mut serving_until) = (Time::ZERO, Time::ZERO);
//! cluster.command(now, Command::Start);
//! for _ in 0..20 {
//!     let deadline = loop {
//!         match cluster.poll_output() {
//!             Output::Transmit(_frame) => { /* send it */ }
//!             Output::Stage(_staging) => { /* write it beside the map in force */ }
//!             Output::StagedLease(_until) => { /* how long it may serve by that map */ }
//!             Output::Withdraw => { /* hold nothing ready */ }
//!             Output::Commit => { /* and go over to it */ }
//!             Output::Amend(_image) => { /* change what is in force */ }
//!             Output::Fence => { /* take nothing */ }
//!             Output::Lease(until) => serving_until = until,
//!             Output::CountConnections => { /* look for sockets, and hand them in */ }
//!             Output::Search(_connections) => { /* look for them, and say which are missing */ }
//!             Output::Disown(_map, _connections) => { /* let their segments through */ }
//!             Output::Cut(_connections) => { /* reset them */ }
//!             Output::Unheard => { /* report multicast memberships again */ }
//!             Output::Event(event) => println!("{now:?} {event}"),
//!             Output::Wait(deadline) => break deadline,
//!         }
//!     };
//!     // Wait for a frame, a command or the deadline. Here nobody else speaks.
//!     now = deadline;
//!     cluster.handle_input(now, Input::Timer);
//! }
//! assert!(serving_until > now, "a host that has heard nobody for its tolerance serves alone");
//! ```
//!
//! | module | question it answers |
//! |---|---|
//! | [`ids`], [`time`], [`config`], [`rules`], [`delivery`] | the quantities of the field, and what one host is told |
//! | [`wire`] | what do the bytes of a frame say |
//! | [`cluster`] | who is alive, who may serve, and what is the next map |
//! | [`allotment`], [`placement`] | who should own which bucket |
//! | [`datapath`], [`fragments`] | what follows for each packet on this host |
//! | [`event`] | what should people know |
//!
//! Specification: docs/design.md.
#![forbid(unsafe_code)]

pub mod allotment;
pub mod buckets;
pub mod cluster;
pub mod config;
pub mod datapath;
pub mod delivery;
pub mod event;
pub mod fragments;
pub mod ids;
pub mod placement;
pub mod rules;
pub mod time;
pub mod wire;

pub use cluster::{
    Answer, Cluster, Command, Connection, HostState, Input, Output, PortState, RuleChange,
    RuleScope, Staging, VipScope,
};

//! covey-filter: the rule that decides which host takes a packet.
//!
//! Every host of a cluster receives every packet sent to the cluster. This crate answers, from the bytes
//! of one frame and a few read-only tables, whether *this* host is the one that takes it. The answer exists
//! once: the XDP program (`ebpf/`), the simulator and `covey why` all call [`decide`]. What may leave a host
//! is [`guard`]'s to say.
//!
//! ```text
//!   bytes --parse--> Frame --vip, port--> rule --hash--> bucket --row--> Verdict + Reason
//!         (flow.rs)          (table.rs)         (hash.rs)        (table.rs)
//! ```
//!
//! [`decide`] is [`quick`], which knows the many, and after it [`thorough`], which knows the rest.
//!
//! It is `no_std`, allocates nothing, depends on nothing and has no unbounded loop, because the kernel's
//! verifier must be able to follow it. The cost does not depend on the number of rules, addresses or hosts:
//! one keyed hash and a handful of array loads. Specification: docs/design.md, "Data path".
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod commit;
mod decide;
mod ends;
mod flow;
mod guard;
mod hash;
mod probe;
mod quote;
mod table;
mod thorough;

pub use address::Address;
pub use commit::{COMMIT_RECORD, Control, Token, Word, token};
pub use decide::{Decision, IKE, PPTP, Reason, Verdict, decide, quick};
pub use ends::{Disowned, Ends};
pub use flow::{Datagram, Flow, Fragment, Frame, Malformed, Packet, Ports, Segment, Transport};
pub use guard::{Changes, Correction, Egress, guard};
pub use hash::{Bucket, bucket};
pub use probe::{PROBE_HOPS, PROBE_PROTOCOL, TO_DAEMON};
pub use quote::{Quotation, Quote, Quoted};
pub use table::{
    ALIASES, Affinity, BUCKETS, DEFAULT_RULE, Generation, MAPS, MAX_VIPS, NEIGHBOUR_RULE, NO_RULE,
    PORT_CLASSES, PORT_TABLES, PORTS, RULE_SLOTS, Row, RuleEntry, Settings, Socket, Tables,
    USER_RULES, VIP_SLOTS, VipSlot, vip_slot,
};
pub use thorough::thorough;

/// An Ethernet address, in wire order.
pub type MacBytes = [u8; 6];

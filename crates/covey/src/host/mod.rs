//! What Covey reads from the machine, and what it changes there and puts back.
//!
//! Three things must be so for a host to serve its share: the virtual IPs are its own (IPv4 on `lo`, where no
//! address is announced to the network, IPv6 on the NIC, where alone the kernel answers for it), the NIC takes
//! frames for the cluster MAC, and the kernel answers ARP for addresses on `lo` without ever asking with one. [`HostSetup`] makes it so and undoes exactly
//! that. All netlink requests and all writes to /proc/sys are made here, and all are synchronous: each takes
//! microseconds, and the configuration is also read where no async runtime is at hand.
//!
//! Called by the daemon (setup) and by the configuration (interfaces).
//! Specification: docs/design.md, "Data path".

mod features;
mod inspect;
mod interface;
mod netlink;
mod record;
mod setup;
mod sysctl;

pub use features::{Features, active_features};
pub use inspect::{Inspector, Nic, effective_sysctl};
pub use interface::{Interface, interface_names, neighbours};
pub use setup::{HostSetup, Plan, SetupError};

use std::io;
use std::os::unix::fs::MetadataExt;

/// Where Covey keeps what must not outlive a reboot.
pub const RUN_DIR: &str = "/run/covey";

/// The inode of the network namespace of the calling thread: the namespace's name in /run/covey, in the lab and
/// below /sys/fs/bpf. The thread counts, not the process, because the lab enters namespaces thread by thread.
///
/// # Errors
/// If /proc is not mounted.
pub fn network_namespace() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

//! The settings of an interface that decide how the kernel speaks ARP for addresses on `lo`, whether it speaks IPv6, and
//! what it takes that came to a group.
//!
//! /proc/sys/net shows the network namespace of the thread that opens a file there, so it is right for the
//! lab's daemons too. Used only by [`super::setup`]. Specification: docs/design.md, "Data path".

use std::io;
use std::path::PathBuf;

/// Which addresses ARP questions may name as sender: 2 means never one that is only on `lo`.
pub(super) const ARP_ANNOUNCE: &str = "arp_announce";
/// Which ARP questions are answered: 0 means those for any address of the host, `lo` included; 3 leaves out addresses
/// of scope host.
pub(super) const ARP_IGNORE: &str = "arp_ignore";
/// In the place of an interface: what interfaces begin with that come later.
const DEFAULT: &str = "default";

/// Packets to this host in frames to a group: 1 means that they are dropped (RFC 1122 §3.3.6), for IPv4 and for IPv6.
/// While the filter is there no such frame gets that far; without it, what is sent to a virtual IP must not be answered
/// by every host.
pub(super) const DROP_FROM_GROUP: [&str; 2] = [
    "drop_unicast_in_l2_multicast",
    "ipv6/drop_unicast_in_l2_multicast",
];

/// Reads `net.ipv4.conf.INTERFACE.NAME`, or of another family if the name says so (`ipv6/NAME`).
pub(super) fn read(interface: &str, name: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(path(interface, name))?
        .trim()
        .to_owned())
}

/// Writes it.
pub(super) fn write(interface: &str, name: &str, value: &str) -> io::Result<()> {
    std::fs::write(path(interface, name), value)
}

/// All interfaces but `lo` and this one, and [`DEFAULT`].
pub(super) fn others(interface: &str) -> io::Result<Vec<String>> {
    let directory = std::fs::read_dir("/proc/sys/net/ipv4/conf")?;
    let names = directory.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
    names.retain(|name| !["all", "lo", interface].contains(&name.as_str()));
    names.sort_unstable();
    debug_assert!(names.iter().any(|name| name == DEFAULT));
    Ok(names)
}

/// Whether the kernel speaks IPv6 on an interface: it can at all, and it is not switched off there.
pub(super) fn has_ipv6(interface: &str) -> bool {
    let path: PathBuf = ["/proc/sys/net/ipv6/conf", interface, "disable_ipv6"]
        .iter()
        .collect();
    std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "0")
}

fn path(interface: &str, name: &str) -> PathBuf {
    let (family, name) = name.split_once('/').unwrap_or(("ipv4", name));
    ["/proc/sys/net", family, "conf", interface, name]
        .iter()
        .collect()
}

//! Asks the machine: where the virtual IPs are, what the NIC does, which settings the kernel has, what listens.
//!
//! What cannot be asked is left out, and the checks that need it with it. May block for as long as the kernel takes
//! to list sockets, so the daemon calls it beside its loop. Specification: docs/design.md, "Doctor".

use super::evidence::{Patient, Service};
use super::teaming::{self, Team};
use crate::host::{Features, Inspector, Nic, effective_sysctl};
use crate::sockets;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Addresses that are set aside for documentation: no host has one, so the way there is the way to distant clients.
const DISTANT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const DISTANT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1);

/// Where the kernel shows itself as files.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Where sysfs is mounted, or what stands for it.
    pub sysfs: PathBuf,
    /// Where procfs is.
    pub procfs: PathBuf,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            sysfs: PathBuf::from("/sys"),
            procfs: PathBuf::from("/proc"),
        }
    }
}

/// By which way answers to distant clients leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WayOut {
    /// By this interface.
    By(String),
    /// There is no route.
    Nowhere,
}

/// A machine on the cluster's segment by which answers to distant clients leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its address.
    pub address: IpAddr,
    /// Whether it says its MAC when it is asked.
    pub answers: bool,
}

/// The kernel's settings that count for the cluster's NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sysctls {
    /// `arp_ignore`.
    pub arp_ignore: i64,
    /// `arp_announce`.
    pub arp_announce: i64,
    /// `rp_filter`.
    pub rp_filter: i64,
}

/// How the daemon's process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// It goes before ordinary processes.
    pub first: bool,
    /// Its memory is not swapped out.
    pub locked: bool,
}

/// A machine, as it stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Of whom.
    pub patient: Patient,
    /// The NIC; `None` if there is none of that name.
    pub nic: Option<Nic>,
    /// Whether it takes frames for the cluster MAC.
    pub takes_cluster_mac: Option<bool>,
    /// What it does to received packets.
    pub features: Option<Features>,
    /// The team that it is, or is a port of.
    pub team: Option<Team>,
    /// Which interfaces have each virtual IP.
    pub holders: Vec<(IpAddr, Vec<String>)>,
    /// Addresses of the NIC.
    pub addresses: Vec<IpAddr>,
    /// Whether lo is up.
    pub loopback_up: Option<bool>,
    /// The kernel's settings.
    pub sysctls: Option<Sysctls>,
    /// By which way answers from each virtual IP to distant clients leave.
    pub ways_out: Vec<(IpAddr, WayOut)>,
    /// The gateways of those that leave by the NIC.
    pub gateways: Vec<Gateway>,
    /// Hosts that are not heard and whose machines answer all the same.
    pub lost_and_on: Vec<u8>,
    /// Services for which nothing listens.
    pub unserved: Option<Vec<Service>>,
    /// How the daemon runs.
    pub scheduling: Option<Scheduling>,
    /// Programs that send frames by themselves, if any frames were sent that should not be.
    pub senders: Vec<String>,
}

/// Asks the machine about this host. In the network namespace of the calling thread.
///
/// # Errors
/// If the kernel does not answer at all.
pub fn gather(patient: &Patient, sources: &Sources) -> io::Result<Machine> {
    let kernel = Inspector::open()?;
    let interface = patient.interface.as_str();
    let nic = kernel.nic(interface)?;
    let takes_cluster_mac = |nic: &Nic| kernel.takes_mac(nic, patient.cluster_mac?).ok();
    let mut gateways = BTreeSet::new();
    let mut way_out = |vip: &IpAddr| {
        let distant = match vip {
            IpAddr::V4(_) => DISTANT.into(),
            IpAddr::V6(_) => DISTANT6.into(),
        };
        // The kernel says nothing of sources that are not its own.
        let known = !kernel.holders(*vip).is_empty();
        let way = known.then(|| kernel.way_out(*vip, distant).ok())??;
        let Some(way) = way else {
            return Some((*vip, WayOut::Nowhere));
        };
        if way.interface == interface {
            gateways.extend(way.gateway);
        }
        Some((*vip, WayOut::By(way.interface)))
    };
    let ways_out = patient.vips.iter().filter_map(&mut way_out).collect();
    let lost = patient.silent.iter();
    let asked: Vec<IpAddr> = gateways
        .iter()
        .copied()
        .chain(lost.map(|(_, address)| *address))
        .collect();
    let answering = nic
        .as_ref()
        .and_then(|nic| kernel.answering(nic, &asked).ok());
    let answers = |address: &IpAddr| Some(answering.as_ref()?.contains(address));
    let gateway = |address| {
        let answers = answers(&address)?;
        Some(Gateway { address, answers })
    };
    let lost = patient.silent.iter();
    let lost_and_on = lost.filter(|(_, address)| answers(address) == Some(true));
    let holders = |vip: &IpAddr| (*vip, kernel.holders(*vip));
    let loopback = kernel.nic("lo").ok().flatten();
    Ok(Machine {
        takes_cluster_mac: nic.as_ref().and_then(takes_cluster_mac),
        features: Features::of(interface).ok(),
        team: nic
            .as_ref()
            .and_then(|nic| teaming::look(&sources.sysfs, interface, nic)),
        holders: patient.vips.iter().map(holders).collect(),
        addresses: kernel.addresses_of(interface),
        loopback_up: loopback.map(|lo| lo.up),
        sysctls: sysctls(interface),
        ways_out,
        gateways: gateways.iter().copied().filter_map(gateway).collect(),
        lost_and_on: lost_and_on.map(|(host, _)| *host).collect(),
        unserved: sockets::listeners()
            .ok()
            .map(|listeners| unserved(&patient.services, &listeners)),
        scheduling: patient
            .daemon
            .and_then(|daemon| scheduling(&sources.procfs, daemon)),
        senders: match patient.leaks {
            true => senders(&sources.procfs, patient.daemon),
            false => Vec::new(),
        },
        nic,
        patient: patient.clone(),
    })
}

fn sysctls(interface: &str) -> Option<Sysctls> {
    let read = |name: &str| effective_sysctl(interface, name).ok();
    Some(Sysctls {
        arp_ignore: read("arp_ignore")?,
        arp_announce: read("arp_announce")?,
        rp_filter: read("rp_filter")?,
    })
}

/// The services of which no port has a listener on an address of theirs.
pub(super) fn unserved(services: &[Service], listeners: &[SocketAddr]) -> Vec<Service> {
    let is_served = |service: &&Service| {
        listeners.iter().any(|listener| {
            let fits = |vip: &IpAddr| takes(listener.ip(), *vip);
            service.ports.contains(&listener.port()) && service.vips.iter().any(fits)
        })
    };
    let alone = services.iter().filter(|service| !is_served(service));
    alone.cloned().collect()
}

/// Whether a listener at this address is there for connections to a virtual IP. One at the IPv6 wildcard is there for
/// both families, unless it says otherwise, which is not asked.
fn takes(listener: IpAddr, vip: IpAddr) -> bool {
    listener == vip || (listener.is_unspecified() && (listener.is_ipv6() || vip.is_ipv4()))
}

/// By /proc/PID: the policy is field 41 of `stat` (0 is the ordinary one), locked memory is a line of `status`.
fn scheduling(procfs: &Path, process: u32) -> Option<Scheduling> {
    let directory = procfs.join(process.to_string());
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    // The second field is the program's name in parentheses, with whatever it has in it.
    let (_, fields) = stat.rsplit_once(')')?;
    let policy: u32 = fields.split_whitespace().nth(41 - 3)?.parse().ok()?;
    let status = fs::read_to_string(directory.join("status")).ok()?;
    let locked = status
        .lines()
        .find_map(|line| line.strip_prefix("VmLck:"))?;
    let locked = locked.trim().trim_end_matches("kB").trim();
    Some(Scheduling {
        first: policy != 0,
        locked: locked != "0",
    })
}

/// The programs that have packet sockets, but for the daemon: `NAME (PID)`. /proc/net/packet has the inodes, in its last
/// column, and the open files of processes are links to them.
fn senders(procfs: &Path, daemon: Option<u32>) -> Vec<String> {
    let table = fs::read_to_string(procfs.join("thread-self/net/packet")).unwrap_or_default();
    let sockets: BTreeSet<String> = table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().last())
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir(procfs).into_iter().flatten().flatten();
    let found = processes.filter_map(|process| {
        let number: u32 = process.file_name().to_str()?.parse().ok()?;
        let files = fs::read_dir(process.path().join("fd")).ok()?;
        let is_one = files.flatten().any(|file| {
            let target = fs::read_link(file.path()).unwrap_or_default();
            sockets.contains(target.to_string_lossy().as_ref())
        });
        let name = fs::read_to_string(process.path().join("comm")).ok()?;
        (is_one && Some(number) != daemon).then(|| format!("{} ({number})", name.trim()))
    });
    let mut found: Vec<String> = found.collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(rule: u8, ports: std::ops::RangeInclusive<u16>, vips: &[&str]) -> Service {
        Service {
            rule,
            vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
            ports,
        }
    }

    fn found(services: &[Service], listeners: &[&str]) -> Vec<u8> {
        let listeners: Vec<_> = listeners.iter().map(|at| at.parse().unwrap()).collect();
        let found = unserved(services, &listeners);
        found.iter().map(|service| service.rule).collect()
    }

    #[test]
    fn a_listener_on_a_virtual_ip_or_on_all_addresses_serves() {
        let vips = ["10.77.0.100", "fd77::100"];
        let services = [service(1, 80..=80, &vips), service(2, 1000..=2000, &vips)];
        for (listeners, missing) in [
            (&["0.0.0.0:80", "[::]:1500"][..], &[][..]),
            (&["10.77.0.100:80", "[fd77::100]:1000"], &[]),
            (&["127.0.0.1:80", "0.0.0.0:2001"], &[1, 2]),
            (&["10.77.0.1:80", "0.0.0.0:2000"], &[1]),
            (&[], &[1, 2]),
        ] {
            assert_eq!(found(&services, listeners), missing, "{listeners:?}");
        }
    }

    #[test]
    fn a_rule_for_one_address_wants_a_listener_there() {
        let both = [
            service(1, 80..=80, &["10.77.0.100"]),
            service(2, 80..=80, &["fd77::100"]),
        ];
        assert_eq!(found(&both, &["10.77.0.100:80"]), [2]);
        assert_eq!(found(&both, &["0.0.0.0:80"]), [2]);
        assert_eq!(found(&both, &["[::]:80"]), [0; 0]);
    }

    #[test]
    fn this_process_is_an_ordinary_one() {
        let how = scheduling(Path::new("/proc"), std::process::id()).unwrap();
        assert!(!how.first, "{how:?}");
    }
}

//! Checks of the NIC and of the kernel's settings around it.

use super::{Looked, found};
use crate::doctor::evidence::Evidence;
use crate::doctor::machine::WayOut;
use crate::doctor::{Finding, Kind};
use std::net::IpAddr;

pub(super) fn link(evidence: &Evidence) -> Looked {
    let machine = evidence.machine.as_ref()?;
    let name = &machine.patient.interface;
    let what = match &machine.nic {
        Some(nic) if nic.up => return Some(Vec::new()),
        Some(_) => format!("{name} is switched off or has no carrier."),
        None => format!("There is no network interface {name} in this network namespace."),
    };
    found(Some(Finding::new(Kind::LinkDown, what)))
}

pub(super) fn filter(evidence: &Evidence) -> Looked {
    evidence.status()?;
    let machine = evidence.machine.as_ref()?;
    let nic = machine.nic.as_ref()?;
    let name = &machine.patient.interface;
    found((!nic.has_xdp).then(|| {
        Finding::new(
            Kind::FilterDetached,
            format!("The daemon runs, and no XDP program is attached to {name}."),
        )
    }))
}

pub(super) fn attachment(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let attach = &status.datapath.attach;
    let interface = &status.host.interface;
    found((attach == "generic").then(|| {
        Finding::new(
            Kind::GenericXdp,
            format!(
                "The filter runs in the kernel's generic XDP on {interface}, after the driver."
            ),
        )
    }))
}

pub(super) fn cluster_mac(evidence: &Evidence) -> Looked {
    evidence.status()?;
    let machine = evidence.machine.as_ref()?;
    let (name, mac) = (&machine.patient.interface, machine.patient.cluster_mac?);
    let takes = machine.takes_cluster_mac?;
    found((!takes).then(|| {
        Finding::new(
            Kind::ClusterMacRefused,
            format!("{name} is not set to take frames for the cluster MAC {mac}."),
        )
        .seen(format!(
            "bridge fdb show dev {name} does not list it: something has removed it"
        ))
        .cure(format!(
            "Restart the daemon, or add it by hand: bridge fdb add {mac} dev {name} self permanent."
        ))
    }))
}

pub(super) fn teaming(evidence: &Evidence) -> Looked {
    let machine = evidence.machine.as_ref()?;
    let name = &machine.patient.interface;
    found(machine.team.as_ref().map(|team| {
        let mut finding = Finding::new(
            Kind::Teaming,
            format!("{name} belongs to a team of NICs, whose driver decides about MACs by itself."),
        );
        finding.evidence.clone_from(&team.seen);
        finding
    }))
}

pub(super) fn receive_offload(evidence: &Evidence) -> Looked {
    let machine = evidence.machine.as_ref()?;
    let (name, features) = (&machine.patient.interface, machine.features?);
    let (what, off) = match (features.lro, features.gro_hw) {
        (false, false) => return Some(Vec::new()),
        (true, false) => ("large receive offload", "lro off"),
        (false, true) => ("receive coalescing in hardware", "rx-gro-hw off"),
        (true, true) => (
            "large receive offload and receive coalescing in hardware",
            "lro off rx-gro-hw off",
        ),
    };
    found(Some(
        Finding::new(
            Kind::LargeReceiveOffload,
            format!("{name} has {what} on, so the filter does not see packets as they were sent."),
        )
        .cure(format!(
            "Switch it off: ethtool -K {name} {off}, and make it last in the machine's network configuration."
        )),
    ))
}

/// Where a virtual IP belongs.
fn home<'a>(vip: &IpAddr, interface: &'a str) -> &'a str {
    match vip {
        IpAddr::V4(_) => "lo",
        IpAddr::V6(_) => interface,
    }
}

pub(super) fn vips(evidence: &Evidence) -> Looked {
    evidence.status()?;
    let machine = evidence.machine.as_ref()?;
    let interface = &machine.patient.interface;
    let finding = |(vip, holders): &(IpAddr, Vec<String>)| {
        let home = home(vip, interface);
        if holders.iter().any(|holder| holder == home) {
            return None;
        }
        let (length, options) = match vip {
            IpAddr::V4(_) => (32, ""),
            IpAddr::V6(_) => (128, " nodad noprefixroute preferred_lft 0"),
        };
        let elsewhere = match holders.as_slice() {
            [] => "no interface has it".to_owned(),
            some => format!("it is on {}", some.join(" and ")),
        };
        let finding = Finding::new(
            Kind::VipMissing,
            format!(
                "The virtual IP {vip} is not an address of {home}, so this host drops what it should answer."
            ),
        );
        Some(finding.about(vip).seen(elsewhere).cure(format!(
            "Put it back (ip address add {vip}/{length} dev {home}{options}) or restart the daemon, and find what removed it: \
             network managers do, if they were not told to leave {home} alone."
        )))
    };
    Some(machine.holders.iter().filter_map(finding).collect())
}

pub(super) fn vips_elsewhere(evidence: &Evidence) -> Looked {
    let machine = evidence.machine.as_ref()?;
    let interface = &machine.patient.interface;
    let wrong = machine.holders.iter().flat_map(|(vip, holders)| {
        let home = home(vip, interface);
        let elsewhere = holders.iter().filter(move |holder| *holder != home);
        elsewhere.map(move |holder| (vip, holder))
    });
    let finding = |(vip, holder): (&IpAddr, &String)| {
        Finding::new(
            Kind::VipElsewhere,
            format!("The virtual IP {vip} is an address of {holder}."),
        )
        .about(vip)
        .cure(format!(
            "Remove it there (ip address del {vip} dev {holder}, with the prefix length it has) and from the machine's network \
             configuration: covey adds the virtual IPs by itself."
        ))
    };
    Some(wrong.map(finding).collect())
}

fn has_ipv4(vips: &[IpAddr]) -> bool {
    vips.iter().any(IpAddr::is_ipv4)
}

pub(super) fn loopback(evidence: &Evidence) -> Looked {
    let machine = evidence.machine.as_ref()?;
    let down = !machine.loopback_up? && has_ipv4(&machine.patient.vips);
    found(down.then(|| {
        Finding::new(
            Kind::LoopbackDown,
            "lo is down, so the IPv4 virtual IPs on it do not work.",
        )
    }))
}

pub(super) fn own_ipv6(evidence: &Evidence) -> Looked {
    let machine = evidence.machine.as_ref()?;
    let vips = &machine.patient.vips;
    if !vips.iter().any(IpAddr::is_ipv6) {
        return None;
    }
    let has_own = machine.addresses.iter().any(|address| match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(own) => !own.is_unicast_link_local() && !vips.contains(address),
    });
    let name = &machine.patient.interface;
    found((!has_own).then(|| {
        Finding::new(
            Kind::NoOwnIpv6,
            format!(
                "{name} has no IPv6 address of its own in any network, and the cluster has IPv6 virtual IPs."
            ),
        )
    }))
}

pub(super) fn arp_settings(evidence: &Evidence) -> Looked {
    let machine = evidence.machine.as_ref()?;
    let sysctls = machine.sysctls?;
    if !has_ipv4(&machine.patient.vips) {
        return None;
    }
    let name = &machine.patient.interface;
    let mut wrong = Vec::new();
    if sysctls.arp_ignore != 0 {
        wrong.push(
            Finding::new(
                Kind::SysctlArp,
                format!("arp_ignore is {} on {name}, so this host does not answer ARP for the virtual IPs on lo.", sysctls.arp_ignore),
            )
            .about("arp_ignore")
            .seen(format!("the greater of net.ipv4.conf.all.arp_ignore and net.ipv4.conf.{name}.arp_ignore counts"))
            .cure(format!("Set both to 0: sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.{name}.arp_ignore=0. Look in /etc/sysctl.d: settings for LVS direct routing are the opposite.")),
        );
    }
    // The daemon sets it, so before it runs nothing is wrong.
    if evidence.status().is_some() && sysctls.arp_announce < 2 {
        wrong.push(
            Finding::new(
                Kind::SysctlArp,
                format!("arp_announce is {} on {name}, so this host may ask other machines for their MACs in the name of a virtual IP.", sysctls.arp_announce),
            )
            .about("arp_announce")
            .seen("the daemon has set it to 2: something has changed it since")
            .cure(format!("Set it to 2: sysctl -w net.ipv4.conf.{name}.arp_announce=2.")),
        );
    }
    Some(wrong)
}

/// The way out of the first IPv4 virtual IP.
fn way_out_ipv4(evidence: &Evidence) -> Option<&WayOut> {
    let ways = &evidence.machine.as_ref()?.ways_out;
    let found = ways.iter().find(|(vip, _)| vip.is_ipv4());
    found.map(|(_, way)| way)
}

pub(super) fn reverse_path(evidence: &Evidence) -> Looked {
    const STRICT: i64 = 1;
    let machine = evidence.machine.as_ref()?;
    let way = way_out_ipv4(evidence)?;
    let name = &machine.patient.interface;
    let why = match way {
        WayOut::By(way) if way == name => return Some(Vec::new()),
        WayOut::By(way) => format!("answers to distant clients would leave by {way}"),
        WayOut::Nowhere => "there is no route to distant clients".to_owned(),
    };
    let strict = machine.sysctls?.rp_filter == STRICT;
    found(strict.then(|| {
        Finding::new(
            Kind::RpFilter,
            format!("rp_filter is 1 (strict) on {name}, and {why}: the kernel drops what distant clients send."),
        )
        .seen(format!("the greater of net.ipv4.conf.all.rp_filter and net.ipv4.conf.{name}.rp_filter counts"))
        .cure(format!(
            "Set net.ipv4.conf.{name}.rp_filter to 2 (sysctl -w), or give this host a default route by {name}."
        ))
    }))
}

pub(super) fn ways_out(evidence: &Evidence) -> Looked {
    let machine = evidence.machine.as_ref()?;
    let name = &machine.patient.interface;
    let finding = |(vip, way): &(IpAddr, WayOut)| match way {
        WayOut::By(way) if way != name => {
            let what =
                format!("Answers of {vip} to distant clients leave by {way}, not by {name}.");
            Some(Finding::new(Kind::RepliesByAnotherNic, what).about(vip))
        }
        WayOut::By(_) | WayOut::Nowhere => None,
    };
    Some(machine.ways_out.iter().filter_map(finding).collect())
}

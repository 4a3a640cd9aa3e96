//! What the data path of one host must hold: the image that the daemon writes into the BPF maps and that
//! the simulator, `covey why` and the tests read directly.
//!
//! The core says *who owns which bucket* ([`Placement`]); this file turns it into *what this host does with
//! each packet*, in the layout of [`covey_filter`]. Specification: docs/design.md, "Data path".

use crate::buckets::BucketSet;
use crate::config::{ClusterConfig, SourceMac};
use crate::delivery::derived_macs;
use crate::fragments::Fragments;
use crate::ids::{Digest, HostId, HostSet, Mac};
use crate::placement::{Map, Placement};
use crate::rules::{FilterMode, PortRule, Protocol, RuleSet};
use covey_filter::{
    ALIASES, Address, Affinity, BUCKETS, DEFAULT_RULE, Datagram, Flow, IKE, NEIGHBOUR_RULE,
    PORT_CLASSES, PORTS, RULE_SLOTS, Row, RuleEntry, Segment, Settings, Socket, Tables, VIP_SLOTS,
    VipSlot, vip_slot,
};
use std::net::IpAddr;

/// All tables of one generation, in ordinary memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The settings.
    pub settings: Settings,
    /// [`VIP_SLOTS`] slots.
    pub vips: Vec<VipSlot>,
    /// The class of each of the [`PORTS`] ports.
    pub port_classes: Vec<u8>,
    /// Distinct port tables: rule index by port class.
    pub port_tables: Vec<[u8; PORT_CLASSES]>,
    /// [`RULE_SLOTS`] rules.
    pub rules: Vec<RuleEntry>,
    /// Distinct maps as this host sees them, [`BUCKETS`] rows each.
    pub rows: Vec<Vec<u8>>,
}

impl Image {
    /// The image of a host that takes nothing, but whose tables are sound.
    pub fn fenced(identity: &Identity, rules: &RuleSet) -> Self {
        Self::build(
            identity,
            rules,
            &Placement::unowned(rules.rules().len()),
            HostSet::EMPTY,
            None,
        )
    }

    /// The image of a host that serves its share of `placement`. `view` are the members, for the choice of
    /// the second host that answers ARP.
    pub fn serving(
        identity: &Identity,
        rules: &RuleSet,
        placement: &Placement,
        view: HostSet,
        overlap: &Overlap<'_>,
    ) -> Self {
        Self::build(identity, rules, placement, view, Some(overlap))
    }

    /// The same tables, for frames that come under these MACs as well: those that the cluster has had, or will have.
    /// Beyond [`ALIASES`] the last do not count.
    #[must_use]
    pub fn also_for(mut self, macs: &[Mac]) -> Self {
        self.settings.aliases = aliases(Mac(self.settings.cluster_mac), macs);
        self
    }

    /// The same tables, as those of a map.
    pub const fn of_map(mut self, map: Digest) -> Self {
        self.settings.map = map.0;
        self
    }

    fn build(
        identity: &Identity,
        rules: &RuleSet,
        placement: &Placement,
        view: HostSet,
        overlap: Option<&Overlap<'_>>,
    ) -> Self {
        let serving = overlap.is_some();
        let overlap = overlap.unwrap_or(&Overlap::NONE);
        let (ranges, port_classes) = port_classes(rules.rules());
        let mut port_tables = Vec::new();
        let per_vip: Vec<(IpAddr, [u16; 2])> = rules
            .vips()
            .iter()
            .map(|vip| {
                let tables = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
                    let table = port_table(rules.rules(), &ranges, *vip, protocol);
                    intern(&mut port_tables, table)
                });
                (*vip, tables)
            })
            .collect();
        let (vip_seed, vips) = vip_table(&per_vip);
        let delivery = rules.delivery();
        let source = delivery.source(identity.host, identity.mac, identity.source_mac);
        Self {
            settings: Settings {
                hash_key: identity.hash_key,
                vip_seed,
                map: 0,
                cluster_mac: delivery.mac().0,
                aliases: aliases(delivery.mac(), &derived_macs(rules.primary())),
                host_mac: identity.mac.0,
                source_mac: source.0,
                serving: u8::from(serving),
                icmp_to_all: u8::from(!identity.filter_icmp),
                pad: [0; 6],
            },
            vips,
            port_classes,
            port_tables,
            rules: rule_table(rules.rules(), placement, overlap.cut),
            rows: placement
                .maps()
                .iter()
                .map(|map| rows(map, identity.host, view, overlap))
                .collect(),
        }
    }
}

/// Where connections are that do not follow the placement.
#[derive(Clone, Copy)]
pub struct Overlap<'a> {
    /// Foreign buckets in which this host may have connections.
    pub lingering: &'a BucketSet,
    /// Buckets in which other hosts may have connections.
    pub shared: &'a BucketSet,
    /// Rules whose connections this host has given up.
    pub cut: &'a dyn Fn(&PortRule) -> bool,
}

impl Overlap<'_> {
    /// Every connection is where its bucket is.
    pub const NONE: Self = Self {
        lingering: &BucketSet::EMPTY,
        shared: &BucketSet::EMPTY,
        cut: &|_| false,
    };
}

/// Who this host is, as far as the data path cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// This host.
    pub host: HostId,
    /// Its NIC's MAC.
    pub mac: Mac,
    /// What frames that leave for a virtual IP are to have as their Ethernet source.
    pub source_mac: SourceMac,
    /// Whether the default host alone takes ICMP that is no error.
    pub filter_icmp: bool,
    /// Key of the bucket hash, the same on all hosts.
    pub hash_key: [u64; 2],
}

impl From<&ClusterConfig> for Identity {
    fn from(config: &ClusterConfig) -> Self {
        Self {
            host: config.host,
            mac: config.mac,
            source_mac: config.source_mac,
            filter_icmp: config.filter_icmp,
            hash_key: config.auth.hash_key(&config.rules),
        }
    }
}

/// The other MACs for the settings. What is left over repeats the cluster's own.
fn aliases(cluster: Mac, macs: &[Mac]) -> [[u8; 6]; ALIASES] {
    let mut aliases = [cluster.0; ALIASES];
    let others = (0..).zip(macs).filter(|&(index, mac)| {
        let before: &[Mac] = &macs[..index];
        *mac != cluster && !before.contains(mac)
    });
    for (alias, (_, mac)) in aliases.iter_mut().zip(others) {
        *alias = mac.0;
    }
    aliases
}

/// IKE and ESP in UDP, behind an address translator (RFC 3947).
const NAT_TRAVERSAL: u16 = 4500;

/// Cuts the ports where some rule starts or ends, and round that of NAT traversal. Returns the first port of each range and the class (number
/// of the range) of each port. Between two cuts, every rule covers either all ports or none.
fn port_classes(rules: &[PortRule]) -> (Vec<u16>, Vec<u8>) {
    let mut first: Vec<u16> = [0, NAT_TRAVERSAL, NAT_TRAVERSAL + 1]
        .into_iter()
        .chain(rules.iter().map(|rule| rule.start))
        .chain(rules.iter().filter_map(|rule| rule.end.checked_add(1)))
        .collect();
    first.sort_unstable();
    first.dedup();
    let mut classes = vec![0; PORTS];
    for (class, start) in (0u8..).zip(&first) {
        classes[usize::from(*start)..].fill(class);
    }
    (first, classes)
}

/// Index of `table` among the distinct ones, added if it is new.
fn intern(tables: &mut Vec<[u8; PORT_CLASSES]>, table: [u8; PORT_CLASSES]) -> u16 {
    let index = tables
        .iter()
        .position(|known| *known == table)
        .unwrap_or_else(|| {
            tables.push(table);
            tables.len() - 1
        });
    u16::try_from(index).expect("at most two tables per virtual IP")
}

/// Rule index by port class: rules for this address win over rules for all. NAT traversal goes on with what IKE began,
/// so a rule that covers IKE covers it too, and a tunnel is where its negotiation was.
fn port_table(
    rules: &[PortRule],
    first: &[u16],
    vip: IpAddr,
    protocol: Protocol,
) -> [u8; PORT_CLASSES] {
    let mut table = [DEFAULT_RULE; PORT_CLASSES];
    for scope in [None, Some(vip)] {
        for (index, rule) in (1..).zip(rules) {
            if rule.vip == scope && rule.protocol.overlaps(protocol) {
                for (entry, port) in table.iter_mut().zip(first) {
                    if (rule.start..=rule.end).contains(port) {
                        *entry = index;
                    }
                }
            }
        }
    }
    if protocol == Protocol::Udp {
        let class_of = |port| first.partition_point(|start| *start <= port) - 1;
        match table[class_of(IKE)] {
            DEFAULT_RULE => {}
            rule => table[class_of(NAT_TRAVERSAL)] = rule,
        }
    }
    table
}

/// Finds a seed under which all virtual IPs have slots of their own, and fills the slots. With 64 addresses
/// in 1024 slots a seed fits with probability 0.13, so a few dozen tries are enough.
fn vip_table(vips: &[(IpAddr, [u16; 2])]) -> (u64, Vec<VipSlot>) {
    let unused = VipSlot {
        address: Address::UNSPECIFIED,
        tcp: 0,
        udp: 0,
        pad: 0,
    };
    (1u64..)
        .map(|try_number| try_number.wrapping_mul(0xD6E8_FEB8_6659_FD93))
        .find_map(|seed| {
            let mut slots = vec![unused; VIP_SLOTS];
            for (vip, [tcp, udp]) in vips {
                let address = Address::from(*vip);
                let slot = &mut slots[vip_slot(seed, address)];
                if *slot != unused {
                    return None;
                }
                *slot = VipSlot {
                    address,
                    tcp: *tcp,
                    udp: *udp,
                    pad: 0,
                };
            }
            Some((seed, slots))
        })
        .expect("different addresses are told apart by some seed")
}

fn rule_table(
    rules: &[PortRule],
    placement: &Placement,
    cut: &dyn Fn(&PortRule) -> bool,
) -> Vec<RuleEntry> {
    let unused = RuleEntry {
        disabled: 1,
        affinity: 0,
        map: 0,
        cut: 0,
        sticky: 0,
        pad: [0; 3],
    };
    let entry = |index: u8, affinity: Affinity| RuleEntry {
        disabled: 0,
        affinity: affinity as u8,
        map: placement.map_of(index),
        ..unused
    };
    let mut table = vec![unused; RULE_SLOTS];
    for index in [DEFAULT_RULE, NEIGHBOUR_RULE] {
        table[usize::from(index)] = entry(index, Affinity::Single);
    }
    for (index, rule) in (1u8..).zip(rules) {
        let (disabled, affinity) = match rule.mode {
            FilterMode::Multiple { affinity } => (false, affinity),
            FilterMode::Single => (false, Affinity::Single),
            FilterMode::Disabled => (true, Affinity::Single),
        };
        table[usize::from(index)] = RuleEntry {
            disabled: u8::from(disabled),
            cut: u8::from(cut(rule)),
            sticky: u8::from(rule.sticky.is_some()),
            ..entry(index, affinity)
        };
    }
    table
}

/// A map as one host sees it. ARP is answered by the bucket's owner and by the member after it, so that one
/// lost host or one lost frame does not leave a client without an answer.
fn rows(map: &Map, me: HostId, view: HostSet, overlap: &Overlap<'_>) -> Vec<u8> {
    let successor = |owner: HostId| view.iter().find(|host| *host > owner).or(view.lowest());
    let row_of: Vec<u8> = (0..=crate::ids::MAX_HOSTS)
        .map(|owner| match HostId::new(owner) {
            Some(owner) if owner == me => Row::MINE | Row::ANSWERS,
            Some(owner) if successor(owner) == Some(me) => Row::ANSWERS,
            Some(_) | None => 0,
        })
        .collect();
    (0..BUCKETS)
        .map(|bucket| {
            let row = row_of[usize::from(map.owner_byte(bucket))];
            if Row(row).is_mine() {
                row | (u8::from(overlap.shared.contains(bucket)) * Row::SHARED)
            } else {
                row | (u8::from(overlap.lingering.contains(bucket)) * Row::LINGERING)
            }
        })
        .collect()
}

/// An image, the state of the lease, the sockets and the fragments: all that [`covey_filter::decide()`] needs.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The tables.
    pub image: &'a Image,
    /// Whether the lease runs.
    pub lease_holds: bool,
    /// The host's socket table; [`no_sockets`] if it has none.
    pub sockets: &'a dyn Fn(&Flow, &Segment) -> Socket,
    /// The first fragments that it has met; none if it has no memory of them.
    pub fragments: Option<&'a Fragments>,
}

/// The socket table of a host without connections.
pub fn no_sockets(_: &Flow, _: &Segment) -> Socket {
    Socket::None
}

impl Tables for View<'_> {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.image.settings)
    }
    fn vip(&self, slot: usize) -> Option<&VipSlot> {
        self.image.vips.get(slot)
    }
    fn rule_at(&self, table: u16, port: u16) -> Option<u8> {
        let class = self.image.port_classes[usize::from(port)];
        self.image
            .port_tables
            .get(usize::from(table))
            .map(|rules| rules[usize::from(class)])
    }
    fn rule(&self, index: u8) -> Option<&RuleEntry> {
        self.image.rules.get(usize::from(index))
    }
    fn row(&self, map: u8, bucket: u16) -> Option<Row> {
        self.image
            .rows
            .get(usize::from(map))
            .map(|rows| Row(rows[usize::from(bucket)]))
    }
    fn socket(&self, flow: &Flow, segment: &Segment) -> Socket {
        (self.sockets)(flow, segment)
    }
    fn took_first(&self, datagram: &Datagram) -> Option<bool> {
        self.fragments?.took_first(datagram)
    }
    fn note_first(&self, datagram: &Datagram, taken: bool) {
        if let Some(fragments) = self.fragments {
            fragments.note_first(datagram, taken);
        }
    }
    fn lease_holds(&self) -> bool {
        self.lease_holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 3]);

    fn rule(protocol: Protocol, start: u16, end: u16) -> PortRule {
        PortRule {
            vip: None,
            start,
            end,
            protocol,
            mode: FilterMode::Multiple {
                affinity: crate::rules::Affinity::Single,
            },
            sticky: None,
        }
    }

    fn image(rules: Vec<PortRule>) -> (IpAddr, Image) {
        let vip = "10.77.0.100".parse().unwrap();
        let rules = RuleSet::new(vec![vip], rules).unwrap();
        let identity = Identity {
            host: HostId::new(3).unwrap(),
            mac: MAC,
            source_mac: SourceMac::Host,
            filter_icmp: false,
            hash_key: [1, 2],
        };
        (vip, Image::fenced(&identity, &rules))
    }

    /// The rule that covers a port.
    fn covering(rules: Vec<PortRule>, protocol: Protocol, port: u16) -> u8 {
        let (vip, image) = image(rules);
        let slot = image.vips[vip_slot(image.settings.vip_seed, vip.into())];
        let table = match protocol {
            Protocol::Udp => slot.udp,
            Protocol::Tcp | Protocol::Both => slot.tcp,
        };
        image.port_tables[usize::from(table)][usize::from(image.port_classes[usize::from(port)])]
    }

    #[test]
    fn nat_traversal_goes_with_ike_if_a_rule_covers_that() {
        use Protocol::{Both, Tcp, Udp};
        for (rules, expected) in [
            (vec![rule(Udp, 500, 500)], [0, 1, 0]),
            (vec![rule(Udp, 500, 500), rule(Both, 4000, 5000)], [2, 1, 2]),
            (vec![rule(Udp, 4500, 4500)], [0, 1, 0]),
            (vec![rule(Tcp, 500, 500)], [0, 0, 0]),
            (vec![rule(Both, 0, 65535)], [1, 1, 1]),
            (vec![], [0, 0, 0]),
        ] {
            let of = |protocol, port| covering(rules.clone(), protocol, port);
            assert_eq!([of(Udp, 4499), of(Udp, 4500), of(Udp, 4501)], expected);
            let tcp = rules
                .iter()
                .position(|rule| rule.overlaps(&self::rule(Tcp, 4500, 4500)));
            assert_eq!(usize::from(of(Tcp, 4500)), tcp.map_or(0, |index| index + 1));
        }
    }

    #[test]
    fn settings_say_what_was_configured() {
        let (_, image) = image(Vec::new());
        assert_eq!(image.settings.icmp_to_all, 1);
        assert_eq!(image.settings.source_mac, MAC.0);
    }
}

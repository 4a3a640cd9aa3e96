//! A cluster of hosts as nothing but their tables, for the tests of covey-filter.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its share.

use covey_filter::*;
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const CLUSTER_MAC: MacBytes = [0x02, 0xBF, 10, 77, 0, 100];
/// The cluster may have this MAC too, a group's.
pub const GROUP_MAC: MacBytes = [0x03, 0xBF, 10, 77, 0, 100];
/// And it had this one.
pub const FORMER_MAC: MacBytes = [0x02, 0, 0, 0, 9, 9];
pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, 0x100);
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, 0x200);
pub const OTHER4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 99);
pub const OTHER6: Ipv6Addr = Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, 0x99);

/// TCP 80 and 443: rule 1, affinity none. UDP 500 to 600: rule 2, affinity single. TCP 25: rule 3, disabled. TCP
/// 8080: rule 4, affinity network. The rest: the default rule, all of it host 1's.
pub const PORT_RULES: [(bool, u16, u16, u8); 5] = [
    (true, 80, 80, 1),
    (true, 443, 443, 1),
    (false, 500, 600, 2),
    (true, 25, 25, 3),
    (true, 8080, 8080, 4),
];

pub struct Host {
    pub tables: Box<Generation>,
    pub lease: bool,
    /// What its socket table has for every connection.
    pub socket: Socket,
    /// The first fragments that it has met, the newest last.
    pub firsts: RefCell<Vec<(Datagram, bool)>>,
}

pub fn host_mac(number: usize) -> MacBytes {
    [0x02, 0, 0, 0, 1, number as u8]
}

/// Hosts 1 to `count`, bucket b owned by host `1 + b % count`, answered for by it and the next.
pub fn hosts(count: usize) -> Vec<Host> {
    (0..count).map(|index| host(index, count)).collect()
}

fn host(index: usize, count: usize) -> Host {
    let unused = VipSlot {
        address: Address::UNSPECIFIED,
        tcp: 0,
        udp: 0,
        pad: 0,
    };
    let rule = |disabled: bool, affinity: Affinity, map| RuleEntry {
        disabled: u8::from(disabled),
        affinity: affinity as u8,
        map,
        cut: 0,
        sticky: 0,
        pad: [0; 3],
    };
    let mut tables = Box::new(Generation {
        settings: Settings {
            hash_key: [0x0706_0504_0302_0100, 0x0F0E_0D0C_0B0A_0908],
            vip_seed: 1,
            map: 1,
            cluster_mac: CLUSTER_MAC,
            aliases: [GROUP_MAC, FORMER_MAC, CLUSTER_MAC, CLUSTER_MAC, CLUSTER_MAC],
            host_mac: host_mac(index + 1),
            source_mac: host_mac(index + 1),
            serving: 1,
            icmp_to_all: 0,
            pad: [0; 6],
        },
        vips: [unused; VIP_SLOTS],
        port_classes: [0; PORTS],
        port_tables: [[DEFAULT_RULE; PORT_CLASSES]; PORT_TABLES],
        rules: [rule(true, Affinity::None, 0); RULE_SLOTS],
        rows: [[0; BUCKETS]; MAPS],
    });
    for address in [IpAddr::from(VIP4), VIP6.into()].map(Address::from) {
        tables.vips[vip_slot(1, address)] = VipSlot {
            address,
            tcp: 0,
            udp: 1,
            pad: 0,
        };
    }
    for (class, (tcp, first, last, rule)) in (1u8..).zip(PORT_RULES) {
        tables.port_classes[usize::from(first)..=usize::from(last)].fill(class);
        tables.port_tables[usize::from(!tcp)][usize::from(class)] = rule;
    }
    tables.rules[usize::from(DEFAULT_RULE)] = rule(false, Affinity::Single, 0);
    tables.rules[1] = rule(false, Affinity::None, 1);
    tables.rules[2] = rule(false, Affinity::Single, 1);
    tables.rules[3] = rule(true, Affinity::Single, 1);
    tables.rules[4] = rule(false, Affinity::Network, 1);
    tables.rules[usize::from(NEIGHBOUR_RULE)] = rule(false, Affinity::Single, 1);
    tables.rows[0] = [if index == 0 { Row::MINE } else { 0 }; BUCKETS];
    for (bucket, row) in tables.rows[1].iter_mut().enumerate() {
        let owner = bucket % count;
        if owner == index {
            *row = Row::MINE | Row::ANSWERS;
        } else if (owner + 1) % count == index {
            *row = Row::ANSWERS;
        }
    }
    Host {
        tables,
        lease: true,
        socket: Socket::None,
        firsts: RefCell::default(),
    }
}

impl Tables for Host {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.tables.settings)
    }
    fn vip(&self, slot: usize) -> Option<&VipSlot> {
        self.tables.vip(slot)
    }
    fn rule_at(&self, table: u16, port: u16) -> Option<u8> {
        self.tables.rule_at(table, port)
    }
    fn rule(&self, index: u8) -> Option<&RuleEntry> {
        self.tables.rule(index)
    }
    fn row(&self, map: u8, bucket: u16) -> Option<Row> {
        self.tables.row(map, bucket)
    }
    fn socket(&self, _: &Flow, _: &Segment) -> Socket {
        self.socket
    }
    fn took_first(&self, datagram: &Datagram) -> Option<bool> {
        let firsts = self.firsts.borrow();
        let found = firsts.iter().rev().find(|(known, _)| known == datagram);
        found.map(|(_, taken)| *taken)
    }
    fn note_first(&self, datagram: &Datagram, taken: bool) {
        self.firsts.borrow_mut().push((*datagram, taken));
    }
    fn lease_holds(&self) -> bool {
        self.lease
    }
}

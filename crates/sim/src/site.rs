//! The place where all runs happen: addresses, keys and port rules of the simulated cluster.
//!
//! Used by `machine.rs` to configure hosts, by clients to know where to connect, and by the probes of the
//! invariants (`invariant/coverage.rs`), which must be of traffic that some host takes under every rule set.

use crate::scenario::{Mode, Scenario};
use covey_proto::config::{Auth, ClusterConfig, ClusterMode, Key, Quorum, SourceMac, Timing};
use covey_proto::delivery::{Delivery, derived_macs};
use covey_proto::ids::{HostId, Incarnation, Mac};
use covey_proto::rules::{Affinity, Claim, FilterMode, PortRule, Protocol, RuleSet};
use covey_proto::wire::heartbeat::PROTOCOL_VERSION;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The virtual IP that clients use.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// Requests are answered and the connection stays open until the client closes it.
pub const WEB: u16 = 80;
/// The server closes after its first answer, as HTTP/1.0 does, and keeps TIME_WAIT.
pub const SHORT: u16 = 81;
/// As [`WEB`], but all connections of a client go to one host.
pub const SHOP: u16 = 443;
/// No rule covers it: the default host's.
pub const OTHER: u16 = 9000;
/// Datagrams are answered.
pub const NAMES: u16 = 53;
/// TCP ports that clients connect to.
pub const SERVICES: [u16; 4] = [WEB, SHORT, SHOP, OTHER];
/// Number of rule sets that [`rules`] knows.
pub const RULE_SETS: u8 = 5;
/// For how long clients stick to their hosts under the rule set that is sticky.
const STICKY: Duration = Duration::from_secs(5);

/// The port of [`SHORT`] has a rule of its own, which operators may drain and disable: no probe looks there.
///
/// Set 0: web traffic is shared by connection, the shop by client, names by datagram. Set 1: the shop is shared by the
/// client's network. Set 2: web traffic is shared by client, and there is a rule more. Set 3: web traffic and the shop
/// are shared by client, who sticks to its host. Set 4: one host takes all web traffic, by handling priority.
pub fn rules(set: u8) -> RuleSet {
    let sticky = (set == 3).then_some(STICKY);
    let rule = |start, end, protocol, affinity| PortRule {
        vip: None,
        start,
        end,
        protocol,
        mode: FilterMode::Multiple { affinity },
        sticky: sticky.filter(|_| affinity != Affinity::None),
    };
    let web = match set {
        2 | 3 => Affinity::Single,
        _ => Affinity::None,
    };
    let shop = if set == 1 {
        Affinity::Network
    } else {
        Affinity::Single
    };
    let mut rules = vec![
        rule(WEB, WEB, Protocol::Tcp, web),
        rule(SHORT, SHORT, Protocol::Tcp, web),
        rule(SHOP, SHOP, Protocol::Tcp, shop),
        rule(NAMES, NAMES, Protocol::Udp, Affinity::None),
    ];
    if set == 4 {
        rules[0].mode = FilterMode::Single;
    }
    if set == 2 {
        rules.push(rule(8000, 8099, Protocol::Both, Affinity::None));
    }
    RuleSet::new(vec![IpAddr::V4(VIP)], rules).expect("the rules do not overlap")
}

/// What a host brings to these rules: a load weight, and for single-host rules a handling priority.
pub fn claims(rules: &RuleSet, weight: u8, priority: u8) -> Vec<Claim> {
    let claim = |rule: &PortRule| match rule.mode {
        FilterMode::Single => Claim(priority),
        FilterMode::Multiple { .. } | FilterMode::Disabled => Claim(weight),
    };
    rules.rules().iter().map(claim).collect()
}

/// How heartbeats are signed.
pub fn auth() -> Auth {
    signed([7; 32])
}

fn signed(secret: [u8; 32]) -> Auth {
    Auth::Keys(vec![Key { id: 1, secret }])
}

/// How a machine signs its heartbeats.
fn auth_of(scenario: &Scenario, machine: u8) -> Auth {
    if scenario.unsigned.contains(&machine) {
        Auth::None
    } else if scenario.other_key.contains(&machine) {
        signed([8; 32])
    } else {
        auth()
    }
}

/// A machine's handling priority for single-host rules.
pub fn priority(scenario: &Scenario, machine: u8) -> u8 {
    let listed = scenario.priorities.get(usize::from(machine) - 1);
    listed.copied().unwrap_or(machine)
}

/// The mode that a machine's configuration says in the beginning.
pub fn mode(scenario: &Scenario, machine: u8) -> ClusterMode {
    if scenario.multicast.contains(&machine) {
        ClusterMode::Multicast
    } else {
        ClusterMode::Unicast
    }
}

impl From<Mode> for ClusterMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Unicast => Self::Unicast,
            Mode::Multicast => Self::Multicast,
            Mode::Igmp => Self::Igmp,
        }
    }
}

/// The rules, in another mode.
pub fn in_mode(rules: RuleSet, mode: ClusterMode) -> RuleSet {
    let delivery = Delivery::derived(mode, rules.primary());
    rules.delivered_by(delivery)
}

/// Number `machine` (from 1) of a scenario. `host` is its ID, which a twin has from another.
pub fn config(scenario: &Scenario, machine: u8, host: u8) -> ClusterConfig {
    let rules = in_mode(rules(scenario.rules), mode(scenario, machine));
    ClusterConfig {
        version: PROTOCOL_VERSION + u16::from(scenario.newer.contains(&machine)),
        host: HostId::new(host).expect("checked when the scenario was read"),
        name: format!("h{machine}"),
        mac: Mac([2, 0, 0, 0, 0, machine]),
        dip: Ipv4Addr::new(10, 77, 0, machine),
        timing: Timing {
            period: scenario.period.0,
            tolerance: scenario.tolerance,
        },
        auth: auth_of(scenario, machine),
        claims: claims(&rules, Claim::EQUAL_WEIGHT.0, priority(scenario, machine)),
        rules,
        quorum: if scenario.quorum == 0 {
            Quorum::None
        } else {
            Quorum::Majority(scenario.quorum)
        },
        unicast_fallback: scenario.unicast_fallback,
        max_linger: None,
        source_mac: SourceMac::Host,
        filter_icmp: true,
        clock_granularity: crate::clock::TICK,
        port_states: Vec::new(),
        legacy: scenario.legacy.contains(&machine),
        incarnation: Incarnation(0),
    }
}

/// The MAC that all hosts share in unicast mode.
pub fn cluster() -> Mac {
    let [unicast, ..] = cluster_macs();
    unicast
}

/// The MACs that hosts may share, one for each mode.
pub fn cluster_macs() -> [Mac; 3] {
    derived_macs(IpAddr::V4(VIP))
}

/// Address and MAC of a client, numbered from 0.
pub fn client(number: usize) -> (Ipv4Addr, Mac) {
    let number = number as u8 + 1;
    (
        Ipv4Addr::new(10, 77, number, 1),
        Mac([2, 0xC1, 0, 0, 0, number]),
    )
}

//! Rule sets: overlaps, digests, bytes, and what is said of two that differ.

use super::*;
use crate::config::SourceMac;
use crate::datapath::{Identity, Image, View, no_sockets};
use crate::ids::{HostId, Mac};
use covey_filter::{Address, DEFAULT_RULE, PORTS, Tables as _, vip_slot};
use proptest::prelude::*;

fn rule(vip: Option<&str>, start: u16, end: u16, protocol: Protocol) -> PortRule {
    let vip = vip.map(|ip| ip.parse().unwrap());
    PortRule {
        vip,
        start,
        end,
        protocol,
        mode: FilterMode::Multiple {
            affinity: Affinity::None,
        },
        sticky: None,
    }
}

fn set(rules: Vec<PortRule>) -> Result<RuleSet, RuleError> {
    RuleSet::new(
        vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()],
        rules,
    )
}

#[test]
fn overlaps_are_found_by_range_protocol_and_address() {
    let web = || rule(None, 80, 90, Protocol::Tcp);
    assert_eq!(
        set(vec![web(), rule(None, 90, 95, Protocol::Both)]),
        Err(RuleError::Overlap(0, 1))
    );
    assert!(set(vec![web(), rule(None, 90, 95, Protocol::Udp)]).is_ok());
    assert!(set(vec![web(), rule(None, 91, 95, Protocol::Tcp)]).is_ok());
    assert!(set(vec![web(), rule(Some("10.0.0.2"), 80, 80, Protocol::Tcp)]).is_ok());
    assert_eq!(
        set(vec![rule(Some("10.9.9.9"), 1, 1, Protocol::Tcp)]),
        Err(RuleError::UnknownVip(0))
    );
    assert_eq!(
        set(vec![rule(None, 9, 8, Protocol::Tcp)]),
        Err(RuleError::EmptyRange(0))
    );
}

#[test]
fn the_digest_tells_sets_apart() {
    let one = set(vec![rule(None, 80, 80, Protocol::Tcp)]).unwrap();
    let sticky = PortRule {
        sticky: Some(Duration::from_secs(1)),
        ..rule(None, 80, 80, Protocol::Tcp)
    };
    assert_ne!(one.digest(), set(vec![sticky]).unwrap().digest());
    let two = set(vec![rule(None, 80, 80, Protocol::Both)]).unwrap();
    assert_ne!(one.digest(), two.digest());
    assert_eq!(
        one.digest(),
        set(vec![rule(None, 80, 80, Protocol::Tcp)])
            .unwrap()
            .digest()
    );
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>()
            .prop_map(|bytes| Ipv6Addr::from(bytes).to_canonical())
            .prop_filter("stands for all", |ip| mapped(*ip) != NO_VIP),
    ]
}

fn mode() -> impl Strategy<Value = FilterMode> {
    let multiple = |affinity| Just(FilterMode::Multiple { affinity });
    prop_oneof![
        multiple(Affinity::None),
        multiple(Affinity::Single),
        multiple(Affinity::Network),
        Just(FilterMode::Single),
        Just(FilterMode::Disabled),
    ]
}

prop_compose! {
    /// Rules at different ports, so that they do not overlap.
    fn rule_set()(
        vips in proptest::collection::btree_set(address(), 1..=MAX_VIPS),
        kinds in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>(), 0u16..500, 0u8..3, mode(), 0u64..3), 0..=USER_RULES),
        delivery in proptest::option::of(delivery()),
    ) -> RuleSet {
        let vips: Vec<IpAddr> = vips.into_iter().collect();
        let rules = (0u16..).zip(kinds).map(|(place, (vip, all, width, protocol, mode, sticky))| PortRule {
            vip: (!all).then(|| *vip.get(&vips)),
            start: place * 1000,
            end: place * 1000 + width,
            protocol: [Protocol::Tcp, Protocol::Udp, Protocol::Both][usize::from(protocol)],
            mode,
            sticky: (sticky > 0).then(|| Duration::from_secs(sticky)),
        });
        let rules = rules.collect();
        let set = RuleSet::new(vips, rules).unwrap();
        match delivery {
            Some(delivery) => set.delivered_by(delivery),
            None => set,
        }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(rules in rule_set()) {
        let bytes = rules.encode();
        prop_assert!(bytes.len() <= RuleSet::MAX_ENCODED);
        prop_assert_eq!(RuleSet::decode(&bytes), Some(rules));
    }

    #[test]
    fn noise_is_refused_or_sound(mut bytes: Vec<u8>, count in 0u8..4) {
        if let Some(first) = bytes.first_mut() {
            *first = count;
        }
        if let Some(rules) = RuleSet::decode(&bytes) {
            prop_assert_eq!(RuleSet::decode(&rules.encode()), Some(rules));
        }
    }

    #[test]
    fn two_rule_sets_differ_exactly_if_their_digests_do(one in rule_set(), two in rule_set()) {
        prop_assert!(one.difference(&one).is_none());
        prop_assert_eq!(one.difference(&two).is_some(), one.digest() != two.digest());
    }
}

/// The digest must not change between versions, or hosts that are being upgraded do not agree.
#[test]
fn the_digest_stays_what_it_was() {
    let rules = set(vec![rule(Some("10.0.0.2"), 80, 90, Protocol::Both)]).unwrap();
    assert_eq!(rules.digest().to_string(), "220c91c50cf523b6");
}

#[test]
fn a_difference_says_where_and_what() {
    let web = || rule(None, 80, 80, Protocol::Tcp);
    let tls = |affinity| PortRule {
        mode: FilterMode::Multiple { affinity },
        ..rule(None, 443, 443, Protocol::Tcp)
    };
    let said = |here: Vec<PortRule>, there: Vec<PortRule>| {
        let (here, there) = (set(here).unwrap(), set(there).unwrap());
        here.difference(&there).unwrap().to_string()
    };
    assert_eq!(
        said(
            vec![web(), tls(Affinity::Single)],
            vec![web(), tls(Affinity::None)]
        ),
        "port rule 2 (tcp 443) has affinity none there and single here"
    );
    assert_eq!(
        said(vec![web(), tls(Affinity::None)], vec![web()]),
        "it has 1 port rule, this host has 2"
    );
    assert_eq!(
        said(vec![web()], vec![rule(None, 80, 89, Protocol::Udp)]),
        "port rule 1 is udp 80-89 there and tcp 80 here"
    );
    let sticky = PortRule {
        sticky: Some(Duration::from_secs(1200)),
        ..web()
    };
    assert_eq!(
        said(vec![web()], vec![sticky]),
        "port rule 1 (tcp 80) is sticky for 1200 s there and not sticky here"
    );
    let single = PortRule {
        mode: FilterMode::Single,
        ..web()
    };
    assert_eq!(
        said(vec![single], vec![rule(None, 80, 80, Protocol::Tcp)]),
        "port rule 1 (tcp 80) has filtering mode multiple there and single here"
    );
    let vips = |list: &[&str]| {
        RuleSet::new(list.iter().map(|ip| ip.parse().unwrap()).collect(), vec![]).unwrap()
    };
    let differ =
        |here: &[&str], there: &[&str]| vips(here).difference(&vips(there)).unwrap().to_string();
    assert_eq!(
        differ(&["10.0.0.1", "10.0.0.2"], &["10.0.0.1", "10.0.0.3"]),
        "virtual IP 10.0.0.2 is missing there and 10.0.0.3 is missing here"
    );
    let set = vips(&["10.0.0.1"]);
    let by = |mode| {
        set.clone()
            .delivered_by(Delivery::derived(mode, set.primary()))
    };
    let other_mode = set.difference(&by(ClusterMode::Multicast)).unwrap();
    assert_eq!(
        other_mode.to_string(),
        "it has mode multicast, this host unicast"
    );
    let chosen = Delivery::explicit(ClusterMode::Unicast, Mac([2, 0, 0, 0, 0, 9])).unwrap();
    let other_mac = set.difference(&set.clone().delivered_by(chosen)).unwrap();
    assert_eq!(
        other_mac.to_string(),
        "the cluster MAC is 02:00:00:00:00:09 there and 02:bf:0a:00:00:01 here"
    );
    assert_eq!(
        differ(&["10.0.0.1"], &["10.0.0.1", "10.0.0.3"]),
        "virtual IP 10.0.0.3 is missing here"
    );
    assert_eq!(
        differ(
            &["10.0.0.1", "10.0.0.2", "10.0.0.3"],
            &["10.0.0.1", "10.0.0.3", "10.0.0.2"]
        ),
        "the virtual IPs stand in another order"
    );
}

/// A way other than the usual one.
fn delivery() -> impl Strategy<Value = Delivery> {
    let derived = prop_oneof![Just(ClusterMode::Multicast), Just(ClusterMode::Igmp)]
        .prop_map(|mode| Delivery::derived(mode, "10.0.0.1".parse().unwrap()));
    let chosen = any::<[u8; 5]>().prop_map(|[a, b, c, d, e]| {
        Delivery::explicit(ClusterMode::Unicast, Mac([2, a, b, c, d, e])).unwrap()
    });
    prop_oneof![derived, chosen]
}

#[test]
fn the_usual_delivery_is_not_said() {
    let set = RuleSet::new(vec!["10.0.0.1".parse().unwrap()], vec![]).unwrap();
    assert_eq!(set.encode().len(), 1 + 16);
    let usual = Delivery::derived(ClusterMode::Unicast, set.primary());
    assert_eq!(set.clone().delivered_by(usual), set);
    let multicast = Delivery::derived(ClusterMode::Multicast, set.primary());
    let other = set.clone().delivered_by(multicast);
    assert_ne!(other.digest(), set.digest());
    let mut unsound = other.encode();
    *unsound.last_chunk_mut::<6>().unwrap() = [2, 0, 0, 0, 0, 1];
    assert_eq!(
        RuleSet::decode(&unsound),
        None,
        "no group, in multicast mode"
    );
}

/// The first port, the number of further ports, the index of the virtual IP (2: all of them) and the protocol.
fn any_rules() -> impl Strategy<Value = RuleSet> {
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Both];
    let scopes = [Some("10.0.0.1"), Some("10.0.0.2"), None];
    // Close together, so that they meet, and at both ends of all ports.
    let start = prop_oneof![0..40u16, u16::MAX - 20..=u16::MAX];
    let one = (start, 0..12u16, 0..scopes.len(), 0..protocols.len());
    prop::collection::vec(one, 0..24).prop_map(move |drawn| {
        let mut rules = Vec::new();
        for (start, more, scope, protocol) in drawn {
            let end = start.saturating_add(more);
            let next = rule(scopes[scope], start, end, protocols[protocol]);
            if rules.iter().all(|known: &PortRule| !known.overlaps(&next)) {
                rules.push(next);
            }
        }
        set(rules).expect("rules that overlap were left out")
    })
}

proptest! {
    /// Which rule goes first is said twice: here for connections, and in the tables for packets.
    #[test]
    fn the_tables_find_the_rule_that_covers(rules in any_rules()) {
        let identity = Identity {
            host: HostId::new(1).unwrap(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            source_mac: SourceMac::Host,
            filter_icmp: true,
            hash_key: [1, 2],
        };
        let image = Image::fenced(&identity, &rules);
        let view = View { image: &image, lease_holds: false, sockets: &no_sockets, fragments: None };
        for vip in rules.vips() {
            let slot = vip_slot(image.settings.vip_seed, Address::from(*vip));
            let tables = image.vips[slot];
            for port in 0..PORTS {
                let port = port as u16;
                let covering = rules.covering_tcp(*vip, port).map(|(index, _)| index);
                prop_assert_eq!(
                    view.rule_at(tables.tcp, port),
                    Some(covering.unwrap_or(DEFAULT_RULE)),
                    "port {} of {}", port, vip
                );
            }
        }
    }
}

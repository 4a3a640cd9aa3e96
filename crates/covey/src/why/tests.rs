//! Every host of a cluster asked about the same packets.

use super::*;
use covey_proto::buckets::BucketSet;
use covey_proto::config::SourceMac;
use covey_proto::datapath::{Identity, Overlap};
use covey_proto::ids::Mac;
use covey_proto::placement::Map;
use covey_proto::rules::{self, PortRule};
use std::sync::Arc;

const HOSTS: [u8; 3] = [1, 2, 3];
const VIP4: &str = "10.77.0.100";
const VIP6: &str = "fd77::100";

fn id(host: u8) -> HostId {
    HostId::new(host).unwrap()
}

fn rule(start: u16, end: u16, mode: FilterMode) -> PortRule {
    PortRule {
        vip: None,
        start,
        end,
        protocol: rules::Protocol::Both,
        mode,
        sticky: None,
    }
}

/// A cluster of three: 80 by client and port, 443 by client, 25 disabled, 5000 to 6000 all host 2's.
struct Cluster {
    rules: RuleSet,
    placement: Placement,
    images: Vec<Image>,
}

impl Cluster {
    fn new(overlap: &Overlap<'_>) -> Self {
        let multiple = |affinity| FilterMode::Multiple { affinity };
        let rules = RuleSet::new(
            vec![VIP4.parse().unwrap(), VIP6.parse().unwrap()],
            vec![
                rule(80, 80, multiple(Affinity::None)),
                rule(443, 443, multiple(Affinity::Single)),
                rule(25, 25, FilterMode::Disabled),
                rule(5000, 6000, FilterMode::Single),
            ],
        )
        .unwrap();
        let mut spread = Map::unowned();
        for bucket in 0..BUCKETS {
            spread.set(bucket, id((bucket % 3) as u8 + 1));
        }
        let (spread, first) = (Arc::new(spread), Arc::new(Map::all(Some(id(1)))));
        let maps = [
            spread.clone(),
            spread.clone(),
            Arc::new(Map::unowned()),
            Arc::new(Map::all(Some(id(2)))),
        ];
        let fingerprints = rules.rules().iter().map(PortRule::fingerprint);
        let placement = Placement::new(first, fingerprints.zip(maps).collect(), spread);
        let view = Self::view();
        let images = HOSTS
            .map(|host| Image::serving(&Self::identity(host), &rules, &placement, view, overlap));
        Self {
            rules,
            placement,
            images: images.to_vec(),
        }
    }

    fn view() -> HostSet {
        HOSTS.map(id).into_iter().collect()
    }

    fn identity(host: u8) -> Identity {
        Identity {
            host: id(host),
            mac: Mac([2, 0, 0, 0, 0, host]),
            source_mac: SourceMac::Host,
            filter_icmp: true,
            hash_key: [3, 4],
        }
    }

    fn insight<'a>(&'a self, host: u8, name: &'a dyn Fn(HostId) -> String) -> Insight<'a> {
        Insight {
            me: id(host),
            name,
            image: &self.images[usize::from(host) - 1],
            lease_holds: true,
            epoch: 7,
            placement: Some(&self.placement),
            view: Self::view(),
            rules: &self.rules,
        }
    }

    fn ask(&self, host: u8, question: &Question) -> Result<Explanation, WhyError> {
        explain(question, &self.insight(host, &name))
    }
}

fn name(host: HostId) -> String {
    format!("h{host}")
}

fn question(
    client: &str,
    client_port: Option<u16>,
    vip: &str,
    port: Option<u16>,
    protocol: Protocol,
) -> Question {
    Question {
        client: client.parse().unwrap(),
        client_port,
        vip: vip.parse().unwrap(),
        port,
        protocol,
    }
}

fn packets() -> Vec<Question> {
    let v4 = (1..=20).map(|byte| (format!("192.0.2.{byte}"), VIP4));
    let v6 = (1..=20).map(|byte| (format!("2001:db8::{byte}"), VIP6));
    v4.chain(v6)
        .flat_map(|(client, vip)| {
            let ask = |port: Option<u16>, protocol| {
                let client_port = port.map(|port| 40_000 + port);
                question(&client, client_port, vip, port, protocol)
            };
            [
                ask(Some(80), Protocol::Tcp),
                ask(Some(80), Protocol::Udp),
                ask(Some(443), Protocol::Tcp),
                ask(Some(5123), Protocol::Udp),
                ask(Some(22), Protocol::Tcp),
                ask(None, Protocol::Icmp),
            ]
        })
        .collect()
}

#[test]
fn all_hosts_name_the_one_that_takes_the_packet() {
    let cluster = Cluster::new(&Overlap::NONE);
    let mut taken_by = [0; 3];
    for question in packets() {
        let said = HOSTS.map(|host| cluster.ask(host, &question).unwrap());
        let places = said.each_ref().map(|it| it.place.as_ref().unwrap());
        let owner = places[0].owner.clone().unwrap();
        taken_by[usize::from(owner.id) - 1] += 1;
        for (host, (it, place)) in HOSTS.into_iter().zip(said.iter().zip(places)) {
            assert_eq!(it.rule, said[0].rule);
            assert_eq!(place.bucket, places[0].bucket);
            assert_eq!(place.owner.as_ref(), Some(&owner));
            let takes = place.judgement.verdict == "accept";
            assert_eq!(takes, host == owner.id, "{question:?}");
            assert_eq!(place.row.mine, takes);
            // What it says of the others is what they say themselves.
            assert_eq!(place.others.len(), 2);
            for other in &place.others {
                let itself = places[usize::from(other.host.id) - 1];
                assert_eq!(other.judgement, itself.judgement);
            }
        }
    }
    assert!(taken_by.iter().all(|count| *count > 20), "{taken_by:?}");
}

#[test]
fn rules_are_named_as_they_are_counted() {
    let cluster = Cluster::new(&Overlap::NONE);
    for (port, index, mode, reason) in [
        (80, 1, "multiple", None),
        (443, 2, "multiple", None),
        (25, 3, "disabled", Some("disabled")),
        (6000, 4, "single", Some("not_mine")),
        (6001, 0, "default", Some("mine")),
    ] {
        let asked = question("192.0.2.1", Some(9), VIP4, Some(port), Protocol::Tcp);
        let said = cluster.ask(1, &asked).unwrap();
        assert_eq!((said.rule.index, said.rule.mode.as_str()), (index, mode));
        let judgement = said.place.unwrap().judgement;
        if let Some(reason) = reason {
            assert_eq!(judgement.reason, reason, "{port}");
        }
    }
}

#[test]
fn without_a_port_all_hosts_are_possible_if_it_counts() {
    let cluster = Cluster::new(&Overlap::NONE);
    let said = |port| {
        let asked = question("192.0.2.1", None, VIP4, Some(port), Protocol::Tcp);
        cluster.ask(2, &asked).unwrap()
    };
    let open = said(80);
    assert_eq!(open.place, None);
    assert_eq!(open.ports_by_owner.values().sum::<usize>(), 65_535);
    let fair = open.ports_by_owner.values();
    assert!(
        fair.clone().count() == 3 && fair.clone().all(|ports| (21_000..22_700).contains(ports))
    );
    let settled = said(443);
    assert!(settled.place.is_some() && settled.ports_by_owner.is_empty());
}

#[test]
fn a_host_that_does_not_serve_says_so_and_knows_the_bucket() {
    let cluster = Cluster::new(&Overlap::NONE);
    let asked = question("192.0.2.1", Some(9), VIP4, Some(80), Protocol::Tcp);
    let serving = cluster.ask(1, &asked).unwrap();
    let place = serving.place.unwrap();
    let owner = place.owner.unwrap().id;

    let fenced = Image::fenced(&Cluster::identity(1), &cluster.rules);
    let without_map = Insight {
        image: &fenced,
        lease_holds: false,
        epoch: 0,
        placement: None,
        view: HostSet::EMPTY,
        ..cluster.insight(1, &name)
    };
    let said = explain(&asked, &without_map).unwrap();
    assert_eq!(said.rule, serving.rule);
    let there = said.place.unwrap();
    assert_eq!((there.bucket, there.owner), (place.bucket, None));
    assert_eq!(there.judgement.reason, "fenced");

    let lapsed = Insight {
        lease_holds: false,
        ..cluster.insight(owner, &name)
    };
    let said = explain(&asked, &lapsed).unwrap().place.unwrap();
    assert_eq!(said.judgement.reason, "lease_lapsed");
    assert_eq!(said.judgement.verdict, "drop");
}

#[test]
fn where_a_bucket_has_moved_connections_are_told_apart() {
    let cluster = Cluster::new(&Overlap {
        lingering: &BucketSet::ALL,
        shared: &BucketSet::ALL,
        cut: &|_| false,
    });
    let asked = question("192.0.2.1", Some(9), VIP4, Some(80), Protocol::Tcp);
    for host in HOSTS {
        let place = cluster.ask(host, &asked).unwrap().place.unwrap();
        let established = place.established.unwrap();
        let (here, opens, elsewhere) = if place.row.mine {
            assert!(place.row.shared && !place.row.lingering);
            ("mine", "mine", "unclaimed")
        } else {
            assert!(place.row.lingering && !place.row.shared);
            ("lingering", "not_mine", "not_mine")
        };
        assert_eq!(established.here.reason, here);
        assert_eq!(place.judgement.reason, opens);
        assert_eq!(established.elsewhere.reason, elsewhere);
    }
    let datagram = question("192.0.2.1", Some(9), VIP4, Some(80), Protocol::Udp);
    let place = cluster.ask(1, &datagram).unwrap().place.unwrap();
    assert_eq!(place.established, None);
}

#[test]
fn what_is_no_packet_of_a_client_is_refused_in_a_sentence() {
    let cluster = Cluster::new(&Overlap::NONE);
    let says = |question: Question| cluster.ask(1, &question).unwrap_err().to_string();
    for (question, sentence) in [
        (
            question("192.0.2.1", None, "10.77.0.99", Some(80), Protocol::Tcp),
            "10.77.0.99 is no virtual IP of this cluster, so the filter does not decide about it; the virtual IPs are \
             10.77.0.100, fd77::100",
        ),
        (
            question(VIP4, Some(9), VIP4, Some(80), Protocol::Tcp),
            "10.77.0.100 is a virtual IP, which no client has: give the client's own address",
        ),
        (
            question("192.0.2.1", Some(9), VIP6, Some(80), Protocol::Tcp),
            "192.0.2.1 and fd77::100 are not of the same family: no packet goes from one to the other",
        ),
        (
            question("192.0.2.1", Some(9), VIP4, None, Protocol::Udp),
            "which port? Write it behind the virtual IP, like 10.77.0.100:80",
        ),
        (
            question("2001:db8::1", Some(9), VIP6, None, Protocol::Tcp),
            "which port? Write it behind the virtual IP, like [fd77::100]:80",
        ),
        (
            question("192.0.2.1", None, VIP4, Some(80), Protocol::Icmp),
            "ICMP has no ports: leave them out",
        ),
    ] {
        assert_eq!(says(question), sentence);
    }
}

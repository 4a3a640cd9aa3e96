//! `covey why`: what a packet meets, and why. It is made in memory and judged by the same rule over the same tables as
//! in the kernel ([`covey_filter::decide()`] over the image that the daemon has programmed last).
//!
//! The command line reads a [`Question`], the control socket carries it, the daemon answers it from an [`Insight`]
//! with an [`Explanation`]. Bucket, owner and rule are the same on every host; the verdict is the host's own. What the
//! other hosts do is said as far as it follows from the committed map: whether they linger is not known here.
//! Specification: docs/design.md, "Command line" and "Data path".

mod frame;

use covey_filter::{
    Address, Affinity, BUCKETS, Bucket, DEFAULT_RULE, Datagram, Decision, Flow, Row, RuleEntry,
    Segment, Settings, Socket, Tables, Verdict, VipSlot, bucket, decide,
};
use covey_proto::datapath::{Image, View, no_sockets};
use covey_proto::ids::{HostId, HostSet};
use covey_proto::placement::Placement;
use covey_proto::rules::{FilterMode, RuleSet};
use frame::Packet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What the packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP; the packet opens a connection.
    Tcp,
    /// UDP.
    Udp,
    /// An echo request.
    Icmp,
}

impl Protocol {
    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// Which packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The client's address.
    pub client: IpAddr,
    /// The client's port, if it matters.
    #[serde(default)]
    pub client_port: Option<u16>,
    /// The virtual IP.
    pub vip: IpAddr,
    /// The port there; none for ICMP.
    #[serde(default)]
    pub port: Option<u16>,
    /// What it carries.
    pub protocol: Protocol,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhyError {
    /// The destination is not the cluster's.
    #[error(
        "{0} is no virtual IP of this cluster, so the filter does not decide about it; the virtual IPs are {1}"
    )]
    NoVip(IpAddr, String),
    /// A client cannot have that address.
    #[error("{0} is a virtual IP, which no client has: give the client's own address")]
    FromVip(IpAddr),
    /// IPv4 to IPv6 or the other way round.
    #[error("{0} and {1} are not of the same family: no packet goes from one to the other")]
    Families(IpAddr, IpAddr),
    /// TCP and UDP have ports.
    #[error("which port? Write it behind the virtual IP, like {0}")]
    PortMissing(String),
    /// ICMP has none.
    #[error("ICMP has no ports: leave them out")]
    PortWithIcmp,
    /// The tables do not say.
    #[error("the filter's tables do not cover this packet: {0}")]
    Undecided(&'static str),
}

/// What becomes of the packet, in words for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// `pass`, `accept` or `drop`.
    pub verdict: String,
    /// Label of the reason, which is also the name of its counter.
    pub reason: String,
    /// The reason as a sentence.
    pub explanation: String,
}

impl From<Decision> for Judgement {
    fn from(decision: Decision) -> Self {
        let verdict = match decision.verdict {
            Verdict::Pass => "pass",
            Verdict::Accept => "accept",
            Verdict::Drop => "drop",
            Verdict::Daemon => "daemon",
        };
        Self {
            verdict: verdict.to_owned(),
            reason: decision.reason.label().to_owned(),
            explanation: decision.reason.explain().to_owned(),
        }
    }
}

/// A host, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its ID.
    pub id: u8,
    /// Its name.
    pub name: String,
}

/// The rule that covers the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covering {
    /// 0 for the default rule, then as `covey rules` counts.
    pub index: u8,
    /// The virtual IP it is for, or none for all.
    pub vip: Option<IpAddr>,
    /// First port; none for the default rule.
    pub start: Option<u16>,
    /// Last port.
    pub end: Option<u16>,
    /// `multiple`, `single`, `disabled` or `default`.
    pub mode: String,
    /// What of the client chooses the bucket: `none`, `single` or `network`.
    pub affinity: String,
}

/// The bucket's row on the host that speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowState {
    /// The host owns the bucket.
    pub mine: bool,
    /// It does, but others may have connections there.
    pub shared: bool,
    /// It does not, but it may have connections there.
    pub lingering: bool,
}

/// What becomes of a later segment of a connection, where that depends on who has the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Established {
    /// If this host has the connection.
    pub here: Judgement,
    /// If it does not.
    pub elsewhere: Judgement,
}

/// Where the packet goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The client's bucket.
    pub bucket: u16,
    /// Its owner; none if the host that speaks has no map, or the rule is disabled.
    pub owner: Option<Named>,
    /// Its row.
    pub row: RowState,
    /// What this host does with the packet.
    pub judgement: Judgement,
    /// Of TCP in shared and lingering buckets: what it does with connections.
    pub established: Option<Established>,
    /// What the other members of the committed map do, as far as that says.
    pub others: Vec<Other>,
}

/// What another host does with the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// The host.
    #[serde(flatten)]
    pub host: Named,
    /// What becomes of the packet there.
    #[serde(flatten)]
    pub judgement: Judgement,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked.
    pub question: Question,
    /// The host that speaks.
    pub host: Named,
    /// The map it has committed; 0 for none.
    pub epoch: u64,
    /// The rule that covers the packet.
    pub rule: Covering,
    /// Where it goes; none if that depends on the client's port, which was not given.
    pub place: Option<Place>,
    /// If so: how many of the client's 65535 ports lead to each host, by ID.
    pub ports_by_owner: BTreeMap<u8, usize>,
}

/// What a host knows when it is asked.
#[derive(Clone, Copy)]
pub struct Insight<'a> {
    /// The host.
    pub me: HostId,
    /// Names of hosts.
    pub name: &'a dyn Fn(HostId) -> String,
    /// The tables that are in force in its kernel.
    pub image: &'a Image,
    /// Whether its lease runs.
    pub lease_holds: bool,
    /// The number of the committed map.
    pub epoch: u64,
    /// The map itself.
    pub placement: Option<&'a Placement>,
    /// Its members.
    pub view: HostSet,
    /// The rules in force, or else the offered ones.
    pub rules: &'a RuleSet,
}

/// Says what a packet meets on this host.
///
/// # Errors
/// If there is no such packet, or it is not for the cluster.
pub fn explain(question: &Question, insight: &Insight<'_>) -> Result<Explanation, WhyError> {
    let packet = packet(question, insight.rules)?;
    let settled = Settled::new(insight, insight.me);
    let met = decide(&settled.frame(&packet)[..], &settled);
    let (Some(rule), Some(found)) = (met.rule, met.bucket) else {
        return Err(WhyError::Undecided(met.reason.explain()));
    };
    let entry = insight.image.rules[usize::from(rule)];
    let port_decides = entry.affinity() == Some(Affinity::None) && question.client_port.is_none();
    let named = |id: HostId| Named {
        id: id.get(),
        name: (insight.name)(id),
    };
    Ok(Explanation {
        question: *question,
        host: named(insight.me),
        epoch: insight.epoch,
        rule: covering(rule, entry, insight.rules),
        place: (!port_decides).then(|| Place {
            bucket: found.get(),
            owner: owner(insight, rule, found).map(named),
            row: row(insight.image, entry, found),
            judgement: judge(insight, &packet, Socket::None).into(),
            established: established(insight, &packet, entry, found),
            others: insight
                .view
                .iter()
                .filter(|host| *host != insight.me)
                .map(|host| {
                    let there = Settled::new(insight, host);
                    Other {
                        host: named(host),
                        judgement: decide(&there.frame(&packet)[..], &there).into(),
                    }
                })
                .collect(),
        }),
        ports_by_owner: if port_decides {
            ports_by_owner(insight, rule, question.client)
        } else {
            BTreeMap::new()
        },
    })
}

fn packet(question: &Question, rules: &RuleSet) -> Result<Packet, WhyError> {
    let Question {
        client,
        client_port,
        vip,
        port,
        protocol,
    } = *question;
    if !rules.vips().contains(&vip) {
        let vips: Vec<String> = rules.vips().iter().map(ToString::to_string).collect();
        return Err(WhyError::NoVip(vip, vips.join(", ")));
    }
    if rules.vips().contains(&client) {
        return Err(WhyError::FromVip(client));
    }
    if client.is_ipv4() != vip.is_ipv4() {
        return Err(WhyError::Families(client, vip));
    }
    let port = match (protocol, port, client_port) {
        (Protocol::Icmp, None, None) => 0,
        (Protocol::Icmp, _, _) => return Err(WhyError::PortWithIcmp),
        (Protocol::Tcp | Protocol::Udp, Some(port), _) => port,
        (Protocol::Tcp | Protocol::Udp, None, _) => {
            let example = std::net::SocketAddr::new(vip, 80);
            return Err(WhyError::PortMissing(example.to_string()));
        }
    };
    Ok(Packet {
        client,
        // Without one it either does not matter or nothing is said that depends on it.
        client_port: client_port.unwrap_or(0),
        vip,
        port,
        protocol,
        opens: true,
    })
}

/// What this host does, with this in its socket table.
fn judge(insight: &Insight<'_>, packet: &Packet, socket: Socket) -> Decision {
    let sockets = move |_: &Flow, _: &Segment| socket;
    let view = View {
        image: insight.image,
        lease_holds: insight.lease_holds,
        sockets: if socket == Socket::None {
            &no_sockets
        } else {
            &sockets
        },
        fragments: None,
    };
    let frame = packet.frame(insight.image.settings.cluster_mac);
    decide(&frame[..], &view)
}

fn established(
    insight: &Insight<'_>,
    packet: &Packet,
    entry: RuleEntry,
    bucket: Bucket,
) -> Option<Established> {
    let row = row(insight.image, entry, bucket);
    let goes_on = Packet {
        opens: false,
        ..*packet
    };
    let depends = packet.protocol == Protocol::Tcp && (row.shared || row.lingering);
    depends.then(|| Established {
        here: judge(insight, &goes_on, Socket::Connected).into(),
        elsewhere: judge(insight, &goes_on, Socket::None).into(),
    })
}

fn row(image: &Image, entry: RuleEntry, bucket: Bucket) -> RowState {
    let row = image
        .rows
        .get(usize::from(entry.map))
        .map_or(Row(0), |rows| Row(rows[usize::from(bucket.get())]));
    RowState {
        mine: row.is_mine(),
        shared: row.is_shared(),
        lingering: row.is_lingering(),
    }
}

fn owner(insight: &Insight<'_>, rule: u8, bucket: Bucket) -> Option<HostId> {
    let map = insight.placement?.map(rule);
    map.owner(usize::from(bucket.get()))
}

fn ports_by_owner(insight: &Insight<'_>, rule: u8, client: IpAddr) -> BTreeMap<u8, usize> {
    let key = insight.image.settings.hash_key;
    let mut ports = BTreeMap::new();
    for port in 1..=u16::MAX {
        let place = bucket(key, Affinity::None, Address::from(client), port);
        if let Some(owner) = owner(insight, rule, place) {
            *ports.entry(owner.get()).or_insert(0) += 1;
        }
    }
    ports
}

fn covering(index: u8, entry: RuleEntry, rules: &RuleSet) -> Covering {
    let rule = usize::from(index)
        .checked_sub(usize::from(DEFAULT_RULE) + 1)
        .and_then(|at| rules.rules().get(at));
    let mode = match rule.map(|rule| rule.mode) {
        Some(FilterMode::Multiple { .. }) => "multiple",
        Some(FilterMode::Single) => "single",
        Some(FilterMode::Disabled) => "disabled",
        None => "default",
    };
    let affinity = match entry.affinity() {
        Some(Affinity::None) => "none",
        Some(Affinity::Network) => "network",
        Some(Affinity::Single) | None => "single",
    };
    Covering {
        index,
        vip: rule.and_then(|rule| rule.vip),
        start: rule.map(|rule| rule.start),
        end: rule.map(|rule| rule.end),
        mode: mode.to_owned(),
        affinity: affinity.to_owned(),
    }
}

/// A host of the committed map that serves under a lease and has no connections: this host's tables with the rows of
/// the other.
struct Settled<'a> {
    insight: &'a Insight<'a>,
    host: HostId,
    settings: Settings,
    rules: Vec<RuleEntry>,
}

impl<'a> Settled<'a> {
    fn new(insight: &'a Insight<'a>, host: HostId) -> Self {
        let settings = Settings {
            serving: 1,
            ..insight.image.settings
        };
        let map = |rule| {
            insight
                .placement
                .map_or(0, |placement| placement.map_of(rule))
        };
        let entries = (0u8..).zip(&insight.image.rules);
        let rules = entries.map(|(index, entry)| RuleEntry {
            map: map(index),
            ..*entry
        });
        Self {
            rules: rules.collect(),
            insight,
            host,
            settings,
        }
    }

    fn frame(&self, packet: &Packet) -> Vec<u8> {
        packet.frame(self.settings.cluster_mac)
    }

    fn view(&self) -> View<'a> {
        View {
            image: self.insight.image,
            lease_holds: true,
            sockets: &no_sockets,
            fragments: None,
        }
    }
}

impl Tables for Settled<'_> {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }
    fn vip(&self, slot: usize) -> Option<&VipSlot> {
        self.insight.image.vips.get(slot)
    }
    fn rule_at(&self, table: u16, port: u16) -> Option<u8> {
        self.view().rule_at(table, port)
    }
    fn rule(&self, index: u8) -> Option<&RuleEntry> {
        self.rules.get(usize::from(index))
    }
    fn row(&self, map: u8, bucket: u16) -> Option<Row> {
        debug_assert!(usize::from(bucket) < BUCKETS);
        let owners = self
            .insight
            .placement
            .map(|placement| placement.maps().get(usize::from(map)));
        match owners {
            None => Some(Row(0)),
            Some(map) => map.map(|map| {
                let mine = map.owner(usize::from(bucket)) == Some(self.host);
                Row(if mine { Row::MINE } else { 0 })
            }),
        }
    }
    fn socket(&self, _: &Flow, _: &Segment) -> Socket {
        Socket::None
    }
    fn took_first(&self, _: &Datagram) -> Option<bool> {
        None
    }
    fn note_first(&self, _: &Datagram, _taken: bool) {}
    fn lease_holds(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;

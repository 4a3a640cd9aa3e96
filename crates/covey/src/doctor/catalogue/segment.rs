//! Findings about the Ethernet segment between the hosts and the clients: the switch, the cables, other machines.

use super::{BEGINS, Entry, Scope, Told};
use crate::doctor::Severity;

pub(super) const CLUSTER_MAC_REFUSED: Entry = Entry {
    name: "cluster-mac-refused",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "the NIC of this host does not take frames for the cluster MAC",
    symptom: "The cluster converges, and the clients of this host's share time out.",
    meaning: "Frames for the virtual IPs are sent to the cluster MAC (NLB: ClusterNetworkAddress). The daemon adds it to the NIC's \
              list of addresses. If it is not there, or the NIC, its driver or the hypervisor does not heed it, these frames are lost \
              here while heartbeats arrive.",
    cure: "Restart the daemon, which adds it again. If that does not help: have the NIC take all frames (ip link set INTERFACE promisc \
           on), and of a virtual machine allow it in the hypervisor (VMware: promiscuous mode and forged transmits; Hyper-V: MAC \
           address spoofing). docs/switches.md has more.",
    articles: &["KB812870", "Q193598"],
    told: Told::As(BEGINS),
};

pub(super) const BROADCAST_BLOCKED: Entry = Entry {
    name: "broadcast-blocked",
    severity: Severity::Warning,
    scope: Scope::Cluster,
    title: "the switch does not pass the hosts' broadcasts",
    symptom: "WLBS query: the host has converged only with itself; here the cluster goes on by direct heartbeats.",
    meaning: "Heartbeats go to the broadcast address (in multicast modes to the cluster MAC). They do not arrive, and those that are \
              sent to a host's own MAC do. The cluster works, with more frames, and a host that starts is found later.",
    cure: "Have the switch pass broadcasts with EtherType 0x886F: look for broadcast or storm control, private VLANs, and port isolation.",
    articles: &["KB812870", "Q193602"],
    told: Told::By(&[1008]),
};

pub(super) const DAEMON_SILENT: Entry = Entry {
    name: "daemon-silent",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "other hosts answer ARP, and no heartbeat of any arrives",
    symptom: "The host is in a state of convergence and does not come out of it.",
    meaning: "The machines of the other hosts are there, and their heartbeats are not: their daemons do not run, or something passes \
              ARP and stops EtherType 0x886F. They may be serving, so this host does not begin to.",
    cure: "See that the daemons of the other hosts run, and that switches and firewalls between them pass EtherType 0x886F. With two \
           hosts, if the other is surely not serving: switch its machine off.",
    articles: &["KB812870", "Q232711"],
    told: Told::By(&[1007]),
};

pub(super) const HEARTBEATS_LOST: Entry = Entry {
    name: "heartbeats-lost",
    severity: Severity::Warning,
    scope: Scope::Host,
    title: "heartbeats of other hosts are lost on the way",
    symptom: "Hosts come and go; convergence again and again.",
    meaning: "Heartbeats are numbered, and some numbers are missing: the switch, the cable, the NIC or this host's kernel drops frames. \
              A few do no harm; as many as the tolerance in a row cost a host.",
    cure: "Look for errors and drops (ip -s link show INTERFACE, ethtool -S INTERFACE, the switch's counters), for a full link, and \
           for a host that is overloaded.",
    articles: &["Q228942", "Q232711"],
    told: Told::As(BEGINS),
};

pub(super) const ONE_WAY: Entry = Entry {
    name: "one-way",
    severity: Severity::Error,
    scope: Scope::Cluster,
    title: "two hosts do not hear each other",
    symptom: "WLBS query shows different lists of hosts on different hosts; a host is kept out.",
    meaning: "Frames between two hosts get lost in one direction or in both, while others hear them. Such a pair cannot be in one \
              cluster, so the one with more of such links stays out, of equals the one with the higher ID.",
    cure: "Look at what lies between the two: port isolation, MAC filters, a firewall on one of them (nft list ruleset), a broken cable.",
    articles: &["KB812870", "Q193599"],
    told: Told::As(BEGINS),
};

pub(super) const CLUSTER_MAC_LEAKED: Entry = Entry {
    name: "cluster-mac-leaked",
    severity: Severity::Warning,
    scope: Scope::Host,
    title: "something sends frames with the cluster MAC as their source",
    symptom: "The cluster appears to stop servicing clients; after a restart of the hosts it works for a while.",
    meaning: "A switch that sees the cluster MAC as a source learns it for that port, and then sends the clients' frames there alone. \
              Covey never sends such frames, and its guard stops those of programs on a host. Sniffers that announce themselves, \
              bridges and virtual machines that copy the MAC send them.",
    cure: "End the program that sends them. A frame that has left in spite of the guard makes the switch forget others for as long as its \
           address table lasts, usually five minutes: clear the entry there, or wait.",
    articles: &["Q258609", "Q227812"],
    told: Told::As(BEGINS),
};

pub(super) const FOREIGN_NLB: Entry = Entry {
    name: "foreign-nlb",
    severity: Severity::Warning,
    scope: Scope::Cluster,
    title: "a host of Microsoft's NLB uses this cluster's address",
    symptom: "Clients are answered twice, or by the wrong cluster.",
    meaning: "Heartbeats of NLB arrive that name this cluster's virtual IP. The two cannot form one cluster, and both answer clients.",
    cure: "Give one of the two clusters another virtual IP, or stop NLB on that host.",
    articles: &["Q197863"],
    told: Told::By(&[1017]),
};

pub(super) const ALONE_WITHOUT_FALLBACK: Entry = Entry {
    name: "alone-without-fallback",
    severity: Severity::Warning,
    scope: Scope::Host,
    title: "this host is alone, and may not look for others by unicast",
    symptom: "WLBS query: converged as DEFAULT with the following host(s) as part of the cluster: only itself, on every host.",
    meaning: "With unicast_fallback = false hosts know each other by broadcast alone. If the switch does not pass broadcasts, every host \
              converges with itself, all of them serve, and clients are answered several times.",
    cure: "Have the switch pass broadcasts with EtherType 0x886F, or leave unicast_fallback out: hosts that know of each other then go on \
           by direct heartbeats, and say that broadcasts are blocked.",
    articles: &["KB812870"],
    told: Told::As(BEGINS),
};

pub(super) const GROUP_NOT_RECEIVED: Entry = Entry {
    name: "group-not-received",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "the cluster's multicast frames do not reach this host",
    symptom: "A host in multicast or IGMP mode drops out of the cluster, and is there again after a query or a while later; in the switch's \
              list of members it is missing.",
    meaning: "The switch has forgotten that this host is a member of the cluster's group, or was never told (multicast mode needs static \
              entries), or the NIC does not take the cluster MAC. Heartbeats go the same way as clients' packets, so the host stops \
              serving, and the others take its share. It has reported its membership again when it heard nobody.",
    cure: "Look at the switch whether the group has this host's port (bridge mdb show, show ip igmp snooping groups), whether a querier asks \
           and the host's answers arrive there, and whether the NIC takes the MAC (ip maddress). Or leave IGMP, as the article says: a VLAN \
           for the cluster and mode = \"unicast\".",
    articles: &["KB838408", "KB812870"],
    told: Told::As(BEGINS),
};

pub(super) const SEGMENT_NOT_SHARED: Entry = Entry {
    name: "segment-not-shared",
    severity: Severity::Warning,
    scope: Scope::Cluster,
    title: "the hosts are on a segment of their own, without clients or routers",
    symptom: "The cluster converges, and no client reaches it.",
    meaning: "The hosts hear each other, and nobody else is ever seen on the cluster's segment: their NICs may be joined by a crossover \
              cable or a switch of their own, apart from the network of the clients. If the gateway does not answer either it is a warning. \
              Without a gateway on this network it is said after a minute and for information: a cluster that nobody has used yet looks \
              the same.",
    cure: "See where the cables of the cluster's NICs end: all must be on the network by which clients come. Do not use a crossover cable \
           between them.",
    articles: &["KB812870"],
    told: Told::As(BEGINS),
};

pub(super) const GATEWAY_SILENT: Entry = Entry {
    name: "gateway-silent",
    severity: Severity::Warning,
    scope: Scope::Host,
    title: "the gateway of the cluster's network does not answer",
    symptom: "Clients on the cluster's own network are served, and those behind the router are not.",
    meaning: "Answers to clients behind a router leave by a gateway on the cluster's network, and that gateway does not tell its MAC when \
              this host asks for it. It is off, or its address is wrong in this host's routes, or it is on another segment.",
    cure: "See whether the gateway is on, whether this host's default route names it (ip route), and whether it is on the segment of the \
           cluster's NIC.",
    articles: &["KB812870"],
    told: Told::As(BEGINS),
};

pub(super) const HUB_WITH_MASKING: Entry = Entry {
    name: "hub-with-masking",
    severity: Severity::Warning,
    scope: Scope::Cluster,
    title: "the hosts are on a hub, and masking is on",
    symptom: "Poor performance of a switch above the hub; the upper switch floods what is for the cluster.",
    meaning: "Frames between other machines arrive here, so the hosts are on a hub (or a switch that floods everything). Masking \
              keeps a switch from learning the cluster MAC; on a hub nobody learns, and the switch above it does well to learn it.",
    cure: "Set source_mac = \"cluster\" on all hosts (NLB: MaskSourceMAC = 0), or replace the hub by a switch.",
    articles: &["KB812870", "Q193602"],
    told: Told::As(BEGINS),
};

pub(super) const CLUSTER_MAC_LEARNED: Entry = Entry {
    name: "cluster-mac-learned",
    severity: Severity::Error,
    scope: Scope::Cluster,
    title: "the switch sends frames for the cluster to one host only",
    symptom: "The cluster appears to stop servicing clients: only one host's clients are served. Rebooting the hosts appears to help.",
    meaning: "The switch has learned the cluster MAC at one port, from a frame with that source, and sends the clients' frames there \
              alone. The others own buckets and get nothing for them.",
    cure: "Clear the address table of the switch (or at least the cluster MAC), or take the link of that port down and up again. Find what \
           sends frames with that source on that host: sniffers, bridges, virtual machines. See that port security is off, and that no \
           static entry binds the MAC to one port.",
    articles: &["Q258609", "Q193602"],
    told: Told::As(BEGINS),
};

pub(super) const CLUSTER_MAC_NOT_FLOODED: Entry = Entry {
    name: "cluster-mac-not-flooded",
    severity: Severity::Error,
    scope: Scope::Cluster,
    title: "the switch passes frames for the cluster to no host",
    symptom: "The cluster converges, and no client reaches it.",
    meaning: "The hosts' own MACs are reached and the cluster MAC is not, on any host: the switch does not flood frames to MACs that it has \
              not learned, and this one must never be learned.",
    cure: "Switch flooding of unknown unicast on for these ports (look for \"unknown unicast flood blocking\" and storm control; in a \
           virtual switch for promiscuous ports), put a static entry for the cluster MAC on all of them, or use a multicast mode.",
    articles: &["Q193602"],
    told: Told::As(BEGINS),
};

pub(super) const DUPLICATE_VIP: Entry = Entry {
    name: "duplicate-vip",
    severity: Severity::Error,
    scope: Scope::Cluster,
    title: "another machine says that it has a virtual IP",
    symptom: "IP address conflict after installing WLBS; some clients reach another machine.",
    meaning: "Somebody answers ARP for a virtual IP with another MAC than the cluster's: a machine that has the address as its own, a host \
              with another cluster MAC, or a router that answers for others (proxy ARP). Virtual IPv6 addresses are not looked for: who asks first whether one is free, as every \
              machine does, is refused it by the hosts.",
    cure: "Find the machine with that MAC (the switch's address table says at which port) and take the address away from it, or switch proxy \
           ARP off there.",
    articles: &["Q193598"],
    told: Told::As(BEGINS),
};

pub(super) const NO_QUERIER: Entry = Entry {
    name: "no-querier",
    severity: Severity::Warning,
    scope: Scope::Cluster,
    title: "nobody on the segment asks for multicast members",
    symptom: "In IGMP mode all is well at first; after some minutes hosts are removed from the switch's membership list, and clients time out.",
    meaning: "Hosts report their membership when a querier asks, usually a router or the switch itself. Nobody has asked for longer than a \
              switch remembers members, so one that snoops forgets them, and then floods the cluster's frames or drops them.",
    cure: "Switch a querier on (in the switch: IGMP snooping querier; on a Linux bridge: mcast_querier 1). Where there can be none, have the \
           hosts report by themselves (igmp_report_interval = \"60s\"), or use unicast mode in a VLAN of its own.",
    articles: &["KB838408"],
    told: Told::By(&[1106]),
};

pub(super) const VIP_UNREACHABLE_BY_MULTICAST: Entry = Entry {
    name: "vip-unreachable-by-multicast",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "the switch passes heartbeats to the cluster's multicast MAC, and not clients' packets",
    symptom: "In multicast or IGMP mode the cluster converges and serves no one.",
    meaning: "A switch that snoops IGMP may look up the destination IP of a packet, not its MAC. A virtual IP is no multicast group, so \
              nobody is a member, and the packet goes nowhere, while heartbeats, which are not IP, are flooded.",
    cure: "Set announce_mrouter = true, so that the switch takes the hosts' ports for those of routers, which get every group; or mark the \
           ports as multicast router ports in the switch, or switch snooping off there. Or use unicast mode in a VLAN of its own, which a \
           reload on one host after the other does.",
    articles: &["KB838408", "Q193602"],
    told: Told::As(BEGINS),
};

pub(super) const MTU_DIFFERS: Entry = Entry {
    name: "mtu-differs",
    severity: Severity::Warning,
    scope: Scope::Cluster,
    title: "the hosts' NICs have different MTUs",
    symptom: "Large transfers hang on some hosts and work on others; small requests are fine everywhere.",
    meaning: "A packet that one host's NIC takes is too large for another's. What the network between them carries is one size; one of the \
              hosts is wrong about it.",
    cure: "Give all of them the MTU of the segment: ip link set INTERFACE mtu BYTES, and make it last.",
    articles: &["Q247819"],
    told: Told::As(BEGINS),
};

//! Findings about one machine: its daemon, its NIC, its kernel's settings, its services.

use super::{BEGINS, Entry, Scope, Told};
use crate::doctor::Severity;

pub(super) const DAEMON_NOT_RUNNING: Entry = Entry {
    name: "daemon-not-running",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "no covey daemon runs on this host",
    symptom: "wlbs query fails; the other hosts have taken over this host's share.",
    meaning: "Nothing answers at the control socket of this network namespace. Without its daemon a host takes no part in the \
              cluster; what a daemon that died has left behind stops serving when its lease ends.",
    cure: "Start it (systemctl start covey, or covey run) and see what its log says. If it runs in another network namespace, run \
           covey doctor there.",
    articles: &["Q192467"],
    told: Told::As(BEGINS),
};

pub(super) const DAEMON_HANGS: Entry = Entry {
    name: "daemon-hangs",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "the covey daemon of this host does not answer",
    symptom: "Every command waits and then says that the daemon did not answer; the other hosts have taken over its share.",
    meaning: "The control socket is open, but nobody answers on it in time: the process is stopped, waits for something, or gets \
              no processor. The host has stopped serving by itself when its lease ran out.",
    cure: "Look what holds it up (ps -o pid,stat,wchan,cmd -C covey; state T is stopped: kill -CONT continues it), and restart it \
           if need be.",
    articles: &["Q228942"],
    told: Told::As(BEGINS),
};

pub(super) const CONFIGURATION_WRONG: Entry = Entry {
    name: "configuration-wrong",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "the configuration file of this host has errors",
    symptom: "covey reload is refused, or the daemon does not start.",
    meaning: "The file was changed since the daemon read it, or the machine was (an address or an interface that it names is \
              gone). A daemon that runs goes on with what it has; it would not start again.",
    cure: "covey check --config FILE says each error with its line. Correct them, then covey reload.",
    articles: &["Q193601"],
    told: Told::As(BEGINS),
};

pub(super) const LINK_DOWN: Entry = Entry {
    name: "link-down",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "the NIC of this host has no link",
    symptom: "The host is alone in wlbs query and serves nobody.",
    meaning: "The interface is switched off or has no carrier. The host hears nobody and is heard by nobody, so it does not serve.",
    cure: "Plug in the cable, look at the switch's port, or switch the interface on (ip link set INTERFACE up).",
    articles: &["KB812870"],
    told: Told::As(BEGINS),
};

pub(super) const FILTER_DETACHED: Entry = Entry {
    name: "filter-detached",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "the filter is not on the NIC of this host",
    symptom: "Clients are answered by several hosts, or get resets.",
    meaning: "No XDP program is attached to the interface, though the daemon runs: something has taken it away. Without it the \
              kernel takes every packet for the virtual IPs, not only this host's share.",
    cure: "Stop this host at once (covey stop), find what changes XDP programs on the interface, and restart the daemon.",
    articles: &[],
    told: Told::As(BEGINS),
};

pub(super) const VIP_MISSING: Entry = Entry {
    name: "vip-missing",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "a virtual IP is not an address of this host",
    symptom: "Clients of this host's share time out, or its services cannot bind to the virtual IP.",
    meaning: "The daemon puts IPv4 virtual IPs on lo and IPv6 ones on the NIC. If one is gone the filter lets this host's packets \
              in, and the kernel drops them because the address is not its own.",
    cure: "Put it back (ip address add VIP/32 dev lo; of IPv6 ip address add VIP/128 dev INTERFACE nodad), or restart the daemon, \
           and find what removes addresses: network managers do, if they were not told to leave lo alone.",
    articles: &["Q192466", "Q232000"],
    told: Told::As(BEGINS),
};

pub(super) const VIP_ELSEWHERE: Entry = Entry {
    name: "vip-elsewhere",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "a virtual IP is on an interface where it does not belong",
    symptom: "Outgoing connections of the host get no answer; address conflicts; other hosts' clients come here.",
    meaning: "An IPv4 virtual IP on a NIC is announced to that network, and chosen as the source of connections that this host \
              opens, whose answers then go to another host of the cluster. The daemon has it on lo, where neither happens.",
    cure: "Remove it there (ip address del VIP/PREFIX dev INTERFACE) and from the machine's network configuration: covey adds the \
           virtual IPs by itself.",
    articles: &["Q198888", "Q197992", "Q193598"],
    told: Told::As(BEGINS),
};

pub(super) const SYSCTL_ARP: Entry = Entry {
    name: "sysctl-arp",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "the kernel's ARP settings do not fit",
    symptom: "The cluster cannot be pinged, or some clients never find it; WLBS does not respond to ARP requests.",
    meaning: "The kernel must answer ARP for addresses on lo (arp_ignore 0) and never ask in the name of one (arp_announce 2). The \
              greater of the values for all interfaces and for this one counts.",
    cure: "Set them: sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.INTERFACE.arp_ignore=0 \
           net.ipv4.conf.INTERFACE.arp_announce=2. Look in /etc/sysctl.d: settings for LVS direct routing are the opposite.",
    articles: &["Q244091"],
    told: Told::As(BEGINS),
};

pub(super) const LOOPBACK_DOWN: Entry = Entry {
    name: "loopback-down",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "lo is switched off on this host",
    symptom: "Clients of this host's share time out.",
    meaning: "The IPv4 virtual IPs are on lo. While it is down the kernel does not deliver packets to them.",
    cure: "Switch it on: ip link set lo up.",
    articles: &[],
    told: Told::As(BEGINS),
};

pub(super) const NO_OWN_IPV6: Entry = Entry {
    name: "no-own-ipv6",
    severity: Severity::Warning,
    scope: Scope::Host,
    title: "the NIC has no IPv6 address of its own, and the cluster has IPv6 virtual IPs",
    symptom: "IPv6 clients of this host's share time out; outgoing IPv6 connections get no answer.",
    meaning: "Without an address of its own in any network the host has no route to the clients there, or takes a virtual IP as the \
              source of what it sends.",
    cure: "Give it one: ip address add ADDRESS/PREFIX dev INTERFACE.",
    articles: &["Q198888"],
    told: Told::As(BEGINS),
};

pub(super) const RP_FILTER: Entry = Entry {
    name: "rp-filter",
    severity: Severity::Warning,
    scope: Scope::Host,
    title: "strict reverse-path filtering drops clients' packets",
    symptom: "Clients on the same network are served, clients from elsewhere time out on this host.",
    meaning: "With rp_filter 1 the kernel drops a packet if its answer would leave by another interface than the one it came by. \
              Distant clients' packets come in by the cluster's NIC, and this host's route to them is another one, or there is none.",
    cure: "Set it to 2, which asks only whether there is a route (sysctl -w net.ipv4.conf.all.rp_filter=2), or give this host a \
           default route by the cluster's NIC.",
    articles: &["Q197991"],
    told: Told::As(BEGINS),
};

pub(super) const REPLIES_BY_ANOTHER_NIC: Entry = Entry {
    name: "replies-by-another-nic",
    severity: Severity::Info,
    scope: Scope::Host,
    title: "answers to distant clients leave by another NIC",
    symptom: "None, if the network there takes packets with the virtual IP as source; else distant clients time out.",
    meaning: "Requests come in by the cluster's NIC and answers go out where the default route points, with that NIC's MAC. That \
              works, and may even be wanted, unless a router or firewall there checks sources.",
    cure: "If distant clients time out: give the virtual IPs a route of their own by the cluster's NIC (ip rule add from VIP lookup \
           TABLE), or allow them as source there.",
    articles: &["Q197991"],
    told: Told::As(BEGINS),
};

pub(super) const TEAMING: Entry = Entry {
    name: "teaming",
    severity: Severity::Warning,
    scope: Scope::Host,
    title: "the cluster's NIC is a team, or part of one",
    symptom: "The cluster does not converge, or hosts come and go; duplicate packets.",
    meaning: "Teaming and bonding drivers choose by themselves on which port frames leave and under which MAC, and some drop \
              frames to a MAC that is not the team's: the cluster MAC is not.",
    cure: "Take the NIC out of the team while you look for the fault. If it works then, use a mode that does not touch MACs \
           (active-backup with fail_over_mac=none, or 802.3ad with the switch set up for it) and give covey the team as its \
           interface, never one of its ports.",
    articles: &["KB812870"],
    told: Told::As(BEGINS),
};

pub(super) const LARGE_RECEIVE_OFFLOAD: Entry = Entry {
    name: "large-receive-offload",
    severity: Severity::Warning,
    scope: Scope::Host,
    title: "the NIC merges packets before the filter sees them",
    symptom: "Slow or broken transfers; counters that do not add up.",
    meaning: "With large receive offload (or receive coalescing in hardware) the NIC puts several packets together into one that \
              no longer is what was sent. The filter decides about packets as they came, and drivers refuse native XDP meanwhile.",
    cure: "Switch it off: ethtool -K INTERFACE lro off rx-gro-hw off, and make it last in the machine's network configuration.",
    articles: &["Q248279"],
    told: Told::As(BEGINS),
};

pub(super) const GENERIC_XDP: Entry = Entry {
    name: "generic-xdp",
    severity: Severity::Info,
    scope: Scope::Host,
    title: "the filter runs after the driver, not in it",
    symptom: "More processor time per packet than need be.",
    meaning: "The driver of the NIC takes no XDP program, or was not asked to (daemon.xdp). Everything works; dropping a packet of \
              another host's share costs more.",
    cure: "Nothing need be done. A NIC whose driver supports XDP is faster; daemon.xdp = \"native\" says why it is not used.",
    articles: &[],
    told: Told::As(BEGINS),
};

pub(super) const NO_REALTIME: Entry = Entry {
    name: "no-realtime",
    severity: Severity::Info,
    scope: Scope::Host,
    title: "the daemon has no priority over other programs",
    symptom: "Under heavy load the host stops serving for a moment now and then, with event 1004.",
    meaning: "The configuration asks for real-time priority and locked memory (daemon.realtime), and the kernel has refused one of \
              them. On a busy machine heartbeats may then be late.",
    cure: "Let it have CAP_SYS_NICE and CAP_IPC_LOCK (the unit packaging/covey.service does), or a real-time budget in its control \
           group (cpu.rt_runtime_us); or set daemon.realtime = false.",
    articles: &["Q228942"],
    told: Told::As(BEGINS),
};

pub(super) const STARVED: Entry = Entry {
    name: "starved",
    severity: Severity::Warning,
    scope: Scope::Host,
    title: "the daemon did not run in time",
    symptom: "The host stops servicing client requests for a while, with events 105 and 1004, and comes back by itself.",
    meaning: "The daemon's timers fired so late that its lease was in danger or ended: it was stopped, got no processor, or the \
              whole machine stood still (a virtual machine that was paused or moved). It fences itself then, and the others take over.",
    cure: "Relieve the host: look for other load, a flood of packets, swapping, a hypervisor that pauses it. If it cannot be helped, \
           allow more (cluster.period, cluster.tolerance).",
    articles: &["Q228942"],
    told: Told::By(&[105]),
};

pub(super) const SERVICE_NOT_LISTENING: Entry = Entry {
    name: "service-not-listening",
    severity: Severity::Warning,
    scope: Scope::Host,
    title: "nothing on this host listens for a port rule",
    symptom: "A part of the clients is refused, always the same part: a load-balanced application does not work properly.",
    meaning: "The host takes its share of a rule's clients and has no program to serve them; heartbeats say nothing about programs. Or \
              the service is in another network namespace, behind a forwarded port: then its connections cannot be seen, and break \
              when the map changes.",
    cure: "Start the service, on the virtual IP or on all addresses; or take no share of the rule here (covey drain PORT, or weight 0).",
    articles: &["Q233178", "Q194892"],
    told: Told::As(1105),
};

pub(super) const CLIENTS_REFUSED: Entry = Entry {
    name: "clients-refused",
    severity: Severity::Warning,
    scope: Scope::Host,
    title: "a service of this host does not take its connections fast enough",
    symptom: "Clients wait long for a connection, or do not get one, while the host seems to be well.",
    meaning: "Connections wait in a listening queue until the program takes them. When it is full the kernel refuses more.",
    cure: "See which: ss -ltn shows Recv-Q at the limit in Send-Q. Make the service faster, its queue longer (listen's backlog and \
           net.core.somaxconn), or give the host a smaller weight.",
    articles: &["Q228942", "Q233178"],
    told: Told::As(BEGINS),
};

//! Findings about what the hosts agree on: rules, identity, keys, who is there.

use super::{BEGINS, Entry, Scope, Told};
use crate::doctor::Severity;

pub(super) const NO_RULE_FOR_TRAFFIC: Entry = Entry {
    name: "no-rule-for-traffic",
    severity: Severity::Info,
    scope: Scope::Host,
    title: "most traffic is under no port rule",
    symptom: "WLBS cluster is not load balancing: one host does all the work.",
    meaning: "Traffic that no port rule covers goes to the default host alone, as in NLB. Most of what this host takes is of that kind.",
    cure: "If it should be shared, add a port rule for it on all hosts; covey why CLIENT VIP:PORT says which rule covers a packet.",
    articles: &["Q198552", "Q203597"],
    told: Told::As(BEGINS),
};

pub(super) const NOT_CONVERGED: Entry = Entry {
    name: "not-converged",
    severity: Severity::Error,
    scope: Scope::Host,
    title: "this host does not converge",
    symptom: "WLBS query: has entered a converging state 1 time(s) since joining the cluster and is still in a state of convergence.",
    meaning: "The host takes part and has not come to a map for far longer than that takes. It does not serve, or serves by the map before.",
    cure: "See what it waits for, below, and the other findings: they name the cause.",
    articles: &["KB812870", "Q193599", "Q232997"],
    told: Told::As(BEGINS),
};

pub(super) const ALONE: Entry = Entry {
    name: "alone",
    severity: Severity::Info,
    scope: Scope::Host,
    title: "this host is the whole cluster",
    symptom: "WLBS query: converged as DEFAULT with the following host(s) as part of the cluster: only itself.",
    meaning: "It hears no other host. That is as it should be in a cluster of one, or when the others have been stopped. If others \
              should be there, they do not run, are not on this segment, or have another primary virtual IP.",
    cure: "If there should be others: see that their daemons run, that the switch passes broadcasts with EtherType 0x886F, that no \
           crossover cable joins hosts apart from the clients' segment, and that all have the same first virtual IP.",
    articles: &["KB812870", "Q193599"],
    told: Told::As(BEGINS),
};

pub(super) const RULES_DIFFER: Entry = Entry {
    name: "rules-differ",
    severity: Severity::Error,
    scope: Scope::Cluster,
    title: "hosts have different virtual IPs, cluster MACs or port rules",
    symptom: "WLBS cluster fails to converge: one host stays out.",
    meaning: "All hosts must share virtual IPs, cluster MAC and port rules, or a client would be served twice or not at all. The odd host is kept \
              out, and the others go on.",
    cure: "Compare the configuration files, correct one and reload it (covey reload).",
    articles: &["Q193599", "Q198496", "Q232454", "Q193598"],
    told: Told::By(&[67, 110, 1006]),
};

pub(super) const MODE_DIFFERS: Entry = Entry {
    name: "mode-differs",
    severity: Severity::Error,
    scope: Scope::Cluster,
    title: "hosts are set to different modes",
    symptom: "WLBS cluster fails to converge; IP address conflict after installing WLBS.",
    meaning: "The mode decides which MAC the virtual IPs have. Hosts in different modes would give clients two answers, so the odd \
              host is kept out.",
    cure: "Give all hosts the same mode (cluster.mode), and reload them.",
    articles: &["Q193598", "Q193602"],
    told: Told::By(&[1015]),
};

pub(super) const DUPLICATE_HOST_ID: Entry = Entry {
    name: "duplicate-host-id",
    severity: Severity::Error,
    scope: Scope::Cluster,
    title: "two hosts use one host ID",
    symptom: "WLBS cluster fails to converge: duplicate host priority.",
    meaning: "The ID is also the host's priority and must be another on every host. The one that came later stays out.",
    cure: "Give one of the two another ID (host.id), and restart its daemon.",
    articles: &["Q193599"],
    told: Told::By(&[1005, 1014]),
};

pub(super) const EQUAL_PRIORITIES: Entry = Entry {
    name: "equal-priorities",
    severity: Severity::Warning,
    scope: Scope::Cluster,
    title: "two hosts have one handling priority for a single-host rule",
    symptom: "A single-host rule is served by another host than was meant.",
    meaning: "Of the hosts with the best handling priority one takes the traffic; of equals it is the one with the lower ID.",
    cure: "Give every host another handling priority for the rule, and reload them.",
    articles: &["Q193599", "Q198496"],
    told: Told::By(&[20]),
};

pub(super) const FLAPPING: Entry = Entry {
    name: "flapping",
    severity: Severity::Warning,
    scope: Scope::Cluster,
    title: "a host was lost again and again, and may not join for now",
    symptom: "A host that runs and is heard is not in WLBS query; before, the cluster converged again and again.",
    meaning: "Each loss of a host costs its clients its share for the tolerance. A host that was lost three times without a goodbye \
              waits, longer each time, before it may join again.",
    cure: "Find out why it fails: its log, its link, its power, covey doctor there. It is let in by itself when its time is over.",
    articles: &["Q232997"],
    told: Told::By(&[1020]),
};

pub(super) const KEY_DIFFERS: Entry = Entry {
    name: "key-differs",
    severity: Severity::Error,
    scope: Scope::Cluster,
    title: "frames of this cluster are signed with another key",
    symptom: "A host converges only with itself, or does not converge at all.",
    meaning: "Heartbeats arrive that name this cluster and whose signature is not by a key that this host has: a host has another key \
              file, or somebody forges frames. They change nothing.",
    cure: "Give all hosts of the cluster the same key file (cluster.key_file), or find who sends such frames (covey events names the \
           host and its address).",
    articles: &["Q193599"],
    told: Told::By(&[1016]),
};

pub(super) const UNSIGNED: Entry = Entry {
    name: "unsigned",
    severity: Severity::Warning,
    scope: Scope::Cluster,
    title: "some hosts sign their heartbeats and others do not",
    symptom: "A host converges only with itself, or does not converge at all.",
    meaning: "Either frames of this cluster arrive without a signature and this host asks for one, or they are signed and this host has \
              no key. They change nothing.",
    cure: "Give all hosts of the cluster the same key file (cluster.key_file), or none of them one (auth = \"none\").",
    articles: &["Q193599"],
    told: Told::By(&[1016]),
};

pub(super) const VERSIONS_DIFFER: Entry = Entry {
    name: "versions-differ",
    severity: Severity::Info,
    scope: Scope::Cluster,
    title: "hosts run different versions of Covey",
    symptom: "None; what only the newer version can do is not used yet.",
    meaning: "The cluster keeps to what all live hosts understand. During a rolling upgrade that is as it should be.",
    cure: "Bring the older hosts up to date; covey upgrade does it without an interruption.",
    articles: &["Q232711"],
    told: Told::By(&[1019]),
};

pub(super) const HOST_SILENT: Entry = Entry {
    name: "host-silent",
    severity: Severity::Warning,
    scope: Scope::Cluster,
    title: "a host has gone without a goodbye",
    symptom: "A host is missing in WLBS query.",
    meaning: "The host was a member, and is not heard any more: its machine or its daemon has failed, or its frames do not arrive. The \
              others have its share.",
    cure: "Look at the machine, its daemon and its cable. A host that is gone for good is forgotten when the daemons of the others are \
           restarted; one that is told to stop says goodbye.",
    articles: &["Q232711"],
    told: Told::By(&[1003]),
};

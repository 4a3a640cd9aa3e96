//! Every finding there is, in one place: its name, which is its identity everywhere, its number in heartbeats, and what
//! people are told of it. docs/troubleshooting.md is generated from here.
//!
//! Numbers and names are never used again for something else: hosts of other versions know them.
//! Used by [`super::Finding`] and by the guide. Specification: docs/design.md, "Doctor".

mod cluster;
mod machine;
mod segment;

use super::Severity;

/// What is told of a kind of finding, whatever the figures.
#[derive(Debug)]
pub struct Entry {
    /// Its name, in kebab-case.
    pub name: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// Whether all hosts see it, or each for itself.
    pub scope: Scope,
    /// In half a sentence.
    pub title: &'static str,
    /// What people notice, in their words and NLB's.
    pub symptom: &'static str,
    /// What it means, and how it comes about.
    pub meaning: &'static str,
    /// What to do.
    pub cure: &'static str,
    /// Articles of the Knowledge Base that it belongs to.
    pub articles: &'static [&'static str],
    /// Which event tells that it has begun.
    pub told: Told,
}

/// The event that tells that a finding has begun, unless it has one of its own.
pub const BEGINS: u16 = 1120;
/// The event that tells that a finding is no longer there.
pub const ENDS: u16 = 1121;

/// Which event tells that a finding has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// This one, at the daemon's check-up.
    As(u16),
    /// One of these, by whoever sees it happen.
    By(&'static [u16]),
}

/// Whose finding it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// That of the host that finds it.
    Host,
    /// The cluster's: whoever sees it sees the same.
    Cluster,
}

/// Defines [`Kind`]: variant, number and entry of each.
macro_rules! kinds {
    ($($variant:ident = $number:literal => $entry:path,)*) => {
        /// A kind of finding. The number is what heartbeats carry.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "the entries of the catalogue say what each is")]
        pub enum Kind {
            $($variant = $number,)*
        }

        impl Kind {
            /// All of them, in the order of their numbers.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$variant),*];

            /// What is told of it.
            pub const fn entry(self) -> &'static Entry {
                match self { $(Self::$variant => &$entry,)* }
            }
        }
    };
}

kinds! {
    DaemonNotRunning = 1 => machine::DAEMON_NOT_RUNNING,
    DaemonHangs = 2 => machine::DAEMON_HANGS,
    ConfigurationWrong = 3 => machine::CONFIGURATION_WRONG,
    LinkDown = 4 => machine::LINK_DOWN,
    FilterDetached = 5 => machine::FILTER_DETACHED,
    VipMissing = 6 => machine::VIP_MISSING,
    VipElsewhere = 7 => machine::VIP_ELSEWHERE,
    ClusterMacRefused = 8 => segment::CLUSTER_MAC_REFUSED,
    SysctlArp = 9 => machine::SYSCTL_ARP,
    LoopbackDown = 10 => machine::LOOPBACK_DOWN,
    NoOwnIpv6 = 11 => machine::NO_OWN_IPV6,
    RpFilter = 12 => machine::RP_FILTER,
    RepliesByAnotherNic = 13 => machine::REPLIES_BY_ANOTHER_NIC,
    Teaming = 14 => machine::TEAMING,
    LargeReceiveOffload = 15 => machine::LARGE_RECEIVE_OFFLOAD,
    MtuDiffers = 16 => segment::MTU_DIFFERS,
    GenericXdp = 17 => machine::GENERIC_XDP,
    NoRealtime = 18 => machine::NO_REALTIME,
    Starved = 19 => machine::STARVED,
    ServiceNotListening = 20 => machine::SERVICE_NOT_LISTENING,
    ClientsRefused = 21 => machine::CLIENTS_REFUSED,
    NoRuleForTraffic = 22 => cluster::NO_RULE_FOR_TRAFFIC,
    NotConverged = 23 => cluster::NOT_CONVERGED,
    Alone = 24 => cluster::ALONE,
    BroadcastBlocked = 25 => segment::BROADCAST_BLOCKED,
    AloneWithoutFallback = 26 => segment::ALONE_WITHOUT_FALLBACK,
    DaemonSilent = 27 => segment::DAEMON_SILENT,
    HeartbeatsLost = 28 => segment::HEARTBEATS_LOST,
    OneWay = 29 => segment::ONE_WAY,
    SegmentNotShared = 30 => segment::SEGMENT_NOT_SHARED,
    HubWithMasking = 31 => segment::HUB_WITH_MASKING,
    ClusterMacLearned = 32 => segment::CLUSTER_MAC_LEARNED,
    ClusterMacLeaked = 33 => segment::CLUSTER_MAC_LEAKED,
    DuplicateVip = 34 => segment::DUPLICATE_VIP,
    NoQuerier = 35 => segment::NO_QUERIER,
    VipUnreachableByMulticast = 36 => segment::VIP_UNREACHABLE_BY_MULTICAST,
    RulesDiffer = 37 => cluster::RULES_DIFFER,
    ModeDiffers = 38 => cluster::MODE_DIFFERS,
    DuplicateHostId = 39 => cluster::DUPLICATE_HOST_ID,
    EqualPriorities = 40 => cluster::EQUAL_PRIORITIES,
    Flapping = 41 => cluster::FLAPPING,
    KeyDiffers = 42 => cluster::KEY_DIFFERS,
    Unsigned = 43 => cluster::UNSIGNED,
    ForeignNlb = 44 => segment::FOREIGN_NLB,
    VersionsDiffer = 45 => cluster::VERSIONS_DIFFER,
    HostSilent = 46 => cluster::HOST_SILENT,
    ClusterMacNotFlooded = 47 => segment::CLUSTER_MAC_NOT_FLOODED,
    GatewaySilent = 48 => segment::GATEWAY_SILENT,
    GroupNotReceived = 49 => segment::GROUP_NOT_RECEIVED,
}

impl Kind {
    /// Its name.
    pub const fn name(self) -> &'static str {
        self.entry().name
    }

    /// Its number in heartbeats.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The name of the finding with this number; a number that this version does not know is its own name.
    pub fn name_of(number: u8) -> String {
        let known = Self::ALL.into_iter().find(|kind| kind.number() == number);
        known.map_or_else(
            || format!("finding-{number}"),
            |kind| kind.name().to_owned(),
        )
    }
}

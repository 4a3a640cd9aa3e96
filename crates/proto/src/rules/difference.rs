//! What differs between two rule sets, in words, so that an operator need not compare files.
//!
//! Made when a host is kept out for its rules (`cluster/odd.rs`), told in an event and in the status.
//! Specification: docs/design.md, "Membership"; NLB's rules for what must agree: NLB facts §3.4.

use super::{Affinity, FilterMode, PortRule, RuleSet};
use crate::delivery::Delivery;
use std::fmt;
use std::net::IpAddr;

/// The first thing in which another host's rule set differs from this host's, in the order of importance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleDifference {
    /// The virtual IPs (NLB's event 110).
    Vips {
        /// Those that only the other host has.
        there: Vec<IpAddr>,
        /// Those that only this host has.
        here: Vec<IpAddr>,
    },
    /// The mode or the cluster MAC (Q232454).
    Delivery {
        /// The other host's.
        there: Delivery,
        /// This host's.
        here: Delivery,
    },
    /// The number of port rules (NLB's event 67).
    Count {
        /// The other host's.
        there: usize,
        /// This host's.
        here: usize,
    },
    /// One port rule.
    Rule {
        /// Which, counted from 1.
        number: usize,
        /// The other host's.
        there: PortRule,
        /// This host's.
        here: PortRule,
    },
}

impl RuleSet {
    /// How `there`, another host's rule set, differs from this one; `None` if it does not.
    pub fn difference(&self, there: &Self) -> Option<RuleDifference> {
        let only = |of: &Self, other: &Self| -> Vec<IpAddr> {
            let missing = of.vips.iter().filter(|vip| !other.vips.contains(vip));
            missing.copied().collect()
        };
        if self.vips != there.vips {
            let (there, here) = (only(there, self), only(self, there));
            return Some(RuleDifference::Vips { there, here });
        }
        if self.delivery != there.delivery {
            let (there, here) = (there.delivery, self.delivery);
            return Some(RuleDifference::Delivery { there, here });
        }
        if self.rules.len() != there.rules.len() {
            let (there, here) = (there.rules.len(), self.rules.len());
            return Some(RuleDifference::Count { there, here });
        }
        let pairs = (1..).zip(self.rules.iter().zip(&there.rules));
        let differing = pairs.into_iter().find(|(_, (here, there))| here != there);
        differing.map(|(number, (here, there))| RuleDifference::Rule {
            number,
            there: there.clone(),
            here: here.clone(),
        })
    }
}

impl fmt::Display for RuleDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vips { there, here } => match (list(here), list(there)) {
                (None, None) => f.write_str("the virtual IPs stand in another order"),
                (Some(here), None) => write!(f, "virtual IP {here} is missing there"),
                (None, Some(there)) => write!(f, "virtual IP {there} is missing here"),
                (Some(here), Some(there)) => write!(
                    f,
                    "virtual IP {here} is missing there and {there} is missing here"
                ),
            },
            Self::Delivery { there, here } if there.mode() != here.mode() => {
                let (there, here) = (there.mode(), here.mode());
                write!(f, "it has mode {there}, this host {here}")
            }
            Self::Delivery { there, here } => {
                let (there, here) = (there.mac(), here.mac());
                write!(f, "the cluster MAC is {there} there and {here} here")
            }
            Self::Count { there, here } => {
                let plural = if *there == 1 { "" } else { "s" };
                write!(f, "it has {there} port rule{plural}, this host has {here}")
            }
            Self::Rule {
                number,
                there,
                here,
            } => {
                let (what_there, what_here) = (there.traffic(), here.traffic());
                if what_there != what_here {
                    return write!(
                        f,
                        "port rule {number} is {what_there} there and {what_here} here"
                    );
                }
                write!(f, "port rule {number} ({what_here}) ")?;
                if there.mode == here.mode {
                    let (there, here) = (stickiness(there), stickiness(here));
                    return write!(f, "is {there} there and {here} here");
                }
                match (there.mode, here.mode) {
                    (
                        FilterMode::Multiple { affinity: there },
                        FilterMode::Multiple { affinity: here },
                    ) => {
                        let (there, here) = (affinity_name(there), affinity_name(here));
                        write!(f, "has affinity {there} there and {here} here")
                    }
                    (there, here) => {
                        let (there, here) = (mode_name(there), mode_name(here));
                        write!(f, "has filtering mode {there} there and {here} here")
                    }
                }
            }
        }
    }
}

fn list(addresses: &[IpAddr]) -> Option<String> {
    let names: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn stickiness(rule: &PortRule) -> String {
    rule.sticky.map_or("not sticky".to_owned(), |sticky| {
        format!("sticky for {} s", sticky.as_secs())
    })
}

const fn affinity_name(affinity: Affinity) -> &'static str {
    match affinity {
        Affinity::None => "none",
        Affinity::Single => "single",
        Affinity::Network => "network",
    }
}

const fn mode_name(mode: FilterMode) -> &'static str {
    match mode {
        FilterMode::Multiple { .. } => "multiple",
        FilterMode::Single => "single",
        FilterMode::Disabled => "disabled",
    }
}

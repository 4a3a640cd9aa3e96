//! Port rules whose service is nowhere to be seen on this host. Nothing listens, so clients that are sent here are
//! refused; or the service lies behind a forwarded port in another network namespace, where neither the filter nor the
//! daemon can see its connections, and they break when the map changes. Looked for once per set of rules, by the
//! daemon. Specification: docs/design.md, "Connections".

use crate::sockets::{self, SocketsError};
use covey_proto::ids::Digest;
use covey_proto::rules::{FilterMode, PortRule, Protocol, RuleSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The number of the event.
pub(super) const UNSERVED: u16 = 1105;
/// A host that boots starts its services beside this daemon, or after it.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// Port rules without a service.
pub(super) struct Unserved {
    /// The rules that were looked at.
    pub(super) under: Digest,
    /// Numbers of port rules, from 1.
    numbers: Vec<usize>,
    rules: Arc<RuleSet>,
}

/// Looks in this thread's network namespace.
///
/// # Errors
/// If the kernel does not list its sockets.
pub(super) fn look(rules: Arc<RuleSet>) -> Result<Unserved, SocketsError> {
    let listeners = sockets::listeners()?;
    Ok(Unserved {
        under: rules.digest(),
        numbers: unserved(&rules, &listeners),
        rules,
    })
}

impl Unserved {
    /// What people are told of each rule.
    pub(super) fn tell(&self) -> impl Iterator<Item = String> {
        self.numbers.iter().map(|number| {
            let traffic = self.rules.rules()[number - 1].traffic();
            format!(
                "nothing on this host listens for port rule {number} ({traffic}): clients that are sent here are \
                 refused; start its service, or give this host weight 0 for the rule. If the service is in another \
                 network namespace, behind a forwarded port, its connections cannot be seen and break when the map \
                 changes: let it listen on the virtual IP in the host's own namespace"
            )
        })
    }
}

/// The numbers of rules for TCP of which no port has a listener on an address of theirs.
fn unserved(rules: &RuleSet, listeners: &[SocketAddr]) -> Vec<usize> {
    let served = |rule: &PortRule| {
        let vips = match &rule.vip {
            Some(vip) => std::slice::from_ref(vip),
            None => rules.vips(),
        };
        listeners.iter().any(|listener| {
            let fits = |vip: &IpAddr| takes(listener.ip(), *vip);
            (rule.start..=rule.end).contains(&listener.port()) && vips.iter().any(fits)
        })
    };
    let wanted = |rule: &PortRule| {
        rule.mode != FilterMode::Disabled && matches!(rule.protocol, Protocol::Tcp | Protocol::Both)
    };
    (1..)
        .zip(rules.rules())
        .filter(|(_, rule)| wanted(rule) && !served(rule))
        .map(|(number, _)| number)
        .collect()
}

/// Whether a listener at this address is there for connections to a virtual IP. One at the IPv6 wildcard is there for
/// both families, unless it says otherwise, which is not asked.
fn takes(listener: IpAddr, vip: IpAddr) -> bool {
    listener == vip || (listener.is_unspecified() && (listener.is_ipv6() || vip.is_ipv4()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use covey_filter::Affinity;

    const VIPS: [&str; 2] = ["10.77.0.100", "fd77::100"];

    fn rule(start: u16, end: u16, protocol: Protocol) -> PortRule {
        PortRule {
            vip: None,
            start,
            end,
            protocol,
            mode: FilterMode::Multiple {
                affinity: Affinity::Single,
            },
            sticky: None,
        }
    }

    fn found(rules: Vec<PortRule>, listeners: &[&str]) -> Vec<usize> {
        let vips = VIPS.map(|vip| vip.parse().unwrap()).to_vec();
        let rules = RuleSet::new(vips, rules).unwrap();
        let listeners: Vec<_> = listeners.iter().map(|at| at.parse().unwrap()).collect();
        unserved(&rules, &listeners)
    }

    #[test]
    fn a_listener_on_a_virtual_ip_or_on_all_addresses_serves() {
        let rules = || {
            vec![
                rule(80, 80, Protocol::Tcp),
                rule(1000, 2000, Protocol::Both),
            ]
        };
        for (listeners, missing) in [
            (&["0.0.0.0:80", "[::]:1500"][..], &[][..]),
            (&["10.77.0.100:80", "[fd77::100]:1000"], &[]),
            (&["127.0.0.1:80", "0.0.0.0:2001"], &[1, 2]),
            (&["10.77.0.1:80", "0.0.0.0:2000"], &[1]),
            (&[], &[1, 2]),
        ] {
            assert_eq!(found(rules(), listeners), missing, "{listeners:?}");
        }
    }

    #[test]
    fn a_rule_for_one_address_wants_a_listener_there() {
        let of = |vip: &str| PortRule {
            vip: Some(vip.parse().unwrap()),
            ..rule(80, 80, Protocol::Tcp)
        };
        let both = VIPS.map(of).to_vec();
        assert_eq!(found(both.clone(), &["10.77.0.100:80"]), [2]);
        assert_eq!(found(both.clone(), &["0.0.0.0:80"]), [2]);
        assert_eq!(found(both, &["[::]:80"]), [0; 0]);
    }

    #[test]
    fn rules_without_tcp_want_none() {
        let disabled = PortRule {
            mode: FilterMode::Disabled,
            ..rule(443, 443, Protocol::Tcp)
        };
        assert_eq!(
            found(vec![rule(53, 53, Protocol::Udp), disabled], &[]),
            [0; 0]
        );
    }
}

//! The view: which of the hosts that are heard can form a cluster together.
//!
//! Only hosts that hear each other in both directions can. Members of the committed map go first, so that a
//! newcomer with a bad link never pushes a member out; then newcomers are added that fit.
//! Specification: docs/design.md, "Membership".

use crate::ids::{HostId, HostSet, MAX_HOSTS};

/// Who hears whom, among hosts believed to be alive.
#[derive(Clone, Debug)]
pub(super) struct Hearing {
    hears: [HostSet; MAX_HOSTS as usize],
    /// Hosts with which a host hears each other.
    mutual: [HostSet; MAX_HOSTS as usize],
}

impl Hearing {
    /// From what each host hears.
    pub(super) fn new(rows: impl IntoIterator<Item = (HostId, HostSet)>) -> Self {
        let mut hears = [HostSet::EMPTY; MAX_HOSTS as usize];
        let mut heard_by = hears;
        for (host, heard) in rows {
            hears[host.index()] = heard;
            for other in heard.iter() {
                heard_by[other.index()].insert(host);
            }
        }
        let mut mutual = hears;
        for (mutual, heard_by) in mutual.iter_mut().zip(heard_by) {
            *mutual = mutual.intersection(heard_by);
        }
        Self { hears, mutual }
    }

    /// Hosts of `among` that do not hear `host` or that it does not hear.
    fn strangers(&self, host: HostId, among: HostSet) -> HostSet {
        among
            .without(self.mutual[host.index()])
            .without(HostSet::only(host))
    }

    /// The largest part of `hosts` that is left when the host with the most strangers is dropped again and
    /// again; of equals, the one with the highest ID.
    fn clique(&self, mut hosts: HostSet) -> HostSet {
        loop {
            let worst = hosts
                .iter()
                .map(|host| (self.strangers(host, hosts).len(), host))
                .filter(|(strangers, _)| *strangers > 0)
                .max();
            match worst {
                Some((_, host)) => hosts.remove(host),
                None => return hosts,
            }
        }
    }

    /// The view: the members that hear each other, and the newcomers that all of these hear.
    pub(super) fn view(&self, members: HostSet, newcomers: HostSet) -> HostSet {
        let core = self.clique(members);
        let fitting = newcomers
            .iter()
            .filter(|host| self.strangers(*host, core).is_empty())
            .collect();
        core.union(self.clique(fitting))
    }

    /// A pair within `hosts` of which the first does not hear the second, to tell people.
    pub(super) fn first_gap(&self, hosts: HostSet) -> Option<(HostId, HostId)> {
        hosts.iter().find_map(|host| {
            let unheard = hosts
                .without(self.hears[host.index()])
                .without(HostSet::only(host));
            unheard.lowest().map(|other| (host, other))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(ids: &[u8]) -> HostSet {
        ids.iter().map(|id| HostId::new(*id).unwrap()).collect()
    }

    fn hearing(pairs: &[(u8, &[u8])]) -> Hearing {
        Hearing::new(
            pairs
                .iter()
                .map(|(host, hears)| (HostId::new(*host).unwrap(), set(hears))),
        )
    }

    #[test]
    fn a_deaf_host_is_left_out() {
        let table = hearing(&[(1, &[2, 3]), (2, &[1, 3]), (3, &[])]);
        assert_eq!(table.view(set(&[1, 2, 3]), HostSet::EMPTY), set(&[1, 2]));
    }

    #[test]
    fn of_a_broken_pair_the_higher_id_goes() {
        let table = hearing(&[(1, &[2, 3]), (2, &[1]), (3, &[1, 2])]);
        assert_eq!(table.view(set(&[1, 2, 3]), HostSet::EMPTY), set(&[1, 2]));
        assert_eq!(
            table.first_gap(set(&[1, 2, 3])),
            Some((HostId::new(2).unwrap(), HostId::new(3).unwrap()))
        );
    }

    #[test]
    fn a_newcomer_never_displaces_a_member() {
        // Host 1 has just come and is not heard by host 3 yet.
        let table = hearing(&[(1, &[2, 3]), (2, &[1, 3]), (3, &[2])]);
        assert_eq!(table.view(set(&[2, 3]), set(&[1])), set(&[2, 3]));
    }

    proptest! {
        #[test]
        fn a_view_is_a_clique(rows in proptest::collection::vec(any::<u64>(), 64), members: u64, newcomers: u64) {
            let rows = (1..).zip(rows).map(|(id, row)| (HostId::new(id).unwrap(), HostSet::from_bits(row)));
            let table = Hearing::new(rows);
            let members = HostSet::from_bits(members);
            let newcomers = HostSet::from_bits(newcomers).without(members);
            let view = table.view(members, newcomers);
            prop_assert!(view.without(members.union(newcomers)).is_empty());
            for host in view.iter() {
                prop_assert!(table.strangers(host, view).is_empty());
            }
        }
    }
}

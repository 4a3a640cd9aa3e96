//! How the hosts of a segment are doing: who has converged, who serves, who must not.

use super::*;

impl Segment {
    pub(in super::super) fn is_converged(&self, hosts: &[u8]) -> bool {
        let view = set(hosts);
        let digest = |host: &u8| {
            let cluster = &self.host(*host).cluster;
            let map = cluster
                .committed
                .as_ref()
                .filter(|map| map.proposal.view == view);
            map.filter(|_| cluster.is_converged())
                .map(|map| map.proposal.result)
        };
        let first = digest(&hosts[0]);
        first.is_some() && hosts.iter().all(|host| digest(host) == first)
    }

    /// Promise 4: a host that the others have left out of a committed map does not serve any more.
    pub(in super::super) fn check_fencing(&mut self) {
        // What can go wrong goes wrong among a few hosts; among many the check takes too long.
        if self.hosts.len() > 8 {
            return;
        }
        self.track_darkness();
        if self.split {
            return;
        }
        let serving: Vec<&Host> = self
            .hosts
            .iter()
            .filter(|host| host.is_serving(self.now))
            .collect();
        for host in &serving {
            let (mine, _) = host.map_in_force();
            for other in &serving {
                let (theirs, view) = other.map_in_force();
                let left_out = theirs > mine && !view.contains(host.config.host);
                assert!(
                    !left_out,
                    "{:?} host {} serves in epoch {mine} though host {} does in {theirs} with {view}: {}",
                    self.now,
                    host.config.host,
                    other.config.host,
                    self.account(),
                );
            }
        }
    }

    fn track_darkness(&mut self) {
        let serving: Vec<&Host> = self
            .hosts
            .iter()
            .filter(|host| host.is_serving(self.now))
            .collect();
        let served = |bucket| serving.iter().any(|host| host.serves(self.now, bucket));
        if (0..BUCKETS).step_by(61).all(served) {
            self.dark_since = None;
        } else {
            let since = *self.dark_since.get_or_insert(self.now);
            self.longest_dark = self.longest_dark.max(self.now.since(since));
        }
    }

    /// How many hosts serve each bucket: (buckets that nobody serves, buckets that several serve).
    pub(in super::super) fn coverage(&self) -> (usize, usize) {
        let servers = |bucket| {
            self.hosts
                .iter()
                .filter(|host| host.serves(self.now, bucket))
                .count()
        };
        let counts: Vec<usize> = (0..BUCKETS).map(servers).collect();
        let dark = counts.iter().filter(|count| **count == 0).count();
        (dark, counts.iter().filter(|count| **count > 1).count())
    }

    pub(in super::super) fn share(&self, host: u8) -> usize {
        (0..BUCKETS)
            .filter(|bucket| self.host(host).serves(self.now, *bucket))
            .count()
    }

    pub(in super::super) fn account(&self) -> String {
        let mut account = String::new();
        for host in &self.hosts {
            let snapshot = host.cluster.snapshot(self.now);
            account += &format!(
                "\n host {}: {:?} epoch {} view {} lease {:?} waiting for {:?}",
                host.config.host,
                snapshot.announced,
                snapshot.epoch,
                snapshot.view,
                snapshot.lease,
                snapshot.waiting_for,
            );
            for (at, event) in host.events.iter().rev().take(6).rev() {
                account += &format!("\n    {at:?} {event}");
            }
        }
        account
    }
}

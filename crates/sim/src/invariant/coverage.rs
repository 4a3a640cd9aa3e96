//! Promises 1, 2 and 3 for the traffic as a whole: each part of it has an owner, and one only.
//!
//! 64 probes stand for the traffic: connection requests from different clients to all services. A host's tables are
//! asked which it takes whenever they change, so that at each step the whole cluster is a few words. *Dark* is a
//! probe that nobody takes, *double* one that two hosts take.
//!
//! A planned change may leave a probe dark or double for as long as a frame travels, and back; a crash may leave the
//! dead host's probes dark until the deadline. In a cluster that is not settled a probe may be double for as long as
//! a lease runs: a member that stops hearing at the moment of a commit goes on by the old map until then.

use super::fencing::Fencing;
use super::settled::{Mode, Settling};
use crate::machine::Machine;
use crate::packet::{Packet, SYN, Tcp, Transport};
use crate::site;
use covey_proto::config::Timing;
use covey_proto::time::Time;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// The traffic as a whole: one connection request per bit.
pub(crate) struct Probes(Vec<Vec<u8>>);

impl Probes {
    pub(crate) fn new() -> Self {
        let probe = |bit: u16| {
            let client = Ipv4Addr::new(10, 78, bit as u8 % 7, bit as u8 + 1);
            // Mostly for the service that is shared by connection, because it has the most buckets.
            let service = match bit % 8 {
                0 => site::SHOP,
                1 => site::OTHER,
                _ => site::WEB,
            };
            let open = Tcp {
                sequence: 1,
                acknowledgement: 0,
                flags: SYN,
                payload: &[],
            };
            let packet = Packet {
                from: SocketAddrV4::new(client, 40_000 + bit * 17),
                to: SocketAddrV4::new(site::VIP, service),
                transport: Transport::Tcp(open),
            };
            packet.emit(site::client(0).1, site::cluster())
        };
        Self((0..64).map(probe).collect())
    }

    /// The probes that are taken, as bits.
    pub(crate) fn taken(&self, takes: impl Fn(&[u8]) -> bool) -> u64 {
        (0..).zip(&self.0).fold(0, |bits, (bit, frame)| {
            bits | u64::from(takes(frame)) << bit
        })
    }
}

/// Two hosts that take the same.
#[derive(Clone, Copy, Debug)]
struct Overlap {
    hosts: (usize, usize),
    since: Time,
    /// They are in the same map, which names one owner only.
    same_map: bool,
}

/// Watches who takes what.
pub(crate) struct Coverage {
    machines: usize,
    /// What a change may take.
    commit: Duration,
    /// What a lease may take.
    lease: Duration,
    dark: u64,
    dark_since: [Time; 64],
    overlaps: Vec<Overlap>,
}

impl Coverage {
    pub(crate) fn new(machines: usize, commit: Duration, timing: Timing) -> Self {
        Self {
            machines,
            commit,
            lease: timing.longest().expiry(),
            dark: u64::MAX,
            dark_since: [Time::ZERO; 64],
            overlaps: Vec::new(),
        }
    }

    /// Looks at all hosts after something has changed.
    pub(crate) fn look(&mut self, now: Time, machines: &[Machine], fencing: &Fencing) {
        let dark = !machines
            .iter()
            .fold(0, |bits, machine| bits | machine.state.taken());
        let mut newly = dark & !self.dark;
        while newly != 0 {
            self.dark_since[newly.trailing_zeros() as usize] = now;
            newly &= newly - 1;
        }
        self.dark = dark;
        let before = std::mem::take(&mut self.overlaps);
        for first in 0..self.machines {
            for second in first + 1..self.machines {
                let (a, b) = (&machines[first].state, &machines[second].state);
                if a.taken() & b.taken() == 0 || fencing.excuses(now, first, second) {
                    continue;
                }
                let hosts = (first, second);
                let known = before.iter().find(|overlap| overlap.hosts == hosts);
                let since = known.map_or(now, |overlap| overlap.since);
                let same_map =
                    (a.in_force.epoch, a.in_force.digest) == (b.in_force.epoch, b.in_force.digest);
                self.overlaps.push(Overlap {
                    hosts,
                    since,
                    same_map,
                });
            }
        }
    }

    /// For how long the probe that has been dark longest has been so.
    pub(crate) fn dark_for(&self, now: Time) -> Duration {
        let bits = (0..64).filter(|bit| self.dark >> bit & 1 != 0);
        bits.map(|bit| now.since(self.dark_since[bit]))
            .max()
            .unwrap_or_default()
    }

    /// Promise 1: two hosts in one map never take the same.
    pub(crate) fn check_same_map(&self) -> Result<(), String> {
        match self.overlaps.iter().find(|overlap| overlap.same_map) {
            Some(Overlap { hosts: (a, b), .. }) => Err(format!(
                "hosts {} and {} are in the same map and take the same traffic",
                a + 1,
                b + 1
            )),
            None => Ok(()),
        }
    }

    /// Promises 2 and 3: nothing is dark for longer than it may be.
    pub(crate) fn check_darkness(&self, now: Time, settling: &Settling) -> Result<(), String> {
        let suspects = match settling.mode() {
            Mode::Unsettled => 0,
            Mode::Settled(_) => self.dark,
            Mode::Mourning { dark, .. } => self.dark & !dark,
        };
        if suspects == 0 {
            return Ok(());
        }
        let bits = (0..64).filter(|bit| suspects >> bit & 1 != 0);
        let longest = bits
            .map(|bit| now.since(self.dark_since[bit]))
            .max()
            .unwrap_or_default();
        if longest <= self.commit {
            return Ok(());
        }
        Err(format!(
            "nobody has taken {} of 64 probes for {longest:?}, though only planned changes were made or another host has crashed",
            suspects.count_ones()
        ))
    }

    /// Promise 4: two hosts take the same for as long as a change takes, or a lease if there is a fault.
    pub(crate) fn check_doubling(&self, now: Time, settling: &Settling) -> Result<(), String> {
        let bound = match settling.mode() {
            Mode::Unsettled => self.lease,
            Mode::Settled(_) | Mode::Mourning { .. } => self.commit,
        };
        match self
            .overlaps
            .iter()
            .find(|overlap| now.since(overlap.since) > bound)
        {
            Some(Overlap {
                hosts: (a, b),
                since,
                ..
            }) => Err(format!(
                "hosts {} and {} have taken the same traffic since {since:?}, longer than {bound:?}",
                a + 1,
                b + 1
            )),
            None => Ok(()),
        }
    }
}

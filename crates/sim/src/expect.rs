//! What a scenario expects beyond the invariants (`scenario::What`), looked at after every step.
//!
//! What must be at some time is fulfilled once and then forgotten; what must be all the time is broken at the first
//! step that shows otherwise. Called by `invariant::Watch`.

use crate::machine::Machine;
use crate::packet::{Packet, SYN, Tcp, Transport};
use crate::scenario::{Expectation, Scenario, What};
use crate::site;
use covey_filter::{BUCKETS, Row};
use covey_proto::ids::{Digest, Epoch, HostSet};
use covey_proto::time::Time;
use std::net::SocketAddrV4;
use std::time::Duration;

struct Pending {
    expectation: Expectation,
    from: Time,
    to: Time,
    fulfilled: bool,
    takers: Takers,
}

/// Who took the clients' requests at the beginning, for what is about that.
#[derive(Default)]
struct Takers {
    first: Option<Vec<Taker>>,
    /// Whether each host serves, and its map: nothing else decides who takes new connections.
    maps: Vec<(bool, Epoch, Digest)>,
    moved: bool,
}

/// Machines that take one client's new web connections, as bits.
type Taker = u128;

/// All that is expected of a run.
pub(crate) struct Expectations {
    pending: Vec<Pending>,
    /// How many connections have broken, if there are new ones.
    broken: Option<u64>,
    /// A request for a web connection from each client.
    requests: Vec<Vec<u8>>,
}

impl Expectations {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let pending = scenario.expectations.iter().map(|expectation| {
            let from = Time::ZERO + expectation.from.0;
            let to = expectation
                .within
                .map_or(Time::ZERO + scenario.lasts.0, |within| from + within.0);
            Pending {
                expectation: expectation.clone(),
                from,
                to,
                fulfilled: false,
                takers: Takers::default(),
            }
        });
        Self {
            pending: pending.collect(),
            broken: None,
            requests: (0..usize::from(scenario.load.clients))
                .map(request)
                .collect(),
        }
    }

    /// A host reports an event.
    pub(crate) fn event(&mut self, now: Time, host: u8, event: u16) {
        for pending in self
            .pending
            .iter_mut()
            .filter(|pending| (pending.from..=pending.to).contains(&now))
        {
            match pending.expectation.what {
                What::Event { id, host: wanted } | What::NoEvent { id, host: wanted } => {
                    pending.fulfilled |= id == event && wanted.is_none_or(|wanted| wanted == host);
                }
                What::Converged { .. }
                | What::Stays { .. }
                | What::Silent { .. }
                | What::Share { .. }
                | What::Sticks {}
                | What::Moves {}
                | What::Dark { .. }
                | What::Broken { .. }
                | What::Rejected { .. } => {}
            }
        }
    }

    /// So many connections have broken.
    pub(crate) const fn broken(&mut self, count: u64) {
        self.broken = Some(count);
    }

    /// Looks at everything that is still open.
    pub(crate) fn check(
        &mut self,
        now: Time,
        machines: &[Machine],
        dark_for: Duration,
    ) -> Result<(), String> {
        let broken = self.broken.take();
        for pending in self
            .pending
            .iter_mut()
            .filter(|pending| now >= pending.from)
        {
            let Pending {
                expectation,
                from,
                to,
                fulfilled,
                takers,
            } = pending;
            let what = &expectation.what;
            let in_time = now <= *to;
            let fault = match what {
                What::Converged { hosts } => {
                    *fulfilled |= in_time && are_converged(machines, hosts);
                    !*fulfilled && !in_time
                }
                What::Share {
                    host,
                    from_percent: least,
                    to_percent: most,
                } => {
                    *fulfilled |= in_time
                        && (u32::from(*least)..=u32::from(*most)).contains(&share(machines, *host));
                    !*fulfilled && !in_time
                }
                What::Sticks {} => in_time && takers.have_changed(machines, &self.requests),
                What::Moves {} => {
                    *fulfilled |= in_time && takers.have_changed(machines, &self.requests);
                    !*fulfilled && !in_time
                }
                What::Event { .. } => !*fulfilled && !in_time,
                What::NoEvent { .. } => *fulfilled,
                What::Stays { hosts } => in_time && !are_converged(machines, hosts),
                What::Silent { hosts } => {
                    in_time
                        && hosts
                            .iter()
                            .any(|host| machines[usize::from(*host) - 1].state.serving)
                }
                What::Dark { most } => in_time && dark_for > most.0 && now - dark_for >= *from,
                What::Broken { most } => {
                    in_time && broken.is_some_and(|count| count > u64::from(*most))
                }
                What::Rejected { .. } => false,
            };
            if fault {
                return Err(format!(
                    "between {from:?} and {to:?} this was expected: {what:?}"
                ));
            }
        }
        Ok(())
    }

    /// The run is over.
    pub(crate) fn finish(&self, machines: &[Machine]) -> Result<(), String> {
        for pending in &self.pending {
            let what = &pending.expectation.what;
            let missing = match what {
                What::Converged { .. }
                | What::Share { .. }
                | What::Moves {}
                | What::Event { .. } => !pending.fulfilled,
                What::Rejected { host, reason } => {
                    !has_rejected(&machines[usize::from(*host) - 1], reason)
                }
                What::NoEvent { .. }
                | What::Sticks {}
                | What::Stays { .. }
                | What::Silent { .. }
                | What::Dark { .. }
                | What::Broken { .. } => false,
            };
            if missing {
                return Err(format!("the run is over and this has not come: {what:?}"));
            }
        }
        Ok(())
    }
}

/// A request of a client for a web connection.
fn request(client: usize) -> Vec<u8> {
    let (address, mac) = site::client(client);
    let open = Tcp {
        sequence: 1,
        acknowledgement: 0,
        flags: SYN,
        payload: &[],
    };
    let packet = Packet {
        from: SocketAddrV4::new(address, 40_000),
        to: SocketAddrV4::new(site::VIP, site::WEB),
        transport: Transport::Tcp(open),
    };
    packet.emit(mac, site::cluster())
}

impl Takers {
    /// Whether some request is taken by another host than at first. At the first look none is.
    fn have_changed(&mut self, machines: &[Machine], requests: &[Vec<u8>]) -> bool {
        let map = |machine: &Machine| {
            let state = &machine.state;
            (state.serving, state.in_force.epoch, state.in_force.digest)
        };
        if !self.maps.iter().copied().eq(machines.iter().map(map)) {
            self.maps = machines.iter().map(map).collect();
            let now: Vec<Taker> = requests
                .iter()
                .map(|request| taker(machines, request))
                .collect();
            self.moved = *self.first.get_or_insert_with(|| now.clone()) != now;
        }
        self.moved
    }
}

fn taker(machines: &[Machine], request: &[u8]) -> Taker {
    let takes = |machine: &Machine| machine.state.serving && machine.kernel.takes(request);
    let bits = (0..).zip(machines).filter(|(_, machine)| takes(machine));
    bits.fold(0, |bits, (bit, _)| bits | 1 << bit)
}

fn are_converged(machines: &[Machine], hosts: &[u8]) -> bool {
    let machines = || {
        hosts
            .iter()
            .map(|host| &machines[usize::from(*host) - 1].state)
    };
    let view: HostSet = machines().map(|state| state.id).collect();
    machines().all(|state| state.converged && state.in_force.view == view)
}

/// How much of the web traffic a host takes, in percent, rounded down.
fn share(machines: &[Machine], host: u8) -> u32 {
    let machine = &machines[usize::from(host) - 1];
    let rows = machine
        .kernel
        .data_path
        .image()
        .filter(|_| machine.state.serving)
        .and_then(|image| {
            let map = image.rules.get(1)?.map;
            image.rows.get(usize::from(map))
        });
    let mine = rows.map_or(0, |rows| {
        rows.iter().filter(|row| Row(**row).is_mine()).count()
    });
    (mine * 100 / BUCKETS) as u32
}

fn has_rejected(machine: &Machine, reason: &str) -> bool {
    machine.daemon.as_ref().is_some_and(|daemon| {
        daemon
            .cluster
            .rejected()
            .any(|(known, count)| known.label() == reason && count > 0)
    })
}

//! Sticky rules: clients that come back soon find the host that they know, though the map would have them elsewhere
//! by now. Host 1 has a hundredth of host 2's weight, so nearly all of its buckets are to move when host 2 joins.
//! docs/design.md, "Sticky rules".

use crate::lab::{Lab, Timing, VIP};
use crate::netns;
use crate::web;
use covey::config::{Config, Machine};
use covey::status::Status;
use covey_filter::{Address, Affinity, BUCKETS, bucket};
use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// The lab's rule for port 80, as `covey rules` counts.
const WEB: usize = 1;
/// The rule's `sticky`, s.
const STICKY_S: u64 = 4;
/// Time between two visits of a client: well below the rule's.
const EVERY: Duration = Duration::from_secs(1);
/// The buckets that are host 1's by its weight: 4096 / 101.
const QUOTA: std::ops::RangeInclusive<usize> = 40..=41;

/// Addresses of the segment that nobody has, for clients.
fn addresses() -> Vec<Ipv4Addr> {
    let last = (101..200).chain(201..255);
    last.map(|byte| Ipv4Addr::new(10, 77, 0, byte)).collect()
}

/// Gives the rule for the web another affinity, a sticky time and the host's weight.
fn configure(lab: &Lab, host: u8, weight: u8) {
    let path = lab.directory().join(format!("h{host}/covey.toml"));
    let sound = fs::read_to_string(&path).unwrap();
    let (plain, sticky) = (
        "protocol = \"tcp\"\naffinity = \"none\"",
        format!("protocol = \"tcp\"\nsticky = \"{STICKY_S}s\"\nweight = {weight}"),
    );
    assert!(sound.contains(plain), "{sound}");
    fs::write(&path, sound.replace(plain, &sticky)).unwrap();
    lab.covey(host, &["reload"]);
}

/// The buckets of these clients.
fn buckets(lab: &Lab, clients: &[Ipv4Addr]) -> BTreeSet<usize> {
    let path = lab.directory().join("h1/covey.toml");
    let config = netns::inside(&lab.namespace("h1"), move || {
        Config::load(&path, &Machine).unwrap()
    });
    let key = config.cluster.auth.hash_key(&config.rules);
    let place = |client: &Ipv4Addr| bucket(key, Affinity::Single, Address::v4(client.octets()), 0);
    let places = clients.iter().map(place);
    places.map(|place| usize::from(place.get())).collect()
}

/// The buckets of the web that host 1 owns.
fn of_host_1(status: &Status) -> BTreeSet<usize> {
    let owners = &status.maps[status.rules[WEB].map];
    (0..BUCKETS).filter(|bucket| owners[*bucket] == 1).collect()
}

/// Clients that come again and again.
struct Visitors {
    active: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    rounds: mpsc::Receiver<()>,
    thread: JoinHandle<Vec<(Ipv4Addr, Result<u8, String>)>>,
}

impl Visitors {
    /// Lets each of these addresses of the client make a request, over and over.
    fn start(lab: &Lab, clients: Vec<Ipv4Addr>) -> Self {
        let active = Arc::new(AtomicUsize::new(clients.len()));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen_active, seen_stop) = (active.clone(), stop.clone());
        let (tell, rounds) = mpsc::channel();
        let thread = netns::spawn_in(&lab.namespace("client"), move || {
            let mut visits = Vec::new();
            while !seen_stop.load(Ordering::Relaxed) {
                let next = Instant::now() + EVERY;
                for client in &clients[..seen_active.load(Ordering::Relaxed)] {
                    visits.push((*client, visit(*client)));
                }
                // Nobody listens at the end.
                let _ = tell.send(());
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            visits
        });
        Self {
            active,
            stop,
            rounds,
            thread,
        }
    }

    /// Waits until all clients have come so many times more.
    fn await_rounds(&self, more: usize) {
        // The one under way may have begun before.
        self.rounds.try_iter().for_each(drop);
        self.rounds.iter().take(more + 1).for_each(drop);
    }

    /// Only the first so many come from now on.
    fn only(&self, first: usize) {
        self.active.store(first, Ordering::Relaxed);
    }

    fn finish(self) -> Vec<(Ipv4Addr, Result<u8, String>)> {
        self.stop.store(true, Ordering::Relaxed);
        netns::join(self.thread)
    }
}

/// Who answers a client.
fn visit(client: Ipv4Addr) -> Result<u8, String> {
    web::get_as(SocketAddr::from((client, 0)), VIP.into()).outcome
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn busy_buckets_stay_with_their_host_until_they_are_idle() {
    let lab = Lab::up("sticky", 2, TIMING);
    configure(&lab, 1, 1);
    configure(&lab, 2, 100);
    for host in lab.hosts() {
        lab.await_status(host, |status| status.rules[WEB].sticky_s == Some(STICKY_S));
    }
    lab.covey(2, &["stop"]);
    lab.await_agreement(&[1]);

    let clients = addresses();
    for client in &clients {
        let address = format!("{client}/24");
        lab.exec("client", &["ip", "address", "add", &address, "dev", "eth0"]);
    }
    let all = buckets(&lab, &clients);
    let (faithful, _) = clients.split_at(clients.len() / 2);
    let stay = buckets(&lab, faithful);
    assert!(stay.len() > *QUOTA.end(), "{}", stay.len());

    // Host 2 joins: of nearly all buckets only the idle ones are its own.
    let visitors = Visitors::start(&lab, clients.clone());
    visitors.await_rounds(3);
    lab.covey(2, &["start"]);
    lab.await_agreement(&[1, 2]);
    assert_eq!(of_host_1(&lab.status(1)), all);
    visitors.await_rounds(2);
    assert_eq!(of_host_1(&lab.status(2)), all);

    // Half of the clients stay away: theirs move too.
    visitors.only(faithful.len());
    let began = Instant::now();
    lab.await_status(1, |status| of_host_1(status) == stay);
    let half_moved = began.elapsed();
    visitors.await_rounds(2);
    let visits = visitors.finish();
    let elsewhere: Vec<_> = visits.iter().filter(|(_, by)| *by != Ok(1)).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");

    // Nobody comes any more.
    lab.await_status(1, |status| {
        status.rules[WEB]
            .share
            .get(&1)
            .is_some_and(|share| QUOTA.contains(share))
    });
    lab.await_agreement(&[1, 2]);
    let status = lab.status(1);
    let left = of_host_1(&status);
    let answered = netns::inside(&lab.namespace("client"), {
        let clients = clients.clone();
        move || clients.into_iter().map(visit).collect::<Vec<_>>()
    });
    for (client, by) in clients.iter().zip(answered) {
        let owned = !buckets(&lab, &[*client]).is_disjoint(&left);
        assert_eq!(by, Ok(if owned { 1 } else { 2 }), "{client}");
    }
    println!(
        "sticky {STICKY_S} s: host 1 kept {} busy buckets of 4096 when a host of 100 times its weight joined, {} of \
         them {:.1} s after the others' clients had stayed away, {} in the end; {} requests of busy clients, all \
         answered by host 1",
        all.len(),
        stay.len(),
        half_moved.as_secs_f64(),
        left.len(),
        visits.len()
    );
}

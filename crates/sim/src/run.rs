//! One run: a scenario and a seed in, an [`Outcome`] out. The same in, the same out, on every machine.

use crate::invariant::Violation;
use crate::pcap::Pcap;
use crate::report::Counts;
use crate::scenario::Scenario;
use crate::world::World;
use covey_proto::time::Time;

/// What comes of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The promise that was broken first; the run has ended there.
    pub violation: Option<Violation>,
    /// What has happened, counted.
    pub counts: Counts,
    /// The last things that happened, one per line.
    pub last: Vec<String>,
}

/// What a run may leave behind.
#[derive(Default)]
pub struct Options {
    /// A capture of all frames.
    pub pcap: Option<Pcap>,
    /// Print everything to stdout as it happens.
    pub trace: bool,
    /// Plant a bug, to see that it is found: this machine's data path goes on without a lease.
    pub lawless: Option<u8>,
}

/// Runs a scenario.
pub fn run(scenario: &Scenario, seed: u64) -> Outcome {
    run_with(scenario, seed, Options::default())
}

/// Runs a scenario and leaves behind what is asked for.
pub fn run_with(scenario: &Scenario, seed: u64, options: Options) -> Outcome {
    let mut world = World::new(scenario, seed);
    world.pcap = options.pcap;
    world.log.trace = options.trace;
    if let Some(machine) = options.lawless {
        world.machines[usize::from(machine) - 1].kernel.heeds_lease = false;
    }
    let end = Time::ZERO + scenario.lasts.0;
    while world.watch.violation.is_none() && world.step(end) {}
    let now = world.now;
    if world.watch.violation.is_none() {
        world.watch.finish(now, &world.machines);
    }
    if let Some(pcap) = world.pcap.take()
        && let Err(error) = pcap.finish()
    {
        world
            .log
            .note(now, format_args!("the capture is not complete: {error}"));
    }
    world.counts.simulated = now.since(Time::ZERO);
    let violation = world.watch.violation.take();
    if violation.is_some() {
        let accounts = world.accounts();
        for account in accounts {
            world.log.note(now, format_args!("{account}"));
        }
    }
    Outcome {
        violation,
        counts: world.counts,
        last: world.log.into_lines(),
    }
}

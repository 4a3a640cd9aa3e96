//! Q232711, "How cluster integrity is monitored in WLBS": what the article says of heartbeats, measured on the wire.

use super::super::faults::{Harm, Kind};
use super::super::topology::Place;
use super::Scenario;
use super::capture::{Heard, listen};
use super::stage::{Stage, USUAL, host, hosts};
use anyhow::Result;
use covey_proto::config::ClusterMode;
use covey_proto::ids::Mac;
use covey_proto::wire::ethernet::{HEARTBEAT, LEGACY_HEARTBEAT};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "heartbeats",
    article: "Q232711",
    about: "destination, period, size, EtherType and reversion of heartbeats, and when a host counts as dead",
    play: heartbeats,
}];

/// The largest heartbeat that the article allows.
const LARGEST: usize = 1514;
/// How long is listened.
const LISTEN: Duration = Duration::from_secs(10);

fn heartbeats(stage: &mut Stage) -> Result<()> {
    for mode in [ClusterMode::Multicast, ClusterMode::Unicast] {
        let mut spec = stage.spec()?;
        spec.mode = mode;
        spec.timing = USUAL;
        stage.up(&spec)?;
        let to = match mode {
            ClusterMode::Unicast => Mac::BROADCAST,
            ClusterMode::Multicast | ClusterMode::Igmp => stage.lab()?.cluster_mac()?,
        };
        // A new map is followed by the sets of buckets in which hosts linger; those are frames of their own.
        stage.wait(spec.timing.budget())?;
        let idle = hear(stage, LISTEN)?;
        expect_facts(stage, &idle, to)?;
        stage.harm(Harm::Flood {
            kind: Kind::Udp,
            rate: "2000".parse().map_err(anyhow::Error::msg)?,
        })?;
        stage.say("2000 requests per second to the echo service");
        let loaded = hear(stage, LISTEN)?;
        stage.heal()?;
        expect_facts(stage, &loaded, to)?;
        let (frames, bytes) = total(&loaded);
        let (frames_idle, bytes_idle) = total(&idle);
        stage.expect(
            format!(
                "they are as many and as large under load ({frames} frames, {bytes} bytes in {} s) as without ({frames_idle} and {bytes_idle})",
                LISTEN.as_secs()
            ),
            // A frame more or less of each host falls into the time, and what is found meanwhile is told at once.
            frames.abs_diff(frames_idle) <= 6 && largest(&idle) == largest(&loaded),
        )?;
    }
    dead_after_five(stage)?;
    reversion(stage)
}

fn hear(stage: &mut Stage, time: Duration) -> Result<Vec<Heard>> {
    listen(&stage.lab()?.name.namespace(Place::Client), time)
}

/// How many frames, and bytes in all.
fn total(heard: &[Heard]) -> (usize, usize) {
    let bytes = heard.iter().map(|frame| frame.length);
    (heard.len(), bytes.sum())
}

fn largest(heard: &[Heard]) -> usize {
    heard.iter().map(|frame| frame.length).max().unwrap_or(0)
}

/// What the article says of each heartbeat.
fn expect_facts(stage: &mut Stage, heard: &[Heard], to: Mac) -> Result<()> {
    let destinations: BTreeSet<Mac> = heard.iter().map(|frame| frame.destination).collect();
    stage.expect(
        format!("all heartbeats go to {to}"),
        destinations == BTreeSet::from([to]),
    )?;
    stage.expect(
        "their EtherType is 0x886F",
        heard.iter().all(|frame| frame.ethertype == HEARTBEAT),
    )?;
    let largest = largest(heard);
    stage.expect(
        format!("the largest has {largest} bytes; the article says 1.5 KB"),
        largest <= LARGEST,
    )?;
    let mut times: BTreeMap<Mac, Vec<Instant>> = BTreeMap::new();
    for frame in heard {
        times.entry(frame.source).or_default().push(frame.at);
    }
    stage.expect("they come from three hosts", times.len() == 3)?;
    // The median: a change of state is told at once, besides.
    let periods: Vec<Duration> = times.values().filter_map(|times| median(times)).collect();
    let told: Vec<String> = periods
        .iter()
        .map(|period| format!("{:.2} s", period.as_secs_f64()))
        .collect();
    let period = stage.lab()?.timing.period;
    stage.expect(
        format!(
            "each host sends one a second; measured: {}",
            told.join(", ")
        ),
        periods
            .iter()
            .all(|measured| measured.abs_diff(period) <= period / 10),
    )
}

/// The median of the times between one and the next.
fn median(times: &[Instant]) -> Option<Duration> {
    let mut gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied()
}

fn dead_after_five(stage: &mut Stage) -> Result<()> {
    let timing = stage.lab()?.timing;
    stage.lab()?.crash(host(3))?;
    stage.say("covey lab fault crash 3");
    let took = stage.until_converged(hosts(&[1, 2]), 3 * timing.budget())?;
    // The last heartbeat came up to a period before the crash.
    let least = timing.budget() - timing.period - timing.period / 10;
    stage.expect(
        format!(
            "a host counts as dead when five of its heartbeats are missed, not before; {:.2} s here",
            took.as_secs_f64()
        ),
        took >= least && took <= timing.budget() + 2 * timing.period,
    )?;
    stage.doctor_says(1, "host-silent", "Host 3", &[])?;
    stage.heal()
}

fn reversion(stage: &mut Stage) -> Result<()> {
    let (new, old) = (
        "name = \"h3\"\n",
        "name = \"h3\"\nlegacy_heartbeats = true\n",
    );
    for (from, to, ethertype) in [(new, old, LEGACY_HEARTBEAT), (old, new, HEARTBEAT)] {
        stage.reconfigure(hosts(&[3]), from, to)?;
        stage.restart(3)?;
        stage.say(match ethertype {
            LEGACY_HEARTBEAT => {
                "host 3 is set to the frame type of the generation before, and started again"
            }
            _ => "host 3 is set back, and started again",
        });
        stage.until_converged(hosts(&[1, 2, 3]), Duration::from_secs(30))?;
        stage.wait(2 * stage.lab()?.timing.period)?;
        let heard = hear(stage, LISTEN / 2)?;
        let types: BTreeSet<u16> = heard.iter().map(|frame| frame.ethertype).collect();
        stage.expect(
            format!("all hosts speak 0x{ethertype:04X}"),
            types == BTreeSet::from([ethertype]),
        )?;
        stage.expect_service(hosts(&[1, 2, 3]))?;
    }
    Ok(())
}

//! How clusters of different sizes behave: time to converge, and what heartbeats cost.
//!
//! For each size: all hosts start at once; half of them lose power at once; all daemons are restarted one after the
//! other. Times are in heartbeat periods, because that is what they depend on; traffic is what one host sends.

use crate::scenario::{Action, Load, Scenario};
use crate::span::Span;
use crate::world::World;
use covey_proto::time::Time;
use serde::Serialize;
use std::time::Duration;

/// The period of the measured clusters; the tolerance is 5.
const PERIOD: Duration = Duration::from_millis(100);
/// How long a settled cluster is measured.
const SETTLED_FOR: Duration = Duration::from_secs(10);
/// No convergence takes longer, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// What hosts send while something happens.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Traffic {
    /// Frames per host and second.
    pub frames: f64,
    /// Bytes per host and second, Ethernet headers included.
    pub bytes: f64,
}

/// What a convergence took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Convergence {
    /// Heartbeat periods until all hosts agreed; none: not within a minute.
    pub periods: Option<f64>,
    /// What was sent meanwhile.
    pub traffic: Traffic,
}

/// What was measured for one size.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Number of hosts.
    pub hosts: u8,
    /// All start at once. The first five periods they only listen.
    pub join: Convergence,
    /// Half of them lose power at once. The first five periods are the tolerance.
    pub loss: Convergence,
    /// All are restarted, each when the cluster has converged after the one before: the mean of one restart.
    pub restart: Convergence,
    /// Nothing happens.
    pub settled: Traffic,
}

struct Measured {
    world: World,
    hosts: u8,
}

impl Measured {
    fn now(&self) -> Time {
        self.world.now
    }

    fn sent(&self) -> (u64, u64) {
        (
            self.world.segment.sent_frames,
            self.world.segment.sent_bytes,
        )
    }

    /// Lets time pass until all agree, for at least a moment.
    fn converge(&mut self, hosts: u8) -> Convergence {
        let (start, sent) = (self.now(), self.sent());
        let end = start + PATIENCE;
        // What was done shows after a moment only.
        while self.now() < start + Duration::from_millis(1)
            && self.world.step(start + Duration::from_millis(1))
        {}
        while !self.world.watch.agreed() && self.now() < end && self.world.step(end) {}
        let took = self.now().since(start);
        let agreed = self.world.watch.agreed();
        Convergence {
            periods: agreed.then(|| took.as_secs_f64() / PERIOD.as_secs_f64()),
            traffic: self.traffic(sent, took, hosts),
        }
    }

    fn traffic(&self, (frames, bytes): (u64, u64), time: Duration, hosts: u8) -> Traffic {
        let (now_frames, now_bytes) = self.sent();
        let per = |count: u64| count as f64 / time.as_secs_f64() / f64::from(hosts);
        Traffic {
            frames: per(now_frames - frames),
            bytes: per(now_bytes - bytes),
        }
    }
}

/// Measures one size.
pub fn measure(hosts: u8) -> Row {
    let scenario = Scenario {
        hosts,
        period: Span(PERIOD),
        load: Load {
            clients: 0,
            ..Load::default()
        },
        ..Scenario::default()
    };
    let mut world = World::new(&scenario, 1);
    world.watch.disable();
    let mut measured = Measured { world, hosts };
    let join = measured.converge(hosts);
    let settled = measured.settle();
    let restart = measured.restart_all();
    let half = hosts / 2;
    for host in hosts - half + 1..=hosts {
        measured.world.perform(Action::Crash { host });
    }
    let loss = measured.converge(hosts - half);
    Row {
        hosts,
        join,
        loss,
        restart,
        settled,
    }
}

impl Measured {
    fn settle(&mut self) -> Traffic {
        self.pass(Duration::from_secs(1));
        let sent = self.sent();
        self.pass(SETTLED_FOR);
        self.traffic(sent, SETTLED_FOR, self.hosts)
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.world.step(end) {}
    }

    fn restart_all(&mut self) -> Convergence {
        let (mut periods, mut frames, mut bytes) = (Some(0.0), 0.0, 0.0);
        for host in 1..=self.hosts {
            self.world.perform(Action::Restart { host });
            let one = self.converge(self.hosts);
            periods = periods.zip(one.periods).map(|(sum, one)| sum + one);
            frames += one.traffic.frames;
            bytes += one.traffic.bytes;
        }
        let count = f64::from(self.hosts);
        Convergence {
            periods: periods.map(|sum| sum / count),
            traffic: Traffic {
                frames: frames / count,
                bytes: bytes / count,
            },
        }
    }
}

/// The rows for people.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "period 100 ms, tolerance 5; periods to converge; frames and bytes that one host sends per second\n\n{:>5} | {:>8} {:>8} {:>9} | {:>8} {:>8} {:>9} | {:>8} {:>8} {:>9} | {:>8} {:>9}\n",
        "hosts",
        "join",
        "frames",
        "bytes",
        "loss",
        "frames",
        "bytes",
        "restart",
        "frames",
        "bytes",
        "settled",
        "bytes"
    );
    for row in rows {
        text += &format!("{:>5} |", row.hosts);
        for Convergence { periods, traffic } in [row.join, row.loss, row.restart] {
            let periods =
                periods.map_or_else(|| "never".to_owned(), |periods| format!("{periods:.1}"));
            text += &format!(
                " {periods:>8} {:>8.0} {:>9.0} |",
                traffic.frames, traffic.bytes
            );
        }
        text += &format!(" {:>8.1} {:>9.0}\n", row.settled.frames, row.settled.bytes);
    }
    text
}

/// The rows for programs.
pub fn json(rows: &[Row]) -> String {
    let mut text = serde_json::to_string_pretty(rows).expect("numbers have a JSON form");
    text.push('\n');
    text
}

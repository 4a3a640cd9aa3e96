//! `covey lab demo`: a cluster of three hosts under traffic, things that happen to it, and what clients notice.
//!
//! Run by people who want to see it, and unattended (`--for 30s`, also as `cargo xtask lab`) as a test: the exit
//! code is 0 only if all went as the promises in docs/design.md say. One thread does it all in a straight line: whatever it
//! waits for, it [`pump`](Show::pump)s samples from the generator and keeps the table up to date meanwhile.

mod event;
mod ledger;
mod screen;
mod summary;

use super::args::{DemoArgs, Xdp};
use super::generator::{Generator, Load};
use super::interrupt::{Interrupt, TICK};
use super::lifecycle::{self, Spec};
use super::own_program;
use super::snooping::{Asking, Switch};
use super::state::Lab;
use super::topology::{self, LabName, Place};
use anyhow::{Context, Result};
use covey_proto::ids::HostId;
use event::{Event, Outcome};
use ledger::{Ledger, RATE_SPAN};
use screen::Screen;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use summary::Summary;

/// Quiet time before the first event and after each.
const STEADY: Duration = Duration::from_secs(2);
/// The least time to watch after the cluster has converged again: datagrams are awaited for half a second.
const SETTLE: Duration = Duration::from_secs(1);

/// Runs the demo from up to down.
///
/// # Errors
/// If the lab cannot be built or taken down, or its hosts be acted upon.
pub(super) fn demo(name: LabName, args: &DemoArgs) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let screen = Screen::new(args.json);
    let timing = args.timing();
    let spec = Spec {
        name,
        program: own_program()?,
        hosts: HostId::new(3).expect("3 is a host ID"),
        timing,
        ipv6: args.ipv6,
        mode: args.mode.into(),
        xdp: Xdp::Auto,
        daemons: true,
        switch: Switch::Bridge,
        asking: Asking::default(),
        announce_mrouter: false,
        cluster: Vec::new(),
    };
    let lab = lifecycle::up(&spec, &interrupt, &|line| screen.say(line))?;
    let shown = show(lab, screen, &interrupt, args.length);
    let removed = lifecycle::down(&spec.name);
    let summary = shown?;
    removed?;

    if args.json {
        let text = serde_json::to_string_pretty(&summary).context("cannot encode the summary")?;
        super::say(&text);
    } else {
        super::say(summary.to_string().trim_end());
    }
    Ok(if summary.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(
    lab: Lab,
    screen: Screen,
    interrupt: &Interrupt,
    length: Option<Duration>,
) -> Result<Summary> {
    let budget = lab.timing.budget();
    let load = Load {
        connection_every: Duration::from_millis(5),
        datagram_every: Duration::from_millis(10),
        kept: 12,
        // Long enough for TCP to try again after the cluster has noticed a death.
        give_up: Duration::from_secs(10) + 2 * budget,
    };
    let generator = Generator::start(
        lab.name.namespace(Place::Client),
        topology::vips(lab.ipv6),
        load,
    )?;
    let over = if lab.ipv6 {
        ", half of it over IPv6"
    } else {
        ""
    };
    let start = Instant::now();
    let mut show = Show {
        lab,
        generator,
        screen,
        interrupt,
        start,
        drawn: start,
        ledger: Ledger::default(),
        fair: BTreeMap::new(),
        outcomes: Vec::new(),
    };
    show.screen.say(&format!(
        "traffic   {} new connections and {} datagrams a second, {} kept connections{over}",
        1000 / load.connection_every.as_millis(),
        1000 / load.datagram_every.as_millis(),
        load.kept
    ));
    let ran = show.rounds(length.map(|length| start + length));
    let happened = !show.outcomes.is_empty();
    let summary = show.close();
    match ran {
        Ok(()) => summary,
        // An interrupt is how a demo without --for ends; there is a verdict if anything has happened.
        Err(_) if interrupt.is_set() && length.is_none() && happened => summary,
        Err(error) => Err(error),
    }
}

/// A demo under way.
struct Show<'a> {
    lab: Lab,
    generator: Generator,
    screen: Screen,
    interrupt: &'a Interrupt,
    start: Instant,
    drawn: Instant,
    ledger: Ledger,
    /// Requests by answering host while all hosts were up and nothing happened.
    fair: BTreeMap<HostId, usize>,
    outcomes: Vec<Outcome>,
}

impl Show<'_> {
    /// Lets things happen, round after round. Starts no round that would not be over by `end`, but always one.
    fn rounds(&mut self, end: Option<Instant>) -> Result<()> {
        self.steady(true)?;
        loop {
            let round_began = Instant::now();
            for event in event::round() {
                self.event(event)?;
            }
            let round = round_began.elapsed();
            if let Some(end) = end.filter(|end| Instant::now() + round > *end) {
                while Instant::now() < end {
                    self.pump()?;
                }
                return Ok(());
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<()> {
        let everyone = self.lab.everyone();
        let expected = event.survivors(everyone);
        let bound = event.bound(self.lab.timing);
        self.screen.say(&self.stamp(&event.announcement()));

        let began = Instant::now();
        event.act(&mut self.lab)?;
        let done = Instant::now();
        let mut obstacle = self.lab.obstacle(expected);
        while obstacle.is_some() && began.elapsed() <= bound {
            self.pump()?;
            obstacle = self.lab.obstacle(expected);
        }
        let converged = Instant::now();
        while converged.elapsed() < SETTLE || self.ledger.is_pending_from_before(converged) {
            self.pump()?;
        }

        let outcome = Outcome {
            event,
            converged_after: match obstacle {
                None => Ok(converged - began),
                Some(obstacle) => Err(obstacle),
            },
            bound,
            effect: self.ledger.effect(began, done, converged),
        };
        self.screen.say(&self.stamp(&outcome.told()));
        self.outcomes.push(outcome);
        self.steady(expected == everyone)
    }

    /// A while in which nothing happens. If all hosts are up, their shares are measured.
    fn steady(&mut self, all_up: bool) -> Result<()> {
        let from = Instant::now();
        self.ledger.forget_before(from - RATE_SPAN);
        while from.elapsed() < STEADY {
            self.pump()?;
        }
        if all_up {
            for (host, count) in self.ledger.answered_by(from) {
                *self.fair.entry(host).or_default() += count;
            }
        }
        Ok(())
    }

    /// One tick: rest, take in samples, redraw if due.
    fn pump(&mut self) -> Result<()> {
        self.interrupt.check()?;
        thread::sleep(TICK);
        for sample in self.generator.samples() {
            self.ledger.enter(sample);
        }
        if self.drawn.elapsed() >= self.screen.interval() {
            self.drawn = Instant::now();
            self.screen
                .draw(self.start.elapsed(), &self.lab, &self.ledger);
        }
        Ok(())
    }

    fn stamp(&self, line: &str) -> String {
        format!("{:>6.1} s  {line}", self.start.elapsed().as_secs_f64())
    }

    /// Ends the traffic and sums up.
    fn close(mut self) -> Result<Summary> {
        self.screen.clear();
        for sample in self.generator.finish()? {
            self.ledger.enter(sample);
        }
        Ok(Summary::new(
            &self.lab,
            self.start.elapsed(),
            &self.ledger.totals,
            &self.fair,
            &self.outcomes,
        ))
    }
}

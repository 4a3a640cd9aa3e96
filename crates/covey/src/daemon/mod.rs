//! The daemon: one loop that owns the core and carries out what it asks for.
//!
//! ```text
//!   frames (packet.rs) ----.                        .--> frames (packet.rs)
//!   link changes ----------|      +---------+       |--> the kernel's filter (crate::datapath)
//!   control socket --------+----> | Cluster | ------+--> events (journal.rs), log
//!   signals ---------------|      +---------+       '--> when to wake up
//!   clock (sys.rs) --------'
//! ```
//!
//! Started by `covey run`. On SIGTERM or SIGINT the host leaves the cluster first: the others have its share
//! before it goes. On SIGHUP it reads its configuration again; a bad one changes nothing. Everything that was
//! changed on the machine is put back at the end. Another program can take its place without any of that (upgrade.rs).
//! Specification: docs/design.md, "Layout" and "Membership".

mod census;
mod checkup;
mod delivery;
mod evidence;
mod groups;
mod journal;
mod keep;
mod link_watch;
mod minute;
mod open;
mod operate;
mod packet;
mod report;
pub(crate) mod sys;
mod troubles;
mod unclaimed;
mod upgrade;

use crate::config::Config;
use crate::control::Request;
use crate::control::server::{Call, Server};
use crate::datapath::{Counters, DataPath};
use crate::host::{HostSetup, Interface};
use crate::multicast::Multicast;
use crate::sockets::Idle;
use anyhow::{Context, anyhow, bail};
use census::{Census, Finding};
use checkup::Checkup;
use covey_filter::BUCKETS;
use covey_proto::buckets::BucketSet;
use covey_proto::datapath::{Identity, Image};
use covey_proto::delivery::Delivery;
use covey_proto::event::Event;
use covey_proto::ids::{Digest, Mac};
use covey_proto::time::Time;
use covey_proto::wire::heartbeat::Ends;
use covey_proto::{Answer, Cluster, Command, Input, Output};
use evidence::Evidence;
use journal::Journal;
use keep::{Keeper, Will};
use link_watch::LinkWatch;
use operate::Waiting;
use packet::Segment;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
pub(crate) use sys::now;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use unclaimed::{DISOWNED, Unclaimed};
pub use upgrade::prepare;
use upgrade::{Inheritance, Upgrade};

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Requests that may wait for the loop; it answers each within microseconds.
const CALLS: usize = 64;

/// Runs until the host has left the cluster. With `take_over` it goes on where the program was that this one has replaced
/// in its process, and that has left its state under this descriptor.
///
/// # Errors
/// What kept it from running, as a chain of sentences.
pub fn run(config_path: &Path, config: Config, take_over: Option<RawFd>) -> anyhow::Result<()> {
    let realtime = config.daemon.realtime;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("the async runtime cannot start")?;
    runtime.block_on(async {
        let sources = Sources::open(&config)?;
        // From here on they are watched for; the program before may have left them waiting.
        sys::heed_signals();
        let before = take_over.map(Inheritance::read);
        let mut daemon = Daemon::open(config_path, config, before)?;
        // Not sooner: the kernel's verifier takes a processor for longer than others should have to wait. A program that takes
        // over has its priority from the one before.
        if realtime {
            run_undisturbed();
        }
        let result = daemon.serve(sources).await;
        daemon.put_back();
        result
    })
}

/// Keeps other processes and the disk from delaying heartbeats, as far as this process is allowed to.
fn run_undisturbed() {
    if let Err(error) = sys::lock_memory() {
        tracing::debug!("the daemon's memory cannot be locked: {error}");
    }
    if let Err(error) = sys::run_first() {
        tracing::debug!("the daemon cannot have real-time priority: {error}");
    }
}

/// Where inputs come from.
struct Sources {
    calls: mpsc::Receiver<Call>,
    link: LinkWatch,
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Sources {
    /// The control socket comes first: it tells whether another daemon runs here already.
    fn open(config: &Config) -> anyhow::Result<Self> {
        let server = Server::bind(&config.daemon.socket)?;
        let (sender, calls) = mpsc::channel(CALLS);
        tokio::spawn(server.serve(sender));
        let watch = |kind| signal(kind).context("signals cannot be watched");
        Ok(Self {
            calls,
            link: LinkWatch::open().context("link changes cannot be watched")?,
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            hang_up: watch(SignalKind::hangup())?,
        })
    }
}

/// One host's daemon.
struct Daemon {
    config_path: PathBuf,
    config: Config,
    mac: Mac,
    /// The number of its interface.
    interface: u32,
    identity: Identity,
    started_at: Time,
    cluster: Cluster,
    segment: Segment,
    data_path: DataPath,
    /// The tables that it holds for a committed map, and those that are held ready beside them.
    in_force: Option<Image>,
    staged: Option<Image>,
    setup: HostSetup,
    /// How frames reach the host, as the machine is set up for it.
    delivery: Delivery,
    journal: Journal,
    census: Census,
    checkup: Checkup,
    evidence: Evidence,
    unclaimed: Unclaimed,
    /// The host's part in IP multicast groups, from the first time that it has one.
    multicast: Option<Multicast>,
    /// The rules under which the data path has noted traffic.
    seen_under: Digest,
    /// The rules under which the data path counts packets, and what it had counted before them.
    counted_under: Digest,
    counted_before: Counters,
    waiting: Vec<Waiting>,
    keeper: Keeper,
    upgrade: Upgrade,
    /// How often this host's daemon has been replaced in place.
    upgrades: u32,
    /// What the operator wants the host to be.
    will: Will,
    /// The daemon ends when the host has left.
    ending: bool,
    /// When the core wants to be called again.
    wake_at: Time,
}

impl Daemon {
    /// The loop. Ends when the host has left after a signal.
    async fn serve(&mut self, mut sources: Sources) -> anyhow::Result<()> {
        while !(self.ending && self.is_stopped() && !self.census.is_running()) {
            let wake_at = self.wake_at.min(self.upgrade.deadline());
            let check_up = tokio::time::sleep(self.checkup.next_at().since(sys::now()));
            let wake_at = wake_at.min(self.evidence.due_at());
            let wake = tokio::time::sleep(wake_at.since(sys::now()));
            tokio::select! {
                ready = self.segment.readable() => {
                    ready.context("the packet sockets failed")?;
                    self.read_frames();
                }
                Some((request, answer)) = sources.calls.recv() => self.answer(request, answer),
                _ = sources.terminate.recv() => self.end()?,
                _ = sources.interrupt.recv() => self.end()?,
                _ = sources.hang_up.recv() => {
                    let outcome = self.reload();
                    if outcome.is_done(&Request::Reload {}) {
                        tracing::info!("{}", outcome.text);
                    } else {
                        tracing::error!("{}", outcome.text);
                    }
                }
                changed = sources.link.changed() => {
                    changed.context("link changes cannot be watched any more")?;
                    self.look_at_link()?;
                }
                finding = self.census.finished() => match finding {
                    Finding::Connections(Some(count)) => {
                        self.tell_busy_buckets();
                        if self.census.sends_cookies(&count) {
                            self.input(Input::CookiesSent);
                        }
                        self.input(Input::Connections(&count.connections));
                    }
                    Finding::Connections(None) => {}
                    Finding::Missing(missing) => self.input(Input::Missing(&missing)),
                    Finding::Neighbours(neighbours) => self.evidence.note_neighbours(neighbours),
                },
                unclaimed = self.unclaimed.told() => {
                    let unclaimed = unclaimed.context("the filter's reports cannot be read")?;
                    self.input(Input::Unclaimed(&unclaimed));
                }
                told = groups::told(self.multicast.as_mut()) => self.note_groups(told),
                result = self.checkup.finished() => self.note_checked_up(result),
                Some(said) = self.upgrade.prepared() => self.note_prepared(said),
                written = self.keeper.written() => self.note_kept(written),
                () = check_up => self.check_up(),
                () = wake => {
                    // What the others have said comes before what their silence would mean.
                    self.read_frames();
                    self.input(Input::Timer);
                }
            }
            self.gather_evidence(sys::now());
            self.answer_waiting();
            self.review_upgrade();
        }
        let written = self.keeper.finish().await;
        self.note_kept(written);
        Ok(())
    }

    /// Asked to end: leaves the cluster first. Asked again: ends at once.
    fn end(&mut self) -> anyhow::Result<()> {
        if self.ending {
            bail!("asked to end a second time: left without handing over");
        }
        self.ending = true;
        self.command(Command::Stop);
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.cluster.is_at_rest()
    }

    fn read_frames(&mut self) {
        self.heed_commit();
        let (segment, cluster) = (&self.segment, &mut self.cluster);
        segment.drain(|frame| cluster.handle_input(sys::now(), Input::Frame(frame)));
        self.carry_out();
    }

    /// The filter sees a commit pass before this process does.
    fn heed_commit(&mut self) {
        if self.data_path.has_flipped() {
            self.cluster.handle_input(sys::now(), Input::Committed);
            self.carry_out();
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.heed_commit();
        self.cluster.handle_input(sys::now(), input);
        self.carry_out();
    }

    /// Tells the core which buckets of sticky rules have had traffic within their time.
    fn tell_busy_buckets(&mut self) {
        let now = sys::now();
        let rules = self.cluster.rules().clone();
        let sticky = (1u8..)
            .zip(rules.rules())
            .filter_map(|(index, rule)| Some((index, rule.sticky?)));
        if self.seen_under != rules.digest() {
            // The numbers of the rules mean other ones.
            self.seen_under = rules.digest();
            sticky
                .clone()
                .for_each(|(index, _)| self.data_path.forget(index));
        }
        let second = now.since(Time::ZERO).as_secs();
        let busy: Vec<(u8, BucketSet)> = sticky
            .map(|(index, time)| {
                let seen = self.data_path.seen(index);
                let recent = |bucket: &usize| {
                    let at = u64::from(seen[*bucket]);
                    at != 0 && second.saturating_sub(at) <= time.as_secs()
                };
                (index, (0..BUCKETS).filter(recent).collect())
            })
            .collect();
        if !busy.is_empty() {
            self.input(Input::Seen(&busy));
        }
    }

    fn disown(&mut self, map: Digest, connections: &[Ends]) {
        let connections: Vec<_> = connections.iter().map(unclaimed::for_filter).collect();
        let known = covey_filter::Disowned {
            until_ns: (sys::now() + DISOWNED).as_nanos(),
            map: map.0,
        };
        if let Err(error) = self.data_path.disown(&connections, known) {
            tracing::warn!("the filter cannot be told what nobody has: {error}");
        }
    }

    fn command(&mut self, command: Command) -> Answer {
        self.heed_commit();
        let answer = self.cluster.command(sys::now(), command);
        self.carry_out();
        answer
    }

    /// Does what the core asks for.
    fn carry_out(&mut self) {
        loop {
            match self.cluster.poll_output() {
                Output::Transmit(frame) => self.segment.send(&frame),
                Output::Stage(staging) => {
                    let lease = staging.lease.as_nanos();
                    self.data_path.stage(&staging.image, staging.token, lease);
                    self.staged = Some(staging.image);
                }
                Output::StagedLease(until) => self.data_path.set_staged_lease(until.as_nanos()),
                Output::Withdraw => {
                    self.data_path.withdraw();
                    self.staged = None;
                }
                Output::Commit => {
                    self.data_path.commit();
                    self.in_force = self.staged.take();
                    self.count_from_here();
                    self.follow_delivery();
                }
                Output::Amend(image) => {
                    self.data_path.amend(&image);
                    self.in_force = Some(*image);
                }
                Output::Fence => {
                    self.data_path.fence();
                    (self.staged, self.in_force) = (None, None);
                }
                Output::Lease(until) => self.data_path.set_lease(until.as_nanos()),
                Output::CountConnections => {
                    let idle = match self.config.cluster.max_linger {
                        Some(_) => Idle::Tell,
                        None => Idle::Skip,
                    };
                    self.census.count(self.config.rules.vips(), idle);
                }
                Output::Search(connections) => self.census.search(connections),
                Output::Disown(map, connections) => self.disown(map, &connections),
                Output::Cut(connections) => Census::cut(connections),
                Output::Unheard => self.show_groups(),
                Output::Event(event) => self.note(&event),
                Output::Wait(until) => {
                    self.wake_at = until;
                    return;
                }
            }
        }
    }

    /// Packets are counted by the number of their rule. When the numbers mean other rules, the counts begin anew.
    fn count_from_here(&mut self) {
        let rules = self.cluster.rules().digest();
        if self.counted_under != rules {
            self.counted_under = rules;
            match self.data_path.counters() {
                Ok(counters) => self.counted_before = counters,
                Err(error) => tracing::warn!("the packet counters cannot be read: {error}"),
            }
        }
    }

    fn note(&mut self, event: &Event) {
        let now = sys::now();
        self.journal.note(now.since(self.started_at), event);
        if let Event::Fenced { .. } = event {
            self.checkup.note_fence(now, event.to_string());
        }
        if matches!(
            event,
            Event::RulesChanged { .. } | Event::RuleDrained { .. }
        ) {
            self.keep_state();
        }
    }

    fn look_at_link(&mut self) -> anyhow::Result<()> {
        let interface = find_interface(&self.config.host.interface)?;
        self.input(Input::Link(interface.up));
        self.renew_groups(interface.up);
        self.input(Input::Mtu(interface.mtu));
        if interface.up {
            self.setup.renew();
        }
        Ok(())
    }

    /// Leaves the machine as it was found.
    fn put_back(self) {
        self.setup.undo();
        remove(self.data_path);
    }
}

fn remove(data_path: DataPath) {
    if let Err(error) = data_path.close() {
        tracing::error!("the filter could not be removed: {error}");
    }
}

fn find_interface(name: &str) -> anyhow::Result<Interface> {
    let found = Interface::find(name).context("the network interfaces cannot be read")?;
    found.ok_or_else(|| anyhow!("there is no network interface \"{name}\""))
}

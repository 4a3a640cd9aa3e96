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
//! changed on the machine is put back at the end. Specification: docs/design.md, "Layout" and "Membership".

mod census;
mod journal;
mod keep;
mod link_watch;
mod operate;
mod packet;
mod report;
mod sys;
mod unclaimed;

use crate::config::{Config, XdpMode};
use crate::control::Request;
use crate::control::server::{Call, Server};
use crate::datapath::{Attach, Counters, DataPath, pin_dir};
use crate::host::{HostSetup, Interface, Plan};
use crate::sockets::Idle;
use anyhow::{Context, anyhow, bail};
use census::{Census, Finding};
use covey_filter::BUCKETS;
use covey_proto::buckets::BucketSet;
use covey_proto::datapath::{Identity, Image};
use covey_proto::event::Event;
use covey_proto::ids::{Digest, Epoch, Incarnation, Mac};
use covey_proto::time::Time;
use covey_proto::wire::heartbeat::Ends;
use covey_proto::{Answer, Cluster, Command, Input, Output};
use journal::Journal;
use keep::{Keeper, Will};
use link_watch::LinkWatch;
use operate::Waiting;
use packet::Segment;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use unclaimed::{DISOWNED, Unclaimed};

/// Requests that may wait for the loop; it answers each within microseconds.
const CALLS: usize = 64;

/// Runs until the host has left the cluster.
///
/// # Errors
/// What kept it from running, as a chain of sentences.
pub fn run(config_path: &Path, config: Config) -> anyhow::Result<()> {
    if config.daemon.realtime {
        run_undisturbed();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("the async runtime cannot start")?;
    runtime.block_on(async {
        let sources = Sources::open(&config)?;
        let mut daemon = Daemon::new(config_path, config)?;
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
    identity: Identity,
    started_at: Time,
    cluster: Cluster,
    segment: Segment,
    data_path: DataPath,
    /// The tables that it holds for a committed map, and those that are held ready beside them.
    in_force: Option<Image>,
    staged: Option<Image>,
    setup: HostSetup,
    journal: Journal,
    census: Census,
    unclaimed: Unclaimed,
    /// The rules under which the data path has noted traffic.
    seen_under: Digest,
    /// The rules under which the data path counts packets, and what it had counted before them.
    counted_under: Digest,
    counted_before: Counters,
    waiting: Vec<Waiting>,
    keeper: Keeper,
    /// What the operator wants the host to be.
    will: Will,
    /// The daemon ends when the host has left.
    ending: bool,
    /// When the core wants to be called again.
    wake_at: Time,
}

impl Daemon {
    /// Makes the machine ready. The filter is attached first: from then on nothing of the cluster's traffic
    /// reaches the network stack unless the core says so.
    fn new(config_path: &Path, config: Config) -> anyhow::Result<Self> {
        let name = &config.host.interface;
        let interface = find_interface(name)?;
        let mac = interface
            .mac
            .ok_or_else(|| anyhow!("the network interface \"{name}\" is not Ethernet"))?;
        let restored = keep::restore(&config);
        let cluster_config = config.cluster_config(
            mac,
            sys::coarse_clock_tick(),
            draw_incarnation()?,
            restored.port_states,
        );
        let segment = Segment::open(interface.index)?;
        let identity = Identity::from(&cluster_config);
        let image = Image::fenced(&identity, &cluster_config.rules);
        let mut data_path = open_data_path(&config, &image)?;
        let unclaimed = Unclaimed::open(&mut data_path)?;
        let plan = Plan {
            interface: name.clone(),
            vips: config.rules.vips().to_vec(),
            cluster_mac: config.cluster_mac(),
        };
        let setup = match HostSetup::apply(&plan) {
            Ok(setup) => setup,
            Err(error) => {
                remove(data_path);
                return Err(error.into());
            }
        };
        for finding in setup.findings() {
            tracing::warn!("{finding}");
        }
        let mut daemon = Self {
            config_path: config_path.to_owned(),
            mac,
            identity,
            started_at: sys::now(),
            cluster: Cluster::new(cluster_config),
            segment,
            data_path,
            in_force: None,
            staged: None,
            setup,
            journal: Journal::default(),
            census: Census::new(),
            unclaimed,
            seen_under: Digest(0),
            counted_under: Digest(0),
            counted_before: Counters::default(),
            waiting: Vec::new(),
            keeper: Keeper::default(),
            will: restored.will,
            ending: false,
            wake_at: Time::NEVER,
            config,
        };
        daemon.input(Input::Link(interface.up));
        if let Some(note) = restored.note {
            daemon.journal.record(note.id, note.severity, note.text);
        }
        match daemon.will {
            Will::Started => daemon.command(Command::Start),
            Will::Suspended => daemon.command(Command::Suspend),
            Will::Stopped => Answer::Already,
        };
        Ok(daemon)
    }

    /// The loop. Ends when the host has left after a signal.
    async fn serve(&mut self, mut sources: Sources) -> anyhow::Result<()> {
        while !(self.ending && self.is_stopped() && !self.census.is_running()) {
            let wake = tokio::time::sleep(self.wake_at.since(sys::now()));
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
                    Finding::Connections(Some(connections)) => {
                        self.tell_busy_buckets();
                        self.input(Input::Connections(&connections));
                    }
                    Finding::Connections(None) => {}
                    Finding::Missing(missing) => self.input(Input::Missing(&missing)),
                },
                unclaimed = self.unclaimed.told() => {
                    let unclaimed = unclaimed.context("the filter's reports cannot be read")?;
                    self.input(Input::Unclaimed(&unclaimed));
                }
                written = self.keeper.written() => self.note_kept(written),
                () = wake => {
                    // What the others have said comes before what their silence would mean.
                    self.read_frames();
                    self.input(Input::Timer);
                }
            }
            self.answer_waiting();
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

    fn disown(&mut self, epoch: Epoch, connections: &[Ends]) {
        let connections: Vec<_> = connections.iter().map(unclaimed::for_filter).collect();
        let known = covey_filter::Disowned {
            until_ns: nanoseconds(sys::now() + DISOWNED),
            epoch: epoch.0,
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
                    let lease = nanoseconds(staging.lease);
                    self.data_path.stage(&staging.image, staging.token, lease);
                    self.staged = Some(staging.image);
                }
                Output::StagedLease(until) => self.data_path.set_staged_lease(nanoseconds(until)),
                Output::Withdraw => {
                    self.data_path.withdraw();
                    self.staged = None;
                }
                Output::Commit => {
                    self.data_path.commit();
                    self.in_force = self.staged.take();
                    self.count_from_here();
                }
                Output::Amend(image) => {
                    self.data_path.amend(&image);
                    self.in_force = Some(*image);
                }
                Output::Fence => {
                    self.data_path.fence();
                    (self.staged, self.in_force) = (None, None);
                }
                Output::Lease(until) => self.data_path.set_lease(nanoseconds(until)),
                Output::CountConnections => {
                    let idle = match self.config.cluster.max_linger {
                        Some(_) => Idle::Tell,
                        None => Idle::Skip,
                    };
                    self.census.count(self.config.rules.vips(), idle);
                }
                Output::Search(connections) => self.census.search(connections),
                Output::Disown(epoch, connections) => self.disown(epoch, &connections),
                Output::Cut(connections) => Census::cut(connections),
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
        self.journal.note(sys::now().since(self.started_at), event);
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

const fn nanoseconds(time: Time) -> u64 {
    time.as_micros().saturating_mul(1000)
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

fn open_data_path(config: &Config, image: &Image) -> anyhow::Result<DataPath> {
    let pins = pin_dir(&config.host.interface).context("/proc is not mounted")?;
    let prefer = match config.daemon.xdp {
        XdpMode::Auto | XdpMode::Native => Attach::Native,
        XdpMode::Generic => Attach::Generic,
    };
    let data_path = DataPath::open(&config.host.interface, &pins, prefer, image)?;
    if config.daemon.xdp == XdpMode::Native && data_path.attach() == Attach::Generic {
        let interface = &config.host.interface;
        let closed = data_path.close();
        closed.context("the filter could not be removed again")?;
        bail!("the driver of {interface} takes no XDP program; set daemon.xdp = \"auto\"");
    }
    Ok(data_path)
}

/// A number that no daemon on this segment has drawn before.
fn draw_incarnation() -> anyhow::Result<Incarnation> {
    let mut bytes = [0; 8];
    let drawn = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    drawn.context("/dev/urandom cannot be read")?;
    Ok(Incarnation(u64::from_ne_bytes(bytes)))
}

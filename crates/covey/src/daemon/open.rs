//! How a daemon begins: it makes the machine ready, and is a new host or goes on where the daemon before it was.
//!
//! Used by [`super::run`]. Specification: docs/design.md, "Layout" and "Upgrade".

use super::census::Census;
use super::checkup::Checkup;
use super::evidence::Evidence;
use super::journal::Journal;
use super::keep::{self, Keeper, Note, Will};
use super::packet::Segment;
use super::unclaimed::Unclaimed;
use super::upgrade::{Inheritance, Succession, Upgrade};
use super::{Daemon, delivery, find_interface, remove, sys};
use crate::config::{Config, XdpMode};
use crate::datapath::{Attach, Counters, DataPath, Loaded, pin_dir};
use crate::host::HostSetup;
use anyhow::{Context, anyhow, bail};
use covey_proto::config::ClusterConfig;
use covey_proto::datapath::{Identity, Image};
use covey_proto::ids::{Digest, Incarnation};
use covey_proto::time::Time;
use covey_proto::{Answer, Cluster, Command, Input};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The core with which a daemon begins.
struct Beginning {
    cluster: Cluster,
    /// What the data path is to hold for the map that is in force already, and until when it may accept packets by it.
    in_force: Option<(Image, Time)>,
    /// What the daemon before has left, or why it is of no use; `None` if there was none.
    before: Option<anyhow::Result<Inheritance>>,
}

impl Beginning {
    fn new(config: ClusterConfig, before: Option<anyhow::Result<Inheritance>>) -> Self {
        let now = sys::now();
        let taken_over = before.map(|before| {
            let before = before?;
            let cluster = Cluster::import(config.clone(), &before.cluster, now)?;
            anyhow::Ok((cluster, before))
        });
        match taken_over {
            Some(Ok((cluster, before))) => Self {
                in_force: cluster.in_force(now),
                cluster,
                before: Some(Ok(before)),
            },
            Some(Err(error)) => Self {
                before: Some(Err(error)),
                ..Self::new(config, None)
            },
            None => Self {
                cluster: Cluster::new(config),
                in_force: None,
                before: None,
            },
        }
    }
}

impl Daemon {
    /// Makes the machine ready. The filter is attached first: from then on nothing of the cluster's traffic
    /// reaches the network stack unless the core says so.
    pub(super) fn open(
        config_path: &Path,
        config: Config,
        before: Option<anyhow::Result<Inheritance>>,
    ) -> anyhow::Result<Self> {
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
        let segment = Segment::open(interface.index, cluster_config.rules.primary())?;
        let identity = Identity::from(&cluster_config);
        let fenced = Image::fenced(&identity, &cluster_config.rules);
        let pins = pin_dir(name).context("/proc is not mounted")?;
        let prepared = before.map(|before| {
            let before = before?;
            anyhow::Ok((before, DataPath::prepared(name, &pins, &fenced)?))
        });
        let (before, loaded) = match prepared {
            Some(Ok((before, loaded))) => (Some(Ok(before)), Some(loaded)),
            Some(Err(error)) => (Some(Err(error)), None),
            None => (None, None),
        };
        let mut loaded = match loaded {
            Some(loaded) => loaded,
            None => DataPath::load(name, &pins, &fenced)?,
        };
        // As late as can be: what makes it the same host is a moment old, not as old as it took to get here.
        let Beginning {
            cluster,
            in_force,
            before,
        } = Beginning::new(cluster_config, before);
        if let Some((image, lease)) = &in_force {
            loaded.fill(image, lease.as_nanos());
        }
        let mut data_path = attach_data_path(&config, loaded)?;
        let unclaimed = Unclaimed::open(&mut data_path)?;
        let plan = delivery::plan(&config, &cluster);
        let delivery = cluster.delivery();
        let setup = match HostSetup::apply(&plan) {
            Ok(setup) => setup,
            Err(error) => {
                remove(data_path);
                return Err(error.into());
            }
        };
        let mut daemon = Self {
            config_path: config_path.to_owned(),
            interface: interface.index,
            mac,
            identity,
            started_at: sys::now(),
            cluster,
            segment,
            data_path,
            in_force: in_force.map(|(image, _)| image),
            staged: None,
            setup,
            delivery,
            journal: Journal::default(),
            census: Census::new(),
            checkup: Checkup::new(sys::now(), config.cluster.timing.expiry(), Vec::new()),
            evidence: Evidence::default(),
            unclaimed,
            multicast: None,
            seen_under: Digest(0),
            counted_under: Digest(0),
            counted_before: Counters::default(),
            waiting: Vec::new(),
            keeper: Keeper::default(),
            upgrade: Upgrade::new(),
            upgrades: 0,
            will: restored.will,
            ending: false,
            wake_at: Time::NEVER,
            config,
        };
        match before {
            Some(Ok(before)) => daemon.go_on(before, interface.up),
            Some(Err(error)) => {
                let told = Succession::failed(format!("{error:#}"));
                daemon.journal.record(told.id, told.severity, told.text);
                daemon.begin(interface.up, restored.note);
            }
            None => daemon.begin(interface.up, restored.note),
        }
        daemon.input(Input::Mtu(interface.mtu));
        Ok(daemon)
    }

    /// Begins as what the operator wanted last.
    fn begin(&mut self, link_up: bool, note: Option<Note>) {
        self.join_groups();
        self.input(Input::Link(link_up));
        if let Some(note) = note {
            self.journal.record(note.id, note.severity, note.text);
        }
        match self.will {
            Will::Started => self.command(Command::Start),
            Will::Suspended => self.command(Command::Suspend),
            Will::Stopped => Answer::Already,
        };
    }

    /// Goes on where the daemon before was.
    fn go_on(&mut self, before: Inheritance, link_up: bool) {
        self.take_over_groups(before.membership);
        let took = sys::now().since(before.written_at());
        let told = Succession::done(&before.version, took);
        self.started_at = before.started_at();
        (self.will, self.upgrades) = (before.will, before.upgrades);
        self.seen_under = Digest(before.seen_under);
        if let Some((under, counters)) = before.counted() {
            (self.counted_under, self.counted_before) = (under, counters);
        }
        self.journal = Journal::continuing(before.journal);
        self.checkup = Checkup::new(
            sys::now(),
            self.config.cluster.timing.expiry(),
            before.findings,
        );
        self.journal.record(told.id, told.severity, told.text);
        self.input(Input::Link(link_up));
        self.input(Input::Timer);
    }
}

fn attach_data_path(config: &Config, loaded: Loaded) -> anyhow::Result<DataPath> {
    let prefer = match config.daemon.xdp {
        XdpMode::Auto | XdpMode::Native => Attach::Native,
        XdpMode::Generic => Attach::Generic,
    };
    let data_path = loaded.attach(prefer)?;
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

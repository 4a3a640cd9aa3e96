//! Building a lab and taking it down.
//!
//! `down` does not trust the state file: what it removes it finds by name, by namespace and by the file, so that it
//! also removes what a crash at any point has left. `up` that fails calls it before it reports.
//! docs/design.md, "Command line".

use super::args::Xdp;
use super::bridge::all_plugged_in;
use super::convergence::patience;
use super::host::{self, Host};
use super::interrupt::{Interrupt, TICK};
use super::netns::{NetnsId, run_in};
use super::process::{Condition, Process, kill_all};
use super::snooping::{self, Asking, Switch};
use super::state::Lab;
use super::topology::{self, Batch, CLIENT, CLIENT6, LabName, PREFIX6, Place, VIP6, dip};
use anyhow::{Context, Result, anyhow, bail};
use covey_proto::config::{ClusterMode, Timing};
use covey_proto::ids::HostId;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long the kernel may take to see that cables are plugged in: it looks once a second.
const CABLE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a server may take to listen.
const SERVER_PATIENCE: Duration = Duration::from_secs(10);

/// What to build.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// The lab's name.
    pub(super) name: LabName,
    /// The `covey` program that the hosts run.
    pub(super) program: PathBuf,
    /// The hosts, 1 to this.
    pub(super) hosts: HostId,
    /// The cluster's heartbeat timing.
    pub(super) timing: Timing,
    /// Whether hosts, client and cluster have IPv6 addresses too.
    pub(super) ipv6: bool,
    /// How frames reach the hosts.
    pub(super) mode: ClusterMode,
    /// Where in the kernel the filter runs.
    pub(super) xdp: Xdp,
    /// Whether to start the hosts' daemons.
    pub(super) daemons: bool,
    /// What the hosts are plugged into.
    pub(super) switch: Switch,
    /// How its querier asks, if there is one.
    pub(super) asking: Asking,
    /// Whether the hosts announce themselves as multicast routers.
    pub(super) announce_mrouter: bool,
    /// More lines for the section `[cluster]` of their configuration.
    pub(super) cluster: Vec<String>,
}

/// Builds a lab and waits until its hosts have converged, telling each step to `say`. If that fails, nothing is
/// left of it.
///
/// # Errors
/// If there is a lab already, a step fails, the hosts do not converge in time, or if interrupted.
pub(super) fn up(spec: &Spec, interrupt: &Interrupt, say: &dyn Fn(&str)) -> Result<Lab> {
    claim(&spec.name)?;
    bring_up(spec, interrupt, say).map_err(|error| match down(&spec.name) {
        Ok(_) => error.context("the lab did not come up, and nothing is left of it"),
        Err(rest) => error.context(format!(
            "the lab did not come up, and `covey lab down` has work to do ({rest:#})"
        )),
    })
}

fn bring_up(spec: &Spec, interrupt: &Interrupt, say: &dyn Fn(&str)) -> Result<Lab> {
    let mut lab = build(spec, interrupt, say)?;
    if !spec.daemons {
        // With daemons that is seen by their convergence.
        await_cables(&lab, interrupt)?;
        return Ok(lab);
    }
    for index in 0..lab.hosts.len() {
        interrupt.check()?;
        lab.hosts[index].start_daemon(&lab.name, &lab.program)?;
        lab.save()?;
    }
    say(&format!(
        "daemons   a heartbeat every {}, {} missed ones mean death",
        crate::duration::format(spec.timing.period),
        spec.timing.tolerance
    ));
    let took = lab.wait_converged(lab.everyone(), patience(spec.timing), interrupt)?;
    say(&format!(
        "converged hosts {} after {:.2} s",
        lab.everyone(),
        took.as_secs_f64()
    ));
    Ok(lab)
}

/// Takes the state directory, which only one lab of a name can have.
fn claim(name: &LabName) -> Result<()> {
    let directory = name.directory();
    let taken = "there is a lab already; use it, or take it down with `covey lab down`";
    if !name.namespaces()?.is_empty() {
        bail!(taken);
    }
    // The cluster key lies in it.
    match DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(taken),
        Err(error) => Err(error).context(format!("cannot create {}", directory.display())),
    }
}

/// Builds everything of a claimed lab but the daemons: network, configuration, servers.
fn build(spec: &Spec, interrupt: &Interrupt, say: &dyn Fn(&str)) -> Result<Lab> {
    let ids: Vec<HostId> = (1..=spec.hosts.get()).filter_map(HostId::new).collect();
    let network = topology::plan(&spec.name, &ids, spec.ipv6);
    let switch = spec.switch.plan(&spec.name, spec.asking);
    for batch in network.into_iter().chain(switch) {
        interrupt.check()?;
        batch.run()?;
    }
    spec.switch.set_up(&spec.name, spec.asking)?;
    say(&format!(
        "network   hosts {} to {}, client {}, bridge br0 in namespace {}",
        dip(ids[0]),
        dip(spec.hosts),
        CLIENT,
        spec.name.namespace(Place::Switch)
    ));
    if spec.ipv6 {
        say(&format!(
            "IPv6      the same numbers in {VIP6}/{PREFIX6}, client {CLIENT6}"
        ));
    }

    write_key(&host::key_path(&spec.name))?;
    let mut lab = Lab {
        name: spec.name.clone(),
        program: spec.program.clone(),
        timing: spec.timing,
        ipv6: spec.ipv6,
        switch: spec.switch,
        hosts: Vec::new(),
    };
    for id in ids {
        interrupt.check()?;
        fs::create_dir(host::directory(&lab.name, id))
            .and_then(|()| {
                let config = host::config(spec, id);
                fs::write(host::config_path(&lab.name, id), config)
            })
            .with_context(|| format!("cannot write the configuration of host {id}"))?;
        let mut host = Host::new(&lab.name, id)?;
        host.start_server(&lab.name, &lab.program, lab.ipv6)?;
        lab.hosts.push(host);
        lab.save()?;
    }
    for host in &lab.hosts {
        await_server(&lab, host, interrupt)?;
    }
    say("servers   HTTP on port 80 and UDP echo on port 7 in every host");
    Ok(lab)
}

fn write_key(path: &Path) -> Result<()> {
    let mut secret = [0_u8; 32];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut secret))
        .context("cannot read /dev/urandom")?;
    let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    File::options()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| writeln!(file, "{digits}"))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Returns when a host's server accepts connections on its dedicated IP.
fn await_server(lab: &Lab, host: &Host, interrupt: &Interrupt) -> Result<()> {
    let address = SocketAddr::from((dip(host.id), 80));
    run_in(&lab.name.namespace(Place::Host(host.id)), || {
        let start = Instant::now();
        loop {
            interrupt.check()?;
            match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > SERVER_PATIENCE => {
                    return Err(error).context(format!(
                        "the server of host {} does not accept connections; see {}",
                        host.id,
                        host::directory(&lab.name, host.id)
                            .join("server.log")
                            .display()
                    ));
                }
                Err(_) => thread::sleep(TICK),
            }
        }
    })
}

/// Returns when all machines are reached through the switch.
fn await_cables(lab: &Lab, interrupt: &Interrupt) -> Result<()> {
    let hosts = lab.hosts.iter().map(|host| Place::Host(host.id));
    let places: Vec<Place> = hosts.chain([Place::Client]).collect();
    let start = Instant::now();
    while !all_plugged_in(&lab.name, &places)? {
        interrupt.check()?;
        if start.elapsed() > CABLE_PATIENCE {
            bail!(
                "the switch does not forward to all machines after {} s",
                CABLE_PATIENCE.as_secs()
            );
        }
        thread::sleep(TICK);
    }
    Ok(())
}

/// What [`down`] found and removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Removed {
    /// Processes that were killed.
    pub(super) processes: usize,
    /// Namespaces that were deleted.
    pub(super) namespaces: usize,
}

/// Takes a lab down, or what is left of one. Goes on when a step fails, and does everything it can.
///
/// # Errors
/// All steps that failed, in one sentence.
pub(super) fn down(name: &LabName) -> Result<Removed> {
    let mut failures = Vec::new();
    let mut attempt = |result: Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{error:#}"));
        }
    };

    let remembered = Lab::load(name.clone())
        .map(|lab| lab.hosts)
        .unwrap_or_default();
    let namespaces = name.namespaces()?;
    let mut netns: Vec<NetnsId> = namespaces
        .iter()
        .filter_map(|name| NetnsId::of(name).ok())
        .collect();
    let mut processes: Vec<Process> = remembered
        .iter()
        .flat_map(|host| [host.daemon, host.server])
        .flatten()
        .filter(|process| process.condition() != Condition::Gone)
        .chain(netns.iter().flat_map(|id| id.processes()))
        .collect();
    processes.sort_unstable();
    processes.dedup();
    attempt(kill_all(&processes));

    // A namespace that was deleted by hand: what its daemon left goes too, unless its number has a new owner.
    for host in &remembered {
        if !netns.contains(&host.netns) && host.netns.processes().is_empty() {
            netns.push(host.netns);
        }
    }
    for id in netns {
        for file in [host::control_socket(id), host::change_note(id)] {
            attempt(remove(&file, |path| fs::remove_file(path)));
        }
        attempt(remove(&host::pin_directory(id), |path| {
            fs::remove_dir_all(path)
        }));
        attempt(remove(&snooping::table_of(id), |path| {
            fs::remove_file(path)
        }));
    }
    for namespace in &namespaces {
        let delete = Batch {
            namespace: None,
            commands: vec![format!("netns del {namespace}")],
        };
        // Somebody else may be taking the same lab down; gone is gone.
        let deleted = delete.run().or_else(|error| match NetnsId::of(namespace) {
            Ok(_) => Err(error),
            Err(_) => Ok(()),
        });
        attempt(deleted);
    }
    attempt(remove(&name.directory(), |path| fs::remove_dir_all(path)));

    if failures.is_empty() {
        Ok(Removed {
            processes: processes.len(),
            namespaces: namespaces.len(),
        })
    } else {
        Err(anyhow!(
            "not everything could be removed: {}",
            failures.join("; ")
        ))
    }
}

/// Removes what may not be there.
fn remove(path: &Path, how: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    match how(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

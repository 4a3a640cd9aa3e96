//! The kinds of switch that a lab can have, and what makes its bridge one of them.
//!
//! | kind         | frames to a group's MAC                                                                      |
//! |--------------|----------------------------------------------------------------------------------------------|
//! | `bridge`     | go to all ports: nobody asks who is in a group, so the bridge does not look                  |
//! | `snooping`   | go to the members of the group that the destination *IP* is, and to routers; the bridge asks |
//! | `mac-groups` | go to the members of the group that has the MAC, and to routers: as hardware does            |
//!
//! The second is Linux' own. The third is a bridge that does not look, with the programs of `ebpf/src/snooping.rs` at its
//! ports; they live and die with the ports. Their querier is a second bridge, plugged into the first like a router.
//! Called by `lab up` and by the faults. docs/design.md, "The lab".

use super::netns::{NetnsId, run_in};
use super::topology::{Batch, LabName, PREFIX, Place, ip};
use crate::datapath::ensure_bpffs;
use anyhow::{Context, Result, bail};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::tc::{self, NlOptions, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use clap::ValueEnum;
use covey_proto::ids::HostId;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Who asks in a lab whose switch does not.
pub(super) const QUERIER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
/// The client's second NIC, without an address, where the switch snoops.
const SPARE: &str = "eth1";
/// Three intervals without an advertisement: then there is no router any more.
const ROUTER_AGE: Duration = Duration::from_secs(60);
/// For how long the others behind a port may answer when one of them has left.
const LEAVE_LATENCY: Duration = Duration::from_secs(2);

/// What makes a bridge snoop by MAC group: `ebpf/src/snooping.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("COVEY_SNOOPING"));
/// Words in its table, as there.
const ROUTER: u32 = 0x0100_0000;
const IGNORED: u32 = 0x0200_0000;

/// What kind of switch the hosts are plugged into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Switch {
    /// A bridge that floods multicast: nobody asks for members
    #[default]
    Bridge,
    /// A bridge that snoops and asks: forwards by destination IP, as Linux does
    Snooping,
    /// A switch that snoops, and a router that asks: forwards by MAC group, as hardware does
    MacGroups,
}

/// How the querier of a lab asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asking {
    /// Time between two general queries.
    pub(super) interval: Duration,
    /// Of IGMP: 2 or 3.
    pub(super) version: u8,
}

impl Default for Asking {
    /// The interval of the RFCs, and the version of today.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(125),
            version: 3,
        }
    }
}

impl Asking {
    /// The shortest that the kernel accepts.
    pub(super) const SHORTEST: Duration = Duration::from_secs(1);

    /// Within which time members answer: 10 s, or a quarter of a short interval.
    pub(super) fn response(self) -> Duration {
        Duration::from_secs(10).min(self.interval / 4)
    }

    /// For how long a report counts (RFC 2236 §8.4).
    pub(super) fn membership(self) -> Duration {
        self.interval * 2 + self.response()
    }

    /// What makes a bridge ask. It begins with the last command, in the version and at the times that it has then.
    fn commands(self, bridge: &str) -> Vec<String> {
        let hundredths = |time: Duration| time.as_millis() / 10;
        let interval = hundredths(self.interval);
        vec![
            format!(
                "link set {bridge} type bridge mcast_snooping 1 mcast_igmp_version {igmp} mcast_mld_version {mld} \
                 mcast_query_interval {interval} mcast_query_response_interval {response} \
                 mcast_startup_query_interval {startup} mcast_membership_interval {membership} \
                 mcast_last_member_interval 100",
                igmp = self.version,
                mld = self.version - 1,
                response = hundredths(self.response()),
                startup = interval.min(hundredths(Self::SHORTEST)),
                membership = hundredths(self.membership()),
            ),
            format!("link set {bridge} type bridge mcast_querier 1"),
        ]
    }
}

impl Switch {
    /// The commands that make the bridge of a lab this switch, once its ports are plugged in.
    pub(super) fn plan(self, lab: &LabName, asking: Asking) -> Vec<Batch> {
        let (namespace, client) = (lab.namespace(Place::Switch), lab.namespace(Place::Client));
        let mut commands = match self {
            Self::Bridge => Vec::new(),
            Self::Snooping => {
                // It asks by MLD too if it has an address to ask from.
                let mut commands = vec!["address add fe80::fe/64 dev br0 nodad".to_owned()];
                commands.extend(asking.commands("br0"));
                commands
            }
            Self::MacGroups => {
                let mut commands: Vec<String> = [
                    "link add querier type bridge stp_state 0 forward_delay 0 mcast_query_use_ifaddr 1",
                    "link set querier addrgenmode none",
                    "link add port-querier type veth peer name to-switch",
                    "link set port-querier addrgenmode none",
                    "link set to-switch addrgenmode none",
                    "link set port-querier master br0 up",
                    "link set to-switch master querier up",
                ]
                .map(str::to_owned)
                .into();
                commands.push(format!("address add {QUERIER}/{PREFIX} dev querier"));
                commands.push("address add fe80::fe/64 dev querier nodad".to_owned());
                commands.extend(asking.commands("querier"));
                commands.push("link set querier up".to_owned());
                commands
            }
        };
        if commands.is_empty() {
            return Vec::new();
        }
        // The client's second NIC: a port that is no member's, to see what gets there.
        commands.extend([
            format!("link add port-spare type veth peer name {SPARE} netns {client}"),
            "link set port-spare addrgenmode none".to_owned(),
            "link set port-spare master br0 up".to_owned(),
        ]);
        // It must not answer for the address of the first: who asks would send there what is for the other.
        let spare =
            ["addrgenmode none", "arp off up"].map(|what| format!("link set {SPARE} {what}"));
        vec![
            Batch {
                namespace: Some(namespace),
                commands,
            },
            Batch {
                namespace: Some(client),
                commands: spare.into(),
            },
        ]
    }

    /// Sets up what commands cannot: the programs at the ports of a switch that forwards by MAC group.
    ///
    /// # Errors
    /// If the kernel refuses one.
    pub(super) fn set_up(self, lab: &LabName, asking: Asking) -> Result<()> {
        match self {
            Self::Bridge | Self::Snooping => Ok(()),
            Self::MacGroups => {
                let table = table_path(lab)?;
                run_in(&lab.namespace(Place::Switch), || attach(&table, asking))
            }
        }
    }

    /// Lets the switch forget that a host's port has members of groups, and a router, behind it, as it does by itself
    /// when it has not heard of them for too long.
    ///
    /// # Errors
    /// If the switch of the lab has no such port, or is of a kind that remembers nothing.
    pub(super) fn forget(self, lab: &LabName, host: HostId) -> Result<()> {
        match self {
            Self::Bridge => bail!(
                "the switch of this lab does not snoop, so it has nothing to forget; build one with `covey lab up \
                 --switch snooping`, or `--switch mac-groups`"
            ),
            Self::Snooping => forget_in_bridge(lab, host),
            Self::MacGroups => {
                let mut known = Known::open(lab)?;
                let port = port_number(lab, host)?;
                known.forget(port)
            }
        }
    }

    /// Whether the switch heeds what members behind a host's port report, as a switch should.
    ///
    /// # Errors
    /// As [`Self::forget`]; and if the switch is Linux' own, which always does.
    pub(super) fn heed(self, lab: &LabName, host: HostId, heeds: bool) -> Result<()> {
        match self {
            Self::Bridge | Self::Snooping => {
                bail!(
                    "this takes a switch that forwards by MAC group: `covey lab up --switch mac-groups`"
                )
            }
            Self::MacGroups => {
                let mut known = Known::open(lab)?;
                let port = port_number(lab, host)?;
                known.ignore(port, !heeds)
            }
        }
    }
}

/// Where the table of a lab's switch is pinned.
fn table_path(lab: &LabName) -> Result<PathBuf> {
    let namespace = NetnsId::of(&lab.namespace(Place::Switch))?;
    Ok(table_of(namespace))
}

/// The same, by the namespace of the switch. `lab down` removes it.
pub(super) fn table_of(switch: NetnsId) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/covey/{}-switch", switch.inode))
}

/// Puts the programs at all ports of the switch in this thread's namespace. They stay when this process ends.
fn attach(table: &Path, asking: Asking) -> Result<()> {
    let nanoseconds = |time: Duration| time.as_nanos() as u64;
    let mut ebpf = EbpfLoader::new()
        .override_global("MEMBER_NS", &nanoseconds(asking.membership()), true)
        .override_global("QUERIER_NS", &nanoseconds(asking.membership()), true)
        .override_global("ROUTER_NS", &nanoseconds(ROUTER_AGE), true)
        .override_global("LEAVE_NS", &nanoseconds(LEAVE_LATENCY), true)
        .load(OBJECT)
        .context("the switch's programs cannot be loaded")?;
    let directory = table.parent().unwrap_or(Path::new("/"));
    ensure_bpffs(directory)?;
    let known = ebpf.map("KNOWN").context("the programs have no table")?;
    known
        .pin(table)
        .with_context(|| format!("cannot pin the switch's table as {}", table.display()))?;
    let ports = ports()?;
    for (name, side) in [
        ("learn", TcAttachType::Ingress),
        ("forward", TcAttachType::Egress),
    ] {
        let program = program(&mut ebpf, name)?;
        program
            .load()
            .with_context(|| format!("the kernel refuses the switch's program {name}"))?;
        for port in &ports {
            put(program, port, side)
                .with_context(|| format!("cannot put the program {name} at {port}"))?;
        }
    }
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("there is no program {name}"))?;
    Ok(program.try_into()?)
}

/// As a filter of the clsact qdisc, which needs nobody to hold it.
fn put(program: &mut SchedClassifier, port: &str, side: TcAttachType) -> Result<()> {
    // It is there for the second program.
    if side == TcAttachType::Ingress {
        tc::qdisc_add_clsact(port)?;
    }
    let options = TcAttachOptions::Netlink(NlOptions::default());
    let id = program.attach_with_options(port, side, options)?;
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// The ports of the switch in this thread's namespace.
fn ports() -> Result<Vec<String>> {
    let output = ip(None)
        .args(["-json", "link", "show", "master", "br0"])
        .output()
        .context("cannot run `ip`; install iproute2")?;
    let links: Vec<Link> = serde_json::from_slice(&output.stdout)
        .context("cannot read the JSON that `ip -json link` writes")?;
    Ok(links.into_iter().map(|link| link.ifname).collect())
}

/// The interface index of a host's port.
fn port_number(lab: &LabName, host: HostId) -> Result<u32> {
    let port = port_of(host);
    let output = ip(Some(&lab.namespace(Place::Switch)))
        .args(["-json", "link", "show", "dev", &port])
        .output()
        .context("cannot run `ip`; install iproute2")?;
    let links: Vec<Link> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the switch has no port {port}"))?;
    let link = links.first();
    Ok(link
        .with_context(|| format!("the switch has no port {port}"))?
        .ifindex)
}

fn port_of(host: HostId) -> String {
    format!("port-h{host}")
}

/// What is read of `ip -json link`.
#[derive(Deserialize)]
struct Link {
    ifindex: u32,
    ifname: String,
}

/// The table of the programs: until when something is so, by port and by what it is.
struct Known(HashMap<MapData, u64, u64>);

impl Known {
    fn open(lab: &LabName) -> Result<Self> {
        let path = table_path(lab)?;
        let map = MapData::from_pin(&path).and_then(Map::from_map_data);
        let map =
            map.with_context(|| format!("the switch's table {} is not there", path.display()))?;
        Ok(Self(map.try_into()?))
    }

    fn forget(&mut self, port: u32) -> Result<()> {
        let keys: Vec<u64> = self.0.keys().collect::<Result<_, _>>()?;
        for key in keys {
            let (of, what) = ((key >> 32) as u32, key as u32);
            if of == port && what <= ROUTER {
                // It may have gone meanwhile.
                let _ = self.0.remove(&key);
            }
        }
        Ok(())
    }

    fn ignore(&mut self, port: u32, ignored: bool) -> Result<()> {
        let until = if ignored { u64::MAX } else { 0 };
        Ok(self
            .0
            .insert(u64::from(port) << 32 | u64::from(IGNORED), until, 0)?)
    }
}

/// Takes a port out of all groups that the bridge itself has learned.
fn forget_in_bridge(lab: &LabName, host: HostId) -> Result<()> {
    let port = port_of(host);
    let bridge = || {
        let mut bridge = Command::new("bridge");
        bridge.args(["-n", &lab.namespace(Place::Switch)]);
        bridge
    };
    let output = bridge()
        .args(["-json", "mdb", "show", "dev", "br0"])
        .output()
        .context("cannot run `bridge`; install iproute2")?;
    let tables: Vec<Memberships> = serde_json::from_slice(&output.stdout)
        .context("cannot read the JSON that `bridge -json mdb` writes")?;
    let members = tables.iter().flat_map(|table| &table.mdb);
    let members = members.filter(|member| member.port == port);
    let leave = members.map(|member| format!("mdb del dev br0 port {port} grp {}", member.grp));
    // Who must not be a router is none, and may become one again.
    let router = [0, 1].map(|may| format!("link set dev {port} mcast_router {may}"));
    for command in leave.chain(router) {
        let output = bridge()
            .args(command.split(' '))
            .output()
            .context("cannot run `bridge`")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "the switch does not forget {port} (bridge {command}): {}",
                said.trim()
            );
        }
    }
    Ok(())
}

/// What is read of `bridge -json mdb`.
#[derive(Deserialize)]
struct Memberships {
    #[serde(default)]
    mdb: Vec<Membership>,
}

#[derive(Deserialize)]
struct Membership {
    port: String,
    grp: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(switch: Switch) -> String {
        let asking = Asking {
            interval: Duration::from_secs(4),
            version: 3,
        };
        let batches = switch.plan(&"covey".parse().unwrap(), asking);
        batches.iter().map(Batch::to_string).collect()
    }

    #[test]
    fn a_switch_asks_at_the_times_it_is_given() {
        assert_eq!(text(Switch::Bridge), "");
        insta::assert_snapshot!(text(Switch::Snooping), @"
        ip -n covey-switch address add fe80::fe/64 dev br0 nodad
        ip -n covey-switch link set br0 type bridge mcast_snooping 1 mcast_igmp_version 3 mcast_mld_version 2 mcast_query_interval 400 mcast_query_response_interval 100 mcast_startup_query_interval 100 mcast_membership_interval 900 mcast_last_member_interval 100
        ip -n covey-switch link set br0 type bridge mcast_querier 1
        ip -n covey-switch link add port-spare type veth peer name eth1 netns covey-client
        ip -n covey-switch link set port-spare addrgenmode none
        ip -n covey-switch link set port-spare master br0 up
        ip -n covey-client link set eth1 addrgenmode none
        ip -n covey-client link set eth1 arp off up
        ");
        insta::assert_snapshot!(text(Switch::MacGroups), @"
        ip -n covey-switch link add querier type bridge stp_state 0 forward_delay 0 mcast_query_use_ifaddr 1
        ip -n covey-switch link set querier addrgenmode none
        ip -n covey-switch link add port-querier type veth peer name to-switch
        ip -n covey-switch link set port-querier addrgenmode none
        ip -n covey-switch link set to-switch addrgenmode none
        ip -n covey-switch link set port-querier master br0 up
        ip -n covey-switch link set to-switch master querier up
        ip -n covey-switch address add 10.77.0.254/24 dev querier
        ip -n covey-switch address add fe80::fe/64 dev querier nodad
        ip -n covey-switch link set querier type bridge mcast_snooping 1 mcast_igmp_version 3 mcast_mld_version 2 mcast_query_interval 400 mcast_query_response_interval 100 mcast_startup_query_interval 100 mcast_membership_interval 900 mcast_last_member_interval 100
        ip -n covey-switch link set querier type bridge mcast_querier 1
        ip -n covey-switch link set querier up
        ip -n covey-switch link add port-spare type veth peer name eth1 netns covey-client
        ip -n covey-switch link set port-spare addrgenmode none
        ip -n covey-switch link set port-spare master br0 up
        ip -n covey-client link set eth1 addrgenmode none
        ip -n covey-client link set eth1 arp off up
        ");
    }
}

//! The meaning of `[host]` and `[daemon]`: who this host is, and how its daemon runs.
//!
//! The interface must be there and must be Ethernet when the configuration is read; the dedicated IP is one of
//! its addresses, as NLB demands (NLB facts §2.7). Used only by [`super::Config::load`].
//! Specification: docs/design.md, "Command line".

use super::cluster::in_range;
use super::file::{ConfigFile, HostSection};
use super::problem::{Problems, choice};
use super::system::System;
use super::{Daemon, Host, InitialState, Vip, XdpMode};
use crate::host::Interface;
use covey_proto::ids::{HostId, MAX_HOSTS, Mac};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use toml::Spanned;
use tracing_subscriber::EnvFilter;

/// Where state lies that outlives a reboot.
const STATE_DIR: &str = "/var/lib/covey";

/// Reads `[host]`. `vips` and `cluster_mac` are missing if something is wrong with them, which has been said then.
pub(super) fn read(
    file: &ConfigFile,
    vips: Option<&[Vip]>,
    cluster_mac: Option<Mac>,
    system: &dyn System,
    problems: &mut Problems<'_>,
) -> Option<Host> {
    let Some(spanned) = &file.host else {
        problems.add(
            None,
            "there is no [host] section: it says who this host is, id and interface at least",
        );
        return None;
    };
    let section = spanned.get_ref();
    let id = problems
        .required(
            section.id.as_ref(),
            spanned,
            "[host] has no id: write id = N, from 1 to 64, different on every host",
        )
        .and_then(|id| {
            problems.read(id, |&id| {
                in_range("host id", id, 1, MAX_HOSTS).map_err(|_| {
                    format!("host id {id} is not possible: IDs run from 1 to {MAX_HOSTS}")
                })
            })
        })
        .and_then(HostId::new);
    let name = match &section.name {
        Some(name) => problems.read(name, |name| match name.trim() {
            "" => Err("the host's name is empty: leave it out to use the machine's".to_owned()),
            name => Ok(name.to_owned()),
        }),
        None => system
            .host_name()
            .map_err(|error| {
                problems.add(
                    None,
                    format!("cannot read the machine's host name: {error}"),
                )
            })
            .ok(),
    };
    let interface = problems
        .required(
            section.interface.as_ref(),
            spanned,
            "[host] has no interface: write interface = \"eth0\", the NIC on the cluster's segment",
        )
        .and_then(|name| problems.read(name, |name| find_interface(name, cluster_mac, system)));
    let dip = read_dip(
        section,
        interface.as_ref(),
        vips.unwrap_or_default(),
        problems,
    );
    let initial_state = problems.read_or(
        section.initial_state.as_ref(),
        InitialState::Started,
        |word| {
            choice(
                "initial_state",
                word,
                &[
                    ("started", InitialState::Started),
                    ("stopped", InitialState::Stopped),
                    ("suspended", InitialState::Suspended),
                ],
            )
        },
    );
    Some(Host {
        id: id?,
        name: name?,
        interface: interface?.name,
        dip: dip?,
        initial_state: initial_state?,
        persist_state: section.persist_state.unwrap_or(false),
        legacy_heartbeats: section.legacy_heartbeats.unwrap_or(false),
    })
}

fn find_interface(
    name: &str,
    cluster_mac: Option<Mac>,
    system: &dyn System,
) -> Result<Interface, String> {
    let found = system
        .interface(name)
        .map_err(|error| format!("cannot look for interface \"{name}\": {error}"))?;
    match found {
        Some(interface) if interface.mac.is_some() && interface.mac == cluster_mac => Err(format!(
            "interface \"{name}\" has the MAC itself that all hosts are to share: give it its own back, or choose another \
             cluster_mac on all hosts"
        )),
        Some(interface) if interface.mac.is_some() => Ok(interface),
        Some(_) => Err(format!(
            "interface \"{name}\" is not Ethernet: a cluster needs an Ethernet segment"
        )),
        None => {
            let there = match system.interface_names() {
                Ok(names) => format!("there are {}", names.join(", ")),
                Err(error) => format!("which ones there are is not known ({error})"),
            };
            Err(format!("there is no network interface \"{name}\": {there}"))
        }
    }
}

fn read_dip(
    section: &HostSection,
    interface: Option<&Interface>,
    vips: &[Vip],
    problems: &mut Problems<'_>,
) -> Option<Ipv4Addr> {
    let is_vip = |address: Ipv4Addr| vips.iter().any(|vip| vip.address == IpAddr::V4(address));
    let Some(dip) = &section.dip else {
        let interface = interface?;
        let first = interface.addresses.iter().copied().find(|a| !is_vip(*a));
        if first.is_none() {
            problems.add(
                section.interface.as_ref().map(Spanned::span),
                format!(
                    "{0} has no IPv4 address of its own, which hosts need to reach each other: \
                     give it one (ip address add ADDRESS/PREFIX dev {0})",
                    interface.name
                ),
            );
        }
        return first;
    };
    problems.read(dip, |text| {
        let address: Ipv4Addr = text
            .parse()
            .map_err(|_| match text.parse::<IpAddr>() {
                Ok(_) => format!(
                    "dip {text} is an IPv6 address: the dedicated IP is IPv4, because heartbeats carry it; \
                     the virtual IPs may be of both kinds"
                ),
                Err(_) => format!("dip \"{text}\" is not an IPv4 address"),
            })?;
        if is_vip(address) {
            return Err(format!(
                "dip {address} is a virtual IP: the dedicated IP belongs to this host alone"
            ));
        }
        match interface {
            Some(interface) if !interface.addresses.contains(&address) => {
                let name = &interface.name;
                let has: Vec<String> = interface
                    .addresses
                    .iter()
                    .map(Ipv4Addr::to_string)
                    .collect();
                let has = if has.is_empty() {
                    "no IPv4 address".to_owned()
                } else {
                    has.join(", ")
                };
                Err(format!(
                    "{name} does not have the address {address}, it has {has}: \
                     add it (ip address add {address}/PREFIX dev {name}), or leave dip out"
                ))
            }
            _ => Ok(address),
        }
    })
}

/// Reads `[daemon]`, which may be missing.
pub(super) fn read_daemon(
    file: &ConfigFile,
    system: &dyn System,
    problems: &mut Problems<'_>,
) -> Option<Daemon> {
    let section = &file.daemon;
    let log = problems.read_or(section.log.as_ref(), "info".to_owned(), |text| {
        EnvFilter::try_new(text).map(|_| text.clone()).map_err(|error| {
            format!("log \"{text}\" is not a filter ({error}): write error, warn, info, debug or trace")
        })
    });
    let socket = match &section.socket {
        Some(socket) => problems.read(socket, |text| absolute("socket", text)),
        None => system
            .default_socket()
            .map_err(|error| {
                problems.add(None, format!("cannot name the control socket: {error}"));
            })
            .ok(),
    };
    let state_dir = problems.read_or(
        section.state_dir.as_ref(),
        PathBuf::from(STATE_DIR),
        |text| absolute("state_dir", text),
    );
    let xdp = problems.read_or(section.xdp.as_ref(), XdpMode::Auto, |word| {
        choice(
            "xdp",
            word,
            &[
                ("auto", XdpMode::Auto),
                ("native", XdpMode::Native),
                ("generic", XdpMode::Generic),
            ],
        )
    });
    Some(Daemon {
        log: log?,
        socket: socket?,
        state_dir: state_dir?,
        realtime: section.realtime.unwrap_or(true),
        xdp: xdp?,
    })
}

fn absolute(key: &str, text: &str) -> Result<PathBuf, String> {
    match PathBuf::from(text) {
        path if path.is_absolute() => Ok(path),
        _ => Err(format!("{key} \"{text}\" is not an absolute path")),
    }
}

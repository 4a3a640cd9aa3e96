//! The lab's switch as the kernel has it at a moment: ports, what they are plugged into, the table of addresses.
//!
//! What is asked here is never remembered anywhere else, so it cannot be out of date. Used by the faults, which change the
//! switch, and by `lab status`, which tells what has been changed. docs/design.md, "The lab".

use super::topology::{self, LabName, NIC, Place};
use anyhow::{Context, Result, bail};
use covey_proto::ids::{HostId, Mac};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::process::Command;

/// The bridge that is the switch.
pub(super) const BRIDGE: &str = "br0";
/// How long the switch remembers an address, in hundredths of a second: the kernel's default.
const AGEING: u32 = 30_000;

/// The switch at a moment.
#[derive(Debug)]
pub(super) struct Bridge {
    namespace: String,
    links: Vec<Link>,
}

/// An interface in the switch's namespace, as `ip -details -json link` tells it.
#[derive(Debug, Deserialize)]
pub(super) struct Link {
    /// Its number.
    pub(super) ifindex: u32,
    /// Its name.
    pub(super) ifname: String,
    flags: Vec<String>,
    #[serde(default)]
    operstate: String,
    /// The bridge that it is a port of.
    pub(super) master: Option<String>,
    linkinfo: Option<LinkInfo>,
}

#[derive(Debug, Deserialize)]
struct LinkInfo {
    info_data: Option<BridgeInfo>,
    info_slave_data: Option<PortInfo>,
}

#[derive(Debug, Deserialize)]
struct PortInfo {
    state: Option<String>,
}

#[derive(Debug, Deserialize)]
struct BridgeInfo {
    ageing_time: Option<u32>,
}

/// A line of the switch's table: behind which port an address is.
#[derive(Debug, Deserialize)]
struct Learned {
    mac: Option<String>,
    ifname: Option<String>,
}

impl Link {
    /// Whether it is switched on.
    pub(super) fn is_up(&self) -> bool {
        self.flags.iter().any(|flag| flag == "UP")
    }

    /// Whether it carries frames: the kernel has taken note that the other end is on, and if it is a port, that it is.
    fn carries(&self) -> bool {
        let port = self.linkinfo.as_ref();
        let port = port.and_then(|info| info.info_slave_data.as_ref()?.state.as_deref());
        self.operstate == "UP" && port.is_none_or(|state| state == "forwarding")
    }
}

/// Whether the cables of these machines carry frames: the kernel may take a second to see that both ends are on.
///
/// # Errors
/// If a machine or its port is not there.
pub(super) fn all_plugged_in(lab: &LabName, places: &[Place]) -> Result<bool> {
    let bridge = Bridge::look(lab)?;
    for place in places {
        let mut ip = topology::ip(Some(&lab.namespace(*place)));
        let nic: Vec<Link> = ask(ip.args(["-details", "-json", "link", "show", "dev", NIC]))?;
        if !bridge.port(*place)?.carries() || !nic.iter().all(Link::carries) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The port that a machine of the lab is plugged into.
pub(super) fn port_name(place: Place) -> String {
    format!("port-{place}")
}

impl Bridge {
    /// Looks at the switch of a lab.
    ///
    /// # Errors
    /// If it is not there.
    pub(super) fn look(lab: &LabName) -> Result<Self> {
        let namespace = lab.namespace(Place::Switch);
        let mut ip = topology::ip(Some(&namespace));
        let links = ask(ip.args(["-details", "-json", "link", "show"]))?;
        Ok(Self { namespace, links })
    }

    /// The port of a machine.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn port(&self, place: Place) -> Result<&Link> {
        let name = port_name(place);
        self.link(&name)
            .with_context(|| format!("the switch has no port {name}"))
    }

    /// All ports with a machine behind them.
    pub(super) fn ports(&self) -> impl Iterator<Item = (Place, &Link)> {
        self.links.iter().filter_map(|link| {
            let place = link.ifname.strip_prefix("port-")?.parse().ok()?;
            Some((place, link))
        })
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.ifname == name)
    }

    /// Whether it repeats every frame to all ports, because it remembers no address.
    pub(super) fn is_hub(&self) -> bool {
        self.link(BRIDGE)
            .and_then(|bridge| bridge.linkinfo.as_ref()?.info_data.as_ref()?.ageing_time)
            == Some(0)
    }

    /// Makes it a hub, or a switch again, which `snoops` or does not.
    ///
    /// # Errors
    /// If `ip` fails.
    pub(super) fn set_hub(&self, hub: bool, snoops: bool) -> Result<()> {
        let ageing = if hub { 0 } else { AGEING };
        let snooping = u8::from(snoops && !hub);
        self.change(vec![format!(
            "link set {BRIDGE} type bridge ageing_time {ageing} mcast_snooping {snooping} fdb_flush"
        )])
    }

    /// Runs `ip` commands in its namespace.
    ///
    /// # Errors
    /// If one fails.
    pub(super) fn change(&self, commands: Vec<String>) -> Result<()> {
        topology::Batch {
            namespace: Some(self.namespace.clone()),
            commands,
        }
        .run()
    }

    /// The hosts behind whose ports it believes this address to be: one at most, unless the table changes meanwhile.
    ///
    /// # Errors
    /// If `bridge` fails.
    pub(super) fn learned(&self, mac: Mac) -> Result<Vec<HostId>> {
        let table: Vec<Learned> = ask(self.bridge().args(["-json", "fdb", "show", "br", BRIDGE]))?;
        let mac = mac.to_string();
        Ok(table
            .iter()
            .filter(|line| line.mac.as_ref() == Some(&mac))
            .filter_map(|line| line.ifname.as_ref()?.strip_prefix("port-")?.parse().ok())
            .filter_map(|place| match place {
                Place::Host(host) => Some(host),
                Place::Switch | Place::Client => None,
            })
            .collect())
    }

    /// Lets it forget where this address is.
    ///
    /// # Errors
    /// If `bridge` fails.
    pub(super) fn forget(&self, mac: Mac) -> Result<()> {
        for host in self.learned(mac)? {
            let port = port_name(Place::Host(host));
            let entry = ["fdb", "del", &mac.to_string(), "dev", &port, "master"];
            let forgotten = run(self.bridge().args(entry));
            // It may have aged meanwhile, or moved to another port.
            if self.learned(mac)?.contains(&host) {
                forgotten?;
            }
        }
        Ok(())
    }

    fn bridge(&self) -> Command {
        let mut bridge = Command::new("bridge");
        bridge.args(["-n", &self.namespace]);
        bridge
    }
}

/// Runs a tool of iproute2 and reads the JSON that it writes.
fn ask<T: DeserializeOwned>(command: &mut Command) -> Result<T> {
    let written = run(command)?;
    serde_json::from_slice(&written)
        .with_context(|| format!("cannot read the JSON that {command:?} writes"))
}

/// Runs a tool of iproute2; what it writes.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}; install iproute2"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed: {}", said.trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_is_a_switch_that_remembers_nothing() {
        let switch = |ageing: u32| Bridge {
            namespace: String::new(),
            links: serde_json::from_value(serde_json::json!([
                {"ifindex": 1, "ifname": "lo", "flags": ["UP"]},
                {"ifindex": 2, "ifname": "br0", "flags": [],
                 "linkinfo": {"info_kind": "bridge", "info_data": {"ageing_time": ageing}}},
                {"ifindex": 3, "ifname": "port-h12", "flags": ["BROADCAST", "UP"], "master": "br0",
                 "linkinfo": {"info_kind": "veth", "info_slave_data": {"state": "forwarding"}}},
            ]))
            .unwrap(),
        };
        assert!(switch(0).is_hub());
        assert!(!switch(AGEING).is_hub());
        let switch = switch(AGEING);
        let ports: Vec<_> = switch
            .ports()
            .map(|(place, port)| (place, port.ifindex))
            .collect();
        assert_eq!(ports, [(Place::Host(HostId::new(12).unwrap()), 3)]);
        assert!(switch.port(ports[0].0).unwrap().is_up());
        let missing = switch.port(Place::Client).unwrap_err().to_string();
        assert_eq!(missing, "the switch has no port port-client");
    }
}

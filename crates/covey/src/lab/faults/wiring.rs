//! Faults of cables and of the switch itself: two hosts on a crossover cable, a hub, memberships that are forgotten.
//!
//! A crossover cable (KB812870) joins the NICs that the cluster lives on, so that the hosts hear each other and no client
//! is there. In the lab a host has one NIC, and the cluster lives on it: its cable is pulled out of the switch and plugged into the
//! other host's, which a bridge with two ports, that learns nothing, does without touching the NICs. docs/design.md, "The lab".

use super::Pair;
use crate::lab::bridge::{BRIDGE, Bridge, Link, port_name};
use crate::lab::snooping::Switch;
use crate::lab::state::Lab;
use crate::lab::topology::Place;
use anyhow::{Result, ensure};
use covey_proto::ids::HostId;

/// What the names of crossover cables begin with.
const CABLE: &str = "cable-";

impl Lab {
    /// Unplugs two hosts from the switch and wires them directly.
    ///
    /// # Errors
    /// If there are no such hosts, one is wired to another already, or `ip` fails.
    pub(in crate::lab) fn wire(&self, pair: Pair) -> Result<()> {
        let bridge = Bridge::look(&self.name)?;
        let Pair(first, second) = pair;
        for id in [first, second] {
            self.host(id)?;
            let other = other_end(bridge.port(Place::Host(id))?, id);
            ensure!(
                other.is_none(),
                "host {id} is on a crossover cable already; `covey lab fault heal` plugs it into the switch"
            );
        }
        let cable = format!("{CABLE}{first}-{second}");
        let mut commands = vec![
            format!(
                "link add {cable} type bridge stp_state 0 forward_delay 0 ageing_time 0 mcast_snooping 0"
            ),
            format!("link set {cable} addrgenmode none"),
            format!("link set {cable} up"),
        ];
        commands.extend([first, second].map(|id| replug(id, &cable)).concat());
        bridge.change(commands)
    }

    /// Puts a hub in the switch's place.
    ///
    /// # Errors
    /// If the switch forwards by MAC group, which the programs at its ports go on doing; or if `ip` fails.
    pub(in crate::lab) fn make_hub(&self) -> Result<()> {
        ensure!(
            self.switch != Switch::MacGroups,
            "a switch that forwards by MAC group cannot play the hub; build a lab with another one"
        );
        Bridge::look(&self.name)?.set_hub(true, false)
    }

    /// Lets the switch forget the multicast memberships of a host, until it hears of them again.
    ///
    /// # Errors
    /// If there is no such host, or the switch does not snoop.
    pub(in crate::lab) fn age_out(&self, id: HostId) -> Result<()> {
        self.host(id)?;
        self.switch.forget(&self.name, id)
    }

    /// Puts the switch in the hub's place, and plugs everybody into it.
    ///
    /// # Errors
    /// If `ip` fails.
    pub(super) fn restore_switch(&self) -> Result<()> {
        let bridge = Bridge::look(&self.name)?;
        bridge.unwire()?;
        if bridge.is_hub() {
            bridge.set_hub(false, self.switch == Switch::Snooping)?;
        }
        if self.switch == Switch::MacGroups {
            for id in self.everyone().iter() {
                self.switch.heed(&self.name, id, true)?;
            }
        }
        bridge.forget(self.cluster_mac()?)
    }
}

impl Bridge {
    /// Plugs all hosts that are wired directly into the switch again.
    ///
    /// # Errors
    /// If `ip` fails.
    fn unwire(&self) -> Result<()> {
        let mut commands = Vec::new();
        for (place, port) in self.ports() {
            if let (Place::Host(id), Some(cable)) = (place, cable(port)) {
                commands.extend(replug(id, BRIDGE));
                let gone = format!("link del {cable}");
                // The second of its two ends.
                if !commands.contains(&gone) {
                    commands.push(gone);
                }
            }
        }
        // A cable goes when nothing is plugged into it any more.
        commands.sort_by_key(|command| command.starts_with("link del"));
        self.change(commands)
    }
}

/// Pulls a cable out and plugs it in elsewhere: the carrier goes and comes.
fn replug(id: HostId, bridge: &str) -> Vec<String> {
    let port = port_name(Place::Host(id));
    vec![
        format!("link set {port} down"),
        format!("link set {port} master {bridge}"),
        format!("link set {port} up"),
    ]
}

fn cable(port: &Link) -> Option<&str> {
    port.master
        .as_deref()
        .filter(|name| name.starts_with(CABLE))
}

/// The host that this one is wired to directly.
pub(super) fn other_end(port: &Link, id: HostId) -> Option<HostId> {
    cable(port)?
        .strip_prefix(CABLE)?
        .split('-')
        .filter_map(|end| end.parse().ok().and_then(HostId::new))
        .find(|end| *end != id)
}

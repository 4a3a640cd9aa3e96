//! The lab's network: names, addresses and the `ip` commands that build it.
//!
//! ```text
//!   covey-h1: eth0 --- port-h1 \
//!   covey-h2: eth0 --- port-h2 -- br0 (covey-switch) -- port-client --- eth0 :covey-client
//!   ...                        /
//! ```
//!
//! [`plan`] is the whole network as text, in the syntax of `ip -batch`; printed, it can be pasted into a shell.
//! Names and addresses are an interface that people script against: docs/design.md, "Command line".
//! Everything on the segment is a plain bridge and plain veth pairs, so the switch behaves as a switch does.

use super::netns;
use super::process::die_with_parent;
use anyhow::{Context, Result, bail};
use covey_proto::ids::{HostId, Mac};
use std::fmt;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;

/// The virtual IP that all hosts share.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The IPv6 virtual IP of a lab with IPv6.
pub(super) const VIP6: Ipv6Addr = Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, 0x100);
/// The client's address.
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);
/// The client's address in a lab with IPv6.
pub(super) const CLIENT6: Ipv6Addr = ipv6_of(CLIENT);
/// Length of the segment's network prefix.
pub(super) const PREFIX: u8 = 24;
/// Length of the segment's IPv6 prefix.
pub(super) const PREFIX6: u8 = 64;
/// The NIC of every host and of the client.
pub(super) const NIC: &str = "eth0";

/// A host's dedicated IP.
pub(super) fn dip(host: HostId) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host.get())
}

/// The virtual IPs of a lab, with or without IPv6.
pub(super) fn vips(ipv6: bool) -> Vec<IpAddr> {
    let more = ipv6.then_some(IpAddr::V6(VIP6));
    [IpAddr::V4(VIP)].into_iter().chain(more).collect()
}

/// The IPv6 address of who has an IPv4 address in the lab: the same number, fd77::c8 for 10.77.0.200.
const fn ipv6_of(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, address.octets()[3] as u16)
}

/// The MAC that belongs to an address of the lab, so that a capture can be read: 0a-00 (locally administered,
/// and neither a cluster MAC nor a masked one), then the address.
pub(super) fn mac(address: Ipv4Addr) -> Mac {
    let [w, x, y, z] = address.octets();
    Mac([0x0A, 0x00, w, x, y, z])
}

/// One of the machines of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// The switch.
    Switch,
    /// The client.
    Client,
    /// A host of the cluster.
    Host(HostId),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => f.write_str("switch"),
            Self::Client => f.write_str("client"),
            Self::Host(id) => write!(f, "h{id}"),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "switch" => Ok(Self::Switch),
            "client" => Ok(Self::Client),
            _ => host_name(text).map(Self::Host).ok_or_else(|| {
                format!("`{text}` is no part of a lab; those are h1 to h64, client and switch")
            }),
        }
    }
}

/// The host with this name: `h`, then its ID without leading zeros.
pub(super) fn host_name(name: &str) -> Option<HostId> {
    let digits = name.strip_prefix('h')?;
    let id = HostId::new(digits.parse().ok()?)?;
    (id.to_string() == digits).then_some(id)
}

/// What the lab's namespaces and its state directory are called. Users have one lab, named `covey`; tests use
/// other names, so that they do not meet it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LabName(String);

impl FromStr for LabName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 32 || !name.chars().all(allowed) {
            return Err(format!(
                "`{name}` cannot name a lab; use 1 to 32 lower-case letters, digits and hyphens"
            ));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl LabName {
    /// The name of another lab, beside this one.
    ///
    /// # Errors
    /// If that is too long.
    pub(super) fn beside(&self, what: &str) -> Result<Self> {
        format!("{self}-{what}").parse().map_err(anyhow::Error::msg)
    }

    /// The namespace of one of its machines.
    pub(super) fn namespace(&self, place: Place) -> String {
        format!("{self}-{place}")
    }

    /// Where the lab keeps its state, logs and generated files.
    pub(super) fn directory(&self) -> PathBuf {
        PathBuf::from(format!("/run/{self}-lab"))
    }

    /// The namespaces of this lab that exist, whether or not anybody wrote them down.
    ///
    /// # Errors
    /// If the namespaces cannot be listed.
    pub(super) fn namespaces(&self) -> Result<Vec<String>> {
        let mine = |name: &String| {
            name.strip_prefix(&self.0)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|place| place.parse::<Place>().is_ok())
        };
        Ok(netns::names()?.into_iter().filter(mine).collect())
    }
}

/// A run of `ip` commands in one namespace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// The namespace, or none for the machine's own.
    pub(super) namespace: Option<String>,
    /// The commands, without the leading `ip`.
    pub(super) commands: Vec<String>,
}

impl Batch {
    /// Runs the commands; the first that fails ends it.
    ///
    /// # Errors
    /// A sentence with the command that failed and what `ip` says about it.
    pub(super) fn run(&self) -> Result<()> {
        let mut ip = ip(self.namespace.as_deref());
        die_with_parent(&mut ip);
        let mut child = ip
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run `ip`; install iproute2")?;
        let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
        stdin
            .write_all(self.commands.join("\n").as_bytes())
            .context("`ip -batch` does not read its commands")?;
        drop(stdin);
        let output = child.wait_with_output().context("cannot wait for `ip`")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}", self.failure(&said))
    }

    /// `ip` ends its complaint with "Command failed -:LINE".
    fn failure(&self, said: &str) -> String {
        let (complaint, line) = said.split_once("Command failed -:").unwrap_or((said, ""));
        let command = line
            .trim()
            .parse::<usize>()
            .ok()
            .and_then(|line| self.commands.get(line.checked_sub(1)?))
            .map_or("-batch", String::as_str);
        let place = self
            .namespace
            .as_ref()
            .map_or_else(String::new, |namespace| format!("-n {namespace} "));
        format!("`ip {place}{command}` failed: {}", complaint.trim())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for command in &self.commands {
            match &self.namespace {
                Some(namespace) => writeln!(f, "ip -n {namespace} {command}")?,
                None => writeln!(f, "ip {command}")?,
            }
        }
        Ok(())
    }
}

/// `ip`, for a namespace or for the machine itself.
pub(super) fn ip(namespace: Option<&str>) -> Command {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command
}

/// The network for these hosts, in the order in which it is built. `addrgenmode none`: link-local addresses would only add
/// noise to captures; a lab with IPv6, whose neighbours ask each other from them, has its own, without the second
/// that the kernel takes to look for duplicates.
pub(super) fn plan(lab: &LabName, hosts: &[HostId], ipv6: bool) -> Vec<Batch> {
    let switch = lab.namespace(Place::Switch);
    let ends: Vec<(Place, Ipv4Addr)> = std::iter::once((Place::Client, CLIENT))
        .chain(hosts.iter().map(|id| (Place::Host(*id), dip(*id))))
        .collect();

    let mut batches = vec![
        Batch {
            namespace: None,
            commands: std::iter::once(Place::Switch)
                .chain(ends.iter().map(|(place, _)| *place))
                .map(|place| format!("netns add {}", lab.namespace(place)))
                .collect(),
        },
        Batch {
            namespace: Some(switch.clone()),
            commands: vec![
                "link set lo up".to_owned(),
                "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0".to_owned(),
                "link set br0 addrgenmode none".to_owned(),
                "link set br0 up".to_owned(),
            ],
        },
    ];
    for (place, address) in &ends {
        let mut commands = vec![
            "link set lo up".to_owned(),
            format!(
                "link add {NIC} address {} type veth peer name port-{place} netns {switch}",
                mac(*address)
            ),
            format!("link set {NIC} addrgenmode none"),
            format!("address add {address}/{PREFIX} dev {NIC}"),
        ];
        if ipv6 {
            let address = ipv6_of(*address);
            let number = address.segments()[7];
            commands.push(format!("address add {address}/{PREFIX6} dev {NIC} nodad"));
            commands.push(format!("address add fe80::{number:x}/64 dev {NIC} nodad"));
        }
        commands.push(format!("link set {NIC} up"));
        batches.push(Batch {
            namespace: Some(lab.namespace(*place)),
            commands,
        });
    }
    batches.push(Batch {
        namespace: Some(switch),
        commands: ends
            .iter()
            .flat_map(|(place, _)| {
                [
                    format!("link set port-{place} addrgenmode none"),
                    format!("link set port-{place} master br0 up"),
                ]
            })
            .collect(),
    });
    batches
}

/// Takes a host's port of the switch up or down. The host's own NIC only loses its carrier.
///
/// # Errors
/// If `ip` fails.
pub(super) fn set_port(lab: &LabName, host: HostId, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    Batch {
        namespace: Some(lab.namespace(Place::Switch)),
        commands: vec![format!("link set port-h{host} {state}")],
    }
    .run()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u8) -> HostId {
        HostId::new(id).unwrap()
    }

    #[test]
    fn the_plan_is_pasteable() {
        let lab: LabName = "covey".parse().unwrap();
        let text: String = plan(&lab, &[id(1)], false)
            .iter()
            .map(Batch::to_string)
            .collect();
        insta::assert_snapshot!(text, @"
        ip netns add covey-switch
        ip netns add covey-client
        ip netns add covey-h1
        ip -n covey-switch link set lo up
        ip -n covey-switch link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
        ip -n covey-switch link set br0 addrgenmode none
        ip -n covey-switch link set br0 up
        ip -n covey-client link set lo up
        ip -n covey-client link add eth0 address 0a:00:0a:4d:00:c8 type veth peer name port-client netns covey-switch
        ip -n covey-client link set eth0 addrgenmode none
        ip -n covey-client address add 10.77.0.200/24 dev eth0
        ip -n covey-client link set eth0 up
        ip -n covey-h1 link set lo up
        ip -n covey-h1 link add eth0 address 0a:00:0a:4d:00:01 type veth peer name port-h1 netns covey-switch
        ip -n covey-h1 link set eth0 addrgenmode none
        ip -n covey-h1 address add 10.77.0.1/24 dev eth0
        ip -n covey-h1 link set eth0 up
        ip -n covey-switch link set port-client addrgenmode none
        ip -n covey-switch link set port-client master br0 up
        ip -n covey-switch link set port-h1 addrgenmode none
        ip -n covey-switch link set port-h1 master br0 up
        ");
    }

    #[test]
    fn with_ipv6_everybody_has_the_same_numbers_in_it() {
        let lab: LabName = "covey".parse().unwrap();
        let text = |ipv6| -> String {
            let batches = plan(&lab, &[id(1), id(12)], ipv6);
            batches.iter().map(Batch::to_string).collect()
        };
        let (without, with) = (text(false), text(true));
        let more: Vec<&str> = with
            .lines()
            .filter(|line| !without.contains(line))
            .collect();
        insta::assert_snapshot!(more.join("\n"), @"
        ip -n covey-client address add fd77::c8/64 dev eth0 nodad
        ip -n covey-client address add fe80::c8/64 dev eth0 nodad
        ip -n covey-h1 address add fd77::1/64 dev eth0 nodad
        ip -n covey-h1 address add fe80::1/64 dev eth0 nodad
        ip -n covey-h12 address add fd77::c/64 dev eth0 nodad
        ip -n covey-h12 address add fe80::c/64 dev eth0 nodad
        ");
        assert_eq!(with.lines().count(), without.lines().count() + more.len());
    }

    #[test]
    fn a_failure_names_the_command() {
        let batch = Batch {
            namespace: Some("covey-h1".to_owned()),
            commands: vec!["link set lo up".to_owned(), "link set eth9 up".to_owned()],
        };
        assert_eq!(
            batch.failure("Cannot find device \"eth9\"\nCommand failed -:2\n"),
            "`ip -n covey-h1 link set eth9 up` failed: Cannot find device \"eth9\""
        );
        assert_eq!(
            batch.failure("Cannot open network namespace"),
            "`ip -n covey-h1 -batch` failed: Cannot open network namespace"
        );
    }

    #[test]
    fn places_have_one_spelling() {
        for place in [
            Place::Switch,
            Place::Client,
            Place::Host(id(1)),
            Place::Host(id(64)),
        ] {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for text in ["h0", "h65", "h01", "h+1", "h", "H1", "1", "", "Client"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn lab_names_cannot_leave_their_directory() {
        assert!("covey-t1".parse::<LabName>().is_ok());
        for name in ["", "../etc", "a b", "Covey", "a_b"] {
            assert!(name.parse::<LabName>().is_err(), "{name}");
        }
    }
}

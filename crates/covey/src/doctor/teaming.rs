//! Whether a NIC is a team of NICs, or one of its ports, by what /sys tells.
//!
//! A mounted /sys shows the network namespace of whoever mounted it, so what it says of an interface counts only if its MAC
//! and its number are those that netlink tells. Its root can be another directory, for tests and scenarios: many kernels
//! have no bonding. Used by [`super::machine`]. Specification: docs/design.md, "Doctor".

use crate::host::Nic;
use std::fs;
use std::path::{Path, PathBuf};

/// A team.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Team {
    /// What is seen of it: a line each.
    pub seen: Vec<String>,
}

/// The team that this NIC is, or is a port of.
pub(super) fn look(sysfs: &Path, name: &str, nic: &Nic) -> Option<Team> {
    let by_netlink = of_kinds(name, nic);
    by_netlink.or_else(|| in_sysfs(sysfs, name, nic))
}

/// By what drives it and the interface above it.
fn of_kinds(name: &str, nic: &Nic) -> Option<Team> {
    let is_team = |kind: Option<&str>| matches!(kind, Some("bond" | "team"));
    if is_team(nic.kind.as_deref()) {
        let kind = nic.kind.as_deref().unwrap_or_default();
        let seen = vec![format!("{name} is of kind {kind}")];
        return Some(Team { seen });
    }
    let (controller, kind) = nic.controller.as_ref()?;
    let kind = kind.as_deref().filter(|kind| is_team(Some(kind)))?;
    let seen = vec![format!("{name} is a port of {controller}, of kind {kind}")];
    Some(Team { seen })
}

fn in_sysfs(sysfs: &Path, name: &str, nic: &Nic) -> Option<Team> {
    let all = sysfs.join("class/net");
    let own = all.join(name);
    if !is_of(&own, nic) {
        return None;
    }
    let above = fs::canonicalize(own.join("master")).ok();
    let above = above.as_deref().and_then(Path::file_name);
    let team: PathBuf = match above {
        Some(above) if own.join("bonding_slave").exists() || is_team(&all.join(above)) => {
            all.join(above)
        }
        _ if is_team(&own) => own.clone(),
        _ => return None,
    };
    let of = team.file_name().unwrap_or_default().to_string_lossy();
    let mut seen = match team == own {
        true => vec![format!("{name} is a team of NICs")],
        false => vec![format!("{name} is a port of the team {of}")],
    };
    for (file, what) in [
        ("bonding/mode", "mode"),
        ("bonding/slaves", "ports"),
        ("bonding/active_slave", "active port"),
        ("bonding/fail_over_mac", "fail_over_mac"),
    ] {
        if let Some(value) = read(&team.join(file)).filter(|value| !value.is_empty()) {
            seen.push(format!("{of}: {what} {value}"));
        }
    }
    Some(Team { seen })
}

fn is_team(interface: &Path) -> bool {
    let uevent = read(&interface.join("uevent")).unwrap_or_default();
    let of_kind = |line: &str| matches!(line, "DEVTYPE=bond" | "DEVTYPE=team");
    interface.join("bonding").is_dir() || uevent.lines().any(of_kind)
}

/// Whether the directory is about this NIC and not about one of the same name elsewhere.
fn is_of(directory: &Path, nic: &Nic) -> bool {
    let fits =
        |file: &str, value: String| read(&directory.join(file)).is_none_or(|told| told == value);
    let mac = nic.mac.map_or_else(String::new, |mac| mac.to_string());
    fits("ifindex", nic.index.to_string()) && fits("address", mac)
}

fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

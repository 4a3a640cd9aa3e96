//! The meaning of `[cluster]`: addresses, timing, key, quorum.
//!
//! Limits are those of docs/design.md, "Membership"; NLB's names for the keys stand in NLB facts §4.1.
//! Used only by [`super::Config::load`].

use super::file::{ClusterSection, ConfigFile};
use super::problem::{Problems, choice};
use super::system::System;
use super::{Cluster, Vip};
use crate::duration;
use crate::multicast::QUERIER_TIMEOUT;
use covey_filter::MAX_VIPS;
use covey_proto::config::{Auth, ClusterMode, Key, Quorum, SourceMac, Timing};
use covey_proto::delivery::Delivery;
use covey_proto::ids::{MAX_HOSTS, Mac};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;
use toml::Spanned;

/// Reports more often than every second are noise, and after an hour every switch has forgotten.
const REPORT_INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// From twice the shortest interval of queries up.
const QUERIER_TIMEOUTS: (Duration, Duration) =
    (Duration::from_secs(2), Duration::from_secs(36_000));
/// NLB's AliveMsgPeriod and AliveMsgTolerance.
/// Beyond that it is no bound any more.
const LONGEST_LINGER: Duration = Duration::from_secs(720 * 60 * 60);
const DEFAULT_TIMING: Timing = Timing {
    period: Duration::from_secs(1),
    tolerance: 5,
};

/// Reads `[cluster]`. Paths in it are relative to `directory`, the configuration's own.
pub(super) fn read(
    file: &ConfigFile,
    directory: &Path,
    system: &dyn System,
    problems: &mut Problems<'_>,
) -> Option<Cluster> {
    let Some(spanned) = &file.cluster else {
        problems.add(
            None,
            "there is no [cluster] section: it says what all hosts share, name and vips at least",
        );
        return None;
    };
    let section = spanned.get_ref();
    let name = problems
        .required(
            section.name.as_ref(),
            spanned,
            "[cluster] has no name: write name = \"www.example.com\", the name that clients know",
        )
        .and_then(|name| {
            problems.read(name, |name| match name.trim() {
                "" => {
                    Err("the cluster's name is empty: write the name that clients know".to_owned())
                }
                name => Ok(name.to_owned()),
            })
        });
    let vips = problems
        .required(
            section.vips.as_ref(),
            spanned,
            "[cluster] has no vips: write vips = [\"ADDRESS/PREFIX\"], the primary virtual IP first",
        )
        .and_then(|vips| read_vips(vips, problems));
    let mode = problems.read_or(section.mode.as_ref(), ClusterMode::Unicast, |word| {
        choice(
            "mode",
            word,
            &[
                ("unicast", ClusterMode::Unicast),
                ("multicast", ClusterMode::Multicast),
                ("igmp", ClusterMode::Igmp),
            ],
        )
    });
    let delivery = read_delivery(section, mode, vips.as_deref(), problems);
    let period = problems.read_or(section.period.as_ref(), DEFAULT_TIMING.period, |text| {
        period(text)
    });
    let tolerance = problems.read_or(
        section.tolerance.as_ref(),
        DEFAULT_TIMING.tolerance,
        |&number| {
            in_range(
                "tolerance",
                number,
                Timing::MIN_TOLERANCE,
                Timing::MAX_TOLERANCE,
            )
        },
    );
    let auth = read_auth(spanned, directory, system, problems);
    let quorum = read_quorum(section, problems);
    let source_mac = problems.read_or(section.source_mac.as_ref(), SourceMac::Host, |word| {
        choice(
            "source_mac",
            word,
            &[
                ("host", SourceMac::Host),
                ("masked", SourceMac::Masked),
                ("cluster", SourceMac::Cluster),
            ],
        )
    });
    let max_linger = problems.read_or(section.max_linger.as_ref(), None, |text| {
        max_linger(text).map(Some)
    });
    let igmp_report_interval =
        problems.read_or(section.igmp_report_interval.as_ref(), None, |text| {
            between("igmp_report_interval", text, REPORT_INTERVALS).map(Some)
        });
    let querier_timeout =
        problems.read_or(section.querier_timeout.as_ref(), QUERIER_TIMEOUT, |text| {
            between("querier_timeout", text, QUERIER_TIMEOUTS)
        });
    Some(Cluster {
        name: name?,
        vips: vips?,
        delivery: delivery?,
        timing: Timing {
            period: period?,
            tolerance: tolerance?,
        },
        auth: auth?,
        quorum: quorum?,
        unicast_fallback: section.unicast_fallback.unwrap_or(true),
        max_linger: max_linger?,
        source_mac: source_mac?,
        filter_icmp: section.filter_icmp.unwrap_or(true),
        igmp_report_interval: igmp_report_interval?,
        querier_timeout: querier_timeout?,
        announce_mrouter: section.announce_mrouter.unwrap_or(false),
    })
}

/// A number between two limits, both included; else a sentence that names them.
pub(super) fn in_range<T>(key: &str, number: i64, least: T, most: T) -> Result<T, String>
where
    T: TryFrom<i64> + PartialOrd + std::fmt::Display,
{
    T::try_from(number)
        .ok()
        .filter(|value| (&least..=&most).contains(&value))
        .ok_or_else(|| format!("{key} {number} is not possible: it runs from {least} to {most}"))
}

/// A time within two, both included.
fn between(key: &str, text: &str, (least, most): (Duration, Duration)) -> Result<Duration, String> {
    let time = duration::parse(text).map_err(|reason| format!("{key} {reason}"))?;
    if (least..=most).contains(&time) {
        Ok(time)
    } else {
        let [least, most] = [least, most].map(duration::format);
        Err(format!(
            "{key} \"{text}\" is not possible: it runs from {least} to {most}"
        ))
    }
}

fn max_linger(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).map_err(|reason| format!("max_linger {reason}"))?;
    if (Duration::from_secs(1)..=LONGEST_LINGER).contains(&time) {
        Ok(time)
    } else {
        Err(format!(
            "max_linger \"{text}\" is not possible: it runs from 1s to 720h; leave it out for no limit"
        ))
    }
}

fn period(text: &str) -> Result<Duration, String> {
    let period = duration::parse(text).map_err(|reason| format!("period {reason}"))?;
    if (Timing::MIN_PERIOD..=Timing::MAX_PERIOD).contains(&period) {
        Ok(period)
    } else {
        Err(format!(
            "period \"{text}\" is not possible: it runs from {} to {}",
            duration::format(Timing::MIN_PERIOD),
            duration::format(Timing::MAX_PERIOD)
        ))
    }
}

/// All virtual IPs, or `None` if something is wrong with one of them. The primary comes first: it is the first that is
/// IPv4, as NLB's, so that a cluster that takes up IPv6 keeps its MAC; or the first of all.
fn read_vips(
    vips: &Spanned<Vec<Spanned<String>>>,
    problems: &mut Problems<'_>,
) -> Option<Vec<Vip>> {
    let list = vips.get_ref();
    if list.is_empty() || list.len() > MAX_VIPS {
        let count = list.len();
        problems.add(
            Some(vips.span()),
            format!("{count} virtual IPs are not possible: a cluster has 1 to {MAX_VIPS}"),
        );
        return None;
    }
    let read: Vec<Option<Vip>> = list
        .iter()
        .map(|text| problems.read(text, |text| vip(text)))
        .collect();
    for (index, this) in read.iter().enumerate() {
        let Some(this) = this else { continue };
        let is_twin = |other: &Option<Vip>| other.is_some_and(|vip| vip.address == this.address);
        if let Some(first) = read[..index].iter().position(is_twin) {
            let line = problems.line(&list[first].span());
            problems.add(
                Some(list[index].span()),
                format!(
                    "virtual IP {} is listed twice, first on line {line}: remove one",
                    this.address
                ),
            );
        }
    }
    let mut vips: Vec<Vip> = read.into_iter().collect::<Option<_>>()?;
    if let Some(primary) = vips.iter().position(|vip| vip.address.is_ipv4()) {
        vips[..=primary].rotate_right(1);
    }
    Some(vips)
}

fn vip(text: &str) -> Result<Vip, String> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("\"{address}\" is not an IP address"))?;
    let (usual, longest) = if address.is_ipv4() {
        (24, 32)
    } else {
        (64, 128)
    };
    if prefix.is_empty() {
        return Err(format!(
            "virtual IP {address} has no prefix length: write it with its network's, like \"{address}/{usual}\""
        ));
    }
    let prefix = prefix
        .parse::<u8>()
        .ok()
        .filter(|prefix| (1..=longest).contains(prefix))
        .ok_or_else(|| {
            format!("prefix length \"{prefix}\" is not possible: it runs from 1 to {longest}")
        })?;
    let useless = match address {
        IpAddr::V4(address) => useless_v4(address, prefix),
        IpAddr::V6(address) => useless_v6(address, prefix),
    };
    match useless {
        Some(what) => Err(format!(
            "{address}/{prefix} is {what}: a virtual IP is an unused address of the hosts' network"
        )),
        None => Ok(Vip { address, prefix }),
    }
}

/// What an address is that no host can have on such a network.
fn useless_v4(address: Ipv4Addr, prefix: u8) -> Option<&'static str> {
    if address.is_multicast() {
        Some("a multicast address")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_unspecified() || address.is_broadcast() {
        Some("not the address of a host")
    } else if prefix <= 30 && address.to_bits() << prefix == 0 {
        Some("the address of the network itself")
    } else if prefix <= 30 && (!address.to_bits()) << prefix == 0 {
        Some("the broadcast address of its network")
    } else {
        None
    }
}

/// As [`useless_v4`]. Link-local addresses are left out because clients can only name them together with an
/// interface, and IPv4 in IPv6's clothes because no packet on the wire has it.
fn useless_v6(address: Ipv6Addr, prefix: u8) -> Option<&'static str> {
    if address.is_multicast() {
        Some("a multicast address")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_unspecified() {
        Some("not the address of a host")
    } else if address.is_unicast_link_local() {
        Some("a link-local address")
    } else if address.to_ipv4_mapped().is_some() {
        Some("an IPv4 address in IPv6 notation")
    } else if prefix <= 126 && address.to_bits() << prefix == 0 {
        Some("the address of all routers of its network")
    } else {
        None
    }
}

/// The mode with its MAC: the one that is written there, or the one that follows from the primary virtual IP.
fn read_delivery(
    section: &ClusterSection,
    mode: Option<ClusterMode>,
    vips: Option<&[Vip]>,
    problems: &mut Problems<'_>,
) -> Option<Delivery> {
    let Some(text) = &section.cluster_mac else {
        let primary = vips?.first()?.address;
        return Some(Delivery::derived(mode?, primary));
    };
    problems.read(text, |text| {
        let mac: Mac = text.parse().map_err(|()| {
            format!("cluster_mac \"{text}\" is no MAC: write six bytes, like \"02:bf:c0:00:02:64\"")
        })?;
        // Without a mode there is nothing to say about it: that is told already.
        let Some(mode) = mode else { return Ok(None) };
        let chosen = Delivery::explicit(mode, mac).map_err(|reason| {
            format!(
                "cluster_mac {mac} is not possible: {reason}; leave the key out to have NLB's MAC, or choose another, \
                 the same on all hosts"
            )
        });
        chosen.map(Some)
    })?
}

fn read_quorum(section: &ClusterSection, problems: &mut Problems<'_>) -> Option<Quorum> {
    let majority = problems.read_or(section.quorum.as_ref(), false, |word| {
        choice("quorum", word, &[("none", false), ("majority", true)])
    });
    let size = section.size.as_ref();
    let size = match (majority?, size) {
        (true, None) => {
            problems.add(
                section.quorum.as_ref().map(Spanned::span),
                "quorum \"majority\" needs size = N, the number of hosts that the cluster has when all are up",
            );
            return None;
        }
        (false, Some(size)) => {
            problems.add(
                Some(size.span()),
                "size has no effect without quorum = \"majority\": remove it, or set the quorum",
            );
            return None;
        }
        (false, None) => return Some(Quorum::None),
        (true, Some(size)) => size,
    };
    problems
        .read(size, |&size| in_range("size", size, 1, MAX_HOSTS))
        .map(Quorum::Majority)
}

fn read_auth(
    spanned: &Spanned<ClusterSection>,
    directory: &Path,
    system: &dyn System,
    problems: &mut Problems<'_>,
) -> Option<Auth> {
    let section = spanned.get_ref();
    match (&section.key_file, &section.auth) {
        (Some(file), None) => problems
            .read(file, |file| read_key(&directory.join(file), system))
            .map(|key| Auth::Keys(vec![key])),
        (None, Some(auth)) => {
            problems.read(auth, |word| match word.as_str() {
                "none" => Ok(Auth::None),
                _ => Err(format!(
                    "auth \"{word}\" is not known: use key_file = \"PATH\" to sign heartbeats, or auth = \"none\" not to"
                )),
            })
        }
        (Some(_), Some(auth)) => {
            problems.add(
                Some(auth.span()),
                "key_file and auth are both there: keep key_file to sign heartbeats, or auth = \"none\" not to",
            );
            None
        }
        (None, None) => {
            problems.add(
                Some(spanned.span()),
                "[cluster] has neither key_file nor auth: write key_file = \"/etc/covey/cluster.key\" to sign heartbeats, \
                 or auth = \"none\" not to",
            );
            None
        }
    }
}

/// Reads the secret that all hosts share. No sentence here repeats any of its characters.
fn read_key(path: &Path, system: &dyn System) -> Result<Key, String> {
    let shown = path.display();
    let file = system.read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!(
            "key file {shown} does not exist: copy it from another host, or make one: \
             (umask 077; openssl rand -hex 32 > {shown})"
        ),
        _ => format!("cannot read key file {shown}: {error}"),
    })?;
    if file.mode & 0o077 != 0 {
        return Err(format!(
            "key file {shown} is open to other users (mode {:04o}): chmod 600 {shown}",
            file.mode
        ));
    }
    let digits = file.text.trim();
    let secret = (digits.len() == 64)
        .then(|| decode_hex(digits.as_bytes()))
        .flatten()
        .ok_or_else(|| {
            format!(
                "key file {shown} is no key: it must hold 64 hexadecimal digits on one line, and it holds {} characters",
                digits.chars().count()
            )
        })?;
    Ok(Key { id: 1, secret })
}

fn decode_hex(digits: &[u8]) -> Option<[u8; 32]> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(value(pair[0])? << 4 | value(pair[1])?).ok()?;
    }
    Some(bytes)
}

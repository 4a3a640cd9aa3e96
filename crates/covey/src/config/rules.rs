//! The meaning of `[[rule]]`: port rules that all hosts share, and what this host brings to each.
//!
//! Without any rule there is NLB's own default: all ports, shared by all hosts, single affinity.
//! Used only by [`super::Config::load`]. Specification: docs/design.md, "Names"; limits as NLB's (NLB facts §3.4).

use super::Vip;
use super::cluster::in_range;
use super::file::{NumberOrText, RuleSection};
use super::problem::{Problems, choice};
use crate::duration;
use covey_filter::USER_RULES;
use covey_proto::ids::MAX_HOSTS;
use covey_proto::rules::{Affinity, Claim, FilterMode, PortRule, Protocol, RuleSet};
use std::net::IpAddr;
use std::time::Duration;
use toml::Spanned;

/// The longest that a client may stay with a host without a connection.
const LONGEST_STICKY: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads all rules. `vips` is missing if something is wrong with them, which has been said then.
pub(super) fn read(
    sections: &[Spanned<RuleSection>],
    vips: Option<&[Vip]>,
    problems: &mut Problems<'_>,
) -> Option<(RuleSet, Vec<Claim>)> {
    let read: Vec<Option<(PortRule, Claim)>> = sections
        .iter()
        .map(|section| read_rule(section, vips, problems))
        .collect();
    if let Some(excess) = sections.get(USER_RULES) {
        problems.add(
            Some(excess.span()),
            format!(
                "this is rule {}: a cluster has at most {USER_RULES}",
                USER_RULES + 1
            ),
        );
    }
    report_overlaps(sections, &read, problems);
    let (mut rules, mut claims): (Vec<_>, Vec<_>) = read
        .into_iter()
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .unzip();
    if sections.is_empty() {
        rules.push(everything_shared());
        claims.push(Claim::EQUAL_WEIGHT);
    }
    let vips: Vec<IpAddr> = vips?.iter().map(|vip| vip.address).collect();
    match RuleSet::new(vips, rules) {
        Ok(rules) => Some((rules, claims)),
        Err(error) => {
            // All that can be refused has been reported already, with its line.
            if problems.is_empty() {
                problems.add(None, error.to_string());
            }
            None
        }
    }
}

/// The rule that NLB starts with.
fn everything_shared() -> PortRule {
    PortRule {
        vip: None,
        start: 0,
        end: u16::MAX,
        protocol: Protocol::Both,
        mode: FilterMode::Multiple {
            affinity: Affinity::Single,
        },
        sticky: None,
    }
}

/// The modes without what belongs to them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Multiple,
    Single,
    Disabled,
}

fn read_rule(
    spanned: &Spanned<RuleSection>,
    vips: Option<&[Vip]>,
    problems: &mut Problems<'_>,
) -> Option<(PortRule, Claim)> {
    let section = spanned.get_ref();
    let range = problems
        .required(
            section.ports.as_ref(),
            spanned,
            "the rule has no ports: write ports = 80 or ports = \"1000-2000\"",
        )
        .and_then(|value| problems.read(value, ports));
    let protocol = problems.read_or(section.protocol.as_ref(), Protocol::Both, |word| {
        choice(
            "protocol",
            word,
            &[
                ("tcp", Protocol::Tcp),
                ("udp", Protocol::Udp),
                ("both", Protocol::Both),
            ],
        )
    });
    let vip = problems.read_or(section.vip.as_ref(), None, |text| vip(text, vips).map(Some));
    let mode = problems.read_or(section.mode.as_ref(), Mode::Multiple, |word| {
        choice(
            "mode",
            word,
            &[
                ("multiple", Mode::Multiple),
                ("single", Mode::Single),
                ("disabled", Mode::Disabled),
            ],
        )
    });
    let affinity = problems.read_or(section.affinity.as_ref(), Affinity::Single, |word| {
        choice(
            "affinity",
            word,
            &[
                ("none", Affinity::None),
                ("single", Affinity::Single),
                ("network", Affinity::Network),
            ],
        )
    });
    let sticky = problems.read_or(section.sticky.as_ref(), None, |text| sticky(text).map(Some));
    let weight = problems.read_or(section.weight.as_ref(), Claim::EQUAL_WEIGHT, weight);
    let mode = mode?;
    let misplaced = report_misplaced(section, mode, problems);
    let (mode, claim) = match mode {
        Mode::Multiple => {
            let affinity = affinity?;
            if let (Affinity::None, Some(sticky)) = (affinity, &section.sticky) {
                problems.add(
                    Some(sticky.span()),
                    "sticky needs affinity \"single\" or \"network\": with \"none\" a client has no host of its own",
                );
                return None;
            }
            (FilterMode::Multiple { affinity }, weight?)
        }
        Mode::Single => {
            let priority = problems
                .required(
                    section.handling_priority.as_ref(),
                    section.mode.as_ref()?,
                    "mode \"single\" needs handling_priority = N, from 1 to 64: the host with the lowest takes the traffic",
                )
                .and_then(|value| {
                    problems.read(value, |&number| {
                        in_range("handling_priority", number, 1, MAX_HOSTS)
                    })
                })?;
            (FilterMode::Single, Claim(priority))
        }
        Mode::Disabled => (FilterMode::Disabled, Claim(0)),
    };
    let (start, end) = range?;
    let rule = PortRule {
        vip: vip?,
        start,
        end,
        protocol: protocol?,
        mode,
        sticky: sticky?,
    };
    (!misplaced).then_some((rule, claim))
}

/// Reports keys that mean nothing in the rule's mode; whether there were any.
fn report_misplaced(section: &RuleSection, mode: Mode, problems: &mut Problems<'_>) -> bool {
    let keys = [
        (
            "affinity",
            section.affinity.as_ref().map(Spanned::span),
            Mode::Multiple,
        ),
        (
            "weight",
            section.weight.as_ref().map(Spanned::span),
            Mode::Multiple,
        ),
        (
            "sticky",
            section.sticky.as_ref().map(Spanned::span),
            Mode::Multiple,
        ),
        (
            "handling_priority",
            section.handling_priority.as_ref().map(Spanned::span),
            Mode::Single,
        ),
    ];
    let mut any = false;
    for (key, span, needed) in keys {
        if span.is_some() && mode != needed {
            let word = if needed == Mode::Single {
                "single"
            } else {
                "multiple"
            };
            problems.add(
                span,
                format!("{key} has a meaning only with mode = \"{word}\": remove it"),
            );
            any = true;
        }
    }
    any
}

fn ports(value: &NumberOrText) -> Result<(u16, u16), String> {
    let port = |text: &str| {
        text.trim()
            .parse::<u16>()
            .map_err(|_| format!("port {text} is not possible: ports run from 0 to 65535"))
    };
    match value {
        NumberOrText::Number(number) => port(&number.to_string()).map(|port| (port, port)),
        NumberOrText::Text(text) => {
            let (start, end) = text.split_once('-').unwrap_or((text, text));
            let (start, end) = (port(start)?, port(end)?);
            if start > end {
                return Err(format!(
                    "ports \"{text}\" run backwards: write \"{end}-{start}\""
                ));
            }
            Ok((start, end))
        }
    }
}

fn weight(value: &NumberOrText) -> Result<Claim, String> {
    match value {
        NumberOrText::Number(number) => {
            in_range("weight", *number, 0, Claim::MAX_WEIGHT).map(Claim)
        }
        NumberOrText::Text(word) if word == "equal" => Ok(Claim::EQUAL_WEIGHT),
        NumberOrText::Text(word) => Err(format!(
            "weight \"{word}\" is not known: use \"equal\", or a number from 0 to {}",
            Claim::MAX_WEIGHT
        )),
    }
}

/// NLB's extended affinity: whole seconds, because that is what hosts compare.
fn sticky(text: &str) -> Result<Duration, String> {
    let sticky = duration::parse(text).map_err(|reason| format!("sticky {reason}"))?;
    if sticky.subsec_nanos() == 0 && (Duration::from_secs(1)..=LONGEST_STICKY).contains(&sticky) {
        Ok(sticky)
    } else {
        Err(format!(
            "sticky \"{text}\" is not possible: it runs from 1s to 24h, in whole seconds; leave it out for none"
        ))
    }
}

fn vip(text: &str, vips: Option<&[Vip]>) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("vip \"{text}\" is not an IP address"))?;
    match vips {
        Some(vips) if !vips.iter().any(|vip| vip.address == address) => {
            let known: Vec<String> = vips.iter().map(|vip| vip.address.to_string()).collect();
            Err(format!(
                "{address} is not a virtual IP of this cluster: those are {}",
                known.join(", ")
            ))
        }
        _ => Ok(address),
    }
}

/// Reports each rule that would decide about packets of an earlier one.
fn report_overlaps(
    sections: &[Spanned<RuleSection>],
    rules: &[Option<(PortRule, Claim)>],
    problems: &mut Problems<'_>,
) {
    let ports_of = |index: usize| {
        let section: &Spanned<RuleSection> = &sections[index];
        let ports = section.get_ref().ports.as_ref();
        ports.map_or_else(|| section.span(), Spanned::span)
    };
    for (index, this) in rules.iter().enumerate() {
        let Some((rule, _)) = this else { continue };
        let overlapped =
            rules[..index]
                .iter()
                .enumerate()
                .find_map(|(earlier, other)| match other {
                    Some((other, _)) if other.overlaps(rule) => Some((earlier, other)),
                    _ => None,
                });
        if let Some((earlier, other)) = overlapped {
            let line = problems.line(&ports_of(earlier));
            let both = shared_ports(rule, other);
            problems.add(
                Some(ports_of(index)),
                format!("this rule and the one on line {line} both decide about {both}: change the ports of one"),
            );
        }
    }
}

fn shared_ports(one: &PortRule, other: &PortRule) -> String {
    let (start, end) = (one.start.max(other.start), one.end.min(other.end));
    if start == end {
        format!("port {start}")
    } else {
        format!("ports {start}-{end}")
    }
}

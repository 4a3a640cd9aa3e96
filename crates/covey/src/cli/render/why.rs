//! `covey why`: which host takes a packet, and why, in words.

use super::table::{Align, Cell, Paint, Table, Tone, labelled};
use super::{percent, range};
use crate::why::{Explanation, Judgement, Named, Place, Protocol, RowState};
use covey_filter::BUCKETS;
use std::net::{IpAddr, SocketAddr};

/// Ports that a client can have.
const CLIENT_PORTS: f64 = 65535.0;

/// The whole answer.
pub(in crate::cli) fn why(explanation: &Explanation, paint: Paint) -> String {
    let mut lines = vec![
        ("Packet", packet(explanation)),
        ("Rule", rule(explanation)),
        ("This host", whom(&explanation.host)),
    ];
    let Some(place) = &explanation.place else {
        lines.push(("Bucket", ports(explanation)));
        return labelled(&lines);
    };
    lines.push(("Bucket", bucket(explanation, place)));
    lines.push(("Verdict", words(&place.judgement, paint)));
    if let Some(established) = &place.established {
        lines.push((
            "Connections",
            format!("of this host: {}", words(&established.here, paint)),
        ));
        lines.push((
            "",
            format!("of other hosts: {}", words(&established.elsewhere, paint)),
        ));
    }
    let mut text = labelled(&lines);
    if !place.others.is_empty() {
        text.push('\n');
        text.push_str(&others(place, paint));
    }
    text
}

fn whom(host: &Named) -> String {
    format!("{} (host {})", host.name, host.id)
}

fn packet(explanation: &Explanation) -> String {
    let question = &explanation.question;
    let end = |address: IpAddr, port: Option<u16>| match port {
        Some(port) => SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    };
    let what = match question.protocol {
        Protocol::Tcp => "tcp, opens a connection",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp, echo request",
    };
    format!(
        "{} to {}, {what}",
        end(question.client, question.client_port),
        end(question.vip, question.port)
    )
}

fn rule(explanation: &Explanation) -> String {
    let rule = &explanation.rule;
    let index = rule.index;
    match rule.mode.as_str() {
        "default" => format!("{index}, what no port rule covers: the default host takes it"),
        mode => {
            let ports = if rule.start == rule.end {
                "port"
            } else {
                "ports"
            };
            let range = range(rule.start, rule.end);
            let affinity = match mode {
                "multiple" => format!(", affinity {}", rule.affinity),
                _ => String::new(),
            };
            let vip = match rule.vip {
                Some(vip) => vip.to_string(),
                None => "every virtual IP".to_owned(),
            };
            format!("{index}, {ports} {range} of {vip}, {mode}{affinity}")
        }
    }
}

fn bucket(explanation: &Explanation, place: &Place) -> String {
    let owner = match &place.owner {
        Some(owner) => format!("owned by {} in epoch {}", whom(owner), explanation.epoch),
        None if explanation.epoch == 0 => "this host has no map that says who owns it".to_owned(),
        None => format!("owned by nobody in epoch {}", explanation.epoch),
    };
    let row = match place.row {
        RowState { shared: true, .. } => "; here: mine, shared",
        RowState { mine: true, .. } => "; here: mine",
        RowState {
            lingering: true, ..
        } => "; here: not mine, lingering",
        RowState { .. } => "; here: not mine",
    };
    format!("{} of {BUCKETS}, {owner}{row}", place.bucket)
}

fn ports(explanation: &Explanation) -> String {
    let hosts: Vec<String> = explanation
        .ports_by_owner
        .iter()
        .map(|(id, ports)| format!("{} to host {id}", percent(*ports as f64 / CLIENT_PORTS)))
        .collect();
    let possible = if hosts.is_empty() {
        "which host owns its buckets is not known".to_owned()
    } else {
        format!("of its ports lead {}", hosts.join(", "))
    };
    format!(
        "depends on the client's port, because the affinity is none: write it behind {}; {possible}",
        explanation.question.client
    )
}

fn tone(judgement: &Judgement) -> (&'static str, Tone) {
    match judgement.verdict.as_str() {
        "accept" => ("accepts it", Tone::Good),
        "pass" => ("passes it on", Tone::Good),
        _ => ("drops it", Tone::Busy),
    }
}

fn words(judgement: &Judgement, paint: Paint) -> String {
    let (does, colour) = tone(judgement);
    let does = paint.tone(colour, does);
    format!("{does} ({}). {}", judgement.reason, judgement.explanation)
}

fn others(place: &Place, paint: Paint) -> String {
    let mut table = Table::new([
        ("OTHER HOST", Align::Right),
        ("NAME", Align::Left),
        ("VERDICT", Align::Left),
        ("REASON", Align::Left),
    ]);
    for other in &place.others {
        let (does, colour) = tone(&other.judgement);
        table.push([
            other.host.id.to_string().into(),
            other.host.name.as_str().into(),
            Cell::toned(does, colour),
            other.judgement.reason.as_str().into(),
        ]);
    }
    table.render(paint)
}

//! Q228942, "SP4 may cause loss of connectivity": under heavy traffic WLBS was kept from sending, and a host that was alone
//! did not even list itself.

use super::super::faults::{Harm, Kind};
use super::super::topology::{CLIENT, NIC, Place, VIP};
use super::Scenario;
use super::stage::{Stage, USUAL, host, hosts};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const ARTICLE: &str = "Q228942";

pub(super) const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "heavy-traffic",
        article: ARTICLE,
        about: "60 s of floods, three times what the servers can take; heartbeats go out all the same",
        play: heavy_traffic,
    },
    Scenario {
        name: "starved",
        article: ARTICLE,
        about: "the daemon of host 2 gets no processor for three times the tolerance",
        play: starved,
    },
    Scenario {
        name: "alone",
        article: ARTICLE,
        about: "a host without others lists itself in `wlbs query`, at any time",
        play: alone,
    },
];

/// How long each of the floods lasts.
const FLOOD: Duration = Duration::from_secs(20);
/// How long it is measured what the servers can take.
const MEASURE: Duration = Duration::from_secs(3);

fn heavy_traffic(stage: &mut Stage) -> Result<()> {
    let mut spec = stage.spec()?;
    spec.timing = USUAL;
    stage.up(&spec)?;
    let taken = stage.load(MEASURE)?;
    let rate = (3 * taken).max(1000);
    stage.say(format!(
        "a busy client gets {taken} connections per second answered; the floods send {rate} frames per second"
    ));
    let epochs = |stage: &Stage| -> Result<BTreeSet<u64>> {
        let status = (1..=3).map(|id| Ok(stage.status(id)?.cluster.epoch));
        status.collect()
    };
    let before = epochs(stage)?;
    for (kind, cookies) in [(Kind::Syn, 1), (Kind::Syn, 0), (Kind::Udp, 1)] {
        let setting = format!("echo {cookies} > /proc/sys/net/ipv4/tcp_syncookies");
        for id in 1..=3 {
            stage.run(Place::Host(host(id)), &["sh", "-c", &setting])?;
        }
        stage.say(match (kind, cookies) {
            (Kind::Udp, _) => {
                "covey lab fault flood --udp: datagrams to the echo service".to_owned()
            }
            (Kind::Syn, 0) => "covey lab fault flood: SYN segments, without SYN cookies".to_owned(),
            (Kind::Syn, _) => "covey lab fault flood: SYN segments, with SYN cookies".to_owned(),
        });
        let rate = rate.to_string().parse().map_err(anyhow::Error::msg)?;
        stage.harm(Harm::Flood { kind, rate })?;
        stage.wait(FLOOD / 2)?;
        let neighbour = VIP.to_string();
        stage.run(
            Place::Client,
            &["ip", "neighbour", "del", &neighbour, "dev", NIC],
        )?;
        stage.ask(5)?;
        let found = stage.run(Place::Client, &["ip", "neighbour", "show", &neighbour])?;
        let mac = stage.lab()?.cluster_mac()?.to_string();
        stage.expect(
            format!("ARP for {VIP} is answered under the flood, with {mac}"),
            found.contains(&mac),
        )?;
        stage.wait(FLOOD / 2)?;
        stage.heal()?;
        let after = epochs(stage)?;
        stage.expect(
            format!(
                "nobody was taken for dead: on all hosts the map is the one before the floods, epoch {}",
                after.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
            ),
            after.len() == 1 && after == before,
        )?;
        let status = stage.status(1)?;
        for member in status.hosts.iter().filter(|member| member.id != 1) {
            let (id, lost, heard) = (member.id, member.heartbeats_lost, member.heartbeats);
            stage.say(format!(
                "host 1 has heard {heard} heartbeats of host {id}, and missed {lost}"
            ));
        }
    }
    stage.say(format!("the client at {CLIENT} goes on as before"));
    stage.expect_service(hosts(&[1, 2, 3]))
}

fn starved(stage: &mut Stage) -> Result<()> {
    let spec = stage.spec()?;
    stage.up(&spec)?;
    let began = Instant::now();
    stage.harm(Harm::Starve { host: host(2) })?;
    stage.say("covey lab fault starve 2: its daemon is not stopped for good, and hardly ever runs");
    stage.until_converged(hosts(&[1, 3]), 5 * spec.timing.budget())?;
    stage.expect_service(hosts(&[1, 3]))?;
    stage.say("host 2 is silent: its filter serves under a lease that its daemon did not renew");
    stage.wait((3 * spec.timing.budget()).saturating_sub(began.elapsed()))?;
    stage.heal()?;
    let events = stage.covey(2, &["events"])?;
    for (says, words) in [
        (
            "that it stopped serving by itself",
            "this host stopped serving",
        ),
        ("how late it ran", " ms late"),
    ] {
        let line = events.lines().find(|line| line.contains(words));
        if let Some(line) = line {
            stage.say(format!("h2# covey events: {}", line.trim()));
        }
        stage.expect(format!("host 2 says itself {says}"), line.is_some())?;
    }
    stage.doctor_says(2, "starved", "late", &[])?;
    stage.expect_service(hosts(&[1, 2, 3]))
}

fn alone(stage: &mut Stage) -> Result<()> {
    let mut spec = stage.spec()?;
    spec.hosts = host(1);
    stage.up(&spec)?;
    stage.restart(1)?;
    stage.say("the daemon of host 1 is started again, and asked all the time");
    let start = Instant::now();
    let (mut asked, mut converging) = (0, 0);
    loop {
        let said = stage.covey(1, &["wlbs", "query"])?;
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        // Before its socket is there it cannot say anything.
        if said.contains("as part of the cluster:") {
            asked += 1;
            converging += usize::from(said.contains("converging"));
            let (_, listed) = said
                .rsplit_once("as part of the cluster:")
                .context("it is there")?;
            ensure!(
                listed.trim().starts_with('1'),
                "not so: host 1 lists itself; it says: {said}"
            );
        }
        if said.contains("converged as DEFAULT") {
            break;
        }
        ensure!(
            start.elapsed() < Duration::from_secs(30),
            "host 1 has not converged after 30 s: {said}"
        );
    }
    stage.say(format!(
        "{asked} answers, {converging} of them while it was converging: it listed itself in each"
    ));
    stage.expect_query(1, &["converged as DEFAULT", "as part of the cluster: 1"])?;
    stage.doctor(1, "alone", &[])?;
    stage.expect_service(hosts(&[1]))
}

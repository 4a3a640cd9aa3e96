//! KB838408, "NLB servers are removed from the IGMP membership list": members that do not answer the querier in time are forgotten by
//! the switch; the article's way out is unicast mode.

use super::super::snooping::{Asking, Switch};
use super::super::topology::Place;
use super::Scenario;
use super::stage::{Stage, host, hosts};
use anyhow::{Result, ensure};
use covey_proto::config::ClusterMode;
use std::time::{Duration, Instant};

const ARTICLE: &str = "KB838408";

pub(super) const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "memberships-kept",
        article: ARTICLE,
        about: "a switch that forwards by MAC group, a querier, and members that answer it; then nobody asks any more",
        play: memberships_kept,
    },
    Scenario {
        name: "forgotten-by-the-switch",
        article: ARTICLE,
        about: "the switch forgets a member, which reports at once; then it heeds no report, and the member drops out",
        play: forgotten,
    },
    Scenario {
        name: "away-from-igmp",
        article: ARTICLE,
        about: "a snooping Linux bridge takes the cluster's frames from everybody; the way out is unicast mode",
        play: away_from_igmp,
    },
];

/// Time between two queries, which is 125 s in the field.
const QUERIES: Duration = Duration::from_secs(4);
/// The same where it is not queries that bring a member back.
const RARE_QUERIES: Duration = Duration::from_secs(20);
/// Within which time a member that the switch has forgotten is served again by its own report.
const REPORTED: Duration = Duration::from_secs(6);

fn memberships_kept(stage: &mut Stage) -> Result<()> {
    let mut spec = stage.spec()?;
    spec.mode = ClusterMode::Igmp;
    spec.switch = Switch::MacGroups;
    spec.asking = Asking {
        interval: QUERIES,
        ..Asking::default()
    };
    stage.up(&spec)?;
    let membership = spec.asking.membership();
    stage.say(format!(
        "the querier asks every {} s; who does not answer is forgotten after {:.0} s",
        QUERIES.as_secs(),
        membership.as_secs_f64()
    ));
    let start = Instant::now();
    while start.elapsed() < 4 * QUERIES {
        stage.expect_service(hosts(&[1, 2, 3]))?;
        stage.wait(Duration::from_secs(2))?;
    }
    stage.say("four intervals later no host has been forgotten");
    stage.expect_health(1)?;
    stage.run(
        Place::Switch,
        &[
            "ip",
            "link",
            "set",
            "querier",
            "type",
            "bridge",
            "mcast_querier",
            "0",
        ],
    )?;
    stage.say("the querier falls silent, and nobody else asks");
    stage.doctor(2, "no-querier", &[])
}

fn forgotten(stage: &mut Stage) -> Result<()> {
    let mut spec = stage.spec()?;
    spec.mode = ClusterMode::Igmp;
    spec.switch = Switch::MacGroups;
    spec.asking = Asking {
        interval: RARE_QUERIES,
        ..Asking::default()
    };
    stage.up(&spec)?;
    let every = RARE_QUERIES.as_secs();
    stage.lab()?.age_out(host(2))?;
    stage.say(format!(
        "covey lab fault aged-out 2: the switch forgets host 2, as in the article; the querier asks every {every} s"
    ));
    let start = Instant::now();
    loop {
        let answers = stage.ask(30)?;
        if answers.none == 0 && answers.by.len() == 3 {
            break;
        }
        ensure!(
            start.elapsed() < REPORTED,
            "host 2 does not serve again: {answers:?}"
        );
    }
    stage.say("heartbeats go to the group too: host 2 heard nobody for two of them, and reported its membership unasked");

    let lab = stage.lab()?;
    lab.switch.heed(&lab.name, host(2), false)?;
    lab.age_out(host(2))?;
    stage.say("the switch forgets it again, and heeds no report of it");
    stage.until_converged(hosts(&[1, 3]), Duration::from_secs(20))?;
    stage.expect_service(hosts(&[1, 3]))?;
    stage.doctor(2, "group-not-received", &[])?;
    let lab = stage.lab()?;
    lab.switch.heed(&lab.name, host(2), true)?;
    stage.say("the switch heeds reports again: host 2 answers the next query");
    stage.until_converged(hosts(&[1, 2, 3]), 3 * RARE_QUERIES)?;
    stage.expect_service(hosts(&[1, 2, 3]))
}

fn away_from_igmp(stage: &mut Stage) -> Result<()> {
    let mut spec = stage.spec()?;
    spec.mode = ClusterMode::Igmp;
    spec.switch = Switch::Snooping;
    spec.asking = Asking {
        interval: QUERIES,
        ..Asking::default()
    };
    stage.up(&spec)?;
    stage.say("the switch is a Linux bridge that snoops: it looks for members of the group that the destination IP is, and a virtual IP is none");
    let start = Instant::now();
    while !stage.ask(2)?.by.is_empty() && start.elapsed() < 4 * QUERIES {
        stage.wait(Duration::from_secs(1))?;
    }
    let answers = stage.ask(5)?;
    stage.expect(
        "the cluster has converged and serves nobody",
        answers.by.is_empty(),
    )?;
    stage.doctor(1, "vip-unreachable-by-multicast", &[])?;
    stage.say("the article's way out: unicast mode, one host after the other, while all run");
    for id in 1..=3 {
        stage.reconfigure(hosts(&[id]), "mode = \"igmp\"", "mode = \"unicast\"")?;
        stage.covey(id, &["reload"])?;
    }
    stage.until(
        "all hosts are in unicast mode",
        Duration::from_secs(20),
        |lab| {
            let modes = lab.hosts.iter().map(|host| Ok(host.status()?.cluster.mode));
            let modes: Vec<String> = modes.collect::<Result<_>>()?;
            Ok(modes
                .iter()
                .any(|mode| mode != "unicast")
                .then(|| format!("modes: {}", modes.join(", "))))
        },
    )?;
    stage.expect_service(hosts(&[1, 2, 3]))
}

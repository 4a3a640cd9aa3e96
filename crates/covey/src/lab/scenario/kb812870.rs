//! KB812870, "NLB hosts do not converge": a switch that blocks broadcasts, a crossover cable, a NIC that does not accept the
//! cluster MAC, teaming, a hub with masking.

use super::super::faults::Pair;
use super::super::topology::{CLIENT, NIC, Place};
use super::Scenario;
use super::stage::{Stage, covey, host, hosts};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

const ARTICLE: &str = "KB812870";

pub(super) const SCENARIOS: [Scenario; 6] = [
    Scenario {
        name: "broadcast-blocked",
        article: ARTICLE,
        about: "the switch passes no broadcasts between hosts; the cluster goes on by direct heartbeats",
        play: broadcast_blocked,
    },
    Scenario {
        name: "converging-alone",
        article: ARTICLE,
        about: "the same as NLB had it, with unicast_fallback = false: each host converges with itself only",
        play: converging_alone,
    },
    Scenario {
        name: "crossover-cable",
        article: ARTICLE,
        about: "the cluster's NICs are wired to each other, and clients are not on that segment",
        play: crossover_cable,
    },
    Scenario {
        name: "cluster-mac-refused",
        article: ARTICLE,
        about: "the NIC of one host does not accept the cluster MAC",
        play: cluster_mac_refused,
    },
    Scenario {
        name: "teaming",
        article: ARTICLE,
        about: "the cluster's NIC is a port of a team",
        play: teaming,
    },
    Scenario {
        name: "hub-with-masking",
        article: ARTICLE,
        about: "a hub in the switch's place, and hosts that mask their source MAC",
        play: hub_with_masking,
    },
];

fn broadcast_blocked(stage: &mut Stage) -> Result<()> {
    stage.up(&stage.spec()?)?;
    stage.expect_service(hosts(&[1, 2, 3]))?;
    stage.lab()?.block_broadcast()?;
    stage.say(
        "covey lab fault no-broadcast: heartbeats to ff:ff:ff:ff:ff:ff get from no host to another",
    );
    stage.until(
        "the hosts hear each other's direct heartbeats alone",
        Duration::from_secs(20),
        |lab| {
            // Event 1008: broadcasts are blocked.
            let events = covey(lab, 1, &["events"])?;
            Ok((!events.contains(" 1008 ")).then(|| "no event says so yet".to_owned()))
        },
    )?;
    stage.until_converged(hosts(&[1, 2, 3]), Duration::from_secs(20))?;
    stage.expect_service(hosts(&[1, 2, 3]))?;
    stage.doctor(1, "broadcast-blocked", &[])?;
    stage.heal()?;
    stage.expect_service(hosts(&[1, 2, 3]))
}

fn converging_alone(stage: &mut Stage) -> Result<()> {
    let mut spec = stage.spec()?;
    spec.cluster.push("unicast_fallback = false".to_owned());
    stage.up(&spec)?;
    stage.lab()?.block_broadcast()?;
    stage.say("covey lab fault no-broadcast");
    for id in 1..=3 {
        stage.until_converged(hosts(&[id]), Duration::from_secs(30))?;
    }
    for (id, itself) in [(1, "cluster: 1"), (2, "cluster: 2"), (3, "cluster: 3")] {
        stage.expect_query(id, &["converged as DEFAULT", itself])?;
    }
    stage.doctor(2, "alone-without-fallback", &[])?;
    stage.doctor_says(2, "broadcast-blocked", "hosts 1 and 3", &[])?;
    stage.heal()?;
    stage.expect_service(hosts(&[1, 2, 3]))
}

fn crossover_cable(stage: &mut Stage) -> Result<()> {
    let mut spec = stage.spec()?;
    spec.hosts = host(2);
    stage.up(&spec)?;
    stage.lab()?.wire(Pair(host(1), host(2)))?;
    stage.say("covey lab fault crossover 1,2: the hosts' NICs are wired to each other");
    for id in 1..=2 {
        stage.restart(id)?;
    }
    stage.say("both daemons are started again, as after the machines were set up so");
    stage.until_converged(hosts(&[1, 2]), Duration::from_secs(30))?;
    let answers = stage.ask(3)?;
    stage.expect(
        "a cluster that has converged serves nobody",
        answers.by.is_empty(),
    )?;
    let router = CLIENT.to_string();
    stage.run(
        Place::Host(host(1)),
        &["ip", "route", "add", "default", "via", &router],
    )?;
    stage.say(format!(
        "host 1 has a default route by {router}, where the clients are"
    ));
    stage.doctor(1, "gateway-silent", &[])?;
    stage.doctor(1, "segment-not-shared", &[])?;
    stage.heal()?;
    stage.expect_service(hosts(&[1, 2]))
}

fn cluster_mac_refused(stage: &mut Stage) -> Result<()> {
    stage.up(&stage.spec()?)?;
    stage.lab()?.refuse(host(2))?;
    stage.say("covey lab fault refuse 2: the NIC of host 2 does not accept the cluster MAC");
    let answers = stage.ask(60)?;
    stage.expect(
        "host 2 takes part in the cluster and answers nobody: its share is dark",
        answers.none > 0 && answers.hosts() == hosts(&[1, 3]),
    )?;
    stage.doctor(2, "cluster-mac-refused", &[])?;
    stage.heal()?;
    stage.expect_service(hosts(&[1, 2, 3]))
}

/// This machine's kernel may have no bonding, so doctor is shown a /sys in which the NIC is a port of a team.
fn teaming(stage: &mut Stage) -> Result<()> {
    stage.up(&stage.spec()?)?;
    let lab = stage.lab()?;
    let sysfs = lab.name.directory().join("sysfs");
    let net = sysfs.join("class/net");
    let shown = |path: &str, text: &str| -> Result<()> {
        let file = net.join(path);
        fs::create_dir_all(file.parent().unwrap_or(&net))?;
        fs::write(&file, format!("{text}\n"))
            .with_context(|| format!("cannot write {}", file.display()))
    };
    let nic = stage.covey(1, &["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&nic).context("covey status --json")?;
    let mac = status["host"]["mac"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let index = stage.run(
        Place::Host(host(1)),
        &["ip", "-oneline", "link", "show", "dev", NIC],
    )?;
    let index = index.split(':').next().unwrap_or_default().to_owned();
    shown("eth0/address", &mac)?;
    shown("eth0/ifindex", &index)?;
    shown("eth0/bonding_slave/state", "active")?;
    shown("bond0/bonding/mode", "802.3ad 4")?;
    shown("bond0/bonding/slaves", "eth0 eth1")?;
    symlink("../bond0", net.join("eth0/master"))?;
    stage.say("host 1 is shown a /sys in which eth0 is a port of bond0, mode 802.3ad");
    let sysfs = sysfs.display().to_string();
    stage.doctor(1, "teaming", &["--sysfs", &sysfs])
}

fn hub_with_masking(stage: &mut Stage) -> Result<()> {
    let mut spec = stage.spec()?;
    spec.cluster.push("source_mac = \"masked\"".to_owned());
    stage.up(&spec)?;
    stage.lab()?.make_hub()?;
    stage.say("covey lab fault hub: every frame goes to all ports");
    stage.expect_service(hosts(&[1, 2, 3]))?;
    stage.doctor(1, "hub-with-masking", &[])?;
    stage.say("the article's advice: MaskSourceMAC = 0, which is source_mac = \"cluster\"");
    stage.reconfigure(
        hosts(&[1, 2, 3]),
        "source_mac = \"masked\"",
        "source_mac = \"cluster\"",
    )?;
    for id in 1..=3 {
        stage.restart(id)?;
    }
    stage.until_converged(hosts(&[1, 2, 3]), Duration::from_secs(30))?;
    stage.expect_service(hosts(&[1, 2, 3]))
}

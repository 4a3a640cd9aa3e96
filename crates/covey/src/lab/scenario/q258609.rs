//! Q258609, "WLBS cluster appears to stop servicing clients": a sniffer sends LLC frames with the cluster MAC as source, the
//! switch learns it from them, and all hosts but one starve.

use super::super::bridge::Bridge;
use super::super::faults::llc_frame;
use super::super::netns::run_in;
use super::super::packet::{NOTHING, PacketSocket};
use super::super::topology::{NIC, Place};
use super::Scenario;
use super::stage::{Stage, host, hosts};
use anyhow::Result;
use std::process::{Command, Stdio};

const ARTICLE: &str = "Q258609";

pub(super) const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "sniffer-guarded",
        article: ARTICLE,
        about: "tcpdump runs on a host, and a program that sends LLC frames with the cluster MAC as source",
        play: sniffer_guarded,
    },
    Scenario {
        name: "leak-below-the-guard",
        article: ARTICLE,
        about: "such a frame leaves from below the guard, and the switch learns the cluster MAC",
        play: leak_below_the_guard,
    },
];

fn sniffer_guarded(stage: &mut Stage) -> Result<()> {
    stage.up(&stage.spec()?)?;
    let lab = stage.lab()?;
    let mac = lab.cluster_mac()?;
    let name = lab.name.clone();
    let namespace = name.namespace(Place::Host(host(2)));
    let sniffer = run_in(&namespace, || {
        Ok(Command::new("tcpdump")
            .args(["-i", NIC, "-Z", "root", "-w", "/dev/null"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?)
    });
    stage.say("host 2 runs a sniffer (tcpdump, promiscuous)");
    let refused = run_in(&namespace, || {
        let socket = PacketSocket::open(NIC, NOTHING)?;
        Ok((0..20)
            .filter(|_| socket.send(&llc_frame(mac)).is_err())
            .count())
    })?;
    stage.say("host 2 sends 20 LLC frames with the cluster MAC as source");
    stage.expect("the guard stops all 20", refused == 20)?;
    let learned = Bridge::look(&name)?.learned(mac)?;
    stage.expect(
        "the switch has not learned the cluster MAC",
        learned.is_empty(),
    )?;
    stage.expect_service(hosts(&[1, 2, 3]))?;
    stage.doctor(2, "cluster-mac-leaked", &[])?;
    if let Ok(mut sniffer) = sniffer {
        sniffer.kill()?;
        sniffer.wait()?;
    }
    Ok(())
}

fn leak_below_the_guard(stage: &mut Stage) -> Result<()> {
    stage.up(&stage.spec()?)?;
    stage.expect_service(hosts(&[1, 2, 3]))?;
    stage.lab()?.leak(host(2))?;
    stage.say("covey lab fault leak 2: one LLC frame with the cluster MAC as source, from below the guard");
    let lab = stage.lab()?;
    let learned = Bridge::look(&lab.name)?.learned(lab.cluster_mac()?)?;
    stage.expect(
        "the switch has learned that the cluster MAC is behind the port of host 2",
        learned == [host(2)],
    )?;
    let answers = stage.ask(60)?;
    stage.expect(
        "the clients of hosts 1 and 3 are not served: all frames go to host 2, which leaves them to their owners",
        answers.none > 0 && answers.hosts() == hosts(&[2]),
    )?;
    stage.doctor(1, "cluster-mac-learned", &[])?;
    stage.heal()?;
    stage.say("the switch has forgotten the cluster MAC");
    stage.expect_service(hosts(&[1, 2, 3]))
}

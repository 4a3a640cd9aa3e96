//! Q258609, "WLBS cluster appears to stop servicing clients": a sniffer sends LLC frames with the cluster MAC as source, the
//! switch learns it from them, and all hosts but one starve.

use super::super::bridge::Bridge;
use super::super::faults::llc_frame;
use super::super::netns::run_in;
use super::super::packet::{NOTHING, PacketSocket};
use super::super::topology::{NIC, Place};
use super::Scenario;
use super::stage::{Stage, host, hosts};
use anyhow::{Context, Result};
use covey_proto::ids::Mac;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

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
        Command::new("tcpdump")
            .args(["-i", NIC, "-Z", "root", "-w", "/dev/null"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("tcpdump does not start; install it")
    })?;
    let _sniffer = Sniffer(sniffer);
    stage.say("host 2 runs a sniffer (tcpdump, promiscuous), and a program that sends up to 1000 LLC frames a second with the cluster MAC as source");
    let done = AtomicBool::new(false);
    let (served, sent) = thread::scope(|scope| {
        let sender = scope.spawn(|| run_in(&namespace, || emit(mac, &done)));
        let served = stage.expect_service(hosts(&[1, 2, 3]));
        done.store(true, Ordering::Relaxed);
        let sent = sender.join();
        (
            served,
            sent.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    });
    served?;
    let Emitted { sent, refused } = sent?;
    stage.expect(
        format!("meanwhile the guard has stopped all {sent} frames"),
        sent > 0 && refused == sent,
    )?;
    let learned = Bridge::look(&name)?.learned(mac)?;
    stage.expect(
        "the switch has not learned the cluster MAC",
        learned.is_empty(),
    )?;
    stage.doctor(2, "cluster-mac-leaked", &[])
}

/// Ends with the scenario, also if that fails.
struct Sniffer(Child);

impl Drop for Sniffer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Frames that were sent, and those among them that the kernel refused.
#[derive(Clone, Copy, Default)]
struct Emitted {
    sent: usize,
    refused: usize,
}

/// Sends LLC frames with this source until it is done.
fn emit(mac: Mac, done: &AtomicBool) -> Result<Emitted> {
    let socket = PacketSocket::open(NIC, NOTHING)?;
    let mut count = Emitted::default();
    while !done.load(Ordering::Relaxed) {
        count.sent += 1;
        count.refused += usize::from(socket.send(&llc_frame(mac)).is_err());
        thread::sleep(Duration::from_millis(1));
    }
    Ok(count)
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
    stage.doctor_says(1, "cluster-mac-learned", "host 2", &[])?;
    stage.heal()?;
    stage.say("the switch has forgotten the cluster MAC");
    stage.expect_service(hosts(&[1, 2, 3]))
}

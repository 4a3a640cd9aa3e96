//! What Covey changes on a machine, and that it puts back exactly that: tried on a real kernel, in a network
//! namespace of the test's own.
//!
//! `cargo test -p covey --test kernel_host_setup -- --ignored` as root. What the kernel holds is read with `ip`,
//! `bridge` and /proc, not with the code under test. Covers docs/design.md, "Data path".
#![allow(unsafe_code)] // setns(2) and setresuid(2): a thread of the test enters a namespace or becomes nobody.
#![allow(clippy::unwrap_used)] // Helpers of a test, outside of its functions.

use covey::host::{HostSetup, Interface, Plan};
use covey_proto::ids::Mac;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const CLUSTER_MAC: Mac = Mac([0x02, 0xBF, 10, 77, 0, 100]);
const HOST_MAC: &str = "02:00:00:00:00:01";

/// A network namespace with a host's interfaces: lo, and eth0 (10.77.0.1) whose cable ends in `peer`.
struct Machine {
    name: String,
}

impl Machine {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let machine = Self {
            name: format!("cli-{}-{count}", std::process::id()),
        };
        run("ip", &["netns", "add", &machine.name]);
        machine.ip("link set lo up");
        machine.ip(&format!(
            "link add eth0 address {HOST_MAC} type veth peer name peer"
        ));
        machine.ip("link set peer up");
        machine.ip("link set eth0 up");
        machine.ip("address add 10.77.0.1/24 dev eth0");
        machine
    }

    fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split(' '));
        run("ip", &all)
    }

    /// Runs a part of the test on a thread that has entered the namespace.
    fn inside<T: Send>(&self, part: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    // SAFETY: setns takes no memory, and the descriptor is open for as long as the call.
                    let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                    assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
                    part()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn sysctl(&self, name: &str) -> String {
        let path = Path::new("/proc/sys/net/ipv4/conf").join(name);
        self.inside(|| std::fs::read_to_string(path).unwrap().trim().to_owned())
    }

    fn set_sysctl(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys/net/ipv4/conf").join(name);
        self.inside(|| std::fs::write(path, value).unwrap());
    }

    /// Everything that a setup may touch, as the kernel tells it.
    fn state(&self) -> String {
        let addresses = self.ip("-brief -4 address show") + &self.ipv6();
        let fdb = run("bridge", &["-n", &self.name, "fdb", "show", "dev", "eth0"]);
        // Their order is that in which they came.
        let mut fdb: Vec<&str> = fdb.lines().collect();
        fdb.sort_unstable();
        let fdb = fdb.join("\n");
        let announce = self.sysctl("eth0/arp_announce");
        let ignore = self.sysctl("eth0/arp_ignore");
        let elsewhere = ["peer/arp_announce", "peer/arp_ignore", "default/arp_ignore"];
        let elsewhere = elsewhere.map(|name| self.sysctl(name)).join(" ");
        let groups = ["eth0", "../../ipv6/conf/eth0"]
            .map(|of| self.sysctl(&format!("{of}/drop_unicast_in_l2_multicast")));
        let groups = groups.join(" and ");
        format!(
            "{addresses}\n{fdb}\ndrop from groups {groups}, elsewhere {elsewhere}\narp_announce {announce}, arp_ignore {ignore}"
        )
    }

    /// The NIC's IPv6 addresses but for link-local ones, which the kernel makes when it likes.
    fn ipv6(&self) -> String {
        self.ip("-oneline -6 address show dev eth0 scope global")
    }

    fn note(&self) -> PathBuf {
        std::env::temp_dir().join(format!("covey-{}.json", self.name))
    }

    fn apply(&self, plan: &Plan) -> HostSetup {
        self.inside(|| HostSetup::apply_noting(plan, self.note()).unwrap())
    }

    fn undo(&self, setup: HostSetup) {
        self.inside(|| setup.undo());
        assert!(!self.note().exists(), "the note goes with the last change");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
        let _ = std::fs::remove_file(self.note());
    }
}

/// Gives up root's rights, for the calling thread only.
fn become_nobody() {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: setresuid takes no memory. The system call is made directly because the C library's function would
    // change all threads.
    let changed = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(changed, 0, "{}", std::io::Error::last_os_error());
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn plan(vips: &[[u8; 4]]) -> Plan {
    Plan {
        interface: "eth0".to_owned(),
        vips: vips.iter().copied().map(IpAddr::from).collect(),
        macs: vec![CLUSTER_MAC],
    }
}

/// As [`plan`], with fd77::100 too.
fn plan_with_ipv6() -> Plan {
    let mut plan = plan(&[[10, 77, 0, 100]]);
    plan.vips.push("fd77::100".parse().unwrap());
    plan
}

/// The planned state, seen from outside.
fn assert_set_up(machine: &Machine, vips: &[&str]) {
    let state = machine.state();
    for vip in vips {
        assert!(state.contains(&format!("{vip}/32")), "{vip}: {state}");
    }
    assert!(state.contains(&CLUSTER_MAC.to_string()), "{state}");
    assert!(
        state.contains("drop from groups 1 and "),
        "the host fails open: {state}"
    );
    let arp = "elsewhere 2 3 3\narp_announce 2, arp_ignore 0";
    assert!(state.ends_with(arp), "{state}");
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_is_applied_is_undone() {
    let machine = Machine::new();
    machine.set_sysctl("eth0/arp_ignore", "1");
    let before = machine.state();
    let setup = machine.apply(&plan(&[[10, 77, 0, 100], [10, 77, 0, 101]]));
    assert_set_up(&machine, &["10.77.0.100", "10.77.0.101"]);
    machine.undo(setup);
    assert_eq!(machine.state(), before);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_nic_takes_groups_too_and_follows_a_change_of_them() {
    let machine = Machine::new();
    let before = machine.state();
    let mut setup = machine.apply(&plan_with_ipv6());
    let state = machine.state();
    assert!(state.contains("drop from groups 1 and 1"), "{state}");
    let [group, ip_group] = ["03:bf:0a:4d:00:64", "01:00:5e:7f:00:64"];
    let with = |macs: &[&str]| Plan {
        macs: macs.iter().map(|mac| mac.parse().unwrap()).collect(),
        ..plan_with_ipv6()
    };
    for (macs, gone) in [
        ([group, ip_group], CLUSTER_MAC.to_string()),
        ([group, "02:bf:0a:4d:00:64"], ip_group.to_owned()),
    ] {
        machine.inside(|| setup.adapt(&with(&macs)).unwrap());
        let state = machine.state();
        let taken = |mac: &str| state.contains(&format!("{mac} self permanent"));
        assert!(
            macs.iter().all(|mac| taken(mac)) && !taken(&gone),
            "{state}"
        );
    }
    // Another program that goes on here finds the note of all of it.
    run(
        "bridge",
        &[
            "-n",
            &machine.name,
            "fdb",
            "del",
            group,
            "dev",
            "eth0",
            "self",
        ],
    );
    machine.inside(|| setup.renew());
    assert!(machine.state().contains(group));
    drop(setup);
    let setup = machine.apply(&with(&[ip_group]));
    assert!(!machine.state().contains(group));
    machine.undo(setup);
    assert_eq!(machine.state(), before);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_was_there_before_stays() {
    let machine = Machine::new();
    machine.ip("address add 10.77.0.100/32 dev lo");
    run(
        "bridge",
        &[
            "-n",
            &machine.name,
            "fdb",
            "add",
            &CLUSTER_MAC.to_string(),
            "dev",
            "eth0",
            "self",
            "permanent",
        ],
    );
    machine.set_sysctl("eth0/arp_announce", "2");
    machine.set_sysctl("eth0/drop_unicast_in_l2_multicast", "1");
    // What somebody has chosen for another interface, he has.
    machine.set_sysctl("peer/arp_announce", "1");
    machine.set_sysctl("peer/arp_ignore", "1");
    machine.set_sysctl("default/arp_ignore", "2");
    let before = machine.state();
    let setup = machine.apply(&plan(&[[10, 77, 0, 100]]));
    assert_eq!(machine.state(), before, "there was nothing to change");
    machine.undo(setup);
    assert_eq!(machine.state(), before);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_next_daemon_adopts_what_a_dead_one_left() {
    let machine = Machine::new();
    machine.set_sysctl("eth0/arp_announce", "1");
    let before = machine.state();
    drop(machine.apply(&plan(&[[10, 77, 0, 100], [10, 77, 0, 101]])));
    assert_set_up(&machine, &["10.77.0.100", "10.77.0.101"]);

    // Meanwhile the configuration has exchanged one virtual IP for another.
    let setup = machine.apply(&plan(&[[10, 77, 0, 100], [10, 77, 0, 102]]));
    assert_set_up(&machine, &["10.77.0.100", "10.77.0.102"]);
    assert!(!machine.state().contains("10.77.0.101"));
    machine.undo(setup);
    assert_eq!(machine.state(), before);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_change_that_a_dead_daemon_only_noted_is_made_and_undone() {
    let machine = Machine::new();
    let before = machine.state();
    drop(machine.apply(&plan(&[[10, 77, 0, 100]])));
    machine.ip("address del 10.77.0.100/32 dev lo");
    let setup = machine.apply(&plan(&[[10, 77, 0, 100]]));
    assert_set_up(&machine, &["10.77.0.100"]);
    machine.ip("address del 10.77.0.100/32 dev lo");
    machine.undo(setup);
    assert_eq!(machine.state(), before);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_note_of_another_nic_does_not_count() {
    let machine = Machine::new();
    drop(machine.apply(&plan(&[[10, 77, 0, 100]])));
    machine.ip("link set eth0 address 02:00:00:00:00:02");
    let before = machine.state();
    let setup = machine.apply(&plan(&[[10, 77, 0, 100]]));
    machine.undo(setup);
    assert_eq!(machine.state(), before, "all of it was there when it came");
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_sysctl_that_somebody_else_changed_is_left() {
    let machine = Machine::new();
    let setup = machine.apply(&plan(&[[10, 77, 0, 100]]));
    machine.set_sysctl("eth0/arp_announce", "1");
    machine.undo(setup);
    assert_eq!(machine.sysctl("eth0/arp_announce"), "1");
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn without_the_rights_nothing_is_changed() {
    let machine = Machine::new();
    let before = machine.state();
    let error = machine.inside(|| {
        become_nobody();
        HostSetup::apply_noting(&plan(&[[10, 77, 0, 100]]), machine.note())
            .map(drop)
            .unwrap_err()
            .to_string()
    });
    assert_eq!(
        error,
        "cannot set up net.ipv4.conf.eth0.arp_announce = 2: Permission denied (os error 13); Covey needs root or CAP_NET_ADMIN"
    );
    assert_eq!(machine.state(), before);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_could_not_be_undone_is_undone_by_the_next() {
    let machine = Machine::new();
    let before = machine.state();
    let setup = machine.apply(&plan(&[[10, 77, 0, 100]]));
    machine.inside(|| {
        become_nobody();
        setup.undo();
    });
    assert!(machine.note().exists(), "nothing could be undone");
    let setup = machine.apply(&plan(&[[10, 77, 0, 100]]));
    machine.undo(setup);
    assert_eq!(machine.state(), before);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn an_interface_that_is_gone_takes_its_changes_along() {
    let machine = Machine::new();
    let setup = machine.apply(&plan(&[[10, 77, 0, 100]]));
    machine.ip("link del eth0");
    machine.undo(setup);
    assert!(!machine.ip("-brief -4 address show").contains("10.77.0.100"));
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn an_ipv6_address_is_on_the_nic_and_nobodys_source() {
    let machine = Machine::new();
    machine.ip("address add fd77::1/64 dev eth0 nodad");
    let before = machine.state();
    let setup = machine.apply(&plan_with_ipv6());
    assert_set_up(&machine, &["10.77.0.100"]);
    let addresses = machine.ipv6();
    let vip = addresses.lines().find(|line| line.contains("fd77::100"));
    let vip = vip.unwrap_or_else(|| panic!("{addresses}"));
    for word in ["fd77::100/128", "nodad", "deprecated", "noprefixroute"] {
        assert!(vip.contains(word), "{word}: {vip}");
    }
    assert!(!vip.contains("tentative"), "{vip}");
    let groups = machine.ip("maddress show dev eth0");
    assert!(groups.contains("33:33:ff:00:01:00"), "{groups}");
    let route = machine.ip("route get fd77::c8");
    assert!(route.contains("src fd77::1 "), "{route}");
    machine.undo(setup);
    assert_eq!(machine.state(), before);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_nic_that_was_switched_off_gets_its_addresses_back() {
    let machine = Machine::new();
    machine.ip("address add fd77::1/64 dev eth0 nodad");
    let before = machine.state();
    let setup = machine.apply(&plan_with_ipv6());
    machine.inside(|| setup.renew());
    machine.ip("link set eth0 down");
    machine.ip("link set eth0 up");
    assert_eq!(machine.ipv6(), "", "the kernel takes them all");
    machine.inside(|| setup.renew());
    let after = machine.ipv6();
    assert!(after.contains("fd77::100/128"), "{after}");
    machine.ip("address add fd77::1/64 dev eth0 nodad");
    machine.undo(setup);
    assert_eq!(machine.state(), before);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_dead_daemons_ipv6_address_is_adopted() {
    let machine = Machine::new();
    let before = machine.state();
    drop(machine.apply(&plan_with_ipv6()));
    let setup = machine.apply(&plan_with_ipv6());
    assert!(machine.ipv6().contains("fd77::100/128"));
    machine.undo(setup);
    assert_eq!(machine.state(), before);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn where_ipv6_is_switched_off_nothing_is_changed() {
    let machine = Machine::new();
    machine.inside(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1").unwrap());
    let before = machine.state();
    let applied = machine.inside(|| HostSetup::apply_noting(&plan_with_ipv6(), machine.note()));
    let error = applied.map(drop).unwrap_err().to_string();
    assert_eq!(
        error,
        "IPv6 is switched off on eth0, and the cluster has IPv6 virtual IPs: \
         switch it on (sysctl -w net.ipv6.conf.eth0.disable_ipv6=0)"
    );
    assert_eq!(machine.state(), before);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn interfaces_are_those_of_the_namespace() {
    let machine = Machine::new();
    let find = |name: &'static str| machine.inside(move || Interface::find(name).unwrap());
    let eth0 = find("eth0").unwrap();
    assert_eq!(
        eth0.mac.map(|mac| mac.to_string()).as_deref(),
        Some(HOST_MAC)
    );
    assert_eq!(eth0.kind.as_deref(), Some("veth"));
    assert_eq!((eth0.mtu, eth0.up), (1500, true));
    assert_eq!(eth0.addresses, [Ipv4Addr::new(10, 77, 0, 1)]);
    machine.ip("link set peer down");
    assert!(!find("eth0").unwrap().up, "no carrier");
    assert_eq!(find("lo").unwrap().mac, None);
    assert_eq!(find("eth9"), None);
    assert_eq!(find("a-name-that-is-much-too-long"), None);
    let mut names = machine.inside(|| covey::host::interface_names().unwrap());
    names.retain(|name| ["lo", "eth0", "peer"].contains(&name.as_str()));
    names.sort();
    assert_eq!(names, ["eth0", "lo", "peer"]);
}

//! What the doctor sees of a machine, on a real kernel, in a network namespace of the test's own: each thing as it should be,
//! and changed. Teams of NICs by a directory that stands for /sys, because many kernels have none.
//!
//! `cargo test -p covey --test kernel_doctor -- --ignored` as root. Covers docs/design.md, "Doctor".
#![allow(unsafe_code)] // setns(2): a thread of the test enters a namespace.
#![allow(clippy::unwrap_used)] // Helpers of a test, outside of its functions.

use covey::doctor::{Machine, Patient, Sources, gather};
use covey::host::{HostSetup, Plan};
use covey_proto::ids::Mac;
use std::fs;
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const CLUSTER_MAC: Mac = Mac([0x02, 0xBF, 10, 77, 0, 100]);
const HOST_MAC: &str = "02:00:00:00:00:01";
const VIP: &str = "10.77.0.100";
const GATEWAY: &str = "10.77.0.254";
const ABSENT: &str = "10.77.0.3";

fn vip() -> IpAddr {
    VIP.parse().unwrap()
}

/// A network namespace that is set up as a host of a cluster, with a second NIC.
struct Host {
    name: String,
    directory: PathBuf,
    setup: Option<HostSetup>,
}

impl Host {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cdoc-{}-{count}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        run("ip", &["netns", "add", &name]);
        let mut host = Self {
            name,
            directory,
            setup: None,
        };
        fs::create_dir_all(&host.directory).unwrap();
        host.ip("link set lo up");
        host.ip(&format!(
            "link add eth0 address {HOST_MAC} type veth peer name peer0"
        ));
        host.ip("link add eth1 type veth peer name peer1");
        for interface in ["peer0", "eth0", "peer1", "eth1"] {
            host.ip(&format!("link set {interface} up"));
        }
        host.ip("address add 10.77.0.1/24 dev eth0");
        host.ip("address add 10.78.0.1/24 dev eth1");
        let plan = Plan {
            interface: "eth0".to_owned(),
            vips: vec![vip()],
            macs: vec![CLUSTER_MAC],
        };
        let note = host.directory.join("note.json");
        host.setup = Some(host.inside(|| HostSetup::apply_noting(&plan, note).unwrap()));
        host
    }

    fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split(' '));
        run("ip", &all);
    }

    /// Runs a part of the test on a thread that has entered the namespace.
    fn inside<T: Send>(&self, part: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(Path::new("/run/netns").join(&self.name)).unwrap();
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

    fn set_sysctl(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys/net/ipv4/conf").join(name);
        self.inside(|| fs::write(path, value).unwrap());
    }

    fn look_with(&self, sysfs: &Path) -> Machine {
        self.look_for(&[], sysfs)
    }

    /// The same, while other hosts are not heard.
    fn look_for(&self, silent: &[(u8, &str)], sysfs: &Path) -> Machine {
        let silent = silent.iter();
        let patient = Patient {
            interface: "eth0".to_owned(),
            vips: vec![vip()],
            cluster_mac: Some(CLUSTER_MAC),
            services: vec![covey::doctor::Service {
                rule: 1,
                vips: vec![vip()],
                ports: 8080..=8081,
            }],
            daemon: Some(std::process::id()),
            silent: silent
                .map(|(host, address)| (*host, address.parse().unwrap()))
                .collect(),
            leaks: true,
        };
        let sources = Sources {
            sysfs: sysfs.to_owned(),
            ..Sources::default()
        };
        self.inside(|| gather(&patient, &sources).unwrap())
    }

    fn look(&self) -> Machine {
        self.look_with(Path::new("/sys"))
    }

    /// A directory that stands for /sys, with these files in it.
    fn sysfs(&self, files: &[(&str, &str)]) -> PathBuf {
        let root = self.directory.join("sys");
        for (file, text) in files {
            let path = root.join("class/net").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(setup) = self.setup.take() {
            self.inside(|| setup.undo());
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn holders(machine: &Machine) -> Vec<&str> {
    machine.holders[0].1.iter().map(String::as_str).collect()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn addresses_and_macs_are_seen_where_they_are() {
    let host = Host::new();
    let machine = host.look();
    let nic = machine.nic.as_ref().unwrap();
    assert_eq!((nic.up, nic.mtu, nic.has_xdp), (true, 1500, false));
    assert_eq!(nic.mac.unwrap().to_string(), HOST_MAC);
    assert_eq!(nic.kind.as_deref(), Some("veth"));
    assert_eq!(holders(&machine), ["lo"]);
    assert_eq!(machine.takes_cluster_mac, Some(true));
    assert_eq!(machine.loopback_up, Some(true));

    host.ip("address del 10.77.0.100/32 dev lo");
    host.ip("address add 10.77.0.100/24 dev eth1");
    host.ip("link set eth0 mtu 1400");
    host.ip("link set lo down");
    run(
        "bridge",
        &[
            "-n",
            &host.name,
            "fdb",
            "del",
            &CLUSTER_MAC.to_string(),
            "dev",
            "eth0",
            "self",
        ],
    );
    let machine = host.look();
    assert_eq!(holders(&machine), ["eth1"]);
    assert_eq!(machine.nic.as_ref().unwrap().mtu, 1400);
    assert_eq!(machine.takes_cluster_mac, Some(false));
    assert_eq!(machine.loopback_up, Some(false));

    host.ip("link set peer0 down");
    assert!(!host.look().nic.unwrap().up);
    host.ip("link del eth0");
    assert_eq!(host.look().nic, None);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_greater_of_two_settings_counts() {
    let host = Host::new();
    let sysctls = || {
        let found = host.look().sysctls.unwrap();
        (found.arp_ignore, found.arp_announce, found.rp_filter)
    };
    host.set_sysctl("eth0/rp_filter", "0");
    host.set_sysctl("all/rp_filter", "0");
    assert_eq!(sysctls(), (0, 2, 0));
    host.set_sysctl("all/rp_filter", "1");
    host.set_sysctl("eth0/arp_announce", "0");
    host.set_sysctl("all/arp_ignore", "1");
    assert_eq!(sysctls(), (1, 0, 1));
    host.set_sysctl("eth0/rp_filter", "2");
    assert_eq!(sysctls(), (1, 0, 2));
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_way_of_answers_is_that_of_the_routes() {
    use covey::doctor::WayOut;
    let host = Host::new();
    let way = || host.look().ways_out[0].1.clone();
    assert_eq!(way(), WayOut::Nowhere);
    host.ip("route add default via 10.78.0.254");
    assert_eq!(way(), WayOut::By("eth1".to_owned()));
    // A rule for the virtual IP goes before the default route.
    host.ip("route add default via 10.77.0.254 table 77");
    host.ip("rule add from 10.77.0.100 lookup 77");
    assert_eq!(way(), WayOut::By("eth0".to_owned()));
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_machine_on_the_segment_answers_or_not() {
    let (host, router) = (Host::new(), Host::new());
    router.ip("address del 10.77.0.1/24 dev eth0");
    host.ip(&format!("link set peer0 netns {} name gw0", router.name));
    router.ip("link set gw0 up");
    let gateways = || {
        let found = host.look().gateways.into_iter();
        found
            .map(|gateway| (gateway.address.to_string(), gateway.answers))
            .collect::<Vec<_>>()
    };
    let expect = |answers| vec![(GATEWAY.to_owned(), answers)];
    assert_eq!(gateways(), []);
    host.ip("route add default via 10.77.0.254");
    assert_eq!(gateways(), expect(false));
    // The kernel is asking already.
    assert_eq!(gateways(), expect(false));
    router.ip("address add 10.77.0.254/24 dev gw0");
    assert_eq!(gateways(), expect(true));
    let silent = host.look_for(&[(2, GATEWAY), (3, ABSENT)], Path::new("/sys"));
    assert_eq!(silent.lost_and_on, [2]);
    // The gateway of another NIC is not the cluster's affair.
    host.ip("route del default");
    host.ip("route add default via 10.78.0.254");
    assert_eq!(gateways(), []);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_service_that_listens_is_found() {
    let host = Host::new();
    assert_eq!(host.look().unserved.unwrap().len(), 1);
    let listener = host.inside(|| TcpListener::bind((vip(), 8081)).unwrap());
    assert_eq!(host.look().unserved, Some(Vec::new()));
    drop(listener);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn programs_with_packet_sockets_are_named() {
    let host = Host::new();
    assert_eq!(host.look().senders, [""; 0]);
    let mut sniffer = Command::new("ip")
        .args([
            "netns",
            "exec",
            &host.name,
            "tcpdump",
            "-i",
            "eth0",
            "-w",
            "/dev/null",
        ])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It says that it listens.
    let mut said = std::io::BufReader::new(sniffer.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let senders = host.look().senders;
    sniffer.kill().unwrap();
    sniffer.wait().unwrap();
    assert_eq!(senders, [format!("tcpdump ({})", sniffer.id())], "{line}");
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_team_is_seen_in_sysfs_and_only_if_it_is_this_nics() {
    let host = Host::new();
    let team = |sysfs: &Path| host.look_with(sysfs).team.map(|team| team.seen);
    // The machine's own /sys is about other interfaces.
    assert_eq!(team(Path::new("/sys")), None);

    let sysfs = host.sysfs(&[
        ("eth0/address", HOST_MAC),
        ("bond0/bonding/mode", "balance-rr 0\n"),
        ("bond0/bonding/slaves", "eth0 eth1\n"),
    ]);
    let net = sysfs.join("class/net");
    assert_eq!(team(&sysfs), None);
    std::os::unix::fs::symlink(net.join("bond0"), net.join("eth0/master")).unwrap();
    assert_eq!(
        team(&sysfs).unwrap(),
        [
            "eth0 is a port of the team bond0",
            "bond0: mode balance-rr 0",
            "bond0: ports eth0 eth1",
        ]
    );
    // A NIC of the same name with another MAC.
    host.sysfs(&[("eth0/address", "02:00:00:00:00:99")]);
    assert_eq!(team(&sysfs), None);
    // It is itself a team.
    fs::remove_file(net.join("eth0/master")).unwrap();
    host.sysfs(&[
        ("eth0/address", HOST_MAC),
        ("eth0/uevent", "DEVTYPE=team\nINTERFACE=eth0\n"),
    ]);
    assert_eq!(team(&sysfs).unwrap(), ["eth0 is a team of NICs"]);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn features_of_a_nic_are_read() {
    let host = Host::new();
    // A veth can do neither, and says so.
    let features = host.look().features.unwrap();
    assert!(!features.lro && !features.gro_hw, "{features:?}");
    // What it can do shows that the right bits are read.
    let is_on = |feature: &str| {
        let on = host.inside(|| covey::host::active_features("eth0").unwrap());
        on.iter().any(|name| name == feature)
    };
    for (switch, expected) in [("off", false), ("on", true)] {
        let name = &host.name;
        run(
            "ip",
            &[
                "netns", "exec", name, "ethtool", "-K", "eth0", "tso", switch, "tx", "on",
            ],
        );
        assert_eq!(
            (
                is_on("tx-tcp-segmentation"),
                is_on("tx-checksum-ip-generic")
            ),
            (expected, true)
        );
    }
    let nowhere = host.inside(|| covey::host::active_features("eth9"));
    assert_eq!(nowhere.unwrap_err().raw_os_error(), Some(libc::ENODEV));
}

//! Golden tests of what a wrong configuration is told, and tests of what a right one means.
//!
//! The machine is a value: one Ethernet NIC, one loopback, a few files.

use super::*;
use crate::host::Interface;
use covey_proto::rules::{Affinity, FilterMode, PortRule, Protocol};
use std::collections::BTreeMap;
use std::io;

const PATH: &str = "/etc/covey/covey.toml";
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF\n";

/// A machine with eth0 (10.77.0.1 behind a VIP), lo, and these files.
struct Bench(BTreeMap<PathBuf, TextFile>);

impl Bench {
    fn new(config: &str) -> Self {
        let mut bench = Self(BTreeMap::new());
        bench.put(PATH, 0o644, config);
        bench.put("/etc/covey/cluster.key", 0o600, KEY);
        bench.put("/etc/covey/open.key", 0o644, KEY);
        bench.put("/etc/covey/short.key", 0o600, "0123456789abcdef");
        bench.put("/etc/covey/word.key", 0o600, &"swordfish".repeat(8)[..64]);
        bench
    }

    fn put(&mut self, path: &str, mode: u32, text: &str) {
        let text = text.to_owned();
        self.0.insert(path.into(), TextFile { mode, text });
    }
}

impl System for Bench {
    fn read(&self, path: &Path) -> io::Result<TextFile> {
        self.0
            .get(path)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn host_name(&self) -> io::Result<String> {
        Ok("bench".to_owned())
    }

    fn interface(&self, name: &str) -> io::Result<Option<Interface>> {
        let interface = |index, mac, addresses: &[&str]| Interface {
            name: name.to_owned(),
            index,
            mac,
            mtu: 1500,
            up: true,
            kind: None,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        };
        Ok(match name {
            "eth0" => Some(interface(
                2,
                Some(Mac([2, 0, 0, 0, 0, 1])),
                &["10.77.0.100", "10.77.0.1", "10.77.0.2"],
            )),
            "eth1" => Some(interface(3, Some(Mac([2, 0, 0, 0, 0, 2])), &[])),
            "lo" => Some(interface(1, None, &["127.0.0.1"])),
            _ => None,
        })
    }

    fn interface_names(&self) -> io::Result<Vec<String>> {
        Ok(vec!["lo".to_owned(), "eth0".to_owned(), "eth1".to_owned()])
    }

    fn default_socket(&self) -> io::Result<PathBuf> {
        Ok(PathBuf::from("/run/covey/control-1.sock"))
    }
}

/// A good `[cluster]` and `[host]`; what follows them makes the difference.
const GOOD: &str = r#"[cluster]
name = "www.example.com"
vips = ["10.77.0.100/24", "10.77.0.101/24"]
key_file = "/etc/covey/cluster.key"
[host]
id = 1
interface = "eth0"
"#;

fn load(text: &str) -> Result<Config, ConfigError> {
    Config::load(Path::new(PATH), &Bench::new(text))
}

/// Everything that is said about a wrong configuration.
fn complaint(text: &str) -> String {
    load(text)
        .expect_err("the configuration is wrong")
        .to_string()
}

/// The good configuration with one line replaced.
fn with_line(old: &str, new: &str) -> String {
    assert_eq!(GOOD.matches(old).count(), 1, "{old}");
    GOOD.replace(old, new)
}

fn with_rules(rules: &str) -> String {
    format!("{GOOD}{rules}")
}

macro_rules! complains {
    ($($name:ident: $text:expr;)*) => {
        $(#[test]
        fn $name() {
            insta::assert_snapshot!(complaint(&$text));
        })*
    };
}

complains! {
    empty_file: "";
    toml_syntax_error: with_line("id = 1", "id = = 1");
    string_without_end: with_line("interface = \"eth0\"", "interface = \"eth0");
    key_given_twice: with_line("id = 1", "id = 1\nid = 2");
    text_instead_of_number: with_line("id = 1", "id = \"one\"");
    number_instead_of_text: with_line("name = \"www.example.com\"", "name = 5");
    rule_weight_is_a_list: with_rules("[[rule]]\nports = 80\nweight = [50]\n");
    unknown_key: with_line("id = 1", "id = 1\ninterfaces = \"eth0\"");
    unknown_key_like_nothing: with_line("id = 1", "id = 1\nzzz = 1");
    unknown_section: with_rules("[[rules]]\nports = 80\n");

    no_vips: with_line("vips = [\"10.77.0.100/24\", \"10.77.0.101/24\"]", "");
    empty_vips: with_line("[\"10.77.0.100/24\", \"10.77.0.101/24\"]", "[]");
    bad_ip: with_line("10.77.0.101/24", "10.77.0.301/24");
    useless_ips: with_line("[\"10.77.0.100/24\", \"10.77.0.101/24\"]",
        "[\"10.77.0.0/24\",\n \"10.77.0.255/24\",\n \"224.0.0.1/4\",\n \"127.0.0.1/8\",\n \"0.0.0.0/24\",\n \"10.77.0.9\",\n \"10.77.0.9/33\"]");
    duplicate_vip: with_line("10.77.0.101/24", "10.77.0.100/24");
    useless_ipv6: with_line("[\"10.77.0.100/24\", \"10.77.0.101/24\"]",
        "[\"fd77::/64\",\n \"ff02::1/64\",\n \"::1/128\",\n \"::/64\",\n \"fe80::100/64\",\n \"::ffff:10.77.0.9/96\",\n \"fd77::9\",\n \"fd77::9/129\"]");
    duplicate_ipv6: with_line("\"10.77.0.101/24\"", "\"fd77::100/64\", \"FD77:0::100/48\"");
    cluster_mac_no_mac: with_line("[host]", "cluster_mac = \"02:bf:0a:4d:64\"\n[host]");
    cluster_mac_of_a_group: with_line("[host]", "cluster_mac = \"03:bf:0a:4d:00:64\"\n[host]");
    cluster_mac_of_one_nic: with_line("[host]", "mode = \"multicast\"\ncluster_mac = \"02:bf:0a:4d:00:64\"\n[host]");
    cluster_mac_no_ip_group: with_line("[host]", "mode = \"igmp\"\ncluster_mac = \"03:bf:0a:4d:00:64\"\n[host]");
    cluster_mac_reserved: with_line("[host]", "mode = \"igmp\"\ncluster_mac = \"01:00:5e:00:00:05\"\n[host]");
    cluster_mac_broadcast: with_line("[host]", "mode = \"multicast\"\ncluster_mac = \"ff:ff:ff:ff:ff:ff\"\n[host]");
    cluster_mac_and_mode_unknown: with_line("[host]", "mode = \"anycast\"\ncluster_mac = \"02:bf:0a:4d:00:64\"\n[host]");
    cluster_mac_is_the_nics: with_line("[host]", "cluster_mac = \"02:00:00:00:00:01\"\n[host]");
    mode_unknown: with_line("[host]", "mode = \"anycast\"\n[host]");
    period_without_unit: with_line("[host]", "period = \"1000\"\n[host]");
    period_too_short: with_line("[host]", "period = \"5ms\"\n[host]");
    max_linger_too_long: with_line("[host]", "max_linger = \"721h\"\n[host]");
    igmp_report_interval_too_long: with_line("[host]", "igmp_report_interval = \"2h\"\n[host]");
    querier_timeout_without_unit: with_line("[host]", "querier_timeout = \"260\"\n[host]");
    tolerance_zero: with_line("[host]", "tolerance = 0\n[host]");
    majority_without_size: with_line("[host]", "quorum = \"majority\"\n[host]");
    size_without_majority: with_line("[host]", "size = 3\n[host]");
    key_file_and_auth: with_line("[host]", "auth = \"none\"\n[host]");
    neither_key_file_nor_auth: with_line("key_file = \"/etc/covey/cluster.key\"\n", "");
    auth_unknown: with_line("key_file = \"/etc/covey/cluster.key\"", "auth = \"password\"");
    key_file_missing: with_line("cluster.key", "other.key");
    key_file_open: with_line("cluster.key", "open.key");
    key_file_short: with_line("cluster.key", "short.key");
    key_file_not_hexadecimal: with_line("cluster.key", "word.key");

    host_id_0: with_line("id = 1", "id = 0");
    host_id_65: with_line("id = 1", "id = 65");
    no_host_id: with_line("id = 1\n", "");
    missing_interface: with_line("eth0", "eth7");
    interface_not_ethernet: with_line("eth0", "lo");
    interface_without_address: with_line("eth0", "eth1");
    dip_not_on_interface: with_line("id = 1", "id = 1\ndip = \"10.77.0.9\"");
    dip_is_ipv6: with_line("id = 1", "id = 1\ndip = \"fd77::1\"");
    dip_is_a_vip: with_line("id = 1", "id = 1\ndip = \"10.77.0.100\"");
    initial_state_unknown: with_line("id = 1", "id = 1\ninitial_state = \"asleep\"");
    persist_state_is_a_text: with_line("id = 1", "id = 1\npersist_state = \"yes\"");
    paths_not_absolute: with_rules("[daemon]\nsocket = \"covey.sock\"\nstate_dir = \"state\"\nxdp = \"fast\"\n");

    overlapping_rules: with_rules("[[rule]]\nports = \"1-100\"\n\n[[rule]]\nports = \"80-90\"\nprotocol = \"tcp\"\n");
    weight_101: with_rules("[[rule]]\nports = 80\nweight = 101\n");
    weight_unknown: with_rules("[[rule]]\nports = 80\nweight = \"heavy\"\n");
    sticky_without_affinity: with_rules("[[rule]]\nports = 80\naffinity = \"none\"\nsticky = \"20m\"\n");
    sticky_for_a_single_host: with_rules("[[rule]]\nports = 80\nmode = \"single\"\nhandling_priority = 1\nsticky = \"20m\"\n");
    sticky_values: with_rules("[[rule]]\nports = 80\nsticky = \"25h\"\n[[rule]]\nports = 81\nsticky = \"1.5s\"\n\
        [[rule]]\nports = 82\nsticky = \"20\"\n[[rule]]\nports = 83\nsticky = \"0s\"\n");
    rule_for_unknown_vip: with_rules("[[rule]]\nports = 80\nvip = \"10.77.0.102\"\n");
    rule_for_unknown_ipv6: with_rules("[[rule]]\nports = 80\nvip = \"fd77::102\"\n");
    rule_for_no_address: with_rules("[[rule]]\nports = 80\nvip = \"www\"\n");
    ports_backwards: with_rules("[[rule]]\nports = \"2000-1000\"\n");
    port_70000: with_rules("[[rule]]\nports = 70000\n");
    no_ports: with_rules("[[rule]]\nprotocol = \"tcp\"\n");
    handling_priority_missing: with_rules("[[rule]]\nports = 80\nmode = \"single\"\n");
    keys_of_other_modes: with_rules(
        "[[rule]]\nports = 80\nmode = \"disabled\"\naffinity = \"none\"\n[[rule]]\nports = 81\nhandling_priority = 2\n");
    everything_at_once: "[host]\nid = 99\n\tinterface = \"eth9\"\n[cluster]\nname = \"\"\nvips = []\nperiod = \"1\"\n\
        auth = \"none\"\n[[rule]]\nports = \"b\"\n";
}

#[test]
fn too_many_rules() {
    let rules: String = (1..=65)
        .map(|port| format!("[[rule]]\nports = {port}\n"))
        .collect();
    insta::assert_snapshot!(complaint(&with_rules(&rules)));
}

#[test]
fn a_file_that_is_not_there() {
    let error = Config::load(Path::new("/etc/nowhere.toml"), &Bench::new("")).unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn no_complaint_shows_a_key() {
    for file in ["open.key", "short.key", "word.key"] {
        let text = complaint(&with_line("cluster.key", file));
        for secret in [KEY.trim(), "0123456789abcdef", "swordfish"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn what_is_left_out_has_nlbs_defaults() {
    let config = load(GOOD).unwrap();
    assert_eq!(config.cluster.timing.period, Duration::from_secs(1));
    assert_eq!(config.cluster.timing.tolerance, 5);
    assert_eq!(config.cluster.quorum, Quorum::None);
    assert!(config.cluster.unicast_fallback);
    assert_eq!(config.host.name, "bench");
    assert_eq!(
        config.host.dip,
        Ipv4Addr::new(10, 77, 0, 1),
        "the first that is no VIP"
    );
    assert_eq!(config.host.initial_state, InitialState::Started);
    assert_eq!(
        config.rules.rules(),
        [PortRule {
            vip: None,
            start: 0,
            end: 65535,
            protocol: Protocol::Both,
            mode: FilterMode::Multiple {
                affinity: Affinity::Single
            },
            sticky: None,
        }]
    );
    assert_eq!(config.claims, [Claim::EQUAL_WEIGHT]);
    assert_eq!(config.daemon.log, "info");
    assert_eq!(config.daemon.xdp, XdpMode::Auto);
    assert!(config.daemon.realtime);
    assert!(!config.host.persist_state);
    assert!(!config.host.legacy_heartbeats);
    assert_eq!(config.daemon.state_dir, Path::new("/var/lib/covey"));
    assert_eq!(config.daemon.socket, Path::new("/run/covey/control-1.sock"));
}

#[test]
fn the_primary_virtual_ip_is_ipv4_if_any_is() {
    let vips = |list: &str| {
        let text = with_line("[\"10.77.0.100/24\", \"10.77.0.101/24\"]", list);
        load(&text).unwrap()
    };
    let mixed =
        vips("[\"fd77::100/64\", \"fd77::101/128\", \"10.77.0.100/24\", \"10.77.0.101/24\"]");
    let shown: Vec<String> = mixed.cluster.vips.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "10.77.0.100/24",
            "fd77::100/64",
            "fd77::101/128",
            "10.77.0.101/24"
        ]
    );
    assert_eq!(mixed.cluster_mac().to_string(), "02:bf:0a:4d:00:64");

    let ipv6 = vips("[\"fd77::100/64\", \"fd77::101/64\"]");
    assert_eq!(ipv6.rules.primary(), "fd77::100".parse::<IpAddr>().unwrap());
    assert_eq!(ipv6.cluster_mac().to_string(), "02:bf:fd:77:01:00");
}

#[test]
fn mode_and_mac_are_offered_and_need_no_restart() {
    let load = |line: &str| {
        let text = with_line("[host]", &format!("{line}\n[host]"));
        self::load(&text).unwrap()
    };
    let unicast = load("mode = \"unicast\"");
    for (line, mac) in [
        ("mode = \"multicast\"", "03:bf:0a:4d:00:64"),
        ("mode = \"igmp\"", "01:00:5e:7f:00:64"),
        ("cluster_mac = \"02-AA-0A-4D-0-64\"", "02:aa:0a:4d:00:64"),
        (
            "mode = \"igmp\"\ncluster_mac = \"01:00:5e:01:02:03\"",
            "01:00:5e:01:02:03",
        ),
    ] {
        let config = load(line);
        assert_eq!(config.cluster_mac().to_string(), mac);
        assert_eq!(config.rules.delivery(), config.cluster.delivery);
        assert_ne!(config.rules.digest(), unicast.rules.digest());
        assert_eq!(unicast.needs_restart_for(&config), [""; 0]);
    }
}

#[test]
fn a_rule_may_be_for_an_ipv6_address() {
    let text = with_line("10.77.0.101/24", "fd77::100/64");
    let config = load(&format!(
        "{text}[[rule]]\nports = 80\nvip = \"fd77:0:0::100\"\n"
    ));
    let vip = config.unwrap().rules.rules()[0].vip;
    assert_eq!(vip, Some("fd77::100".parse().unwrap()));
}

#[test]
fn every_key_has_its_meaning() {
    let config = load(
        r#"
        [cluster]
        name = "c"
        vips = ["10.77.0.100/24", "10.77.0.101/25"]
        mode = "unicast"
        period = "200ms"
        tolerance = 8
        key_file = "cluster.key"
        quorum = "majority"
        size = 5
        unicast_fallback = false
        max_linger = "36h"
        source_mac = "masked"
        filter_icmp = false
        igmp_report_interval = "60s"
        querier_timeout = "10m"
        announce_mrouter = true
        [host]
        id = 64
        name = "h64"
        interface = "eth0"
        dip = "10.77.0.2"
        initial_state = "suspended"
        persist_state = true
        legacy_heartbeats = true
        [[rule]]
        ports = "1000 - 2000"
        protocol = "tcp"
        vip = "10.77.0.101"
        affinity = "none"
        weight = 0
        [[rule]]
        ports = 1500
        affinity = "network"
        sticky = "20m"
        weight = "equal"
        [[rule]]
        ports = "53"
        protocol = "udp"
        mode = "single"
        handling_priority = 3
        [[rule]]
        ports = 25
        mode = "disabled"
        [daemon]
        log = "warn,covey=debug"
        socket = "/run/c.sock"
        state_dir = "/srv/covey"
        realtime = false
        xdp = "generic"
        "#,
    )
    .unwrap();
    let core = config.cluster_config(
        Mac([2, 0, 0, 0, 0, 1]),
        Duration::from_millis(4),
        Incarnation(7),
        vec![(9, PortState::Disabled)],
    );
    assert_eq!(core.port_states, [(9, PortState::Disabled)]);
    assert!(core.legacy);
    assert_eq!(core.host.get(), 64);
    assert_eq!(core.name, "h64");
    assert_eq!(core.dip, Ipv4Addr::new(10, 77, 0, 2));
    assert_eq!(core.rules.delivery().mac().to_string(), "02:bf:0a:4d:00:64");
    assert_eq!(core.timing.period, Duration::from_millis(200));
    assert_eq!(core.timing.tolerance, 8);
    assert_eq!(core.quorum, Quorum::Majority(5));
    assert!(!core.unicast_fallback);
    assert_eq!(core.max_linger, Some(Duration::from_secs(36 * 3600)));
    assert_eq!(core.source_mac, SourceMac::Masked);
    assert!(!core.filter_icmp);
    let cluster = &config.cluster;
    assert_eq!(cluster.igmp_report_interval, Some(Duration::from_secs(60)));
    assert_eq!(cluster.querier_timeout, Duration::from_secs(600));
    assert!(cluster.announce_mrouter);
    let key = core.auth.signing().expect("heartbeats are signed");
    assert_eq!(key.secret[..4], [0x00, 0x11, 0x22, 0x33]);
    assert_eq!(key.secret[28..], [0xCC, 0xDD, 0xEE, 0xFF]);
    assert_eq!(core.claims, [Claim(0), Claim(50), Claim(3), Claim(0)]);
    let rule = |vip: Option<&str>, start, end, protocol, mode| PortRule {
        vip: vip.map(|vip| vip.parse().unwrap()),
        start,
        end,
        protocol,
        mode,
        sticky: None,
    };
    let shared = |affinity| FilterMode::Multiple { affinity };
    assert_eq!(
        core.rules.rules(),
        [
            rule(
                Some("10.77.0.101"),
                1000,
                2000,
                Protocol::Tcp,
                shared(Affinity::None)
            ),
            PortRule {
                sticky: Some(Duration::from_secs(20 * 60)),
                ..rule(None, 1500, 1500, Protocol::Both, shared(Affinity::Network))
            },
            rule(None, 53, 53, Protocol::Udp, FilterMode::Single),
            rule(None, 25, 25, Protocol::Both, FilterMode::Disabled),
        ]
    );
    assert_eq!(config.cluster.vips[1].prefix, 25);
    assert_eq!(config.host.initial_state, InitialState::Suspended);
    assert!(config.host.persist_state);
    assert_eq!(config.daemon.state_dir, Path::new("/srv/covey"));
    assert_eq!(config.daemon.log, "warn,covey=debug");
    assert_eq!(config.daemon.socket, Path::new("/run/c.sock"));
    assert!(!config.daemon.realtime);
    assert_eq!(config.daemon.xdp, XdpMode::Generic);
}

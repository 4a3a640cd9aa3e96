//! Golden tests: every character of what the commands print, from hand-made values, and every help text.

use super::args::{Cli, Endpoint, question};
use super::as_covey;
use super::render::{
    CheckSummary, ClusterMacs, Paint, QuerySummary, Wlbs, check, doctor, event, ip2mac, query,
    rules, status, why,
};
use crate::config::Config;
use crate::control::Ports;
use crate::doctor::Diagnosis;
use crate::status::*;
use crate::why::*;
use clap::CommandFactory;
use insta::assert_snapshot;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use values::*;

pub(super) mod values;

const PLAIN: Paint = Paint::new(false);

fn answer(status: &Status) -> String {
    query(&QuerySummary::of(status), PLAIN)
}

#[test]
fn status_of_a_converged_host() {
    assert_snapshot!(status(&converged(), false, PLAIN));
}

#[test]
fn status_with_everything() {
    assert_snapshot!(status(&converged(), true, PLAIN));
}

#[test]
fn status_of_a_segment_with_everything_wrong() {
    assert_snapshot!(status(&on_a_bad_segment(), true, PLAIN));
}

#[test]
fn status_of_a_converging_host() {
    assert_snapshot!(status(&converging(), false, PLAIN));
}

#[test]
fn status_of_a_stopped_host() {
    assert_snapshot!(status(&stopped(), false, PLAIN));
}

#[test]
fn status_during_a_rolling_upgrade() {
    let mut upgraded = half_upgraded();
    assert_snapshot!(status(&upgraded, false, PLAIN));
    let level = |status: &Status| {
        let text = super::render::status(status, false, PLAIN);
        let line = text.lines().find(|line| line.starts_with("Heartbeat"));
        line.unwrap().rsplit_once(", feature").unwrap().1.to_owned()
    };
    upgraded.hosts[2].protocol_version = 1;
    assert_eq!(level(&upgraded), " level 1 (host 1 speaks 2)");
    // A host that is gone holds nobody up, and what it could speak does not matter.
    upgraded.hosts[0].alive = false;
    assert_eq!(level(&upgraded), " level 1");
}

#[test]
fn status_of_many_hosts_keeps_its_shape() {
    let mut many = converged();
    many.cluster.view = (1..=64).collect();
    many.hosts = (1..=64)
        .map(|id| member(id, HostState::Converged))
        .collect();
    many.rules.truncate(2);
    many.rules[1].share = (1..=64).map(|id| (id, 64 - usize::from(id % 2))).collect();
    assert_snapshot!(status(&many, false, PLAIN));
}

#[test]
fn colours_do_not_move_columns() {
    let coloured = status(&converging(), true, Paint::new(true));
    let bare: String = coloured
        .split('\x1b')
        .enumerate()
        .map(|(index, part)| match index {
            0 => part,
            _ => part.split_once('m').unwrap().1,
        })
        .collect();
    assert_ne!(coloured, bare);
    assert_eq!(bare, status(&converging(), true, PLAIN));
}

#[test]
fn query_in_every_state() {
    let all = [
        converged(),
        converging(),
        draining(),
        stopped(),
        suspended(),
        alone(),
    ];
    let answers = all.map(|s| answer(&s));
    assert_snapshot!(answers.concat());
}

#[test]
fn query_as_json() {
    let summary = QuerySummary::of(&converging());
    assert_snapshot!(serde_json::to_string_pretty(&summary).unwrap());
}

#[test]
fn wlbs_query_speaks_as_nlb_does() {
    let all = [
        converged(),
        converging(),
        draining(),
        stopped(),
        suspended(),
        alone(),
    ];
    let answers = all.map(|s| Wlbs::new(&s).query());
    assert_snapshot!(answers.join("---\n"));
}

#[test]
fn wlbs_params_and_display() {
    let (plain, status) = (suspended(), held_back());
    let events = [EventRecord {
        number: 9,
        time: "2026-11-20T23:01:02.345Z".to_owned(),
        id: 44,
        severity: "info".to_owned(),
        text: "connection draining started".to_owned(),
    }];
    let answers = [
        Wlbs::new(&plain).params(),
        Wlbs::new(&status).display(&events),
    ];
    assert_snapshot!(answers.join("---\n"));
}

#[test]
fn wlbs_queryport_and_sentences() {
    let status = held_back();
    let wlbs = Wlbs::new(&status);
    let ports = |vip: Option<&str>, port| Ports {
        vip: vip.map(|vip| vip.parse().unwrap()),
        port,
    };
    let mut text = String::new();
    for asked in [
        ports(None, Some(80)),
        ports(None, None),
        ports(Some("10.77.0.101"), Some(443)),
        ports(Some("10.77.0.101"), Some(80)),
        ports(None, Some(22)),
    ] {
        let (answer, found) = wlbs.queryport(&asked);
        text += &format!("{asked:?}: {found}\n{answer}---\n");
    }
    text += &wlbs.says("host 1 has left the cluster and is stopped");
    text += &wlbs.only_here();
    text += &Wlbs::ip2mac([10, 165, 2, 19].into());
    assert_snapshot!(text);
}

#[test]
fn rules_in_every_state() {
    assert_snapshot!(rules(&held_back(), PLAIN));
    assert!(!status(&held_back(), false, PLAIN).contains("9: 12.5 %"));
}

#[test]
fn a_member_of_a_group_says_who_asks_for_it() {
    let mut of = converged();
    let mut multicast = MulticastStatus {
        groups: vec![Ipv4Addr::new(239, 255, 0, 100)],
        igmp_querier: None,
        mld_querier: None,
        silent_ms: Some(7_000),
        querier_timeout_ms: 260_000,
        report_interval_ms: None,
        announces_mrouter: false,
    };
    let mut line = |multicast: &MulticastStatus| {
        of.multicast = Some(multicast.clone());
        let text = status(&of, false, PLAIN);
        let line = text.lines().find_map(|line| line.strip_prefix("Group"));
        line.map(|line| line.trim().to_owned())
    };
    let nobody = "239.255.0.100, nobody has asked for 7 s";
    assert_eq!(line(&multicast).as_deref(), Some(nobody));
    multicast.igmp_querier = Some(QuerierStatus {
        address: Ipv4Addr::UNSPECIFIED.into(),
        version: 3,
        heard_ms_ago: 7_000,
        answer_within_ms: 10_000,
        asks_every_ms: Some(125_000),
    });
    multicast.announces_mrouter = true;
    let asked = "239.255.0.100, asked for by a switch without an address (IGMP version 3) 7 s ago; announced as a \
                 multicast router";
    assert_eq!(line(&multicast).as_deref(), Some(asked));
    multicast.groups.clear();
    let announced = "announced as a multicast router";
    assert_eq!(line(&multicast).as_deref(), Some(announced));
    multicast.announces_mrouter = false;
    assert_eq!(line(&multicast), None);
}

#[test]
fn events_in_lines() {
    let record = |number, id, severity: &str, text: &str| EventRecord {
        number,
        time: "2026-11-20T23:01:02.345Z".to_owned(),
        id,
        severity: severity.to_owned(),
        text: text.to_owned(),
    };
    let lines = [
        record(
            9,
            29,
            "info",
            "Host 1 converged with host(s) 1,2,3 as default host.",
        ),
        record(10, 1004, "warning", "Host 3 does not hear host 2."),
        record(1000, 44, "info", "Connection draining started."),
        record(
            11,
            1010,
            "error",
            "The network interface eth0 is gone: put it back.",
        ),
    ];
    let text: String = lines.iter().map(|line| event(line, PLAIN)).collect();
    assert_snapshot!(text);
}

#[test]
fn status_with_findings() {
    assert_snapshot!(status(&ailing(), false, PLAIN));
}

#[test]
fn doctor_in_every_form() {
    let ill = ailing();
    let diagnosis = Diagnosis {
        checks: 38,
        hosts: vec![1],
        findings: ill.findings.clone(),
    };
    let well = Diagnosis {
        findings: Vec::new(),
        ..diagnosis.clone()
    };
    let no_daemon = Diagnosis {
        checks: 1,
        hosts: Vec::new(),
        findings: Vec::new(),
    };
    let ill = diagnosis.with_others(&ill);
    let texts = [
        doctor(&ill, Some(&ailing()), PLAIN),
        doctor(&well, Some(&converged()), PLAIN),
        doctor(&no_daemon, None, PLAIN),
    ];
    assert_snapshot!("doctor_text", texts.join("---\n"));
    assert_snapshot!("doctor_json", serde_json::to_string_pretty(&ill).unwrap());
}

#[test]
fn macs_of_an_address() {
    let macs = ClusterMacs::of([10, 165, 2, 19].into());
    assert_snapshot!(ip2mac(&macs) + &serde_json::to_string_pretty(&macs).unwrap());
    // NLB's one public sample for IPv6 has the first of these.
    let ipv6 = "2001:4898:e8:3018:bd82:dde1:6615:7b0".parse().unwrap();
    let text = ip2mac(&ClusterMacs::of(ipv6));
    for mac in [
        "02:bf:fb:7e:a2:d1",
        "03:bf:fb:7e:a2:d1",
        "01:00:5e:7f:a2:d1",
    ] {
        assert!(text.contains(mac), "{text}");
    }
}

#[test]
fn status_says_which_mode_this_host_would_rather_have() {
    let mut rolling = converged();
    rolling.cluster.offered = Some(OfferedDelivery {
        mode: "igmp".to_owned(),
        mac: "01:00:5e:7f:00:64".to_owned(),
    });
    let text = status(&rolling, false, PLAIN);
    let line = "unicast 02:bf:0a:4d:00:64 (this host offers igmp 01:00:5e:7f:00:64)\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn why_in_every_form() {
    let judged = |verdict: &str, reason: &str| Judgement {
        verdict: verdict.to_owned(),
        reason: reason.to_owned(),
        explanation: format!("This is what {reason} means."),
    };
    let host = |id: u8| Named {
        id,
        name: format!("h{id}"),
    };
    let other = |id, verdict, reason| Other {
        host: host(id),
        judgement: judged(verdict, reason),
    };
    let place = Place {
        bucket: 815,
        owner: Some(host(2)),
        row: RowState {
            mine: false,
            shared: false,
            lingering: true,
        },
        judgement: judged("drop", "not_mine"),
        established: Some(Established {
            here: judged("accept", "lingering"),
            elsewhere: judged("drop", "not_mine"),
        }),
        others: vec![other(2, "accept", "mine"), other(13, "drop", "not_mine")],
    };
    let moved = Explanation {
        question: Question {
            client: "192.0.2.7".parse().unwrap(),
            client_port: Some(40_000),
            vip: "10.77.0.100".parse().unwrap(),
            port: Some(80),
            protocol: Protocol::Tcp,
        },
        host: host(1),
        epoch: 12,
        rule: Covering {
            index: 1,
            vip: None,
            start: Some(80),
            end: Some(80),
            mode: "multiple".to_owned(),
            affinity: "none".to_owned(),
        },
        place: Some(place.clone()),
        ports_by_owner: BTreeMap::new(),
    };
    let mut open = moved.clone();
    open.question.client_port = None;
    open.place = None;
    open.ports_by_owner = [(1, 21_845), (2, 43_690)].into();
    let mut fenced = moved.clone();
    fenced.question = Question {
        client: "2001:db8::7".parse().unwrap(),
        client_port: None,
        vip: "fd77::100".parse().unwrap(),
        port: None,
        protocol: Protocol::Icmp,
    };
    fenced.rule = Covering {
        index: 0,
        vip: None,
        start: None,
        end: None,
        mode: "default".to_owned(),
        affinity: "single".to_owned(),
    };
    fenced.epoch = 0;
    fenced.place = Some(Place {
        owner: None,
        row: RowState {
            mine: false,
            shared: false,
            lingering: false,
        },
        judgement: judged("drop", "fenced"),
        established: None,
        others: Vec::new(),
        ..place
    });
    let texts = [&moved, &open, &fenced].map(|it| why(it, PLAIN));
    assert_snapshot!("why_text", texts.join("---\n"));
    assert_snapshot!("why_json", serde_json::to_string_pretty(&moved).unwrap());
    assert_snapshot!("wlbs_filter", Wlbs::new(&converged()).filter(&moved));
}

#[test]
fn ends_of_packets_are_read() {
    let read = |client: &str, service: &str| {
        Ok::<_, String>(question(client.parse::<Endpoint>()?, service.parse()?))
    };
    let asked = read("[2001:db8::7]:40000", "[fd77::100]:53/UDP").unwrap();
    assert_eq!(asked.client_port.zip(asked.port), Some((40_000, 53)));
    assert_eq!(asked.protocol, Protocol::Udp);
    let asked = read("2001:db8::7", "fd77::100/icmp").unwrap();
    assert_eq!((asked.client_port, asked.port), (None, None));
    assert_eq!(
        read("10.0.0.1:9", "10.0.0.2:80").unwrap().protocol,
        Protocol::Tcp
    );
    for (client, service, sentence) in [
        (
            "10.0.0.1:0",
            "10.0.0.2:80",
            "\"0\" is no port: write a number from 1 to 65535",
        ),
        (
            "10.0.0.1",
            "10.0.0.2:65536",
            "\"65536\" is no port: write a number from 1 to 65535",
        ),
        (
            "10.0.0.1",
            "10.0.0.2:http",
            "\"http\" is no port: write a number from 1 to 65535",
        ),
        (
            "10.0.0.300",
            "10.0.0.2:80",
            "\"10.0.0.300\" is no IP address",
        ),
        (
            "[10.0.0.1]:9",
            "10.0.0.2:80",
            "\"[10.0.0.1]\" is no IP address",
        ),
        (
            "[2001:db8::7:9",
            "10.0.0.2:80",
            "\"[2001:db8::7\" is no IP address",
        ),
        (
            "10.0.0.1",
            "www.example.com",
            "\"www.example.com\" is no IP address",
        ),
        (
            "10.0.0.1",
            "10.0.0.2:80/sctp",
            "\"sctp\" is no protocol that is known here: tcp, udp or icmp",
        ),
    ] {
        assert_eq!(read(client, service).unwrap_err(), sentence);
    }
}

#[test]
fn a_good_configuration_in_summary() {
    let bench = Bench(
        r#"
        [cluster]
        name = "www.example.com"
        vips = ["10.77.0.100/24", "10.77.0.101/24"]
        auth = "none"
        quorum = "majority"
        size = 3
        [host]
        id = 1
        interface = "eth0"
        persist_state = true
        [[rule]]
        ports = 80
        protocol = "tcp"
        weight = 70
        [[rule]]
        ports = "1000-2000"
        vip = "10.77.0.101"
        mode = "single"
        handling_priority = 2
        [[rule]]
        ports = 443
        affinity = "network"
        sticky = "90s"
        weight = 0
        [[rule]]
        ports = 25
        mode = "disabled"
        "#,
    );
    let config = Config::load(Path::new("covey.toml"), &bench).unwrap();
    let summary = CheckSummary::of(&config);
    assert_snapshot!("check_text", check(&summary));
    assert_snapshot!(
        "check_json",
        serde_json::to_string_pretty(&summary).unwrap()
    );
}

#[test]
fn rules_that_part_tunnels_from_their_control_are_named() {
    let noted = |rule: &str| {
        let file = format!(
            r#"
            [cluster]
            name = "vpn"
            vips = ["10.77.0.100/24"]
            auth = "none"
            [host]
            id = 1
            interface = "eth0"
            [[rule]]
            {rule}
            "#
        );
        let config = Config::load(Path::new("covey.toml"), &Bench(&file)).unwrap();
        let text = check(&CheckSummary::of(&config));
        text.lines()
            .filter_map(|line| line.strip_prefix("Note: "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let note = noted("ports = 1723\nprotocol = \"tcp\"\naffinity = \"none\"");
    assert_eq!(
        note,
        [
            "rule 1 has affinity none: GRE of PPTP (TCP 1723) will not be where their control connection is; \
          if there are such tunnels, use affinity single"
        ]
    );
    for harmless in [
        "ports = 1723\naffinity = \"single\"",
        "ports = 1723\nprotocol = \"udp\"\naffinity = \"none\"",
        "ports = 500\nmode = \"disabled\"",
        "ports = 80\naffinity = \"none\"",
    ] {
        assert!(noted(harmless).is_empty(), "{harmless}");
    }
    assert_eq!(noted("ports = \"0-65535\"\naffinity = \"none\"").len(), 1);
}

#[test]
fn help_of_every_command() {
    let mut cli = Cli::command();
    cli.build();
    assert_snapshot!("help_covey", cli.render_long_help().to_string());
    let names: Vec<String> = cli
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    for name in names {
        let command = cli.find_subcommand_mut(&name).unwrap();
        assert_snapshot!(
            format!("help_{name}"),
            command.render_long_help().to_string()
        );
    }
}

#[test]
fn the_names_wlbs_and_nlb_are_covey_wlbs() {
    for (typed, meant) in [
        ("/usr/bin/wlbs query", "/usr/bin/wlbs wlbs query"),
        ("nlb query", "nlb wlbs query"),
        ("covey query", "covey query"),
    ] {
        let arguments = typed.split(' ').map(Into::into);
        let meant: Vec<std::ffi::OsString> = meant.split(' ').map(Into::into).collect();
        assert_eq!(as_covey(arguments), meant);
    }
}

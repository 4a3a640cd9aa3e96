//! Every finding, by a case that produces it and by a like one that does not; the order of findings; what other hosts
//! tell; and the guide.

mod cases;
mod evidence;

use super::*;
use crate::status::MemberStatus;
use cases::{CASES, Case};
use evidence::healthy;
use std::collections::BTreeSet;
use std::path::Path;

fn names(diagnosis: &Diagnosis) -> Vec<&str> {
    let findings = diagnosis.findings.iter();
    findings.map(|finding| finding.name.as_str()).collect()
}

#[test]
fn nothing_is_wrong_with_a_healthy_host() {
    let diagnosis = examine(&healthy());
    assert_eq!(names(&diagnosis), [""; 0]);
    assert!(!diagnosis.is_trouble());
    // All but what is only looked at in IPv6 clusters, or in IGMP mode.
    assert_eq!(diagnosis.checks, checks::ALL.len() - 2);
}

#[test]
fn every_finding_is_produced_by_its_case_alone() {
    for Case { kind, wrong, .. } in CASES {
        let mut evidence = healthy();
        wrong(&mut evidence);
        let diagnosis = examine(&evidence);
        assert_eq!(names(&diagnosis), [kind.name()], "{diagnosis:#?}");
        let finding = &diagnosis.findings[0];
        assert_eq!(finding.severity > Severity::Info, diagnosis.is_trouble());
        assert!(finding.what.ends_with('.'), "{}", finding.what);
        assert!(!finding.what.contains("  "), "{}", finding.what);
    }
}

#[test]
fn what_is_nearly_so_is_no_finding() {
    for Case { kind, right, .. } in CASES {
        let mut evidence = healthy();
        right(&mut evidence);
        let diagnosis = examine(&evidence);
        let found = names(&diagnosis);
        assert!(!found.contains(&kind.name()), "{diagnosis:#?}");
    }
}

#[test]
fn every_kind_has_a_case() {
    let with_case: BTreeSet<Kind> = CASES.iter().map(|case| case.kind).collect();
    assert_eq!(with_case, Kind::ALL.into_iter().collect());
}

#[test]
fn names_and_numbers_are_unique_and_known() {
    let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    for kind in Kind::ALL {
        assert_eq!(Kind::named(kind.name()), Some(kind));
        assert_eq!(Kind::name_of(kind.number()), kind.name());
        let plain =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        assert!(kind.name().chars().all(plain), "{}", kind.name());
    }
    assert_eq!(Kind::name_of(255), "finding-255");
    assert_eq!(Kind::named("finding-255"), None);
}

#[test]
fn the_worst_comes_first() {
    let mut evidence = healthy();
    for kind in [
        Kind::GenericXdp,
        Kind::RpFilter,
        Kind::VipMissing,
        Kind::LinkDown,
    ] {
        let case = CASES.iter().find(|case| case.kind == kind).unwrap();
        (case.wrong)(&mut evidence);
    }
    assert_eq!(
        names(&examine(&evidence)),
        ["link-down", "vip-missing", "rp-filter", "generic-xdp"]
    );
}

#[test]
fn a_silent_gateway_turns_the_absence_of_clients_into_a_warning() {
    let finding = |gateway_answers, uptime_ms| {
        let mut evidence = healthy();
        let alone = CASES
            .iter()
            .find(|case| case.kind == Kind::SegmentNotShared);
        (alone.unwrap().wrong)(&mut evidence);
        let Daemon::Answers(status) = &mut evidence.daemon else {
            panic!("the daemon answers");
        };
        status.host.uptime_ms = uptime_ms;
        evidence.machine.as_mut().unwrap().gateways[0].answers = gateway_answers;
        let findings = examine(&evidence).findings.into_iter();
        findings
            .filter(|finding| finding.name == "segment-not-shared")
            .map(|finding| finding.severity)
            .collect::<Vec<_>>()
    };
    assert_eq!(finding(true, 3_600_000), [Severity::Info]);
    assert_eq!(finding(true, 5_000), []);
    assert_eq!(finding(false, 5_000), [Severity::Warning]);
    assert_eq!(finding(false, 3_600_000), [Severity::Warning]);
}

#[test]
fn a_host_that_is_alone_without_the_fallback_is_told_who_is_there() {
    let what = |lost_and_on| {
        let mut evidence = healthy();
        let alone = CASES
            .iter()
            .find(|case| case.kind == Kind::AloneWithoutFallback);
        (alone.unwrap().wrong)(&mut evidence);
        evidence.machine.as_mut().unwrap().lost_and_on = lost_and_on;
        examine(&evidence).findings.remove(0).what
    };
    assert!(what(Vec::new()).contains("does not try"));
    assert!(
        what(vec![2, 3]).contains("machines of hosts 2 and 3 are on"),
        "{}",
        what(vec![2, 3])
    );
}

/// A healthy cluster in which host 2 tells these of itself.
fn told_by_2(findings: &[&str]) -> crate::status::Status {
    let mut status = healthy().status().unwrap().clone();
    let told = findings.iter().copied().map(str::to_owned).collect();
    let of_2 = |host: &&mut MemberStatus| host.id == 2;
    status.hosts.iter_mut().find(of_2).unwrap().findings = told;
    status
}

#[test]
fn what_other_hosts_have_found_is_named() {
    let status = told_by_2(&["rp-filter", "rules-differ", "finding-99"]);
    let mut evidence = healthy();
    let rules_differ = CASES.iter().find(|case| case.kind == Kind::RulesDiffer);
    (rules_differ.unwrap().wrong)(&mut evidence);
    let diagnosis = examine(&evidence).with_others(&status);
    assert_eq!(diagnosis.hosts, [1, 2, 3]);
    let told: Vec<_> = diagnosis
        .findings
        .iter()
        .map(|finding| (finding.name.as_str(), finding.host))
        .collect();
    assert_eq!(
        told,
        [
            ("rules-differ", Some(1)),
            ("finding-99", Some(2)),
            ("rp-filter", Some(2)),
        ]
    );
    // The cluster's is said once.
    let own = &diagnosis.findings[0];
    assert_eq!(own.evidence.last().unwrap(), "host 2 says so too");
}

#[test]
fn a_host_that_is_gone_says_nothing() {
    let mut status = told_by_2(&["rp-filter"]);
    status.hosts[1].alive = false;
    let diagnosis = examine(&healthy()).with_others(&status);
    assert_eq!(names(&diagnosis), [""; 0]);
    assert_eq!(diagnosis.hosts, [1, 3]);
}

#[test]
fn the_same_finding_is_known_again_whatever_its_figures() {
    let of = |what: &str| Finding::new(Kind::VipMissing, what);
    assert!(
        of("one")
            .about("10.77.0.100")
            .is_same(&of("two").about("10.77.0.100"))
    );
    assert!(
        !of("one")
            .about("10.77.0.100")
            .is_same(&of("one").about("10.77.0.101"))
    );
}

#[test]
fn the_documentation_lists_every_finding() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(guide::PATH);
    if std::env::var_os("COVEY_WRITE_DOCS").is_some() {
        std::fs::write(&path, guide()).unwrap();
    }
    let documented = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        documented == guide(),
        "docs/troubleshooting.md is not what the catalogue says: COVEY_WRITE_DOCS=1 cargo test -p covey --lib \
         the_documentation_lists_every_finding writes it"
    );
}

//! What `covey why` says of real clients is what happens to them: on every host it names the one that answers, and each
//! host's verdict is its own. Beside it, the packets that each rule counts are those that were sent.
//! docs/design.md, "Command line".

use crate::connections;
use crate::lab::{COVEY, Lab, Timing, VIP};
use crate::web::{self, FIRST_PORT};
use covey::why::{Explanation, Place};
use std::collections::BTreeSet;

const FAST: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// The client's address.
const CLIENT: &str = "10.77.0.200";
/// Requests whose hosts are compared.
const REQUESTS: u16 = 30;
/// The lab's rule for port 80, as `covey rules` counts.
const WEB: usize = 1;

/// What a host says of a packet from this port of the client.
fn why(lab: &Lab, host: u8, port: u16) -> (Explanation, Place) {
    let (client, service) = (format!("{CLIENT}:{port}"), format!("{VIP}:80/tcp"));
    let answer = lab.covey(host, &["why", &client, &service, "--json"]);
    let explanation: Explanation = serde_json::from_str(&answer).unwrap();
    let place = explanation.place.clone().unwrap();
    (explanation, place)
}

fn refused(lab: &Lab, host: u8, words: &[&str]) -> (Option<i32>, String) {
    let mut command = lab.command(&["exec", &format!("h{host}"), "--", COVEY, "why"]);
    let output = command.args(words).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), text)
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn why_names_the_host_that_answers() {
    let lab = Lab::up("why", 3, FAST);
    let requests = web::in_a_row(&lab, VIP, FIRST_PORT..FIRST_PORT + REQUESTS);
    web::assert_none_failed(&requests);
    let mut answering = BTreeSet::new();
    for request in &requests {
        let by = *request.outcome.as_ref().unwrap();
        answering.insert(by);
        let said = lab
            .hosts()
            .into_iter()
            .map(|host| why(&lab, host, request.port));
        let said: Vec<(Explanation, Place)> = said.collect();
        for (host, (explanation, place)) in lab.hosts().into_iter().zip(&said) {
            assert_eq!(explanation.host.id, host);
            assert_eq!(usize::from(explanation.rule.index), WEB);
            assert_eq!(place.bucket, said[0].1.bucket);
            let owner = place.owner.as_ref().unwrap();
            assert_eq!((owner.id, owner.name.clone()), (by, format!("h{by}")));
            let verdict = if host == by { "accept" } else { "drop" };
            assert_eq!(place.judgement.verdict, verdict, "port {}", request.port);
        }
    }
    assert_eq!(
        answering.len(),
        3,
        "{REQUESTS} requests meet all three hosts"
    );

    // Each packet of a request is accepted by one host and dropped by two.
    let rules = lab.hosts().into_iter().map(|host| lab.status(host).rules);
    let counted: Vec<_> = rules
        .map(|mut rules| rules.remove(WEB))
        .map(|rule| (rule.packets_accepted, rule.packets_dropped))
        .collect();
    let accepted: u64 = counted.iter().map(|(accepted, _)| accepted).sum();
    // SYN, ACK, request, FIN at least.
    assert!(accepted >= 4 * u64::from(REQUESTS), "{counted:?}");
    assert!(
        counted.iter().all(|(yes, no)| yes + no == accepted),
        "all hosts see all packets: {counted:?}"
    );

    // A connection stays where it is while its bucket moves, and both hosts know it.
    let mut held = connections::open(&lab, 20);
    lab.covey(2, &["drain", "80"]);
    lab.await_status(1, |status| !status.rules[WEB].share.contains_key(&2));
    assert_eq!(connections::check(&mut held), Vec::<String>::new());
    let kept = held.iter().find(|one| one.host == 2).unwrap();
    let (_, there) = why(&lab, 2, kept.port());
    assert!(there.row.lingering && !there.row.mine, "{there:?}");
    assert_eq!(there.judgement.reason, "not_mine");
    assert_eq!(there.established.unwrap().here.reason, "lingering");
    let owner = there.owner.unwrap().id;
    let (_, here) = why(&lab, owner, kept.port());
    assert!(here.row.mine && here.row.shared, "{here:?}");
    assert_eq!(here.established.unwrap().elsewhere.reason, "unclaimed");

    let (code, said) = refused(&lab, 1, &[CLIENT, "10.77.0.99:80"]);
    assert_eq!(code, Some(1));
    assert!(
        said.starts_with("covey: 10.77.0.99 is no virtual IP of this cluster"),
        "{said}"
    );
    let (code, said) = refused(&lab, 1, &[CLIENT, "10.77.0.100:80/sctp"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("\"sctp\" is no protocol"), "{said}");
    println!(
        "{REQUESTS} requests, three hosts asked about each: all name the host that answered; packets accepted and \
         dropped under the rule: {counted:?}"
    );
    for words in [
        &["why", "10.77.0.200:10000", "10.77.0.100:80"][..],
        &["why", "10.77.0.200", "10.77.0.100:80"],
        &[
            "wlbs",
            "filter",
            "tcp",
            "10.77.0.200:10000",
            "10.77.0.100:80",
        ],
        &["wlbs", "queryport", "80"],
    ] {
        println!("h2# covey {}\n{}", words.join(" "), lab.covey(2, words));
    }
}

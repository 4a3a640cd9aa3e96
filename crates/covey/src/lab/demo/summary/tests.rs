use super::super::event::Event;
use super::super::ledger::Effect;
use super::*;

fn id(id: u8) -> HostId {
    HostId::new(id).unwrap()
}

fn totals() -> Totals {
    Totals {
        connections: 1000,
        answered: 999,
        failed: 1,
        retried: 60,
        datagrams: 500,
        lost: 30,
        twice: 0,
        broken: 4,
    }
}

fn shares() -> BTreeMap<HostId, f64> {
    BTreeMap::from([(id(1), 0.33), (id(2), 0.35), (id(3), 0.32)])
}

fn crash() -> Outcome {
    Outcome {
        event: Event::Crash(id(2)),
        converged_after: Ok(Duration::from_millis(1070)),
        bound: Duration::from_secs(3),
        effect: Effect {
            failed_under_way: 1,
            broken: BTreeMap::from([(id(2), 4)]),
            ..Effect::default()
        },
    }
}

fn failed(totals: &Totals, shares: &BTreeMap<HostId, f64>, outcome: Outcome) -> Vec<&'static str> {
    checks(totals, shares, &[outcome])
        .into_iter()
        .filter(|check| !check.passed)
        .map(|check| check.what)
        .collect()
}

#[test]
fn a_good_run_passes() {
    assert_eq!(failed(&totals(), &shares(), crash()), Vec::<&str>::new());
}

#[test]
fn each_check_can_fail() {
    type Spoil = fn(&mut Totals, &mut BTreeMap<HostId, f64>, &mut Outcome);
    let cases: [(Spoil, &str); 10] = [
        (
            |totals, _, _| totals.connections += 1,
            "requests were answered, and none was forgotten",
        ),
        (
            |totals, _, _| totals.twice = 1,
            "nothing was answered twice or wrongly, but for one in flight at a change",
        ),
        (
            |totals, _, outcome| (totals.twice, outcome.effect.twice) = (2, 2),
            "nothing was answered twice or wrongly, but for one in flight at a change",
        ),
        (
            |totals, _, _| totals.datagrams = 0,
            "nothing was answered twice or wrongly, but for one in flight at a change",
        ),
        (
            |totals, _, _| (totals.failed, totals.answered) = (2, 998),
            "no request failed while nothing happened",
        ),
        (
            |totals, _, outcome| {
                (totals.failed, totals.answered) = (2, 998);
                outcome.effect.failed_after = 1;
            },
            "what happened failed no request that began after it",
        ),
        (
            |_, _, outcome| (outcome.event, outcome.effect.failed_after) = (Event::Stop(id(2)), 1),
            "what happened failed no request that began after it",
        ),
        (
            |_, _, outcome| {
                outcome.effect.broken.insert(id(1), 1);
            },
            "a crash broke no kept connection of other hosts",
        ),
        (
            |_, _, outcome| outcome.converged_after = Err("host 1 is converging".to_owned()),
            "the cluster converged after each event within its bound",
        ),
        (
            |_, shares, _| {
                shares.insert(id(1), 0.40);
            },
            "with all hosts up, each had a fair share (27 to 39 %)",
        ),
    ];
    for (spoil, what) in cases {
        let (mut totals, mut shares, mut outcome) = (totals(), shares(), crash());
        spoil(&mut totals, &mut shares, &mut outcome);
        assert_eq!(failed(&totals, &shares, outcome), [what]);
    }
}

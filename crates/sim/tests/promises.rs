//! Every named scenario and two thousand random ones keep every promise; what is known not to be kept yet still is not.

use covey_sim::run::run;
use covey_sim::runner::{self, Until};
use covey_sim::{catalogue, shrink};
use std::time::Duration;

#[test]
fn every_named_scenario_keeps_every_promise() {
    for (name, _) in catalogue::ALL {
        let scenario = catalogue::find(name).unwrap();
        for seed in 1..=20 {
            let outcome = run(&scenario, seed);
            assert!(
                outcome.violation.is_none(),
                "covey-sim run {name} --seed {seed}: {}\n{}",
                outcome.violation.unwrap(),
                outcome.last.join("\n")
            );
        }
    }
}

/// If this fails because a gap is closed: move the scenario to the others.
#[test]
fn known_gaps_are_still_there() {
    for (name, _) in catalogue::GAPS {
        let scenario = catalogue::find(name).unwrap();
        let broken = (1..=10).any(|seed| run(&scenario, seed).violation.is_some());
        assert!(broken, "the gap {name} is closed");
    }
}

#[test]
fn random_scenarios_keep_every_promise() {
    let silent = |_: &runner::Total, _: Duration| {};
    let total = runner::seeds(0, Until::Count(2000), 1, &silent);
    if let Some(failure) = total.failures.first() {
        let small = shrink::shrink(&failure.scenario, failure.seed, &failure.violation);
        panic!(
            "covey-sim run random --seed {}: {}\n{}\nwhat is left of it:\n{}",
            failure.seed,
            failure.violation,
            failure.last.join("\n"),
            small.scenario.to_toml()
        );
    }
    let missing: Vec<_> = total.counts.missing().collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
    assert!(
        total.counts.settled > 2000,
        "the strictest promises were hardly tested"
    );
    assert!(total.counts.established > 70_000);
}

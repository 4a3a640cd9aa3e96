//! `covey lab scenario`: the articles of the Knowledge Base as things that happen to a lab, told step by step.
//!
//! Each scenario builds a lab of its own, does what its article describes, looks at what clients and doctor notice, and ends with a
//! verdict: exit code 0 only if all of it happened as it should. The end-to-end tests run the same scenarios, so there is one
//! definition. A file per article; the vocabulary is in `stage.rs`. docs/design.md, "The lab".

mod capture;
mod kb812870;
mod kb838408;
mod q228942;
mod q232711;
mod q258609;
mod stage;

use super::interrupt::Interrupt;
use super::topology::LabName;
use super::{lifecycle, say};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use stage::{Stage, Step};
use std::process::ExitCode;

/// Something that happens, and what should come of it.
struct Scenario {
    /// What it is called on the command line.
    name: &'static str,
    /// The article that describes it.
    article: &'static str,
    /// What happens, in a sentence.
    about: &'static str,
    /// Lets it happen. An error is what did not happen as it should.
    play: fn(&mut Stage) -> Result<()>,
}

/// All of them, in the order in which `all` plays them.
const ALL: [&[Scenario]; 5] = [
    &kb812870::SCENARIOS,
    &q258609::SCENARIOS,
    &q228942::SCENARIOS,
    &q232711::SCENARIOS,
    &kb838408::SCENARIOS,
];

/// How a scenario went.
#[derive(Debug, Serialize)]
struct Played {
    name: &'static str,
    article: &'static str,
    about: &'static str,
    steps: Vec<Step>,
    passed: bool,
    /// What did not happen as it should.
    failure: Option<String>,
}

/// What there is, as `--json` lists it.
#[derive(Debug, Serialize)]
struct Listed {
    name: &'static str,
    article: &'static str,
    about: &'static str,
}

/// Plays the scenario with this name, or `all` of them, or prints the `list`.
///
/// # Errors
/// If there is none of this name, or what was built cannot be taken down.
pub(super) fn run(lab: &LabName, name: &str, json: bool) -> Result<ExitCode> {
    let scenarios = ALL.iter().copied().flatten();
    if name == "list" {
        return list(json).map(|()| ExitCode::SUCCESS);
    }
    let chosen: Vec<&Scenario> = scenarios
        .filter(|scenario| name == "all" || scenario.name == name)
        .collect();
    if chosen.is_empty() {
        bail!("there is no scenario `{name}`; `covey lab scenario list` says which there are");
    }
    let interrupt = Interrupt::install()?;
    let mut all = Vec::new();
    for scenario in chosen {
        interrupt.check()?;
        all.push(play(scenario, lab, &interrupt, json)?);
    }
    if json {
        say(&serde_json::to_string_pretty(&all).context("cannot encode the account")?);
    } else if all.len() > 1 {
        let passed = all.iter().filter(|played| played.passed).count();
        say(&format!(
            "{passed} of {} scenarios went as they should",
            all.len()
        ));
        for played in all.iter().filter(|played| !played.passed) {
            let failure = played.failure.as_deref().unwrap_or_default();
            say(&format!("  {}: {failure}", played.name));
        }
    }
    Ok(match all.iter().all(|played| played.passed) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn list(json: bool) -> Result<()> {
    let listed = ALL.iter().copied().flatten().map(|scenario| Listed {
        name: scenario.name,
        article: scenario.article,
        about: scenario.about,
    });
    if json {
        let listed: Vec<Listed> = listed.collect();
        say(&serde_json::to_string_pretty(&listed).context("cannot encode the list")?);
        return Ok(());
    }
    for scenario in listed {
        say(&format!(
            "{:<24} {:<9} {}",
            scenario.name, scenario.article, scenario.about
        ));
    }
    Ok(())
}

/// Plays one, in a lab beside the user's, of which nothing is left.
fn play(scenario: &Scenario, lab: &LabName, interrupt: &Interrupt, quiet: bool) -> Result<Played> {
    let name = lab.beside("scenario")?;
    if !quiet {
        say(&format!(
            "{} ({}): {}",
            scenario.name, scenario.article, scenario.about
        ));
    }
    let mut stage = Stage::new(name.clone(), interrupt, quiet);
    let outcome = (scenario.play)(&mut stage);
    let steps = stage.end();
    lifecycle::down(&name)?;
    let failure = outcome.err().map(|error| format!("{error:#}"));
    if !quiet {
        say(&match &failure {
            None => format!("{} went as it should\n", scenario.name),
            Some(failure) => format!("{} did NOT go as it should: {failure}\n", scenario.name),
        });
    }
    Ok(Played {
        name: scenario.name,
        article: scenario.article,
        about: scenario.about,
        steps,
        passed: failure.is_none(),
        failure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_scenario_has_a_name_of_its_own() {
        let names: Vec<&str> = ALL.iter().copied().flatten().map(|one| one.name).collect();
        let different: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(different.len(), names.len());
        assert!(!different.contains("all") && !different.contains("list"));
    }
}

//! The named scenarios: the files in `scenarios/`, one story each, named as their file.

use crate::scenario::Scenario;

macro_rules! catalogue {
    ($(#[$doc:meta])* $list:ident in $path:literal: $($name:literal,)*) => {
        $(#[$doc])*
        pub const $list: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../scenarios/", $path, $name, ".toml"))),)*];
    };
}

catalogue! {
    /// Promises that are known not to be kept yet, each as a scenario that breaks one. A test sees to it that they
    /// still do: whoever closes a gap moves its scenario to the others.
    GAPS in "gaps/":
    "newcomer-believes-the-twin",
    "newcomers-beside-a-stranger",
}

catalogue! {
    /// Name and text of every named scenario.
    ALL in "":
    "a-cluster-that-begins-anew",
    "another-key",
    "another-key-from-the-start",
    "another-mode",
    "broadcast-blocked",
    "broadcast-blocked-as-nlb",
    "chain-of-three-owners",
    "coordinator-stalled-at-the-commit",
    "coordinator-stalled-between-prepare-and-commit",
    "crash-of-the-first",
    "crash-of-the-second",
    "crash-of-the-third",
    "crash-under-a-lingering-host",
    "deaf",
    "deaf-to-broadcasts",
    "deaf-to-the-group",
    "drainstop",
    "duplicate-id-with-newer-incarnation",
    "equal-priorities",
    "flapping-host",
    "host-alone-lists-itself",
    "join",
    "killed-daemon",
    "last-heartbeat-lost-then-stall",
    "leave",
    "leave-just-after-a-join",
    "legacy-ethertype",
    "mixed-versions",
    "mode-change",
    "mode-left-behind",
    "mute",
    "no-key",
    "one-way-cut",
    "one-way-for-broadcasts",
    "partition-and-heal",
    "quorum-majority",
    "quorum-needs-a-flapping-host",
    "replay-after-reboot",
    "returning-host-with-idle-connections",
    "rolling-restart",
    "rule-change",
    "single-host-rule",
    "stall-timers-first",
    "sticky-clients",
    "survivors-of-a-flapping-cluster",
    "syn-repeated-across-a-commit",
    "twin-after-a-split",
    "twin-takes-over",
    "two-coordinators",
    "two-coordinators-at-the-start",
    "unequal-rules",
    "weight-change",
}

/// The scenario of this name.
///
/// # Errors
/// That there is none, or what is wrong with its file.
pub fn find(name: &str) -> Result<Scenario, String> {
    let found = ALL.iter().chain(GAPS).find(|(known, _)| *known == name);
    let (_, text) = found
        .ok_or_else(|| format!("there is no scenario \"{name}\"; covey-sim list shows them all"))?;
    Scenario::parse(text).map_err(|error| format!("scenarios/{name}.toml: {error}"))
}

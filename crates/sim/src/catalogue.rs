//! The named scenarios: the files in `scenarios/`, one story each, named as their file.

use crate::scenario::Scenario;

macro_rules! catalogue {
    ($($name:literal,)*) => {
        /// Name and text of every named scenario.
        pub const ALL: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../scenarios/", $name, ".toml"))),)*];
    };
}

catalogue! {
    "join",
}

/// The scenario of this name.
///
/// # Errors
/// That there is none, or what is wrong with its file.
pub fn find(name: &str) -> Result<Scenario, String> {
    let found = ALL.iter().find(|(known, _)| *known == name);
    let (_, text) = found
        .ok_or_else(|| format!("there is no scenario \"{name}\"; covey-sim list shows them all"))?;
    Scenario::parse(text).map_err(|error| format!("scenarios/{name}.toml: {error}"))
}

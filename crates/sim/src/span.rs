//! Lengths of time as scenario files say them: `5s`, `100ms`, `250us`.
//!
//! Whole numbers only and one unit, so that what is written out reads back as the same.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time with a text form. The run counts in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

/// From the longest to the shortest, in microseconds.
const UNITS: [(&str, u64); 4] = [("m", 60_000_000), ("s", 1_000_000), ("ms", 1000), ("us", 1)];

impl Span {
    /// So many milliseconds.
    pub const fn millis(count: u64) -> Self {
        Self(Duration::from_millis(count))
    }
}

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number_ends = text.find(|c: char| !c.is_ascii_digit());
        let (number, unit) = text.split_at(number_ends.unwrap_or(text.len()));
        let scale = UNITS.iter().find(|(name, _)| *name == unit.trim());
        let micros = scale.and_then(|(_, scale)| number.parse::<u64>().ok()?.checked_mul(*scale));
        micros.map(|micros| Self(Duration::from_micros(micros))).ok_or_else(|| {
            format!("\"{text}\" is not a length of time: write a whole number and m, s, ms or us, like 100ms")
        })
    }
}

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros() as u64;
        let whole = |(_, scale): &&(&str, u64)| micros.is_multiple_of(*scale);
        let (unit, scale) = UNITS[1..]
            .iter()
            .find(whole)
            .expect("all are whole microseconds");
        write!(f, "{}{unit}", micros / scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for (text, micros) in [
            ("5s", 5_000_000),
            ("100ms", 100_000),
            ("1500us", 1500),
            ("0s", 0),
            ("61s", 61_000_000),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(
                (span.0.as_micros(), span.to_string().as_str()),
                (micros, text)
            );
        }
        assert_eq!("2m".parse::<Span>().unwrap().to_string(), "120s");
        for text in ["5", "s", "1.5s", "5 parsecs", ""] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}

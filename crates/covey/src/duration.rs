//! Durations as people type them: a number and its unit, `1s`, `200ms`, `1.5s`, `20m`.
//!
//! Used by the configuration file and the command line for everything that is a time. A bare number is
//! refused, because nobody can see whether `10` means seconds or milliseconds (docs/design.md,
//! "Command line": times have units).

use std::time::Duration;

const UNITS: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Reads a duration.
///
/// # Errors
/// A sentence that says what is wrong with `text` and how a duration looks.
pub fn parse(text: &str) -> Result<Duration, String> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().map_err(|_| {
        format!("`{text}` is not a duration; write a number and a unit, as in 1s, 200ms or 1.5s")
    })?;
    if unit.is_empty() {
        return Err(format!(
            "`{text}` has no unit; write {text}s for seconds or {text}ms for milliseconds"
        ));
    }
    let (_, seconds) = UNITS
        .into_iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| format!("`{unit}` is not a unit of time; the units are ms, s, m and h"))?;
    Duration::try_from_secs_f64(number * seconds)
        .map_err(|_| format!("`{text}` is longer than a duration can be"))
}

/// Writes a duration so that [`parse`] reads the same: milliseconds below one second, else seconds.
pub fn format(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{}ms", duration.as_nanos() as f64 / 1e6)
    } else {
        format!("{}s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_type() {
        for (text, millis) in [
            ("1s", 1000),
            ("200ms", 200),
            ("1.5s", 1500),
            ("0.2s", 200),
            ("20m", 1_200_000),
            ("2h", 7_200_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("0.5ms"), Ok(Duration::from_micros(500)));
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, sentence) in [
            (
                "10",
                "`10` has no unit; write 10s for seconds or 10ms for milliseconds",
            ),
            (
                "1 s",
                "` s` is not a unit of time; the units are ms, s, m and h",
            ),
            (
                "5d",
                "`d` is not a unit of time; the units are ms, s, m and h",
            ),
            (
                "",
                "`` is not a duration; write a number and a unit, as in 1s, 200ms or 1.5s",
            ),
            (
                "-1s",
                "`-1s` is not a duration; write a number and a unit, as in 1s, 200ms or 1.5s",
            ),
            (
                "1.2.3s",
                "`1.2.3s` is not a duration; write a number and a unit, as in 1s, 200ms or 1.5s",
            ),
            (
                "99999999999999999999999h",
                "`99999999999999999999999h` is longer than a duration can be",
            ),
        ] {
            assert_eq!(parse(text), Err(sentence.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(micros in 0_u64..10_000_000_000) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}

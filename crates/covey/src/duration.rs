//! Durations as people write and read them: `200ms` in the configuration, `1.5 s` in a table.
//!
//! Used by the configuration (heartbeat period), the command line and everything that prints a time. A number
//! without a unit is refused, because NLB counts AliveMsgPeriod in milliseconds and people do not.

use std::time::Duration;

/// Units that [`parse`] knows, with their length in nanoseconds.
const UNITS: [(&str, u64); 5] = [
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads `1s`, `200ms`, `1.5s`, `20m`, `2h` or `250us`.
///
/// # Errors
/// A sentence that says what is wrong and how to write it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let number_ends = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(number_ends);
    let unit = unit.trim();
    if number.is_empty() {
        return Err(format!(
            "\"{text}\" is not a duration: write a number and a unit, like 1s or 200ms"
        ));
    }
    if unit.is_empty() {
        return Err(format!(
            "\"{text}\" has no unit: write {text}s or {text}ms, whichever you mean"
        ));
    }
    let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        let known = UNITS.map(|(name, _)| name).join(", ");
        return Err(format!(
            "\"{text}\" has an unknown unit \"{unit}\": the units are {known}"
        ));
    };
    nanoseconds(number, *scale)
        .map(Duration::from_nanos)
        .ok_or_else(|| format!("\"{text}\" is not a duration: \"{number}\" is no usable number"))
}

/// `number` times `scale` in integers, so that 0.1s is exactly 100 ms. Digits below a nanosecond do not count.
fn nanoseconds(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let mut total = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    if fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        total = total.checked_add(u64::from(digit - b'0') * place)?;
    }
    Some(total)
}

/// For people: two units at most, three digits at most below the first. `850 us`, `1.07 s`, `2 h 5 min`.
pub fn format(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration < Duration::from_millis(1) => format!("{} us", duration.as_micros()),
        0 => format!("{} ms", three_digits(duration.as_secs_f64() * 1e3)),
        1..60 => format!("{} s", three_digits(duration.as_secs_f64())),
        60..3_600 => two_units(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two_units(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => two_units(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

/// A value below 1000 with three significant digits, rounded down so that it never reads as the next unit.
fn three_digits(value: f64) -> String {
    let decimals = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let scale = 10_f64.powi(decimals);
    // A hair is added before rounding down, because 1.07 is stored as a little less.
    let value = (value * scale + 1e-6).floor() / scale;
    format!("{value}")
}

fn two_units(first: u64, unit: &str, second: u64, subunit: &str) -> String {
    if second == 0 {
        format!("{first} {unit}")
    } else {
        format!("{first} {unit} {second} {subunit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        for (text, nanos) in [
            ("1s", 1_000_000_000),
            ("200ms", 200_000_000),
            ("1.5s", 1_500_000_000),
            ("0.1 s", 100_000_000),
            ("20m", 1_200_000_000_000),
            ("250us", 250_000),
            ("2h", 7_200_000_000_000),
            ("0.0000000019s", 1),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_a_reason() {
        for (text, part) in [
            ("10", "has no unit: write 10s or 10ms"),
            ("", "write a number and a unit"),
            ("fast", "write a number and a unit"),
            ("-1s", "write a number and a unit"),
            ("5 weeks", "unknown unit \"weeks\""),
            ("1.2.3s", "no usable number"),
            (".s", "no usable number"),
            ("1.s", "no usable number"),
            ("99999999999999999999s", "no usable number"),
            ("9999999999999999h", "no usable number"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn people_read_two_units_at_most() {
        for (micros, text) in [
            (0, "0 us"),
            (850, "850 us"),
            (1_070_000, "1.07 s"),
            (3_125, "3.12 ms"),
            (999_999, "999 ms"),
            (20_000, "20 ms"),
            (59_990_000, "59.9 s"),
            (60_000_000, "1 min"),
            (90_000_000, "1 min 30 s"),
            (7_500_000_000, "2 h 5 min"),
            (180_000_000_000, "2 d 2 h"),
        ] {
            assert_eq!(format(Duration::from_micros(micros)), text);
        }
    }
}

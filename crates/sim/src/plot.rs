//! The measurements of [`crate::scale`] as a picture, for docs/reliability.md: an SVG of two panels with a line for
//! each thing that happens. Called by `covey-sim scale --svg`.

use crate::scale::Row;
use std::fmt::Write;

const PANEL: (f64, f64) = (330.0, 200.0);
const MARGIN: (f64, f64) = (60.0, 40.0);
const COLOURS: [&str; 4] = ["#1b6ca8", "#c8553d", "#588157", "#6d597a"];

/// Values of one line, one for each row.
type Line<'a> = (&'a str, Vec<f64>);

/// The picture.
pub fn svg(rows: &[Row]) -> String {
    let of = |value: &dyn Fn(&Row) -> f64| rows.iter().map(value).collect::<Vec<_>>();
    let kilobytes: [Line<'_>; 4] = [
        ("settled", of(&|row| row.settled.bytes / 1000.0)),
        ("all join", of(&|row| row.join.traffic.bytes / 1000.0)),
        ("half are lost", of(&|row| row.loss.traffic.bytes / 1000.0)),
        (
            "one restarts",
            of(&|row| row.restart.traffic.bytes / 1000.0),
        ),
    ];
    let never = f64::NAN;
    let periods: [Line<'_>; 3] = [
        ("all join", of(&|row| row.join.periods.unwrap_or(never))),
        (
            "half are lost",
            of(&|row| row.loss.periods.unwrap_or(never)),
        ),
        (
            "one restarts",
            of(&|row| row.restart.periods.unwrap_or(never)),
        ),
    ];
    let hosts = of(&|row| f64::from(row.hosts));
    let width = 2.0 * (PANEL.0 + MARGIN.0) + 120.0;
    let height = PANEL.1 + 2.0 * MARGIN.1;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    panel(
        &mut out,
        MARGIN.0,
        "kilobytes that a host sends per second",
        &hosts,
        &kilobytes,
        1,
        16.0,
    );
    let second = 2.0 * MARGIN.0 + PANEL.0 + 60.0;
    panel(
        &mut out,
        second,
        "heartbeat periods to converge",
        &hosts,
        &periods,
        0,
        100.0,
    );
    out += "</svg>\n";
    out
}

/// One panel with its axes; colours start at `offset`, so that a thing has the same one in both;
/// `legend` is how far below its top the names begin, where no line is.
fn panel(
    out: &mut String,
    left: f64,
    title: &str,
    hosts: &[f64],
    lines: &[Line<'_>],
    offset: usize,
    legend: f64,
) {
    let most_hosts = hosts.iter().copied().fold(1.0, f64::max);
    let values = lines.iter().flat_map(|(_, values)| values);
    let top = round_up(
        values
            .copied()
            .filter(|value| value.is_finite())
            .fold(0.0, f64::max),
    );
    let x = |hosts: f64| left + PANEL.0 * hosts / most_hosts;
    let y = |value: f64| MARGIN.1 + PANEL.1 * (1.0 - value / top);
    let mut draw = |element: std::fmt::Arguments<'_>| {
        writeln!(out, "{element}").expect("a string takes everything");
    };
    draw(format_args!(
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{title}</text>",
        MARGIN.1 - 16.0
    ));
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let (at, end) = (y(value), left + PANEL.0);
        draw(format_args!(
            "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{end}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>"
        ));
        draw(format_args!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            left - 6.0,
            at + 4.0
        ));
    }
    for count in hosts {
        let (at, below) = (x(*count), MARGIN.1 + PANEL.1 + 16.0);
        draw(format_args!(
            "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{count}</text>"
        ));
    }
    draw(format_args!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">hosts</text>",
        left + PANEL.0 / 2.0,
        MARGIN.1 + PANEL.1 + 32.0
    ));
    for (index, (name, values)) in lines.iter().enumerate() {
        // The settled line is first, and only in one of the panels.
        let colour = COLOURS[(index + 1 - offset) % COLOURS.len()];
        let points: Vec<String> = hosts
            .iter()
            .zip(values)
            .filter(|(_, value)| value.is_finite())
            .map(|(hosts, value)| format!("{:.1},{:.1}", x(*hosts), y(*value)))
            .collect();
        draw(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        ));
        let at = MARGIN.1 + legend + 18.0 * index as f64;
        draw(format_args!(
            "<text x=\"{}\" y=\"{at}\" fill=\"{colour}\">{name}</text>",
            left + 12.0
        ));
    }
}

/// A round number above this one: 1, 2, 4 or 8 times a power of ten.
fn round_up(value: f64) -> f64 {
    let magnitude = 10f64.powf(value.max(f64::MIN_POSITIVE).log10().floor());
    let steps = [1.0, 2.0, 4.0, 8.0, 10.0].map(|step| step * magnitude);
    steps
        .into_iter()
        .find(|step| *step >= value)
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_ends_at_a_round_number_above_the_values() {
        assert_eq!(
            [0.7, 7.5, 169.0, 8.0, 85.0].map(round_up),
            [0.8, 8.0, 200.0, 8.0, 100.0]
        );
    }
}

//! Measured times as a picture for docs/benchmarks.md: an SVG with one line of dots for each thing that was measured,
//! on a logarithmic axis. Called by the parts blackout and crash.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const STEP: f64 = 28.0;
/// Decades, of which each has room for three lines.
const ROOMY: f64 = 4.0;
const COLOURS: [&str; 2] = ["#1b6ca8", "#c8553d"];

/// A line of dots.
pub(crate) struct Row {
    /// What stands before it.
    pub(crate) name: String,
    /// Milliseconds, above 0.
    pub(crate) values: Vec<f64>,
}

/// The picture. Covey's rows have a colour of their own.
pub(crate) fn dots(title: &str, rows: &[Row]) -> String {
    let values = || rows.iter().flat_map(|row| &row.values).copied();
    assert!(
        values().all(|value| value > 0.0),
        "a logarithmic axis has no zero"
    );
    let least = values().fold(f64::INFINITY, f64::min).log10().floor();
    let most = values().fold(1.0, f64::max).log10().ceil();
    let height = TOP + STEP * rows.len() as f64 + 30.0;
    let bottom = height - 30.0;
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * (value.log10() - least) / (most - least);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-weight=\"bold\">{title}, ms</text>\n"
    );
    let mut draw = |element: std::fmt::Arguments<'_>| {
        writeln!(out, "{element}").expect("a string takes everything");
    };
    // Where there is no room for more, each decade has one line.
    let factors: &[f64] = if most - least > ROOMY {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    for decade in least as i32..=most as i32 {
        for factor in factors {
            let value = factor * 10f64.powi(decade);
            if value > 10f64.powf(most) {
                break;
            }
            let at = x(value);
            draw(format_args!(
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\n\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>",
                bottom + 18.0
            ));
        }
    }
    for (index, row) in rows.iter().enumerate() {
        let y = TOP + STEP * (index as f64 + 0.5);
        let colour = COLOURS[usize::from(!row.name.starts_with("Covey"))];
        draw(format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 10.0,
            y + 4.0,
            row.name
        ));
        for value in &row.values {
            draw(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{y}\" r=\"4\" fill=\"{colour}\" fill-opacity=\"0.4\"/>",
                x(*value)
            ));
        }
    }
    out += "</svg>\n";
    out
}

//! A plot of bars side by side, as SVG: one row for each thing that was measured, grouped if need be.

use std::fmt::Write;

const COLOURS: [&str; 4] = ["#1b6ca8", "#c8553d", "#588157", "#6d597a"];
const NAMES: f64 = 260.0;
const LENGTH: f64 = 440.0;
const ROW: f64 = 22.0;
const TOP: f64 = 40.0;

/// One bar.
pub struct Bar {
    pub name: String,
    pub value: f64,
    /// Written at its end.
    pub label: String,
    /// Which colour: what belongs together has the same.
    pub group: usize,
}

/// The picture. `mark` is a value that a line stands at, with its name.
pub fn svg(title: &str, bars: &[Bar], mark: Option<(f64, &str)>) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let most = mark.map_or(most, |(value, _)| most.max(value));
    let height = TOP + ROW * bars.len() as f64 + 30.0;
    let width = NAMES + LENGTH + 130.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"22\" font-weight=\"bold\">{title}</text>\n"
    );
    let mut draw = |element: std::fmt::Arguments<'_>| {
        writeln!(out, "{element}").expect("a string takes everything");
    };
    for (number, bar) in bars.iter().enumerate() {
        let top = TOP + ROW * number as f64;
        let long = LENGTH * bar.value.max(0.0) / most;
        let text = top + 14.0;
        draw(format_args!(
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>",
            NAMES - 8.0,
            bar.name
        ));
        draw(format_args!(
            "<rect x=\"{NAMES}\" y=\"{}\" width=\"{long:.1}\" height=\"{}\" fill=\"{}\"/>",
            top + 2.0,
            ROW - 5.0,
            COLOURS[bar.group % COLOURS.len()]
        ));
        draw(format_args!(
            "<text x=\"{:.1}\" y=\"{text}\">{}</text>",
            NAMES + long + 6.0,
            bar.label
        ));
    }
    if let Some((value, name)) = mark {
        let (at, end) = (NAMES + LENGTH * value / most, height - 26.0);
        draw(format_args!(
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{end}\" stroke=\"black\" \
             stroke-dasharray=\"4 3\"/>"
        ));
        draw(format_args!(
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
            height - 10.0
        ));
    }
    out += "</svg>\n";
    out
}

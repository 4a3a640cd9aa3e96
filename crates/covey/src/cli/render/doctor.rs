//! `covey doctor`: what is wrong, one paragraph each, the worst first.

use super::table::{Paint, Tone};
use crate::doctor::{Diagnosis, Finding, Severity};
use crate::status::Status;

/// Where lines are broken.
const WIDTH: usize = 100;
/// How far the text of a finding stands in.
const INDENT: usize = 9;

/// The whole answer.
pub(in crate::cli) fn doctor(
    diagnosis: &Diagnosis,
    status: Option<&Status>,
    paint: Paint,
) -> String {
    let findings = diagnosis.findings.iter();
    let parts: Vec<String> = findings
        .map(|finding| paragraph(finding, status, paint))
        .chain([summary(diagnosis, paint)])
        .collect();
    parts.join("\n")
}

fn paragraph(finding: &Finding, status: Option<&Status>, paint: Paint) -> String {
    let (word, tone) = match finding.severity {
        Severity::Error => ("error", Tone::Bad),
        Severity::Warning => ("warning", Tone::Busy),
        Severity::Info => ("info", Tone::Good),
    };
    let padding = " ".repeat(INDENT - word.len());
    let whose = finding.host.map_or_else(String::new, |id| {
        let known = status.and_then(|status| status.hosts.iter().find(|host| host.id == id));
        match known {
            Some(host) => format!("  host {id} ({})", host.name),
            None => format!("  host {id}"),
        }
    });
    let mut text = format!(
        "{}{padding}{}{whose}\n",
        paint.tone(tone, word),
        paint.heading(&finding.name)
    );
    text.push_str(&wrapped(&finding.what, "", 0));
    for line in &finding.evidence {
        text.push_str(&wrapped(line, "- ", 2));
    }
    if !finding.cure.is_empty() {
        text.push_str(&wrapped(&finding.cure, "To do: ", 7));
    }
    if !finding.articles.is_empty() {
        text.push_str(&wrapped(&finding.articles.join(", "), "See: ", 5));
    }
    text
}

/// The text behind a first word, broken into lines that stand in as far as the first.
fn wrapped(text: &str, first: &str, hang: usize) -> String {
    let mut out = String::new();
    // Lines of a configuration with a caret below them stay as they are.
    let mut line = format!("{}{first}", " ".repeat(INDENT));
    let room = |line: &str| WIDTH.saturating_sub(line.chars().count());
    let mut is_empty = true;
    if text.starts_with(' ') {
        return format!("{line}{text}\n");
    }
    for word in text.split(' ') {
        if !is_empty && room(&line) < word.chars().count() + 1 {
            out.push_str(line.trim_end());
            out.push('\n');
            line = " ".repeat(INDENT + hang);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
    out
}

fn summary(diagnosis: &Diagnosis, paint: Paint) -> String {
    let count = |severity: Severity| {
        let all = diagnosis.findings.iter();
        all.filter(|finding| finding.severity == severity).count()
    };
    let number = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    };
    let looked = match diagnosis.hosts.len() {
        0 => number(diagnosis.checks, "check", "checks"),
        hosts => format!(
            "{} on {}",
            number(diagnosis.checks, "check", "checks"),
            number(hosts, "host", "hosts")
        ),
    };
    if !diagnosis.is_trouble() {
        return format!(
            "{} ({looked})\n",
            paint.tone(Tone::Good, "nothing is wrong")
        );
    }
    let counts = [
        (count(Severity::Error), "error", "errors", Tone::Bad),
        (count(Severity::Warning), "warning", "warnings", Tone::Busy),
    ];
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, one, many, tone)| paint.tone(tone, &number(count, one, many)))
        .collect();
    format!(
        "{} ({looked}; docs/troubleshooting.md says more of each)\n",
        counts.join(", ")
    )
}

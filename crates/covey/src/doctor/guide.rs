//! docs/troubleshooting.md, as the catalogue has it. A test compares the two (`COVEY_WRITE_DOCS=1` has it write the file),
//! so what people read is what the program says.

use super::catalogue::{BEGINS, ENDS, Entry, Kind, Told};
use super::{Scope, Severity};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Where the document is in the repository.
#[cfg(test)]
pub(super) const PATH: &str = "docs/troubleshooting.md";

const HEAD: &str = "# Troubleshooting

What `covey doctor` finds, what it means and what to do. Run it on any host: it looks at that host closely and at the
cluster as that host sees it, and names what the other hosts have found with themselves. `--json` says the same to
programs; the exit status is 0 if nothing is wrong, 1 if something is, 2 if the configuration cannot be read.

";

const TAIL: &str = "This page is generated from the catalogue of findings (`crates/covey/src/doctor/catalogue`); change it there.

";

/// The whole document.
pub fn guide() -> String {
    let mut text = String::from(HEAD);
    let _ = write!(
        text,
        "The daemon looks by itself too, every few seconds. What begins is told once as event {BEGINS} (or the one that is named\n\
         below), what ends as event {ENDS}; `covey status` counts what is there. An error means that service is affected, a warning\n\
         that someone should look, an info that something is good to know.\n\n{TAIL}"
    );
    by_symptom(&mut text);
    by_article(&mut text);
    text.push_str("## Findings\n");
    for kind in sorted() {
        section(&mut text, kind);
    }
    text
}

fn sorted() -> Vec<Kind> {
    let mut all = Kind::ALL.to_vec();
    all.sort_by_key(|kind| (std::cmp::Reverse(kind.entry().severity), kind.name()));
    all
}

fn link(name: &str) -> String {
    format!("[{name}](#{name})")
}

fn by_symptom(text: &mut String) {
    text.push_str("## By what one notices\n\n| what one notices | finding |\n|---|---|\n");
    let mut rows: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for kind in sorted() {
        let entry = kind.entry();
        rows.entry(entry.symptom)
            .or_default()
            .push(link(entry.name));
    }
    for (symptom, findings) in rows {
        let _ = writeln!(text, "| {symptom} | {} |", findings.join(", "));
    }
    text.push('\n');
}

fn by_article(text: &mut String) {
    text.push_str("## By article of the Knowledge Base\n\n| article | findings |\n|---|---|\n");
    let mut rows: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for kind in sorted() {
        for article in kind.entry().articles {
            rows.entry(article).or_default().push(link(kind.name()));
        }
    }
    for (article, findings) in rows {
        let _ = writeln!(text, "| {article} | {} |", findings.join(", "));
    }
    text.push('\n');
}

fn section(text: &mut String, kind: Kind) {
    let entry: &Entry = kind.entry();
    let severity = match entry.severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let scope = match entry.scope {
        Scope::Host => "of the host that finds it",
        Scope::Cluster => "of the cluster",
    };
    let event = match entry.told {
        Told::As(event) => format!("event {event}"),
        Told::By(events) => {
            let events: Vec<String> = events.iter().map(u16::to_string).collect();
            format!("event {}", events.join(", "))
        }
    };
    let articles = match entry.articles {
        [] => String::new(),
        some => format!("; {}", some.join(", ")),
    };
    let (name, title) = (entry.name, entry.title);
    let _ = write!(
        text,
        "\n### {name}\n\n*{severity}, {scope}; number {}; {event}{articles}*\n\n{}.\n\n- **One notices:** {}\n- **It means:** {}\n\
         - **To do:** {}\n",
        kind.number(),
        capital(title),
        entry.symptom,
        entry.meaning,
        entry.cure
    );
}

fn capital(title: &str) -> String {
    let mut letters = title.chars();
    let first = letters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(letters).collect()
}

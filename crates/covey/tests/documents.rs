//! docs/articles.md names tests, findings and scenarios; all of them exist. docs/design.md, "Tests".
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The text of all Rust sources below.
fn sources(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// What stands between backticks in the last column of its tables, and the article beside it.
fn shown_by(document: &str) -> Vec<(&str, &str)> {
    let rows = document.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.split(" | ").collect();
        let article = cells[0];
        (article.starts_with('Q') || article.starts_with("KB")).then(|| (article, cells[3]))
    });
    rows.flat_map(|(article, cell)| {
        let names = cell.split('`').skip(1).step_by(2);
        names.map(move |name| (article, name))
    })
    .collect()
}

/// Whether there is a test function of this name.
fn is_test(text: &str, name: &str) -> bool {
    let signature = format!("fn {name}(");
    let mut found = text.match_indices(&signature);
    found.any(|(at, _)| {
        // Its attributes stand right above it.
        let attributes = text[..at].trim_end().rsplit("\n\n").next();
        attributes.is_some_and(|attributes| attributes.contains("#[test]"))
    })
}

#[test]
fn what_the_articles_are_shown_by_exists() {
    let document = fs::read_to_string(root().join("docs/articles.md")).unwrap();
    let mut text = String::new();
    sources(&root().join("crates"), &mut text);
    let shown = shown_by(&document);
    let articles: BTreeSet<&str> = shown.iter().map(|(article, _)| *article).collect();
    assert!(articles.len() > 35, "{articles:?}");
    for (article, name) in shown {
        // A test by its function, or by its name in a table of tests; a finding or scenario by its name.
        let places = [format!("{name}:"), format!("\"{name}\"")];
        assert!(
            is_test(&text, name) || places.iter().any(|place| text.contains(place)),
            "{article} names `{name}`, which is no test, finding or scenario"
        );
    }
}

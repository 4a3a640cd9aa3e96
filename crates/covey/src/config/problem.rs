//! What is wrong with a configuration, and how a person sees it: file, line, column, the line itself with carets,
//! what is wrong and what to do.
//!
//! ```text
//!   /etc/covey/covey.toml:9:6: host id 0 is not possible: IDs run from 1 to 64
//!     9 | id = 0
//!       |      ^
//! ```
//!
//! Filled by the rest of [`crate::config`]. Specification: docs/design.md, "Command line".

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read at all.
    #[error("cannot read {}: {error}; write it, or name another file with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The file was read, and this is wrong with it. Never empty, in order of lines.
    #[error("{}", Report(reports))]
    Wrong {
        /// One text for each thing that is wrong.
        reports: Vec<String>,
    },
}

/// All reports under one heading.
struct Report<'a>(&'a [String]);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "the configuration has an error\n\n")?,
            errors => write!(f, "the configuration has {errors} errors\n\n")?,
        }
        f.write_str(&self.0.join("\n"))
    }
}

impl ConfigError {
    pub(super) fn unreadable(path: &Path, error: io::Error) -> Self {
        Self::Unreadable {
            path: path.to_owned(),
            error,
        }
    }

    pub(super) fn wrong(path: &Path, mut problems: Problems<'_>) -> Self {
        problems
            .found
            .sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        let reports = problems
            .found
            .iter()
            .map(|problem| problem.report(path, problems.text))
            .collect();
        Self::Wrong { reports }
    }
}

/// One thing that is wrong, and where in the text, in bytes; nowhere if something is not there at all.
struct Problem {
    span: Option<Range<usize>>,
    sentence: String,
}

impl Problem {
    fn report(&self, path: &Path, text: &str) -> String {
        let path = path.display();
        let sentence = &self.sentence;
        let Some(span) = &self.span else {
            return format!("{path}: {sentence}\n");
        };
        let start = span.start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let number = line_number(text, start).to_string();
        let before = &text[line_start..start];
        let column = before.chars().count() + 1;
        let on_this_line = span.end.min(line_start + line.len()).max(start);
        let carets = "^".repeat(text[start..on_this_line].chars().count().max(1));
        // Tabs stay tabs, so that the carets stand under what they mean whatever a tab's width.
        let indent: String = before
            .chars()
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let gutter = " ".repeat(number.len());
        format!(
            "{path}:{number}:{column}: {sentence}\n  {number} | {line}\n  {gutter} | {indent}{carets}\n"
        )
    }
}

fn line_number(text: &str, position: usize) -> usize {
    text[..position].matches('\n').count() + 1
}

/// The problems found so far in a text.
pub(super) struct Problems<'a> {
    text: &'a str,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            found: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn add(&mut self, span: Option<Range<usize>>, sentence: impl Into<String>) {
        self.found.push(Problem {
            span,
            sentence: sentence.into(),
        });
    }

    /// The value, if `read` can make sense of it; else its sentence is noted at the value's place.
    pub(super) fn read<T, U>(
        &mut self,
        value: &Spanned<T>,
        read: impl FnOnce(&T) -> Result<U, String>,
    ) -> Option<U> {
        read(value.get_ref())
            .map_err(|sentence| self.add(Some(value.span()), sentence))
            .ok()
    }

    /// As [`read`](Self::read), with a default for a value that is not there.
    pub(super) fn read_or<T, U>(
        &mut self,
        value: Option<&Spanned<T>>,
        default: U,
        read: impl FnOnce(&T) -> Result<U, String>,
    ) -> Option<U> {
        match value {
            Some(value) => self.read(value, read),
            None => Some(default),
        }
    }

    /// The value; if it is not there, `sentence` is noted at its section.
    pub(super) fn required<'v, T, S>(
        &mut self,
        value: Option<&'v Spanned<T>>,
        section: &Spanned<S>,
        sentence: &str,
    ) -> Option<&'v Spanned<T>> {
        if value.is_none() {
            self.add(Some(section.span()), sentence);
        }
        value
    }

    /// The number of the line on which a place lies, from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        line_number(self.text, span.start)
    }
}

/// The choice that a word stands for; else a sentence that lists the choices.
pub(super) fn choice<T: Copy>(key: &str, word: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let names: Vec<String> = choices
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            let names = match names.as_slice() {
                [first @ .., last] if !first.is_empty() => {
                    format!("{} or {last}", first.join(", "))
                }
                names => names.concat(),
            };
            format!("{key} \"{word}\" is not known: use {names}")
        })
}

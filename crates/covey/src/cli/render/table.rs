//! Aligned columns, and colours that do not disturb the alignment.
//!
//! Used by the other files of [`super`].

/// Whether to use colours.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Paint(bool);

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Under way.
    Busy,
    /// Wrong.
    Bad,
}

impl Paint {
    pub(in crate::cli) const fn new(colours: bool) -> Self {
        Self(colours)
    }

    /// The text in the colour of `tone`.
    pub(super) fn tone(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => 32,
            Tone::Busy => 33,
            Tone::Bad => 31,
        };
        self.sequence(code, text)
    }

    pub(super) fn heading(self, text: &str) -> String {
        self.sequence(1, text)
    }

    fn sequence(self, code: u8, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Where a column's texts stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// One cell; its colour is put around the text after its width is known.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    pub(super) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone: Some(tone),
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            tone: None,
        }
    }
}

/// A table with a heading.
pub(super) struct Table<const N: usize> {
    columns: [(&'static str, Align); N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [(&'static str, Align); N]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, row: [Cell; N]) {
        self.rows.push(row);
    }

    pub(super) fn render(&self, paint: Paint) -> String {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| width(&row[column].text));
            cells.fold(width(self.columns[column].0), usize::max)
        });
        let mut text = String::new();
        let titles = self.columns.map(|(title, _)| Cell::from(title));
        let heading = line(&titles, &widths, &self.columns, paint);
        text.push_str(&paint.heading(&heading));
        text.push('\n');
        for row in &self.rows {
            text.push_str(&line(row, &widths, &self.columns, paint));
            text.push('\n');
        }
        text
    }
}

fn line<const N: usize>(
    cells: &[Cell; N],
    widths: &[usize; N],
    columns: &[(&str, Align); N],
    paint: Paint,
) -> String {
    let mut line = String::new();
    for ((cell, width_of_column), (_, align)) in cells.iter().zip(widths).zip(columns) {
        if !line.is_empty() {
            line.push_str("  ");
        }
        let padding = " ".repeat(width_of_column - width(&cell.text));
        let text = match cell.tone {
            Some(tone) => paint.tone(tone, &cell.text),
            None => cell.text.clone(),
        };
        match align {
            Align::Left => line.extend([text, padding]),
            Align::Right => line.extend([padding, text]),
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// Columns on the screen, one per character: names of hosts are the only foreign text in tables.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// `Label  value` lines, aligned.
pub(super) fn labelled(lines: &[(&str, String)]) -> String {
    let longest = lines
        .iter()
        .map(|(label, _)| width(label))
        .max()
        .unwrap_or(0);
    lines
        .iter()
        .map(|(label, value)| format!("{label:longest$}  {value}\n"))
        .collect()
}

//! A table of text: columns as wide as their widest cell.

use crate::output::{Output, Tone, one_line};

/// Rows under a heading.
#[derive(Debug)]
pub(crate) struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<(Option<Tone>, String)>>,
}

impl Table {
    pub(crate) fn new(heading: &[&'static str]) -> Self {
        Self {
            heading: heading.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<(Option<Tone>, String)>) {
        self.rows.push(cells);
    }

    /// The table as text; `empty` where it has no rows.
    pub(crate) fn text(&self, out: &Output, empty: &str) -> String {
        if self.rows.is_empty() {
            return empty.to_owned();
        }
        let mut widths: Vec<usize> = self.heading.iter().map(|name| name.len()).collect();
        for row in &self.rows {
            for (width, (_, cell)) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let heading = self.heading.iter().map(|name| (Some(Tone::Quiet), (*name).to_owned()));
        let heading: Vec<_> = heading.collect();
        let mut text = String::new();
        for row in std::iter::once(&heading).chain(&self.rows) {
            for (column, (tone, cell)) in row.iter().enumerate() {
                text.push_str(&out.paint(*tone, cell));
                if column + 1 < row.len() {
                    let gap = widths[column] + 2 - cell.chars().count();
                    text.push_str(&" ".repeat(gap));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// A cell without colour.
pub(crate) fn cell(text: impl AsRef<str>) -> (Option<Tone>, String) {
    (None, one_line(text.as_ref()))
}

/// The same, `-` where there is nothing.
pub(crate) fn maybe(text: Option<impl ToString>) -> (Option<Tone>, String) {
    cell(text.map_or_else(|| "-".to_owned(), |text| text.to_string()))
}

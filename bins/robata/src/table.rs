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
        self.lines(out, &mut Vec::new())
    }

    /// The same below what was printed with these widths, which grow where they must; with its heading where nothing was.
    pub(crate) fn lines(&self, out: &Output, widths: &mut Vec<usize>) -> String {
        let heading = self.heading.iter().map(|name| (Some(Tone::Quiet), (*name).to_owned()));
        let heading: Option<Vec<_>> = widths.is_empty().then(|| heading.collect());
        widths.resize(self.heading.len(), 0);
        for row in heading.iter().chain(&self.rows) {
            for (width, (_, cell)) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in heading.iter().chain(&self.rows) {
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

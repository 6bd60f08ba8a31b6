//! Where each part of a document stands in its text.

use std::{collections::BTreeMap, fmt};

use robata_api_types::Place;

/// A line and a column, both from 1; a column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A text and where its lines begin, so that a place in it is found without going through all that stands before.
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        let after = text.match_indices('\n').map(|(newline, _)| newline + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(after).collect(),
        }
    }

    /// The position of a byte.
    pub(super) fn position(&self, byte: usize) -> Position {
        let end = self.text.floor_char_boundary(byte);
        let line = self.starts.partition_point(|start| *start <= end);
        Position {
            line,
            column: self.text[self.starts[line - 1]..end].chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// From a path in a document to its place in the text.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    places: BTreeMap<Vec<String>, Position>,
}

impl SourceMap {
    /// The place of what `path` leads to, or of the nearest thing around it.
    #[must_use]
    pub fn find(&self, path: &[String]) -> Option<Position> {
        (0..=path.len())
            .rev()
            .find_map(|length| self.places.get(&path[..length]).copied())
    }

    /// Notes a place; a path keeps its first one.
    pub(super) fn note(&mut self, path: &[String], position: Position) {
        self.places.entry(path.to_vec()).or_insert(position);
    }
}

/// Each problem as `FILE:LINE:COLUMN: PATH: MESSAGE`, in the order of their places.
#[must_use]
pub fn locate(file: &str, problems: &[Place], places: &SourceMap) -> Vec<String> {
    let mut found: Vec<_> = problems
        .iter()
        .map(|problem| (places.find(&problem.path), problem))
        .collect();
    found.sort_by_key(|(position, _)| *position);
    let shown = |(position, problem): (Option<Position>, &Place)| {
        let at = position.map_or_else(String::new, |position| format!(":{position}"));
        let path = spell(&problem.path);
        let path = if path.is_empty() { path } else { format!("{path}: ") };
        format!("{file}{at}: {path}{}", problem.message)
    };
    found.into_iter().map(shown).collect()
}

/// A path as TOML would write it: `apps.shop.jobs."a.b".command[1]`.
fn spell(path: &[String]) -> String {
    let mut text = String::new();
    for key in path {
        let is_number = !text.is_empty() && key.bytes().all(|b| b.is_ascii_digit());
        let is_bare = key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if is_number && !key.is_empty() {
            text.push_str(&format!("[{key}]"));
            continue;
        }
        if !text.is_empty() {
            text.push('.');
        }
        if is_bare && !key.is_empty() {
            text.push_str(key);
        } else {
            text.push_str(&format!("{key:?}"));
        }
    }
    text
}

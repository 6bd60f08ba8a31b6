//! Definitions files: TOML, YAML or JSON text into a document, with the place of everything in it.

mod place;
mod toml;
mod yaml;

use std::{fmt, path::Path};

use robata_api_types::strict::Strict;
use serde_json::Value;

pub use self::place::{Position, SourceMap, locate};

/// How a definitions file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.toml`
    Toml,
    /// `.yaml`, `.yml`
    Yaml,
    /// `.json`
    Json,
}

impl Format {
    /// The format that a file's name tells.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "toml" => Some(Self::Toml),
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// A definitions file that was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it says; goes into an apply as it is.
    pub document: Value,
    /// Where each part of it stands.
    pub places: SourceMap,
}

/// Text that is not well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where, if that is known.
    pub position: Option<Position>,
    /// What is wrong.
    pub message: String,
    /// The line itself with a mark below the place; empty where the place is not known.
    pub snippet: String,
}

impl SyntaxError {
    fn new(text: &str, position: Option<Position>, message: impl Into<String>) -> Self {
        let line = position.and_then(|at| Some((at, text.lines().nth(at.line.checked_sub(1)?)?)));
        let snippet = line.map_or_else(String::new, |(at, line)| {
            let number = at.line.to_string();
            let pad: String = line
                .chars()
                .take(at.column.saturating_sub(1))
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let margin = " ".repeat(number.len());
            format!("{number} | {line}\n{margin} | {pad}^")
        });
        Self {
            position,
            message: message.into(),
            snippet,
        }
    }

    /// `FILE:LINE:COLUMN: MESSAGE` and the snippet, for a terminal.
    #[must_use]
    pub fn shown(&self, file: &str) -> String {
        let place = self.position.map_or_else(String::new, |at| format!(":{at}"));
        let snippet = if self.snippet.is_empty() { "" } else { "\n" };
        format!("{file}{place}: {}{snippet}{}", self.message, self.snippet)
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(at) => write!(f, "line {}, column {}: {}", at.line, at.column, self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for SyntaxError {}

/// A reader's message less the place that it ends with, which stands before it here.
fn without_place(message: &str) -> &str {
    match message.rsplit_once(" at line ") {
        Some((what, place)) if place.starts_with(|first: char| first.is_ascii_digit()) => what,
        _ => message,
    }
}

/// Reads a definitions file. Only its form is checked here; what it says is the server's to judge.
pub fn read(text: &str, format: Format) -> Result<Source, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        Format::Toml => toml::read(text),
        Format::Yaml => yaml::read(text),
        Format::Json => {
            let Strict(document) = serde_json::from_str(text).map_err(|error| {
                let position = Position {
                    line: error.line(),
                    column: error.column().max(1),
                };
                let message = error.to_string();
                SyntaxError::new(text, Some(position), without_place(&message))
            })?;
            // JSON is YAML in all but corners; where it is not, mistakes are shown without a line.
            let places = yaml::read(text).map(|source| source.places);
            Ok(Source {
                document,
                places: places.unwrap_or_default(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use robata_api_types::Place;
    use serde_json::json;

    use super::*;

    const TOML: &str = "[queues.images]\nmax_running = 20\n\n[apps.shop]\nimage = \"shop\"\nenv = { A = \"1\" }\n\n\
                        [apps.shop.jobs.\"a.b\"]\ncommand = [\"x\", 3]\nretry.max_attempts = 2\n";
    const YAML: &str = "queues:\n  images:\n    max_running: 20\napps:\n  shop:\n    image: shop\n    env: {A: \"1\"}\n    \
                        jobs:\n      a.b:\n        command: [x, 3]\n        retry:\n          max_attempts: 2\n";
    const JSON: &str = "{\"queues\": {\"images\": {\"max_running\": 20}},\n \"apps\": {\"shop\": {\"image\": \"shop\", \
                        \"env\": {\"A\": \"1\"},\n  \"jobs\": {\"a.b\": {\"command\": [\"x\", 3],\n   \"retry\": {\"max_attempts\": 2}}}}}}";

    fn line(source: &Source, path: &[&str]) -> Option<usize> {
        let path: Vec<String> = path.iter().map(|&key| key.to_owned()).collect();
        source.places.find(&path).map(|at| at.line)
    }

    #[test]
    fn the_three_formats_say_the_same_and_know_their_lines() {
        let meant = json!({
            "queues": {"images": {"max_running": 20}},
            "apps": {"shop": {"image": "shop", "env": {"A": "1"},
                     "jobs": {"a.b": {"command": ["x", 3], "retry": {"max_attempts": 2}}}}},
        });
        for (text, format, lines) in [
            (TOML, Format::Toml, [2, 9, 10, 4]),
            (YAML, Format::Yaml, [3, 10, 12, 5]),
            (JSON, Format::Json, [1, 3, 4, 2]),
        ] {
            let source = read(text, format).unwrap();
            assert_eq!(source.document, meant, "{format:?}");
            let job = ["apps", "shop", "jobs", "a.b"];
            let below = |keys: &[&'static str]| [&job[..], keys].concat();
            let found = [
                line(&source, &["queues", "images", "max_running"]),
                line(&source, &below(&["command", "1"])),
                line(&source, &below(&["retry", "max_attempts"])),
                line(&source, &["apps", "shop"]),
            ];
            assert_eq!(found, lines.map(Some), "{format:?}");
            // What is missing is looked for where it should stand.
            let missing = below(&["tiemout"]);
            assert_eq!(line(&source, &missing), line(&source, &job), "{format:?}");
        }
    }

    #[test]
    fn a_problem_is_shown_with_file_line_and_column() {
        let source = read(TOML, Format::Toml).unwrap();
        let problem = Place {
            path: ["apps", "shop", "jobs", "a.b", "command", "1"]
                .map(str::to_owned)
                .to_vec(),
            code: "wrong_type".into(),
            message: "must be text".into(),
        };
        assert_eq!(
            locate("jobs.toml", &[problem], &source.places),
            ["jobs.toml:9:17: apps.shop.jobs.\"a.b\".command[1]: must be text"]
        );
    }

    #[test]
    fn malformed_text_says_where_and_shows_the_line() {
        for (text, format, at) in [
            ("[apps.shop\nimage = 1", Format::Toml, "f:1:"),
            ("a = 1\na = 2\n", Format::Toml, "f:2:"),
            ("apps:\n  shop: [1\n", Format::Yaml, "f:"),
            ("apps: 1\napps: 2\n", Format::Yaml, "f:2:"),
            ("{\"apps\": {,}}", Format::Json, "f:1:11: "),
            ("{\"apps\": 1,\n \"apps\": 2}", Format::Json, "f:2:"),
            ("{\"apps\": {\"a\": {\"jobs\": 1,\n\"jobs\": 2}}}", Format::Json, "f:2:"),
        ] {
            let error = read(text, format).unwrap_err();
            let shown = error.shown("f");
            assert!(shown.starts_with(at), "{format:?}: {shown}");
            assert!(shown.contains('^'), "{format:?}: {shown}");
            assert!(!shown.contains(" at line "), "the place is told twice: {shown}");
        }
    }

    #[test]
    fn the_places_of_a_large_file_are_found_in_little_time() {
        use std::fmt::Write as _;

        let mut text = "[apps.big]\n".to_owned();
        for number in 0..60_000 {
            writeln!(text, "[apps.big.jobs.job-{number}]\ncommand = [\"x\"]").unwrap();
        }
        let begun = std::time::Instant::now();
        let source = read(&text, Format::Toml).unwrap();
        // Seconds on any machine; going through the text again for each place took minutes.
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
        let last = ["apps", "big", "jobs", "job-59999", "command"];
        assert_eq!(line(&source, &last), Some(120_001));
    }

    #[test]
    fn words_that_older_yaml_took_for_booleans_are_text() {
        let source = read("a: no\nb: on\nc: true\nd: ~\n1: x\n", Format::Yaml).unwrap();
        assert_eq!(
            source.document,
            json!({"a": "no", "b": "on", "c": true, "d": null, "1": "x"})
        );
    }

    #[test]
    fn the_format_is_told_by_the_files_name() {
        let of = |name: &str| Format::of(Path::new(name));
        assert_eq!(of("jobs.toml"), Some(Format::Toml));
        assert_eq!(of("a/b.yml"), Some(Format::Yaml));
        assert_eq!(of("b.json"), Some(Format::Json));
        assert_eq!((of("jobs"), of("jobs.txt")), (None, None));
    }
}

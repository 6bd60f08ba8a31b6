//! What goes to the terminal: text or JSON, colours or none. The only place that prints.
//!
//! Names, labels and messages are other people's: a control character in them could move the cursor, rename the window
//! or paint over what stands there. Only a job's own output goes out as it is (`bytes`).

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Where output goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
    colour: bool,
}

/// A colour that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Bad,
    Busy,
    Quiet,
}

impl Output {
    /// Text in colour only on a terminal and without NO_COLOR.
    pub(crate) fn new(format: Format) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            format,
            colour: !unwanted && format == Format::Text && io::stdout().is_terminal(),
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One document, or the text that `text` makes.
    pub(crate) fn print<T: Serialize + ?Sized>(&self, data: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Json => ascii_controls(&serde_json::to_string_pretty(data)?),
            Format::Text => shown(text().trim_end_matches('\n')),
        };
        write_line(&mut io::stdout(), &text)
    }

    /// One line of a stream of documents, or the text that `text` makes.
    pub(crate) fn event<T: Serialize + ?Sized>(&self, data: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Json => ascii_controls(&serde_json::to_string(data)?),
            Format::Text => shown(&text()),
        };
        write_line(&mut io::stdout(), &text)
    }

    /// A word to the person beside the data, on standard error; not for programs.
    pub(crate) fn note(&self, text: &str) {
        if self.format == Format::Text {
            complain(text);
        }
    }

    /// `text` in the colour of `tone`, where there are colours.
    pub(crate) fn paint(&self, tone: Option<Tone>, text: &str) -> String {
        let mark = match tone {
            Some(Tone::Good) => 1,
            Some(Tone::Bad) => 2,
            Some(Tone::Busy) => 3,
            Some(Tone::Quiet) => 4,
            None => return text.to_owned(),
        };
        if self.colour {
            format!("{}{text}{}", COLOURS[mark].0, COLOURS[0].0)
        } else {
            text.to_owned()
        }
    }
}

/// What stands for a colour until the text is written, and what it becomes then: no text has these (Unicode's
/// noncharacters), and all else that a terminal would obey is escaped.
const COLOURS: [(char, &str); 5] = [
    ('\u{fdd0}', "\x1b[0m"),
    ('\u{fdd1}', "\x1b[32m"),
    ('\u{fdd2}', "\x1b[31m"),
    ('\u{fdd3}', "\x1b[36m"),
    ('\u{fdd4}', "\x1b[2m"),
];

/// Text as it may go to a terminal: lines, and nothing else that it would obey.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match COLOURS.iter().find(|(mark, _)| *mark == c) {
            Some((_, colour)) => shown.push_str(colour),
            None if c == '\n' || c == '\t' || !is_obeyed(c) => shown.push(c),
            None => shown.extend(c.escape_default()),
        }
    }
    shown
}

/// One line of it, for a cell of a table.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// Control characters, and those that turn the direction of what follows.
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON escapes the control characters of ASCII by itself; those beyond some terminals obey, too.
fn ascii_controls(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// Bytes as they are, to standard output or standard error.
pub(crate) fn bytes(to_stderr: bool, data: &[u8]) -> anyhow::Result<()> {
    let written = if to_stderr {
        let mut stream = io::stderr().lock();
        stream.write_all(data).and_then(|()| stream.flush())
    } else {
        let mut stream = io::stdout().lock();
        stream.write_all(data).and_then(|()| stream.flush())
    };
    told(written)
}

/// A line on standard error. If that is gone there is nobody left to tell.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{}", shown(text));
}

/// The same as a JSON document.
pub(crate) fn complain_json(document: &serde_json::Value) {
    let _ = writeln!(io::stderr(), "{}", ascii_controls(&document.to_string()));
}

fn write_line(stream: &mut impl Write, text: &str) -> anyhow::Result<()> {
    told(writeln!(stream, "{text}").and_then(|()| stream.flush()))
}

/// Whoever read our output has gone (`| head`): not our fault, and no reason to go on.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub(crate) struct ReaderGone;

fn told(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_colours_and_lines_stay() {
        let out = Output {
            format: Format::Text,
            colour: true,
        };
        let evil = "a\x1b]0;owned\x07\x1b[2J\r\u{9b}1m\u{202e}\u{7f}é日";
        let escaped = "a\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\r\\u{9b}1m\\u{202e}\\u{7f}é日";
        assert_eq!(shown(evil), escaped);
        assert_eq!(
            shown(&out.paint(Some(Tone::Bad), evil)),
            format!("\x1b[31m{escaped}\x1b[0m")
        );
        assert_eq!(shown("two\nlines\tand a tab"), "two\nlines\tand a tab");
        assert_eq!(one_line("two\nlines"), "two\\nlines");
    }

    #[test]
    fn json_says_the_same_without_a_character_that_a_terminal_would_obey() {
        let value = serde_json::json!({"message": "\u{9b}2J\u{7f}\u{1b}[2Jé"});
        let text = ascii_controls(&value.to_string());
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}

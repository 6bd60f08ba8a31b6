//! What goes to the terminal: text or JSON, colours or none. The only place that prints.

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
            Format::Json => serde_json::to_string_pretty(data)?,
            Format::Text => text(),
        };
        write_line(&mut io::stdout(), text.trim_end_matches('\n'))
    }

    /// One line of a stream of documents, or the text that `text` makes.
    pub(crate) fn event<T: Serialize + ?Sized>(&self, data: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Json => serde_json::to_string(data)?,
            Format::Text => text(),
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
        let code = match tone {
            Some(Tone::Good) => "32",
            Some(Tone::Bad) => "31",
            Some(Tone::Busy) => "36",
            Some(Tone::Quiet) => "2",
            None => return text.to_owned(),
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
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
    let _ = writeln!(io::stderr(), "{text}");
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

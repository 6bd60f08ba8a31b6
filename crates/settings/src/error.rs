//! What is wrong with settings: every mistake at once, each with its key, its place and what to do.

use std::{fmt, path::PathBuf};

use serde::Serialize;

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// Nobody set it.
    Default,
    /// In the settings file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The line's text.
        text: String,
        /// The first character of the key in its line, from 0.
        column: usize,
        /// How many characters the key has.
        width: usize,
    },
    /// In an environment variable.
    Variable {
        /// The variable.
        name: String,
        /// The file that it names, for `…_FILE`.
        file: Option<PathBuf>,
    },
    /// On the command line.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, .. } => write!(f, "{}:{line}", path.display()),
            Self::Variable { name, file: None } => write!(f, "variable {name}"),
            Self::Variable { name, file: Some(file) } => write!(f, "variable {name} ({})", file.display()),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key, as `server.listen`; empty where it is about a whole file.
    pub key: String,
    /// Where it stands.
    pub place: Place,
    /// What is wrong, and what to do.
    pub message: String,
    /// The nearest valid key, where the key is unknown and one is near.
    pub nearest: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean `{nearest}`?")?;
        }
        if let Place::File {
            line,
            text,
            column,
            width,
            ..
        } = &self.place
        {
            let margin = " ".repeat(line.to_string().len());
            let before: String = text
                .chars()
                .take(*column)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            write!(
                f,
                "\n  {line} | {text}\n  {margin} | {before}{}",
                "^".repeat((*width).max(1))
            )?;
        }
        Ok(())
    }
}

/// Every mistake in the settings; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct Errors(pub Vec<Problem>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

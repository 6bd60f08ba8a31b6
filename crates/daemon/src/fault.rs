//! How an error ends a program: what is wrong in one line of words, and the exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

/// The command was used wrongly, in a way that only its content shows: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// An error with a code that programs may decide by.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Coded {
    /// The code.
    pub code: &'static str,
    /// The words.
    pub message: String,
}

/// An error with all its causes, each told once.
#[must_use]
pub fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = match cause.downcast_ref::<robata_core::Error>() {
            Some(cause) => cause.full(),
            None => cause.to_string(),
        };
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// A daemon's end: an error is told on standard error, with exit code 2 for wrong use and 1 for all else.
pub(crate) fn exit(ended: anyhow::Result<ExitCode>) -> ExitCode {
    let error = match ended {
        Ok(code) => return code,
        Err(error) => error,
    };
    // If standard error is gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "error: {}", message(&error));
    ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_its_error_tells_already_is_not_told_again() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file");
        assert_eq!(message(&error), "cannot read x: no such file");
        let error = anyhow::anyhow!("no such file").context("cannot read x");
        assert_eq!(message(&error), "cannot read x: no such file");
    }
}

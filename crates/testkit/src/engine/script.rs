//! What a scripted thing does when it is set going: the words of its command, in their order.

use std::time::Duration;

use robata_core::{
    executor::{Spec, Stream},
    finish::End,
};

/// One word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `print:TEXT`, `eprint:TEXT`.
    Print(Stream, String),
    /// `env:NAME`: prints this variable.
    Env(String),
    /// `after:MILLIS`.
    After(Duration),
    /// `exit:CODE`, `signal:NUMBER`, `oom`.
    End(End),
    /// `on-term:CODE`: exits with this code when it is asked to stop.
    OnTerm(i32),
    /// `ignore-term`: only SIGKILL ends it.
    IgnoreTerm,
}

/// Reads a command; without an end in it the thing runs until a test or a stop ends it.
pub(crate) fn read(spec: &Spec) -> Result<Vec<Step>, String> {
    let words = spec.entrypoint.iter().flatten().chain(spec.command.iter().flatten());
    words.map(|word| step(word)).collect()
}

fn step(word: &str) -> Result<Step, String> {
    let wrong = || format!("exec: {word:?}: no such file or directory");
    let (name, rest) = word.split_once(':').unwrap_or((word, ""));
    let number = || rest.parse::<i32>().map_err(|_| wrong());
    Ok(match name {
        "print" => Step::Print(Stream::Stdout, rest.to_owned()),
        "eprint" => Step::Print(Stream::Stderr, rest.to_owned()),
        "env" => Step::Env(rest.to_owned()),
        "after" => Step::After(Duration::from_millis(rest.parse().map_err(|_| wrong())?)),
        "exit" => Step::End(End::Exited(number()?)),
        "signal" => Step::End(End::Signalled(number()?)),
        "oom" => Step::End(End::OutOfMemory(Some(137))),
        "on-term" => Step::OnTerm(number()?),
        "ignore-term" => Step::IgnoreTerm,
        _ => return Err(wrong()),
    })
}

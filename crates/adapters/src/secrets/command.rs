//! A command that prints a secret: `PROGRAM ARG… APP NAME`, never through a shell.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    sync::Arc,
};

use async_trait::async_trait;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use robata_core::{
    AppName, ErrorKind, Result, Secret, SecretName,
    secret::{MAX_SECRET_BYTES, Secrets},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::Semaphore,
};
use zeroize::Zeroizing;

use super::{ANSWERS_WITHIN, AT_ONCE, error, missing, no_answer, place, unfit};

/// The exit code that says that there is no such secret: EX_NOINPUT of sysexits.h. Any other says "not now".
const NOT_THERE: i32 = 66;
/// So much of what it says on standard error is told.
const WORDS: usize = 400;
/// So much of it is read.
const WORDS_READ: usize = 64 << 10;

/// The command.
#[derive(Debug)]
pub(super) struct Command {
    argv: Vec<String>,
    places: Arc<Semaphore>,
}

impl Command {
    pub(super) fn new(argv: Vec<String>) -> Self {
        Self {
            argv,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// What it is called by in messages: its arguments may be anything.
    fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }

    async fn ask(&self, app: &AppName, name: &SecretName) -> Result<Secret> {
        let _place = place(&self.places, &format!("the secrets' command {}", self.program())).await?;
        let mut command = tokio::process::Command::new(self.program());
        command
            .args(self.argv.iter().skip(1))
            .args([app.as_str(), name.as_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // Its own group, so that all of it can be ended.
            .process_group(0);
        // Our own settings hold passwords that are none of its business.
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ROBATA_")) {
            command.env_remove(variable);
        }
        let mut child = command.spawn().map_err(|why| {
            error(
                ErrorKind::Unavailable,
                format!("the secrets' command {} cannot be run: {why}", self.program()),
            )
        })?;
        let all = Group(child.id());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let run = async {
            // One more for the newline.
            let (value, words) = tokio::join!(read(stdout, MAX_SECRET_BYTES + 1), read(stderr, WORDS_READ));
            (value, words, child.wait().await)
        };
        let Ok((value, words, status)) = tokio::time::timeout(ANSWERS_WITHIN, run).await else {
            return Err(no_answer(format_args!("the secrets' command {}", self.program())));
        };
        // It has ended and closed all that it wrote to: what it may have left behind is its own.
        all.leave();
        let failed = |why: String| {
            error(
                ErrorKind::Unavailable,
                format!("the secrets' command {} {why}", self.program()),
            )
        };
        let (Ok(mut value), Ok(words)) = (value, words) else {
            return Err(failed("cannot be read".to_owned()));
        };
        match status {
            // Whoever goes on writing is ended by that: how it ended says nothing.
            Ok(status) if status.success() || value.len() > MAX_SECRET_BYTES + 1 => {
                Secret::from_bytes(std::mem::take(&mut *value))
                    .map_err(|why| unfit(app, name, format_args!("as {} prints it", self.program()), &why))
            }
            Ok(status) if status.code() == Some(NOT_THERE) => Err(missing(
                app,
                name,
                format_args!("{} says so{}", self.program(), told(&words, &value)),
            )),
            Ok(status) => Err(failed(format!(
                "failed for {app} {name} ({status}){}",
                told(&words, &value)
            ))),
            Err(why) => Err(failed(format!("cannot be waited for: {why}"))),
        }
    }
}

#[async_trait]
impl Secrets for Command {
    async fn resolve(&self, app: &AppName, names: &BTreeSet<SecretName>) -> Result<BTreeMap<SecretName, Secret>> {
        let asked = names
            .iter()
            .map(|name| async move { Ok((name.clone(), self.ask(app, name).await?)) });
        let found = futures::future::try_join_all(asked).await?;
        Ok(found.into_iter().collect())
    }
}

/// All of the processes of a command, ended when dropped.
struct Group(Option<u32>);

impl Group {
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let id = self.0.and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id {
            // Not waited for yet, so that the number is still its own. None may be left.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// At most one byte more than `most`; the rest is not read.
async fn read(from: Option<impl AsyncRead + Unpin>, most: usize) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    if let Some(from) = from {
        from.take(most as u64 + 1).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// What it said, in one line, without what it printed.
fn told(words: &[u8], value: &[u8]) -> String {
    let mut words = String::from_utf8_lossy(words)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let value = String::from_utf8_lossy(value);
    for line in value.lines().map(str::trim).filter(|line| !line.is_empty()) {
        words = words.replace(line, "***");
    }
    let words: String = words.chars().take(WORDS).collect();
    if words.is_empty() { words } else { format!(": {words}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_told_without_what_it_prints() {
        assert_eq!(told(b"no access\n to hunter2\n", b"hunter2\n"), ": no access to ***");
        assert_eq!(told(b" \n", b""), "");
        assert!(told(&[b'x'; 9999], b"").len() <= WORDS + 2);
    }
}

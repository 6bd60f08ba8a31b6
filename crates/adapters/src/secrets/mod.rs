//! Where secrets can live: a folder, a file, a command.

mod command;
mod file;
mod folder;

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};

use robata_core::{AppName, Error, ErrorKind, ExecutorName, Result, SecretName, secret::Secrets};
use robata_settings::{SecretsSettings, Settings};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const OPERATION: &str = "secrets.resolve";
/// A source that answers at all does so within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// So many questions to one source at once.
const AT_ONCE: usize = 4;
/// A question waits this long for its turn: where one source hangs for all, nobody waits for all who came before.
const TURN_WITHIN: Duration = Duration::from_secs(60);

/// The places that the settings name, by their executors.
#[must_use]
pub fn secrets(settings: &Settings) -> BTreeMap<ExecutorName, Arc<dyn Secrets>> {
    let executors = settings.executors.iter();
    executors
        .filter_map(|(name, executor)| Some((name.clone(), source(executor.secrets()?))))
        .collect()
}

/// One place.
#[must_use]
pub fn source(settings: &SecretsSettings) -> Arc<dyn Secrets> {
    match settings {
        SecretsSettings::Folder(folder) => Arc::new(folder::Folder::new(folder.clone())),
        SecretsSettings::File(file) => Arc::new(file::File::new(file.clone())),
        SecretsSettings::Command(argv) => Arc::new(command::Command::new(argv.clone())),
    }
}

fn error(kind: ErrorKind, words: String) -> Error {
    Error::new(kind, OPERATION, words)
}

fn missing(app: &AppName, name: &SecretName, place: impl std::fmt::Display) -> Error {
    error(
        ErrorKind::NotFound,
        format!("the secret {name} of app {app} is not there: {place}"),
    )
}

/// A value that no environment can hold.
fn unfit(app: &AppName, name: &SecretName, place: impl std::fmt::Display, why: &Error) -> Error {
    error(
        ErrorKind::Invalid,
        format!("the secret {name} of app {app} ({place}): {}", why.message()),
    )
}

fn unreadable(path: &Path, why: &io::Error) -> Error {
    error(
        ErrorKind::Unavailable,
        format!("secrets cannot be read now: {}: {why}", path.display()),
    )
}

fn no_answer(what: impl std::fmt::Display) -> Error {
    error(
        ErrorKind::Unavailable,
        format!("{what} does not answer within {} s", ANSWERS_WITHIN.as_secs()),
    )
}

/// A place among those that ask at once, had in bounded time.
async fn place(places: &Arc<Semaphore>, what: &str) -> Result<Option<OwnedSemaphorePermit>> {
    match tokio::time::timeout(TURN_WITHIN, Arc::clone(places).acquire_owned()).await {
        // Never closed.
        Ok(place) => Ok(place.ok()),
        Err(_) => Err(error(
            ErrorKind::Unavailable,
            format!(
                "{what} is asked for more than it answers: no turn within {} s",
                TURN_WITHIN.as_secs()
            ),
        )),
    }
}

/// Reads off the runtime's threads and in bounded time. A read that hangs keeps its place, so that only so many can hang.
async fn blocking<T: Send + 'static>(
    places: &Arc<Semaphore>,
    path: &Path,
    read: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let asked = async {
        let place = place(places, &path.display().to_string()).await?;
        let reading = tokio::task::spawn_blocking(move || {
            let _place = place;
            read()
        });
        reading.await.unwrap_or_else(|panicked| {
            Err(error(
                ErrorKind::Internal,
                format!("reading secrets failed: {panicked}"),
            ))
        })
    };
    match tokio::time::timeout(ANSWERS_WITHIN, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(no_answer(path.display())),
    }
}

/// The whole of a regular file, at most one byte more than `most`; a FIFO or device is never waited for.
fn read_file(path: &Path, most: usize) -> io::Result<zeroize::Zeroizing<Vec<u8>>> {
    use std::{io::Read, os::unix::fs::OpenOptionsExt};

    let mut options = std::fs::OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is no file"));
    }
    // All the room at once: what grows leaves copies of its bytes behind.
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(most + 1));
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_turn_waits_in_bounded_time() {
        let places = Arc::new(Semaphore::new(1));
        let first = place(&places, "it").await.unwrap();
        let begun = tokio::time::Instant::now();
        let error = place(&places, "it").await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (ErrorKind::Unavailable, TURN_WITHIN));
        drop(first);
        place(&places, "it").await.unwrap();
    }
}

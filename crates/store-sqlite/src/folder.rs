//! The data folder: made for us alone, and locked so that exactly one process writes.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::gethostname,
};
use robata_core::{Error, ErrorKind, Timestamp};

/// How long an opener waits for a store that this same process is about to close.
const OWN_LOCK_WAIT: Duration = Duration::from_secs(5);
const OWN_LOCK_STEP: Duration = Duration::from_millis(10);

/// The lock on a data folder; given back when it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _lock: Flock<File>,
}

/// Makes the folder if it is missing, and locks it. Blocks for a short time.
pub(crate) fn lock(folder: &Path, program: &str, now: Timestamp) -> Result<FolderLock, Error> {
    make(folder)?;
    let path = folder.join("lock");
    let mut waited = Duration::ZERO;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| unusable(&path, "cannot be opened for writing", error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                write_holder(&mut lock, program, now).map_err(|error| unusable(&path, "cannot be written", error))?;
                return Ok(FolderLock { _lock: lock });
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                // Unreadable only means that the message names nobody.
                let _ = file.read_to_string(&mut holder);
                let ours = holder.starts_with(&format!("{} ", std::process::id()));
                if !ours || waited >= OWN_LOCK_WAIT {
                    return Err(in_use(folder, &holder));
                }
                std::thread::sleep(OWN_LOCK_STEP);
                waited += OWN_LOCK_STEP;
            }
            Err((_, errno)) => {
                return Err(unusable(&path, "cannot be locked", io::Error::from(errno)));
            }
        }
    }
}

fn make(folder: &Path) -> Result<(), Error> {
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Error::new(
            ErrorKind::Invalid,
            "store.open",
            format!("the data folder {} is a file", folder.display()),
        )),
        Err(_) => DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| unusable(folder, "cannot be made", error)),
    }
}

/// `PID SINCE HOST PROGRAM`, for people and for [`in_use`].
fn write_holder(file: &mut File, program: &str, now: Timestamp) -> io::Result<()> {
    let host = gethostname().unwrap_or_default();
    file.set_len(0)?;
    file.rewind()?;
    writeln!(
        file,
        "{} {now} {} {program}",
        std::process::id(),
        host.to_string_lossy()
    )
}

fn in_use(folder: &Path, holder: &str) -> Error {
    let mut words = holder.trim_end().splitn(4, ' ');
    let mut word = || words.next().unwrap_or("?");
    let (pid, since, host, program) = (word(), word(), word(), word());
    let message = format!(
        "the data folder {} is in use by process {pid} ({program} on {host}, since {since}); end it, or choose another folder",
        folder.display()
    );
    Error::new(ErrorKind::Conflict, "store.open", message)
}

fn unusable(path: &Path, what: &str, error: io::Error) -> Error {
    let message = format!("the data folder cannot be used: {} {what}: {error}", path.display());
    Error::new(ErrorKind::Invalid, "store.open", message).with_source(error)
}

/// Where the database is.
pub(crate) fn database(folder: &Path) -> PathBuf {
    folder.join("robata.db")
}

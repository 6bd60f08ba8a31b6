//! The data folder: made for us alone, as is what stands in it, and locked so that exactly one process writes.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
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
                private(folder)?;
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
        Err(_) => {
            let missing: Vec<_> = folder
                .ancestors()
                .take_while(|above| !above.as_os_str().is_empty() && !above.exists())
                .collect();
            for above in missing.into_iter().rev() {
                make_one(above).map_err(|error| unusable(folder, "cannot be made", error))?;
            }
            Ok(())
        }
    }
}

fn make_one(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        // Whatever the process's umask took away.
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o700)),
        // Somebody else was first; it is theirs.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the database's files readable for their owner alone, in a folder that others may enter, too. The write-ahead log
/// and its index get the database's mode (<https://www.sqlite.org/src/file?name=src/os_unix.c>, `findCreateFileMode`).
///
/// One that is there is not opened: closing it would take away the locks that SQLite has in this process
/// (<https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_>).
fn private(folder: &Path) -> Result<(), Error> {
    let path = database(folder);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(unusable(&path, "cannot be made", error));
        }
        _ => {}
    }
    for ending in ["", "-wal", "-shm"] {
        let path = folder.join(format!("robata.db{ending}"));
        match fs::set_permissions(&path, Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unusable(&path, "cannot be made its owner's alone", error));
            }
            _ => {}
        }
    }
    Ok(())
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

//! One thing on disk: what the worker and the supervisor say to each other, each word one atomic step.
//!
//! | file | who writes it | what it says |
//! | --- | --- | --- |
//! | the lock | worker, at prepare | name, labels, boot id, control groups; held by the supervisor for its whole life |
//! | `payload` | worker, at prepare | the payload |
//! | `stdout`, `stderr` | the job | its output |
//! | `control` | worker | a FIFO: a byte in it wakes the supervisor |
//! | `verdict` | whoever is first, once for ever | `go` or `removed`: a link, because to make one is a single step that fails where one is |
//! | `stop` | worker | a link whose target is the grace period in milliseconds |
//! | `outcome.room` | supervisor | room for the outcome that is not all taken yet |
//! | `outcome.unreserved` | supervisor | why it could not be taken, so that nothing ran: a link, which needs next to no room |
//! | `outcome.reserved` | supervisor, before the job's first step | room for the outcome; and that the job may have run |
//! | `outcome.running` | supervisor, the same file | that the job's own program runs |
//! | `outcome.json` | supervisor; for a dead one whoever notices | how it ended |
//! | `work` | the job | its working folder |

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use robata_core::{Format, Timestamp, executor::Handle, finish::End};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    clock,
    error::{Fault, Result},
    lock,
};

/// The longest outcome; its room on disk is taken before the job runs, so that a full disk cannot hide an end.
const OUTCOME_BYTES: usize = 2048;
/// No record of ours is longer: names and labels are bounded where they are made.
const RECORD_BYTES: u64 = 1 << 20;
/// The longest message in an outcome, in bytes; in JSON a byte takes six at most.
const MESSAGE_BYTES: usize = 256;

/// What stands in the lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// That of the request, like all of one attempt (PROTOCOL V1).
    pub(crate) format: Format,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) created_at: Timestamp,
    /// The boot in which it was made; in another one it is dead.
    pub(crate) boot: String,
    /// Where to look for its processes if its supervisor is killed.
    pub(crate) cgroups: Vec<PathBuf>,
}

/// `outcome.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outcome {
    pub(crate) format: Format,
    pub(crate) end: End,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) detail: Option<String>,
    pub(crate) message: Option<String>,
}

/// Who was first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was set going.
    Go,
    /// It never runs.
    Removed,
}

/// What the folder and the lock say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Absent,
    Prepared,
    Running(Timestamp),
    Ended(Outcome),
    /// Its supervisor is gone and left no outcome; the start time, where it ran.
    Died(Option<Timestamp>),
}

/// The paths of one thing.
#[derive(Clone, Debug)]
pub(crate) struct Thing {
    pub(crate) handle: Handle,
    pub(crate) folder: PathBuf,
    pub(crate) lock: PathBuf,
}

impl Thing {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// `None` where there is none, or one that a crash of the machine left unreadable.
    pub(crate) fn record(&self) -> Result<Option<Record>> {
        whole(read_json(&self.lock))
    }

    /// What is the matter with it. In this order, because a supervisor writes its outcome before its lock is free.
    pub(crate) fn look(&self) -> Result<Seen> {
        // One that is damaged says nothing: the lock tells whether it runs.
        if let Some(outcome) = whole(self.outcome())? {
            return Ok(Seen::Ended(outcome));
        }
        if lock::is_held(&self.lock)? {
            return Ok(match verdict(&self.folder)? {
                Some(Verdict::Go) => went_at(&self.folder)?.map_or(Seen::Absent, Seen::Running),
                _ if self.folder.exists() => Seen::Prepared,
                _ => Seen::Absent,
            });
        }
        if let Some(outcome) = whole(self.outcome())? {
            return Ok(Seen::Ended(outcome));
        }
        if !self.folder.exists() {
            return Ok(Seen::Absent);
        }
        Ok(Seen::Died(started(&self.folder)?))
    }

    pub(crate) fn outcome(&self) -> Result<Option<Outcome>> {
        read_json(&self.path("outcome.json"))
    }

    /// Wakes its supervisor. `false` where nobody listens: not yet, or no more.
    pub(crate) fn wake(&self) -> Result<bool> {
        use nix::{errno::Errno, fcntl::OFlag};
        let path = self.path("control");
        let opened = fs::OpenOptions::new()
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&path);
        match opened.and_then(|mut fifo| fifo.write_all(b"\n")) {
            Ok(()) => Ok(true),
            // Nobody has it open, or it is gone with its folder.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENXIO as i32) =>
            {
                Ok(false)
            }
            // Full: it will wake in any case.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Fault::io("wake the supervisor by", &path)(error)),
        }
    }
}

/// What was decided about the thing in this folder.
pub(crate) fn verdict(folder: &Path) -> Result<Option<Verdict>> {
    let path = folder.join("verdict");
    match read_link(&path)?.as_deref() {
        None => Ok(None),
        Some("go") => Ok(Some(Verdict::Go)),
        // Whatever else stands there, it is not ours to run.
        Some(_) => Ok(Some(Verdict::Removed)),
    }
}

/// Decides, unless it is decided; answers what is decided. `None` where there is no such folder.
pub(crate) fn decide(folder: &Path, verdict: Verdict) -> Result<Option<Verdict>> {
    let path = folder.join("verdict");
    let word = match verdict {
        Verdict::Go => "go",
        Verdict::Removed => "removed",
    };
    match symlink(word, &path) {
        Ok(()) => Ok(Some(verdict)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self::verdict(folder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::io("decide", &path)(error)),
    }
}

/// When it was set going, if its supervisor came so far that the job may have run.
pub(crate) fn started(folder: &Path) -> Result<Option<Timestamp>> {
    let came_so_far = ["outcome.reserved", "outcome.running", "outcome.json"];
    if came_so_far.iter().any(|name| folder.join(name).exists()) {
        went_at(folder)
    } else {
        Ok(None)
    }
}

/// Whether the job's own program is known to run: its start was not refused.
pub(crate) fn executed(folder: &Path) -> bool {
    folder.join("outcome.running").exists()
}

/// Notes that the job's own program runs; by a new name of a file that is there, which costs the disk next to nothing.
pub(crate) fn note_executed(folder: &Path) -> Result<()> {
    let path = folder.join("outcome.reserved");
    fs::rename(&path, folder.join("outcome.running")).map_err(Fault::io("note the start by", &path))
}

/// The grace period of a stop that was asked for.
pub(crate) fn stop_asked(folder: &Path) -> Result<Option<Duration>> {
    let millis = read_link(&folder.join("stop"))?.and_then(|text| text.parse().ok());
    Ok(millis.map(Duration::from_millis))
}

/// Asks for a stop; the last one asked for counts.
pub(crate) fn ask_stop(folder: &Path, grace: Duration) -> Result<()> {
    let millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let path = folder.join(format!("stop-{}", uuid::Uuid::new_v4().simple()));
    symlink(millis.to_string(), &path).map_err(Fault::io("ask for a stop by", &path))?;
    fs::rename(&path, folder.join("stop")).map_err(Fault::io("ask for a stop by", &path))
}

/// Takes the room on disk that the outcome will need. Only all of it bears the name that says that the job may have run;
/// where there is no room the words why are left for those who look.
pub(crate) fn reserve_outcome(folder: &Path) -> Result<fs::File> {
    let room = folder.join("outcome.room");
    let reserve = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&room)?;
        file.write_all(&[b' '; OUTCOME_BYTES])?;
        fs::rename(&room, folder.join("outcome.reserved"))?;
        Ok(file)
    };
    reserve().map_err(|error: io::Error| {
        // Without them it is still seen that it never ran.
        let _frees_what_was_taken = fs::remove_file(&room);
        let _words = symlink(
            format!("no room for the outcome: {error}"),
            folder.join("outcome.unreserved"),
        );
        Fault::io("take room for the outcome in", &room)(error)
    })
}

/// Why no room could be taken for the outcome, where that is why nothing ran.
pub(crate) fn unreserved(folder: &Path) -> Result<Option<String>> {
    read_link(&folder.join("outcome.unreserved"))
}

impl Outcome {
    pub(crate) fn new(format: Format, end: End, started_at: Option<Timestamp>) -> Self {
        Self {
            format,
            end,
            started_at,
            finished_at: None,
            detail: None,
            message: None,
        }
    }

    pub(crate) fn with_message(mut self, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES {
            let end = (0..=MESSAGE_BYTES)
                .rev()
                .find(|at| message.is_char_boundary(*at))
                .unwrap_or(0);
            message.truncate(end);
        }
        self.message = Some(message);
        self
    }

    /// Puts it in its place for a supervisor that is gone. Others who look may do the same at the same time.
    pub(crate) fn put(&self, folder: &Path) -> Result<()> {
        let path = folder.join(format!("outcome-{}", uuid::Uuid::new_v4().simple()));
        let bytes = serde_json::to_vec(self).map_err(|error| Fault::io("write", &path)(io::Error::from(error)))?;
        fs::write(&path, bytes).map_err(Fault::io("write", &path))?;
        publish(&path, folder)
    }

    /// Writes it in the room taken by [`reserve_outcome`], and puts it in its place in one step. No fsync: what a crash
    /// of the machine takes with it has another boot id, and says so.
    pub(crate) fn write(&self, folder: &Path, reserved: fs::File) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let path = match executed(folder) {
            true => folder.join("outcome.running"),
            false => folder.join("outcome.reserved"),
        };
        let mut bytes = serde_json::to_vec(self).map_err(|error| Fault::io("write", &path)(io::Error::from(error)))?;
        // White space after a document is no part of it.
        bytes.resize(bytes.len().max(OUTCOME_BYTES), b' ');
        reserved.write_all_at(&bytes, 0).map_err(Fault::io("write", &path))?;
        match publish(&path, folder) {
            // The job has taken the room away.
            Err(Fault::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => self.put(folder),
            result => result,
        }
    }
}

/// Gives an outcome its name in one step, whatever the job has put there.
fn publish(path: &Path, folder: &Path) -> Result<()> {
    let outcome = folder.join("outcome.json");
    let renamed = match fs::rename(path, &outcome) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            fs::remove_dir_all(&outcome).and_then(|()| fs::rename(path, &outcome))
        }
        result => result,
    };
    renamed.map_err(Fault::io("publish", path))
}

/// What is damaged is as good as absent.
fn whole<T>(read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(Fault::Damaged { .. }) => Ok(None),
        result => result,
    }
}

/// Reads a record of ours; `None` where it is absent or was cut off by a crash of the machine.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    #[derive(Deserialize)]
    struct Number {
        format: Format,
    }
    let damaged = |what: String| Fault::Damaged {
        path: path.display().to_string(),
        what,
    };
    let bytes = match read_file(path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(damaged("it is no file of ours".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Fault::io("read", path)(error)),
    };
    match serde_json::from_slice::<Number>(&bytes) {
        // Also where it has our shape: what it means is known to that release.
        Ok(Number { format }) if format.is_newer() => Err(Fault::Newer {
            path: path.display().to_string(),
            format,
        }),
        Ok(_) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| damaged(error.to_string())),
        Err(_) => Ok(None),
    }
}

/// The bytes of a file of ours; `None` where something else stands in its place, which a job may have put there: it is
/// neither followed nor waited for, nor read without end.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    use nix::{errno::Errno, fcntl::OFlag};
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        // A link, or a socket.
        Err(error)
            if [Errno::ELOOP, Errno::ENXIO]
                .iter()
                .any(|no| error.raw_os_error() == Some(*no as i32)) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= RECORD_BYTES).then_some(bytes))
}

fn read_link(path: &Path) -> Result<Option<String>> {
    match fs::read_link(path) {
        Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
        // No link: whatever it is, it says nothing.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(Some(String::new())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::io("read", path)(error)),
    }
}

/// When it was told to go: its start time, from that moment on the same for all who look.
pub(crate) fn went_at(folder: &Path) -> Result<Option<Timestamp>> {
    let path = folder.join("verdict");
    match fs::symlink_metadata(&path).and_then(|metadata| metadata.modified()) {
        Ok(time) => Ok(Some(clock::from_system(time))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::io("read", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_verdict_counts_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(verdict(folder.path()).unwrap(), None);
        assert_eq!(decide(folder.path(), Verdict::Removed).unwrap(), Some(Verdict::Removed));
        assert_eq!(decide(folder.path(), Verdict::Go).unwrap(), Some(Verdict::Removed));
        assert_eq!(decide(&folder.path().join("gone"), Verdict::Go).unwrap(), None);
    }

    #[test]
    fn the_longest_outcome_fits_in_its_room() {
        let folder = tempfile::tempdir().unwrap();
        let at = Some(Timestamp::from_millis(1_763_600_000_007));
        let mut outcome = Outcome::new(Format::OWN, End::Signalled(9), at).with_message("\u{1}".repeat(9999));
        outcome.finished_at = at;
        outcome.detail = Some("E".repeat(64));
        assert!(serde_json::to_vec(&outcome).unwrap().len() <= OUTCOME_BYTES);
        outcome
            .write(folder.path(), reserve_outcome(folder.path()).unwrap())
            .unwrap();
        assert_eq!(read_json(&folder.path().join("outcome.json")).unwrap(), Some(outcome));
    }

    #[test]
    fn a_newer_format_is_told_and_a_torn_record_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outcome.json");
        let newer = Format::new(Format::OWN.number() + 1);
        let newer_shape = format!("{{\"format\": {newer}, \"shape\": \"new\"}}");
        let same_shape = Outcome::new(newer, End::Exited(0), None);
        for text in [newer_shape.into_bytes(), serde_json::to_vec(&same_shape).unwrap()] {
            fs::write(&path, text).unwrap();
            let read = read_json::<Outcome>(&path);
            assert!(
                matches!(read, Err(Fault::Newer { format, .. }) if format == newer),
                "{read:?}"
            );
        }
        fs::write(&path, br#"{"format": 1, "en"#).unwrap();
        assert_eq!(read_json::<Outcome>(&path).unwrap(), None);
        fs::write(&path, br#"{"format": 1, "end": "lost", "started_at": null, "finished_at": null, "detail": null, "message": null, "more": 1}"#).unwrap();
        assert!(
            matches!(read_json::<Outcome>(&path), Err(Fault::Damaged { .. })),
            "unknown fields are an error"
        );
        for other in ["folder", "pipe", "link"] {
            let path = folder.path().join(other);
            match other {
                "folder" => fs::create_dir(&path).unwrap(),
                "pipe" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap(),
                _ => symlink("/dev/zero", &path).unwrap(),
            }
            assert!(
                matches!(read_json::<Outcome>(&path), Err(Fault::Damaged { .. })),
                "{other}"
            );
        }
    }
}

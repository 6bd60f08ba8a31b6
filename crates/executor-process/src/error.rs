//! What can go wrong here, and what the caller does about it.

use std::{io, path::Path, time::Duration};

use nix::errno::Errno;
use robata_core::{Error, ErrorKind, Format};

pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The executor itself is set up wrongly.
    #[error("{0}")]
    Settings(String),
    /// The spec asks for what cannot be done here.
    #[error("{0}")]
    Refused(String),
    #[error("no process is called {0}")]
    Absent(String),
    #[error("{0} runs or has run")]
    Runs(String),
    #[error("the supervisor of {handle} did not end within {waited:?}")]
    Unanswered { handle: String, waited: Duration },
    #[error("{0}")]
    Lingers(String),
    #[error("{path} has format {format}, newer than this program knows")]
    Newer { path: String, format: Format },
    /// A job can reach its own folder, and do to our files there what it likes.
    #[error("{path} is not what was written there: {what}")]
    Damaged { path: String, what: String },
    #[error("cannot {doing} {path}")]
    Io {
        doing: &'static str,
        path: String,
        source: io::Error,
    },
    #[error("a task of the executor was ended")]
    Task(#[source] tokio::task::JoinError),
}

impl Fault {
    /// For `map_err`: what was being done, to which file.
    pub(crate) fn io<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io {
            doing,
            path,
            source: source.into(),
        }
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Settings(_) => ErrorKind::Invalid,
            Self::Refused(_) => ErrorKind::StartRefused,
            Self::Absent(_) => ErrorKind::NotFound,
            Self::Runs(_) => ErrorKind::StillRuns,
            Self::Unanswered { .. } | Self::Lingers(_) => ErrorKind::Unavailable,
            // Left for a worker that knows it (PROTOCOL V1): nobody's fault, and no refusal of what is asked for.
            Self::Newer { .. } => ErrorKind::Unavailable,
            Self::Damaged { .. } | Self::Task(_) => ErrorKind::Internal,
            Self::Io { source, .. } => match source.raw_os_error().map(Errno::from_raw) {
                // The machine is full: of disk, memory, open files or processes. It may have room later.
                Some(Errno::ENOSPC | Errno::EDQUOT | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN) => {
                    ErrorKind::NoCapacity
                }
                // The state folder does not serve now: a disk that fails, or was mounted again read-only, or its rights.
                Some(Errno::EIO | Errno::EROFS | Errno::EACCES | Errno::EPERM | Errno::ESTALE | Errno::ENODEV) => {
                    ErrorKind::Unavailable
                }
                _ => ErrorKind::Internal,
            },
        }
    }

    /// The error of the seam.
    pub(crate) fn at(self, operation: &'static str) -> Error {
        let error = Error::new(self.kind(), operation, self.to_string());
        match self {
            Self::Io { source, .. } => error.with_source(source),
            Self::Task(source) => error.with_source(source),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_state_folder_is_never_the_jobs() {
        let kind = |errno: Errno| {
            let fault = Fault::io("write", Path::new("lock"))(io::Error::from(errno));
            fault.at("process.prepare").kind()
        };
        for errno in [Errno::EIO, Errno::EROFS, Errno::EACCES, Errno::EPERM] {
            assert_eq!(kind(errno), ErrorKind::Unavailable, "{errno}");
        }
        assert_eq!(kind(Errno::ENOSPC), ErrorKind::NoCapacity);
        let newer = Fault::Newer {
            path: "lock".into(),
            format: Format::new(2),
        };
        assert_eq!(newer.at("process.prepare").kind(), ErrorKind::Unavailable);
    }
}

//! What goes wrong in this store, and its one mapping to the error of all seams.

use robata_core::{Error, ErrorKind};

/// A result with [`Fault`].
pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;

/// A fault inside the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The request is refused; nothing was written for it. Does not touch the rest of its group.
    #[error(transparent)]
    Refused(#[from] Error),
    #[error("the database refused it")]
    Sql(#[from] sqlx::Error),
    #[error("the database's schema could not be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("a stored row cannot be read: {0}")]
    BadRow(String),
    #[error("a stored document cannot be read")]
    Json(#[from] serde_json::Error),
    #[error("an operation of the store panicked: {0}")]
    Panicked(String),
}

/// Primary result codes, <https://www.sqlite.org/rescode.html>.
mod code {
    pub(super) const BUSY: u32 = 5;
    pub(super) const LOCKED: u32 = 6;
    pub(super) const READONLY: u32 = 8;
    pub(super) const IOERR: u32 = 10;
    pub(super) const FULL: u32 = 13;
    pub(super) const CANTOPEN: u32 = 14;
}

impl Fault {
    /// SQLite's primary result code.
    fn code(&self) -> Option<u32> {
        let Self::Sql(error) = self else { return None };
        let code: u32 = error.as_database_error()?.code()?.parse().ok()?;
        Some(code & 0xff)
    }

    /// Whether somebody else holds the database for a moment.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.code(), Some(code::BUSY | code::LOCKED))
    }

    /// Whether the disk, not the request, is at fault: the same would happen to every request now.
    pub(crate) fn is_environment(&self) -> bool {
        self.breaks_connection() || self.is_busy() || matches!(self.code(), Some(code::READONLY))
    }

    /// Whether one stored row is at fault, and whatever is done with it: others are none the worse for it.
    pub(crate) fn is_of_one_row(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::BadRow(_)
                | Self::Json(_)
                | Self::Sql(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
        )
    }

    /// Whether the connection must be made anew.
    pub(crate) fn breaks_connection(&self) -> bool {
        matches!(
            self,
            Self::Sql(
                sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed
            )
        ) || matches!(self.code(), Some(code::IOERR | code::CANTOPEN))
    }

    /// What the caller is told. By reference: one fault may answer a whole group.
    pub(crate) fn to_error(&self, operation: &'static str) -> Error {
        if let Self::Refused(error) = self {
            return Error::new(error.kind(), error.operation(), error.message()).with_retry(error.retry());
        }
        let unavailable = self.is_environment() || self.code() == Some(code::FULL);
        let kind = if unavailable {
            ErrorKind::Unavailable
        } else {
            ErrorKind::Internal
        };
        let cause = match self {
            Self::Sql(error) => match error.as_database_error() {
                Some(database) => format!(
                    "{} (SQLite code {})",
                    database.message(),
                    database.code().unwrap_or_default()
                ),
                None => error.to_string(),
            },
            other => chain(other),
        };
        let message = if unavailable {
            format!("the store does not serve now: {cause}")
        } else {
            format!("the store failed: {cause}")
        };
        Error::new(kind, operation, message)
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// A refusal.
pub(crate) fn refused(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Fault {
    Fault::Refused(Error::new(kind, operation, message))
}

//! What goes wrong in this store, and its one mapping to the error of all seams.

use std::time::Duration;

use robata_core::{Error, ErrorKind, Retry};

/// A result with [`Fault`].
pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;

/// A fault inside the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The request is refused; its transaction is rolled back.
    #[error(transparent)]
    Refused(#[from] Error),
    #[error("the database refused it")]
    Sql(#[from] sqlx::Error),
    /// Another transaction was faster with the same key or id: the same again finds it.
    #[error("another transaction stored the same at the same time")]
    Raced,
    #[error("no answer within {} ms", .0.as_millis())]
    Slow(Duration),
    /// The connection broke while the commit was under way.
    #[error("the connection broke during the commit, so that it is not known whether it took place: {0}")]
    CommitUnknown(Box<Fault>),
    #[error("a stored row cannot be read: {0}")]
    BadRow(String),
    #[error("a stored document cannot be read")]
    Json(#[from] serde_json::Error),
    #[error("an operation of the store panicked: {0}")]
    Panicked(String),
    #[error("no randomness: {0}")]
    Random(getrandom::Error),
}

/// What a fault of the database means, by <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The connection is gone, or could not be had.
    Connection,
    /// The server does not serve now: it ends, starts, is full, or only reads.
    Environment,
    /// It was rolled back for another transaction's sake.
    Again,
    /// Anything else.
    Other,
}

/// "Cached plan must not change result type": none of our statements asks for what a server does not support.
const STALE_PLAN: &str = "0A000";

fn class_of_code(code: &str) -> Class {
    match code {
        "40001" | "40P01" => Class::Again,
        // A statement was prepared before a migration changed what it answers.
        STALE_PLAN => Class::Again,
        // Admin and crash shutdown, cannot connect now, database dropped, idle in transaction.
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25P03" => Class::Connection,
        // Read only (a standby), statement or lock time-out.
        "25006" | "57014" | "55P03" => Class::Environment,
        // No access (28), no such database (3D), resources (53), the system itself (58).
        _ if ["28", "3D", "53", "58"].iter().any(|class| code.starts_with(class)) => Class::Environment,
        _ if code.starts_with("08") => Class::Connection,
        _ => Class::Other,
    }
}

impl Fault {
    /// Whether a statement was prepared too long ago for what the tables are now: another connection prepares it anew.
    pub(crate) fn is_stale_plan(&self) -> bool {
        matches!(self, Self::Sql(sqlx::Error::Database(error)) if error.code().as_deref() == Some(STALE_PLAN))
    }

    /// Whether a lock was not had in the time that was given for it.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        matches!(self, Self::Sql(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03"))
    }

    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Sql(error) => match error {
                sqlx::Error::Database(error) => error.code().map_or(Class::Other, |code| class_of_code(&code)),
                sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                    Class::Connection
                }
                sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Class::Environment,
                _ => Class::Other,
            },
            Self::Raced => Class::Again,
            Self::Slow(_) | Self::CommitUnknown(_) => Class::Environment,
            _ => Class::Other,
        }
    }

    /// Whether the server or the way to it, not the request, is at fault: the same would happen to every request now.
    pub(crate) fn is_environment(&self) -> bool {
        self.class() != Class::Other
    }

    /// Whether one stored row is at fault, and whatever is done with it: others are none the worse for it.
    pub(crate) fn is_of_one_row(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::BadRow(_) | Self::Json(_))
    }

    fn words(&self) -> String {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => {
                format!("{} (SQLSTATE {})", error.message(), error.code().unwrap_or_default())
            }
            Self::Sql(sqlx::Error::PoolTimedOut) => "no connection could be had in time".to_owned(),
            Self::Sql(error) => chain(error),
            Self::CommitUnknown(cause) => format!(
                "the connection broke during the commit, so that it is not known whether it took place: {}",
                cause.words()
            ),
            other => chain(other),
        }
    }

    /// What the caller is told. By reference: one fault may answer a whole group.
    pub(crate) fn to_error(&self, operation: &'static str) -> Error {
        if let Self::Refused(error) = self {
            return Error::new(error.kind(), error.operation(), error.message()).with_retry(error.retry());
        }
        if self.is_environment() {
            let message = format!("the store does not serve now: {}", self.words());
            Error::new(ErrorKind::Unavailable, operation, message)
        } else {
            let message = format!("the store failed: {}", self.words());
            Error::new(ErrorKind::Internal, operation, message)
        }
    }
}

/// An error of opening the store: what only a person can set right is not worth another try, as it is in the midst of work,
/// where a password may just be changing.
pub(crate) fn at_opening(fault: &Fault) -> Error {
    let error = fault.to_error("store.open");
    let for_a_person = match fault {
        // No access, and no such database.
        Fault::Sql(sqlx::Error::Database(error)) => error
            .code()
            .is_some_and(|code| code.starts_with("28") || code.starts_with("3D")),
        Fault::Sql(sqlx::Error::Tls(_)) => true,
        // What a TLS handshake found in the server's certificate.
        Fault::Sql(sqlx::Error::Io(error)) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    };
    match for_a_person {
        true => error.with_retry(Retry::No),
        false => error,
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

/// A refusal.
pub(crate) fn refused(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Fault {
    Fault::Refused(Error::new(kind, operation, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_has_a_class() {
        for (code, class) in [
            ("40001", Class::Again),
            ("40P01", Class::Again),
            ("0A000", Class::Again),
            ("57P01", Class::Connection),
            ("08006", Class::Connection),
            ("53100", Class::Environment),
            ("53300", Class::Environment),
            ("25006", Class::Environment),
            ("57014", Class::Environment),
            ("23505", Class::Other),
            ("42P01", Class::Other),
        ] {
            assert_eq!(class_of_code(code), class, "{code}");
        }
    }

    #[test]
    fn a_lost_connection_may_be_tried_again_and_a_bad_row_not() {
        let lost = Fault::Sql(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())).to_error("store.x");
        assert_eq!(lost.kind(), ErrorKind::Unavailable);
        assert_eq!(lost.retry(), Retry::Yes);
        assert_eq!(
            Fault::BadRow("x".into()).to_error("store.x").kind(),
            ErrorKind::Internal
        );
    }

    #[test]
    fn at_its_opening_a_store_waits_for_a_server_and_for_no_person() {
        let io = |kind: std::io::ErrorKind| at_opening(&Fault::Sql(sqlx::Error::Io(kind.into())));
        for kind in [
            std::io::ErrorKind::ConnectionRefused,
            std::io::ErrorKind::UnexpectedEof,
            std::io::ErrorKind::NotFound,
        ] {
            assert_eq!(io(kind).retry(), Retry::Yes, "{kind}");
        }
        assert_eq!(io(std::io::ErrorKind::InvalidData).retry(), Retry::No);
        let tls = at_opening(&Fault::Sql(sqlx::Error::Tls("server does not support TLS".into())));
        assert_eq!((tls.kind(), tls.retry()), (ErrorKind::Unavailable, Retry::No));
        assert_eq!(at_opening(&Fault::Slow(Duration::from_secs(3))).retry(), Retry::Yes);
    }
}

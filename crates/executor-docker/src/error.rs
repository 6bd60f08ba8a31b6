//! What can go wrong with an engine, and the one mapping to the seam's error.

use std::time::Duration;

use bollard::errors::Error as Client;
use robata_core::{Error, ErrorKind};

/// A fault of a call to the engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// There is no engine where we look, or it does not answer.
    #[error("cannot reach Docker at {host}: is it running?")]
    Unreachable {
        host: String,
        #[source]
        source: Client,
    },
    /// We may not use its socket.
    #[error("may not use Docker at {host}: the user needs the right to its socket (group docker)")]
    Forbidden {
        host: String,
        #[source]
        source: Client,
    },
    /// It took too long.
    #[error("Docker at {host} did not answer within {} s", after.as_secs())]
    Slow { host: String, after: Duration },
    /// It answered with an error.
    #[error("{message}")]
    Refused { status: u16, message: String },
    /// It answered with what we cannot read.
    #[error("Docker at {host} gave an answer that makes no sense")]
    Unreadable {
        host: String,
        #[source]
        source: Client,
    },
}

impl Fault {
    pub(crate) fn of(host: &str, error: Client) -> Self {
        let host = host.to_owned();
        match error {
            Client::DockerResponseServerError { status_code, message } => Self::Refused {
                status: status_code,
                message: message.trim().to_owned(),
            },
            Client::DockerStreamError { error } => Self::Refused {
                status: 500,
                message: error.trim().to_owned(),
            },
            source @ (Client::JsonDataError { .. }
            | Client::JsonSerdeError { .. }
            | Client::StrParseError { .. }
            | Client::APIVersionParseError {}) => Self::Unreadable { host, source },
            source if is_permission(&source) => Self::Forbidden { host, source },
            source => Self::Unreachable { host, source },
        }
    }

    /// Whether the answer could not be read for a container's state that passes, see `Engine::settled`.
    pub(crate) fn is_unsettled(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.to_string().contains("unknown variant `stopped`"))
    }

    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether there is no such thing; Podman says so of a container in words alone, where it goes at that moment.
    pub(crate) fn is_absent(&self) -> bool {
        match self {
            Self::Refused { status, message } => *status == 404 || message.ends_with("no such container"),
            _ => false,
        }
    }

    /// The engine's own words, where it said something.
    pub(crate) fn words(&self) -> String {
        self.to_string()
    }

    /// The seam's error for a call that has no meaning of its own for the engine's refusals.
    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        let kind = match &self {
            Self::Unreachable { .. } | Self::Forbidden { .. } | Self::Slow { .. } => ErrorKind::Unavailable,
            Self::Unreadable { .. } => ErrorKind::Internal,
            Self::Refused { status: 404, .. } => ErrorKind::NotFound,
            Self::Refused { status: 400, .. } => ErrorKind::Invalid,
            Self::Refused { status: 409, .. } => ErrorKind::Conflict,
            Self::Refused { message, .. } if is_room(message) => ErrorKind::NoCapacity,
            // The engine failed at something that is not the request's fault; it is tried again.
            Self::Refused { .. } => ErrorKind::Unavailable,
        };
        self.of_kind(kind, operation)
    }

    /// The seam's error of this kind with the engine's words.
    pub(crate) fn of_kind(self, kind: ErrorKind, operation: &'static str) -> Error {
        let error = Error::new(kind, operation, self.to_string());
        match self {
            Self::Unreachable { source, .. } | Self::Forbidden { source, .. } | Self::Unreadable { source, .. } => {
                error.with_source(source)
            }
            Self::Slow { .. } | Self::Refused { .. } => error,
        }
    }
}

/// Whether the engine's words say that the machine has no room now, which passes.
pub(crate) fn is_room(message: &str) -> bool {
    const WORDS: [&str; 6] = [
        "no space left on device",
        "cannot allocate memory",
        "resource temporarily unavailable",
        "too many open files",
        "no available ipv4 addresses",
        "disk quota exceeded",
    ];
    let message = message.to_lowercase();
    WORDS.iter().any(|words| message.contains(words))
}

fn is_permission(error: &Client) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::PermissionDenied
        {
            return true;
        }
        next = error.source();
    }
    false
}

//! What can go wrong between a client and its server, in words for whoever sits before the terminal.

use robata_api_types::Problem;

/// An error of the client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server's address is none.
    #[error("{server:?} is no server address (as http://127.0.0.1:7070): {message}")]
    InvalidServer {
        /// As it was given.
        server: String,
        /// What is wrong with it.
        message: String,
    },
    /// Nobody answers there.
    #[error("cannot reach the server at {server}; is `robata up` running?")]
    Unreachable {
        /// The server's address.
        server: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// The connection was lost in the middle of an answer.
    #[error("the answer of the server at {server} broke off")]
    BrokeOff {
        /// The server's address.
        server: String,
        /// The cause, where there is one.
        source: Option<reqwest::Error>,
    },
    /// The server refused, and says why.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The server wants a token, or another one (401).
    #[error(
        "{}",
        match with_token {
            true => format!("the server at {server} does not accept the token: it is unknown, was revoked, or has expired"),
            false => format!("the server at {server} needs a token"),
        }
    )]
    Unauthenticated {
        /// The server's address.
        server: String,
        /// Whether the request had a token.
        with_token: bool,
        /// What the server said.
        problem: Box<Problem>,
    },
    /// The token can be none: it has a space, a line's end, or another character that no header holds.
    #[error("the token is none: it has characters that no token has (a line's end, a space?)")]
    InvalidToken,
    /// Something answered that is not Robata's API.
    #[error("the server at {server} answered {status} and not as Robata does: {body}")]
    Unexpected {
        /// The server's address.
        server: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        body: String,
    },
    /// An answer that this client cannot read.
    #[error("cannot read the answer of the server at {server}")]
    Decode {
        /// The server's address.
        server: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// A line of a log that this client cannot read.
    #[error("cannot read the log that the server at {server} sends: {message}")]
    Log {
        /// The server's address.
        server: String,
        /// What is wrong with the line.
        message: String,
    },
}

impl ClientError {
    /// The problem that the server answered, if it did.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) | Self::Unauthenticated { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// Whether the same call may succeed later: nobody answers, the answer broke off, or the server says 503.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::BrokeOff { .. } => true,
            Self::Problem(problem) => problem.status == 503,
            _ => false,
        }
    }
}

//! What can go wrong with Redis, and the one mapping to the seam's error.

use std::time::Duration;

use redis::RedisError;
use robata_core::{Error, ErrorKind, Retry, job::Line};

/// Where only a person can help, asking more often helps nobody.
const FOR_A_PERSON: Duration = Duration::from_secs(10);

/// A fault of the caller, the connection or the server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// A body over the bound.
    #[error("a message for {line} has {bytes} bytes; at most {max} are taken (max_body_bytes)")]
    BodyTooLarge { line: Line, bytes: usize, max: usize },
    /// More attributes than a script can carry.
    #[error("a message for {line} has {count} attributes; at most {max} are taken")]
    TooManyAttributes { line: Line, count: usize, max: usize },
    /// A weight of 0 would never be offered anything.
    #[error("the weight of {line} is 0; weights are counted from 1")]
    NoWeight { line: Line },
    /// A receipt that no Redis queue made.
    #[error("{receipt:?} is no receipt of this queue")]
    NoReceipt { receipt: String },
    /// An option that cannot be.
    #[error("{0}")]
    Config(String),
    /// The URL, the certificates, or what they name.
    #[error("the address of Redis cannot be used")]
    Address(#[source] RedisError),
    /// The server is too old.
    #[error("Redis {version} is too old: streams are used as of Redis 6.2 or any Valkey")]
    TooOld { version: String },
    /// The server may throw messages away.
    #[error(
        "Redis may evict messages: its maxmemory-policy is {policy}, not noeviction (set it, of a managed service among its parameters, or choose to be only warned)"
    )]
    Evicts { policy: String },
    /// No connection yet, and it is not the time to try again.
    #[error("Redis could not be reached: {last}")]
    Resting { last: String, left: Duration },
    /// No answer in time.
    #[error("Redis did not answer within {0:?}")]
    Silent(Duration),
    /// An answer that is none of the protocol's.
    #[error("Redis answered something unexpected: {0}")]
    Answer(String),
    /// A script met an error on one line's stream.
    #[error("{} ({key}: {error})", words_of(code_in(.error).unwrap_or_default()))]
    Stream { key: String, error: String },
    /// Everything that the server or the connection says.
    #[error("{}", words(.0))]
    Redis(#[source] RedisError),
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

/// The server's error code, also out of a pipeline, a transaction or a script; empty where it is not the server's error.
fn code(error: &RedisError) -> String {
    // A pipeline's and a transaction's own code says nothing: the errors in it do.
    let inner = error.clone().into_server_errors();
    let inner = inner
        .as_ref()
        .and_then(|errors| errors.first().map(|(_, error)| error.code()));
    let Some(whole) = inner.or(error.code()).map(str::to_owned) else {
        return String::new();
    };
    match whole.as_str() {
        // What failed inside a script or a transaction stands in its text only.
        "ERR" | "EXECABORT" => code_in(&error.to_string()).map_or(whole, str::to_owned),
        _ => whole,
    }
}

fn code_in(text: &str) -> Option<&'static str> {
    // The words of Redis up to 7.0, and those of later ones and of Valkey.
    let forbidden = ["The user executing the script can't", "ACL failure in script"];
    if forbidden.iter().any(|words| text.contains(words)) {
        return Some("NOPERM");
    }
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.find_map(|word| CODES.iter().find(|code| **code == word).copied())
}

/// The codes that mean something to us.
const CODES: &[&str] = &[
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "MOVED",
    "ASK",
    "TRYAGAIN",
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "WRONGTYPE",
];

fn words(error: &RedisError) -> &'static str {
    match code(error).as_str() {
        "" if error.is_timeout() => "Redis did not answer in time",
        "" if is_login(error) => "Redis refuses the user or the password",
        "" => "the connection to Redis failed",
        code => words_of(code),
    }
}

fn words_of(code: &str) -> &'static str {
    match code {
        "LOADING" => "Redis is still loading its data",
        "READONLY" => "this Redis is a replica: it takes no writes",
        "MASTERDOWN" | "CLUSTERDOWN" => "the Redis cluster does not serve now",
        "MOVED" => "another node of the Redis cluster has this installation's keys now",
        "ASK" | "TRYAGAIN" => "the Redis cluster is moving this installation's keys to another node",
        "BUSY" => "Redis is busy with somebody's script",
        "MISCONF" => "Redis refuses writes: it cannot save its data to disk",
        "NOREPLICAS" => "Redis refuses writes: it has too few replicas",
        "OOM" => "Redis has no memory left for messages (maxmemory)",
        "NOAUTH" => "Redis wants a password",
        "WRONGPASS" => "Redis refuses the user or the password",
        "NOPERM" => "Redis does not let this user do that (ACL; the README lists what is needed)",
        "WRONGTYPE" => "a key of a line holds something else than a stream",
        _ => "Redis answered with an error",
    }
}

fn is_login(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::AuthenticationFailed
}

impl Fault {
    /// Whether the connection is of no more use after this.
    pub(crate) fn ends_connection(&self) -> bool {
        match self {
            Self::Redis(error) => matches!(code(error).as_str(), "" | "NOAUTH") || self.is_elsewhere(),
            Self::Silent(_) => true,
            _ => false,
        }
    }

    /// Whether another server has the keys now, or will: a new connection finds it. Nothing was done here, not even in
    /// part: it is answered before a command, a script or a transaction begins.
    pub(crate) fn is_elsewhere(&self) -> bool {
        let elsewhere = ["MOVED", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "LOADING"];
        matches!(self, Self::Redis(error) if elsewhere.contains(&code(error).as_str()))
    }

    /// Where the keys are, as the node of a cluster says that has not got them: `HOST:PORT`.
    pub(crate) fn moved_to(&self) -> Option<&str> {
        match self {
            Self::Redis(error) if error.code() == Some("MOVED") => error.redirect_node().map(|(node, _)| node),
            _ => None,
        }
    }

    /// Whether a server said it, not the network.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, Self::Redis(error) if !code(error).is_empty() || is_login(error))
    }

    /// Whether the server itself answered so: then it has given nothing, and the connection is good.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Redis(_) | Self::Stream { .. }) && !self.ends_connection()
    }

    /// Whether the server said that a line's group is gone, by a flush or by a person.
    pub(crate) fn group_is_gone(&self) -> bool {
        matches!(self, Self::Redis(error) if matches!(error.code(), Some("NOGROUP" | "UNBLOCKED")))
    }

    /// Whether there is no such group, or no such stream at all.
    pub(crate) fn stream_is_gone(&self) -> bool {
        let no_key = |error: &RedisError| error.to_string().contains("no such key");
        self.group_is_gone() || matches!(self, Self::Redis(error) if no_key(error))
    }

    /// The seam's error.
    pub(crate) fn at(self, operation: &'static str) -> Error {
        let (kind, retry) = self.verdict();
        let mut error = Error::new(kind, operation, self.to_string());
        if let Some(retry) = retry {
            error = error.with_retry(retry);
        }
        match self {
            Self::Redis(source) | Self::Address(source) => error.with_source(source),
            _ => error,
        }
    }

    /// A fault of the server's settings is `Unavailable`, not `Invalid`: the message is good, and so will the server be.
    fn verdict(&self) -> (ErrorKind, Option<Retry>) {
        let person = Some(Retry::After(FOR_A_PERSON));
        match self {
            Self::BodyTooLarge { .. }
            | Self::TooManyAttributes { .. }
            | Self::NoWeight { .. }
            | Self::NoReceipt { .. }
            | Self::Config(_)
            | Self::Address(_) => (ErrorKind::Invalid, None),
            Self::TooOld { .. } | Self::Evicts { .. } => (ErrorKind::Unavailable, person),
            Self::Resting { left, .. } => (ErrorKind::Unavailable, Some(Retry::After(*left))),
            Self::Silent(_) => (ErrorKind::Unavailable, None),
            Self::Answer(_) => (ErrorKind::Internal, None),
            Self::Stream { error, .. } => verdict_of(code_in(error).unwrap_or_default()),
            Self::Redis(error) => match code(error).as_str() {
                "" if is_login(error) => (ErrorKind::Unavailable, person),
                "" if error.kind() == redis::ErrorKind::UnexpectedReturnType => (ErrorKind::Internal, None),
                "" => (ErrorKind::Unavailable, None),
                code => verdict_of(code),
            },
        }
    }
}

/// What the caller does next, by the server's code.
fn verdict_of(code: &str) -> (ErrorKind, Option<Retry>) {
    match code {
        "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "MOVED" | "ASK" | "TRYAGAIN" | "BUSY"
        | "NOREPLICAS" => (ErrorKind::Unavailable, None),
        "MISCONF" | "NOAUTH" | "WRONGPASS" | "NOPERM" => (ErrorKind::Unavailable, Some(Retry::After(FOR_A_PERSON))),
        "OOM" => (ErrorKind::NoCapacity, Some(Retry::After(Duration::from_secs(1)))),
        _ => (ErrorKind::Internal, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str) -> Error {
        Fault::from(redis::make_extension_error(
            code.to_owned(),
            Some("as it says".to_owned()),
        ))
        .at("queue.publish")
    }

    #[test]
    fn each_answer_of_the_server_has_its_kind() {
        for (code, kind) in [
            ("LOADING", ErrorKind::Unavailable),
            ("READONLY", ErrorKind::Unavailable),
            ("MASTERDOWN", ErrorKind::Unavailable),
            ("CLUSTERDOWN", ErrorKind::Unavailable),
            ("MOVED", ErrorKind::Unavailable),
            ("ASK", ErrorKind::Unavailable),
            ("MISCONF", ErrorKind::Unavailable),
            ("NOAUTH", ErrorKind::Unavailable),
            ("WRONGPASS", ErrorKind::Unavailable),
            ("NOPERM", ErrorKind::Unavailable),
            ("OOM", ErrorKind::NoCapacity),
            ("WRONGTYPE", ErrorKind::Internal),
            ("ODD", ErrorKind::Internal),
        ] {
            let error = server(code);
            assert_eq!(error.kind(), kind, "{code}: {error:?}");
            assert!(error.full().contains("as it says"), "{}", error.full());
        }
    }

    #[test]
    fn what_only_a_person_can_change_is_not_asked_for_at_once() {
        for code in ["NOPERM", "WRONGPASS", "NOAUTH"] {
            assert!(matches!(server(code).retry(), Retry::After(_)), "{code}");
        }
        assert_eq!(server("LOADING").retry(), Retry::Yes);
        assert_eq!(server("WRONGTYPE").retry(), Retry::No);
    }
}

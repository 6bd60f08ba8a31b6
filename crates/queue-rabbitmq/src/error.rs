//! What can go wrong with RabbitMQ, and the one mapping to the seam's error.

use std::time::Duration;

use lapin::ErrorKind as Lapin;
use robata_core::{Error, ErrorKind, Retry, job::Line};

/// Where only a person can help, asking more often helps nobody.
const FOR_A_PERSON: Duration = Duration::from_secs(10);
/// How soon a broker that has no room may have some.
const FOR_ROOM: Duration = Duration::from_secs(1);

/// AMQP's reply codes that mean something to us: the specification's, and what RabbitMQ does with them.
pub(crate) mod code {
    pub(crate) const TOO_LARGE: u16 = 311;
    pub(crate) const FORBIDDEN: u16 = 403;
    pub(crate) const NOT_FOUND: u16 = 404;
    pub(crate) const LOCKED: u16 = 405;
    pub(crate) const PRECONDITION: u16 = 406;
    pub(crate) const NO_RESOURCE: u16 = 506;
    /// A virtual host that is not there, or is not for this user.
    pub(crate) const NOT_ALLOWED: u16 = 530;
}

/// A fault of the caller, the connection or the broker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// A body over the bound.
    #[error("a message for {line} has {bytes} bytes; at most {max} are taken (max_body_bytes)")]
    BodyTooLarge { line: Line, bytes: usize, max: usize },
    /// Attributes that do not fit into the one frame that must hold them.
    #[error("the attributes of a message for {line} take {bytes} bytes; at most {max} fit into a frame")]
    AttributesTooLarge { line: Line, bytes: usize, max: usize },
    /// An attribute whose name AMQP cannot carry.
    #[error("an attribute of a message for {line} has a name of {bytes} bytes; at most {max} are taken")]
    NameTooLong { line: Line, bytes: usize, max: usize },
    /// A weight of 0 would never be offered anything.
    #[error("the weight of {line} is 0; weights are counted from 1")]
    NoWeight { line: Line },
    /// A receipt that no queue of this process made.
    #[error("{receipt:?} is no receipt of this queue")]
    NoReceipt { receipt: String },
    /// An option that cannot be.
    #[error("{0}")]
    Config(String),
    /// The broker is too old.
    #[error("RabbitMQ {version} is too old: streams and quorum queues are used as of RabbitMQ 3.10")]
    TooOld { version: String },
    /// Whoever answers is no broker.
    #[error("what answers at the address does not speak AMQP 0-9-1")]
    OtherProtocol,
    /// No connection yet, and it is not the time to try again.
    #[error("RabbitMQ could not be reached: {last}")]
    Resting { last: String, left: Duration },
    /// No answer in time.
    #[error("RabbitMQ did not answer within {0:?}")]
    Silent(Duration),
    /// The broker answers, and a queue of it does not.
    #[error(
        "RabbitMQ answers, but its queue {name} does not: it has no leader (`rabbitmq-queues quorum_status` tells of its members)"
    )]
    Mute { name: String },
    /// The broker takes no messages now (an alarm of memory or disk).
    #[error("RabbitMQ takes no messages now: {reason}")]
    Blocked { reason: String },
    /// The broker has told some messages not to be kept.
    #[error(
        "RabbitMQ has refused {refused} of {of} messages for {line}: a length limit of the line is reached, or its queue has failed"
    )]
    Refused { line: Line, refused: usize, of: usize },
    /// The line's queue was made, and is gone again.
    #[error("the queue of {line} is deleted as soon as it is made")]
    Unroutable { line: Line },
    /// What is acknowledged is the broker's again.
    #[error(
        "{count} messages are RabbitMQ's again, which lost the channel that they came by; they will be delivered once more"
    )]
    Gone { count: usize },
    /// The stream beside a line holds no key.
    #[error("the stream {name} tells no key")]
    NoKey { name: String },
    /// The task that did the work is gone.
    #[error("the runtime of this queue has ended")]
    Ended,
    /// Everything that the broker or the connection says.
    #[error("{}", words(.0))]
    Rabbit(#[source] lapin::Error),
}

impl From<lapin::Error> for Fault {
    fn from(error: lapin::Error) -> Self {
        Self::Rabbit(error)
    }
}

/// A fault of a receive, and the line whose it is, if it is one line's alone.
#[derive(Debug)]
pub(crate) struct At {
    pub(crate) line: Option<Line>,
    pub(crate) fault: Fault,
}

impl At {
    /// What happened to this line.
    pub(crate) fn line(line: &Line, fault: Fault) -> Self {
        Self {
            line: fault.is_of_one_queue().then(|| line.clone()),
            fault,
        }
    }
}

impl From<Fault> for At {
    fn from(fault: Fault) -> Self {
        Self { line: None, fault }
    }
}

fn reply(error: &lapin::Error) -> Option<(u16, &str)> {
    match error.kind() {
        Lapin::ProtocolError(error) => Some((error.get_id(), error.get_message().as_str())),
        _ => None,
    }
}

fn words(error: &lapin::Error) -> &'static str {
    let Some((code, text)) = reply(error) else {
        return match error.kind() {
            Lapin::IOError(_) | Lapin::RuntimeShutdownError(_) => "the connection to RabbitMQ failed",
            Lapin::MissingHeartbeatError => "RabbitMQ has fallen silent",
            Lapin::InvalidConnectionState(_) | Lapin::InvalidChannelState(..) | Lapin::InvalidChannel(_) => {
                "the connection to RabbitMQ is closed"
            }
            Lapin::ChannelsLimitReached => "RabbitMQ gives this connection no more channels (channel_max)",
            _ => "RabbitMQ answered something unexpected",
        };
    };
    match code {
        code::FORBIDDEN if text.contains("Login was refused") => "RabbitMQ refuses the user or the password",
        code::FORBIDDEN => "RabbitMQ does not let this user do that (the README lists the permissions needed)",
        code::NOT_ALLOWED => "RabbitMQ has no such virtual host, or it is not for this user",
        code::NOT_FOUND => "a queue is not there",
        code::LOCKED => "a queue is somebody's own",
        code::PRECONDITION if text.contains("message size") => "a message is larger than RabbitMQ's max_message_size",
        code::TOO_LARGE => "a message is larger than RabbitMQ takes",
        code::PRECONDITION if text.contains("inequivalent") => {
            "a queue of this name is there and is of another kind than a line needs"
        }
        code::PRECONDITION => "RabbitMQ refuses that",
        code::NO_RESOURCE => "RabbitMQ has no room",
        320 => "RabbitMQ closes the connection (it stops, or an operator said so)",
        _ => "RabbitMQ answered with an error",
    }
}

impl Fault {
    /// The broker's reply code and words, where it was the broker that said something.
    pub(crate) fn reply(&self) -> Option<(u16, &str)> {
        match self {
            Self::Rabbit(error) => reply(error),
            _ => None,
        }
    }

    /// Whether it is the broker's answer that there is no such queue. A queue whose node is down has the same code, and is
    /// not missing at all.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self.reply(), Some((code::NOT_FOUND, text)) if text.contains("no queue"))
    }

    /// Whether it is about one queue, and another may do.
    pub(crate) fn is_of_one_queue(&self) -> bool {
        matches!(self, Self::Mute { .. })
            || matches!(
                self.reply(),
                Some((code::FORBIDDEN | code::NOT_FOUND | code::LOCKED | code::PRECONDITION, _))
            )
    }

    /// Whether it is not an answer but the end of the connection: the same may go well on another one.
    pub(crate) fn is_broken_connection(&self) -> bool {
        match self {
            Self::Rabbit(error) => reply(error).is_none_or(|(code, _)| code == 320),
            _ => false,
        }
    }

    /// The seam's error.
    pub(crate) fn at(self, operation: &'static str) -> Error {
        let (kind, retry) = self.verdict();
        let mut error = Error::new(kind, operation, self.to_string());
        if let Some(retry) = retry {
            error = error.with_retry(retry);
        }
        match self {
            Self::Rabbit(source) => error.with_source(source),
            _ => error,
        }
    }

    /// A fault of the broker's settings is `Unavailable`, not `Invalid`: the message is good, and so will the broker be.
    fn verdict(&self) -> (ErrorKind, Option<Retry>) {
        let person = Some(Retry::After(FOR_A_PERSON));
        match self {
            Self::BodyTooLarge { .. }
            | Self::AttributesTooLarge { .. }
            | Self::NameTooLong { .. }
            | Self::NoWeight { .. }
            | Self::NoReceipt { .. }
            | Self::Config(_) => (ErrorKind::Invalid, None),
            Self::TooOld { .. } | Self::OtherProtocol => (ErrorKind::Unavailable, person),
            Self::Resting { left, .. } => (ErrorKind::Unavailable, Some(Retry::After(*left))),
            Self::Silent(_) | Self::Mute { .. } | Self::Unroutable { .. } | Self::NoKey { .. } | Self::Ended => {
                (ErrorKind::Unavailable, None)
            }
            // Once more would acknowledge nothing: these receipts are spent.
            Self::Gone { .. } => (ErrorKind::Unavailable, Some(Retry::No)),
            Self::Blocked { .. } | Self::Refused { .. } => (ErrorKind::NoCapacity, Some(Retry::After(FOR_ROOM))),
            Self::Rabbit(error) => match reply(error) {
                None => (ErrorKind::Unavailable, None),
                Some((code::FORBIDDEN | code::NOT_ALLOWED | code::LOCKED, _)) => (ErrorKind::Unavailable, person),
                Some((code::TOO_LARGE, _)) => (ErrorKind::Invalid, None),
                Some((code::PRECONDITION, text)) if text.contains("message size") => (ErrorKind::Invalid, None),
                Some((code::PRECONDITION, _)) => (ErrorKind::Internal, None),
                Some((code::NO_RESOURCE, _)) => (ErrorKind::NoCapacity, Some(Retry::After(FOR_ROOM))),
                Some(_) => (ErrorKind::Unavailable, None),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn server(code: u16, text: &str) -> Error {
        let error = AMQPError::from_id(code, text.into()).expect("a code of AMQP's");
        Fault::from(lapin::Error::from(Lapin::ProtocolError(error))).at("queue.publish")
    }

    #[test]
    fn each_answer_of_the_broker_has_its_kind() {
        for (code, text, kind) in [
            (403, "ACCESS_REFUSED - access to queue", ErrorKind::Unavailable),
            (403, "ACCESS_REFUSED - Login was refused", ErrorKind::Unavailable),
            (530, "NOT_ALLOWED - vhost x not found", ErrorKind::Unavailable),
            (404, "NOT_FOUND - no queue", ErrorKind::Unavailable),
            (406, "PRECONDITION_FAILED - inequivalent arg", ErrorKind::Internal),
            (406, "PRECONDITION_FAILED - message size 9", ErrorKind::Invalid),
            (506, "RESOURCE_ERROR", ErrorKind::NoCapacity),
            (320, "CONNECTION_FORCED", ErrorKind::Unavailable),
            (541, "INTERNAL_ERROR", ErrorKind::Unavailable),
        ] {
            let error = server(code, text);
            assert_eq!(error.kind(), kind, "{code}: {error:?}");
            assert!(error.full().contains(text), "{}", error.full());
        }
    }

    #[test]
    fn what_only_a_person_can_change_is_not_asked_for_at_once() {
        assert!(matches!(server(403, "ACCESS_REFUSED").retry(), Retry::After(_)));
        assert_eq!(server(320, "CONNECTION_FORCED").retry(), Retry::Yes);
        assert_eq!(server(406, "PRECONDITION_FAILED").retry(), Retry::No);
    }

    #[test]
    fn a_refused_login_and_a_missing_permission_are_told_apart() {
        let login = server(403, "ACCESS_REFUSED - Login was refused using PLAIN");
        let queue = server(403, "ACCESS_REFUSED - access to queue 'x' refused");
        assert!(login.message().contains("password"), "{}", login.message());
        assert!(queue.message().contains("permissions"), "{}", queue.message());
    }
}

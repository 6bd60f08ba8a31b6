//! What can go wrong with SQS, and the one mapping to the seam's error.

use std::{error::Error as StdError, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sqs::{
    config::http::HttpResponse,
    error::{BuildError, ProvideErrorMetadata, SdkError},
};
use robata_core::{Error, ErrorKind, Retry, job::Line};

/// Where only a person can help, asking more often helps nobody.
const FOR_A_PERSON: Duration = Duration::from_secs(10);
/// How soon a service that has no room, or is asked too often, may answer.
const FOR_ROOM: Duration = Duration::from_secs(1);

/// A fault of the caller, the way to the service, or the service. Clones tell the same to several who wait.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// A body over the bound.
    #[error("a message for {line} has {bytes} bytes; at most {max} are taken")]
    BodyTooLarge { line: Line, bytes: usize, max: usize },
    /// A message that does not fit with its attributes, or not into this queue.
    #[error("a message for {line} takes {bytes} bytes with its attributes; its queue takes at most {max}")]
    MessageTooLarge { line: Line, bytes: usize, max: usize },
    /// A weight of 0 would never be offered anything.
    #[error("the weight of {line} is 0; weights are counted from 1")]
    NoWeight { line: Line },
    /// A receipt that this queue did not make.
    #[error("{receipt:?} is no receipt of this queue")]
    NoReceipt { receipt: String },
    /// An option that cannot be.
    #[error("{0}")]
    Config(String),
    /// Nothing may be made, and it is not there.
    #[error("{line} has no queue: {name} is not there, and queues are not made here (create = false)")]
    NotThere { line: Line, name: String },
    /// The queue puts messages aside.
    #[error("the queue {name} has a redrive policy, by which jobs would vanish into {target}: take it away")]
    Redrive { name: String, target: String },
    /// No access key was found.
    #[error(
        "no credentials for SQS were found, neither in the settings nor where Amazon's own tools look for them: {0}"
    )]
    NoCredentials(String),
    /// The service cannot be reached.
    #[error("SQS cannot be reached: {0}")]
    Unreached(String),
    /// No answer in time.
    #[error("SQS did not answer in time: {0}")]
    Silent(String),
    /// An answer that is none of the protocol's.
    #[error("SQS answered something unexpected: {0}")]
    Answer(String),
    /// The service's own error.
    #[error("{}", words(.code, *.status, .message))]
    Said { code: String, status: u16, message: String },
    /// Some entries of a batch, told by their places from 1 on, each with the first one's fault.
    #[error("{what} {} of {of} messages of {line} failed (number {}): {first}", .places.len(), list(.places))]
    Some {
        what: &'static str,
        line: Line,
        places: Vec<usize>,
        of: usize,
        first: Box<Fault>,
    },
}

fn list(places: &[usize]) -> String {
    const SHOWN: usize = 20;
    let mut shown: Vec<_> = places.iter().take(SHOWN).map(ToString::to_string).collect();
    if places.len() > SHOWN {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

/// What an error code means to us. The API has older names for some, with the service's in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    NoQueue,
    DeletedRecently,
    NameTaken,
    InFlight,
    Throttled,
    Login,
    Clock,
    Forbidden,
    Key,
    Content,
    BadReceipt,
    Other,
}

fn meaning(code: &str) -> Meaning {
    // `AWS.SimpleQueueService.NonExistentQueue`, `KmsThrottled` and `KMS.ThrottlingException` are of two ages of the API.
    let short = code.rsplit('.').next().unwrap_or(code);
    match short {
        "QueueDoesNotExist" | "NonExistentQueue" => Meaning::NoQueue,
        "QueueDeletedRecently" => Meaning::DeletedRecently,
        "QueueNameExists" | "QueueAlreadyExists" => Meaning::NameTaken,
        "OverLimit" => Meaning::InFlight,
        "RequestThrottled"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "SlowDown"
        | "KmsThrottled" => Meaning::Throttled,
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "AuthFailure"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidSecurity"
        | "OptInRequired" => Meaning::Login,
        "RequestExpired" | "RequestTimeTooSkewed" => Meaning::Clock,
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => Meaning::Forbidden,
        short if short.starts_with("Kms") => Meaning::Key,
        "InvalidMessageContents" | "BatchRequestTooLong" | "InvalidParameterValue" | "InvalidAttributeValue" => {
            Meaning::Content
        }
        "ReceiptHandleIsInvalid" | "MessageNotInflight" => Meaning::BadReceipt,
        _ => Meaning::Other,
    }
}

fn words(code: &str, status: u16, message: &str) -> String {
    let what = match meaning(code) {
        Meaning::NoQueue => "the queue is not there",
        Meaning::DeletedRecently => "a queue of this name was deleted less than a minute ago",
        Meaning::NameTaken => "a queue of this name is there and is otherwise",
        Meaning::InFlight => "too many messages of the queue are received and not acknowledged",
        Meaning::Throttled => "SQS is asked too often",
        Meaning::Login => "SQS refuses the access key",
        Meaning::Clock => "SQS refuses the request's time: is this machine's clock right?",
        Meaning::Forbidden => "SQS does not let this access key do that (the README lists what it must be allowed)",
        Meaning::Key => "the key of the queue's encryption cannot be used",
        Meaning::Content => "SQS does not take that",
        Meaning::BadReceipt => "the message is no longer held here",
        Meaning::Other if status >= 500 => "SQS has a fault",
        Meaning::Other if code.is_empty() => "whoever answers at the endpoint does not speak SQS",
        Meaning::Other => "SQS answered with an error",
    };
    let code = if code.is_empty() { "no code" } else { code };
    let message = if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    };
    format!("{what} ({status} {code}{message})")
}

/// A cause in the chain of an error.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// An error with all its causes, in one line.
fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        // Some tell a list, a line each.
        let words = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if !text.contains(&words) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&words);
        }
        next = error.source();
    }
    text
}

impl<E> From<SdkError<E, HttpResponse>> for Fault
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        if let SdkError::ServiceError(answer) = &error {
            let (code, message) = (answer.err().code(), answer.err().message());
            return Self::Said {
                code: code.unwrap_or_default().to_owned(),
                status: answer.raw().status().as_u16(),
                message: message.unwrap_or_default().to_owned(),
            };
        }
        if let Some(credentials) = cause::<CredentialsError>(&error) {
            return Self::NoCredentials(causes(credentials));
        }
        let text = causes(&error);
        match &error {
            SdkError::TimeoutError(_) => Self::Silent(text),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Self::Silent(text),
            SdkError::DispatchFailure(_) => Self::Unreached(text),
            _ => Self::Answer(text),
        }
    }
}

impl From<BuildError> for Fault {
    fn from(error: BuildError) -> Self {
        Self::Answer(error.to_string())
    }
}

impl Fault {
    /// An entry's own error in the answer to a batch.
    pub(crate) fn of_entry(code: &str, message: Option<&str>) -> Self {
        Self::Said {
            code: code.to_owned(),
            status: 200,
            message: message.unwrap_or_default().to_owned(),
        }
    }

    fn meaning(&self) -> Option<Meaning> {
        match self {
            Self::Said { code, .. } => Some(meaning(code)),
            Self::Some { first, .. } => first.meaning(),
            _ => None,
        }
    }

    /// Whether the service says that there is no such queue.
    pub(crate) fn is_missing(&self) -> bool {
        self.meaning() == Some(Meaning::NoQueue)
    }

    /// Whether a queue of this name was made by somebody else meanwhile.
    pub(crate) fn is_name_taken(&self) -> bool {
        self.meaning() == Some(Meaning::NameTaken)
    }

    /// Whether this receipt does nothing any more: the message is deleted, is out again, or its queue was made anew.
    pub(crate) fn is_bad_receipt(&self) -> bool {
        self.meaning() == Some(Meaning::BadReceipt)
    }

    /// Whether this access key may not do that.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.meaning() == Some(Meaning::Forbidden)
    }

    /// Whether it is about one queue, and another may do. All are at one service: what the network does, and what the service
    /// says of the access key, is never one queue's alone.
    pub(crate) fn is_of_one_queue(&self) -> bool {
        match self {
            Self::NotThere { .. } | Self::Redrive { .. } => true,
            _ => self
                .meaning()
                .is_some_and(|meaning| !matches!(meaning, Meaning::Login | Meaning::Clock | Meaning::Throttled)),
        }
    }

    /// The seam's error.
    pub(crate) fn at(self, operation: &'static str) -> Error {
        let (kind, retry) = self.verdict();
        let error = Error::new(kind, operation, self.to_string());
        match retry {
            Some(retry) => error.with_retry(retry),
            None => error,
        }
    }

    /// A fault of the service's settings is `Unavailable`, not `Invalid`: the message is good, and so will the queue be.
    fn verdict(&self) -> (ErrorKind, Option<Retry>) {
        let person = Some(Retry::After(FOR_A_PERSON));
        match self {
            Self::BodyTooLarge { .. }
            | Self::MessageTooLarge { .. }
            | Self::NoWeight { .. }
            | Self::NoReceipt { .. }
            | Self::Config(_) => (ErrorKind::Invalid, None),
            Self::NotThere { .. } | Self::Redrive { .. } | Self::NoCredentials(_) => (ErrorKind::Unavailable, person),
            Self::Unreached(_) | Self::Silent(_) | Self::Answer(_) => (ErrorKind::Unavailable, None),
            Self::Some { first, .. } => first.verdict(),
            Self::Said { code, status, .. } => match meaning(code) {
                Meaning::Login | Meaning::Clock | Meaning::Forbidden | Meaning::Key | Meaning::DeletedRecently => {
                    (ErrorKind::Unavailable, person)
                }
                Meaning::Throttled => (ErrorKind::Unavailable, Some(Retry::After(FOR_ROOM))),
                Meaning::NoQueue | Meaning::NameTaken | Meaning::BadReceipt => (ErrorKind::Unavailable, None),
                Meaning::InFlight => (ErrorKind::NoCapacity, Some(Retry::After(FOR_ROOM))),
                Meaning::Content => (ErrorKind::Invalid, None),
                // Of an entry without a code that is known the batch's own 200 says nothing: the service asks to try again.
                Meaning::Other if *status >= 500 || *status == 429 || *status == 200 => (ErrorKind::Unavailable, None),
                Meaning::Other if code.is_empty() => (ErrorKind::Unavailable, person),
                Meaning::Other => (ErrorKind::Internal, None),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: &str, status: u16) -> Error {
        let fault = Fault::Said {
            code: code.to_owned(),
            status,
            message: "as it says".to_owned(),
        };
        fault.at("queue.publish")
    }

    #[test]
    fn each_answer_of_the_service_has_its_kind() {
        for (code, status, kind) in [
            ("RequestThrottled", 403, ErrorKind::Unavailable),
            ("ThrottlingException", 400, ErrorKind::Unavailable),
            ("InternalFailure", 500, ErrorKind::Unavailable),
            ("", 503, ErrorKind::Unavailable),
            ("", 404, ErrorKind::Unavailable),
            ("InvalidClientTokenId", 403, ErrorKind::Unavailable),
            ("AccessDeniedException", 403, ErrorKind::Unavailable),
            ("KmsDisabled", 400, ErrorKind::Unavailable),
            ("KMS.KmsDisabled", 400, ErrorKind::Unavailable),
            ("AWS.SimpleQueueService.NonExistentQueue", 400, ErrorKind::Unavailable),
            (
                "AWS.SimpleQueueService.QueueDeletedRecently",
                400,
                ErrorKind::Unavailable,
            ),
            ("OverLimit", 403, ErrorKind::NoCapacity),
            ("InvalidMessageContents", 400, ErrorKind::Invalid),
            ("AWS.SimpleQueueService.BatchRequestTooLong", 400, ErrorKind::Invalid),
            ("InvalidAddress", 400, ErrorKind::Internal),
        ] {
            let error = said(code, status);
            assert_eq!(error.kind(), kind, "{code} {status}: {error:?}");
            assert!(
                error.message().contains("as it says") && error.message().contains(code),
                "{error:?}"
            );
        }
    }

    #[test]
    fn what_only_a_person_can_change_is_not_asked_for_at_once() {
        for code in [
            "SignatureDoesNotMatch",
            "AccessDenied",
            "KmsNotFound",
            "QueueDeletedRecently",
        ] {
            assert_eq!(said(code, 403).retry(), Retry::After(FOR_A_PERSON), "{code}");
        }
        assert_eq!(said("InternalError", 500).retry(), Retry::Yes);
        assert_eq!(said("InvalidParameterValue", 400).retry(), Retry::No);
    }

    #[test]
    fn what_is_about_one_queue_is_known_from_what_is_about_all() {
        let said = |code: &str| Fault::of_entry(code, None).is_of_one_queue();
        for code in [
            "AWS.SimpleQueueService.NonExistentQueue",
            "QueueDeletedRecently",
            "AccessDenied",
            "KmsNotFound",
            "OverLimit",
            "InternalFailure",
        ] {
            assert!(said(code), "{code}");
        }
        for code in ["InvalidClientTokenId", "RequestExpired", "RequestThrottled"] {
            assert!(!said(code), "{code}");
        }
        assert!(!Fault::Unreached("away".to_owned()).is_of_one_queue());
        assert!(!Fault::NoCredentials("none".to_owned()).is_of_one_queue());
    }

    #[test]
    fn of_a_batch_it_is_told_which_entries_failed_and_why() {
        let line = Line {
            queue: "mails".parse().unwrap(),
            executor: "docker".parse().unwrap(),
        };
        let fault = |places: Vec<usize>| Fault::Some {
            what: "publishing",
            line: line.clone(),
            places,
            of: 30,
            first: Box::new(Fault::of_entry("InternalError", Some("try again"))),
        };
        let error = fault(vec![2, 7]).at("queue.publish");
        let expected = "publishing 2 of 30 messages of mails/docker failed (number 2, 7): ";
        assert!(error.message().starts_with(expected), "{error:?}");
        assert!(error.message().contains("InternalError: try again"), "{error:?}");
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Yes));
        assert!(fault((1..=30).collect()).to_string().contains("20, …)"));
    }
}

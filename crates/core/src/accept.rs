//! Whole jobs: what goes through the broker's separate line `accept` while the store does not serve, and how a store takes
//! it in (PROTOCOL I1 to I3).

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{
    AppName, ExecutorName, Format, JobId, JobName, Payload, QueueName, Timestamp,
    error::Result,
    format::Unreadable,
    job::{Key, Line, NewJob, PRIORITIES, When},
};

/// The format's number and the head's length stand before the head.
const BEFORE_HEAD: usize = 5;

/// For so long after a job that came this way was pruned, its id makes nothing: a broker may deliver twice, and late.
pub const TOMBSTONES_KEPT: Duration = Duration::from_secs(15 * 24 * 3600);
/// For so long after an outage is over, an id of its time may still come: another master may have received it and not yet
/// taken it in.
pub const STRAGGLERS: Duration = Duration::from_secs(60);

/// A job that was accepted while the store did not serve. It was accepted at the time that its id carries.
#[derive(Clone, Debug)]
pub struct WholeJob {
    /// The job, checked and resolved by the catalog in a master's memory; it has no definition of its own.
    pub job: NewJob,
    /// The definition's version by which it was resolved, for people: it runs by the one that its claim finds.
    pub definition_version: Option<u32>,
    /// Who enqueued it: a token's name, or `local`.
    pub by: String,
}

/// All but the payload, which follows as the bytes that came.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    id: JobId,
    app: AppName,
    job: JobName,
    queue: QueueName,
    executor: ExecutorName,
    queue_chosen: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    priority: i8,
    due: Due,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<HeadKey>,
    max_attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    definition_version: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    by: String,
    #[cfg(feature = "next-format")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Due {
    Now,
    InMs(u64),
    At(Timestamp),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadKey {
    key: String,
    /// SHA-256 of the request, in hexadecimal digits.
    request: String,
}

impl Head {
    /// Whether it has the fields of this format and no others.
    #[cfg(feature = "next-format")]
    fn is_of(&self, format: Format) -> bool {
        self.next.is_some() == format.is_next()
    }

    /// Whether it has the fields of this format and no others: there is one format.
    #[cfg(not(feature = "next-format"))]
    fn is_of(&self, format: Format) -> bool {
        format.is_read()
    }
}

impl WholeJob {
    /// When it was accepted, by the clock of the master that did.
    #[must_use]
    pub fn accepted_at(&self) -> Timestamp {
        self.job.id.timestamp()
    }

    /// The job for a store whose clock says `now`: delays and expiry count from when it was accepted, which is never later
    /// than now, whatever the clock of the master that accepted it said.
    #[must_use]
    pub fn for_store(&self, now: Timestamp) -> NewJob {
        let accepted = self.accepted_at().min(now);
        let when = match self.job.when {
            When::Now => When::At(accepted),
            When::In(delay) => When::At(accepted.plus(delay)),
            When::At(at) => When::At(at),
        };
        NewJob {
            when,
            ..self.job.clone()
        }
    }

    /// The message that goes out, in the format in use: its number (PROTOCOL V1), the head's length in four bytes, the head as JSON, and the
    /// payload as it came.
    #[must_use]
    pub fn encode(&self, format: Format) -> Bytes {
        let format = format.to_write();
        let job = &self.job;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let head = Head {
            id: job.id,
            app: job.app.clone(),
            job: job.job.clone(),
            queue: job.line.queue.clone(),
            executor: job.line.executor.clone(),
            queue_chosen: job.queue_chosen,
            labels: job.labels.clone(),
            env: job.env.clone(),
            priority: job.priority,
            due: match job.when {
                When::Now => Due::Now,
                When::In(delay) => Due::InMs(millis(delay)),
                When::At(at) => Due::At(at),
            },
            expires_in_ms: job.expires_in.map(millis),
            key: job.key.as_ref().map(|key| HeadKey {
                key: key.key.clone(),
                request: key.request.iter().map(|byte| format!("{byte:02x}")).collect(),
            }),
            max_attempts: job.max_attempts,
            definition_version: self.definition_version,
            traceparent: job.traceparent.clone(),
            by: self.by.clone(),
            #[cfg(feature = "next-format")]
            next: format.is_next().then_some(true),
        };
        // Text, numbers and maps of text alone: writing them into memory cannot fail.
        let head = serde_json::to_vec(&head).unwrap_or_default();
        let payload = job.payload.bytes();
        let mut bytes = BytesMut::with_capacity(BEFORE_HEAD + head.len() + payload.len());
        bytes.extend_from_slice(&[format.number()]);
        bytes.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(payload);
        bytes.freeze()
    }

    /// Reads a message, or says why it cannot be read. What no release has written is an error, not ignored.
    pub fn read(bytes: &Bytes) -> Result<Self, Unreadable> {
        let malformed = |what: String| Unreadable::Malformed(what);
        let format = Format::of_message(bytes, "a whole job")?;
        let short = || malformed("it ends within its head".to_owned());
        let length = bytes.get(1..BEFORE_HEAD).and_then(|length| length.try_into().ok());
        let length = usize::try_from(u32::from_be_bytes(length.ok_or_else(short)?)).map_err(|_| short())?;
        let end = BEFORE_HEAD.checked_add(length).filter(|end| *end <= bytes.len());
        let end = end.ok_or_else(short)?;
        let head: Head = serde_json::from_slice(&bytes[BEFORE_HEAD..end])
            .map_err(|error| malformed(format!("its head cannot be read: {error}")))?;
        if !head.is_of(format) {
            return Err(malformed(format!("its head is not of the format {format}")));
        }
        // However deep: how deep it may be was judged when it was accepted.
        let payload = Payload::new(bytes.slice(end..), usize::MAX, usize::MAX)
            .map_err(|error| malformed(error.message().to_owned()))?;
        if !PRIORITIES.contains(&head.priority) {
            return Err(malformed(format!("{} is no priority", head.priority)));
        }
        let key = match head.key {
            None => None,
            Some(HeadKey { key, request }) => Some(Key {
                key,
                request: digest(&request).ok_or_else(|| malformed("its key's hash is none".to_owned()))?,
            }),
        };
        Ok(Self {
            job: NewJob {
                id: head.id,
                app: head.app,
                job: head.job,
                line: Line {
                    queue: head.queue,
                    executor: head.executor,
                },
                queue_chosen: head.queue_chosen,
                payload,
                labels: head.labels,
                env: head.env,
                priority: head.priority,
                when: match head.due {
                    Due::Now => When::Now,
                    Due::InMs(delay) => When::In(Duration::from_millis(delay)),
                    Due::At(at) => When::At(at),
                },
                expires_in: head.expires_in_ms.map(Duration::from_millis),
                key,
                max_attempts: head.max_attempts,
                definition: None,
                traceparent: head.traceparent,
            },
            definition_version: head.definition_version,
            by: head.by,
        })
    }
}

/// 32 bytes in hexadecimal digits.
fn digest(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// What became of a whole job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenIn {
    /// It is a job now.
    Made,
    /// It was there already: by the other path, or delivered twice.
    WasThere,
    /// Its key was taken, by an equal request: nothing runs, its id answers with this first job.
    Alias(JobId),
    /// It was there, and was pruned since: nothing is made.
    Gone,
}

/// Whole jobs, as masters take them in.
///
/// # Contract
/// `robata_testkit::store` has a case for every sentence.
///
/// - `take_in` MUST answer in the order of its jobs, and only once they are durable. One that is refused MUST be refused
///   alone. What it made MUST be a job like any other, in the line of its definition as the catalog stands then.
/// - A job whose id is there MUST be `WasThere` and change nothing, whichever path it came by, also where both paths come at
///   once; of an id twice in one call one MUST be made.
/// - A job whose key is taken MUST be the `Alias` of the key's first job, in this call, too: it MUST make nothing, and `job`,
///   `cancel` and `retry` of its id MUST answer and act on the first one, also after a restart. With another request it MUST
///   be `KeyReused`.
/// - A delay and an expiry MUST count from when the job was accepted.
/// - For [`TOMBSTONES_KEPT`] after its job was pruned an id that came this way MUST be `Gone`, and an alias with its first job.
/// - `may_come` MUST be true of an id whose time is not before an outage that was noted and is not over, and within it for
///   [`STRAGGLERS`] after it is over; else it MUST be false. `take_in` MUST note an outage that begins no later than its
///   earliest job. Outages MUST be there after a restart.
/// - `outages_over` MUST end the outages that it names and no others.
#[async_trait]
pub trait AcceptStore: fmt::Debug + Send + Sync {
    /// Takes in whole jobs.
    async fn take_in(&self, jobs: Vec<WholeJob>) -> Result<Vec<Result<TakenIn>>>;
    /// Notes that whole jobs whose ids carry this time or a later one may be in `accept`, unless that is noted already.
    async fn note_outage(&self, since: Timestamp) -> Result<()>;
    /// The numbers of outages that are not over, some at least.
    async fn outages(&self) -> Result<Vec<i64>>;
    /// `accept` was read to its end since these were told: they are over now.
    async fn outages_over(&self, outages: &[i64]) -> Result<()>;
    /// Whether a job of this id, which is not there, may still be taken in.
    async fn may_come(&self, id: JobId) -> Result<bool>;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(payload: &[u8]) -> WholeJob {
        let text = |text: &str| text.to_owned();
        WholeJob {
            job: NewJob {
                id: JobId::new(),
                app: "shop".parse().unwrap(),
                job: "Billing::InvoiceJob".parse().unwrap(),
                line: Line {
                    queue: "images".parse().unwrap(),
                    executor: "docker".parse().unwrap(),
                },
                queue_chosen: true,
                payload: Payload::from_stored(Bytes::copy_from_slice(payload)),
                labels: [(text("a\u{1F980}"), text("b\"c"))].into(),
                env: [(text("LOCALE"), text("de"))].into(),
                priority: -100,
                when: When::In(Duration::from_millis(1_500)),
                expires_in: Some(Duration::from_secs(60)),
                key: Some(Key {
                    key: text("k"),
                    request: std::array::from_fn(|at| u8::try_from(at).unwrap()),
                }),
                max_attempts: 3,
                definition: None,
                traceparent: Some(text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
            },
            definition_version: Some(4),
            by: text("ci"),
        }
    }

    #[test]
    fn a_whole_job_comes_out_as_it_went_in_with_its_payloads_bytes() {
        let payload = b"{ \"b\": 1.50, \"a\" : \"\\u0000\" , \"a\": [12345678901234567890] }";
        let job = whole(payload);
        for format in [Format::PREVIOUS, Format::OWN] {
            let message = job.encode(format);
            assert_eq!(message[0], format.number());
            let read = WholeJob::read(&message).unwrap();
            assert_eq!(format!("{read:?}"), format!("{job:?}"));
        }
        let read = WholeJob::read(&job.encode(Format::OWN)).unwrap();
        assert_eq!(&read.job.payload.bytes()[..], payload);
        for when in [When::Now, When::At(Timestamp::from_millis(1_700_000_000_123))] {
            let mut job = whole(b"null");
            (job.job.when, job.job.key, job.job.expires_in) = (when, None, None);
            let read = WholeJob::read(&job.encode(Format::OWN)).unwrap();
            assert_eq!(format!("{read:?}"), format!("{job:?}"));
        }
    }

    #[test]
    fn what_is_too_new_is_left_and_what_no_release_wrote_is_malformed() {
        let good = whole(b"[1]").encode(Format::OWN);
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.to_vec();
            change(&mut bytes);
            WholeJob::read(&bytes.into()).map(drop)
        };
        assert_eq!(with(&|_| ()), Ok(()));
        let newer = Format::new(Format::OWN.number() + 1);
        assert_eq!(with(&|bytes| bytes[0] = newer.number()), Err(Unreadable::TooNew(newer)));
        let malformed = |change: &dyn Fn(&mut Vec<u8>)| {
            let read = with(change);
            assert!(matches!(read, Err(Unreadable::Malformed(_))), "{read:?}");
        };
        malformed(&|bytes| bytes.clear());
        malformed(&|bytes| bytes[0] = b'{');
        malformed(&|bytes| bytes.truncate(4));
        malformed(&|bytes| bytes.truncate(60));
        malformed(&|bytes| bytes[1] = 0xff);
        // The payload, too, is one JSON value.
        malformed(&|bytes| bytes.push(b']'));
        malformed(&|bytes| {
            bytes.pop();
        });
        // A field that this format does not have.
        malformed(&|bytes| {
            let more = b"{\"more\":1,";
            let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
            let longer = length + u32::try_from(more.len() - 1).unwrap();
            bytes[1..5].copy_from_slice(&longer.to_be_bytes());
            bytes.splice(5..6, more.iter().copied());
        });
        malformed(&|bytes| {
            let at = bytes.windows(4).position(|part| part == b"-100").unwrap();
            bytes[at + 3] = b'1';
        });
    }

    #[test]
    fn times_count_from_the_acceptance_and_a_clock_that_is_ahead_delays_nothing() {
        let mut job = whole(b"null");
        let accepted = job.accepted_at();
        let late = accepted.plus(Duration::from_secs(120));
        let delay = Duration::from_millis(1_500);
        assert_eq!(job.for_store(late).when, When::At(accepted.plus(delay)));
        let early = accepted.minus(Duration::from_secs(3_600));
        assert_eq!(job.for_store(early).when, When::At(early.plus(delay)));
        job.job.when = When::Now;
        assert_eq!(job.for_store(late).when, When::At(accepted));
        assert_eq!(job.for_store(early).when, When::At(early));
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in 0_u8..3) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            let _ = WholeJob::read(&bytes.into());
        }
    }
}

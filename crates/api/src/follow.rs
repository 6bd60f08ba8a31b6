//! A log as a body: found, read, and followed until it is sealed.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use robata_core::{
    AttemptId, Error, ErrorKind, JobId,
    attempt::{AttemptRecord, LogState, LogSummary},
    executor::Stream as Output,
    log_store::{Entry, Read},
};
use tokio::time::{Instant, sleep_until};

use crate::{refused::Result, shared::Shared};

/// A follower says again that it follows this often, and looks whether the attempt is over.
const TELL: Duration = Duration::from_secs(4);
/// The store keeps in mind for this long that somebody follows.
const LASTING: Duration = Duration::from_secs(15);
/// A job that has no attempt yet is looked at this often, besides hints.
const LOOK: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) job: JobId,
    pub(crate) attempt: Option<u32>,
    pub(crate) stream: Option<Output>,
    pub(crate) offset: u64,
    pub(crate) follow: bool,
}

/// A log's entries, up to its end. An error ends it.
pub(crate) type Entries = BoxStream<'static, std::result::Result<Entry, Error>>;

/// Opens the log; what can be refused is refused before the first byte.
pub(crate) async fn open(shared: &Arc<Shared>, wanted: Wanted) -> Result<Entries> {
    let attempt = match wanted.attempt {
        Some(number) => {
            let id = AttemptId {
                job: wanted.job,
                number,
            };
            Some(shared.store.attempt(id).await?)
        }
        None => None,
    };
    let attempt = match attempt {
        Some(attempt) => attempt,
        None => {
            let mut detail = shared.store.job(wanted.job).await?;
            match detail.attempts.pop() {
                Some(last) => last,
                None if detail.job.state.is_ended() => {
                    // It never ran, so it has printed nothing.
                    return Ok(only_end(LogSummary {
                        state: LogState::Complete,
                        reason: None,
                        bytes: 0,
                    }));
                }
                None if wanted.follow => return Ok(after_the_first_attempt(shared, wanted)),
                None => {
                    return Ok(only_end(LogSummary {
                        state: LogState::Incomplete,
                        reason: Some("the job has not been started yet".to_owned()),
                        bytes: 0,
                    }));
                }
            }
        }
    };
    read(shared, wanted, attempt).await
}

fn only_end(summary: LogSummary) -> Entries {
    futures::stream::iter([Ok(Entry::End(summary))]).boxed()
}

async fn read(shared: &Arc<Shared>, wanted: Wanted, attempt: AttemptRecord) -> Result<Entries> {
    if attempt.log.state == LogState::Complete && attempt.log.bytes == 0 {
        return Ok(only_end(attempt.log));
    }
    let follow = wanted.follow && !attempt.finalised;
    if follow {
        shared.store.follow(attempt.id, LASTING).await?;
    }
    let entries = shared
        .logs
        .read(Read {
            attempt: attempt.id,
            stream: wanted.stream,
            offset: wanted.offset,
            follow,
        })
        .await?;
    if attempt.finalised {
        return Ok(as_finalised(entries, attempt.log));
    }
    if !follow {
        return Ok(entries);
    }
    let follower = Follower {
        shared: Arc::clone(shared),
        attempt: attempt.id,
        entries,
        tell: Instant::now() + TELL,
        over: None,
        ended: false,
    };
    Ok(futures::stream::unfold(follower, |mut follower| async move {
        let entry = follower.next().await?;
        Some((entry, follower))
    })
    .boxed())
}

/// A finalised attempt's log is written no more: where it has no seal, the store's word on it is the last one.
fn as_finalised(entries: Entries, log: LogSummary) -> Entries {
    let last_word = move |entry| match entry {
        Ok(Entry::End(summary)) if summary.state == LogState::Open => Ok(Entry::End(log.clone())),
        entry => entry,
    };
    entries.map(last_word).boxed()
}

/// Follows one attempt.
struct Follower {
    shared: Arc<Shared>,
    attempt: AttemptId,
    entries: Entries,
    /// When it next says that it follows.
    tell: Instant,
    /// The store's word that nobody holds the attempt any more. A log without a seal (its folder could not be written)
    /// would else be followed for ever.
    over: Option<LogSummary>,
    ended: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<std::result::Result<Entry, Error>> {
        if self.ended {
            return None;
        }
        loop {
            let entry = tokio::select! {
                biased;
                entry = self.entries.next() => entry.unwrap_or_else(|| Err(cut("the log ended without an end"))),
                () = self.shared.shutdown.cancelled() => Err(cut("the server is shutting down")),
                () = sleep_until(self.tell) => match self.look().await {
                    Some(summary) => Ok(Entry::End(summary)),
                    None => continue,
                },
            };
            self.ended = matches!(entry, Ok(Entry::End(_)) | Err(_));
            return Some(entry);
        }
    }

    /// Says that it follows, and looks whether the attempt is over; the end, if it was over at the look before, too.
    async fn look(&mut self) -> Option<LogSummary> {
        self.tell = Instant::now() + TELL;
        if let Some(summary) = self.over.take() {
            return Some(summary);
        }
        let store = &self.shared.store;
        let seen = match store.follow(self.attempt, LASTING).await {
            Ok(()) => store.attempt(self.attempt).await,
            Err(error) => Err(error),
        };
        match seen {
            Ok(record) if record.finalised => self.over = Some(record.log),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Some(LogSummary {
                    state: LogState::Incomplete,
                    reason: Some("the job is gone".to_owned()),
                    bytes: 0,
                });
            }
            // The log may go on all the same; the next look tries again.
            Err(error) => tracing::warn!(error = %error.full(), "cannot look at a followed attempt"),
        }
        None
    }
}

fn cut(why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "logs.follow", why)
}

/// Waits for the job's first attempt, then follows it.
fn after_the_first_attempt(shared: &Arc<Shared>, wanted: Wanted) -> Entries {
    let shared = Arc::clone(shared);
    let opened = async move {
        match first_attempt(&shared, wanted).await {
            Ok(entries) => entries,
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    };
    futures::stream::once(opened).flatten().boxed()
}

async fn first_attempt(shared: &Arc<Shared>, wanted: Wanted) -> std::result::Result<Entries, Error> {
    shared.listen();
    let watch = shared.hub.watch(wanted.job);
    loop {
        let changed = watch.notify().notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let detail = shared.store.job(wanted.job).await?;
        if let Some(first) = detail.attempts.into_iter().next() {
            return read(shared, wanted, first)
                .await
                .map_err(|refused| cut(&refused.0.detail));
        }
        if detail.job.state.is_ended() {
            return Ok(only_end(LogSummary {
                state: LogState::Complete,
                reason: None,
                bytes: 0,
            }));
        }
        tokio::select! {
            () = changed => {}
            () = sleep_until(Instant::now() + LOOK) => {}
            () = shared.shutdown.cancelled() => return Err(cut("the server is shutting down")),
        }
    }
}

//! The queue of a line: looked up, made where it is missing and may be made, and refused where it would lose messages.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_sdk_sqs::types::QueueAttributeName;
use robata_core::job::Line;
use tokio::time::Instant;

use crate::{
    error::Fault,
    names::{INSTALLATION_TAG, KEY_TAG, LINE_TAG},
    shared::Shared,
};

/// The longest that SQS keeps a message: 14 days, in seconds
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>).
const LONGEST_KEPT: u64 = 14 * 24 * 60 * 60;
/// So long what was seen of a queue is taken to be so: a redrive policy that comes later is found by then.
const FRESH: Duration = Duration::from_secs(60);
/// How often a queue that is said not to be there is looked for: a new one may not be known everywhere for a second.
const TRIES: u32 = 5;
/// Between them, the first time and growing by it.
const PAUSE: Duration = Duration::from_millis(200);

/// A queue at SQS.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) url: String,
    /// The largest message that it takes.
    pub(crate) max_bytes: usize,
    seen: Instant,
}

impl Place {
    /// As it was just seen.
    pub(crate) fn new(url: &str, max_bytes: usize) -> Self {
        Self {
            url: url.to_owned(),
            max_bytes,
            seen: Instant::now(),
        }
    }
}

/// The queues that are known.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    known: Mutex<HashMap<Line, Arc<Place>>>,
}

impl Lines {
    fn known(&self) -> MutexGuard<'_, HashMap<Line, Arc<Place>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self, line: &Line) -> Option<Arc<Place>> {
        let known = self.known();
        let place = known.get(line).filter(|place| place.seen.elapsed() < FRESH);
        place.map(Arc::clone)
    }

    fn forget(&self, line: &Line) {
        self.known().remove(line);
    }
}

/// The line's queue, if it is there. It is not made for being looked at.
pub(crate) async fn find(shared: &Shared, line: &Line) -> Result<Option<Arc<Place>>, Fault> {
    if let Some(place) = shared.lines.fresh(line) {
        return Ok(Some(place));
    }
    let name = shared.names.line(line);
    match url(shared, &name).await? {
        Some(url) => Ok(Some(learn(shared, line, &name, &url).await?)),
        None => Ok(None),
    }
}

/// Works on the line's queue, which is made where it is missing; once more where it turns out to be gone.
pub(crate) async fn on<T, F>(shared: &Shared, line: &Line, work: impl Fn(Arc<Place>) -> F) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut tries = 0;
    loop {
        let done = match ensure(shared, line).await {
            Ok(place) => work(place).await,
            Err(fault) => Err(fault),
        };
        tries += 1;
        match done {
            Err(fault) if fault.is_missing() && tries < TRIES => {
                shared.lines.forget(line);
                tokio::time::sleep(PAUSE * (tries - 1)).await;
            }
            done => return done,
        }
    }
}

async fn ensure(shared: &Shared, line: &Line) -> Result<Arc<Place>, Fault> {
    if let Some(place) = find(shared, line).await? {
        return Ok(place);
    }
    let name = shared.names.line(line);
    if !shared.config.create {
        return Err(Fault::NotThere {
            line: line.clone(),
            name,
        });
    }
    let url = match make(shared, &name, &line.to_string()).await {
        // Somebody else was first, and set something about it that we leave as it is.
        Err(fault) if fault.is_name_taken() => url(shared, &name).await?.ok_or(fault)?,
        made => made?,
    };
    learn(shared, line, &name, &url).await
}

async fn url(shared: &Shared, name: &str) -> Result<Option<String>, Fault> {
    let asked = shared.clients().await.prompt.get_queue_url().queue_name(name).send();
    match asked.await.map_err(Fault::from) {
        Ok(answer) => Ok(answer.queue_url),
        Err(fault) if fault.is_missing() => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Makes a queue with its broker key, or answers the one that somebody else has just made. Attributes that have our values by
/// default (standard, no delay, no redrive policy, the largest messages) are not named: so it does not matter who was first.
pub(crate) async fn make(shared: &Shared, name: &str, line: &str) -> Result<String, Fault> {
    let key = uuid::Uuid::new_v4().simple().to_string();
    let making = shared
        .clients()
        .await
        .prompt
        .create_queue()
        .queue_name(name)
        .attributes(QueueAttributeName::MessageRetentionPeriod, LONGEST_KEPT.to_string())
        .tags(KEY_TAG, key)
        .tags(LINE_TAG, line)
        .tags(INSTALLATION_TAG, shared.names.installation());
    let made = making.send().await?;
    made.queue_url
        .ok_or_else(|| Fault::Answer(format!("no address of the queue {name}, which was made")))
}

/// Looks at a queue, and remembers it for a while.
async fn learn(shared: &Shared, line: &Line, name: &str, url: &str) -> Result<Arc<Place>, Fault> {
    let attributes = attributes(shared, url, QueueAttributeName::All).await?;
    let number = |attribute: &QueueAttributeName| attributes.get(attribute)?.parse::<u64>().ok();
    if let Some(policy) = attributes
        .get(&QueueAttributeName::RedrivePolicy)
        .filter(|policy| !policy.is_empty())
    {
        shared.lines.forget(line);
        return Err(redrive(name, policy));
    }
    let first = !shared.lines.known().contains_key(line);
    if let Some(kept) = number(&QueueAttributeName::MessageRetentionPeriod).filter(|kept| first && *kept < LONGEST_KEPT)
    {
        tracing::warn!(
            queue = name,
            seconds = kept,
            "sqs: this queue keeps messages for less than 14 days"
        );
    }
    let own = number(&QueueAttributeName::MaximumMessageSize).and_then(|bytes| usize::try_from(bytes).ok());
    let bound = shared.config.max_message_bytes;
    let place = Arc::new(Place::new(url, own.map_or(bound, |own| own.min(bound))));
    shared.lines.known().insert(line.clone(), Arc::clone(&place));
    Ok(place)
}

/// A queue with a redrive policy puts messages aside that were received often (PROTOCOL O5 forbids it).
pub(crate) fn redrive(name: &str, policy: &str) -> Fault {
    let target = serde_json::from_str::<serde_json::Value>(policy).ok();
    let target = target.and_then(|policy| Some(policy.get("deadLetterTargetArn")?.as_str()?.to_owned()));
    Fault::Redrive {
        name: name.to_owned(),
        target: target.unwrap_or_else(|| policy.to_owned()),
    }
}

/// Of a queue.
pub(crate) async fn attributes(
    shared: &Shared,
    url: &str,
    which: QueueAttributeName,
) -> Result<HashMap<QueueAttributeName, String>, Fault> {
    let asking = shared
        .clients()
        .await
        .prompt
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(which);
    Ok(asking.send().await?.attributes.unwrap_or_default())
}

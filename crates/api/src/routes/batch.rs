//! Enqueueing many jobs in one commit, each item judged by itself.

use std::sync::Arc;

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::future::join_all;
use robata_api_types::{BatchAnswer, BatchItem, BatchRequest, Place, Problem};
use robata_core::{
    AppName, ErrorKind,
    definition::Catalog,
    job::{Enqueue, Enqueued, Key, NewJob},
};
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;

use super::{
    jobs::{Taken, accept, count, first_jobs},
    ok,
};
use crate::{
    access::Identity,
    body::{JsonBody, ManyJobs, parse},
    degraded::Unanswered,
    enqueue::{self, traceparent},
    refused::{Refused, Result, internal},
    shared::Shared,
};

/// A batch whose jobs are not looked into yet: one bad item must not hide the others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBatch<'b> {
    #[serde(borrow)]
    jobs: &'b RawValue,
    #[serde(default)]
    atomic: bool,
}

/// The texts of a list's items; it stops reading where there are more than `most`.
fn items(list: &RawValue, most: usize) -> Result<Vec<&RawValue>> {
    struct AtMost<'o> {
        most: usize,
        over: &'o mut bool,
    }

    impl<'de> de::DeserializeSeed<'de> for AtMost<'_> {
        type Value = Vec<&'de RawValue>;

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Self::Value, D::Error> {
            deserializer.deserialize_seq(self)
        }
    }

    impl<'de> de::Visitor<'de> for AtMost<'_> {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of jobs")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element()? {
                if items.len() == self.most {
                    *self.over = true;
                    return Err(de::Error::custom("too many"));
                }
                items.push(item);
            }
            Ok(items)
        }
    }

    let mut over = false;
    let seed = AtMost { most, over: &mut over };
    let read = de::DeserializeSeed::deserialize(seed, &mut serde_json::Deserializer::from_str(list.get()));
    match read {
        Ok(items) => Ok(items),
        Err(_) if over => {
            let detail = format!("the batch has more than {most} jobs, which are allowed at most");
            Err(Refused::invalid("too_many_jobs", detail))
        }
        // It was read before: what can be wrong is only that it is no list.
        Err(_) => Err(Refused::invalid("invalid_request", "jobs: must be a list of jobs")),
    }
}

/// Enqueues many jobs in one commit. While the store does not serve each goes by itself into the broker, and its `status` is
/// 202; an atomic batch is refused then.
#[utoipa::path(
    operation_id = "enqueue_batch",
    post, path = "/api/v1/jobs/batch", tag = "jobs", request_body = BatchRequest,
    security(("token" = ["enqueue"])),
    responses(
        (status = 200, description = "What became of each, in their order.", body = BatchAnswer),
        (status = 422, description = "`atomic`, and at least one is bad: nothing was stored.", body = Problem,
         content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn batch(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: JsonBody<ManyJobs>,
) -> Result<Response> {
    let trace: Option<Arc<str>> = traceparent(&headers).map(Arc::from);
    let reader = Reader {
        catalog: who.view_of(shared.catalog().await?),
        who,
        shared: Arc::clone(&shared),
        trace,
    };
    let ((atomic, items, reader), room) = body
        .with(move |bytes| {
            let raw: RawBatch<'_> = parse(bytes)?;
            let items = items(raw.jobs, reader.shared.config.max_batch)?;
            let items: Vec<Item> = items.into_iter().map(|raw| reader.item(bytes, raw)).collect();
            Ok((raw.atomic, items, reader))
        })
        .await?;
    let (who, items) = reader.look_again(items).await?;
    let results = store_batch(&shared, &who, items, atomic).await?;
    drop(room);
    Ok(ok(BatchAnswer { results }).into_response())
}

/// Judges items.
struct Reader {
    shared: Arc<Shared>,
    who: Identity,
    catalog: Arc<Catalog>,
    trace: Option<Arc<str>>,
}

impl Reader {
    fn item(&self, body: &Bytes, raw: &RawValue) -> Item {
        self.judge(body.slice_ref(raw.get().as_bytes()))
    }

    fn judge(&self, text: Bytes) -> Item {
        let config = &self.shared.config;
        let request = match enqueue::read(&text, config) {
            Ok(request) => request,
            Err(refused) => return Item::Refused(refused),
        };
        match request.allowed_by(&self.catalog) {
            Ok(()) => {
                let entry = self.catalog.job(request.app(), request.job());
                let version = entry.map(|entry| entry.version);
                match request.resolve(&self.catalog, config, self.trace.as_deref()) {
                    Ok(job) => Item::Job(Box::new(job), version),
                    Err(refused) => Item::Refused(refused),
                }
            }
            // Neither a newer catalog nor a key's first job is looked for: they are another app's.
            Err(refused) if !self.who.sees(request.app()) => Item::Refused(refused),
            Err(refused) => Item::NotAllowed {
                text,
                refused,
                key: request.key(),
            },
        }
    }

    /// What the catalog in memory refuses a newer one may allow; and a key that is known answers with its first job,
    /// whatever has become of the definition since.
    async fn look_again(mut self, mut items: Vec<Item>) -> Result<(Identity, Vec<Item>)> {
        let (who, is_refused) = (self.who.clone(), |item: &Item| matches!(item, Item::NotAllowed { .. }));
        if !items.iter().any(is_refused) {
            return Ok((who, items));
        }
        let shared = Arc::clone(&self.shared);
        let newer = match shared.newer_catalog().await {
            Ok(newer) => newer?,
            Err(Unanswered(why)) => return Ok((who, not_known(items, &why))),
        };
        self.catalog = self.who.view_of(newer);
        let again = move || {
            for item in &mut items {
                if let Item::NotAllowed { text, .. } = item {
                    *item = self.judge(text.clone());
                }
            }
            items
        };
        items = spawn_blocking(again).await.map_err(|error| {
            tracing::error!(%error, "reading a batch again failed");
            internal()
        })?;
        let (mut at, mut keys) = (Vec::new(), Vec::new());
        for (index, item) in items.iter_mut().enumerate() {
            if let Item::NotAllowed { key, .. } = item
                && let Some(key) = key.take()
            {
                at.push(index);
                keys.push(key);
            }
        }
        let first = match first_jobs(&shared, keys).await {
            Ok(first) => first?,
            Err(Unanswered(why)) => return Ok((who, not_known(items, &why))),
        };
        for (index, answer) in at.into_iter().zip(first) {
            match answer {
                Some(Ok(first)) => items[index] = Item::Known(Box::new(first)),
                Some(Err(refused)) => items[index] = Item::Refused(refused),
                None => {}
            }
        }
        Ok((who, items))
    }
}

/// What is refused only by what this process remembers is not refused for good while the store cannot be asked.
fn not_known(mut items: Vec<Item>, why: &str) -> Vec<Item> {
    for item in &mut items {
        if let Item::NotAllowed { refused, .. } = item {
            let unanswered = Unanswered(why.to_owned());
            *item = Item::Refused(unanswered.refused(&refused.0.detail));
        }
    }
    items
}

/// One item on its way.
enum Item {
    /// With its definition's version.
    Job(Box<NewJob>, Option<u32>),
    /// The first job of its key.
    Known(Box<Enqueued>),
    Refused(Refused),
    /// Refused for what the catalog says; its text is a part of the body, which is there anyhow.
    NotAllowed {
        text: Bytes,
        refused: Refused,
        key: Option<(AppName, Key)>,
    },
}

async fn store_batch(shared: &Shared, who: &Identity, items: Vec<Item>, atomic: bool) -> Result<Vec<BatchItem>> {
    let (mut jobs, mut versions) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
    // What is decided; `None` for what the store is asked.
    let mut decided: Vec<Option<Result<Enqueued>>> = Vec::with_capacity(items.len());
    for item in items {
        decided.push(match item {
            Item::Job(job, version) => {
                jobs.push(*job);
                versions.push(version);
                None
            }
            Item::Known(first) => Some(Ok(*first)),
            Item::Refused(refused) | Item::NotAllowed { refused, .. } => Some(Err(refused)),
        });
    }
    if atomic && decided.iter().flatten().any(Result::is_err) {
        let refused = decided.into_iter().map(|decided| decided?.err());
        return Err(none_stored(shared, refused));
    }
    let asked = jobs.len();
    let answers = match &shared.degraded {
        _ if jobs.is_empty() => Vec::new(),
        None => shared.store.enqueue(Enqueue { jobs, atomic }).await?,
        Some(degraded) => {
            let request = Enqueue {
                jobs: jobs.clone(),
                atomic,
            };
            match degraded.ask(asked, shared.store.enqueue(request)).await {
                Ok(answers) => answers?,
                // The broker can neither tell whether a key is taken nor take all or none.
                Err(unanswered) if atomic => return Err(unanswered.refused("an atomic batch needs the store")),
                Err(unanswered) if !degraded.is_usable() => return Err(unanswered.without_broker()),
                Err(_unanswered) => {
                    let jobs = jobs.into_iter().zip(versions);
                    let accepted = jobs.map(|(job, version)| accept(degraded, who, job, version));
                    let mut accepted = join_all(accepted).await.into_iter();
                    let outcomes = decided.into_iter().map(|decided| match decided {
                        Some(decided) => decided.map(Taken::Stored),
                        None => accepted.next().unwrap_or_else(|| Err(unanswered().into())),
                    });
                    return Ok(outcomes.map(|outcome| told(shared, outcome)).collect());
                }
            }
        }
    };
    if answers.len() != asked {
        tracing::error!(
            asked,
            answered = answers.len(),
            "the store answered another number of jobs"
        );
        return Err(internal());
    }
    let failed = atomic && answers.iter().any(Result::is_err);
    let mut answers = answers.into_iter();
    let asked = decided.into_iter().map(|decided| match decided {
        Some(decided) => Ok(decided),
        None => answers.next().unwrap_or_else(|| Err(unanswered())).map(Ok),
    });
    if failed {
        // What the store says of the good ones is only that they were not stored.
        let refused = asked.map(|answer| {
            let error = answer.err()?;
            (error.kind() != ErrorKind::Conflict).then(|| Refused::from(error))
        });
        return Err(none_stored(shared, refused));
    }
    let outcomes = asked.map(|answer| answer.map_err(Refused::from).flatten().map(Taken::Stored));
    Ok(outcomes.map(|outcome| told(shared, outcome)).collect())
}

/// What became of one item.
fn told(shared: &Shared, outcome: Result<Taken>) -> BatchItem {
    match outcome {
        Ok(taken) => BatchItem {
            status: count(shared, &taken).as_u16(),
            job: Some(taken.into_job().into()),
            problem: None,
        },
        Err(refused) => {
            shared.metrics.refused();
            BatchItem {
                status: refused.status(),
                job: None,
                problem: Some(*refused.0),
            }
        }
    }
}

/// The store answered less than it was asked, which was looked at before.
fn unanswered() -> robata_core::Error {
    robata_core::Error::new(ErrorKind::Internal, "store.enqueue", "no answer for a job")
}

/// 422 with every bad item of an atomic batch.
fn none_stored(shared: &Shared, refusals: impl Iterator<Item = Option<Refused>>) -> Refused {
    let problems: Vec<Place> = refusals
        .enumerate()
        .filter_map(|(index, refused)| {
            let problem = refused?.0;
            shared.metrics.refused();
            Some(Place {
                path: vec!["jobs".to_owned(), index.to_string()],
                code: problem.code,
                message: problem.detail,
            })
        })
        .collect();
    let detail = format!("{} of the batch's jobs are bad, so none was stored", problems.len());
    Refused::invalid("batch_refused", detail).places(problems)
}

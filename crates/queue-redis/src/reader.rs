//! A connection that may block, with a consumer's name of its own; and the lease on it, which loses nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use redis::{FromRedisValue, Value};
use robata_core::{
    job::Line,
    queue::{Delivery, Receipt, hand::Hand, share::Plan},
};
use tokio::time::Instant;

use crate::{
    entry::{self, Entry},
    error::Fault,
    held::Retired,
    keys::GROUP,
    link::Link,
    main_link::{Ask, ask},
    script,
    shared::Shared,
};

/// How long after its answer a cancelled read may need to hear of it, and how often it is told.
const UNBLOCK_AGAIN: Duration = Duration::from_millis(50);

/// One connection for reads. A consumer's name belongs to one connection: what it holds and nobody here knows was lost
/// with an answer, and is told from what is on its way by that.
#[derive(Debug)]
pub(crate) struct Reader {
    link: Link,
    consumer: String,
    /// Where the server knows it by a number, a blocked read can be ended without ending the connection.
    number: Option<Number>,
    lines: HashSet<Line>,
}

/// By what its server knows a connection.
#[derive(Clone, Copy, Debug)]
struct Number {
    client: i64,
    /// The shared connection of that time. A later one may lead to another server, which has given the number to
    /// somebody else.
    generation: u64,
}

/// A reader in use. Dropped without `done`, at whichever await, its consumer is retired.
#[derive(Debug)]
pub(crate) struct Lease {
    shared: Arc<Shared>,
    reader: Option<Reader>,
    /// Whether the connection has been of use before: then its failure may only mean that it was stale.
    pub(crate) reused: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            retire(&self.shared, reader);
        }
    }
}

/// Nobody reads by this name any more.
fn retire(shared: &Shared, reader: Reader) {
    shared.held().retire(Retired {
        consumer: reader.consumer,
        lines: reader.lines,
        until: Instant::now() + shared.grace(),
    });
    shared.chores.notify_one();
}

impl Lease {
    /// An idle reader, or a new one.
    pub(crate) async fn new(shared: &Arc<Shared>) -> Result<Self, Fault> {
        // The server is judged by the shared connection.
        crate::keeper::ensure(shared);
        let main = shared.main.get(&shared.source, &shared.config).await?;
        let idle = shared.idle().pop();
        let reused = idle.is_some();
        let reader = match idle {
            Some(reader) => reader,
            None => open(shared, main.generation).await?,
        };
        Ok(Self {
            shared: Arc::clone(shared),
            reader: Some(reader),
            reused,
        })
    }

    /// The connection is good and has nothing on its way: another may use it.
    pub(crate) fn done(mut self) {
        if let Some(reader) = self.reader.take() {
            self.shared.idle().push(reader);
        }
    }

    /// Where one connection has turned out stale, the idle ones have, too.
    pub(crate) fn stale(self) {
        let idle = std::mem::take(&mut *self.shared.idle());
        for reader in idle {
            retire(&self.shared, reader);
        }
    }

    fn reader(&mut self) -> Result<&mut Reader, Fault> {
        self.reader
            .as_mut()
            .ok_or_else(|| Fault::Answer("a reader that was given away".to_owned()))
    }

    /// Takes what there is, each line's share first, and waits for nothing.
    pub(crate) async fn take(&mut self, plan: &Plan, room: usize) -> Result<Vec<Delivery>, Fault> {
        let shared = Arc::clone(&self.shared);
        let reader = self.reader()?;
        reader.lines.extend(plan.iter().map(|(line, ..)| line.clone()));
        let mut take = script::TAKE.prepare_invoke();
        take.key(shared.keys.alive(&shared.run));
        take.arg(millis(shared.config.consumer_expiry))
            .arg(GROUP)
            .arg(&reader.consumer)
            .arg(room);
        for (line, _, share) in plan {
            take.key(shared.keys.stream(line)).arg(*share);
        }
        let answer = ask(&mut reader.link, Ask::Script(&take), shared.config.response_timeout).await?;
        let (lapsed, taken, drained, errors) =
            <(i64, Vec<(usize, Value)>, HashSet<usize>, Vec<Value>)>::from_redis_value(answer)
                .map_err(|error| Fault::Answer(error.to_string()))?;
        shared.said_alive(lapsed == 1);
        let mut counts = vec![0; plan.len()];
        let mut read = Vec::with_capacity(taken.len());
        for (index, entries) in taken {
            let (line, ..) = plan
                .get(index)
                .ok_or_else(|| Fault::Answer(format!("line {index} of {}", plan.len())))?;
            let entries = entries_of(entries)?;
            counts[index] += entries.len();
            read.push((line, entries));
        }
        // All of the answer is understood: from here on it is ours.
        let deliveries = deliver(&shared, read);
        let mut share = shared.share();
        for (index, (line, weight, _)) in plan.iter().enumerate() {
            share.pay(line, *weight, counts[index], !drained.contains(&index));
        }
        drop(share);
        refused(&shared, plan, errors, deliveries)
    }

    /// Waits for a message in any line, at most so long or until nobody waits for it.
    pub(crate) async fn block(
        &mut self,
        plan: &Plan,
        count: usize,
        wait: Duration,
        hand: &Hand,
    ) -> Result<Vec<Delivery>, Fault> {
        let shared = Arc::clone(&self.shared);
        let by_key: HashMap<_, _> = plan
            .iter()
            .map(|(line, weight, _)| (shared.keys.stream(line), (line, *weight)))
            .collect();
        let reader = self.reader()?;
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(&reader.consumer);
        read.arg("COUNT")
            .arg(count)
            .arg("BLOCK")
            .arg(millis(wait).max(1))
            .arg("STREAMS");
        for (line, ..) in plan {
            read.arg(shared.keys.stream(line));
        }
        for _ in plan {
            read.arg(">");
        }
        let number = reader.number;
        let reading = ask(
            &mut reader.link,
            Ask::Command(&read),
            wait + shared.config.response_timeout,
        );
        let mut reading = std::pin::pin!(reading);
        let answer = tokio::select! {
            answer = &mut reading => answer?,
            () = hand.gone() => end_read(&shared, number, reading).await?,
        };
        let mut read = Vec::new();
        for (key, entries) in by_line(answer)? {
            let (line, weight) = by_key
                .get(&key)
                .ok_or_else(|| Fault::Answer(format!("a stream nobody asked for: {key}")))?;
            read.push((*line, *weight, entries_of(entries)?));
        }
        let mut share = shared.share();
        for (line, weight, entries) in &read {
            share.pay(line, *weight, entries.len(), false);
        }
        drop(share);
        Ok(deliver(
            &shared,
            read.into_iter().map(|(line, _, entries)| (line, entries)),
        ))
    }
}

/// Has the server answer a blocked read at once, or gives the connection up where it cannot be told so.
async fn end_read(
    shared: &Arc<Shared>,
    number: Option<Number>,
    mut reading: std::pin::Pin<&mut impl Future<Output = Result<Value, Fault>>>,
) -> Result<Value, Fault> {
    let Some(number) = number else {
        return Err(Fault::Silent(Duration::ZERO));
    };
    let deadline = Instant::now() + shared.config.response_timeout;
    let mut unblock = redis::cmd("CLIENT");
    unblock.arg("UNBLOCK").arg(number.client);
    loop {
        let mut got = shared.main.get(&shared.source, &shared.config).await?;
        if got.generation != number.generation {
            return Err(Fault::Silent(Duration::ZERO));
        }
        // The read may not have come to the server yet: then it is told again.
        let told = ask(&mut got.link, Ask::Command(&unblock), shared.config.response_timeout).await;
        if let Err(fault) = told {
            if fault.ends_connection() {
                shared.main.forget(&got).await;
            }
            return Err(fault);
        }
        match tokio::time::timeout(UNBLOCK_AGAIN, &mut reading).await {
            Ok(answer) => return answer,
            Err(_) if Instant::now() >= deadline => return Err(Fault::Silent(shared.config.response_timeout)),
            Err(_) => {}
        }
    }
}

async fn open(shared: &Arc<Shared>, generation: u64) -> Result<Reader, Fault> {
    let mut link = shared.source.open(&shared.config).await?;
    let mut id = redis::cmd("CLIENT");
    id.arg("ID");
    let number = match ask(&mut link, Ask::Command(&id), shared.config.response_timeout).await {
        Ok(id) => i64::from_redis_value(id)
            .ok()
            .map(|client| Number { client, generation }),
        Err(fault) if fault.ends_connection() => return Err(fault),
        // An ACL may forbid it: reads are then ended with their connection.
        Err(_) => None,
    };
    let consumer = shared.next_reader.fetch_add(1, Ordering::Relaxed);
    Ok(Reader {
        link,
        consumer: format!("{}.{consumer}", shared.run),
        number,
        lines: HashSet::new(),
    })
}

fn entries_of(value: Value) -> Result<Vec<Entry>, Fault> {
    entry::entries(value).map_err(|error| Fault::Answer(error.to_string()))
}

/// Notes entries as out, and makes deliveries of them.
fn deliver<'a>(shared: &Shared, read: impl IntoIterator<Item = (&'a Line, Vec<Entry>)>) -> Vec<Delivery> {
    let mut held = shared.held();
    let mut deliveries = Vec::new();
    for (line, entries) in read {
        for entry in entries {
            held.take_out(line, &entry.id);
            deliveries.push(Delivery {
                line: line.clone(),
                message: entry.message,
                receipt: Receipt(entry.id),
            });
        }
    }
    deliveries
}

/// `[[key, entries], …]` of the older protocol, a map of the newer one, or nothing.
fn by_line(answer: Value) -> Result<Vec<(String, Value)>, Fault> {
    let wrong = |error: redis::ParsingError| Fault::Answer(error.to_string());
    match answer {
        Value::Nil => Ok(Vec::new()),
        Value::Map(lines) => lines
            .into_iter()
            .map(|(key, entries)| Ok((String::from_redis_value(key).map_err(wrong)?, entries)))
            .collect(),
        lines => Vec::<(String, Value)>::from_redis_value(lines).map_err(wrong),
    }
}

/// A line that the server refuses does not keep the others' messages back: it is an error where there is nothing else.
fn refused(
    shared: &Shared,
    plan: &Plan,
    errors: Vec<Value>,
    deliveries: Vec<Delivery>,
) -> Result<Vec<Delivery>, Fault> {
    let mut errors = errors.into_iter();
    while let (Some(index), Some(error)) = (errors.next(), errors.next()) {
        let key = usize::from_redis_value(index)
            .ok()
            .and_then(|index| plan.get(index))
            .map_or_else(String::new, |(line, ..)| shared.keys.stream(line));
        let error = String::from_redis_value(error).unwrap_or_default();
        if deliveries.is_empty() {
            return Err(Fault::Stream { key, error });
        }
        tracing::warn!(key, error, "redis refuses to read a line");
    }
    Ok(deliveries)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

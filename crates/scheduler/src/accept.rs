//! Takes in whole jobs that were accepted by the broker while the store did not serve (PROTOCOL I1): receives them, inserts
//! them if absent, commits, and then acknowledges. While the store is away nothing is received, so that nothing is held.

use std::time::Duration;

use robata_core::{
    Error, ErrorKind, Result, Retry,
    accept::{TakenIn, WholeJob},
    format::Unreadable,
    job::Line,
    queue::{Delivery, Queue, Receive},
    store::{SetAside, Store},
};
use tokio::time::Instant;

use crate::{
    metrics::METRICS,
    part::{backoff, within},
};

/// An empty line is waited on for this long, then the store is looked at again.
const WAIT: Duration = Duration::from_secs(5);
/// The same where an outage is to be called over.
const WAIT_FOR_THE_END: Duration = Duration::from_millis(500);
/// Jobs taken in at once.
const BATCH: std::ops::RangeInclusive<usize> = 16..=250;
/// Bytes taken in at once, as far as the largest body of the batch before lets it be told.
const BATCH_BYTES: usize = 16 << 20;
/// How much waits is asked at most so often.
const DEPTH: Duration = Duration::from_secs(5);
/// What a later release wrote is left for it, and not looked at again before this time.
const NEWER: Duration = Duration::from_secs(5);
/// A store that was away serves once a write is committed within this time.
const CHECK: Duration = Duration::from_secs(2);

/// Takes in, for ever.
pub(crate) async fn serve(store: &dyn Store, queue: &dyn Queue, patience: Duration) {
    let mut reader = Reader {
        store,
        queue,
        patience,
        line: Line::accept(),
        most: *BATCH.end(),
        asked: None,
    };
    let mut failed = backoff();
    loop {
        let Err(error) = reader.round().await else {
            failed = backoff();
            continue;
        };
        METRICS.error("accept");
        tracing::warn!(error = %error.full(), "cannot take in whole jobs; what was received is given back");
        loop {
            tokio::time::sleep(failed.next()).await;
            // A real write: a store that only reads takes nothing in.
            match within(patience.min(CHECK * 2), "store.check", store.check(CHECK)).await {
                Ok(()) => break,
                Err(error) => tracing::debug!(error = %error.full(), "the store does not serve; nothing is received"),
            }
        }
    }
}

struct Reader<'a> {
    store: &'a dyn Store,
    queue: &'a dyn Queue,
    patience: Duration,
    line: Line,
    /// Messages received at once.
    most: usize,
    /// When the broker was last asked how much waits.
    asked: Option<Instant>,
}

impl Reader<'_> {
    async fn within<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        within(self.patience, operation, call).await
    }

    /// Receives once and takes in what came. An error means that store or broker do not serve, and that nothing is held.
    async fn round(&mut self) -> Result<()> {
        // Told before the line is looked at: only these may be over where it is empty then.
        let outages = self.within("store.outages", self.store.outages()).await?;
        let wait = if outages.is_empty() { WAIT } else { WAIT_FOR_THE_END };
        let receive = Receive {
            lines: vec![(self.line.clone(), 1)],
            max: self.most,
            wait,
        };
        let deliveries = within(wait + self.patience, "queue.receive", self.queue.receive(receive)).await?;
        if deliveries.is_empty() {
            return self.at_the_end(&outages).await;
        }
        let largest = deliveries.iter().map(|delivery| delivery.message.body.len()).max();
        self.most = (BATCH_BYTES / largest.unwrap_or(0).max(1)).clamp(*BATCH.start(), *BATCH.end());
        self.take(deliveries).await?;
        if self.asked.is_none_or(|asked| asked.elapsed() >= DEPTH) {
            self.depth().await?;
        }
        Ok(())
    }

    /// Nothing came: where nothing waits either and nobody has anything in hand, the outages are over.
    async fn at_the_end(&mut self, outages: &[i64]) -> Result<()> {
        if outages.is_empty() && self.asked.is_some_and(|asked| asked.elapsed() < DEPTH) {
            return Ok(());
        }
        if self.depth().await? == 0 && !outages.is_empty() {
            let over = self.store.outages_over(outages);
            self.within("store.outages_over", over).await?;
            tracing::info!("the line of whole jobs was read to its end");
        }
        Ok(())
    }

    async fn depth(&mut self) -> Result<u64> {
        let depth = self.within("queue.depth", self.queue.depth(&self.line)).await?;
        self.asked = Some(Instant::now());
        METRICS.accept_waiting(depth.waiting);
        Ok(depth.waiting + depth.unacknowledged)
    }

    /// Takes in what was received, or gives it back.
    async fn take(&self, deliveries: Vec<Delivery>) -> Result<()> {
        let (mut readable, mut done, mut aside, mut newer) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for delivery in deliveries {
            match WholeJob::read(&delivery.message.body) {
                Ok(whole) => readable.push((whole, delivery)),
                Err(Unreadable::Malformed(why)) => aside.push((delivery, why)),
                Err(Unreadable::TooNew(format)) => {
                    tracing::warn!(%format, "a whole job of a later release is left for its masters");
                    newer.push(delivery);
                }
            }
        }
        let mut failed = None;
        // Where a group fails for what is in it, its halves are tried, so that only the bad one stays out.
        let mut groups = vec![readable];
        while let Some(mut group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            if failed.is_some() {
                newer.extend(group.into_iter().map(|(_, delivery)| delivery));
                continue;
            }
            let jobs = group.iter().map(|(whole, _)| whole.clone()).collect();
            match self.within("store.take_in", self.store.take_in(jobs)).await {
                Ok(answers) if answers.len() == group.len() => {
                    for ((whole, delivery), answer) in group.into_iter().zip(answers) {
                        match answer {
                            Ok(fate) => {
                                METRICS.taken_in(word(fate));
                                done.push(delivery);
                            }
                            Err(error) => aside.push((delivery, refusal(&whole, &error))),
                        }
                    }
                }
                Ok(answers) => {
                    let message = format!("{} answers for {} whole jobs", answers.len(), group.len());
                    failed = Some(Error::new(ErrorKind::Internal, "store.take_in", message));
                    groups.push(group);
                }
                Err(error) if is_passing(&error) => {
                    failed = Some(error);
                    groups.push(group);
                }
                Err(error) if group.len() == 1 => {
                    aside.extend(
                        group
                            .into_iter()
                            .map(|(whole, delivery)| (delivery, refusal(&whole, &error))),
                    );
                }
                Err(error) => {
                    tracing::debug!(jobs = group.len(), error = %error.full(), "a group failed, its halves are tried");
                    let later = group.split_off(group.len() / 2);
                    groups.push(later);
                    groups.push(group);
                }
            }
        }
        if let Err((error, back)) = self.put_aside(aside, &mut done).await {
            newer.extend(back);
            failed.get_or_insert(error);
        }
        // What is acknowledged too late comes again, and was there then.
        let acknowledged = match done.is_empty() {
            true => Ok(()),
            false => self.within("queue.acknowledge", self.queue.acknowledge(&done)).await,
        };
        let back = !newer.is_empty();
        let given_back = match back {
            false => Ok(()),
            true => self.within("queue.give_back", self.queue.give_back(newer)).await,
        };
        if let Err(error) = &given_back {
            // Who receives and goes silent is given up by the broker, and others get it.
            tracing::warn!(error = %error.full(), "what cannot be taken in cannot be given back either");
        }
        match failed {
            Some(error) => Err(error),
            None => {
                acknowledged?;
                given_back?;
                if back && done.is_empty() {
                    // Only what a later release wrote is left.
                    tokio::time::sleep(NEWER).await;
                }
                Ok(())
            }
        }
    }

    /// Keeps with their reasons what cannot be taken in; where the store does not, answers what must be given back.
    async fn put_aside(
        &self,
        aside: Vec<(Delivery, String)>,
        done: &mut Vec<Delivery>,
    ) -> Result<(), (Error, Vec<Delivery>)> {
        if aside.is_empty() {
            return Ok(());
        }
        let kept = aside
            .iter()
            .map(|(delivery, reason)| SetAside {
                source: self.line.to_string(),
                reason: reason.clone(),
                body: delivery.message.body.clone(),
                attributes: delivery.message.attributes.clone(),
            })
            .collect();
        let kept = self.within("store.set_aside", self.store.set_aside(kept)).await;
        let (deliveries, reasons): (Vec<_>, Vec<_>) = aside.into_iter().unzip();
        if let Err(error) = kept {
            return Err((error, deliveries));
        }
        for reason in reasons {
            METRICS.taken_in("set_aside");
            tracing::warn!(reason, "a whole job cannot be taken in; it is set aside");
        }
        done.extend(deliveries);
        Ok(())
    }
}

/// Whether it says nothing about the job: the store does not serve now.
fn is_passing(error: &Error) -> bool {
    error.retry() != Retry::No || error.kind() == ErrorKind::Unavailable
}

fn refusal(whole: &WholeJob, error: &Error) -> String {
    let job = &whole.job;
    format!(
        "the job {} ({}/{}, by {}): {}",
        job.id,
        job.app,
        job.job,
        whole.by,
        error.full()
    )
}

fn word(fate: TakenIn) -> &'static str {
    match fate {
        TakenIn::Made => "made",
        TakenIn::WasThere => "was_there",
        TakenIn::Alias(_) => "alias",
        TakenIn::Gone => "gone",
    }
}

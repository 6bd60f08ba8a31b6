//! Whole jobs on their way into the broker: what comes at once goes in one publication, and where the broker fails, who comes
//! next is told so at once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use robata_core::{
    job::Line,
    queue::{Message, Queue},
};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout},
};

use super::outage::UnderWay;

/// Jobs, and bytes, in one publication.
const GROUP: usize = 500;
const GROUP_BYTES: usize = 4 << 20;
/// Bytes that wait for their publication.
const WAITING_BYTES: usize = 64 << 20;
/// A broker that does not confirm within this time has failed.
const CONFIRMS_WITHIN: Duration = Duration::from_secs(2);
/// After a failure the broker is not asked for this long.
const REST: Duration = Duration::from_millis(500);

/// The way into the broker.
#[derive(Debug)]
pub(super) struct Publisher {
    queue: Arc<dyn Queue>,
    line: Line,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Pending>,
    bytes: usize,
    /// Until when the broker is left alone, and why.
    rest: Option<(Instant, String)>,
}

#[derive(Debug)]
struct Pending {
    message: Message,
    _under_way: UnderWay,
    answer: oneshot::Sender<Result<(), String>>,
}

impl Publisher {
    pub(super) fn new(queue: Arc<dyn Queue>) -> Self {
        Self {
            queue,
            line: Line::accept(),
            waiting: Mutex::default(),
            wake: Notify::new(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that holds the lock can panic halfway through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the broker failed a moment ago.
    pub(super) fn rests(&self) -> bool {
        let waiting = self.waiting();
        waiting.rest.as_ref().is_some_and(|(until, _)| *until > Instant::now())
    }

    /// Comes back once the broker has made it durable, or says why it has not; then it may be there all the same.
    pub(super) async fn publish(&self, message: Message, under_way: UnderWay) -> Result<(), String> {
        let (answer, wait) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if let Some((until, why)) = &waiting.rest
                && *until > Instant::now()
            {
                return Err(why.clone());
            }
            let bytes = message.body.len();
            if waiting.bytes + bytes > WAITING_BYTES {
                return Err("the broker is behind: too much waits for it".to_owned());
            }
            waiting.bytes += bytes;
            waiting.jobs.push_back(Pending {
                message,
                _under_way: under_way,
                answer,
            });
        }
        self.wake.notify_one();
        wait.await
            .unwrap_or_else(|_| Err("the server is shutting down".to_owned()))
    }

    /// Publishes what waits, for ever.
    pub(super) async fn serve(&self) {
        loop {
            let group = self.take();
            if group.is_empty() {
                self.wake.notified().await;
                continue;
            }
            let (messages, rest): (Vec<_>, Vec<_>) = group
                .into_iter()
                .map(|pending| (pending.message, (pending.answer, pending._under_way)))
                .unzip();
            let published = self.confirmed(messages).await;
            if let Err(why) = &published {
                tracing::warn!(jobs = rest.len(), error = why, "the broker does not take whole jobs");
                self.fail_all(why);
            }
            for (answer, _under_way) in rest {
                // Who asked may have gone; what is published is published.
                let _ = answer.send(published.clone());
            }
        }
    }

    fn take(&self) -> Vec<Pending> {
        let mut waiting = self.waiting();
        let (mut group, mut bytes) = (Vec::new(), 0);
        while group.len() < GROUP {
            let fits = |next: &mut Pending| bytes == 0 || bytes + next.message.body.len() <= GROUP_BYTES;
            let Some(next) = waiting.jobs.pop_front_if(fits) else {
                break;
            };
            bytes += next.message.body.len();
            group.push(next);
        }
        waiting.bytes -= bytes;
        group
    }

    async fn confirmed(&self, messages: Vec<Message>) -> Result<(), String> {
        match timeout(CONFIRMS_WITHIN, self.queue.publish(&self.line, messages)).await {
            // What served may have been another server than the one that was judged before.
            Ok(Ok(())) if self.queue.capabilities().whole_jobs => Ok(()),
            Ok(Ok(())) => Err("the broker is not durable enough for whole jobs any more".to_owned()),
            Ok(Err(error)) => Err(error.full()),
            Err(_elapsed) => Err(format!(
                "the broker did not confirm within {} s",
                CONFIRMS_WITHIN.as_secs()
            )),
        }
    }

    /// Who waits is told at once, and who comes in the next moment.
    fn fail_all(&self, why: &str) {
        let failed: Vec<_> = {
            let mut waiting = self.waiting();
            waiting.rest = Some((Instant::now() + REST, why.to_owned()));
            waiting.bytes = 0;
            waiting.jobs.drain(..).collect()
        };
        for pending in failed {
            let _ = pending.answer.send(Err(why.to_owned()));
        }
    }
}

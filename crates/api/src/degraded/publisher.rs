//! Whole jobs on their way into the broker: what comes at once goes in one publication; a job that the broker does not take stays
//! out alone; and where the broker fails, who comes next is told so at once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use robata_core::{
    ErrorKind,
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
    /// It failed last: one job alone goes next, so that few are in doubt where it fails again.
    doubted: bool,
}

/// Why a whole job is not known to be in the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// As much as may go in this outage went before: it is not there.
    UsedUp,
    /// The broker fails, and was not asked for this one: it is not there.
    NotAsked(String),
    /// The broker takes jobs, and not this one: it is not there.
    Refused(String),
    /// The broker fails. It may be there all the same.
    InDoubt(String),
}

/// What a publication failed for.
#[derive(Debug)]
enum Failed {
    /// Something in it, which the broker would refuse again.
    Content(String),
    /// The broker.
    Broker(String),
}

type Answer = Result<(), Unsent>;

#[derive(Debug)]
struct Pending {
    message: Message,
    under_way: UnderWay,
    answer: oneshot::Sender<Answer>,
}

impl Pending {
    /// Tells who asked. They may have gone: what is published is published.
    fn end(self, answer: Answer) {
        // First: who is told may send the next one at once.
        if let Err(Unsent::NotAsked(_) | Unsent::Refused(_)) = &answer {
            self.under_way.never_arrived();
        }
        let _ = self.answer.send(answer);
    }
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

    /// Comes back once the broker has made it durable, or says why it has not. `goes` notes that it goes, if it may: what
    /// the broker is not asked for is not noted either.
    pub(super) async fn publish(&self, message: Message, goes: impl FnOnce() -> Option<UnderWay>) -> Answer {
        let wait = self.enter(message, goes)?;
        wait.await
            .unwrap_or_else(|_| Err(Unsent::InDoubt("the server is shutting down".to_owned())))
    }

    /// Has it wait for the next publication.
    fn enter(
        &self,
        message: Message,
        goes: impl FnOnce() -> Option<UnderWay>,
    ) -> Result<oneshot::Receiver<Answer>, Unsent> {
        let (answer, wait) = oneshot::channel();
        let mut waiting = self.waiting();
        if let Some((until, why)) = &waiting.rest
            && *until > Instant::now()
        {
            return Err(Unsent::NotAsked(why.clone()));
        }
        let bytes = message.body.len();
        if waiting.bytes + bytes > WAITING_BYTES {
            let why = "the broker is behind: too much waits for it";
            return Err(Unsent::NotAsked(why.to_owned()));
        }
        let under_way = goes().ok_or(Unsent::UsedUp)?;
        waiting.bytes += bytes;
        waiting.jobs.push_back(Pending {
            message,
            under_way,
            answer,
        });
        drop(waiting);
        self.wake.notify_one();
        Ok(wait)
    }

    /// Publishes what waits, for ever.
    pub(super) async fn serve(&self) {
        loop {
            let group = self.take();
            if group.is_empty() {
                self.wake.notified().await;
                continue;
            }
            self.bring(group).await;
        }
    }

    fn take(&self) -> Vec<Pending> {
        let mut waiting = self.waiting();
        let most = if waiting.doubted { 1 } else { GROUP };
        let (mut group, mut bytes) = (Vec::new(), 0);
        while group.len() < most {
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

    /// Publishes a group. Where it fails for what is in it, its halves are tried, so that only the bad one stays out: a queue
    /// may take less than its capabilities say, and what others sent is good. What of it was published is then published
    /// twice, which makes no second job.
    async fn bring(&self, group: Vec<Pending>) {
        let mut groups = vec![group];
        while let Some(mut group) = groups.pop() {
            let messages = group.iter().map(|pending| pending.message.clone()).collect();
            match self.confirmed(messages).await {
                Ok(()) => {
                    self.waiting().doubted = false;
                    for pending in group {
                        pending.end(Ok(()));
                    }
                }
                Err(Failed::Content(why)) if group.len() > 1 => {
                    tracing::debug!(
                        jobs = group.len(),
                        error = why,
                        "a group was refused, its halves are tried"
                    );
                    let later = group.split_off(group.len() / 2);
                    groups.push(later);
                    groups.push(group);
                }
                Err(Failed::Content(why)) => {
                    for pending in group {
                        pending.end(Err(Unsent::Refused(why.clone())));
                    }
                }
                Err(Failed::Broker(why)) => {
                    // A part of what was refused may have been published.
                    let in_doubt: Vec<_> = group.into_iter().chain(groups.drain(..).flatten()).collect();
                    tracing::warn!(
                        jobs = in_doubt.len(),
                        error = why,
                        "the broker does not take whole jobs"
                    );
                    self.fail_all(in_doubt, &why);
                }
            }
        }
    }

    async fn confirmed(&self, messages: Vec<Message>) -> Result<(), Failed> {
        match timeout(CONFIRMS_WITHIN, self.queue.publish(&self.line, messages)).await {
            // What served may have been another server than the one that was judged before.
            Ok(Ok(())) if self.queue.capabilities().whole_jobs => Ok(()),
            Ok(Ok(())) => {
                let why = "the broker is not durable enough for whole jobs any more";
                Err(Failed::Broker(why.to_owned()))
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Invalid => Err(Failed::Content(error.full())),
            Ok(Err(error)) => Err(Failed::Broker(error.full())),
            Err(_elapsed) => Err(Failed::Broker(format!(
                "the broker did not confirm within {} s",
                CONFIRMS_WITHIN.as_secs()
            ))),
        }
    }

    /// Who waits is told at once, and who comes in the next moment.
    fn fail_all(&self, in_doubt: Vec<Pending>, why: &str) {
        let waited: Vec<_> = {
            let mut waiting = self.waiting();
            waiting.rest = Some((Instant::now() + REST, why.to_owned()));
            waiting.doubted = true;
            waiting.bytes = 0;
            waiting.jobs.drain(..).collect()
        };
        for pending in in_doubt {
            pending.end(Err(Unsent::InDoubt(why.to_owned())));
        }
        for pending in waited {
            pending.end(Err(Unsent::NotAsked(why.to_owned())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use robata_core::JobId;
    use robata_queue_memory::{MemoryConfig, MemoryQueue};
    use robata_testkit::{
        engine::{Fault, Faults},
        faulty_queue::FaultyQueue,
    };

    use super::*;
    use crate::degraded::outage::Outage;

    /// Jobs of up to so many bytes are taken.
    const TAKEN: usize = 30;

    struct Way {
        publisher: Publisher,
        faults: Arc<Faults>,
        outage: Arc<Outage>,
    }

    fn way() -> Way {
        let faults = Arc::new(Faults::default());
        let broker = FaultyQueue {
            queue: Arc::new(MemoryQueue::new(MemoryConfig::default())),
            faults: Arc::clone(&faults),
            whole_jobs: AtomicBool::new(true),
            takes: AtomicUsize::new(TAKEN),
        };
        Way {
            publisher: Publisher::new(Arc::new(broker)),
            faults,
            outage: Arc::default(),
        }
    }

    impl Way {
        /// Of 1,000 bytes in all.
        fn enter(&self, bytes: usize) -> Result<oneshot::Receiver<Answer>, Unsent> {
            let message = Message {
                body: vec![b'x'; bytes].into(),
                ..Message::default()
            };
            let goes = || self.outage.goes(JobId::new(), bytes as u64, 1000);
            self.publisher.enter(message, goes)
        }

        async fn publish_all(&self) {
            loop {
                let group = self.publisher.take();
                if group.is_empty() {
                    return;
                }
                self.publisher.bring(group).await;
            }
        }

        /// Whether exactly so many of the 1,000 bytes are used.
        fn has_used(&self, bytes: u64) -> bool {
            let room = 1000 - bytes;
            let more = self.outage.goes(JobId::new(), room + 1, 1000);
            let all = self.outage.goes(JobId::new(), room, 1000);
            let exactly = more.is_none() && all.is_some();
            if let Some(all) = all {
                all.never_arrived();
            }
            exactly
        }
    }

    #[tokio::test]
    async fn a_job_that_the_broker_does_not_take_stays_out_alone_and_the_way_stays_open() {
        let way = way();
        let sizes = [10, TAKEN, TAKEN + 1, 10, 10, TAKEN + 2, 10];
        let waits: Vec<_> = sizes.iter().map(|bytes| way.enter(*bytes).unwrap()).collect();
        way.publish_all().await;
        for (bytes, wait) in sizes.into_iter().zip(waits) {
            match wait.await.unwrap() {
                Ok(()) => assert!(bytes <= TAKEN, "{bytes}"),
                Err(Unsent::Refused(why)) => {
                    let told = [bytes, TAKEN].map(|number| number.to_string());
                    assert!(bytes > TAKEN && told.iter().all(|told| why.contains(told)), "{why}");
                }
                Err(other) => panic!("{bytes}: {other:?}"),
            }
        }
        assert!(!way.publisher.rests());
        assert!(way.has_used(40 + TAKEN as u64), "those that are there");
    }

    #[tokio::test]
    async fn who_waits_behind_a_failure_was_not_asked_for_and_uses_up_nothing() {
        let way = way();
        way.faults
            .fail("queue.publish", Fault::Refuse(ErrorKind::Unavailable), 1);
        let first = way.enter(10).unwrap();
        let group = way.publisher.take();
        let waits = way.enter(20).unwrap();
        way.publisher.bring(group).await;
        assert!(matches!(first.await.unwrap(), Err(Unsent::InDoubt(_))));
        assert!(matches!(waits.await.unwrap(), Err(Unsent::NotAsked(_))));
        assert!(way.has_used(10), "the first may be there");
    }

    #[tokio::test]
    async fn what_the_broker_is_not_asked_for_uses_up_nothing() {
        let way = way();
        let large = Message {
            body: vec![b'x'; WAITING_BYTES + 1].into(),
            ..Message::default()
        };
        let goes = || -> Option<UnderWay> { panic!("it does not go") };
        assert!(matches!(way.publisher.enter(large, goes), Err(Unsent::NotAsked(_))));
        way.publisher.waiting().rest = Some((Instant::now() + Duration::from_secs(3600), "it failed".to_owned()));
        for _ in 0..200 {
            assert_eq!(way.enter(10).unwrap_err(), Unsent::NotAsked("it failed".to_owned()));
        }
        assert!(way.has_used(0));
        way.publisher.waiting().rest = None;
        let waits = way.enter(1000).unwrap();
        assert_eq!(way.enter(1).unwrap_err(), Unsent::UsedUp);
        drop(waits);
    }

    #[tokio::test]
    async fn after_a_failure_one_alone_goes_first() {
        let way = way();
        way.faults
            .fail("queue.publish", Fault::Refuse(ErrorKind::Unavailable), 2);
        for failure in 1..=2 {
            way.publisher.waiting().rest = None;
            let waits: Vec<_> = (0..3).map(|_| way.enter(10).unwrap()).collect();
            let group = way.publisher.take();
            assert_eq!(group.len(), if failure == 1 { 3 } else { 1 });
            way.publisher.bring(group).await;
            drop(waits);
        }
        assert!(way.has_used(40), "three, and one");
        way.publisher.waiting().rest = None;
        let waits: Vec<_> = (0..3).map(|_| way.enter(10).unwrap()).collect();
        way.publish_all().await;
        for wait in waits {
            assert_eq!(wait.await.unwrap(), Ok(()));
        }
        assert_eq!(way.faults.calls("queue.publish"), 4, "one alone, then the others");
    }
}

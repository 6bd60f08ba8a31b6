//! Group commit (PROTOCOL I4): what waits is taken by one of a few writers, run in one transaction, committed once, and
//! answered. A group that fails is tried in halves, so that only the bad one is refused. A caller that goes away loses nothing.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use robata_core::{Error, ErrorKind};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    db::{Db, How, Work},
    error::Fault,
};

/// Requests in one transaction.
const GROUP: usize = 512;
/// Items in one transaction, unless a single request has more.
const GROUP_ITEMS: usize = 5_000;
/// Requests that wait; beyond it the store answers that it is behind.
const WAITING: usize = 16_384;

/// Runs a group; answers each request in its order.
pub(crate) type Run<Q, A> = Work<Vec<Q>, Vec<Result<A, Error>>>;

/// The way to the writers of one kind of request.
#[derive(Debug)]
pub(crate) struct Groups<Q, A> {
    line: Arc<Line<Q, A>>,
    writers: Mutex<Vec<JoinHandle<()>>>,
}

struct Line<Q, A> {
    waiting: Mutex<Waiting<Q, A>>,
    wake: Notify,
    operation: &'static str,
}

struct Waiting<Q, A> {
    requests: VecDeque<Request<Q, A>>,
    closed: bool,
}

struct Request<Q, A> {
    request: Q,
    items: usize,
    since: Instant,
    answer: oneshot::Sender<Result<A, Error>>,
}

impl<Q, A> std::fmt::Debug for Line<Q, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

impl<Q, A> Line<Q, A> {
    fn lock(&self) -> MutexGuard<'_, Waiting<Q, A>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next group; `None` once closed and empty.
    async fn next(&self, oldest: Duration) -> Option<Vec<Request<Q, A>>> {
        loop {
            let woken = self.wake.notified();
            {
                let mut waiting = self.lock();
                let mut group = Vec::new();
                let mut items = 0;
                while group.len() < GROUP {
                    let Some(next) = waiting.requests.front() else { break };
                    if items > 0 && items + next.items > GROUP_ITEMS {
                        break;
                    }
                    items += next.items;
                    let Some(next) = waiting.requests.pop_front() else {
                        break;
                    };
                    if next.since.elapsed() > oldest {
                        let message = format!("the store is behind: it was not reached within {} s", oldest.as_secs());
                        // The caller may have gone.
                        let _ = next
                            .answer
                            .send(Err(Error::new(ErrorKind::Unavailable, self.operation, message)));
                        continue;
                    }
                    group.push(next);
                }
                if !waiting.requests.is_empty() {
                    self.wake.notify_one();
                }
                if !group.is_empty() {
                    return Some(group);
                }
                if waiting.closed {
                    // The next writer ends, too.
                    self.wake.notify_one();
                    return None;
                }
            }
            woken.await;
        }
    }
}

impl<Q, A> Groups<Q, A>
where
    Q: Send + Sync + 'static,
    A: Send + 'static,
{
    /// Starts `writers`, which end by themselves once this is dropped and what waits is done.
    pub(crate) fn start(db: &Arc<Db>, how: How, writers: usize, run: Run<Q, A>) -> Self {
        let line = Arc::new(Line {
            waiting: Mutex::new(Waiting {
                requests: VecDeque::new(),
                closed: false,
            }),
            wake: Notify::new(),
            operation: how.operation,
        });
        let writer = |_| {
            let (line, db) = (Arc::clone(&line), Arc::clone(db));
            tokio::spawn(async move {
                while let Some(group) = line.next(db.statement_timeout).await {
                    serve(&db, how, run, group).await;
                }
            })
        };
        let writers = (0..writers.max(1)).map(writer).collect();
        Self {
            line,
            writers: Mutex::new(writers),
        }
    }

    /// Has a request run with the next group.
    pub(crate) async fn run(&self, request: Q, items: usize) -> Result<A, Error> {
        let (answer, wait) = oneshot::channel();
        let operation = self.line.operation;
        {
            let mut waiting = self.line.lock();
            if waiting.closed {
                return Err(closed(operation));
            }
            if waiting.requests.len() >= WAITING {
                let message = format!("the store is behind: {WAITING} writes wait");
                return Err(Error::new(ErrorKind::Unavailable, operation, message));
            }
            waiting.requests.push_back(Request {
                request,
                items,
                since: Instant::now(),
                answer,
            });
        }
        self.line.wake.notify_one();
        wait.await.unwrap_or_else(|_| Err(closed(operation)))
    }
}

impl<Q, A> Groups<Q, A> {
    /// Lets the writers end once they have done what waits.
    pub(crate) fn close(&self) {
        self.line.lock().closed = true;
        self.line.wake.notify_one();
    }
}

impl<Q, A> Groups<Q, A> {
    /// Closes, and waits so long at most until what waits is done.
    pub(crate) async fn finish(&self, limit: Duration) {
        self.close();
        let writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        let all = futures::future::join_all(writers);
        if timeout(limit, all).await.is_err() {
            tracing::warn!(operation = self.line.operation, "writes still wait as the store closes");
        }
    }
}

impl<Q, A> Drop for Groups<Q, A> {
    fn drop(&mut self) {
        self.close();
    }
}

fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation, "the store is closed")
}

async fn serve<Q, A>(db: &Db, how: How, run: Run<Q, A>, group: Vec<Request<Q, A>>)
where
    Q: Send + Sync,
    A: Send,
{
    let (requests, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|one| (one.request, one.answer)).unzip();
    let mut groups = vec![(requests, answers)];
    while let Some((mut requests, mut answers)) = groups.pop() {
        let fault = match db.attempt(how, &requests, run).await {
            Ok(results) if results.len() == answers.len() => {
                for (answer, result) in answers.into_iter().zip(results) {
                    // The caller may have gone; its write stands.
                    let _ = answer.send(result);
                }
                continue;
            }
            Ok(_) => Fault::BadRow("a group was answered in part".to_owned()),
            Err(fault) => fault,
        };
        if fault.is_environment() || requests.len() == 1 {
            tracing::warn!(writes = requests.len(), error = %fault.to_error(how.operation).full(), "writes failed");
            for answer in answers {
                let _ = answer.send(Err(fault.to_error(how.operation)));
            }
        } else {
            tracing::debug!(writes = requests.len(), error = %fault, "a group failed, its halves are tried");
            let half = requests.len() / 2;
            let later = (requests.split_off(half), answers.split_off(half));
            groups.push(later);
            groups.push((requests, answers));
        }
    }
}

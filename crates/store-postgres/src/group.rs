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
/// Items that must wait before another writer begins beside one that is under way. Fewer go together with what comes until
/// it has committed: many small transactions side by side cost the server more than they save, above all with many masters.
const BESIDE: usize = 32;

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
    /// Of all requests.
    items: usize,
    /// Writers under way.
    busy: usize,
    closed: bool,
}

impl<Q, A> Waiting<Q, A> {
    /// Whether it is time for another writer.
    fn is_due(&self) -> bool {
        !self.requests.is_empty() && (self.busy == 0 || self.items >= BESIDE)
    }

    /// The next group; requests that waited too long are given back apart from it.
    fn take(&mut self, oldest: Duration) -> Taken<Q, A> {
        let (mut group, mut late, mut items) = (Vec::new(), Vec::new(), 0);
        while group.len() < GROUP {
            let fits = |next: &mut Request<Q, A>| items == 0 || items + next.items <= GROUP_ITEMS;
            let Some(next) = self.requests.pop_front_if(fits) else {
                break;
            };
            self.items -= next.items;
            if next.since.elapsed() > oldest {
                late.push(next);
            } else {
                items += next.items;
                group.push(next);
            }
        }
        Taken { group, late }
    }
}

/// What was taken out of a line.
struct Taken<Q, A> {
    group: Vec<Request<Q, A>>,
    late: Vec<Request<Q, A>>,
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

    /// Waits for the next group; `None` once closed and empty. The writer is under way until it says [`Self::done`].
    async fn next(&self, oldest: Duration) -> Option<Vec<Request<Q, A>>> {
        loop {
            let woken = self.wake.notified();
            {
                let mut waiting = self.lock();
                while waiting.is_due() {
                    let Taken { group, late } = waiting.take(oldest);
                    for request in late {
                        let message = format!("the store is behind: it was not reached within {} s", oldest.as_secs());
                        let error = Error::new(ErrorKind::Unavailable, self.operation, message);
                        // The caller may have gone.
                        let _ = request.answer.send(Err(error));
                    }
                    if !group.is_empty() {
                        waiting.busy += 1;
                        if waiting.is_due() {
                            self.wake.notify_one();
                        }
                        return Some(group);
                    }
                }
                if waiting.closed && waiting.requests.is_empty() {
                    // The next writer ends, too.
                    self.wake.notify_one();
                    return None;
                }
            }
            woken.await;
        }
    }

    /// A writer is no longer under way; what waits is for it, or for another one that is idle.
    fn done(&self) {
        self.lock().busy -= 1;
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
                items: 0,
                busy: 0,
                closed: false,
            }),
            wake: Notify::new(),
            operation: how.operation,
        });
        let writer = |_| {
            let (line, db) = (Arc::clone(&line), Arc::clone(db));
            tokio::spawn(async move {
                while let Some(group) = line.next(db.main.session.limit()).await {
                    serve(&db, how, run, group).await;
                    line.done();
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
            waiting.items += items;
            waiting.requests.push_back(Request {
                request,
                items,
                since: Instant::now(),
                answer,
            });
            if waiting.is_due() {
                self.line.wake.notify_one();
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(requests: &[usize]) -> Waiting<usize, ()> {
        let request = |(number, items): (usize, &usize)| Request {
            request: number,
            items: *items,
            since: Instant::now(),
            answer: oneshot::channel().0,
        };
        Waiting {
            requests: requests.iter().enumerate().map(request).collect(),
            items: requests.iter().sum(),
            busy: 0,
            closed: false,
        }
    }

    fn taken(waiting: &mut Waiting<usize, ()>) -> Vec<usize> {
        let Taken { group, late } = waiting.take(Duration::from_secs(60));
        assert!(late.is_empty());
        group.into_iter().map(|request| request.request).collect()
    }

    #[test]
    fn a_second_writer_begins_only_for_many() {
        let mut few = waiting(&[1, 1]);
        assert!(few.is_due());
        few.busy = 1;
        assert!(!few.is_due());
        let mut many = waiting(&[BESIDE]);
        many.busy = 1;
        assert!(many.is_due());
        assert!(!waiting(&[]).is_due());
    }

    #[test]
    fn a_group_is_bounded_in_items_but_takes_one_request_whole() {
        let mut line = waiting(&[GROUP_ITEMS + 1, GROUP_ITEMS, 1, 7]);
        assert_eq!(taken(&mut line), [0]);
        assert_eq!(taken(&mut line), [1]);
        assert_eq!(taken(&mut line), [2, 3]);
        assert_eq!((line.items, line.requests.len()), (0, 0));
        assert_eq!(taken(&mut waiting(&vec![1; GROUP + 3])).len(), GROUP);
    }

    #[test]
    fn what_waited_too_long_is_in_no_group() {
        let mut line = waiting(&[1, 1]);
        let Taken { group, late } = line.take(Duration::ZERO);
        assert_eq!((group.len(), late.len(), line.items), (0, 2, 0));
    }
}

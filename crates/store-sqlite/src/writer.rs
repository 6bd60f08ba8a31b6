//! The one writer: a thread that takes all writes that wait, runs them in one transaction, commits once (one fsync), and
//! then answers them all (PROTOCOL I4). A caller that goes away loses nothing: its write runs all the same.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use robata_core::{
    Error, ErrorKind,
    job::{Enqueue, Enqueued},
};
use tokio::sync::oneshot;

use crate::{
    enqueue,
    error::{Fault, Result},
    tx::Tx,
};

/// Writes in one transaction.
const GROUP: usize = 512;
/// Jobs in one transaction, unless a single enqueue has more.
const GROUP_JOBS: usize = 5_000;
/// Writes that wait; beyond it the store answers that it is behind.
const WAITING: usize = 16_384;
/// How often a group is tried while somebody else holds the database (each time after SQLite's own busy timeout).
const BUSY_TRIES: u32 = 3;
const BUSY_WAIT: Duration = Duration::from_millis(50);

/// One kind of write: run again from its request if its group fails. Refusals come before anything is written.
pub(crate) type Work<R, T> = for<'a> fn(&'a mut Tx, &'a R) -> BoxFuture<'a, Result<T>>;

/// The way to the writer.
#[derive(Debug)]
pub(crate) struct Writer {
    line: Arc<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    writes: Mutex<Writes>,
    wake: Condvar,
}

#[derive(Default)]
struct Writes {
    urgent: VecDeque<Write>,
    normal: VecDeque<Write>,
    closed: bool,
}

impl std::fmt::Debug for Writes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writes")
            .field("urgent", &self.urgent.len())
            .field("normal", &self.normal.len())
            .field("closed", &self.closed)
            .finish()
    }
}

/// A write that waits, or is being run.
enum Write {
    /// Enqueues of one group become one.
    Enqueue(Enqueueing),
    Other(Box<dyn Run>),
}

/// An enqueue with its answer to be.
pub(crate) struct Enqueueing {
    pub(crate) request: Enqueue,
    pub(crate) results: Vec<Result<Enqueued, Error>>,
    answer: oneshot::Sender<Result<Vec<Result<Enqueued, Error>>, Error>>,
}

trait Run: Send {
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, Result<()>>;
    fn answer(self: Box<Self>, fault: Option<&Fault>);
}

struct Call<R, T> {
    operation: &'static str,
    request: R,
    work: Work<R, T>,
    result: Option<Result<T, Error>>,
    answer: oneshot::Sender<Result<T, Error>>,
}

impl<R: Send + Sync, T: Send> Run for Call<R, T> {
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.result = Some(match (self.work)(tx, &self.request).await {
                Ok(value) => Ok(value),
                Err(refusal @ Fault::Refused(_)) => Err(refusal.to_error(self.operation)),
                Err(fault) => return Err(fault),
            });
            Ok(())
        })
    }

    fn answer(self: Box<Self>, fault: Option<&Fault>) {
        let result = match (fault, self.result) {
            (Some(fault), _) => Err(fault.to_error(self.operation)),
            (None, Some(result)) => result,
            (None, None) => Err(Error::new(ErrorKind::Internal, self.operation, "the write was not run")),
        };
        // The caller may have gone; its write stands.
        let _ = self.answer.send(result);
    }
}

impl Write {
    fn jobs(&self) -> usize {
        match self {
            Self::Enqueue(enqueue) => enqueue.request.jobs.len(),
            Self::Other(_) => 0,
        }
    }

    fn answer(self, fault: Option<&Fault>) {
        match (self, fault) {
            (Self::Enqueue(enqueue), Some(fault)) => {
                let _ = enqueue.answer.send(Err(fault.to_error("store.enqueue")));
            }
            (Self::Enqueue(enqueue), None) => {
                let _ = enqueue.answer.send(Ok(enqueue.results));
            }
            (Self::Other(call), fault) => call.answer(fault),
        }
    }
}

impl Writer {
    /// Starts the thread; `closed` runs in it at its very end, when the connection is closed.
    pub(crate) fn start(tx: Tx, connect: Connect, closed: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let line = Arc::new(Waiting::default());
        let ours = Arc::clone(&line);
        std::thread::Builder::new()
            .name("robata-store".to_owned())
            .spawn(move || {
                let mut desk = Desk { tx: Some(tx), connect };
                while let Some(group) = ours.next() {
                    futures::executor::block_on(desk.serve(group));
                }
                futures::executor::block_on(desk.close());
                closed();
            })?;
        Ok(Self { line })
    }

    /// Has a write run with the next group.
    pub(crate) async fn run<R, T>(&self, operation: &'static str, request: R, work: Work<R, T>) -> Result<T, Error>
    where
        R: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.send(operation, request, work, false).await
    }

    /// Has a write run before all that wait (PROTOCOL H4).
    pub(crate) async fn run_first<R, T>(
        &self,
        operation: &'static str,
        request: R,
        work: Work<R, T>,
    ) -> Result<T, Error>
    where
        R: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.send(operation, request, work, true).await
    }

    async fn send<R, T>(&self, operation: &'static str, request: R, work: Work<R, T>, urgent: bool) -> Result<T, Error>
    where
        R: Send + Sync + 'static,
        T: Send + 'static,
    {
        let (answer, wait) = oneshot::channel();
        let call = Call {
            operation,
            request,
            work,
            result: None,
            answer,
        };
        self.line.push(Write::Other(Box::new(call)), urgent, operation)?;
        wait.await.unwrap_or_else(|_| Err(closed(operation)))
    }

    /// Enqueues with the next group.
    pub(crate) async fn enqueue(&self, request: Enqueue) -> Result<Vec<Result<Enqueued, Error>>, Error> {
        let (answer, wait) = oneshot::channel();
        let write = Write::Enqueue(Enqueueing {
            request,
            results: Vec::new(),
            answer,
        });
        self.line.push(write, false, "store.enqueue")?;
        wait.await.unwrap_or_else(|_| Err(closed("store.enqueue")))
    }

    /// Lets the thread end once it has run what waits.
    pub(crate) fn close(&self) {
        self.line.lock().closed = true;
        self.line.wake.notify_all();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, write: Write, urgent: bool, operation: &'static str) -> Result<(), Error> {
        let mut writes = self.lock();
        if writes.closed {
            return Err(closed(operation));
        }
        if urgent {
            writes.urgent.push_back(write);
        } else if writes.normal.len() < WAITING {
            writes.normal.push_back(write);
        } else {
            let message = format!("the store is behind: {WAITING} writes wait");
            return Err(Error::new(ErrorKind::Unavailable, operation, message));
        }
        drop(writes);
        self.wake.notify_one();
        Ok(())
    }

    /// Waits for the next group; `None` once closed and empty.
    fn next(&self) -> Option<Vec<Write>> {
        let mut writes = self.lock();
        while writes.urgent.is_empty() && writes.normal.is_empty() {
            if writes.closed {
                return None;
            }
            writes = self.wake.wait(writes).unwrap_or_else(PoisonError::into_inner);
        }
        let mut group: Vec<_> = writes.urgent.drain(..).collect();
        let mut jobs = 0;
        while group.len() < GROUP {
            let Some(next) = writes.normal.front() else { break };
            if jobs > 0 && jobs + next.jobs() > GROUP_JOBS {
                break;
            }
            jobs += next.jobs();
            group.extend(writes.normal.pop_front());
        }
        Some(group)
    }
}

fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation, "the store is closed")
}

/// Makes the writer's connection anew.
pub(crate) type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<Tx>> + Send>;

/// What the thread works with.
struct Desk {
    tx: Option<Tx>,
    connect: Connect,
}

impl Desk {
    /// Runs a group, in halves where it fails, and answers each of its writes.
    async fn serve(&mut self, group: Vec<Write>) {
        let mut groups = vec![group];
        while let Some(mut group) = groups.pop() {
            match self.attempt(&mut group).await {
                Ok(()) => group.into_iter().for_each(|write| write.answer(None)),
                Err(fault) if fault.is_environment() || group.len() == 1 => {
                    tracing::warn!(writes = group.len(), error = %fault.to_error("store.write").full(), "writes failed");
                    group.into_iter().for_each(|write| write.answer(Some(&fault)));
                }
                Err(fault) => {
                    tracing::debug!(writes = group.len(), error = %fault, "a group failed, its halves are tried");
                    let half = group.split_off(group.len() / 2);
                    groups.push(half);
                    groups.push(group);
                }
            }
        }
    }

    async fn attempt(&mut self, group: &mut [Write]) -> Result<()> {
        let mut tries = 1;
        loop {
            let fault = match self.transaction(group).await {
                Ok(()) => return Ok(()),
                Err(fault) => fault,
            };
            if let Some(tx) = &mut self.tx {
                let undone = tx.roll_back().await;
                if undone.is_err() || fault.breaks_connection() {
                    self.tx = None;
                }
            }
            if !fault.is_busy() || tries == BUSY_TRIES {
                return Err(fault);
            }
            tries += 1;
            std::thread::sleep(BUSY_WAIT);
        }
    }

    async fn transaction(&mut self, group: &mut [Write]) -> Result<()> {
        let tx = match &mut self.tx {
            Some(tx) => tx,
            none => none.insert((self.connect)().await?),
        };
        let work = async {
            tx.begin().await?;
            let enqueues = group.iter_mut().filter_map(|write| match write {
                Write::Enqueue(enqueue) => Some(enqueue),
                Write::Other(_) => None,
            });
            enqueue::run(tx, enqueues.collect()).await?;
            for write in group.iter_mut() {
                if let Write::Other(call) = write {
                    call.run(tx).await?;
                }
            }
            tx.commit().await
        };
        // A panic is the fault of one write; its group falls apart until it stands alone.
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(result) => result,
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default();
                Err(Fault::Panicked(text))
            }
        }
    }

    async fn close(self) {
        if let Some(tx) = self.tx
            && let Err(error) = sqlx::Connection::close(tx.conn).await
        {
            tracing::warn!(%error, "the store's connection was not closed well");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use crate::{
        catalog::set_meta,
        config::SqliteConfig,
        error::Fault,
        open::{Opened, open},
    };

    async fn opened() -> (tempfile::TempDir, Opened) {
        let folder = tempfile::tempdir().unwrap();
        let opened = open(SqliteConfig::new(folder.path())).await.unwrap();
        (folder, opened)
    }

    async fn good(opened: &Opened, n: usize) -> robata_core::Result<()> {
        let writer = &opened.writer;
        writer
            .run("test.good", n, |tx, n| {
                Box::pin(async move { set_meta(&mut tx.conn, &format!("test {n}"), "x").await })
            })
            .await
    }

    async fn written(opened: &Opened) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM meta WHERE name LIKE 'test %'");
        count.fetch_one(&opened.readers).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_in_one_write_is_its_own_and_the_writer_goes_on() {
        let (_folder, opened) = opened().await;
        let bad = opened.writer.run("test.bad", (), |tx, ()| {
            Box::pin(async move {
                set_meta(&mut tx.conn, "test of the one that panics", "x").await?;
                panic!("on purpose")
            })
        });
        let goods = futures::future::join_all((0..50).map(|n| good(&opened, n)));
        let (bad, goods): (robata_core::Result<()>, Vec<_>) = tokio::join!(bad, goods);
        let error = bad.unwrap_err();
        assert_eq!(error.kind(), robata_core::ErrorKind::Internal);
        assert!(error.message().contains("on purpose"), "{error:?}");
        for good in goods {
            good.unwrap();
        }
        assert_eq!(written(&opened).await, 50);
        opened.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_group_that_fails_is_halved_until_the_bad_one_stands_alone() {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let (_folder, opened) = opened().await;
        // Holds the writer until all others wait, so that they are one group.
        let (begun, wait_begun) = mpsc::channel();
        let (release, wait_release) = mpsc::channel();
        let hold = (begun, Mutex::new(wait_release));
        let mut gate = Box::pin(opened.writer.run("test.gate", hold, |_, (begun, release)| {
            Box::pin(async move {
                begun.send(()).unwrap();
                release.lock().unwrap().recv().unwrap();
                Ok(())
            })
        }));
        assert!(futures::poll!(gate.as_mut()).is_pending());
        wait_begun.recv().unwrap();
        let bad = opened.writer.run("test.bad", (), |_, ()| {
            Box::pin(async {
                RUNS.fetch_add(1, Ordering::SeqCst);
                Err::<(), _>(Fault::BadRow("a row of somebody else's making".into()))
            })
        });
        let goods = futures::future::join_all((0..31).map(|n| good(&opened, n)));
        let mut others = Box::pin(futures::future::join(bad, goods));
        assert!(futures::poll!(others.as_mut()).is_pending());
        release.send(()).unwrap();
        let (gate, (bad, goods)) = tokio::join!(gate, others);
        gate.unwrap();
        assert!(bad.unwrap_err().message().contains("somebody else's making"));
        for good in goods {
            good.unwrap();
        }
        // Once with all, then in halves of 16, 8, 4, 2, and alone.
        assert_eq!(RUNS.load(Ordering::SeqCst), 6);
        assert_eq!(written(&opened).await, 31);
        opened.close().await;
    }
}

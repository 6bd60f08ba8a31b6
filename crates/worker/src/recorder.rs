//! Gathers the writes of all attempts into batches: one store call for what came while the one before was under way.

use std::sync::Arc;

use robata_core::{
    Error, ErrorKind, Result,
    attempt::{AttemptWrite, Written},
    store::Store,
};
use tokio::sync::{Mutex, mpsc, oneshot};

/// Writes in one store call.
const BATCH: usize = 500;

type Item = (AttemptWrite, oneshot::Sender<Result<Written>>);

/// Where attempts hand in their writes.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(mpsc::Sender<Item>);

impl Recorder {
    pub(crate) fn new() -> (Self, Arc<Mutex<mpsc::Receiver<Item>>>) {
        let (sender, receiver) = mpsc::channel(4 * BATCH);
        (Self(sender), Arc::new(Mutex::new(receiver)))
    }

    /// One write. Dropped half-way it may still be done.
    pub(crate) async fn write(&self, write: AttemptWrite) -> Result<Written> {
        let (answer, answered) = oneshot::channel();
        let closed = || Error::new(ErrorKind::Unavailable, "worker.record", "the worker is stopping");
        self.0.send((write, answer)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

/// Serves the recorder until nobody can write any more.
pub(crate) async fn serve(store: Arc<dyn Store>, items: Arc<Mutex<mpsc::Receiver<Item>>>) {
    let mut items = items.lock().await;
    let mut batch = Vec::new();
    while items.recv_many(&mut batch, BATCH).await > 0 {
        let (writes, answers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        match store.record(writes).await {
            Ok(results) => {
                for (answer, result) in answers.into_iter().zip(results) {
                    // Nobody waits any more: the attempt was let go.
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(
                        Error::new(error.kind(), "store.record", error.full()).with_retry(error.retry())
                    ));
                }
            }
        }
    }
}

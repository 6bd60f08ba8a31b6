//! Gathers the writes of all attempts into batches: one store call for what came while the one before was under way.

use std::sync::Arc;

use robata_core::{
    Error, ErrorKind, Result, Retry,
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
    record_all(&mut items, |writes| store.record(writes)).await;
}

async fn record_all<F: Future<Output = Result<Vec<Result<Written>>>>>(
    items: &mut mpsc::Receiver<Item>,
    record: impl Fn(Vec<AttemptWrite>) -> F,
) {
    let mut batch = Vec::new();
    while items.recv_many(&mut batch, BATCH).await > 0 {
        let (writes, answers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        let again = if writes.len() > 1 { writes.clone() } else { Vec::new() };
        match record(writes).await {
            Ok(results) => {
                for (answer, result) in answers.into_iter().zip(results) {
                    // Nobody waits any more: the attempt was let go.
                    let _ = answer.send(result);
                }
            }
            // It would fail again: one of them may be all that is wrong, and must not take the others with it.
            Err(error) if error.retry() == Retry::No && !again.is_empty() => {
                tracing::warn!(writes = again.len(), error = %error.full(), "cannot record a batch; recording singly");
                for (write, answer) in again.into_iter().zip(answers) {
                    let alone = record(vec![write]).await;
                    let _ =
                        answer.send(alone.and_then(|mut results| results.pop().unwrap_or_else(|| Err(no_answer()))));
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

fn no_answer() -> Error {
    Error::new(
        ErrorKind::Internal,
        "store.record",
        "the store gave no answer for a write",
    )
}

#[cfg(test)]
mod tests {
    use robata_core::{AttemptId, AttemptState, IncarnationId, JobId, JobState, attempt::AttemptChange};

    use super::*;

    fn write(number: u32) -> AttemptWrite {
        AttemptWrite {
            attempt: AttemptId {
                job: JobId::new(),
                number,
            },
            epoch: 1,
            incarnation: IncarnationId::new(),
            change: AttemptChange::Waiting(None),
        }
    }

    /// A store whose every transaction with the write number 2 fails so.
    async fn record(writes: Vec<AttemptWrite>, retry: Retry) -> Result<Vec<Result<Written>>> {
        if writes.iter().any(|write| write.attempt.number == 2) {
            return Err(Error::new(ErrorKind::Internal, "store.record", "a bad row").with_retry(retry));
        }
        let written = || Written {
            state: AttemptState::Starting,
            job: JobState::Running,
            cancel_requested: false,
        };
        Ok(writes.iter().map(|_| Ok(written())).collect())
    }

    /// How three writes of one batch are answered.
    async fn answers(retry: Retry) -> Vec<bool> {
        let (sender, mut items) = mpsc::channel(8);
        let mut answers = Vec::new();
        for number in 1..=3 {
            let (answer, answered) = oneshot::channel();
            sender.send((write(number), answer)).await.unwrap();
            answers.push(answered);
        }
        drop(sender);
        record_all(&mut items, |writes| record(writes, retry)).await;
        let mut told = Vec::new();
        for answer in answers {
            told.push(answer.await.unwrap().is_ok());
        }
        told
    }

    #[tokio::test]
    async fn a_bad_write_takes_no_other_of_its_batch_with_it() {
        assert_eq!(answers(Retry::No).await, [true, false, true]);
        // A store that does not answer now is asked once.
        assert_eq!(answers(Retry::Yes).await, [false, false, false]);
    }
}

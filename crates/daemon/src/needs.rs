//! What a daemon needs, tried for `/readyz`.

use std::sync::Arc;

use robata_api::{CHECK, TryNeeds, need};
use robata_api_types::Need;
use robata_core::{
    Error, ErrorKind, ExecutorName, QueueName, Result,
    job::Line,
    log_store::LogStore,
    queue::{Depth, Queue},
    store::Store,
};
use robata_worker::{Status, StatusReader};

/// What a master needs besides store and logs: the broker, without which jobs still are taken; and beside a worker in the
/// same process, its executors.
pub(crate) fn of_master(queue: Arc<dyn Queue>, worker: Option<StatusReader>) -> TryNeeds {
    Arc::new(move || {
        let (queue, worker) = (Arc::clone(&queue), worker.clone());
        Box::pin(async move {
            let mut needs = vec![need("queue", false, answers(&*queue)).await];
            if let Some(worker) = worker {
                needs.extend(executors(&worker.read()));
            }
            needs
        })
    })
}

/// What a worker needs: it is ready while it can claim, so while it has a lease, and store and broker serve.
pub(crate) fn of_worker(
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    logs: Arc<dyn LogStore>,
    worker: StatusReader,
) -> TryNeeds {
    Arc::new(move || {
        let (store, queue, logs) = (Arc::clone(&store), Arc::clone(&queue), Arc::clone(&logs));
        let status = worker.read();
        Box::pin(async move {
            let lease = async {
                if status.has_lease {
                    return Ok(());
                }
                let words = "it has no lease: it has not registered yet, or its heartbeats are not answered";
                Err(Error::new(ErrorKind::Unavailable, "ready.check", words))
            };
            let (store, queue, logs, lease) = tokio::join!(
                need("store", true, store.check(CHECK)),
                need("queue", true, answers(&*queue)),
                need("logs", false, logs.check(CHECK)),
                need("lease", true, lease),
            );
            let mut needs = vec![store, queue, logs, lease];
            needs.extend(executors(&status));
            needs
        })
    })
}

/// Engines that cannot be reached: their jobs wait, all others run.
fn executors(status: &Status) -> Vec<Need> {
    let executors = status.executors.iter();
    executors
        .map(|(name, executor)| Need {
            name: format!("executor {name}"),
            ok: executor.reached,
            required: false,
            message: (!executor.reached).then(|| "its engine was not reached yet".to_owned()),
        })
        .collect()
}

/// Asks a broker how much is in a line that nobody uses: that changes nothing.
async fn answers(queue: &dyn Queue) -> Result<()> {
    let line = Line {
        queue: QueueName::new("robata-readiness")?,
        executor: ExecutorName::new("none")?,
    };
    match tokio::time::timeout(CHECK, queue.depth(&line)).await {
        Ok(depth) => answered(depth),
        Err(_elapsed) => {
            let words = format!("the broker did not answer within {} s", CHECK.as_secs());
            Err(Error::new(ErrorKind::Unavailable, "ready.check", words))
        }
    }
}

/// That there is no such line is an answer, too: a broker whose lines are made by hand has none that nobody uses.
fn answered(depth: Result<Depth>) -> Result<()> {
    match depth {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        answer => answer.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_says_there_is_no_such_line_has_answered() {
        let said = |kind| answered(Err(Error::new(kind, "queue.depth", "as it says")));
        assert!(answered(Ok(Depth::default())).is_ok());
        assert!(said(ErrorKind::NotFound).is_ok());
        assert!(said(ErrorKind::Unavailable).is_err());
    }
}

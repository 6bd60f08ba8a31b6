//! Messages that go through a line while a test breaks something: each must come, however often the way breaks.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use robata_core::{job::Line, queue::Queue};
use robata_queue_rabbitmq::RabbitMqQueue;
use robata_testkit::case::until;
use tokio::{task::JoinHandle, time::Instant};

use super::{SOON, number, numbered, want};

/// So many go through.
pub(crate) const MESSAGES: usize = 1500;
/// The whole of it takes no longer.
const LONG: Duration = Duration::from_secs(120);

/// One that publishes, and four that receive.
#[derive(Debug)]
pub(crate) struct Traffic {
    queue: RabbitMqQueue,
    line: Line,
    seen: Arc<Mutex<BTreeSet<usize>>>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    /// Starts it: the first queue publishes, the others receive.
    pub(crate) fn start(publisher: RabbitMqQueue, receivers: &[RabbitMqQueue; 2], line: &Line) -> Self {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let mut tasks = vec![tokio::spawn(publish(publisher, line.clone()))];
        for (turn, queue) in receivers.iter().cycle().take(4).enumerate() {
            let consuming = consume(queue.clone(), line.clone(), Arc::clone(&seen), turn == 0);
            tasks.push(tokio::spawn(consuming));
        }
        Self {
            queue: receivers[0].clone(),
            line: line.clone(),
            seen,
            tasks,
        }
    }

    /// Waits until so many have come.
    pub(crate) async fn came(&self, count: usize) -> Result<()> {
        let came = until("a part of it came", SOON, async || {
            Ok((locked(&self.seen).len() >= count).then_some(()))
        });
        came.await
            .with_context(|| format!("{} of {count} came", locked(&self.seen).len()))
    }

    /// Waits until all have come, and nothing is left.
    pub(crate) async fn finish(self) -> Result<()> {
        for task in self.tasks {
            task.await??;
        }
        // What is left are second copies.
        until("nothing is left", SOON, async || {
            let Ok(got) = self.queue.receive(want(&self.line, 100, Duration::ZERO)).await else {
                return Ok(None);
            };
            drop(self.queue.acknowledge(&got).await);
            let Ok(depth) = self.queue.depth(&self.line).await else {
                return Ok(None);
            };
            Ok((depth.waiting == 0 && depth.unacknowledged == 0).then_some(()))
        })
        .await
    }
}

fn locked(seen: &Mutex<BTreeSet<usize>>) -> MutexGuard<'_, BTreeSet<usize>> {
    seen.lock().expect("nobody fails with it")
}

async fn publish(queue: RabbitMqQueue, line: Line) -> Result<()> {
    for start in (0..MESSAGES).step_by(20) {
        let deadline = Instant::now() + SOON;
        while let Err(error) = queue.publish(&line, numbered(start..start + 20)).await {
            ensure!(Instant::now() < deadline, "{}", error.full());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

async fn consume(queue: RabbitMqQueue, line: Line, seen: Arc<Mutex<BTreeSet<usize>>>, back: bool) -> Result<()> {
    let deadline = Instant::now() + LONG;
    let mut last = None;
    while locked(&seen).len() < MESSAGES {
        ensure!(
            Instant::now() < deadline,
            "{} came; the last error: {last:?}",
            locked(&seen).len()
        );
        let got = match queue.receive(want(&line, 9, Duration::from_millis(200))).await {
            Ok(got) => got,
            Err(error) => {
                last = Some(error);
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        if back && got.len() > 7 {
            // A worker without room. A failure leaves it to the queue to finish.
            drop(queue.give_back(got).await);
            continue;
        }
        for delivery in &got {
            locked(&seen).insert(number(delivery)?);
        }
        // What could not be acknowledged comes again.
        drop(queue.acknowledge(&got).await);
    }
    Ok(())
}

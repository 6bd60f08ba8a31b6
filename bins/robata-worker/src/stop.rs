//! How a worker ends: leaving its jobs to the next worker, or draining first.

use std::{process::ExitCode, time::Duration};

use robata_daemon::{Ended, Running, Signals};
use robata_settings::OnSigterm;
use tokio_util::sync::CancellationToken;

/// What a signal does to this worker.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) on_sigterm: OnSigterm,
    /// Draining that takes longer becomes leaving.
    pub(crate) drain_within: Option<Duration>,
    /// Has the worker drain.
    pub(crate) drain: CancellationToken,
}

impl Stop {
    /// Runs until a signal or a request to drain ends it.
    pub(crate) async fn run(self, mut running: Running, mut signals: Signals) -> anyhow::Result<ExitCode> {
        let mut failed = None;
        tokio::select! {
            _ = signals.next() => if self.on_sigterm == OnSigterm::Drain {
                failed = self.drain(&mut running, &mut signals).await;
            },
            ended = running.ended() => failed = drained(ended),
        }
        tracing::info!(event = "stopping", "takes nothing new; again: leave at once");
        let left = tokio::select! {
            left = running.stop() => left,
            signal = signals.next() => return Ok(signal.code()),
        };
        tracing::info!(
            event = "stopped",
            running = left,
            "stopped; what runs is adopted by the next worker"
        );
        failed.map_or(Ok(ExitCode::SUCCESS), Err)
    }

    /// Waits until all jobs have ended, another signal, or for as long as draining may take.
    async fn drain(&self, running: &mut Running, signals: &mut Signals) -> Option<anyhow::Error> {
        tracing::info!(event = "draining", within = ?self.drain_within,
            "takes nothing new, and ends once its jobs have; again: leave them to the next worker");
        self.drain.cancel();
        let too_long = async {
            match self.drain_within {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = running.ended() => drained(ended),
            _ = signals.next() => {
                tracing::warn!(event = "leaving", "told again: leaves what still runs");
                None
            }
            () = too_long => {
                tracing::warn!(event = "leaving", "draining took too long (worker.drain_within): leaves what still runs");
                None
            }
        }
    }
}

/// A worker that has drained ends well; anything else that ends is a failure.
fn drained(ended: Ended) -> Option<anyhow::Error> {
    match ended {
        Ended::Well(Running::WORKER) => {
            tracing::info!(event = "drained", "drained");
            None
        }
        ended => Some(ended.failure()),
    }
}

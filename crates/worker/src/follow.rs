//! From running to ended: time limit, cancel, and the end itself (PROTOCOL X3, X5).

use std::time::Duration;

use robata_core::{
    ErrorKind, Timestamp,
    attempt::AttemptChange,
    executor::{Ending, Handle, ThingState},
    finish::{End, Outcome, StopCause},
};
use tokio::time::Instant;

use crate::{
    attempt::{Attempt, LetGo},
    backoff::Backoff,
    engine::Watch,
};

/// An end that comes this soon spares the write that it has started.
const SHORT: Duration = Duration::from_millis(15);
/// A stop for time is sent though the store does not answer, after this time (PROTOCOL H2).
const STOP_UNRECORDED: Duration = Duration::from_secs(5);

/// Follows what runs to its end.
pub(crate) async fn follow(attempt: &Attempt, handle: &Handle) -> Result<Outcome, LetGo> {
    attempt
        .shared
        .held
        .set_resting(&attempt.holding, attempt.held.started_at.is_some());
    let outcome = to_the_end(attempt, handle).await;
    attempt.shared.held.set_resting(&attempt.holding, false);
    outcome
}

async fn to_the_end(attempt: &Attempt, handle: &Handle) -> Result<Outcome, LetGo> {
    let mut watch = attempt.engine.watch(handle);
    let mut recorded = attempt.held.started_at.is_some();
    let mut started: Option<Timestamp> = attempt.held.started_at;
    if let Some(cause) = attempt.held.stop_cause {
        // Decided by a worker that went away: sent again.
        return stop(attempt, handle, &mut watch, cause).await;
    }
    let mut deadline = started.and_then(|at| deadline(attempt, at));
    let mut short = std::pin::pin!(tokio::time::sleep(SHORT));
    let mut short_over = attempt.held.started_at.is_some();
    let mut again = Backoff::new(SHORT, Duration::from_secs(1));
    let mut look_again = None;
    loop {
        tokio::select! {
            () = sleep_until(look_again), if look_again.is_some() => {
                look_again = None;
                watch.look();
            }
            state = watch.next() => match state {
                ThingState::Ended(ending) => return Ok(outcome(ending, false)),
                ThingState::Absent => return Ok(lost()),
                ThingState::Running { started_at } => {
                    started = Some(started_at);
                    deadline = self::deadline(attempt, started_at);
                    if short_over && !recorded {
                        recorded = record_started(attempt, started_at, deadline).await?;
                    }
                }
                // Set going and not seen running yet: not every engine tells when it does.
                _ => look_again = Some(Instant::now() + again.next()),
            },
            () = &mut short, if !short_over => {
                short_over = true;
                match started {
                    Some(at) if !recorded => recorded = record_started(attempt, at, deadline).await?,
                    Some(_) => {}
                    None => watch.look(),
                }
            }
            () = attempt.holding.cancel_wished() => {
                return stop(attempt, handle, &mut watch, StopCause::Cancel).await;
            }
            () = sleep_until(deadline) => return stop(attempt, handle, &mut watch, StopCause::Timeout).await,
        }
    }
}

/// The time limit counts from the engine's own start time; from here on it runs on the monotonic clock.
fn deadline(attempt: &Attempt, started_at: Timestamp) -> Option<Instant> {
    let timeout = attempt.held.request.definition.timeout?;
    Some(Instant::now() + timeout.saturating_sub(attempt.engine.ran_since(started_at)))
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Records the start; `false` where the time limit came first.
async fn record_started(attempt: &Attempt, at: Timestamp, deadline: Option<Instant>) -> Result<bool, LetGo> {
    let written = tokio::select! {
        written = attempt.shared.write(&attempt.holding, AttemptChange::Started { at }) => written,
        () = sleep_until(deadline) => return Ok(false),
    };
    match written {
        Ok(written) => {
            if written.cancel_requested {
                attempt.shared.held.cancel(attempt.held.id);
            }
            attempt.shared.held.set_resting(&attempt.holding, true);
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::Fenced => Err(LetGo),
        // The table does not know this move: recorded before, by the holder before us.
        Err(_) => {
            attempt.shared.held.set_resting(&attempt.holding, true);
            Ok(true)
        }
    }
}

/// Decides, records, stops, and waits until the engine confirms the end.
async fn stop(attempt: &Attempt, handle: &Handle, watch: &mut Watch, cause: StopCause) -> Result<Outcome, LetGo> {
    let write = attempt.shared.write(&attempt.holding, AttemptChange::Stopping(cause));
    let written = if cause == StopCause::Timeout {
        // Without the store a time limit is kept all the same.
        tokio::time::timeout(STOP_UNRECORDED, write).await.ok()
    } else {
        Some(write.await)
    };
    if let Some(Err(error)) = written {
        if error.kind() == ErrorKind::Fenced {
            return Err(LetGo);
        }
        tracing::debug!(attempt = %attempt.held.id, error = %error.full(), "stopping was recorded before");
    }
    // What ended by itself before the stop is sent keeps its own end.
    let target = robata_core::executor::Target::Handle(handle.clone());
    match attempt.observe(target.clone()).await.state {
        ThingState::Ended(ending) => return Ok(outcome(ending, attempt.held.stop_cause.is_some())),
        ThingState::Absent => return Ok(lost()),
        _ => {}
    }
    let grace = attempt.held.request.definition.grace_period;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    while let Err(error) = attempt.engine.executor.stop(handle, grace).await {
        tracing::warn!(attempt = %attempt.held.id, error = %error.full(), "cannot stop it yet");
        backoff.wait().await;
    }
    loop {
        match attempt.observe(target.clone()).await.state {
            ThingState::Ended(ending) => return Ok(outcome(ending, true)),
            ThingState::Absent => return Ok(lost()),
            _ => {
                watch.look();
                watch.next().await;
            }
        }
    }
}

fn outcome(ending: Ending, stop_sent: bool) -> Outcome {
    Outcome {
        end: ending.end,
        stop_sent,
        started_at: ending.started_at,
        finished_at: ending.finished_at,
        detail: ending.detail,
        message: ending.message,
    }
}

fn lost() -> Outcome {
    Outcome::new(End::Lost).with_message("the engine says that it is gone; what became of it cannot be known")
}

//! From running to ended: time limit, cancel, and the end itself (PROTOCOL X3, X5).

use std::time::Duration;

use robata_core::{
    ErrorKind, Timestamp,
    attempt::AttemptChange,
    executor::{Ending, Handle, Target, ThingState},
    finish::{End, Outcome, StopCause},
};
use tokio::time::Instant;

use crate::{
    attempt::{Attempt, LetGo},
    backoff::Backoff,
    clock::ahead,
    engine::Watch,
    fence,
};

/// An end that comes this soon spares the write that it has started.
const SHORT: Duration = Duration::from_millis(15);
/// A stop for time is sent though the store does not answer, after this time (PROTOCOL H2).
const STOP_UNRECORDED: Duration = Duration::from_secs(5);
/// What cannot be looked at for this time is stopped unseen.
const LOOK_BEFORE_STOP: Duration = Duration::from_secs(5);

/// Follows what runs to its end.
pub(crate) async fn follow(attempt: &Attempt, handle: &Handle) -> Result<Outcome, LetGo> {
    attempt
        .shared
        .held
        .set_resting(&attempt.holding, attempt.held.started_at.is_some());
    let outcome = tokio::select! {
        outcome = to_the_end(attempt, handle) => outcome,
        () = fence::due(attempt) => Ok(fence::stop(attempt, handle).await),
    };
    attempt.shared.held.set_resting(&attempt.holding, false);
    outcome.map(|outcome| fence::told(attempt, outcome))
}

async fn to_the_end(attempt: &Attempt, handle: &Handle) -> Result<Outcome, LetGo> {
    let mut watch = attempt.engine.watch(handle);
    let mut recorded = attempt.held.started_at.is_some();
    let mut started: Option<Timestamp> = attempt.held.started_at;
    // Whether the store may know that it ran.
    let mut ran = recorded;
    if let Some(cause) = attempt.held.stop_cause {
        // Decided by a worker that went away: sent again.
        return stop(attempt, handle, &mut watch, cause, ran).await;
    }
    // Until the engine says when it started, or that it does not run yet: what cannot be looked at has a limit, too.
    let mut deadline = match started {
        Some(at) => deadline(attempt, at),
        None => attempt.held.request.definition.timeout.map(ahead),
    };
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
                ThingState::Ended(ending) => return Ok(outcome(ending, false, ran)),
                ThingState::Absent => return Ok(lost()),
                ThingState::Running { started_at } => {
                    started = Some(started_at);
                    deadline = self::deadline(attempt, started_at);
                    if short_over && !recorded {
                        ran = true;
                        recorded = record_started(attempt, started_at, deadline).await?;
                    }
                }
                // Set going and not seen running yet: not every engine tells when it does.
                _ => {
                    look_again = Some(Instant::now() + again.next());
                    if started.is_none() {
                        deadline = None;
                    }
                }
            },
            () = &mut short, if !short_over => {
                short_over = true;
                match started {
                    Some(at) if !recorded => {
                        ran = true;
                        recorded = record_started(attempt, at, deadline).await?;
                    }
                    Some(_) => {}
                    None => watch.look(),
                }
            }
            () = attempt.holding.cancel_wished() => {
                return stop(attempt, handle, &mut watch, StopCause::Cancel, ran).await;
            }
            () = sleep_until(deadline) => return stop(attempt, handle, &mut watch, StopCause::Timeout, ran).await,
        }
    }
}

/// The time limit counts from the engine's own start time; from here on it runs on the monotonic clock.
fn deadline(attempt: &Attempt, started_at: Timestamp) -> Option<Instant> {
    let timeout = attempt.held.request.definition.timeout?;
    Some(ahead(timeout.saturating_sub(attempt.engine.ran_since(started_at))))
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
async fn stop(
    attempt: &Attempt,
    handle: &Handle,
    watch: &mut Watch,
    cause: StopCause,
    ran: bool,
) -> Result<Outcome, LetGo> {
    let recorded = if cause == StopCause::Timeout {
        // Without the store a time limit is kept all the same.
        let written = tokio::time::timeout(STOP_UNRECORDED, record_stopping(attempt, cause)).await;
        written.unwrap_or(Ok(false))?
    } else {
        record_stopping(attempt, cause).await?
    };
    // What ended by itself before the stop is sent keeps its own end. What cannot be looked at is stopped all the same.
    let target = Target::Handle(handle.clone());
    let sent_before = attempt.held.stop_cause.is_some();
    let mut unseen_until = None;
    match tokio::time::timeout(LOOK_BEFORE_STOP, attempt.observe(target.clone())).await {
        Ok(seen) => match seen.state {
            ThingState::Ended(ending) => return Ok(outcome(ending, sent_before, ran)),
            ThingState::Absent => return Ok(lost()),
            _ => {}
        },
        Err(_) => unseen_until = Some(attempt.engine.now()),
    }
    let grace = attempt.held.request.definition.grace_period;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    while let Err(error) = attempt.engine.executor.stop(handle, grace).await {
        tracing::warn!(attempt = %attempt.held.id, error = %error.full(), "cannot stop it yet");
        backoff.wait().await;
    }
    let outcome = loop {
        match attempt.observe(target.clone()).await.state {
            ThingState::Ended(ending) => {
                // Nobody could see that it had ended before: its own end time tells.
                let before = unseen_until > ending.finished_at && ending.finished_at.is_some();
                break outcome(ending, sent_before || !before, ran);
            }
            ThingState::Absent => break lost(),
            _ => {
                watch.look();
                watch.next().await;
            }
        }
    };
    if !recorded && outcome.stop_sent {
        // The end is decided by what the store knows of the stop: without its cause, a program that ends well on
        // SIGTERM would have succeeded.
        record_stopping(attempt, cause).await?;
    }
    Ok(outcome)
}

/// Records that a stop is decided, and why.
async fn record_stopping(attempt: &Attempt, cause: StopCause) -> Result<bool, LetGo> {
    match attempt
        .shared
        .write(&attempt.holding, AttemptChange::Stopping(cause))
        .await
    {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Fenced => Err(LetGo),
        Err(error) => {
            tracing::debug!(attempt = %attempt.held.id, error = %error.full(), "stopping was recorded before");
            Ok(true)
        }
    }
}

/// `ran`: the store may know that it ran. Then an engine that says it never did is at fault, and its words are kept: what
/// was seen running cannot be found to have never run.
pub(crate) fn outcome(ending: Ending, stop_sent: bool, ran: bool) -> Outcome {
    let end = match ending.end {
        End::NeverRan(_) if ran => End::EngineFault,
        end => end,
    };
    Outcome {
        end,
        stop_sent,
        started_at: ending.started_at,
        finished_at: ending.finished_at,
        detail: ending.detail,
        message: ending.message,
    }
}

pub(crate) fn lost() -> Outcome {
    Outcome::new(End::Lost).with_message("the engine says that it is gone; what became of it cannot be known")
}

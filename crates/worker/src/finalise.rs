//! The last steps of an attempt: log read to its end, sealed, the thing removed, in this order (PROTOCOL X6).

use std::time::Duration;

use robata_core::{
    Error, ErrorKind,
    attempt::{AttemptChange, LogState, LogSummary},
    executor::{Handle, Target, ThingState},
    log_store::Seal,
};
use tokio::time::Instant;

use crate::{
    attempt::{Attempt, LetGo},
    backoff::Backoff,
    pump::{self, LOG_LIMIT, Pump, Read},
};

/// Why a log is incomplete of which nothing more could be masked, and so nothing more was kept.
const SECRETS_UNKNOWN: &str = "its secrets could not be had again in time, to be masked in it";

/// Finalises an attempt that has ended.
pub(crate) async fn finalise(attempt: &Attempt, handle: Option<&Handle>, pump: Option<Pump>) -> Result<(), LetGo> {
    let summary = match (handle, pump) {
        (Some(_), Some(mut pump)) => read_and_seal(attempt, &mut pump).await,
        // Another one ended it, or it never ran.
        (Some(handle), None) => match sealed_before(attempt).await {
            Some(summary) => summary,
            // What never ran printed nothing, and following its output would not end.
            None if attempt.observe(Target::Handle(handle.clone())).await.state == ThingState::Prepared => empty(),
            None => read_and_seal(attempt, &mut pump::spawn(attempt, handle)).await,
        },
        (None, _) if attempt.held.handle.is_some() => {
            seal(
                attempt,
                Read::Incomplete("what ran is gone, its output with it".to_owned()),
            )
            .await
        }
        (None, _) => empty(),
    };
    if let Some(handle) = handle {
        remove(attempt, handle).await;
    }
    match attempt
        .shared
        .write(&attempt.holding, AttemptChange::Finalised(summary))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) => {
            if error.kind() != ErrorKind::Fenced {
                tracing::error!(attempt = %attempt.held.id, error = %error.full(), "the store refuses that it is finalised");
            }
            Err(LetGo)
        }
    }
}

/// Stops what may run on though its attempt is over, and comes back once nothing of it is left.
pub(crate) async fn stop(attempt: &Attempt, handle: &Handle) -> Result<(), LetGo> {
    let grace = attempt.held.request.definition.grace_period;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        // Under a lease only (PROTOCOL H2).
        if attempt.shared.lease.wait_valid().await.incarnation != attempt.holding.incarnation {
            return Err(LetGo);
        }
        match attempt.engine.executor.stop(handle, grace).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::warn!(attempt = %attempt.held.id, error = %error.full(), "cannot stop what was lost yet")
            }
        }
        backoff.wait().await;
    }
}

/// The seal of a holder before us, which went away before it could record that: what it read may be gone by now.
async fn sealed_before(attempt: &Attempt) -> Option<LogSummary> {
    if attempt.holding.epoch == 1 {
        return None;
    }
    match attempt.shared.logs.progress(attempt.held.id).await {
        Ok(progress) => progress.sealed,
        Err(error) => {
            tracing::warn!(attempt = %attempt.held.id, error = %error.full(), "cannot see whether its log is sealed");
            None
        }
    }
}

async fn read_and_seal(attempt: &Attempt, pump: &mut Pump) -> LogSummary {
    let patience = attempt.shared.config.logs_patience;
    let read = match tokio::time::timeout(patience, pump.finish()).await {
        Ok(read) => read,
        Err(_) if !attempt.secrets.are_known() => Read::Incomplete(SECRETS_UNKNOWN.to_owned()),
        Err(_) => Read::Incomplete("the output could not be read and kept in time".to_owned()),
    };
    seal(attempt, read).await
}

/// The log of what printed nothing: the store's own row says all, but to whoever follows the log itself.
fn empty() -> LogSummary {
    LogSummary {
        state: LogState::Complete,
        reason: None,
        bytes: 0,
    }
}

async fn seal(attempt: &Attempt, read: Read) -> LogSummary {
    let reach = match &read {
        Read::Limited(reach) => Some(*reach),
        _ => None,
    };
    let summary = match read {
        Read::Whole(0) if attempt.holding.wishes.borrow().followed_until.is_none() => return empty(),
        Read::Whole(bytes) => LogSummary {
            state: LogState::Complete,
            reason: None,
            bytes,
        },
        Read::Incomplete(reason) => LogSummary {
            state: LogState::Incomplete,
            reason: Some(reason),
            bytes: 0,
        },
        Read::Limited(_) => LogSummary {
            state: LogState::Incomplete,
            reason: Some(LOG_LIMIT.to_owned()),
            bytes: 0,
        },
    };
    let until = Instant::now() + attempt.shared.config.logs_patience;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let seal = Seal {
            attempt: attempt.held.id,
            epoch: attempt.holding.epoch,
            summary: summary.clone(),
            reach,
        };
        // A log store that hangs is one that fails.
        let sealed = tokio::time::timeout_at(until, attempt.shared.logs.seal(seal)).await;
        let sealed = sealed.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "logs.seal",
                "the log store does not answer",
            ))
        });
        match sealed {
            Ok(sealed) => return sealed,
            Err(error) if error.kind() != ErrorKind::Fenced && Instant::now() < until => {
                tracing::warn!(attempt = %attempt.held.id, error = %error.full(), "cannot seal the log");
                backoff.wait().await;
            }
            Err(error) => {
                let reason = format!("the log could not be sealed: {}", error.full());
                return LogSummary {
                    state: LogState::Incomplete,
                    reason: Some(reason),
                    bytes: summary.bytes,
                };
            }
        }
    }
}

async fn remove(attempt: &Attempt, handle: &Handle) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    // Under a lease only (PROTOCOL H2). What cannot be removed now is found by the clean-up later.
    for _ in 0..5 {
        if attempt.shared.lease.wait_valid().await.incarnation != attempt.holding.incarnation {
            return;
        }
        match attempt.engine.executor.remove(handle, true).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(attempt = %attempt.held.id, error = %error.full(), "cannot remove what is left of it")
            }
        }
        backoff.wait().await;
    }
}

//! The fence (PROTOCOL H6): a worker that cannot renew its lease stops what it runs before the store may call it lost, so
//! that a second attempt never runs beside the first.

use std::{future::pending, time::Duration};

use robata_core::{
    executor::{Handle, Target, ThingState},
    finish::{End, Outcome},
};

use crate::{
    attempt::Attempt,
    backoff::Backoff,
    follow::{lost, outcome},
};

/// How often the lease is looked at: by a clock that runs in suspend, in which no timer does.
const EVERY: Duration = Duration::from_secs(1);
/// Of the minute that is left, the most that a job gets to end by itself.
const GRACE: Duration = Duration::from_secs(30);

const WORDS: &str = "its worker could not renew its lease, and stopped it before it could be called lost";

/// Waits until the attempt is to be stopped; for ever where its executor has no fence.
pub(crate) async fn due(attempt: &Attempt) {
    let Some(after) = attempt.shared.config.fence.get(&attempt.engine.name) else {
        return pending().await;
    };
    loop {
        if attempt.shared.lease.over_for().is_some_and(|over| over >= *after) {
            return;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Stops it, and waits until the engine confirms. Nothing of it is recorded before there is a lease again.
pub(crate) async fn stop(attempt: &Attempt, handle: &Handle) -> Outcome {
    let target = Target::Handle(handle.clone());
    match attempt.observe(target.clone()).await.state {
        // It ended by itself.
        ThingState::Ended(ending) => return outcome(ending, attempt.held.stop_cause.is_some(), true),
        ThingState::Absent => return lost(),
        _ => {}
    }
    tracing::warn!(attempt = %attempt.held.id, WORDS);
    attempt.shared.fenced().insert(attempt.held.id);
    let grace = attempt.held.request.definition.grace_period.min(GRACE);
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    while let Err(error) = attempt.engine.executor.stop(handle, grace).await {
        tracing::warn!(attempt = %attempt.held.id, error = %error.full(), "cannot stop it yet");
        backoff.wait().await;
    }
    let mut watch = attempt.engine.watch(handle);
    loop {
        match watch.next().await {
            ThingState::Ended(ending) => return outcome(ending, true, true),
            ThingState::Absent => return lost(),
            _ => {}
        }
    }
}

/// What this process stopped for its fence did not end by the job's own fault, whoever follows it when that can be recorded.
pub(crate) fn told(attempt: &Attempt, outcome: Outcome) -> Outcome {
    let fenced = attempt.shared.fenced().contains(&attempt.held.id);
    // What somebody wanted to stop anyway has ended as wished.
    if !fenced || outcome.end == End::Lost || attempt.held.stop_cause.is_some() {
        return outcome;
    }
    Outcome {
        end: End::EngineFault,
        stop_sent: false,
        message: Some(WORDS.to_owned()),
        ..outcome
    }
}

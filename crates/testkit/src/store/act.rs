//! Cancel and retry by hand.

use std::time::Duration;

use anyhow::{Result, ensure};
use robata_core::{
    AttemptState, ErrorKind, JobId, JobState, Reason,
    attempt::AttemptChange,
    finish::{End, Outcome, StopCause},
    job::{Acted, Cancel, NewJob, RetryByHand, When},
};

use super::world::{World, exited, job, kind};

async fn cancel(world: &World, job: JobId) -> robata_core::Result<Acted> {
    world
        .store()
        .cancel(Cancel {
            job,
            by: "suite".into(),
        })
        .await
}

async fn retry(world: &World, job: JobId) -> robata_core::Result<Acted> {
    world
        .store()
        .retry(RetryByHand {
            job,
            by: "suite".into(),
        })
        .await
}

/// `cancel` of a waiting job MUST end it.
pub async fn cancel_of_a_waiting_job_ends_it(world: World) -> Result<()> {
    let delayed = NewJob {
        when: When::In(Duration::from_secs(60)),
        ..job("shop", "mail")?
    };
    let jobs = world.enqueue(vec![job("shop", "mail")?, delayed]).await?;
    let worker = world.worker().await?;
    for job in &jobs {
        let acted = cancel(&world, job.id).await?;
        ensure!(acted.changed && acted.job.state == JobState::Cancelled, "{acted:?}");
        ensure!(acted.job.reason == Some(Reason::Cancelled) && acted.job.finished_at.is_some());
        let claimed = world.claim(worker, vec![super::world::next(job)]).await?;
        ensure!(matches!(claimed[0], robata_core::attempt::Claimed::Gone), "{claimed:?}");
    }
    let counts = world.store().queue_counts().await?;
    ensure!(
        counts
            .iter()
            .all(|line| line.queued + line.scheduled + line.running == 0),
        "{counts:?}"
    );
    Ok(())
}

/// … of a running one it MUST only record the request; again it MUST change nothing.
pub async fn cancel_of_a_running_job_only_records_the_request(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.running(worker, "mail").await?;
    let acted = cancel(&world, held.id.job).await?;
    ensure!(
        acted.changed && acted.job.state == JobState::Running && acted.job.cancel_requested_at.is_some(),
        "{acted:?}"
    );
    let again = cancel(&world, held.id.job).await?;
    ensure!(
        !again.changed && again.job.cancel_requested_at == acted.job.cancel_requested_at,
        "{again:?}"
    );
    let beat = world.store().heartbeat(worker).await?;
    ensure!(beat.cancel_requested == [held.id], "{beat:?}");
    Ok(())
}

/// … of an ended job it MUST be `Conflict`, but of a cancelled one it changes nothing.
pub async fn cancel_of_an_ended_job_is_a_conflict(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let failed = world.failed(worker).await?;
    ensure!(kind(&cancel(&world, failed.id.job).await) == Some(ErrorKind::Conflict));
    let waiting = world.one(job("shop", "mail")?).await?;
    cancel(&world, waiting.id).await?;
    ensure!(!cancel(&world, waiting.id).await?.changed);
    ensure!(kind(&cancel(&world, JobId::new()).await) == Some(ErrorKind::NotFound));
    Ok(())
}

/// PROTOCOL X5, FAULTS G1: a cancelled job never runs again, whatever its attempt says.
pub async fn a_cancelled_job_is_never_retried(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.running(worker, "resize").await?;
    cancel(&world, held.id.job).await?;
    let written = world
        .wrote(worker, &held, AttemptChange::Stopping(StopCause::Cancel))
        .await?;
    ensure!(
        written.cancel_requested && written.state == AttemptState::Stopping,
        "{written:?}"
    );
    let outcome = Outcome {
        stop_sent: true,
        ..Outcome::new(End::Signalled(15))
    };
    let written = world.wrote(worker, &held, AttemptChange::Ended(outcome)).await?;
    ensure!(
        (written.state, written.job) == (AttemptState::Cancelled, JobState::Cancelled),
        "{written:?}"
    );
    ensure!(!cancel(&world, held.id.job).await?.changed);
    Ok(())
}

/// PROTOCOL X5: the cancel request is read in the transaction that writes the outcome.
pub async fn cancel_between_a_look_and_the_end_wins_over_a_retry(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.running(worker, "resize").await?;
    ensure!(!held.cancel_requested);
    cancel(&world, held.id.job).await?;
    // The worker does not know, and writes what it saw.
    let written = world.wrote(worker, &held, exited(1)).await?;
    ensure!(written.job == JobState::Cancelled, "{written:?}");
    Ok(())
}

/// `retry` MUST make a failed job `queued` with one attempt more.
pub async fn retry_gives_a_failed_job_one_attempt_more(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.failed(worker).await?;
    let acted = retry(&world, held.id.job).await?;
    ensure!(
        acted.changed && acted.job.state == JobState::Queued && acted.job.max_attempts == 2,
        "{acted:?}"
    );
    ensure!(acted.job.finished_at.is_none());
    let second = world.hold(worker, &acted.job).await?;
    ensure!(
        second.id.number == 2 && second.request.env["ROBATA_ATTEMPTS_LEFT"] == "0",
        "{:?}",
        second.request.env
    );
    let written = world.wrote(worker, &second, exited(1)).await?;
    ensure!(
        written.job == JobState::Failed,
        "one attempt more, not two: {written:?}"
    );
    Ok(())
}

/// … of a job that waits or runs it MUST change nothing.
pub async fn retry_of_a_waiting_or_running_job_changes_nothing(world: World) -> Result<()> {
    let waiting = world.one(job("shop", "mail")?).await?;
    ensure!(!retry(&world, waiting.id).await?.changed);
    let worker = world.worker().await?;
    world.hold(worker, &waiting).await?;
    let acted = retry(&world, waiting.id).await?;
    ensure!(!acted.changed && acted.job.state == JobState::Running, "{acted:?}");
    Ok(())
}

/// … else it MUST be `Conflict`.
pub async fn retry_of_a_job_that_did_not_fail_is_a_conflict(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.running(worker, "mail").await?;
    world.wrote(worker, &held, exited(0)).await?;
    ensure!(kind(&retry(&world, held.id.job).await) == Some(ErrorKind::Conflict));
    let cancelled = world.one(job("shop", "mail")?).await?;
    cancel(&world, cancelled.id).await?;
    ensure!(kind(&retry(&world, cancelled.id).await) == Some(ErrorKind::Conflict));
    ensure!(kind(&retry(&world, JobId::new()).await) == Some(ErrorKind::NotFound));
    Ok(())
}

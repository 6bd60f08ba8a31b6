//! Writes about attempts.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use robata_core::{
    AttemptState, ErrorKind, JobId, JobState, Reason, Timestamp, WaitingReason,
    attempt::{AttemptChange, AttemptWrite, LogState},
    executor::{Handle, RealmId},
    finish::{End, MAX_NEVER_SET_GOING, NeverRan, Outcome, StopCause},
    job::JobDetail,
};

use super::world::{World, exited, kind, sealed};

fn prepared(handle: &str) -> AttemptChange {
    AttemptChange::Prepared {
        realm: RealmId("here".into()),
        handle: Handle(handle.into()),
        image_digest: Some("sha256:1".into()),
    }
}

fn ended(end: End) -> AttemptChange {
    AttemptChange::Ended(Outcome::new(end))
}

/// The way of an attempt, each step told.
pub async fn an_attempt_goes_its_way_and_is_told(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.running(worker, "resize").await?;
    let pulling = AttemptChange::Waiting(Some((WaitingReason::Pulling, "layer 3 of 7".into())));
    world.wrote(worker, &held, pulling).await?;
    let waiting = world.job(held.id.job).await?.waiting;
    ensure!(
        waiting
            .as_ref()
            .is_some_and(|w| w.reason == WaitingReason::Pulling && w.message.as_deref() == Some("layer 3 of 7")),
        "{waiting:?}"
    );
    world.wrote(worker, &held, AttemptChange::Waiting(None)).await?;
    ensure!(world.job(held.id.job).await?.waiting.is_none());
    world.wrote(worker, &held, prepared("c1")).await?;
    let at = Timestamp::from_millis(1_763_600_000_000);
    ensure!(world.wrote(worker, &held, AttemptChange::Started { at }).await?.state == AttemptState::Running);
    let outcome = Outcome {
        detail: Some("Exited".into()),
        message: Some("exit status 3".into()),
        finished_at: Some(at.plus(Duration::from_secs(2))),
        ..Outcome::new(End::Exited(3))
    };
    let written = world.wrote(worker, &held, AttemptChange::Ended(outcome)).await?;
    ensure!(
        (written.state, written.job) == (AttemptState::Failed, JobState::Scheduled),
        "{written:?}"
    );
    world.wrote(worker, &held, sealed()).await?;
    let attempt = world.store().attempt(held.id).await?;
    ensure!(
        attempt.reason == Some(Reason::ExitCode) && attempt.exit_code == Some(3) && attempt.counted == Some(true),
        "{attempt:?}"
    );
    ensure!(attempt.handle == Some(Handle("c1".into())) && attempt.image_digest.as_deref() == Some("sha256:1"));
    ensure!(
        attempt.started_at == Some(at) && attempt.finished_at == Some(at.plus(Duration::from_secs(2))),
        "{attempt:?}"
    );
    ensure!(
        attempt.finalised && attempt.log.state == LogState::Complete && attempt.log.bytes == 3,
        "{attempt:?}"
    );
    ensure!(attempt.message.as_deref() == Some("exit status 3") && attempt.detail.as_deref() == Some("Exited"));
    let detail = world.store().job(held.id.job).await?;
    ensure!(
        detail.attempts == [attempt] && detail.job.reason == Some(Reason::ExitCode),
        "{detail:?}"
    );
    ensure!(
        detail
            .job
            .waiting
            .as_ref()
            .is_some_and(|w| w.reason == WaitingReason::Backoff)
    );
    Ok(())
}

/// `record` MUST refuse a write with an old epoch as `Fenced`, alone. FAULTS B2: the zombie writer.
pub async fn a_write_with_an_old_epoch_is_fenced_alone(world: World) -> Result<()> {
    let zombie = world.worker().await?;
    let held = world.running(zombie, "mail").await?;
    world.store().release(zombie).await?;
    let heir = world.worker().await?;
    let adopted = world.adopt(heir).await?;
    ensure!(adopted.len() == 1 && adopted[0].epoch > held.epoch, "{adopted:?}");
    ensure!(kind(&world.write(zombie, &held, exited(1)).await?) == Some(ErrorKind::Fenced));
    // In the heir's name with the old epoch, too; and beside a good one.
    let other = world.running(heir, "mail").await?;
    let write = |held: &robata_core::attempt::HeldAttempt, epoch| AttemptWrite {
        attempt: held.id,
        epoch,
        incarnation: heir,
        change: exited(0),
    };
    let answers = world
        .store()
        .record(vec![write(&held, held.epoch), write(&other, other.epoch)])
        .await?;
    ensure!(
        kind(&answers[0]) == Some(ErrorKind::Fenced) && answers[1].is_ok(),
        "{answers:?}"
    );
    ensure!(world.job(held.id.job).await?.state == JobState::Running);
    ensure!(world.wrote(heir, &adopted[0], exited(0)).await?.job == JobState::Succeeded);
    Ok(())
}

/// … and a move outside the table as `Conflict`, alone.
pub async fn a_move_outside_the_table_is_a_conflict_alone(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.running(worker, "mail").await?;
    ensure!(
        kind(&world.write(worker, &held, sealed()).await?) == Some(ErrorKind::Conflict),
        "finalised before its end"
    );
    world
        .wrote(
            worker,
            &held,
            AttemptChange::Started {
                at: Timestamp::from_millis(1),
            },
        )
        .await?;
    let never = ended(End::NeverRan(NeverRan::StartRefused));
    ensure!(
        kind(&world.write(worker, &held, never).await?) == Some(ErrorKind::Conflict),
        "what ran never ran"
    );
    world.wrote(worker, &held, exited(0)).await?;
    for change in [
        AttemptChange::Started {
            at: Timestamp::from_millis(1),
        },
        AttemptChange::Stopping(StopCause::Timeout),
        prepared("c9"),
    ] {
        ensure!(
            kind(&world.write(worker, &held, change.clone()).await?) == Some(ErrorKind::Conflict),
            "{change:?} after the end"
        );
    }
    ensure!(world.job(held.id.job).await?.state == JobState::Succeeded);
    Ok(())
}

/// The same `Ended` or `Finalised` sent again MUST answer well.
pub async fn an_end_sent_again_answers_well(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.running(worker, "resize").await?;
    for _ in 0..3 {
        let written = world.wrote(worker, &held, exited(1)).await?;
        ensure!(
            (written.state, written.job) == (AttemptState::Failed, JobState::Scheduled),
            "{written:?}"
        );
    }
    for _ in 0..3 {
        world.wrote(worker, &held, sealed()).await?;
    }
    ensure!(world.store().held(worker).await?.is_empty());
    let detail = world.store().job(held.id.job).await?;
    ensure!(detail.attempts.len() == 1 && detail.job.attempt == 1, "{detail:?}");
    Ok(())
}

/// `Prepared` MUST be `Conflict` where another handle is recorded already.
pub async fn a_second_handle_is_a_conflict(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.running(worker, "mail").await?;
    world.wrote(worker, &held, prepared("c1")).await?;
    world.wrote(worker, &held, prepared("c1")).await?;
    ensure!(kind(&world.write(worker, &held, prepared("c2")).await?) == Some(ErrorKind::Conflict));
    ensure!(world.store().attempt(held.id).await?.handle == Some(Handle("c1".into())));
    Ok(())
}

/// A write about an attempt that is not there is `NotFound`, alone.
pub async fn a_write_about_an_unknown_attempt_is_not_found(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let mut held = world.running(worker, "mail").await?;
    held.id.number = 2;
    ensure!(kind(&world.write(worker, &held, exited(0)).await?) == Some(ErrorKind::NotFound));
    Ok(())
}

/// FAULTS B12: one attempt of its own, and a crash of ours: the platform pays, the job runs again.
pub async fn what_the_platform_caused_is_not_the_jobs(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let mut held = world.running(worker, "mail").await?;
    for n in 1..=6_u32 {
        let written = world.wrote(worker, &held, ended(End::EngineFault)).await?;
        let attempt = world.store().attempt(held.id).await?;
        ensure!(
            attempt.reason == Some(Reason::Platform) && attempt.counted == Some(false),
            "{attempt:?}"
        );
        let bound = if n <= 5 { JobState::Queued } else { JobState::Failed };
        ensure!(written.job == bound, "after {n}: {written:?}");
        if n <= 5 {
            held = world.hold(worker, &world.job(held.id.job).await?).await?;
            ensure!(held.id.number == n + 1 && held.request.env["ROBATA_ATTEMPTS_LEFT"] == "0");
        }
    }
    ensure!(world.job(held.id.job).await?.reason == Some(Reason::Platform));
    Ok(())
}

/// PROTOCOL X1: what was never set going uses up neither budget, at most 20 a job.
pub async fn what_was_never_set_going_uses_up_neither_budget(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let mut held = world.running(worker, "mail").await?;
    let never = || ended(End::NeverRan(NeverRan::NotSetGoing));
    for _ in 1..MAX_NEVER_SET_GOING {
        ensure!(world.wrote(worker, &held, never()).await?.job == JobState::Queued);
        held = world.hold(worker, &world.job(held.id.job).await?).await?;
    }
    ensure!(world.wrote(worker, &held, never()).await?.job == JobState::Failed);
    let detail = world.store().job(held.id.job).await?;
    ensure!(
        detail.attempts.iter().all(|attempt| attempt.counted == Some(false)),
        "{:?}",
        detail.attempts
    );
    Ok(())
}

/// A job ends after its own attempts, and not before.
pub async fn a_job_has_its_own_attempts_and_no_more(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let mut held = world.running(worker, "resize").await?;
    for (n, left) in [(1, "2"), (2, "1"), (3, "0")] {
        ensure!(
            held.id.number == n && held.request.env["ROBATA_ATTEMPTS_LEFT"] == left,
            "{:?}",
            held.request.env
        );
        let written = world.wrote(worker, &held, exited(1)).await?;
        if n == 3 {
            ensure!(written.job == JobState::Failed, "{written:?}");
            break;
        }
        ensure!(written.job == JobState::Scheduled, "{written:?}");
        world.pass(Duration::from_secs(40), &[worker]).await?;
        ensure!(world.store().due(10).await?.moved == 1);
        held = world.hold(worker, &world.job(held.id.job).await?).await?;
    }
    Ok(())
}

async fn until_it_has_ended(world: &World, id: JobId) -> Result<()> {
    loop {
        let JobDetail { job, attempts, .. } = world.store().job(id).await?;
        let live = attempts.last().is_some_and(|attempt| attempt.state.is_live());
        ensure!((job.state == JobState::Running) == live, "{job:?} {attempts:?}");
        if !live {
            return Ok(());
        }
    }
}

/// Whoever looks while a job ends sees it before or after, never half.
pub async fn a_job_and_its_attempts_are_of_one_moment(world: World) -> Result<()> {
    let worker = world.worker().await?;
    for _ in 0..20 {
        let held = world.running(worker, "mail").await?;
        let id = held.id.job;
        let (looks, written) = tokio::join!(
            try_join_all((0..4).map(|_| until_it_has_ended(&world, id))),
            world.wrote(worker, &held, exited(0))
        );
        looks?;
        written?;
    }
    Ok(())
}

/// PROTOCOL T1: a row's stamps are never before its earlier ones, whatever the wall clock does.
pub async fn stamps_never_go_back_with_the_wall_clock(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.running(worker, "mail").await?;
    world.harness.step_wall(-3_600_000);
    world.wrote(worker, &held, exited(0)).await?;
    let job = world.job(held.id.job).await?;
    ensure!(job.finished_at >= Some(job.created_at), "{job:?}");
    let attempt = world.store().attempt(held.id).await?;
    ensure!(attempt.finished_at >= Some(attempt.created_at), "{attempt:?}");
    Ok(())
}

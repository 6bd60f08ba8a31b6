//! What nobody came for, and what is past its retention.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use robata_core::{
    AttemptState, ErrorKind, JobState, Reason,
    attempt::Knowledge,
    executor::RealmId,
    job::{Cancel, NewJob, When},
    store::{Adopt, LEASE, REALM_AWAITED},
};

use super::world::{World, exited, job, keyed, kind, labelled, line, name, next, sealed};

const DAY: Duration = Duration::from_secs(86_400);

fn delayed(secs: u64) -> Result<NewJob> {
    Ok(NewJob {
        when: When::In(Duration::from_secs(secs)),
        ..job("shop", "mail")?
    })
}

async fn settle(world: &World, process: Option<Duration>) -> Result<Vec<robata_core::AttemptId>> {
    let after = BTreeMap::from([(name("process")?, process)]);
    Ok(world.store().settle_lost(&after, Duration::from_secs(1)).await?)
}

/// `settle_lost` MUST end as lost only attempts whose holder's lease ended at least this long ago and that nobody adopted.
pub async fn only_what_nobody_came_for_is_lost(world: World) -> Result<()> {
    let minutes = |n: u64| Some(Duration::from_secs(n * 60));
    let (gone, live) = (world.worker().await?, world.worker().await?);
    let orphan = world.running(gone, "resize").await?;
    let kept = world.running(live, "mail").await?;
    let ended = world.failed(gone).await?;
    world.pass(LEASE * 3, &[live]).await?;
    ensure!(settle(&world, minutes(10)).await?.is_empty(), "too soon");
    world.pass(Duration::from_secs(540), &[live]).await?;
    ensure!(settle(&world, minutes(10)).await?.is_empty(), "too soon");
    ensure!(settle(&world, None).await?.is_empty(), "never means never");
    world.pass(Duration::from_secs(60), &[live]).await?;
    ensure!(settle(&world, minutes(10)).await? == [orphan.id]);
    ensure!(settle(&world, minutes(10)).await?.is_empty(), "twice");
    let attempt = world.store().attempt(orphan.id).await?;
    ensure!(
        attempt.state == AttemptState::Lost && attempt.reason == Some(Reason::Lost) && attempt.counted == Some(false),
        "{attempt:?}"
    );
    ensure!(
        world.job(orphan.id.job).await?.state == JobState::Queued,
        "the platform pays for another"
    );
    ensure!(world.store().attempt(kept.id).await?.state.is_live());
    // Lost is final, but its thing has to be stopped and removed: it is offered like any that is not finalised.
    let adopted = world.adopt(live).await?;
    let mut ids: Vec<_> = adopted.iter().map(|held| held.id).collect();
    ids.sort_unstable();
    let mut expected = [orphan.id, ended.id];
    expected.sort_unstable();
    ensure!(ids == expected, "{ids:?}");
    let lost = adopted.iter().find(|held| held.id == orphan.id);
    ensure!(lost.is_some_and(|held| held.state == AttemptState::Lost), "{lost:?}");
    Ok(())
}

/// What was adopted is not lost.
pub async fn what_was_adopted_is_not_lost(world: World) -> Result<()> {
    let (gone, live) = (world.worker().await?, world.worker().await?);
    world.running(gone, "mail").await?;
    world.store().release(gone).await?;
    ensure!(world.adopt(live).await?.len() == 1);
    world.pass(DAY / 24, &[live]).await?;
    ensure!(settle(&world, Some(Duration::from_secs(600))).await?.is_empty());
    Ok(())
}

/// PROTOCOL H6: the time without marks does not count.
pub async fn a_gap_in_the_marks_does_not_count_towards_lost(world: World) -> Result<()> {
    let gone = world.worker().await?;
    world.running(gone, "mail").await?;
    world.store().release(gone).await?;
    world.harness.advance(DAY);
    world.store().judge(super::mark()).await?;
    ensure!(settle(&world, Some(Duration::from_secs(600))).await?.is_empty());
    world.pass(Duration::from_secs(602), &[]).await?;
    ensure!(settle(&world, Some(Duration::from_secs(600))).await?.len() == 1);
    Ok(())
}

/// … also while it lasts.
pub async fn while_no_marks_come_nothing_is_lost(world: World) -> Result<()> {
    let gone = world.worker().await?;
    world.running(gone, "mail").await?;
    world.store().release(gone).await?;
    world.pass(Duration::from_secs(60), &[]).await?;
    world.harness.advance(DAY);
    ensure!(settle(&world, Some(Duration::from_secs(600))).await?.is_empty());
    world.store().judge(super::mark()).await?;
    world.pass(Duration::from_secs(602), &[]).await?;
    ensure!(settle(&world, Some(Duration::from_secs(600))).await?.len() == 1);
    Ok(())
}

/// However many there are that are never lost: another executor's are.
pub async fn what_is_never_lost_does_not_hide_what_is(world: World) -> Result<()> {
    let gone = world.worker().await?;
    let docker = (0..600)
        .map(|_| {
            Ok(NewJob {
                line: line("shop", "docker")?,
                definition: Some(Box::default()),
                ..job("shop", "mail")?
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let docker = world.enqueue(docker).await?;
    for some in docker.chunks(100) {
        world.claim(gone, some.iter().map(next).collect()).await?;
    }
    let orphan = world.running(gone, "mail").await?;
    world.store().release(gone).await?;
    world.pass(Duration::from_secs(62), &[]).await?;
    let after = BTreeMap::from([(name("docker")?, None)]);
    let lost = world.store().settle_lost(&after, Duration::from_secs(60)).await?;
    ensure!(lost == [orphan.id], "{} are lost", lost.len());
    let after = BTreeMap::from([(name("docker")?, Some(Duration::from_secs(60)))]);
    let mut lost = 0;
    for _ in 0..600 {
        match world.store().settle_lost(&after, DAY).await?.len() {
            0 => break,
            some => lost += some,
        }
    }
    ensure!(lost == 600, "{lost} of 600 are lost");
    Ok(())
}

/// A cancelled job whose attempt is lost has failed: we could not know (PROTOCOL X5).
pub async fn a_cancelled_job_whose_attempt_is_lost_has_failed(world: World) -> Result<()> {
    let gone = world.worker().await?;
    let held = world.running(gone, "resize").await?;
    world
        .store()
        .cancel(Cancel {
            job: held.id.job,
            by: "suite".into(),
        })
        .await?;
    world.store().release(gone).await?;
    world.pass(Duration::from_secs(602), &[]).await?;
    settle(&world, Some(Duration::from_secs(600))).await?;
    let job = world.job(held.id.job).await?;
    ensure!(
        job.state == JobState::Failed && job.reason == Some(Reason::Lost),
        "{job:?}"
    );
    Ok(())
}

/// `prune` MUST remove ended jobs past their app's retention, and none that waits or runs.
pub async fn prune_removes_what_is_past_its_retention_and_nothing_else(world: World) -> Result<()> {
    world
        .apply(r#"{"apps": {"shop": {"command": ["true"], "executor": "process", "retention": {"jobs": "1d", "failed": "9d", "logs": "30d"}}}}"#)
        .await?;
    let worker = world.worker().await?;
    let waits = world.one(job("shop", "mail")?).await?;
    let later = world.one(delayed(86_400 * 60)?).await?;
    let runs = world.running(worker, "mail").await?;
    let failed = world.failed(worker).await?;
    world.wrote(worker, &failed, sealed()).await?;
    let open = world.running(worker, "mail").await?;
    world.wrote(worker, &open, exited(0)).await?;
    let done = world.hold(worker, &world.one(labelled("tenant", "a")?).await?).await?;
    world.wrote(worker, &done, exited(0)).await?;
    world.wrote(worker, &done, sealed()).await?;
    ensure!(world.store().prune(10).await?.jobs == 0, "too soon");
    world.harness.advance(DAY * 2);
    let pruned = world.store().prune(10).await?;
    ensure!(pruned.jobs == 1 && pruned.logs == [done.id], "{pruned:?}");
    let not_found = Some(robata_core::ErrorKind::NotFound);
    ensure!(kind(&world.store().job(done.id.job).await) == not_found);
    ensure!(kind(&world.store().attempt(done.id).await) == not_found);
    let mut by_label = robata_core::store::ListJobs::default();
    by_label.labels = vec![("tenant".into(), "a".into())];
    by_label.limit = 10;
    ensure!(world.store().jobs(by_label).await?.is_empty());
    world.harness.advance(DAY * 30);
    let pruned = world.store().prune(10).await?;
    ensure!(
        pruned.jobs == 1 && kind(&world.store().job(failed.id.job).await) == not_found,
        "{pruned:?}"
    );
    // Not finalised: what is left of it in its realm must stay known.
    for kept in [waits.id, later.id, runs.id.job, open.id.job] {
        world.store().job(kept).await?;
    }
    Ok(())
}

/// A realm that never returns finalises nothing: after a week its jobs go all the same, but for those that somebody holds.
pub async fn what_a_realm_that_never_returns_has_left_is_removed(world: World) -> Result<()> {
    world
        .apply(r#"{"apps": {"shop": {"command": ["true"], "executor": "process", "retention": {"jobs": "1d", "failed": "1d", "logs": "30d"}}}}"#)
        .await?;
    let gone = world.worker().await?;
    let (lost, taken) = (world.running(gone, "mail").await?, world.running(gone, "mail").await?);
    let ended = world.failed(gone).await?;
    for job in [lost.id.job, taken.id.job] {
        let by = "suite".into();
        world.store().cancel(Cancel { job, by }).await?;
    }
    world.store().release(gone).await?;
    world.pass(Duration::from_secs(602), &[]).await?;
    ensure!(settle(&world, Some(Duration::from_secs(600))).await?.len() == 2);
    ensure!(world.job(lost.id.job).await?.state == JobState::Failed);
    world.harness.advance(REALM_AWAITED - DAY);
    ensure!(
        world.store().prune(10).await?.jobs == 0,
        "its realm had no week to return"
    );
    world.harness.advance(DAY);
    let heir = world.worker().await?;
    let request = Adopt {
        incarnation: heir,
        realms: [(name("process")?, RealmId("here".into()))].into(),
        only: Some(vec![taken.id]),
        max: 9,
        format: robata_core::Format::OWN,
    };
    let adopted = world.store().adopt(request).await?;
    ensure!(adopted.len() == 1, "{adopted:?}");
    let mut pruned = world.store().prune(10).await?;
    pruned.logs.sort_unstable();
    let mut left = [lost.id, ended.id];
    left.sort_unstable();
    ensure!(pruned.jobs == 2 && pruned.logs == left, "{pruned:?}");
    for id in left {
        ensure!(kind(&world.store().job(id.job).await) == Some(ErrorKind::NotFound));
    }
    // What is found there later is unknown, and so not kept for ever.
    let known = world.store().known(&[lost.id, ended.id, taken.id]).await?;
    ensure!(
        known == [Knowledge::Unknown, Knowledge::Unknown, Knowledge::Open],
        "{known:?}"
    );
    let workers = world.store().workers().await?;
    ensure!(
        workers.iter().all(|worker| worker.incarnation != gone),
        "nothing needs it any more: {workers:?}"
    );
    ensure!(world.adopt(heir).await?.is_empty());
    world.wrote(heir, &adopted[0], sealed()).await?;
    ensure!(world.store().prune(10).await?.jobs == 1);
    Ok(())
}

/// Logs that must be removed are told again until they are.
pub async fn logs_to_remove_are_told_until_they_are_removed(mut world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.failed(worker).await?;
    world.wrote(worker, &held, sealed()).await?;
    world.harness.advance(DAY * 31);
    ensure!(
        world.store().prune(10).await?.logs == [held.id],
        "logs are kept 30 days, failed jobs 90"
    );
    world.harness.reopen().await?;
    ensure!(world.store().prune(10).await?.logs == [held.id]);
    world.store().logs_removed(&[held.id]).await?;
    ensure!(world.store().prune(10).await?.logs.is_empty());
    world.harness.advance(DAY * 60);
    let pruned = world.store().prune(10).await?;
    ensure!(pruned.jobs == 1 && pruned.logs.is_empty(), "{pruned:?}");
    Ok(())
}

/// Logs that cannot be removed are told in turn with the others.
pub async fn logs_that_stay_do_not_hide_others(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let mut all = Vec::new();
    for _ in 0..5 {
        let held = world.failed(worker).await?;
        world.wrote(worker, &held, sealed()).await?;
        all.push(held.id);
    }
    world.harness.advance(DAY * 31);
    let mut told = Vec::new();
    for _ in 0..5 {
        let some = world.store().prune(2).await?.logs;
        ensure!(!some.is_empty() && some.len() <= 2, "{some:?}");
        told.extend(some);
    }
    for id in &all {
        ensure!(told.contains(id), "{id} was never told: {told:?}");
    }
    world.store().logs_removed(&all).await?;
    ensure!(world.store().prune(10).await?.logs.is_empty());
    Ok(())
}

/// PROTOCOL I3: a key is kept at least 7 days after its job's end.
pub async fn a_key_is_kept_for_a_week_after_its_jobs_end(world: World) -> Result<()> {
    world
        .apply(r#"{"apps": {"shop": {"command": ["true"], "executor": "process", "retention": {"jobs": "1h"}}}}"#)
        .await?;
    let first = world.one(keyed("k", 1)?).await?;
    world
        .store()
        .cancel(Cancel {
            job: first.id,
            by: "suite".into(),
        })
        .await?;
    world.harness.advance(DAY * 6);
    world.store().prune(10).await?;
    ensure!(world.one(keyed("k", 1)?).await?.id == first.id);
    world.harness.advance(DAY * 2);
    world.store().prune(10).await?;
    ensure!(world.one(keyed("k", 2)?).await?.id != first.id);
    Ok(())
}

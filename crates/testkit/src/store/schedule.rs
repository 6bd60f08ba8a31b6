//! The scheduler's loops: due, outbox, lost, retention.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use robata_core::{
    AttemptState, JobId, JobState, Reason,
    job::{Cancel, JobRecord, Line, NewJob, Reference, When},
    queue::BrokerKey,
    store::{LEASE, Published, Void, Window},
};

use super::world::{World, exited, job, keyed, kind, labelled, line, name, next, sealed};

const DAY: Duration = Duration::from_secs(86_400);

fn delayed(secs: u64) -> Result<NewJob> {
    Ok(NewJob {
        when: When::In(Duration::from_secs(secs)),
        ..job("shop", "mail")?
    })
}

async fn references(world: &World, line: &Line, size: usize) -> Result<Vec<Reference>> {
    Ok(world
        .store()
        .references(Window {
            line: line.clone(),
            size,
        })
        .await?)
}

async fn ids(world: &World, line: &Line, size: usize) -> Result<Vec<JobId>> {
    Ok(references(world, line, size)
        .await?
        .into_iter()
        .map(|reference| reference.job)
        .collect())
}

async fn publish(world: &World, line: &Line, references: Vec<Reference>, key: &str) -> Result<()> {
    let published = Published {
        line: line.clone(),
        broker_key: BrokerKey(key.into()),
        references,
    };
    Ok(world.store().published(published).await?)
}

fn shop() -> Result<Line> {
    line("shop", "process")
}

fn of(jobs: &[JobRecord]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

/// `due` MUST move what is due to `queued`, at most `max`.
pub async fn due_moves_what_is_due_and_no_more_than_asked(mut world: World) -> Result<()> {
    let jobs = world
        .enqueue(vec![delayed(30)?, delayed(10)?, delayed(20)?, delayed(300)?])
        .await?;
    let due = world.store().due(10).await?;
    ensure!(
        due.moved == 0 && due.next.is_some_and(|next| next <= Duration::from_secs(10)),
        "{due:?}"
    );
    world.harness.reopen().await?;
    world.harness.advance(Duration::from_secs(60));
    let due = world.store().due(2).await?;
    ensure!(
        due.moved == 2 && due.lines == [shop()?] && due.next == Some(Duration::ZERO),
        "{due:?}"
    );
    ensure!(
        world.job(jobs[0].id).await?.state == JobState::Scheduled,
        "the last one due was moved first"
    );
    ensure!(world.store().due(2).await?.moved == 1);
    let due = world.store().due(2).await?;
    ensure!(
        due.moved == 0 && due.next.is_some_and(|next| next > Duration::from_secs(200)),
        "{due:?}"
    );
    Ok(())
}

/// A time that has passed is now; a time to come waits for it.
pub async fn run_at_is_by_the_stores_clock(world: World) -> Result<()> {
    let now = world.one(job("shop", "mail")?).await?.created_at;
    let at = |when| {
        Ok::<_, anyhow::Error>(NewJob {
            when: When::At(when),
            ..job("shop", "mail")?
        })
    };
    let past = world.one(at(now.minus(DAY))?).await?;
    ensure!(
        past.state == JobState::Queued && past.run_at == now.minus(DAY),
        "{past:?}"
    );
    let future = world.one(at(now.plus(DAY))?).await?;
    ensure!(
        future.state == JobState::Scheduled && future.run_at == now.plus(DAY),
        "{future:?}"
    );
    Ok(())
}

/// … and end what has expired while it waited.
pub async fn due_ends_what_has_expired_while_it_waited(world: World) -> Result<()> {
    let short = Some(Duration::from_secs(10));
    let queued = world
        .one(NewJob {
            expires_in: short,
            ..job("shop", "mail")?
        })
        .await?;
    let scheduled = world
        .one(NewJob {
            expires_in: short,
            ..delayed(5)?
        })
        .await?;
    let later = world
        .one(NewJob {
            expires_in: short,
            ..delayed(60)?
        })
        .await?;
    world.harness.advance(Duration::from_secs(20));
    world.store().due(10).await?;
    for (job, state) in [
        (&queued, JobState::Failed),
        (&scheduled, JobState::Failed),
        (&later, JobState::Scheduled),
    ] {
        let now = world.job(job.id).await?;
        ensure!(
            now.state == state && (state != JobState::Failed || now.reason == Some(Reason::Expired)),
            "{now:?}"
        );
    }
    Ok(())
}

/// `references` MUST give what is queued and not out, by priority, then the apps in turn, then age.
pub async fn references_go_by_priority_then_the_apps_in_turn_then_age(world: World) -> Result<()> {
    let line = shop()?;
    let bank = || {
        Ok::<_, anyhow::Error>(NewJob {
            line: shop()?,
            queue_chosen: true,
            ..job("bank", "pay")?
        })
    };
    let jobs = world
        .enqueue(vec![
            job("shop", "mail")?,
            job("shop", "rare")?,
            job("shop", "mail")?,
            NewJob {
                priority: 5,
                ..job("shop", "mail")?
            },
            NewJob {
                priority: -5,
                ..bank()?
            },
            bank()?,
            bank()?,
            delayed(60)?,
        ])
        .await?;
    let order = of(&jobs);
    let got = ids(&world, &line, 100).await?;
    ensure!(
        got[0] == order[3] && got[6] == order[4] && got.len() == 7,
        "{got:?} of {order:?}"
    );
    // In turn: neither app has two before the other has one; each in the order of age.
    let shops: Vec<_> = got[1..6].iter().filter(|id| order[..3].contains(id)).copied().collect();
    let banks: Vec<_> = got[1..6]
        .iter()
        .filter(|id| order[5..7].contains(id))
        .copied()
        .collect();
    ensure!(shops == order[..3] && banks == order[5..7], "age: {got:?} of {order:?}");
    for pair in got[1..5].chunks(2) {
        let of_shop = pair.iter().filter(|id| order[..3].contains(id)).count();
        ensure!(of_shop == 1, "not in turn: {got:?} of {order:?}");
    }
    Ok(())
}

/// One app's thousands in front of another's one; asked for one at a time, too.
pub async fn one_apps_many_jobs_do_not_hide_anothers_one(world: World) -> Result<()> {
    let line = shop()?;
    let many = (0..2000).map(|_| job("shop", "mail")).collect::<Result<Vec<_>>>()?;
    world.enqueue(many).await?;
    let one = world
        .one(NewJob {
            line: shop()?,
            queue_chosen: true,
            ..job("bank", "pay")?
        })
        .await?;
    for out in 0..3 {
        let got = references(&world, &line, out + 1).await?;
        ensure!(got.len() == 1, "{got:?}");
        let found = got[0].job == one.id;
        publish(&world, &line, got, "b").await?;
        if found {
            return Ok(());
        }
    }
    anyhow::bail!("the other app's job did not go in three turns");
}

/// It MUST give no more than the window leaves.
pub async fn references_keep_within_the_window(world: World) -> Result<()> {
    let line = shop()?;
    let jobs = (0..20).map(|_| job("shop", "mail")).collect::<Result<Vec<_>>>()?;
    let order = of(&world.enqueue(jobs).await?);
    let first = references(&world, &line, 8).await?;
    ensure!(first.iter().map(|r| r.job).eq(order[..8].iter().copied()), "{first:?}");
    publish(&world, &line, first, "b").await?;
    ensure!(references(&world, &line, 8).await?.is_empty());
    ensure!(ids(&world, &line, 10).await? == order[8..10]);
    // A claim makes room.
    let worker = world.worker().await?;
    let job = world.job(order[0]).await?;
    world.hold(worker, &job).await?;
    ensure!(ids(&world, &line, 8).await? == order[8..9]);
    let lines = world.store().lines().await?;
    ensure!(
        lines.len() == 1 && lines[0].queued == 19 && lines[0].published == 7,
        "{lines:?}"
    );
    Ok(())
}

/// … and nothing whose `max_running` leaves no room; what has room goes on.
pub async fn references_leave_out_what_has_no_room(world: World) -> Result<()> {
    let line = shop()?;
    world
        .apply(
            r#"{"apps": {"shop": {"command": ["true"], "executor": "process", "jobs": {"mail": {"max_running": 1}}}}}"#,
        )
        .await?;
    let worker = world.worker().await?;
    let jobs = world
        .enqueue(vec![job("shop", "mail")?, job("shop", "mail")?, job("shop", "rare")?])
        .await?;
    let first = ids(&world, &line, 10).await?;
    ensure!(
        first.len() == 2 && first.contains(&jobs[2].id),
        "only one has room: {first:?}"
    );
    let held = world.hold(worker, &jobs[0]).await?;
    ensure!(ids(&world, &line, 10).await? == [jobs[2].id]);
    world.wrote(worker, &held, exited(0)).await?;
    ensure!(ids(&world, &line, 10).await?.len() == 2);
    Ok(())
}

/// `published` MUST be a compare-and-set on (job, attempt, `queued`): what was claimed meanwhile stays as it is.
pub async fn what_was_claimed_meanwhile_is_not_marked_as_out(world: World) -> Result<()> {
    let line = shop()?;
    let worker = world.worker().await?;
    let jobs = world
        .enqueue(vec![job("shop", "resize")?, job("shop", "resize")?])
        .await?;
    let out = references(&world, &line, 10).await?;
    let held = world.hold(worker, &jobs[0]).await?;
    publish(&world, &line, out.clone(), "b").await?;
    let lines = world.store().lines().await?;
    ensure!(lines[0].queued == 1 && lines[0].published == 1, "{lines:?}");
    // Nor for its next attempt.
    world.wrote(worker, &held, exited(1)).await?;
    world.harness.advance(Duration::from_secs(60));
    world.store().due(10).await?;
    publish(&world, &line, out, "b").await?;
    let again = references(&world, &line, 10).await?;
    ensure!(
        again
            == [Reference {
                job: held.id.job,
                attempt: 2
            }],
        "{again:?}"
    );
    Ok(())
}

/// `void` MUST make publications go out again, and MUST NOT touch what is claimed.
pub async fn void_publications_go_out_again(world: World) -> Result<()> {
    let line = shop()?;
    let worker = world.worker().await?;
    let jobs = world
        .enqueue(vec![job("shop", "mail")?, job("shop", "mail")?, job("shop", "mail")?])
        .await?;
    let out = references(&world, &line, 10).await?;
    publish(&world, &line, out[..2].to_vec(), "old").await?;
    publish(&world, &line, out[2..].to_vec(), "new").await?;
    world.hold(worker, &jobs[0]).await?;
    let voided = world
        .store()
        .void(&line, Void::OtherKey(BrokerKey("new".into())))
        .await?;
    ensure!(voided == 1, "{voided} were voided");
    ensure!(ids(&world, &line, 10).await? == [jobs[1].id]);
    ensure!(world.job(jobs[0].id).await?.state == JobState::Running);
    Ok(())
}

/// PROTOCOL O3: by age, doubled for each time they went out before, at most so many.
pub async fn old_publications_are_void_at_doubling_intervals(world: World) -> Result<()> {
    let line = shop()?;
    let minute = Duration::from_secs(60);
    let older = |max| Void::OlderThan { age: minute, max };
    world.enqueue(vec![job("shop", "mail")?, job("shop", "mail")?]).await?;
    let out = references(&world, &line, 10).await?;
    publish(&world, &line, out, "b").await?;
    ensure!(world.store().void(&line, older(10)).await? == 0);
    world.harness.advance(minute * 2);
    ensure!(world.store().void(&line, older(1)).await? == 1);
    ensure!(world.store().void(&line, older(10)).await? == 1);
    let out = references(&world, &line, 10).await?;
    ensure!(out.len() == 2);
    publish(&world, &line, out, "b").await?;
    world.harness.advance(minute + minute / 2);
    ensure!(
        world.store().void(&line, older(10)).await? == 0,
        "the second time it takes twice as long"
    );
    world.harness.advance(minute);
    ensure!(world.store().void(&line, older(10)).await? == 2);
    Ok(())
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
    world.store().judge().await?;
    ensure!(settle(&world, Some(Duration::from_secs(600))).await?.is_empty());
    world.pass(Duration::from_secs(602), &[]).await?;
    ensure!(settle(&world, Some(Duration::from_secs(600))).await?.len() == 1);
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

/// What a worker is handed has its line's next number, however often it goes out.
pub async fn a_reference_names_the_next_attempt(world: World) -> Result<()> {
    let stored = world.one(job("shop", "mail")?).await?;
    let (line, reference) = next(&stored);
    ensure!(references(&world, &line, 10).await? == [reference]);
    ensure!(Reference::decode(&reference.encode()) == Some(reference));
    Ok(())
}

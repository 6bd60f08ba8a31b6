//! Whole jobs: taken in if absent, in order, each judged alone; aliases, tombstones, outages (PROTOCOL I1, I3).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use robata_core::{
    ErrorKind, JobId, JobState, Payload, Reason, Timestamp,
    accept::{STRAGGLERS, TakenIn, WholeJob},
    job::{Cancel, Enqueue, NewJob, RetryByHand, When},
};

use super::world::{World, exited, job, keyed, kind, sealed};

fn whole(job: NewJob) -> WholeJob {
    WholeJob {
        job,
        definition_version: Some(1),
        by: "suite".to_owned(),
    }
}

/// An id that carries this time.
fn id_at(time: Timestamp) -> JobId {
    let mut bytes = *JobId::new().as_bytes();
    bytes[..6].copy_from_slice(&time.as_millis().to_be_bytes()[2..]);
    JobId::from_bytes(bytes)
}

async fn take_in(world: &World, jobs: Vec<NewJob>) -> Result<Vec<robata_core::Result<TakenIn>>> {
    let asked = jobs.len();
    let answers = world.store().take_in(jobs.into_iter().map(whole).collect()).await?;
    ensure!(answers.len() == asked, "{} answers for {asked} jobs", answers.len());
    Ok(answers)
}

/// Takes in one, which must not be refused.
async fn one(world: &World, job: NewJob) -> Result<TakenIn> {
    Ok(take_in(world, vec![job]).await?.pop().context("no answer")??)
}

async fn queued(world: &World) -> Result<u64> {
    let counts = world.store().queue_counts().await?;
    Ok(counts.iter().map(|line| line.queued).sum())
}

/// `take_in` MUST answer in the order of its jobs; of an id twice in one call one MUST be made.
pub async fn whole_jobs_are_taken_in_in_their_order(world: World) -> Result<()> {
    let (first, there, twice) = (keyed("k", 1)?, job("shop", "mail")?, job("shop", "mail")?);
    world.enqueue(vec![first.clone(), there.clone()]).await?;
    let jobs = vec![
        keyed("k", 1)?,
        there,
        twice.clone(),
        keyed("k", 2)?,
        twice,
        job("bank", "pay")?,
    ];
    let answers = take_in(&world, jobs).await?;
    ensure!(
        matches!(
            &answers[..],
            [
                Ok(TakenIn::Alias(of)),
                Ok(TakenIn::WasThere),
                Ok(TakenIn::Made),
                Err(reused),
                Ok(TakenIn::WasThere),
                Ok(TakenIn::Made),
            ] if *of == first.id && reused.kind() == ErrorKind::KeyReused
        ),
        "{answers:?}"
    );
    ensure!(queued(&world).await? == 4);
    Ok(())
}

/// What it made MUST be a job like any other, in the line of its definition as the catalog stands then; only once durable.
pub async fn what_was_taken_in_is_a_job_like_any_other(mut world: World) -> Result<()> {
    let mut new = job("shop", "resize")?;
    new.payload = Payload::new(Bytes::from_static(b"{ \"b\" : 1.50, \"a\": [] }"), 1 << 20, 64)?;
    new.labels = [("team".to_owned(), "web".to_owned())].into();
    new.priority = 9;
    let id = new.id;
    // The definition has changed since it was accepted.
    world
        .apply(
            r#"{"apps": {"shop": {"command": ["true"], "executor": "process", "jobs": {"resize": {"queue": "images"}}}}}"#,
        )
        .await?;
    ensure!(one(&world, new).await? == TakenIn::Made);
    world.harness.reopen().await?;
    let detail = world.store().job(id).await?;
    ensure!(&detail.payload.bytes()[..] == b"{ \"b\" : 1.50, \"a\": [] }");
    ensure!(
        detail.job.line.queue.as_str() == "images" && detail.job.priority == 9,
        "{detail:?}"
    );
    ensure!(detail.job.labels.get("team").is_some_and(|team| team == "web"));
    let worker = world.worker().await?;
    let held = world.hold(worker, &detail.job).await?;
    world.wrote(worker, &held, exited(0)).await?;
    world.wrote(worker, &held, sealed()).await?;
    ensure!(world.job(id).await?.state == JobState::Succeeded);
    Ok(())
}

/// A job whose id is there MUST be `WasThere` and change nothing, whichever path it came by.
pub async fn a_whole_job_that_is_there_changes_nothing(world: World) -> Result<()> {
    let (hung, late) = (keyed("hung", 1)?, job("shop", "mail")?);
    let before = world.one(hung.clone()).await?;
    ensure!(one(&world, hung).await? == TakenIn::WasThere);
    ensure!(world.job(before.id).await? == before, "it was changed");
    ensure!(one(&world, late.clone()).await? == TakenIn::Made);
    let made = world.job(late.id).await?;
    // The write that hung comes after all.
    let answers = world
        .store()
        .enqueue(Enqueue {
            jobs: vec![late.clone()],
            atomic: false,
        })
        .await?;
    ensure!(
        matches!(&answers[0], Ok(answer) if answer.job.id == late.id),
        "{answers:?}"
    );
    ensure!(one(&world, late).await? == TakenIn::WasThere);
    ensure!(world.job(made.id).await? == made && queued(&world).await? == 2);
    Ok(())
}

/// … also where both paths come at once.
pub async fn both_paths_at_once_make_one_job(world: World) -> Result<()> {
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..40 {
        let new = keyed(&format!("key {}", number / 2), 1)?;
        let (store, again) = (world.store(), new.clone());
        calls.spawn(async move { store.take_in(vec![whole(again)]).await.map(drop) });
        let store = world.store();
        calls.spawn(async move {
            let jobs = vec![new];
            store.enqueue(Enqueue { jobs, atomic: false }).await.map(drop)
        });
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    ensure!(
        queued(&world).await? == 20,
        "{} jobs for 20 keys",
        queued(&world).await?
    );
    Ok(())
}

/// One that is refused MUST be refused alone.
pub async fn a_bad_whole_job_is_refused_alone(world: World) -> Result<()> {
    world.one(keyed("taken", 1)?).await?;
    let jobs = vec![job("shop", "mail")?, keyed("taken", 2)?, job("shop", "mail")?];
    let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
    let answers = take_in(&world, jobs).await?;
    let kinds: Vec<_> = answers.iter().map(kind).collect();
    ensure!(kinds == [None, Some(ErrorKind::KeyReused), None], "{answers:?}");
    ensure!(world.store().job(ids[0]).await.is_ok() && world.store().job(ids[2]).await.is_ok());
    ensure!(kind(&world.store().job(ids[1]).await) == Some(ErrorKind::NotFound));
    ensure!(world.store().take_in(Vec::new()).await?.is_empty());
    Ok(())
}

/// A job whose key is taken MUST be an alias: it MUST make nothing, and `job`, `cancel` and `retry` of its id MUST answer and
/// act on the first one, also after a restart.
pub async fn an_alias_answers_with_the_first_job_of_its_key(mut world: World) -> Result<()> {
    let (first, second, third) = (keyed("k", 1)?, keyed("k", 1)?, keyed("k", 1)?);
    // In one call, and in a later one.
    let answers = take_in(&world, vec![first.clone(), second.clone()]).await?;
    ensure!(
        matches!(&answers[..], [Ok(TakenIn::Made), Ok(TakenIn::Alias(of))] if *of == first.id),
        "{answers:?}"
    );
    for _ in 0..2 {
        ensure!(one(&world, third.clone()).await? == TakenIn::Alias(first.id));
    }
    ensure!(queued(&world).await? == 1);
    world.harness.reopen().await?;
    let worker = world.worker().await?;
    let held = world.hold(worker, &world.job(first.id).await?).await?;
    world.wrote(worker, &held, exited(1)).await?;
    world.wrote(worker, &held, sealed()).await?;
    for alias in [second.id, third.id] {
        let told = world.store().job(alias).await?;
        ensure!(
            told.job.id == first.id && told.job.state == JobState::Failed,
            "{told:?}"
        );
    }
    let by = || "test".to_owned();
    let retry = RetryByHand {
        job: second.id,
        by: by(),
    };
    let retried = world.store().retry(retry).await?;
    ensure!(retried.changed && retried.job.id == first.id && retried.job.state == JobState::Queued);
    let cancelled = world
        .store()
        .cancel(Cancel {
            job: third.id,
            by: by(),
        })
        .await?;
    ensure!(cancelled.changed && cancelled.job.id == first.id, "{cancelled:?}");
    ensure!(world.job(first.id).await?.state == JobState::Cancelled);
    Ok(())
}

/// A delay and an expiry MUST count from when the job was accepted.
pub async fn times_of_a_whole_job_count_from_its_acceptance(world: World) -> Result<()> {
    let after = |seconds| -> Result<NewJob> {
        Ok(NewJob {
            when: When::In(Duration::from_secs(seconds)),
            ..job("shop", "mail")?
        })
    };
    let (past, future, mut short) = (after(60)?, after(3_600)?, job("shop", "mail")?);
    short.expires_in = Some(Duration::from_secs(60));
    let ids = [past.id, future.id, short.id];
    world.harness.advance(Duration::from_secs(120));
    take_in(&world, vec![past, future, short]).await?;
    world.store().due(100).await?;
    let [past, future, short] = [
        world.job(ids[0]).await?,
        world.job(ids[1]).await?,
        world.job(ids[2]).await?,
    ];
    ensure!(past.state == JobState::Queued, "{past:?}");
    ensure!(future.state == JobState::Scheduled, "{future:?}");
    let due = ids[1].timestamp().plus(Duration::from_secs(3_600));
    ensure!(future.run_at == due, "{} is not {due}", future.run_at);
    ensure!(
        (short.state, short.reason) == (JobState::Failed, Some(Reason::Expired)),
        "{short:?}"
    );
    Ok(())
}

/// For 15 days after its job was pruned an id that came this way MUST be `Gone`, and an alias with its first job.
pub async fn a_late_duplicate_of_a_pruned_job_makes_nothing(world: World) -> Result<()> {
    let day = Duration::from_secs(24 * 3600);
    // One came by both paths, one by this alone, one as an alias.
    let (both, alone, alias) = (job("shop", "mail")?, keyed("k", 1)?, keyed("k", 1)?);
    world.one(both.clone()).await?;
    let all = [both, alone, alias];
    take_in(&world, all.to_vec()).await?;
    for job in &all[..2] {
        let (job, by) = (job.id, "test".to_owned());
        world.store().cancel(Cancel { job, by }).await?;
    }
    world.harness.advance(31 * day);
    ensure!(world.store().prune(100).await?.jobs == 2);
    for _ in 0..2 {
        for answer in take_in(&world, all.to_vec()).await? {
            ensure!(answer? == TakenIn::Gone);
        }
        for job in &all {
            ensure!(kind(&world.store().job(job.id).await) == Some(ErrorKind::NotFound));
        }
        world.harness.advance(14 * day);
        world.store().prune(100).await?;
    }
    ensure!(queued(&world).await? == 0);
    Ok(())
}

/// `may_come` MUST be true of an id of an outage that is not over, and within it for a minute after; else false. `take_in`
/// MUST note an outage that begins no later than its earliest job. Outages MUST be there after a restart.
pub async fn an_id_of_an_outage_may_come_until_it_is_over(mut world: World) -> Result<()> {
    let second = Duration::from_secs(1);
    // Not of the past: over means over by the store's clock.
    let begin = JobId::new().timestamp();
    let (before, at, after) = (
        id_at(begin.minus(second)),
        id_at(begin),
        id_at(begin.plus(Duration::from_secs(5))),
    );
    for id in [before, at, after] {
        ensure!(!world.store().may_come(id).await?, "there was no outage");
    }
    world.store().note_outage(begin).await?;
    world.harness.reopen().await?;
    let may = [(before, false), (at, true), (after, true)];
    for (id, may) in may {
        ensure!(world.store().may_come(id).await? == may, "{id} during the outage");
    }
    world.harness.advance(Duration::from_secs(10));
    let open = world.store().outages().await?;
    world.store().outages_over(&open).await?;
    world.harness.reopen().await?;
    for (id, may) in may {
        ensure!(world.store().may_come(id).await? == may, "{id} just after the outage");
    }
    let later = id_at(begin.plus(Duration::from_secs(3_600)));
    ensure!(!world.store().may_come(later).await?, "it is of no outage");
    world.harness.advance(STRAGGLERS + second);
    for id in [before, at, after, later] {
        ensure!(!world.store().may_come(id).await?, "{id} after all");
    }
    // What was taken in says that there is one.
    let came = NewJob {
        id: id_at(begin.minus(3_600 * second)),
        ..job("shop", "mail")?
    };
    let beside = id_at(came.id.timestamp());
    ensure!(
        take_in(&world, vec![job("shop", "mail")?, came])
            .await?
            .iter()
            .all(Result::is_ok)
    );
    ensure!(world.store().may_come(beside).await?);
    Ok(())
}

/// `outages_over` MUST end the outages that it names and no others.
pub async fn only_outages_that_are_named_are_over(world: World) -> Result<()> {
    let now = JobId::new().timestamp();
    let hour = Duration::from_secs(3_600);
    let store = world.store();
    ensure!(store.outages().await?.is_empty());
    store.note_outage(now).await?;
    let first = store.outages().await?;
    // It says nothing new.
    store.note_outage(now.plus(hour)).await?;
    ensure!(store.outages().await? == first && first.len() == 1);
    // This one began earlier: somebody else was cut off before us.
    store.note_outage(now.minus(hour)).await?;
    store.outages_over(&first).await?;
    let left = store.outages().await?;
    ensure!(left.len() == 1 && left != first, "{left:?} of {first:?}");
    ensure!(store.may_come(id_at(now.minus(hour))).await?);
    store.outages_over(&left).await?;
    ensure!(store.outages().await?.is_empty());
    Ok(())
}

//! What operators do: pause queues, drain workers, call realms lost, look at what could not be taken in.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use robata_core::{
    AttemptState, ErrorKind, IncarnationId, JobId, JobState, QueueName, Reason, WaitingReason,
    attempt::{AttemptChange, Claimed},
    executor::{Handle, RealmId},
    job::{Cancel, JobRecord, Line},
    queue::BrokerKey,
    store::{Hint, LEASE, Published, SetAside, Window},
};

use super::world::{World, exited, job, kind, line, name, next};

fn shop() -> Result<QueueName> {
    name("shop")
}

async fn references(world: &World) -> Result<Vec<JobId>> {
    let window = Window {
        line: line("shop", "process")?,
        size: 100,
    };
    let references = world.store().references(window).await?;
    Ok(references.into_iter().map(|reference| reference.job).collect())
}

async fn reason(world: &World, job: JobId) -> Result<Option<(WaitingReason, Option<String>)>> {
    let waiting = world.job(job).await?.waiting;
    Ok(waiting.map(|waiting| (waiting.reason, waiting.message)))
}

/// From the answer of `pause` on no claim MUST take a job of that queue, whoever received its reference before, and
/// `references` MUST give none; its jobs MUST wait for the reason `paused`. Resumed, every one of them MUST go out again.
pub async fn a_paused_queues_jobs_stay_and_all_go_out_again(mut world: World) -> Result<()> {
    let worker = world.worker().await?;
    let runs = world.running(worker, "resize").await?;
    let jobs = world
        .enqueue(vec![job("shop", "mail")?, job("shop", "mail")?, job("shop", "rare")?])
        .await?;
    let other = world.one(job("bank", "pay")?).await?;
    let published = Published {
        line: line("shop", "process")?,
        broker_key: BrokerKey("b".into()),
        references: jobs[..2].iter().map(|job| next(job).1).collect(),
        format: robata_core::Format::PREVIOUS,
    };
    world.store().published(published).await?;
    ensure!(
        world
            .store()
            .pause(&shop()?, Some("the mail server is away"), "ann")
            .await?
    );
    ensure!(references(&world).await?.is_empty());
    let told = Some((WaitingReason::Paused, Some("the mail server is away".to_owned())));
    for job in &jobs {
        ensure!(reason(&world, job.id).await? == told, "{:?}", world.job(job.id).await?);
    }
    let listed = world.one(job("shop", "mail")?).await?;
    ensure!(
        listed
            .waiting
            .is_some_and(|waiting| waiting.reason == WaitingReason::Paused),
        "what is enqueued meanwhile waits, too"
    );
    let claimed = world.claim(worker, vec![next(&jobs[0]), next(&other)]).await?;
    ensure!(
        matches!(claimed[..], [Claimed::Paused, Claimed::Held(_)]),
        "another queue goes on: {claimed:?}"
    );
    let lines = world.store().lines().await?;
    let own = lines.iter().find(|record| record.line.queue.as_str() == "shop");
    ensure!(
        own.is_some_and(|own| (own.queued, own.published) == (4, 1)),
        "the publication is used up: {lines:?}"
    );
    // What runs goes on; its retry waits.
    world.wrote(worker, &runs, exited(1)).await?;
    world.harness.advance(Duration::from_secs(60));
    world.store().due(10).await?;
    ensure!(reason(&world, runs.id.job).await? == told);
    world.harness.reopen().await?;
    ensure!(
        world.store().paused().await?.contains_key(&shop()?) && references(&world).await?.is_empty(),
        "it stays paused over a restart"
    );
    ensure!(world.store().pause(&shop()?, None, "ann").await?);
    let heir = world.worker().await?;
    let out = references(&world).await?;
    for job in [jobs[0].id, jobs[2].id, listed.id, runs.id.job] {
        ensure!(out.contains(&job), "{job} does not go out again: {out:?}");
    }
    // What was out all the time is claimed by its old reference.
    for job in &jobs {
        world.hold(heir, job).await?;
    }
    Ok(())
}

/// A claim that begins once `pause` has answered takes nothing, however many are under way.
pub async fn no_claim_that_begins_after_a_pause_takes_anything(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let jobs = (0..60).map(|_| job("shop", "mail")).collect::<Result<Vec<_>>>()?;
    let jobs = world.enqueue(jobs).await?;
    let (early, late) = jobs.split_at(30);
    let claims = |jobs: &[JobRecord]| {
        let claims = jobs.iter().map(|job| world.claim(worker, vec![next(job)]));
        futures::future::join_all(claims.collect::<Vec<_>>())
    };
    let pause_then_claim = async {
        world.store().pause(&shop()?, Some(""), "ann").await?;
        Ok::<_, anyhow::Error>(claims(late).await)
    };
    let (before, after) = futures::join!(claims(early), pause_then_claim);
    for claimed in after? {
        ensure!(matches!(claimed?[..], [Claimed::Paused]));
    }
    for (job, claimed) in early.iter().zip(before) {
        let runs = world.job(job.id).await?.state == JobState::Running;
        ensure!(matches!(claimed?[..], [Claimed::Held(_)]) == runs);
    }
    Ok(())
}

/// `pause` answers whether it changed anything; a queue that is paused already gets the new reason.
pub async fn pausing_again_changes_nothing_but_the_reason(world: World) -> Result<()> {
    let store = world.store();
    let queue = shop()?;
    ensure!(!store.pause(&queue, None, "ann").await?, "it was not paused");
    ensure!(store.pause(&queue, Some("one"), "ann").await?);
    let since = store.paused().await?[&queue].since;
    world.harness.advance(Duration::from_secs(60));
    ensure!(!store.pause(&queue, Some("one"), "bob").await?);
    ensure!(store.pause(&queue, Some("two"), "bob").await?);
    let paused = store.paused().await?;
    let pause = &paused[&queue];
    ensure!(
        paused.len() == 1 && (pause.reason.as_str(), pause.by.as_str(), pause.since) == ("two", "bob", since),
        "{paused:?}"
    );
    ensure!(store.pause(&queue, None, "bob").await? && !store.pause(&queue, None, "bob").await?);
    ensure!(store.paused().await?.is_empty());
    Ok(())
}

/// Resumed, its lines are hinted at.
pub async fn a_resume_hints_at_the_queues_lines(world: World) -> Result<()> {
    let store = world.store();
    world.one(job("shop", "mail")?).await?;
    store.pause(&shop()?, Some(""), "ann").await?;
    let mut hints = store.hints();
    while let Some(Some(_)) = hints.next().now_or_never() {}
    store.pause(&shop()?, None, "ann").await?;
    let wanted: Line = line("shop", "process")?;
    let heard = async {
        while let Some(hint) = hints.next().await {
            if hint == Hint::Line(wanted.clone()) {
                return true;
            }
        }
        false
    };
    ensure!(tokio::time::timeout(Duration::from_secs(10), heard).await?, "no hint");
    Ok(())
}

/// `drain` asks a worker to drain: its next heartbeats say so, and it is shown so. `NotFound` for an unknown one,
/// `Conflict` where its lease has ended. A line whose only workers drain has no worker.
pub async fn a_worker_that_is_asked_to_drain_is_told_and_shown(world: World) -> Result<()> {
    let store = world.store();
    let (drains, stays) = (world.worker().await?, world.worker_with("docker").await?);
    let waits = world.one(job("shop", "mail")?).await?;
    ensure!(!store.heartbeat(drains).await?.drain);
    for _ in 0..2 {
        store.drain(drains, "ann").await?;
        ensure!(store.heartbeat(drains).await?.drain && !store.heartbeat(stays).await?.drain);
    }
    let workers = store.workers().await?;
    ensure!(
        workers
            .iter()
            .all(|worker| worker.draining == (worker.incarnation == drains)),
        "{workers:?}"
    );
    let waiting = reason(&world, waits.id).await?;
    ensure!(
        waiting
            .as_ref()
            .is_some_and(|(reason, _)| *reason == WaitingReason::NoWorker),
        "{waiting:?}"
    );
    // It still holds what it holds, and may still write about it.
    let held = world.hold(drains, &waits).await?;
    world.wrote(drains, &held, exited(0)).await?;
    ensure!(kind(&store.drain(IncarnationId::new(), "ann").await) == Some(ErrorKind::NotFound));
    store.release(drains).await?;
    ensure!(kind(&store.drain(drains, "ann").await) == Some(ErrorKind::Conflict));
    Ok(())
}

pub(super) async fn prepared(
    world: &World,
    worker: IncarnationId,
    job: &str,
    realm: &str,
) -> Result<robata_core::AttemptId> {
    let held = world.running(worker, job).await?;
    let change = AttemptChange::Prepared {
        realm: RealmId(realm.into()),
        handle: Handle(format!("thing of {}", held.id)),
        image_digest: None,
    };
    world.wrote(worker, &held, change).await?;
    Ok(held.id)
}

/// `lose` MUST end at once as lost what ran in a realm; its jobs go on by the platform's budget, and nothing else is touched.
pub async fn what_ran_in_a_realm_that_is_gone_is_lost_at_once(world: World) -> Result<()> {
    let store = world.store();
    let here = RealmId("here".into());
    let gone = world.worker().await?;
    let lost = prepared(&world, gone, "mail", "here").await?;
    let cancelled = prepared(&world, gone, "mail", "here").await?;
    store
        .cancel(Cancel {
            job: cancelled.job,
            by: "ann".into(),
        })
        .await?;
    let elsewhere = prepared(&world, gone, "mail", "there").await?;
    let refused = store.lose(&here, "ann").await;
    ensure!(
        kind(&refused) == Some(ErrorKind::Conflict),
        "a live worker reaches the realm: {refused:?}"
    );
    ensure!(store.attempt(lost).await?.state.is_live());
    store.release(gone).await?;
    let mut ended = store.lose(&here, "ann").await?;
    ended.sort_unstable();
    let mut expected = [lost, cancelled];
    expected.sort_unstable();
    ensure!(ended == expected, "{ended:?}");
    let attempt = store.attempt(lost).await?;
    ensure!(
        (attempt.state, attempt.reason, attempt.counted) == (AttemptState::Lost, Some(Reason::Lost), Some(false))
            && attempt.message.as_deref().is_some_and(|words| words.contains("ann")),
        "{attempt:?}"
    );
    ensure!(
        world.job(lost.job).await?.state == JobState::Queued,
        "the platform pays"
    );
    let job = world.job(cancelled.job).await?;
    ensure!(
        (job.state, job.reason) == (JobState::Failed, Some(Reason::Lost)),
        "{job:?}"
    );
    ensure!(
        store.attempt(elsewhere).await?.state.is_live(),
        "another realm was touched"
    );
    ensure!(store.lose(&here, "ann").await?.is_empty(), "twice");
    Ok(())
}

/// … `Conflict` where a live worker holds what is in it, though it has not told that it reaches it.
pub async fn a_realm_in_which_a_live_worker_holds_something_is_not_lost(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let attempt = prepared(&world, worker, "mail", "an engine that went away").await?;
    let refused = world
        .store()
        .lose(&RealmId("an engine that went away".into()), "ann")
        .await;
    ensure!(kind(&refused) == Some(ErrorKind::Conflict), "{refused:?}");
    ensure!(world.store().attempt(attempt).await?.state.is_live());
    world.pass(LEASE * 3, &[]).await?;
    let lost = world
        .store()
        .lose(&RealmId("an engine that went away".into()), "ann")
        .await?;
    ensure!(lost == [attempt]);
    Ok(())
}

/// What could not be taken in is kept with its reason, as it came, and told newest first.
pub async fn what_is_set_aside_is_kept_with_its_reason(mut world: World) -> Result<()> {
    let message = |n: u8| SetAside {
        source: "shop/process".into(),
        reason: format!("reason {n}"),
        body: Bytes::from(vec![n, 0, 0xff]),
        attributes: BTreeMap::from([("n".to_owned(), n.to_string())]),
    };
    let store = world.store();
    ensure!(store.set_aside_list(None, 10).await?.is_empty());
    store.set_aside(vec![message(0), message(1)]).await?;
    store.set_aside((2..5).map(message).collect()).await?;
    world.harness.reopen().await?;
    let store = world.store();
    let all = store.set_aside_list(None, 10).await?;
    let messages: Vec<_> = all.iter().map(|record| record.message.clone()).collect();
    ensure!(messages == (0..5).rev().map(message).collect::<Vec<_>>(), "{all:?}");
    ensure!(all.windows(2).all(|pair| pair[0].seq > pair[1].seq));
    let page = store.set_aside_list(Some(all[1].seq), 2).await?;
    ensure!(page == all[2..4], "{page:?}");
    // An empty batch is no message.
    store.set_aside(Vec::new()).await?;
    ensure!(store.set_aside_list(None, 10).await? == all);
    Ok(())
}

/// A heartbeat tells which of the held attempts somebody follows now.
pub async fn a_heartbeat_tells_what_is_followed(world: World) -> Result<()> {
    let store = world.store();
    let worker = world.worker().await?;
    let (followed, quiet) = (
        world.running(worker, "mail").await?,
        world.running(worker, "mail").await?,
    );
    ensure!(store.heartbeat(worker).await?.followed.is_empty());
    store.follow(followed.id, Duration::from_secs(30)).await?;
    let other = world.worker().await?;
    ensure!(
        store.heartbeat(other).await?.followed.is_empty(),
        "not held by this one"
    );
    ensure!(store.heartbeat(worker).await?.followed == [followed.id]);
    // Ended, and its log still read to the end.
    world.wrote(worker, &followed, exited(0)).await?;
    ensure!(store.heartbeat(worker).await?.followed == [followed.id]);
    world.pass(Duration::from_secs(60), &[worker, other]).await?;
    ensure!(store.heartbeat(worker).await?.followed.is_empty(), "its time is over");
    ensure!(store.attempt(quiet.id).await?.state.is_live());
    Ok(())
}

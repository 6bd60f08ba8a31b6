//! Enqueue: order, keys, bad items, bytes.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use robata_core::{
    ErrorKind, JobId, JobState, Payload,
    definition::CatalogWrite,
    job::{Enqueue, NewJob, When},
    store::ListJobs,
};

use super::world::{World, job, keyed, kind};

/// `enqueue` MUST answer in the order of its jobs.
pub async fn enqueue_answers_in_the_order_of_its_jobs(world: World) -> Result<()> {
    let jobs = (0..700).map(|_| job("shop", "mail")).collect::<Result<Vec<_>>>()?;
    let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
    let answers: Vec<_> = world.enqueue(jobs).await?.iter().map(|job| job.id).collect();
    ensure!(answers == ids, "the answers are in another order");
    Ok(())
}

/// … and only once they are durable.
pub async fn what_was_accepted_is_there_after_a_restart(mut world: World) -> Result<()> {
    let before = world
        .one(NewJob {
            priority: 7,
            when: When::In(Duration::from_secs(60)),
            ..keyed("k", 1)?
        })
        .await?;
    world.harness.reopen().await?;
    let after = world.job(before.id).await?;
    ensure!(after == before, "{before:?} became {after:?}");
    ensure!(after.state == JobState::Scheduled && after.priority == 7);
    Ok(())
}

/// FAULTS A5: one bad item MUST be refused alone.
pub async fn a_bad_item_is_refused_alone(world: World) -> Result<()> {
    world.one(keyed("taken", 1)?).await?;
    let jobs = vec![job("shop", "mail")?, keyed("taken", 2)?, job("shop", "mail")?];
    let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
    let answers = world.store().enqueue(Enqueue { jobs, atomic: false }).await?;
    let kinds: Vec<_> = answers.iter().map(kind).collect();
    ensure!(kinds == [None, Some(ErrorKind::KeyReused), None], "{answers:?}");
    ensure!(world.store().job(ids[0]).await.is_ok() && world.store().job(ids[2]).await.is_ok());
    ensure!(kind(&world.store().job(ids[1]).await) == Some(ErrorKind::NotFound));
    Ok(())
}

/// … unless `atomic`: nothing is stored, every other item answers `Conflict`.
pub async fn an_atomic_batch_with_a_bad_item_stores_nothing(world: World) -> Result<()> {
    world.one(keyed("taken", 1)?).await?;
    let jobs = vec![keyed("fresh", 1)?, keyed("taken", 2)?, job("shop", "mail")?];
    let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
    let answers = world.store().enqueue(Enqueue { jobs, atomic: true }).await?;
    let kinds: Vec<_> = answers.iter().map(kind).collect();
    let conflict = Some(ErrorKind::Conflict);
    ensure!(kinds == [conflict, Some(ErrorKind::KeyReused), conflict], "{answers:?}");
    for id in ids {
        ensure!(kind(&world.store().job(id).await) == Some(ErrorKind::NotFound));
    }
    // Its keys are free, too.
    let fresh = keyed("fresh", 9)?;
    let id = fresh.id;
    ensure!(world.one(fresh).await?.id == id, "the key of a refused batch is taken");
    let counts = world.store().queue_counts().await?;
    ensure!(counts.iter().map(|line| line.queued).sum::<u64>() == 2, "{counts:?}");
    Ok(())
}

/// FAULTS A4: a key that is known MUST answer with its first job.
pub async fn a_known_key_answers_with_its_first_job(mut world: World) -> Result<()> {
    let first = world.one(keyed("k", 1)?).await?;
    world.harness.reopen().await?;
    let answers = world
        .store()
        .enqueue(Enqueue {
            jobs: vec![keyed("k", 1)?, keyed("k", 1)?],
            atomic: false,
        })
        .await?;
    for answer in answers {
        let answer = answer?;
        ensure!(answer.replayed && answer.job.id == first.id, "{answer:?}");
    }
    Ok(())
}

/// Twice in one batch, the first makes the job.
pub async fn a_key_twice_in_a_batch_makes_one_job(world: World) -> Result<()> {
    let jobs = vec![keyed("k", 1)?, keyed("k", 1)?, keyed("k", 2)?];
    let first = jobs[0].id;
    let mut answers = world
        .store()
        .enqueue(Enqueue { jobs, atomic: false })
        .await?
        .into_iter();
    let (one, two) = (answers.next().context("one")??, answers.next().context("two")??);
    ensure!(!one.replayed && two.replayed && two.job.id == first, "{one:?} {two:?}");
    ensure!(kind(&answers.next().context("three")?) == Some(ErrorKind::KeyReused));
    Ok(())
}

/// … with another request it MUST be `KeyReused`.
pub async fn a_known_key_with_another_request_is_refused(world: World) -> Result<()> {
    world.one(keyed("k", 1)?).await?;
    let answers = world
        .store()
        .enqueue(Enqueue {
            jobs: vec![keyed("k", 2)?],
            atomic: false,
        })
        .await?;
    ensure!(kind(&answers[0]) == Some(ErrorKind::KeyReused), "{answers:?}");
    Ok(())
}

/// `replays` MUST answer the same for keys alone, also where the definition is gone, and MUST store nothing.
pub async fn keys_alone_tell_their_first_jobs(world: World) -> Result<()> {
    let first = world.one(keyed("k", 1)?).await?;
    let other = world.one(keyed("other", 7)?).await?;
    let app = first.app.clone();
    let key = |name: &str, request| -> Result<_> {
        let key = keyed(name, request)?.key.context("a keyed job has a key")?;
        Ok((app.clone(), key))
    };
    let catalog = world.store().catalog().await?;
    let gone = vec![CatalogWrite::DeleteApp(app.clone())];
    world.store().change_catalog(catalog.revision, gone, "test").await?;
    let foreign = ("another".parse()?, key("k", 1)?.1);
    let keys = vec![
        key("other", 7)?,
        key("new", 1)?,
        key("k", 2)?,
        foreign,
        key("k", 1)?,
        key("k", 1)?,
    ];
    let answers = world.store().replays(keys).await?;
    let told: Vec<_> = answers
        .iter()
        .map(|answer| {
            answer
                .as_ref()
                .map(|job| job.as_ref().map(|job| job.id))
                .map_err(robata_core::Error::kind)
        })
        .collect();
    let (first, other) = (Ok(Some(first.id)), Ok(Some(other.id)));
    ensure!(
        told == [other, Ok(None), Err(ErrorKind::KeyReused), Ok(None), first, first],
        "{answers:?}"
    );
    ensure!(world.store().replays(Vec::new()).await?.is_empty());
    let mut all = ListJobs::default();
    all.limit = 10;
    ensure!(world.store().jobs(all).await?.len() == 2, "something was stored");
    Ok(())
}

/// PROTOCOL I3: keys are unique per app.
pub async fn a_key_of_another_app_is_another_key(world: World) -> Result<()> {
    let first = world.one(keyed("k", 1)?).await?;
    let other = NewJob {
        key: keyed("k", 2)?.key,
        ..job("bank", "pay")?
    };
    ensure!(world.one(other).await?.id != first.id);
    Ok(())
}

/// Of concurrent enqueues with one key exactly one MUST make a job.
pub async fn a_thousand_concurrent_enqueues_with_one_key_make_one_job(world: World) -> Result<()> {
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let (store, job) = (world.store(), keyed("one", 1)?);
        calls.spawn(async move {
            store
                .enqueue(Enqueue {
                    jobs: vec![job],
                    atomic: false,
                })
                .await
        });
    }
    let (mut made, mut ids) = (0, BTreeSet::new());
    while let Some(answer) = calls.join_next().await {
        let answer = answer??.pop().context("no answer")??;
        made += usize::from(!answer.replayed);
        ids.insert(answer.job.id);
    }
    ensure!(
        made == 1 && ids.len() == 1,
        "{made} jobs were made, {} ids answered",
        ids.len()
    );
    let counts = world.store().queue_counts().await?;
    ensure!(counts.iter().map(|line| line.queued).sum::<u64>() == 1, "{counts:?}");
    Ok(())
}

/// PROTOCOL I4: of many writes in one transaction each caller gets its own answer.
pub async fn concurrent_callers_get_their_own_answers(world: World) -> Result<()> {
    world.one(keyed("taken", 1)?).await?;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..300 {
        let job = if n % 10 == 0 {
            keyed("taken", 2)?
        } else {
            job("shop", "mail")?
        };
        let store = world.store();
        calls.spawn(async move {
            let id = job.id;
            (
                n,
                id,
                store
                    .enqueue(Enqueue {
                        jobs: vec![job],
                        atomic: n % 3 == 0,
                    })
                    .await,
            )
        });
    }
    while let Some(done) = calls.join_next().await {
        let (n, id, answer) = done?;
        let answer = answer?.pop().context("no answer")?;
        if n % 10 == 0 {
            ensure!(kind(&answer) == Some(ErrorKind::KeyReused), "{answer:?}");
        } else {
            ensure!(answer?.job.id == id, "somebody else's answer");
        }
    }
    Ok(())
}

/// PROTOCOL I1: a request keeps its id on whichever path it takes; sent again it is stored once.
pub async fn an_id_sent_again_is_stored_once(world: World) -> Result<()> {
    let job = job("shop", "mail")?;
    let again = job.clone();
    let id = job.id;
    world.one(job).await?;
    let answers = world
        .store()
        .enqueue(Enqueue {
            jobs: vec![again],
            atomic: false,
        })
        .await?;
    ensure!(
        matches!(&answers[0], Ok(answer) if answer.replayed && answer.job.id == id),
        "{answers:?}"
    );
    Ok(())
}

/// A caller that goes away loses nothing: its enqueue is done, or not begun, but never half.
pub async fn an_enqueue_whose_caller_went_away_is_whole_or_not_there(world: World) -> Result<()> {
    let jobs = (0..50).map(|_| job("shop", "mail")).collect::<Result<Vec<_>>>()?;
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let store = world.store();
    // One poll, then dropped.
    let mut call = Box::pin(store.enqueue(Enqueue { jobs, atomic: false }));
    let _ = futures::poll!(call.as_mut());
    drop(call);
    world.one(job("shop", "mail")?).await?;
    // In one look: where several write at once, it may be committed between two.
    let mut all = robata_core::store::ListJobs::default();
    all.limit = 500;
    let listed = world.store().jobs(all).await?;
    let there = ids.iter().filter(|id| listed.iter().any(|job| job.id == **id)).count();
    ensure!(
        there == 0 || there == ids.len(),
        "{there} of {} jobs are there",
        ids.len()
    );
    Ok(())
}

/// FAULTS A15: a payload MUST come back as the bytes that went in.
pub async fn a_payload_comes_back_as_the_bytes_that_went_in(mut world: World) -> Result<()> {
    let deep = format!("{}1{}", "[".repeat(128), "]".repeat(128));
    let large = format!("\"{}\"", "x".repeat((1 << 20) - 2));
    let payloads = [
        r#"{"b":1,"a":{"z":"\u0000","y":12345678901234567890123,"b":1.50}}"#,
        "  [ 1 ,\t2 ]\n",
        r#""\u0000""#,
        "null",
        "0.1000",
        r#"{"a":1,"a":2}"#,
        "\"grüße 🎏\"",
        &deep,
        &large,
    ];
    let mut jobs = Vec::new();
    for payload in payloads {
        let payload = Payload::new(Bytes::copy_from_slice(payload.as_bytes()), 1 << 20, 128)?;
        jobs.push(NewJob {
            payload,
            ..job("shop", "mail")?
        });
    }
    let stored = world.enqueue(jobs).await?;
    world.harness.reopen().await?;
    let worker = world.worker().await?;
    for (stored, payload) in stored.iter().zip(payloads) {
        ensure!(
            world.store().job(stored.id).await?.payload.bytes() == payload.as_bytes(),
            "{payload:.60} changed"
        );
        let held = world.hold(worker, stored).await?;
        ensure!(
            held.payload.bytes() == payload.as_bytes(),
            "{payload:.60} changed on its way to the worker"
        );
    }
    Ok(())
}

/// A large batch goes in whole.
pub async fn ten_thousand_jobs_go_in_at_once(world: World) -> Result<()> {
    let jobs = (0..10_000).map(|_| job("shop", "mail")).collect::<Result<Vec<_>>>()?;
    ensure!(world.enqueue(jobs).await?.len() == 10_000);
    let counts = world.store().queue_counts().await?;
    ensure!(
        counts.iter().map(|line| line.queued).sum::<u64>() == 10_000,
        "{counts:?}"
    );
    Ok(())
}

/// What is stored is told to those who listen.
pub async fn an_enqueue_hints_at_its_line(world: World) -> Result<()> {
    use futures::StreamExt as _;
    use robata_core::store::Hint;
    let mut hints = world.store().hints();
    let job = world.one(job("shop", "mail")?).await?;
    let delayed = NewJob {
        when: When::In(Duration::from_secs(60)),
        ..super::world::job("shop", "mail")?
    };
    world.one(delayed).await?;
    let (mut line, mut due) = (false, false);
    while !(line && due) {
        let hint = tokio::time::timeout(Duration::from_secs(10), hints.next()).await?;
        let hint = hint.context("the hints ended")?;
        line |= hint == Hint::Line(job.line.clone());
        due |= matches!(hint, Hint::Due(after) if after <= Duration::from_secs(60));
    }
    Ok(())
}

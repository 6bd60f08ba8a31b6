//! The scheduler's loops: due, outbox, lost, retention.

use std::time::Duration;

use anyhow::{Result, ensure};
use robata_core::{
    Format, JobId, JobState, Reason,
    attempt::Claimed,
    job::{JobRecord, Line, NewJob, Reference, When},
    queue::BrokerKey,
    store::{Published, Void, Window},
};

use super::world::{World, exited, job, line, next};

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
        format: Format::PREVIOUS,
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
    // No more than asked, and told: a master goes on at once where there are more.
    let first = world.store().due(1).await?;
    ensure!(
        first.expired == 1 && first.next == Some(Duration::ZERO),
        "{first:?} while two had expired"
    );
    let second = world.store().due(10).await?;
    ensure!((second.moved, second.expired) == (0, 1), "{second:?}");
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

/// What a limit leaves is shared like the window: the apps in turn, and within an app by age; nobody starves.
pub async fn what_a_limit_leaves_is_given_in_turn(world: World) -> Result<()> {
    let line = shop()?;
    world.apply(r#"{"queues": {"shop": {"max_running": 4}}}"#).await?;
    let worker = world.worker().await?;
    let here = |app: &str, name: &str| {
        Ok::<_, anyhow::Error>(NewJob {
            line: shop()?,
            queue_chosen: true,
            ..job(app, name)?
        })
    };
    // `bank` comes before `shop`, `mail` before `rare`: names must not decide.
    let many = (0..30).map(|_| here("bank", "pay")).collect::<Result<Vec<_>>>()?;
    world.enqueue(many).await?;
    let rare = world.one(here("shop", "rare")?).await?;
    let mails = (0..30).map(|_| here("shop", "mail")).collect::<Result<Vec<_>>>()?;
    world.enqueue(mails).await?;
    let first = ids(&world, &line, 100).await?;
    ensure!(first.len() == 4 && first.contains(&rare.id), "{first:?}");
    let (mut banks, mut shops) = (0, 0);
    for _ in 0..6 {
        let out = references(&world, &line, 100).await?;
        ensure!(out.len() == 4, "{out:?}");
        publish(&world, &line, out.clone(), "b").await?;
        ensure!(
            ids(&world, &line, 100).await?.is_empty(),
            "more went out than the limit leaves"
        );
        for reference in out {
            let job = world.job(reference.job).await?;
            if job.app.as_str() == "bank" {
                banks += 1;
            } else {
                shops += 1;
            }
            let held = world.hold(worker, &job).await?;
            world.wrote(worker, &held, exited(0)).await?;
        }
    }
    ensure!(banks == 12 && shops == 12, "{banks} of one app, {shops} of the other");
    ensure!(world.job(rare.id).await?.state == JobState::Succeeded);
    Ok(())
}

/// What is out in a line from which nobody receives does not take the room of what could run.
pub async fn what_nobody_receives_holds_back_nothing_else(world: World) -> Result<()> {
    world
        .apply(r#"{"apps": {"shop": {"command": ["true"], "executor": "process", "max_running": 3, "jobs": {"rare": {"executor": "docker"}}}}}"#)
        .await?;
    let docker = line("shop", "docker")?;
    let rares = (0..5)
        .map(|_| {
            Ok(NewJob {
                line: line("shop", "docker")?,
                ..job("shop", "rare")?
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let mails = (0..5).map(|_| job("shop", "mail")).collect::<Result<Vec<_>>>()?;
    world.enqueue(rares).await?;
    world.enqueue(mails).await?;
    world.worker().await?;
    let gone = world.worker_with("docker").await?;
    let out = references(&world, &docker, 10).await?;
    ensure!(out.len() == 3, "{out:?}");
    publish(&world, &docker, out, "b").await?;
    ensure!(
        ids(&world, &shop()?, 10).await?.is_empty(),
        "what is out needs room, too"
    );
    world.store().release(gone).await?;
    let mails = references(&world, &shop()?, 10).await?;
    ensure!(mails.len() == 3, "{mails:?}");
    // Nor what is out in a paused queue.
    world.worker_with("docker").await?;
    ensure!(ids(&world, &shop()?, 10).await?.is_empty());
    let vip = line("vip", "process")?;
    let chosen = NewJob {
        line: vip.clone(),
        queue_chosen: true,
        ..job("shop", "mail")?
    };
    world.one(chosen).await?;
    ensure!(ids(&world, &vip, 10).await?.is_empty());
    world.store().pause(&docker.queue, Some("suite"), "suite").await?;
    ensure!(ids(&world, &vip, 10).await?.len() == 1);
    Ok(())
}

/// A broker may deliver before it confirms: a claim that gave a job back before its publication was noted has used that
/// publication up, and the job goes out again.
pub async fn what_a_claim_used_up_before_it_was_noted_goes_out_again(world: World) -> Result<()> {
    let line = shop()?;
    world.apply(r#"{"queues": {"shop": {"max_running": 1}}}"#).await?;
    let worker = world.worker().await?;
    let runs = world.running(worker, "mail").await?;
    let waits = world.one(job("shop", "mail")?).await?;
    let over = world.claim(worker, vec![next(&waits)]).await?;
    ensure!(matches!(over[0], Claimed::OverLimit), "{over:?}");
    publish(&world, &line, vec![next(&waits).1], "b").await?;
    let lines = world.store().lines().await?;
    ensure!(lines[0].published == 0, "{lines:?}");
    world.wrote(worker, &runs, exited(0)).await?;
    let out = references(&world, &line, 10).await?;
    ensure!(out == [next(&waits).1], "{out:?}");
    // Noted once more, it is out: a claim uses up one publication, not the next.
    publish(&world, &line, out, "b").await?;
    ensure!(ids(&world, &line, 10).await?.is_empty());
    // The same where the queue was paused.
    world.store().pause(&line.queue, Some("suite"), "suite").await?;
    let later = world.one(job("shop", "mail")?).await?;
    let paused = world.claim(worker, vec![next(&later)]).await?;
    ensure!(matches!(paused[0], Claimed::Paused), "{paused:?}");
    publish(&world, &line, vec![next(&later).1], "b").await?;
    world.store().pause(&line.queue, None, "suite").await?;
    world.hold(worker, &waits).await?;
    world.apply(r#"{"queues": {"shop": {}}}"#).await?;
    ensure!(ids(&world, &line, 10).await? == [later.id]);
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

/// What a worker is handed has its line's next number, however often it goes out.
pub async fn a_reference_names_the_next_attempt(world: World) -> Result<()> {
    let stored = world.one(job("shop", "mail")?).await?;
    let (line, reference) = next(&stored);
    ensure!(references(&world, &line, 10).await? == [reference]);
    ensure!(Reference::decode(&reference.encode(Format::OWN)) == Some(reference));
    Ok(())
}

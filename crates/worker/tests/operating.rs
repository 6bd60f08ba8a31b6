//! What operators ask of workers: pause, drain; what they may not break: odd messages, a panic in one job.

mod support;

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use robata_core::{
    AttemptState, ErrorKind, Format, JobState, QueueName, WaitingReason,
    finish::End,
    job::Reference,
    queue::{Message, Queue},
    store::{AttemptStore, JobStore},
};
use robata_testkit::{case, engine::Fault};
use support::{Rig, STATE, app, attempt, attempts, ensure_ended, line, only, runs};

async fn pause(rig: &Rig, reason: Option<&str>) -> Result<()> {
    rig.store.pause(&QueueName::from(app()), reason, "test").await?;
    Ok(())
}

fn message(body: &'static [u8]) -> Message {
    Message {
        body: Bytes::from_static(body),
        ..Message::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_waits_and_goes_on_when_it_is_resumed() -> Result<()> {
    let mut failing = runs(&[]);
    failing.retry = attempts(2);
    let rig = Rig::new(&[("long", failing), ("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    let running = rig.enqueue("long").await?;
    let first = rig.running(running).await?;
    pause(&rig, Some("the shop is closed")).await?;
    let job = rig.enqueue("short").await?;
    let waits = rig.waits(job, WaitingReason::Paused).await?;
    let words = waits.job.waiting.and_then(|waiting| waiting.message);
    ensure!(words.as_deref() == Some("the shop is closed"), "{words:?}");
    // A reference that is out already is claimed, and refused.
    let reference = Reference { job, attempt: 1 };
    let published = Message {
        body: reference.encode(Format::OWN),
        ..Message::default()
    };
    rig.queue.publish(&line(), vec![published]).await?;
    // What runs goes on; its retry waits.
    rig.engine.end(first, End::Exited(1));
    rig.waits(running, WaitingReason::Paused).await?;
    ensure!(rig.job(job).await?.attempts.is_empty() && rig.job(running).await?.attempts.len() == 1);
    pause(&rig, None).await?;
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    let second = rig.running(running).await?;
    ensure!(second.number == 2);
    rig.engine.end(second, End::Exited(0));
    ensure_ended(&rig.finalised(running).await?, JobState::Succeeded, None)?;
    worker.stop().await?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_and_resume_need_no_hints() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let _worker = rig.deaf_worker("a")?;
    let before = rig.enqueue("short").await?;
    rig.finalised(before).await?;
    pause(&rig, Some("")).await?;
    let job = rig.enqueue("short").await?;
    rig.waits(job, WaitingReason::Paused).await?;
    pause(&rig, None).await?;
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_asked_to_drain_follows_what_it_holds_and_ends() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&["print:whole"])), ("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    rig.store.drain(rig.incarnation("a").await?, "test").await?;
    rig.eventually("it is told", || worker.drain.is_cancelled()).await?;
    let new = rig.enqueue("short").await?;
    let waits = rig.waits(new, WaitingReason::NoWorker).await?;
    ensure!(waits.attempts.is_empty());
    rig.engine.end(id, End::Exited(3));
    let left = worker.ends().await?;
    ensure!(left.drained && left.attempts == 0, "{left:?}");
    let detail = rig.job(job).await?;
    ensure!(
        only(&detail)?.finalised && only(&detail)?.exit_code == Some(3),
        "{detail:?}"
    );
    ensure!(rig.job(new).await?.attempts.is_empty(), "it took something new");
    let _next = rig.worker("b")?;
    ensure_ended(&rig.finalised(new).await?, JobState::Succeeded, None)?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_drains_by_its_own_token_and_is_shown_so() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    let before = rig.incarnation("a").await?;
    worker.drain.cancel();
    let shown = async |incarnation| {
        case::until("it is shown as draining", STATE, || async {
            let workers = rig.store.workers().await?;
            let found = workers.iter().find(|worker| worker.incarnation == incarnation);
            Ok(found.is_some_and(|worker| worker.draining).then_some(()))
        })
        .await
    };
    shown(before).await?;
    // A lease that is lost on the way changes nothing: what it held it takes back, and goes on draining.
    rig.end_lease("a").await?;
    rig.is_another_than(before, "a").await?;
    let after = rig.incarnation("a").await?;
    shown(after).await?;
    rig.until(job, "its new incarnation holds it", |detail| {
        let worker = detail.attempts[0].worker.as_deref();
        worker.is_some_and(|worker| worker.contains(&after.to_string()))
    })
    .await?;
    rig.engine.end(id, End::Exited(0));
    ensure!(worker.ends().await?.drained);
    ensure_ended(&rig.job(job).await?, JobState::Succeeded, None)?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_worker_that_is_told_to_stop_leaves_what_runs() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    worker.drain.cancel();
    let left = worker.stop().await?;
    ensure!(!left.drained && left.attempts == 1, "{left:?}");
    let _next = rig.worker("b")?;
    rig.engine.end(id, End::Exited(0));
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_worker_takes_over_nobody_elses_attempts() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let drains = rig.worker("a")?;
    let own = rig.enqueue("long").await?;
    let own = rig.running(own).await?;
    drains.drain.cancel();
    let mut other = rig.worker("b")?;
    let job = rig.enqueue("long").await?;
    rig.running(job).await?;
    other.kill();
    let beats = drains.faults.calls("store.heartbeat");
    rig.end_lease("b").await?;
    // It looks for orphans every two seconds, and its heartbeats are three apart.
    rig.eventually("two heartbeats later", || {
        drains.faults.calls("store.heartbeat") >= beats + 2
    })
    .await?;
    let worker = only(&rig.job(job).await?)?.worker.clone();
    ensure!(
        worker.as_deref().is_some_and(|worker| worker.starts_with("b/")),
        "{worker:?}"
    );
    rig.engine.end(own, End::Exited(0));
    ensure!(drains.ends().await?.drained);
    let _next = rig.worker("c")?;
    rig.engine.end(attempt(job, 1), End::Exited(0));
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_message_is_put_aside_with_its_reason() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    let odd = Message {
        body: Bytes::from_static(b"{\"job\": 1}"),
        attributes: [("by".to_owned(), "hand".to_owned())].into(),
    };
    // The store fails at first: it is given back, and comes again.
    worker
        .faults
        .fail("store.set_aside", Fault::Refuse(ErrorKind::Unavailable), 1);
    rig.queue.publish(&line(), vec![odd.clone()]).await?;
    let job = rig.enqueue("short").await?;
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    let aside = case::until("it is put aside", STATE, || async {
        let aside = rig.store.set_aside_list(None, 10).await?;
        Ok((!aside.is_empty()).then_some(aside))
    })
    .await?;
    let found = &aside[0].message;
    ensure!(
        aside.len() == 1 && found.body == odd.body && found.attributes == odd.attributes,
        "{aside:?}"
    );
    ensure!(
        found.source == line().to_string() && found.reason.contains("format"),
        "{found:?}"
    );
    case::until("the line is empty", STATE, || async {
        let depth = rig.queue.depth(&line()).await?;
        Ok((depth.waiting == 0 && depth.unacknowledged == 0).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_later_release_is_left_in_its_line() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    rig.queue
        .publish(&line(), vec![message(b"\x02what a later release writes")])
        .await?;
    for _ in 0..20 {
        let job = rig.enqueue("short").await?;
        ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    }
    worker.stop().await?;
    ensure!(rig.store.set_aside_list(None, 10).await?.is_empty());
    let depth = rig.queue.depth(&line()).await?;
    ensure!(depth.waiting == 1, "{depth:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_release_left_behind_is_let_go_after_a_while_and_keeps_no_job_from_running() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let left = |n| Message {
        body: Bytes::from(vec![Format::OWN.number() + 1, n]),
        ..Message::default()
    };
    rig.queue.publish(&line(), (0..200).map(left).collect()).await?;
    let _worker = rig.worker_with("a", |config, _| config.newer_patience = Duration::from_secs(2))?;
    for _ in 0..3 {
        let job = rig.enqueue("short").await?;
        ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    }
    case::until("the line is empty", 2 * STATE, || async {
        let depth = rig.queue.depth(&line()).await?;
        Ok((depth.waiting == 0 && depth.unacknowledged == 0).then_some(()))
    })
    .await?;
    ensure!(rig.store.set_aside_list(None, 10).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_one_jobs_handling_touches_no_other() -> Result<()> {
    for call in ["engine.prepare", "logs.append", "logs.seal"] {
        let rig = Rig::new(&[("long", runs(&["print:whole"]))]).await?;
        let worker = rig.worker("a")?;
        let other = rig.enqueue("long").await?;
        let other_id = rig.running(other).await?;
        worker.faults.fail(call, Fault::Panic, 1);
        let job = rig.enqueue("long").await?;
        rig.until(job, call, |detail| {
            let last = detail.attempts.last();
            last.is_some_and(|last| last.state == AttemptState::Running)
        })
        .await?;
        rig.engine.end_all(End::Exited(0));
        ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
        let detail = rig.finalised(other).await?;
        ensure_ended(&detail, JobState::Succeeded, None)?;
        ensure!(only(&detail)?.id == other_id, "{call}: another one's attempt was lost");
        rig.nothing_was_started_twice_or_left().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_panics_begins_again() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let _worker = rig.worker_with("a", |_, faults| {
        for call in [
            "store.lines",
            "store.paused",
            "store.heartbeat",
            "store.adopt",
            "store.claim",
            "store.register",
        ] {
            faults.fail(call, Fault::Panic, 1);
        }
    })?;
    let job = rig.enqueue("short").await?;
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    Ok(())
}

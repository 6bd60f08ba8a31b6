//! Ends, what follows from them, and what is kept of them (PROTOCOL X4, X6, X7).

mod support;

use std::time::Duration;

use anyhow::{Result, ensure};
use robata_core::{
    AttemptState, ErrorKind, JobState, Reason,
    attempt::LogState,
    executor::{Stream, ThingState},
    finish::{End, NeverRan},
};
use robata_testkit::engine::{Fault, Moment};
use support::{Rig, attempt, attempts, ensure_ended, ensure_whole, only, runs};

#[tokio::test(flavor = "multi_thread")]
async fn every_end_is_explained() -> Result<()> {
    let mut limited = runs(&[]);
    limited.timeout = Some(Duration::from_millis(200));
    let rig = Rig::new(&[
        ("code", runs(&["exit:3"])),
        ("signal", runs(&["signal:11"])),
        ("memory", runs(&["oom"])),
        ("time", limited),
    ])
    .await?;
    let _worker = rig.worker("a")?;
    for (name, reason, state) in [
        ("code", Reason::ExitCode, AttemptState::Failed),
        ("signal", Reason::Signal, AttemptState::Failed),
        ("memory", Reason::OutOfMemory, AttemptState::Failed),
        ("time", Reason::TimedOut, AttemptState::TimedOut),
    ] {
        let job = rig.enqueue(name).await?;
        let detail = rig.finalised(job).await?;
        ensure_ended(&detail, JobState::Failed, Some(reason))?;
        let last = only(&detail)?;
        ensure!(last.state == state && last.counted == Some(true), "{last:#?}");
        ensure!(last.message.as_deref().unwrap_or_default().contains("scripted engine"));
    }
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_retried_as_often_as_it_has_attempts() -> Result<()> {
    let mut definition = runs(&["exit:1"]);
    definition.retry = attempts(3);
    let mut refused = runs(&["exit:2"]);
    refused.retry = attempts(3);
    refused.retry.not_on_exit_codes = vec![2];
    let rig = Rig::new(&[("bad", definition), ("refused", refused)]).await?;
    let _worker = rig.worker("a")?;
    let job = rig.enqueue("bad").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::ExitCode))?;
    ensure!(detail.attempts.len() == 3 && detail.attempts.iter().all(|attempt| attempt.counted == Some(true)));
    for pair in detail.attempts.windows(2) {
        let waited = pair[1].created_at.since(pair[0].finished_at.expect("it ended"));
        ensure!(waited >= Duration::from_millis(19), "backed off only {waited:?}");
    }
    let job = rig.enqueue("refused").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::ExitCode))?;
    only(&detail)?;
    // By hand it goes round once more.
    ensure!(rig.retry(job).await?.changed);
    let detail = rig
        .until(job, "a second attempt ends", |detail| {
            detail.job.state.is_ended() && detail.attempts.len() == 2
        })
        .await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::ExitCode))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_store_that_hangs_does_not_delay_the_recorded_end() -> Result<()> {
    let rig = Rig::new(&[("chatty", runs(&["print:whole", "exit:0"]))]).await?;
    let worker = rig.worker_with("a", |config, _| config.default_slots = 1)?;
    let logs = [
        worker.faults.hold("logs.append", Moment::Begin),
        worker.faults.hold("logs.seal", Moment::Begin),
    ];
    let job = rig.enqueue("chatty").await?;
    let detail = rig.ended(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    logs[0].holds(1).await;
    ensure!(!only(&rig.job(job).await?)?.finalised);
    // Nor does it keep the slot.
    let next = rig.enqueue("chatty").await?;
    rig.ended(next).await?;
    ensure!(
        rig.engine.things().len() == 2,
        "what is not read yet stays in the engine"
    );
    logs[0].open();
    logs[1].open();
    for job in [job, next] {
        let detail = rig.finalised(job).await?;
        ensure_whole(only(&detail)?)?;
        ensure!(rig.printed(attempt(job, 1), Stream::Stdout).await? == "whole");
    }
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_kept_is_marked_incomplete_with_the_reason() -> Result<()> {
    let rig = Rig::new(&[("chatty", runs(&["print:whole", "exit:0"]))]).await?;
    let worker = rig.worker_with("a", |config, _| config.logs_patience = Duration::from_millis(700))?;
    worker
        .faults
        .fail("logs.append", Fault::Refuse(ErrorKind::Internal), usize::MAX);
    let job = rig.enqueue("chatty").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    let log = &only(&detail)?.log;
    ensure!(log.state == LogState::Incomplete && log.reason.is_some(), "{log:?}");
    // And one whose log store hangs at the seal.
    let _seal = worker.faults.hold("logs.seal", Moment::Begin);
    let job = rig.enqueue("chatty").await?;
    let detail = rig.finalised(job).await?;
    let log = &only(&detail)?.log;
    ensure!(log.state == LogState::Incomplete && log.reason.is_some(), "{log:?}");
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_store_that_fails_for_a_while_loses_nothing() -> Result<()> {
    let rig = Rig::new(&[("chatty", runs(&["print:one ", "eprint:err", "print:two", "exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    worker
        .faults
        .fail("logs.append", Fault::Refuse(ErrorKind::Unavailable), 2);
    worker.faults.fail("logs.append", Fault::LoseAnswer, 2);
    worker.faults.fail("logs.seal", Fault::LoseAnswer, 1);
    let job = rig.enqueue("chatty").await?;
    let detail = rig.finalised(job).await?;
    ensure_whole(only(&detail)?)?;
    ensure!(only(&detail)?.log.bytes == 10, "{:?}", only(&detail)?.log);
    ensure!(rig.printed(attempt(job, 1), Stream::Stdout).await? == "one two");
    ensure!(rig.printed(attempt(job, 1), Stream::Stderr).await? == "err");
    Ok(())
}

/// Kills a worker at one moment between the recorded end and the last step.
async fn killed_at(call: &'static str, moment: Moment) -> Result<()> {
    let rig = Rig::new(&[("chatty", runs(&["print:whole", "exit:4"]))]).await?;
    let mut first = rig.worker("a")?;
    let gate = first.faults.hold(call, moment);
    let job = rig.enqueue("chatty").await?;
    gate.holds(1).await;
    first.kill();
    rig.let_leases_expire().await?;
    let _next = rig.worker("b")?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::ExitCode))?;
    let last = only(&detail)?;
    ensure!(last.exit_code == Some(4), "{call} {moment:?}: {last:#?}");
    ensure!(
        last.log.state == LogState::Complete,
        "{call} {moment:?}: {:?}",
        last.log
    );
    ensure!(
        rig.printed(last.id, Stream::Stdout).await? == "whole",
        "{call} {moment:?}"
    );
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_end_is_recorded_the_next_worker_records_it() -> Result<()> {
    killed_at("record.ended", Moment::Begin).await?;
    killed_at("logs.append", Moment::End).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_end_and_finalised_the_next_worker_finalises() -> Result<()> {
    killed_at("record.ended", Moment::End).await?;
    killed_at("logs.seal", Moment::Begin).await?;
    killed_at("logs.seal", Moment::End).await?;
    killed_at("engine.remove", Moment::Begin).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_its_thing_was_removed_a_sealed_log_stays_whole() -> Result<()> {
    killed_at("engine.remove", Moment::End).await?;
    killed_at("record.finalised", Moment::Begin).await?;
    killed_at("record.finalised", Moment::End).await
}

#[tokio::test(flavor = "multi_thread")]
async fn output_goes_on_where_the_worker_before_left_off() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&["print:one "]))]).await?;
    let mut first = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    rig.eventually("a chunk is kept", || first.faults.calls("logs.append") > 0)
        .await?;
    first.kill();
    rig.engine.print(id, Stream::Stdout, "two ");
    rig.end_lease("a").await?;
    let _next = rig.worker("b")?;
    rig.engine.print(id, Stream::Stderr, "oh");
    rig.engine.print(id, Stream::Stdout, "three");
    rig.engine.end(id, End::Exited(0));
    let detail = rig.finalised(job).await?;
    ensure_whole(only(&detail)?)?;
    ensure!(rig.printed(id, Stream::Stdout).await? == "one two three");
    ensure!(rig.printed(id, Stream::Stderr).await? == "oh");
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_vanishes_is_lost_and_the_platform_pays() -> Result<()> {
    // One attempt of its own, and that one is not used up (FAULTS B12).
    let mut definition = runs(&[]);
    definition.retry.max_attempts = 1;
    let rig = Rig::new(&[("long", definition)]).await?;
    let _worker = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let first = rig.running(job).await?;
    rig.engine.vanish(first);
    rig.until(job, "a second attempt is made", |detail| detail.attempts.len() == 2)
        .await?;
    let second = rig.running(job).await?;
    ensure!(second.number == 2);
    rig.engine.end(second, End::Exited(0));
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    ensure!(detail.attempts[0].state == AttemptState::Lost && detail.attempts[0].counted == Some(false));
    ensure!(detail.attempts[0].log.state == LogState::Incomplete);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_attempts_are_always_lost_ends() -> Result<()> {
    let mut definition = runs(&[]);
    definition.retry.platform = 2;
    let rig = Rig::new(&[("poison", definition)]).await?;
    let _worker = rig.worker("a")?;
    let job = rig.enqueue("poison").await?;
    for number in 1..=3 {
        rig.until(job, "the next attempt runs", |detail| {
            let last = detail.attempts.last();
            last.is_some_and(|last| last.id.number == number && last.state == AttemptState::Running)
        })
        .await?;
        ensure!(rig.engine.vanish(attempt(job, number)));
    }
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::Lost))?;
    ensure!(detail.attempts.len() == 3 && detail.attempts.iter().all(|attempt| attempt.counted == Some(false)));
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_loses_answers_changes_nothing() -> Result<()> {
    for call in ["record.prepared", "record.started", "record.ended", "record.finalised"] {
        let rig = Rig::new(&[("long", runs(&["print:whole"]))]).await?;
        let worker = rig.worker("a")?;
        worker.faults.fail(call, Fault::LoseAnswer, 1);
        worker.faults.fail(call, Fault::Refuse(ErrorKind::Unavailable), 1);
        let job = rig.enqueue("long").await?;
        let first = rig.running(job).await?;
        rig.engine.end(first, End::Exited(0));
        let detail = rig.finalised(job).await?;
        ensure_ended(&detail, JobState::Succeeded, None)?;
        ensure_whole(only(&detail)?)?;
        rig.nothing_was_started_twice_or_left().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_limit_is_kept_though_the_store_does_not_answer() -> Result<()> {
    let mut definition = runs(&[]);
    definition.timeout = Some(Duration::from_millis(500));
    let rig = Rig::new(&[("long", definition)]).await?;
    let worker = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    rig.running(job).await?;
    let store = worker.faults.hold("record.stopping", Moment::Begin);
    store.holds(1).await;
    rig.eventually("it is stopped all the same", || rig.engine.running() == 0)
        .await?;
    store.open();
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::TimedOut))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_cut_at_its_time_limit_is_timed_out_however_well_it_ends() -> Result<()> {
    let mut definition = runs(&["on-term:0"]);
    definition.timeout = Some(Duration::from_millis(500));
    let rig = Rig::new(&[("long", definition)]).await?;
    let worker = rig.worker("a")?;
    worker
        .faults
        .fail("record.stopping", Fault::Refuse(ErrorKind::Unavailable), usize::MAX);
    let job = rig.enqueue("long").await?;
    rig.running(job).await?;
    rig.eventually("it is stopped though that cannot be recorded", || {
        rig.engine.running() == 0
    })
    .await?;
    worker.faults.heal("record.stopping");
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::TimedOut))?;
    ensure!(only(&detail)?.state == AttemptState::TimedOut);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_running_ends_though_its_engine_says_that_it_never_ran() -> Result<()> {
    let mut definition = runs(&[]);
    definition.retry.platform = 0;
    let rig = Rig::new(&[("long", definition)]).await?;
    let _worker = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    rig.engine.end(id, End::NeverRan(NeverRan::StartRefused));
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::Platform))?;
    let last = only(&detail)?;
    ensure!(
        last.state == AttemptState::Failed && last.counted == Some(false),
        "{last:#?}"
    );
    ensure!(last.message.as_deref().unwrap_or_default().contains("scripted engine"));
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_thing_that_cannot_be_looked_at_blinds_nobody_and_keeps_its_time_limit() -> Result<()> {
    let mut limited = runs(&[]);
    limited.timeout = Some(Duration::from_secs(2));
    let rig = Rig::new(&[("long", runs(&[])), ("limited", limited)]).await?;
    let mut first = rig.worker_with("a", |config, _| config.default_slots = 12)?;
    let bad = rig.enqueue("limited").await?;
    let bad_id = rig.running(bad).await?;
    rig.engine.set_unseen(bad_id, true);
    let mut jobs = Vec::new();
    for _ in 0..10 {
        jobs.push(rig.enqueue("long").await?);
    }
    for job in &jobs {
        rig.running(*job).await?;
    }
    for job in &jobs[..5] {
        rig.engine.end(attempt(*job, 1), End::Exited(0));
        ensure_ended(&rig.finalised(*job).await?, JobState::Succeeded, None)?;
    }
    // Whoever adopts it cannot look at it either, and keeps its limit by the start that is recorded.
    first.kill();
    rig.end_lease("a").await?;
    let _next = rig.worker("b")?;
    rig.eventually("it is stopped", || {
        !matches!(rig.engine.state(bad_id), ThingState::Running { .. })
    })
    .await?;
    for job in &jobs[5..] {
        rig.engine.end(attempt(*job, 1), End::Exited(0));
        ensure_ended(&rig.finalised(*job).await?, JobState::Succeeded, None)?;
    }
    rig.engine.set_unseen(bad_id, false);
    ensure_ended(&rig.finalised(bad).await?, JobState::Failed, Some(Reason::TimedOut))?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_never_be_looked_at_has_a_time_limit_too() -> Result<()> {
    let mut limited = runs(&[]);
    limited.timeout = Some(Duration::from_millis(500));
    let rig = Rig::new(&[("limited", limited)]).await?;
    let worker = rig.worker("a")?;
    let start = worker.faults.hold("engine.start", Moment::Begin);
    let job = rig.enqueue("limited").await?;
    start.holds(1).await;
    rig.engine.set_unseen(attempt(job, 1), true);
    start.open();
    rig.eventually("it is stopped", || {
        matches!(rig.engine.state(attempt(job, 1)), ThingState::Ended(_))
    })
    .await?;
    rig.engine.set_unseen(attempt(job, 1), false);
    ensure_ended(&rig.finalised(job).await?, JobState::Failed, Some(Reason::TimedOut))?;
    Ok(())
}

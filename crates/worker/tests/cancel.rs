//! Cancel at every moment of a job's way (PROTOCOL X5): it ends once, as it must, with nothing left that runs.

mod support;

use std::time::Duration;

use anyhow::{Result, ensure};
use robata_core::{AttemptState, JobState, Reason, WaitingReason, finish::End};
use robata_testkit::engine::Moment;
use support::{Rig, attempt, attempts, ensure_ended, only, runs};

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_while_queued_it_never_runs() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let job = rig.enqueue("short").await?;
    ensure!(rig.cancel(job).await?.changed);
    ensure!(!rig.cancel(job).await?.changed, "again it changes nothing");
    ensure_ended(&rig.job(job).await?, JobState::Cancelled, Some(Reason::Cancelled))?;
    let _worker = rig.worker("a")?;
    let other = rig.enqueue("short").await?;
    rig.finalised(other).await?;
    ensure!(rig.engine.starts(attempt(job, 1)) == 0 && rig.job(job).await?.attempts.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_while_its_image_is_pulled_it_never_runs() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    let pull = worker.faults.hold("engine.prepare", Moment::Begin);
    let job = rig.enqueue("short").await?;
    let detail = rig.waits(job, WaitingReason::Pulling).await?;
    let words = detail.job.waiting.and_then(|waiting| waiting.message);
    ensure!(words.as_deref() == Some("pulling the image"), "{words:?}");
    rig.cancel(job).await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Cancelled, Some(Reason::Cancelled))?;
    ensure!(only(&detail)?.state == AttemptState::Cancelled);
    pull.open();
    ensure!(rig.engine.starts(attempt(job, 1)) == 0);
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_between_prepared_and_started_it_never_runs() -> Result<()> {
    for (call, moment) in [("engine.prepare", Moment::End), ("record.prepared", Moment::Begin)] {
        let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
        let worker = rig.worker("a")?;
        let gate = worker.faults.hold(call, moment);
        // What tells it in good time is held, too: the answer to its own write must do.
        let _hints = worker.faults.hold("store.job", Moment::Begin);
        let job = rig.enqueue("short").await?;
        gate.holds(1).await;
        rig.cancel(job).await?;
        gate.open();
        let detail = rig.finalised(job).await?;
        ensure_ended(&detail, JobState::Cancelled, Some(Reason::Cancelled))?;
        ensure!(rig.engine.starts(attempt(job, 1)) == 0, "{call} {moment:?}");
        only(&detail)?;
        rig.nothing_was_started_twice_or_left().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_while_its_start_is_sent_it_is_stopped() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.worker("a")?;
    let start = worker.faults.hold("engine.start", Moment::Begin);
    let job = rig.enqueue("long").await?;
    start.holds(1).await;
    rig.cancel(job).await?;
    start.open();
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Cancelled, Some(Reason::Cancelled))?;
    ensure!(only(&detail)?.state == AttemptState::Cancelled);
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_while_it_runs_it_is_stopped_and_not_retried() -> Result<()> {
    let mut definition = runs(&["on-term:1"]);
    definition.retry = attempts(5);
    let rig = Rig::new(&[("long", definition)]).await?;
    let _worker = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    rig.running(job).await?;
    rig.cancel(job).await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Cancelled, Some(Reason::Cancelled))?;
    ensure!(only(&detail)?.exit_code == Some(1));
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_not_confirmed_is_shown_as_stopping() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.worker("a")?;
    let stop = worker.faults.hold("engine.stop", Moment::Begin);
    let job = rig.enqueue("long").await?;
    rig.running(job).await?;
    rig.cancel(job).await?;
    stop.holds(1).await;
    let detail = rig.job(job).await?;
    ensure!(detail.job.state == JobState::Running && only(&detail)?.state == AttemptState::Stopping);
    stop.open();
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Cancelled, Some(Reason::Cancelled))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_while_it_is_stopped_for_time_the_job_is_cancelled() -> Result<()> {
    let mut definition = runs(&["ignore-term"]);
    definition.timeout = Some(Duration::from_millis(300));
    definition.retry = attempts(5);
    let rig = Rig::new(&[("long", definition)]).await?;
    let _worker = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    rig.until(job, "it is stopped for time", |detail| {
        detail
            .attempts
            .last()
            .is_some_and(|last| last.state == AttemptState::Stopping)
    })
    .await?;
    rig.cancel(job).await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Cancelled, Some(Reason::Cancelled))?;
    ensure!(only(&detail)?.state == AttemptState::TimedOut && only(&detail)?.signal == Some(9));
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_0_before_the_stop_was_sent_is_succeeded() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.worker("a")?;
    let stopping = worker.faults.hold("record.stopping", Moment::End);
    let job = rig.enqueue("long").await?;
    let first = rig.running(job).await?;
    rig.cancel(job).await?;
    stopping.holds(1).await;
    rig.engine.end(first, End::Exited(0));
    stopping.open();
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    ensure!(worker.faults.calls("engine.stop") == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_0_after_the_stop_was_sent_is_cancelled() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&["on-term:0"]))]).await?;
    let _worker = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    rig.running(job).await?;
    rig.cancel(job).await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Cancelled, Some(Reason::Cancelled))?;
    ensure!(only(&detail)?.exit_code == Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_commits_before_the_end_stops_the_retry() -> Result<()> {
    let mut definition = runs(&[]);
    definition.retry = attempts(5);
    let rig = Rig::new(&[("long", definition)]).await?;
    let worker = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let first = rig.running(job).await?;
    let ended = worker.faults.hold("record.ended", Moment::Begin);
    rig.engine.end(first, End::Exited(1));
    // The worker has read nothing of a cancel and is about to write an end that would be retried.
    ended.holds(1).await;
    rig.cancel(job).await?;
    ended.open();
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Cancelled, Some(Reason::Cancelled))?;
    only(&detail)?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_while_backing_off_it_never_runs_again() -> Result<()> {
    let mut definition = runs(&["exit:1"]);
    definition.retry = attempts(5);
    definition.retry.base = Duration::from_secs(600);
    definition.retry.max = Duration::from_secs(600);
    let rig = Rig::new(&[("bad", definition)]).await?;
    let _worker = rig.worker("a")?;
    let job = rig.enqueue("bad").await?;
    let detail = rig.waits(job, WaitingReason::Backoff).await?;
    ensure!(detail.job.state == JobState::Scheduled);
    ensure!(rig.cancel(job).await?.changed);
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Cancelled, Some(Reason::Cancelled))?;
    only(&detail)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_whose_attempt_is_lost_is_failed() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.worker("a")?;
    let stop = worker.faults.hold("engine.stop", Moment::Begin);
    let job = rig.enqueue("long").await?;
    let first = rig.running(job).await?;
    rig.cancel(job).await?;
    stop.holds(1).await;
    rig.engine.vanish(first);
    stop.open();
    let detail = rig.finalised(job).await?;
    // Whether it has no process left cannot be known: it must not be called cancelled.
    ensure_ended(&detail, JobState::Failed, Some(Reason::Lost))?;
    only(&detail)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_heard_though_its_hint_was_lost() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    rig.running(job).await?;
    // The next heartbeat tells it, too.
    let _hints = worker.faults.hold("store.job", Moment::Begin);
    rig.cancel(job).await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Cancelled, Some(Reason::Cancelled))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_was_decided_is_sent_by_the_next_worker() -> Result<()> {
    let mut definition = runs(&[]);
    definition.retry = attempts(3);
    let rig = Rig::new(&[("long", definition)]).await?;
    let mut first = rig.worker("a")?;
    let stop = first.faults.hold("engine.stop", Moment::Begin);
    let job = rig.enqueue("long").await?;
    rig.running(job).await?;
    rig.cancel(job).await?;
    stop.holds(1).await;
    first.kill();
    rig.end_lease("a").await?;
    let _next = rig.worker("b")?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Cancelled, Some(Reason::Cancelled))?;
    only(&detail)?;
    rig.nothing_was_started_twice_or_left().await
}

//! Starts that wait: slots, capacity, an engine that is away, and how long (PROTOCOL X2, X3, X4).

mod support;

use std::time::Duration;

use anyhow::{Result, ensure};
use robata_core::{AttemptState, ErrorKind, JobId, JobState, Reason, WaitingReason, executor::ThingState, finish::End};
use robata_testkit::{
    checker::Line,
    engine::{Fault, Moment},
};
use support::{Rig, attempt, ensure_ended, only, runs};

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_gives_its_slot_back_and_takes_one_again() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.worker_with("a", |config, _| {
        config.default_slots = 1;
        config.slot_patience = Duration::from_millis(200);
    })?;
    let pull = worker.faults.hold_first("engine.prepare", Moment::Begin, 1);
    let slow = rig.enqueue("long").await?;
    pull.holds(1).await;
    let quick = rig.enqueue("long").await?;
    // The one slot is free again, though the first start still waits.
    let running = rig.running(quick).await?;
    pull.open();
    rig.eventually("the slow one is prepared", || {
        rig.engine.state(attempt(slow, 1)) == ThingState::Prepared
    })
    .await?;
    rig.until(slow, "it is recorded", |detail| {
        detail.attempts.last().is_some_and(|last| last.handle.is_some())
    })
    .await?;
    // A slow pull that ends does not start beside what fills the slots.
    ensure!(rig.engine.starts(attempt(slow, 1)) == 0 && rig.engine.running() == 1);
    rig.engine.end(running, End::Exited(0));
    let second = rig.running(slow).await?;
    rig.engine.end(second, End::Exited(0));
    rig.finalised(slow).await?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_as_many_starts_wait_as_there_are_slots() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&["exit:0"]))]).await?;
    let worker = rig.worker_with("a", |config, _| {
        config.default_slots = 1;
        config.slot_patience = Duration::from_millis(200);
    })?;
    let pull = worker.faults.hold("engine.prepare", Moment::Begin);
    let mut jobs: Vec<JobId> = Vec::new();
    for _ in 0..4 {
        jobs.push(rig.enqueue("long").await?);
    }
    // The first one waits without a slot, the second one keeps its slot: it says so only after a second.
    pull.holds(2).await;
    let mut pulling = 0;
    for _ in 0..2 {
        for job in &jobs {
            let detail = rig.job(*job).await?;
            if detail.job.state == JobState::Running {
                rig.waits(*job, WaitingReason::Pulling).await?;
                pulling += 1;
            }
        }
    }
    ensure!(pulling == 4, "two jobs, seen twice: {pulling}");
    ensure!(pull.reached() == 2, "no third start may wait");
    // All of them come through: nobody waits for a slot that a waiting one keeps.
    pull.open();
    for job in jobs {
        ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    }
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_never_exceeded() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["after:20", "exit:0"]))]).await?;
    let _worker = rig.worker_with("a", |config, _| config.default_slots = 3)?;
    let mut jobs = Vec::new();
    for _ in 0..30 {
        jobs.push(rig.enqueue("short").await?);
    }
    for job in jobs {
        ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    }
    ensure!(most_at_once(&rig) <= 3, "{} at once", most_at_once(&rig));
    rig.nothing_was_started_twice_or_left().await
}

fn most_at_once(rig: &Rig) -> i32 {
    let mut now = 0_i32;
    let mut most = 0;
    for line in rig.engine.journal() {
        match line {
            Line::Begin(..) => now += 1,
            Line::End(..) => now -= 1,
        }
        most = most.max(now);
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn max_running_holds_over_two_workers() -> Result<()> {
    let rig = Rig::with_queue(&[("short", runs(&["after:20", "exit:0"]))], Some(2)).await?;
    let _workers = [rig.worker("a")?, rig.worker("b")?];
    let mut jobs = Vec::new();
    for _ in 0..20 {
        jobs.push(rig.enqueue("short").await?);
    }
    for job in jobs {
        ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    }
    ensure!(most_at_once(&rig) <= 2, "{} at once", most_at_once(&rig));
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_capacity_and_an_engine_that_is_away_are_waiting_with_their_reason() -> Result<()> {
    for (kind, reason) in [
        (ErrorKind::NoCapacity, WaitingReason::NoCapacity),
        (ErrorKind::Unavailable, WaitingReason::EngineUnreachable),
    ] {
        let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
        let worker = rig.worker("a")?;
        worker.faults.fail("engine.prepare", Fault::Refuse(kind), usize::MAX);
        let job = rig.enqueue("short").await?;
        let detail = rig.waits(job, reason).await?;
        ensure!(detail.job.state == JobState::Running && only(&detail)?.state == AttemptState::Starting);
        let words = detail.job.waiting.and_then(|waiting| waiting.message);
        ensure!(
            words.is_some_and(|words| words.contains("refused")),
            "the engine's own words"
        );
        worker.faults.heal("engine.prepare");
        let detail = rig.finalised(job).await?;
        // Waiting is no fault: the same attempt goes on.
        ensure_ended(&detail, JobState::Succeeded, None)?;
        only(&detail)?;
        rig.nothing_was_started_twice_or_left().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_started_within_its_time_fails_with_what_it_waited_for() -> Result<()> {
    for (kind, reason) in [
        (ErrorKind::NoCapacity, Reason::NoCapacity),
        (ErrorKind::Unavailable, Reason::Platform),
    ] {
        let mut definition = runs(&["exit:0"]);
        definition.start_within = Duration::from_millis(1_500);
        let rig = Rig::new(&[("short", definition)]).await?;
        let worker = rig.worker("a")?;
        worker.faults.fail("engine.prepare", Fault::Refuse(kind), usize::MAX);
        let job = rig.enqueue("short").await?;
        let detail = rig.finalised(job).await?;
        ensure_ended(&detail, JobState::Failed, Some(reason))?;
        ensure!(only(&detail)?.state == AttemptState::Error);
        let words = detail.job.message.unwrap_or_default();
        ensure!(words.contains("start_within") && words.contains("refused"), "{words}");
        ensure!(rig.engine.starts(attempt(job, 1)) == 0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_does_not_outlast_start_within() -> Result<()> {
    let mut definition = runs(&["exit:0"]);
    definition.start_within = Duration::from_millis(500);
    let rig = Rig::new(&[("short", definition)]).await?;
    let worker = rig.worker("a")?;
    let _prepare = worker.faults.hold("engine.prepare", Moment::Begin);
    let _observe = worker.faults.hold("engine.observe", Moment::Begin);
    let job = rig.enqueue("short").await?;
    let detail = rig.ended(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::Platform))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_expired_is_never_started() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let soon = Some(Duration::from_millis(300));
    // Before anybody takes it.
    let job = rig.enqueue_with("short", |job| job.expires_in = soon).await?;
    rig.clock.advance(Duration::from_secs(1));
    let worker = rig.worker("a")?;
    let detail = rig.ended(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::Expired))?;
    ensure!(detail.attempts.is_empty());
    // While it is being prepared.
    let pull = worker.faults.hold("engine.prepare", Moment::Begin);
    let job = rig.enqueue_with("short", |job| job.expires_in = soon).await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::Expired))?;
    pull.open();
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_that_was_lost_goes_out_again() -> Result<()> {
    use robata_core::queue::{Queue, Receive};
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let job = rig.enqueue("short").await?;
    // A receiver takes it and goes away with it.
    let request = Receive {
        lines: vec![(support::line(), 1)],
        max: 1,
        wait: Duration::from_secs(10),
    };
    let taken = rig.queue.receive(request).await?;
    ensure!(taken.len() == 1);
    let _worker = rig.worker("a")?;
    rig.until(job, "it is told as out and unclaimed", |detail| {
        detail.job.state == JobState::Queued
    })
    .await?;
    rig.clock.advance(Duration::from_secs(61));
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_ours_at_prepare_is_waited_out_and_never_charged_to_the_job() -> Result<()> {
    for kind in [ErrorKind::Internal, ErrorKind::NotFound, ErrorKind::Conflict] {
        let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
        let worker = rig.worker("a")?;
        worker.faults.fail("engine.prepare", Fault::Refuse(kind), 2);
        let job = rig.enqueue("short").await?;
        rig.waits(job, WaitingReason::EngineUnreachable).await?;
        let detail = rig.finalised(job).await?;
        ensure_ended(&detail, JobState::Succeeded, None)?;
        only(&detail)?;
    }
    // But what is described wrongly is told at once.
    for kind in [ErrorKind::StartRefused, ErrorKind::Invalid, ErrorKind::Unsupported] {
        let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
        let worker = rig.worker("a")?;
        worker.faults.fail("engine.prepare", Fault::Refuse(kind), 1);
        let job = rig.enqueue("short").await?;
        ensure_ended(&rig.finalised(job).await?, JobState::Failed, Some(Reason::StartError))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_ours_at_prepare_is_bounded_by_start_within() -> Result<()> {
    let mut definition = runs(&["exit:0"]);
    definition.start_within = Duration::from_secs(1);
    let rig = Rig::new(&[("short", definition)]).await?;
    let worker = rig.worker("a")?;
    worker
        .faults
        .fail("engine.prepare", Fault::Refuse(ErrorKind::Internal), usize::MAX);
    let job = rig.enqueue("short").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::Platform))?;
    ensure!(only(&detail)?.counted == Some(false));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duration_that_no_clock_can_count_ends_nothing() -> Result<()> {
    let mut definition = runs(&["after:50", "exit:0"]);
    // Of an earlier release: documents are held to ten years.
    let long = Duration::from_secs(17_280_000_000_000_000_000);
    definition.timeout = Some(long);
    definition.start_within = long;
    let rig = Rig::new(&[("short", definition)]).await?;
    let _worker = rig.worker("a")?;
    let job = rig.enqueue("short").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    only(&detail)?;
    Ok(())
}

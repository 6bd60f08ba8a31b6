//! The fence (PROTOCOL H6): a worker that cannot renew its lease stops what it runs; one that can does not.

mod support;

use std::time::Duration;

use anyhow::{Result, ensure};
use robata_core::{AttemptState, JobState, Reason, executor::Stream, finish::End};
use robata_testkit::engine::Moment;
use support::{Rig, attempt, ensure_ended, ensure_whole, executor, runs};

/// So long after the lease's end, here.
const SOON: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_cannot_renew_is_stopped_before_anybody_calls_it_lost_and_the_platform_pays() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&["print:begun"]))]).await?;
    let mut silence = None;
    let worker = rig.worker_with("a", |config, faults| {
        config.fence = [(executor(), SOON)].into();
        silence = Some(faults.hold("store.heartbeat", Moment::Begin));
    })?;
    let silence = silence.expect("set above");
    let job = rig.enqueue("long").await?;
    let first = rig.running(job).await?;
    // Its lease, by its own clock, ends 12 s after its registration.
    rig.eventually("it is stopped", || rig.engine.running() == 0).await?;
    ensure!(worker.faults.calls("engine.stop") == 1);
    // Whoever has no lease records nothing.
    ensure!(worker.faults.calls("record.ended") == 0);
    let state = rig.job(job).await?.attempts[0].state;
    ensure!(state == AttemptState::Running, "{state}");
    silence.open();
    let detail = rig
        .until(job, "a second attempt runs", |detail| {
            detail.attempts.len() == 2 && detail.attempts[1].started_at.is_some()
        })
        .await?;
    let one = &detail.attempts[0];
    ensure!(
        (one.state, one.reason, one.counted) == (AttemptState::Failed, Some(Reason::Platform), Some(false)),
        "{one:?}"
    );
    rig.engine.end(attempt(job, 2), End::Exited(0));
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    ensure_whole(&detail.attempts[0])?;
    ensure!(rig.printed(first, Stream::Stdout).await? == "begun");
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_renews_its_lease_stops_nothing() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.worker_with("a", |config, _| {
        config.fence = [(executor(), Duration::ZERO)].into();
    })?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    let beats = worker.faults.calls("store.heartbeat");
    rig.eventually("its lease would have ended without them", || {
        worker.faults.calls("store.heartbeat") >= beats + 5
    })
    .await?;
    ensure!(rig.engine.running() == 1);
    rig.engine.end(id, End::Exited(0));
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    ensure!(worker.faults.calls("engine.stop") == 0);
    rig.nothing_was_started_twice_or_left().await
}

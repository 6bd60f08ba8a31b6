//! Clean-up of a realm (PROTOCOL C1): what is ours and over goes, what may be needed stays.

mod support;

use std::time::Duration;

use anyhow::{Result, ensure};
use robata_core::{ErrorKind, Format, JobId, executor::label, finish::End, store::Store};
use robata_testkit::engine::{Fault, Moment, ScriptedEngine};
use support::{Rig, attempt, runs};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_finalised_or_unknown_for_long_is_removed() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"])), ("long", runs(&[]))]).await?;
    let first = rig.worker("a")?;
    let over = rig.enqueue("short").await?;
    rig.finalised(over).await?;
    let open = rig.enqueue("long").await?;
    let open = rig.running(open).await?;
    let installation = rig.store.installation();
    let of = |attempt| ScriptedEngine::labels(installation, attempt);
    let leftover = rig.engine.leave("leftover", &of(attempt(over, 1)), HOUR);
    let runs_on = rig.engine.leave_running("runs-on", &of(attempt(over, 1)), HOUR);
    let unknown = rig.engine.leave("unknown", &of(attempt(JobId::new(), 1)), HOUR);
    let old = rig.engine.leave("old", &of(attempt(JobId::new(), 1)), 25 * HOUR);
    let nameless = [(label::INSTALLATION, installation.to_string())];
    let nameless = rig.engine.leave("nameless", &nameless, HOUR);
    let foreign = rig
        .engine
        .leave("foreign", &[("somebody", "else".to_owned())], 1000 * HOUR);
    let _next = rig.worker("b")?;
    rig.eventually("what is over is gone", || {
        let things = rig.engine.things();
        ![&leftover, &runs_on, &old].iter().any(|gone| things.contains(gone))
    })
    .await?;
    let things = rig.engine.things();
    for kept in [&unknown, &nameless, &foreign] {
        ensure!(things.contains(kept), "{kept} is not there any more");
    }
    ensure!(rig.engine.thing(open).is_some() && rig.engine.running() == 1);
    rig.engine.end(open, End::Exited(0));
    rig.finalised(open.job).await?;
    first.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_release_made_is_left_to_it() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let first = rig.worker("a")?;
    let over = rig.enqueue("short").await?;
    rig.finalised(over).await?;
    first.stop().await?;
    let of = |attempt, format: Format| {
        let mut labels = ScriptedEngine::labels(rig.store.installation(), attempt).to_vec();
        labels.retain(|(name, _)| *name != label::FORMAT);
        labels.push((label::FORMAT, format.to_string()));
        labels
    };
    let newer = Format::new(Format::OWN.number() + 1);
    let theirs = rig.engine.leave("theirs", &of(attempt(over, 1), newer), HOUR);
    let stray = rig
        .engine
        .leave("stray", &of(attempt(JobId::new(), 1), newer), 25 * HOUR);
    let ours = rig.engine.leave("ours", &of(attempt(over, 1), Format::OWN), HOUR);
    let second = rig.worker("b")?;
    rig.eventually("what it knows is gone", || !rig.engine.things().contains(&ours))
        .await?;
    second.stop().await?;
    let things = rig.engine.things();
    ensure!(things.contains(&theirs) && things.contains(&stray), "{things:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_while_the_store_cannot_answer() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let first = rig.worker("a")?;
    let over = rig.enqueue("short").await?;
    rig.finalised(over).await?;
    first.stop().await?;
    let labels = ScriptedEngine::labels(rig.store.installation(), attempt(over, 1));
    let leftover = rig.engine.leave("leftover", &labels, HOUR);
    let next = rig.worker_with("b", |_, faults| {
        faults.fail("store.known", Fault::Refuse(ErrorKind::Unavailable), usize::MAX);
    })?;
    rig.eventually("it has asked twice", || next.faults.calls("store.known") >= 2)
        .await?;
    ensure!(rig.engine.things() == [leftover]);
    next.faults.heal("store.known");
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ages_are_read_by_the_engines_own_clock() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let first = rig.worker("a")?;
    let over = rig.enqueue("short").await?;
    rig.finalised(over).await?;
    first.stop().await?;
    // To the worker's clock what was made an hour ago is two days old.
    rig.engine.set_clock_behind(48 * HOUR);
    let of = |attempt| ScriptedEngine::labels(rig.store.installation(), attempt);
    let young = rig.engine.leave("young", &of(attempt(JobId::new(), 1)), HOUR);
    let old = rig.engine.leave("old", &of(attempt(JobId::new(), 1)), 25 * HOUR);
    let leftover = rig.engine.leave("leftover", &of(attempt(over, 1)), HOUR);
    let next = rig.worker_with("b", |config, faults| {
        config.clean_every = Duration::from_millis(200);
        // Without the engine's clock nothing is concluded.
        faults.fail("engine.now", Fault::Refuse(ErrorKind::Unavailable), 3);
    })?;
    rig.eventually("what is over is gone", || {
        let things = rig.engine.things();
        !things.contains(&leftover) && !things.contains(&old)
    })
    .await?;
    let looks = next.faults.calls("engine.owned");
    rig.eventually("it has looked again", || next.faults.calls("engine.owned") >= looks + 2)
        .await?;
    ensure!(rig.engine.things() == [young]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_clean_up_that_is_soon_to_come() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    rig.eventually("it has cleaned once", || worker.faults.calls("store.known") > 0)
        .await?;
    let prepare = worker.faults.hold("engine.prepare", Moment::Begin);
    let job = rig.enqueue("short").await?;
    prepare.holds(1).await;
    // A prepare that is given up may have left something: the clean-up comes in three seconds.
    rig.cancel(job).await?;
    rig.finalised(job).await?;
    let began = std::time::Instant::now();
    worker.stop().await?;
    ensure!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_prepare_makes_after_its_worker_has_lost_the_lease_is_looked_for_soon() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    let over = rig.enqueue("short").await?;
    rig.finalised(over).await?;
    rig.eventually("it has cleaned once", || worker.faults.calls("store.known") > 0)
        .await?;
    let prepare = worker.faults.hold("engine.prepare", Moment::Begin);
    rig.enqueue("short").await?;
    prepare.holds(1).await;
    // As the engine would make it, of an attempt that is over by then; the next clean-up by the clock is minutes away.
    let labels = ScriptedEngine::labels(rig.store.installation(), attempt(over, 1));
    let late = rig.engine.leave("late", &labels, Duration::ZERO);
    rig.end_lease("a").await?;
    rig.eventually("it is gone", || !rig.engine.things().contains(&late))
        .await
}

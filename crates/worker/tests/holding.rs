//! Who holds an attempt: incarnations, epochs, adoption, the net below (PROTOCOL H1 to H5).

mod support;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use robata_core::{
    AttemptState, ErrorKind, JobState, Reason,
    executor::Stream,
    finish::End,
    store::{AttemptStore, ScheduleStore},
};
use robata_testkit::engine::{Fault, Moment};
use support::{Rig, attempt, ensure_ended, ensure_whole, only, runs};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_attempts_are_adopted_with_their_true_outcome() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&["print:begun "]))]).await?;
    let mut first = rig.worker("a")?;
    let (goes_on, ended, gone) = (
        rig.enqueue("long").await?,
        rig.enqueue("long").await?,
        rig.enqueue("long").await?,
    );
    for job in [goes_on, ended, gone] {
        rig.running(job).await?;
    }
    first.kill();
    // While nobody looks, one ends and one vanishes.
    rig.engine.print(attempt(ended, 1), Stream::Stdout, "done");
    rig.engine.end(attempt(ended, 1), End::Exited(7));
    rig.engine.vanish(attempt(gone, 1));
    rig.let_leases_expire().await?;
    let _next = rig.worker("b")?;
    let detail = rig.finalised(ended).await?;
    ensure!(only(&detail)?.exit_code == Some(7));
    ensure_whole(only(&detail)?)?;
    ensure!(rig.printed(attempt(ended, 1), Stream::Stdout).await? == "begun done");
    rig.until(gone, "it is lost", |detail| {
        detail.attempts[0].state == AttemptState::Lost
    })
    .await?;
    ensure!(only(&rig.job(goes_on).await?)?.state == AttemptState::Running);
    rig.engine.end(attempt(goes_on, 1), End::Exited(0));
    let detail = rig.finalised(goes_on).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    ensure_whole(only(&detail)?)?;
    ensure!(rig.engine.starts(attempt(goes_on, 1)) == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn adoption_is_not_limited_by_slots() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let mut first = rig.worker_with("a", |config, _| config.default_slots = 12)?;
    let mut jobs = Vec::new();
    for _ in 0..12 {
        jobs.push(rig.enqueue("long").await?);
    }
    for job in &jobs {
        rig.running(*job).await?;
    }
    first.kill();
    rig.end_lease("a").await?;
    let _next = rig.worker_with("b", |config, _| config.default_slots = 1)?;
    for job in &jobs {
        rig.until(*job, "the next worker holds it", |detail| {
            let worker = detail.attempts[0].worker.as_deref();
            worker.is_some_and(|worker| worker.starts_with("b/"))
        })
        .await?;
    }
    // It takes nothing new before there is room.
    let new = rig.enqueue("long").await?;
    rig.engine.end(attempt(jobs[0], 1), End::Exited(0));
    ensure_ended(&rig.finalised(jobs[0]).await?, JobState::Succeeded, None)?;
    ensure!(rig.job(new).await?.job.state == JobState::Queued);
    rig.engine.end_all(End::Exited(0));
    for job in jobs {
        ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    }
    let id = rig.running(new).await?;
    rig.engine.end(id, End::Exited(0));
    rig.finalised(new).await?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_slept_writes_nothing_and_goes_on_as_a_new_incarnation() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[])), ("short", runs(&["exit:0"]))]).await?;
    let (sleeper, silence) = rig.silent_worker("a")?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    let before = rig.store.workers().await?[0].incarnation;
    rig.end_lease("a").await?;
    let other = rig.worker("b")?;
    rig.until(job, "the other one holds it", |detail| {
        let worker = detail.attempts[0].worker.as_deref();
        worker.is_some_and(|worker| worker.starts_with("b/"))
    })
    .await?;
    // Both follow it now; only one may write how it ended.
    let late = other.faults.hold("record.ended", Moment::Begin);
    rig.engine.end(id, End::Exited(5));
    rig.eventually("the sleeper tries to write the end", || {
        sleeper.faults.calls("record.ended") > 0
    })
    .await?;
    late.holds(1).await;
    ensure!(rig.job(job).await?.attempts[0].state == AttemptState::Running);
    late.open();
    let detail = rig.finalised(job).await?;
    ensure!(only(&detail)?.exit_code == Some(5));
    // Waking, it is told, and goes on under another name.
    silence.open();
    rig.is_another_than(before, "a").await?;
    other.stop().await?;
    let next = rig.enqueue("short").await?;
    ensure_ended(&rig.finalised(next).await?, JobState::Succeeded, None)?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleepers_attempts_that_nobody_took_are_its_own_again() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let _sleeper = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    let before = rig.store.workers().await?[0].incarnation;
    rig.end_lease("a").await?;
    // The next heartbeat tells it that its lease is over.
    rig.is_another_than(before, "a").await?;
    rig.until(job, "its new incarnation holds it", |detail| {
        let worker = detail.attempts[0].worker.as_deref();
        worker.is_some_and(|worker| !worker.contains(&before.to_string()))
    })
    .await?;
    rig.cancel(job).await?;
    let detail = rig.finalised(job).await?;
    ensure!(detail.job.state == JobState::Cancelled);
    ensure!(rig.engine.starts(id) == 1);
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_was_lost_is_fetched_by_its_number() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    worker.faults.fail("store.claim", Fault::LoseAnswer, 1);
    worker
        .faults
        .fail("store.claimed", Fault::Refuse(ErrorKind::Unavailable), 2);
    let job = rig.enqueue("short").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    only(&detail)?;
    ensure!(worker.faults.calls("store.claimed") == 3);
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_failed_is_made_again() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    worker
        .faults
        .fail("store.claim", Fault::Refuse(ErrorKind::Unavailable), 2);
    let job = rig.enqueue("short").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    only(&detail)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adoption_whose_answer_was_lost_is_found_by_the_net_below() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let mut first = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    first.kill();
    rig.end_lease("a").await?;
    let next = rig.worker_with("b", |_, faults| {
        // What adopts before there is anything to adopt must not use up the fault.
        faults.fail("store.adopt", Fault::LoseAnswer, 1);
    })?;
    rig.eventually("two lists do not agree", || next.faults.calls("store.held") > 0)
        .await?;
    rig.engine.end(id, End::Exited(0));
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    only(&detail)?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_leaves_running_what_runs_and_the_next_worker_adopts_it() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&["print:whole"]))]).await?;
    let first = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    ensure!(first.stop().await?.attempts == 1);
    ensure!(rig.engine.running() == 1);
    // Its lease was given back: nobody has to wait for its end.
    let _next = rig.worker("b")?;
    rig.until(job, "the next one holds it", |detail| {
        let worker = detail.attempts[0].worker.as_deref();
        worker.is_some_and(|worker| worker.starts_with("b/"))
    })
    .await?;
    rig.engine.end(id, End::Exited(0));
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    ensure_whole(only(&detail)?)?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_what_is_half_done_come_to_rest() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["print:whole", "exit:0"]))]).await?;
    let first = rig.worker("a")?;
    let seal = first.faults.hold("logs.seal", Moment::Begin);
    let job = rig.enqueue("short").await?;
    seal.holds(1).await;
    first.tell_to_stop();
    seal.open();
    ensure!(first.stop().await?.attempts == 0);
    ensure_whole(only(&rig.finalised(job).await?)?)?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_bounded_whatever_hangs() -> Result<()> {
    for call in [
        "store.claim",
        "engine.prepare",
        "engine.observe",
        "record.prepared",
        "logs.seal",
        "store.release",
        "store.heartbeat",
        "store.register",
    ] {
        let rig = Rig::new(&[("short", runs(&["print:x", "exit:0"]))]).await?;
        let mut gate = None;
        let worker = rig.worker_with("a", |config, faults| {
            config.stop_within = Duration::from_millis(300);
            gate = Some(faults.hold(call, Moment::Begin));
        })?;
        let gate = gate.expect("set above");
        rig.enqueue("short").await?;
        if call != "store.release" {
            gate.holds(1).await;
        }
        let began = std::time::Instant::now();
        worker.stop().await?;
        ensure!(
            began.elapsed() < Duration::from_secs(20),
            "{call}: {:?}",
            began.elapsed()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_one_attempt_stops_no_other_and_the_net_below_adopts_it() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.worker("a")?;
    let calm = rig.enqueue("long").await?;
    let calm_id = rig.running(calm).await?;
    worker.faults.fail("engine.start", Fault::Panic, 1);
    let job = rig.enqueue("long").await?;
    rig.until(job, "its first attempt is given up and a second one made", |detail| {
        detail.attempts.len() == 2
    })
    .await?;
    ensure!(rig.job(job).await?.attempts[0].state == AttemptState::Error);
    let id = rig.running(job).await?;
    ensure!(only(&rig.job(calm).await?)?.state == AttemptState::Running);
    for (job, id) in [(calm, calm_id), (job, id)] {
        rig.engine.end(id, End::Exited(0));
        ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    }
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_any_loop_of_the_worker_does_not_make_it_deaf() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["print:whole", "after:50", "exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    for call in [
        "engine.observe",
        "store.lines",
        "store.adopt",
        "store.heartbeat",
        "store.job",
        "record.ended",
        "record.started",
        "store.known",
    ] {
        worker.faults.fail(call, Fault::Panic, 1);
        let job = rig.enqueue("short").await?;
        let detail = rig.finalised(job).await?;
        ensure_ended(&detail, JobState::Succeeded, None)?;
        ensure_whole(only(&detail)?)?;
    }
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_an_engine_that_comes_late() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"])), ("long", runs(&[]))]).await?;
    let mut first = rig.worker("a")?;
    let running = rig.enqueue("long").await?;
    let id = rig.running(running).await?;
    first.kill();
    rig.end_lease("a").await?;
    let next = rig.worker_with("b", |_, faults| {
        faults.fail("engine.realm", Fault::Refuse(ErrorKind::Unavailable), usize::MAX);
    })?;
    rig.eventually("it has looked for its realm", || next.faults.calls("engine.realm") >= 2)
        .await?;
    // Nothing is concluded about what runs in a realm that was not reached.
    ensure!(only(&rig.job(running).await?)?.state == AttemptState::Running);
    next.faults.heal("engine.realm");
    rig.until(running, "it is adopted", |detail| {
        let worker = detail.attempts[0].worker.as_deref();
        worker.is_some_and(|worker| worker.starts_with("b/"))
    })
    .await?;
    rig.engine.end(id, End::Exited(0));
    ensure_ended(&rig.finalised(running).await?, JobState::Succeeded, None)?;
    // And its registration says what it reaches.
    let workers = rig.store.workers().await?;
    let executor = workers
        .iter()
        .find(|worker| worker.host == "b")
        .and_then(|worker| worker.executors.values().next());
    ensure!(executor.is_some_and(|executor| executor.realm == Some(rig.engine.realm())));
    Ok(())
}

/// A claim that is in flight for longer than two lists take.
async fn a_late_claim(call: &'static str, moment: Moment) -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    if call == "store.claimed" {
        worker.faults.fail("store.claim", Fault::LoseAnswer, 1);
    }
    let late = worker.faults.hold(call, moment);
    let job = rig.enqueue("short").await?;
    late.holds(1).await;
    let beats = worker.faults.calls("store.heartbeat");
    rig.eventually("several lists were compared", || {
        worker.faults.calls("store.heartbeat") >= beats + 4 && worker.faults.calls("store.held") >= 3
    })
    .await?;
    late.open();
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    only(&detail)?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_in_flight_is_not_taken_for_lost_by_the_net_below() -> Result<()> {
    tokio::try_join!(
        a_late_claim("store.claim", Moment::End),
        a_late_claim("store.claimed", Moment::Begin)
    )?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_not_answered_costs_no_lease() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let mut first = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    first.kill();
    rig.end_lease("a").await?;
    let mut list = None;
    let next = rig.worker_with("b", |_, faults| {
        faults.fail("store.adopt", Fault::LoseAnswer, 1);
        list = Some(faults.hold("store.held", Moment::Begin));
    })?;
    let list = list.expect("set above");
    list.holds(1).await;
    let beats = next.faults.calls("store.heartbeat");
    rig.eventually("heartbeats go on for longer than a lease", || {
        next.faults.calls("store.heartbeat") >= beats + 5
    })
    .await?;
    list.open();
    rig.engine.end(id, End::Exited(0));
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    ensure!(next.faults.calls("store.register") == 1, "its lease has ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_that_cannot_be_told_costs_no_lease_and_is_told_later() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let worker = rig.worker_with("a", |_, faults| {
        faults.fail("engine.realm", Fault::Refuse(ErrorKind::Unavailable), usize::MAX);
    })?;
    rig.eventually("it is registered", || worker.faults.calls("store.heartbeat") > 0)
        .await?;
    let silence = worker.faults.hold("store.register", Moment::Begin);
    worker.faults.heal("engine.realm");
    silence.holds(1).await;
    let beats = worker.faults.calls("store.heartbeat");
    rig.eventually("heartbeats go on", || {
        worker.faults.calls("store.heartbeat") >= beats + 3
    })
    .await?;
    silence.open();
    robata_testkit::case::until("its realm is told", support::STATE, || async {
        let workers = rig.store.workers().await?;
        let mut executors = workers.iter().flat_map(|worker| worker.executors.values());
        Ok(executors.any(|executor| executor.realm.is_some()).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_attempt_whose_realm_returns_is_stopped_first_and_stays_lost() -> Result<()> {
    let mut definition = runs(&["print:whole"]);
    definition.retry.platform = 0;
    let rig = Rig::new(&[("long", definition)]).await?;
    let mut first = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    first.kill();
    rig.let_leases_expire().await?;
    ensure!(rig.store.settle_lost(&BTreeMap::new(), Duration::ZERO).await? == [id]);
    ensure!(rig.engine.running() == 1);
    // Once, and not at first: what cannot be stopped yet is not finalised either.
    let next = rig.worker_with("b", |_, faults| {
        faults.fail("engine.stop", Fault::Refuse(ErrorKind::Unavailable), 1);
    })?;
    let detail = rig.finalised(job).await?;
    ensure!(next.faults.calls("engine.stop") == 2);
    ensure_ended(&detail, JobState::Failed, Some(Reason::Lost))?;
    ensure!(only(&detail)?.state == AttemptState::Lost);
    ensure_whole(only(&detail)?)?;
    ensure!(rig.printed(id, Stream::Stdout).await? == "whole");
    rig.nothing_was_started_twice_or_left().await
}

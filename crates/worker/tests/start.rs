//! The two-step start and its mishaps (PROTOCOL X1): whoever stops, wakes or tries again, nothing is started twice.

mod support;

use std::time::Duration;

use anyhow::{Result, ensure};
use robata_core::{
    AttemptState, ErrorKind, JobId, JobState, Payload, Reason,
    definition::PayloadEnv,
    executor::{Stream, ThingState, label, thing_name},
    finish::End,
    store::{JobStore, Store},
};
use robata_testkit::engine::{Fault, Moment, ScriptedEngine};
use support::{Rig, attempt, attempts, ensure_ended, ensure_whole, only, runs};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_to_its_end_and_leaves_nothing() -> Result<()> {
    let rig = Rig::new(&[("hello", runs(&["print:hello", "eprint:oh", "exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    let job = rig.enqueue("hello").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    let last = only(&detail)?;
    ensure_whole(last)?;
    ensure!(last.state == AttemptState::Succeeded && last.counted == Some(true) && last.exit_code == Some(0));
    ensure!(last.realm == Some(rig.engine.realm()) && last.handle.is_some());
    ensure!(rig.printed(last.id, Stream::Stdout).await? == "hello");
    ensure!(rig.printed(last.id, Stream::Stderr).await? == "oh");
    rig.nothing_was_started_twice_or_left().await?;
    ensure!(worker.stop().await?.attempts == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_told_who_it_is() -> Result<()> {
    let mut definition = runs(&[]);
    definition.env_allow = vec!["LOCALE".into()];
    definition.retry = attempts(3);
    let rig = Rig::new(&[("who", definition)]).await?;
    let _worker = rig.worker("a")?;
    let job = rig
        .enqueue_with("who", |job| {
            job.env.insert("LOCALE".into(), "cs".into());
            job.env.insert("PATH".into(), "/evil".into());
        })
        .await?;
    let first = rig.running(job).await?;
    let spec = rig.engine.spec(first).expect("it runs");
    for (name, value) in [
        ("ROBATA_JOB_ID", job.to_string().as_str()),
        ("ROBATA_ATTEMPT", "1"),
        ("ROBATA_ATTEMPTS_LEFT", "2"),
        ("ROBATA_APP", "shop"),
        ("ROBATA_JOB", "who"),
        ("ROBATA_QUEUE", "shop"),
        ("ROBATA_PAYLOAD", "null"),
        ("LOCALE", "cs"),
    ] {
        ensure!(
            spec.env.get(name).map(String::as_str) == Some(value),
            "{name}: {:?}",
            spec.env
        );
    }
    ensure!(!spec.env.contains_key("PATH"));
    ensure!(spec.payload.as_ref() == b"null");
    rig.engine.end(first, End::Exited(0));
    rig.finalised(job).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_that_wakes_before_its_prepare_starts_nothing() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let (zombie, _silence) = rig.silent_worker("a")?;
    let prepare = zombie.faults.hold("engine.prepare", Moment::Begin);
    let job = rig.enqueue("short").await?;
    prepare.holds(1).await;
    rig.end_lease("a").await?;
    let _worker = rig.worker("b")?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    let states: Vec<_> = detail.attempts.iter().map(|attempt| attempt.state).collect();
    ensure!(
        states == [AttemptState::Error, AttemptState::Succeeded],
        "{:#?}",
        detail.attempts
    );
    ensure!(detail.attempts[0].counted == Some(false) && detail.attempts[0].reason == Some(Reason::Platform));
    prepare.open();
    rig.eventually("the zombie has cleaned up after itself", || {
        zombie.faults.calls("engine.remove") > 0
    })
    .await?;
    ensure!(rig.engine.starts(attempt(job, 1)) == 0);
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_that_wakes_before_its_start_starts_nothing() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let (zombie, _silence) = rig.silent_worker("a")?;
    let start = zombie.faults.hold("engine.start", Moment::Begin);
    let job = rig.enqueue("short").await?;
    start.holds(1).await;
    rig.end_lease("a").await?;
    let _worker = rig.worker("b")?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    ensure!(detail.attempts.len() == 2 && detail.attempts[0].state == AttemptState::Error);
    start.open();
    rig.eventually("the zombie's last write is refused", || {
        zombie.faults.calls("record.ended") > 0
    })
    .await?;
    ensure!(rig.engine.starts(attempt(job, 1)) == 0);
    ensure!(rig.job(job).await? == detail);
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombies_start_that_came_through_is_followed() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let (zombie, _silence) = rig.silent_worker("a")?;
    let start = zombie.faults.hold("engine.start", Moment::Begin);
    let job = rig.enqueue("long").await?;
    start.holds(1).await;
    rig.end_lease("a").await?;
    let mut removal = None;
    let worker = rig.worker_with("b", |_, faults| {
        removal = Some(faults.hold("engine.remove", Moment::Begin))
    })?;
    let removal = removal.expect("set above");
    // The adopter has seen that it was never set going, and is about to remove it without force.
    removal.holds(1).await;
    start.open();
    rig.eventually("it runs", || rig.engine.starts(attempt(job, 1)) == 1)
        .await?;
    removal.open();
    let first = rig.running(job).await?;
    ensure!(first.number == 1);
    rig.engine.end(first, End::Exited(0));
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    only(&detail)?;
    rig.nothing_was_started_twice_or_left().await?;
    worker.stop().await?;
    Ok(())
}

/// Kills a worker at one moment of its start, and answers how the job ended under the next worker.
async fn killed_at(call: &'static str, moment: Moment) -> Result<(Rig, JobId)> {
    let rig = Rig::new(&[("short", runs(&["print:once", "after:1", "exit:0"]))]).await?;
    let mut first = rig.worker("a")?;
    let gate = first.faults.hold(call, moment);
    let job = rig.enqueue("short").await?;
    gate.holds(1).await;
    first.kill();
    rig.let_leases_expire().await?;
    let _next = rig.worker("b")?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    rig.nothing_was_started_twice_or_left().await?;
    Ok((rig, job))
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_prepare_and_record_it_never_ran() -> Result<()> {
    for (call, moment) in [("engine.prepare", Moment::End), ("record.prepared", Moment::Begin)] {
        let (rig, job) = killed_at(call, moment).await?;
        let detail = rig.job(job).await?;
        ensure!(detail.attempts.len() == 2, "{:#?}", detail.attempts);
        ensure!(detail.attempts[0].state == AttemptState::Error && detail.attempts[0].counted == Some(false));
        ensure!(rig.engine.starts(attempt(job, 1)) == 0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_record_and_start_it_never_ran() -> Result<()> {
    for (call, moment) in [("record.prepared", Moment::End), ("engine.start", Moment::Begin)] {
        let (rig, job) = killed_at(call, moment).await?;
        let detail = rig.job(job).await?;
        ensure!(detail.attempts.len() == 2, "{:#?}", detail.attempts);
        ensure!(detail.attempts[0].state == AttemptState::Error && detail.attempts[0].counted == Some(false));
        ensure!(rig.engine.starts(attempt(job, 1)) == 0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_start_and_its_record_it_is_followed() -> Result<()> {
    let (rig, job) = killed_at("engine.start", Moment::End).await?;
    let detail = rig.job(job).await?;
    ensure_whole(only(&detail)?)?;
    ensure!(rig.printed(attempt(job, 1), Stream::Stdout).await? == "once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_answer_was_lost_is_not_sent_again() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.worker("a")?;
    worker.faults.fail("engine.start", Fault::LoseAnswer, 1);
    let job = rig.enqueue("long").await?;
    let first = rig.running(job).await?;
    rig.engine.end(first, End::Exited(0));
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    only(&detail)?;
    ensure!(worker.faults.calls("engine.start") == 1);
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_never_arrived_is_removed_and_the_job_goes_out_again() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker_with("a", |config, faults| {
        config.lost_start_patience = Duration::from_millis(300);
        faults.fail("engine.start", Fault::Refuse(ErrorKind::Unavailable), 1);
    })?;
    let job = rig.enqueue("short").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    ensure!(detail.attempts.len() == 2 && detail.attempts[0].state == AttemptState::Error);
    ensure!(detail.attempts[0].reason == Some(Reason::Platform) && detail.attempts[0].counted == Some(false));
    ensure!(worker.faults.calls("engine.start") == 2, "once for each attempt");
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_answer_was_lost_and_whose_thing_is_gone_is_lost() -> Result<()> {
    let mut definition = runs(&[]);
    definition.retry.platform = 0;
    let rig = Rig::new(&[("long", definition)]).await?;
    let worker = rig.worker("a")?;
    worker.faults.fail("engine.start", Fault::LoseAnswer, 1);
    let answer = worker.faults.hold("engine.start", Moment::End);
    let job = rig.enqueue("long").await?;
    answer.holds(1).await;
    ensure!(rig.engine.vanish(attempt(job, 1)));
    answer.open();
    let detail = rig.finalised(job).await?;
    // It ran: to call it "never ran" would be a lie.
    ensure_ended(&detail, JobState::Failed, Some(Reason::Lost))?;
    ensure!(only(&detail)?.state == AttemptState::Lost);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_with_our_mark_is_used() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    worker.faults.fail("engine.prepare", Fault::LoseAnswer, 1);
    let job = rig.enqueue("short").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    only(&detail)?;
    ensure!(worker.faults.calls("engine.prepare") == 2 && rig.engine.starts_by_thing().len() == 1);
    rig.nothing_was_started_twice_or_left().await
}

fn labels_of_an_older_store(rig: &Rig, job: JobId) -> Vec<(&'static str, String)> {
    let mut labels = ScriptedEngine::labels(rig.store.installation(), attempt(job, 1)).to_vec();
    labels.push((label::MARK, "another".to_owned()));
    labels
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_with_another_mark_that_never_ran_is_replaced() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let job = JobId::new();
    let name = thing_name(rig.store.installation(), attempt(job, 1));
    let old = rig
        .engine
        .leave(&name, &labels_of_an_older_store(&rig, job), Duration::from_secs(60));
    let _worker = rig.worker("a")?;
    rig.enqueue_with("short", |new| new.id = job).await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    only(&detail)?;
    ensure!(!rig.engine.starts_by_thing().contains_key(&old));
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_with_another_mark_that_has_run_is_followed() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let job = JobId::new();
    let name = thing_name(rig.store.installation(), attempt(job, 1));
    let old = rig
        .engine
        .leave_running(&name, &labels_of_an_older_store(&rig, job), Duration::from_secs(60));
    let _worker = rig.worker("a")?;
    rig.enqueue_with("short", |new| new.id = job).await?;
    let first = rig.running(job).await?;
    ensure!(rig.engine.thing(first) == Some(old), "it is not started beside");
    rig.engine.end(first, End::Exited(7));
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::ExitCode))?;
    ensure!(only(&detail)?.exit_code == Some(7));
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pulled_or_started_says_so() -> Result<()> {
    let mut wrong = runs(&["no-such-command"]);
    wrong.retry = attempts(2);
    let rig = Rig::new(&[("short", runs(&["exit:0"])), ("wrong", wrong)]).await?;
    let worker = rig.worker("a")?;
    worker
        .faults
        .fail("engine.prepare", Fault::Refuse(ErrorKind::ImagePull), 1);
    let job = rig.enqueue("short").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::ImagePull))?;
    ensure!(only(&detail)?.state == AttemptState::Error);
    ensure!(
        only(&detail)?
            .message
            .as_deref()
            .unwrap_or_default()
            .contains("refused")
    );
    let job = rig.enqueue("wrong").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::StartError))?;
    // The job pays: it has two attempts of its own, and both are used up.
    ensure!(detail.attempts.len() == 2 && detail.attempts.iter().all(|attempt| attempt.counted == Some(true)));
    let words = detail.job.message.unwrap_or_default();
    ensure!(words.contains("no such file"), "the engine's own words: {words}");
    worker
        .faults
        .fail("engine.start", Fault::Refuse(ErrorKind::StartRefused), 1);
    let job = rig.enqueue("short").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::StartError))?;
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_while_a_lost_start_is_looked_for_is_heard() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let worker = rig.worker("a")?;
    worker
        .faults
        .fail("engine.start", Fault::Refuse(ErrorKind::Unavailable), 1);
    let job = rig.enqueue("short").await?;
    rig.eventually("the start was sent and looked for", || {
        worker.faults.calls("engine.start") == 1 && worker.faults.calls("engine.observe") > 0
    })
    .await?;
    ensure!(rig.engine.state(attempt(job, 1)) == ThingState::Prepared);
    rig.cancel(job).await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Cancelled, Some(Reason::Cancelled))?;
    ensure!(rig.engine.starts(attempt(job, 1)) == 0);
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_can_never_be_set_going_ends_after_twenty() -> Result<()> {
    let rig = Rig::new(&[("short", runs(&["exit:0"]))]).await?;
    let _worker = rig.worker_with("a", |config, faults| {
        config.lost_start_patience = Duration::ZERO;
        faults.fail("engine.start", Fault::Refuse(ErrorKind::Internal), usize::MAX);
    })?;
    let job = rig.enqueue("short").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::Platform))?;
    ensure!(detail.attempts.len() == 20, "{}", detail.attempts.len());
    ensure!(
        rig.store
            .job(job)
            .await?
            .attempts
            .iter()
            .all(|attempt| attempt.counted == Some(false))
    );
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_is_not_kept_in_memory_while_its_attempt_runs() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let mut first = rig.worker("a")?;
    let job = rig
        .enqueue_with("long", |job| {
            job.payload = Payload::from_stored(format!("\"{}\"", "x".repeat(100_000)).into());
        })
        .await?;
    let id = rig.running(job).await?;
    rig.eventually("only the engine has it", || rig.engine.has_payload_alone(id))
        .await?;
    first.kill();
    rig.end_lease("a").await?;
    let _next = rig.worker("b")?;
    rig.until(job, "the next one holds it", |detail| {
        let worker = detail.attempts[0].worker.as_deref();
        worker.is_some_and(|worker| worker.starts_with("b/"))
    })
    .await?;
    rig.engine.end(id, End::Exited(0));
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_for_the_payload_overrides_the_fencing_token() -> Result<()> {
    let mut definition = runs(&[]);
    let names = ["FINE", "ROBATA_ATTEMPT", "ROBATA_JOB_ID", "TRACEPARENT"];
    definition.payload_env = PayloadEnv::Names(names.map(str::to_owned).to_vec());
    let rig = Rig::new(&[("long", definition)]).await?;
    let _worker = rig.worker("a")?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    let env = rig.engine.spec(id).expect("it runs").env;
    ensure!(env["FINE"] == "null" && env["ROBATA_PAYLOAD"] == "null", "{env:?}");
    ensure!(
        env["ROBATA_ATTEMPT"] == "1" && env["ROBATA_JOB_ID"] == job.to_string(),
        "{env:?}"
    );
    ensure!(env["TRACEPARENT"].starts_with("00-"), "{env:?}");
    rig.engine.end(id, End::Exited(0));
    rig.finalised(job).await?;
    Ok(())
}

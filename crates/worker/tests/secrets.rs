//! Secrets: had right before each prepare, in nothing but the thing, masked in all that is kept (DESIGN.md §7).

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Result, ensure};
use async_trait::async_trait;
use robata_core::{
    AppName, Error, ErrorKind, JobState, Reason, Secret, SecretName, WaitingReason, attempt::LogState,
    definition::Definition, executor::Stream, finish::End, secret::Secrets,
};
use robata_testkit::{case, engine::Fault};
use robata_worker::WorkerConfig;
use support::{Rig, attempt, attempts, ensure_ended, executor, only, runs};

const VALUE: &str = "hunter2-and-longer";

/// A source that a test sets: a value, or what kind of error it answers.
#[derive(Debug)]
struct Source {
    answer: Mutex<Result<String, ErrorKind>>,
    asked: Mutex<usize>,
}

impl Source {
    fn of(value: &str) -> Arc<Self> {
        Arc::new(Self {
            answer: Mutex::new(Ok(value.to_owned())),
            asked: Mutex::new(0),
        })
    }

    fn set(&self, answer: Result<&str, ErrorKind>) {
        *self.answer.lock().expect("no panic") = answer.map(str::to_owned);
    }

    fn asked(&self) -> usize {
        *self.asked.lock().expect("no panic")
    }
}

#[async_trait]
impl Secrets for Source {
    async fn resolve(
        &self,
        app: &AppName,
        names: &BTreeSet<SecretName>,
    ) -> robata_core::Result<BTreeMap<SecretName, Secret>> {
        *self.asked.lock().expect("no panic") += 1;
        let answer = self.answer.lock().expect("no panic").clone();
        let value =
            answer.map_err(|kind| Error::new(kind, "source", format!("the source has no {names:?} of {app}")))?;
        names
            .iter()
            .map(|name| Ok((name.clone(), Secret::from_bytes(value.clone().into())?)))
            .collect()
    }
}

fn given(source: &Arc<Source>) -> impl FnOnce(&mut WorkerConfig, &robata_testkit::engine::Faults) {
    let source = Arc::clone(source) as Arc<dyn Secrets>;
    move |config, _| {
        config.secrets.insert(executor(), source);
        config.logs_patience = Duration::from_secs(2);
    }
}

fn secret(words: &[&str]) -> Definition {
    let mut definition = runs(words);
    let name = SecretName::new("database-url").expect("a good name");
    definition.secrets = BTreeMap::from([("DATABASE_URL".to_owned(), name)]);
    definition
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_reaches_the_thing_and_is_masked_in_its_log() -> Result<()> {
    let words = [
        "print:url: ",
        "env:DATABASE_URL",
        "print:!\nhunter2-",
        "print:and-shorter",
        "eprint:hunter2-and-l",
    ];
    let rig = Rig::new(&[(
        "job",
        secret(&[&words[..], &["eprint:onger.", "after:300", "exit:0"]].concat()),
    )])
    .await?;
    let source = Source::of(VALUE);
    let _worker = rig.worker_with("a", given(&source))?;
    let job = rig.enqueue("job").await?;
    let id = rig.running(job).await?;
    let spec = rig.engine.spec(id).expect("it runs");
    ensure!(spec.secret_env["DATABASE_URL"].expose() == VALUE);
    ensure!(!spec.env.contains_key("DATABASE_URL"), "{:?}", spec.env);
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    support::ensure_whole(only(&detail)?)?;
    ensure!(rig.printed(id, Stream::Stdout).await? == "url: ***!\nhunter2-and-shorter");
    ensure!(rig.printed(id, Stream::Stderr).await? == "***.");
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_says_is_masked_too() -> Result<()> {
    let rig = Rig::new(&[("echoing", secret(&[&format!("echo {VALUE}")]))]).await?;
    let _worker = rig.worker_with("a", given(&Source::of(VALUE)))?;
    let job = rig.enqueue("echoing").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::StartError))?;
    let message = only(&detail)?.message.clone().unwrap_or_default();
    ensure!(
        message.contains("no such file") && message.contains("echo ***"),
        "{message}"
    );
    ensure!(!format!("{detail:?}").contains(VALUE));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_fails_with_words_that_name_it_and_nothing_starts() -> Result<()> {
    let rig = Rig::new(&[("job", secret(&["exit:0"]))]).await?;
    let source = Source::of(VALUE);
    source.set(Err(ErrorKind::NotFound));
    let worker = rig.worker_with("a", given(&source))?;
    let job = rig.enqueue("job").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::StartError))?;
    let last = only(&detail)?;
    let message = last.message.as_deref().unwrap_or_default();
    ensure!(
        message.contains("database-url") && message.contains("shop"),
        "{message}"
    );
    ensure!(rig.engine.starts(last.id) == 0 && worker.faults.calls("engine.prepare") == 0);
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_without_a_place_for_secrets_starts_nothing_that_asks_for_them() -> Result<()> {
    let rig = Rig::new(&[("job", secret(&["exit:0"]))]).await?;
    let _worker = rig.worker("a")?;
    let job = rig.enqueue("job").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::StartError))?;
    let message = only(&detail)?.message.as_deref().unwrap_or_default();
    ensure!(
        message.contains("database-url") && message.contains("scripted"),
        "{message}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_be_asked_now_is_waited_for() -> Result<()> {
    let rig = Rig::new(&[("job", secret(&["env:DATABASE_URL", "exit:0"]))]).await?;
    let source = Source::of(VALUE);
    source.set(Err(ErrorKind::Unavailable));
    let _worker = rig.worker_with("a", given(&source))?;
    let job = rig.enqueue("job").await?;
    let detail = rig.waits(job, WaitingReason::EngineUnreachable).await?;
    let words = detail.job.waiting.expect("it waits").message.unwrap_or_default();
    ensure!(words.contains("database-url"), "{words}");
    source.set(Ok(VALUE));
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    ensure!(rig.printed(attempt(job, 1), Stream::Stdout).await? == "***");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_never_answers_is_bounded_by_start_within_and_is_not_the_jobs_fault() -> Result<()> {
    let mut definition = secret(&["exit:0"]);
    definition.start_within = Duration::from_secs(2);
    let rig = Rig::new(&[("job", definition)]).await?;
    let source = Source::of(VALUE);
    source.set(Err(ErrorKind::Unavailable));
    let _worker = rig.worker_with("a", given(&source))?;
    let job = rig.enqueue("job").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::Platform))?;
    ensure!(only(&detail)?.counted == Some(false), "{detail:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_was_changed_reaches_the_next_attempt() -> Result<()> {
    let mut definition = secret(&["env:DATABASE_URL"]);
    definition.retry = attempts(2);
    let rig = Rig::new(&[("job", definition)]).await?;
    let source = Source::of("first-value");
    let _worker = rig.worker_with("a", given(&source))?;
    let job = rig.enqueue("job").await?;
    let first = rig.running(job).await?;
    ensure!(rig.engine.spec(first).expect("it runs").secret_env["DATABASE_URL"].expose() == "first-value");
    source.set(Ok("second-value"));
    rig.engine.end(first, End::Exited(1));
    rig.until(job, "the second attempt runs", |detail| {
        detail.attempts.get(1).is_some_and(|second| second.started_at.is_some())
    })
    .await?;
    let second = attempt(job, 2);
    ensure!(rig.engine.spec(second).expect("it runs").secret_env["DATABASE_URL"].expose() == "second-value");
    rig.engine.end(second, End::Exited(0));
    rig.finalised(job).await?;
    ensure!(rig.printed(first, Stream::Stdout).await? == "***");
    ensure!(rig.printed(second, Stream::Stdout).await? == "***");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_changed_between_two_tries_of_one_prepare_is_masked_as_the_first_was() -> Result<()> {
    let rig = Rig::new(&[("job", secret(&["env:DATABASE_URL", "print: second-value", "exit:0"]))]).await?;
    let source = Source::of("first-value");
    let set = given(&source);
    // The thing is made, and the answer is lost.
    let _worker = rig.worker_with("a", |config, faults| {
        set(config, faults);
        faults.fail("engine.prepare", Fault::LoseAnswer, 1);
    })?;
    let job = rig.enqueue("job").await?;
    rig.waits(job, WaitingReason::EngineUnreachable).await?;
    source.set(Ok("second-value"));
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    ensure!(rig.printed(attempt(job, 1), Stream::Stdout).await? == "*** ***");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_attempt_is_masked_on_and_no_byte_is_lost_or_repeated() -> Result<()> {
    let rig = Rig::new(&[("long", secret(&["print:one hunter2-and"]))]).await?;
    let source = Source::of(VALUE);
    let mut first = rig.worker_with("a", given(&source))?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    // Cut in the middle of what is held back.
    rig.eventually("a chunk is kept", || first.faults.calls("logs.append") > 0)
        .await?;
    first.kill();
    rig.end_lease("a").await?;
    let _next = rig.worker_with("b", given(&source))?;
    rig.engine.print(id, Stream::Stderr, "apart ");
    rig.engine.print(id, Stream::Stdout, "-longer two ");
    rig.engine.print(id, Stream::Stdout, VALUE);
    rig.engine.print(id, Stream::Stderr, VALUE);
    rig.engine.end(id, End::Exited(0));
    let detail = rig.finalised(job).await?;
    support::ensure_whole(only(&detail)?)?;
    ensure!(source.asked() == 2, "{}", source.asked());
    ensure!(rig.printed(id, Stream::Stdout).await? == "one *** two ***");
    ensure!(rig.printed(id, Stream::Stderr).await? == "apart ***");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_engine_tells_it_an_adopted_attempt_is_masked_with_what_it_was_started_with() -> Result<()> {
    let rig = Rig::new(&[("long", secret(&["print:one "]))]).await?;
    rig.engine.tell_secrets();
    let source = Source::of(VALUE);
    let mut first = rig.worker_with("a", given(&source))?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    first.kill();
    rig.end_lease("a").await?;
    source.set(Ok("another-by-now"));
    let set = given(&source);
    let next = rig.worker_with("b", |config, faults| {
        set(config, faults);
        faults.fail("engine.secrets", Fault::Refuse(ErrorKind::Unavailable), 1);
    })?;
    rig.engine.print(id, Stream::Stdout, VALUE);
    rig.engine.end(id, End::Exited(0));
    let detail = rig.finalised(job).await?;
    support::ensure_whole(only(&detail)?)?;
    ensure!(rig.printed(id, Stream::Stdout).await? == "one ***");
    ensure!(next.faults.calls("engine.secrets") == 2 && source.asked() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_of_an_adopted_attempt_before_its_secrets_are_known_again() -> Result<()> {
    let rig = Rig::new(&[("long", secret(&["print:before "]))]).await?;
    let source = Source::of(VALUE);
    let mut first = rig.worker_with("a", given(&source))?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    rig.eventually("a chunk is kept", || first.faults.calls("logs.append") > 0)
        .await?;
    first.kill();
    rig.end_lease("a").await?;
    source.set(Err(ErrorKind::Unavailable));
    let next = rig.worker_with("b", given(&source))?;
    rig.engine.print(id, Stream::Stdout, VALUE);
    rig.eventually("it has asked in vain", || source.asked() >= 2).await?;
    ensure!(next.faults.calls("engine.output") == 0 && next.faults.calls("logs.append") == 0);
    source.set(Ok(VALUE));
    rig.engine.end(id, End::Exited(0));
    let detail = rig.finalised(job).await?;
    support::ensure_whole(only(&detail)?)?;
    ensure!(rig.printed(id, Stream::Stdout).await? == "before ***");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_secrets_are_not_had_again_in_time_is_incomplete_and_says_so() -> Result<()> {
    let rig = Rig::new(&[("long", secret(&["print:before "]))]).await?;
    let source = Source::of(VALUE);
    let mut first = rig.worker_with("a", given(&source))?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    case::until("the beginning is kept", support::STATE, || async {
        Ok((rig.printed(id, Stream::Stdout).await? == "before ").then_some(()))
    })
    .await?;
    first.kill();
    rig.end_lease("a").await?;
    source.set(Err(ErrorKind::NotFound));
    let _next = rig.worker_with("b", given(&source))?;
    rig.engine.print(id, Stream::Stdout, VALUE);
    rig.engine.end(id, End::Exited(1));
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::ExitCode))?;
    let last = only(&detail)?;
    ensure!(last.log.state == LogState::Incomplete, "{last:?}");
    ensure!(
        last.log
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("secrets")),
        "{last:?}"
    );
    ensure!(
        last.message
            .as_deref()
            .is_some_and(|message| message.contains("not kept")),
        "{last:?}"
    );
    ensure!(rig.printed(id, Stream::Stdout).await? == "before ");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_log_counts_masked_bytes() -> Result<()> {
    use robata_core::definition::Memory;
    let mut exact = secret(&["print:01234", "env:DATABASE_URL", "print:89", "exit:0"]);
    exact.log_limit = Some(Memory { bytes: 10 });
    let mut beyond = secret(&["print:01234", "env:DATABASE_URL", "print:8hunter2-", "exit:0"]);
    beyond.log_limit = Some(Memory { bytes: 10 });
    let rig = Rig::new(&[("exact", exact), ("beyond", beyond)]).await?;
    let _worker = rig.worker_with("a", given(&Source::of(VALUE)))?;
    let job = rig.enqueue("exact").await?;
    support::ensure_whole(only(&rig.finalised(job).await?)?)?;
    ensure!(rig.printed(attempt(job, 1), Stream::Stdout).await? == "01234***89");
    // What goes beyond it was held back, as it might have been a secret.
    let job = rig.enqueue("beyond").await?;
    let detail = rig.finalised(job).await?;
    let log = &only(&detail)?.log;
    ensure!((log.bytes, log.reason.as_deref()) == (10, Some("log_limit")), "{log:?}");
    Ok(())
}

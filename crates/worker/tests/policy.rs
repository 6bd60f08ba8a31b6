//! The operator's policy where attempts start: it holds as it stands then, whatever was applied before.

mod support;

use std::time::Duration;

use anyhow::{Result, ensure};
use robata_core::{
    AttemptState, JobState, Payload, Policy, Reason,
    definition::{Cpu, Definition, Memory, docker::Mounted},
    finish::End,
    policy::{Allowed, Max},
};
use support::{Rig, attempt, ensure_ended, executor, only, runs};

/// A policy in the executor's own table.
fn policy(set: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = Policy::of("executors.scripted.docker");
    set(&mut policy);
    policy
}

fn images(patterns: &[&str]) -> Policy {
    policy(|policy| {
        let containers = policy.containers.as_mut().expect("it has them by default");
        containers.images = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
    })
}

fn mounts(read_only: bool) -> Definition {
    let mut definition = runs(&["exit:0"]);
    let source = "/srv/data".to_owned();
    definition.docker.mounts = [("/data".to_owned(), Mounted { source, read_only })].into();
    definition
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_no_longer_allows_is_refused_before_anything_is_prepared() -> Result<()> {
    let mut definition = runs(&["exit:0"]);
    definition.image = Some("registry.example.com/shop:1".to_owned());
    let rig = Rig::new(&[("shop", definition)]).await?;
    let before = rig.worker_with("a", |config, _| {
        config.policies = [(executor(), images(&["registry.example.com/*"]))].into();
    })?;
    let job = rig.enqueue("shop").await?;
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)?;
    before.stop().await?;

    let after = rig.worker_with("b", |config, _| {
        config.policies = [(executor(), images(&["elsewhere.example.com/*"]))].into();
    })?;
    let job = rig.enqueue("shop").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::StartError))?;
    let last = only(&detail)?;
    ensure!(
        last.state == AttemptState::Error && last.reason == Some(Reason::StartError),
        "{last:?}"
    );
    let message = last.message.clone().unwrap_or_default();
    ensure!(message.contains("registry.example.com/shop:1"), "{message}");
    ensure!(message.contains("executors.scripted.docker.images"), "{message}");
    ensure!(after.faults.calls("engine.prepare") == 0);
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_stands_in_the_message_and_an_app_is_one() -> Result<()> {
    let rig = Rig::new(&[("copy", mounts(true))]).await?;
    let _worker = rig.worker_with("a", |config, _| {
        let policy = policy(|policy| policy.apps = vec!["mail".to_owned()]);
        config.policies = [(executor(), policy)].into();
    })?;
    let job = rig.enqueue("copy").await?;
    let detail = rig.finalised(job).await?;
    let message = only(&detail)?.message.clone().unwrap_or_default();
    for part in [
        "executors.scripted.docker.apps",
        "docker.mounts./data: /srv/data",
        "executors.scripted.docker.mounts",
    ] {
        ensure!(message.contains(part), "{part} is not in {message}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_policies_has_the_default_one() -> Result<()> {
    let rig = Rig::new(&[("plain", runs(&["exit:0"])), ("copy", mounts(true))]).await?;
    let _worker = rig.worker("a")?;
    let (plain, copy) = (rig.enqueue("plain").await?, rig.enqueue("copy").await?);
    ensure_ended(&rig.finalised(plain).await?, JobState::Succeeded, None)?;
    ensure_ended(&rig.finalised(copy).await?, JobState::Failed, Some(Reason::StartError))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mounted_to_be_written_must_be_allowed_so() -> Result<()> {
    let rig = Rig::new(&[("reads", mounts(true)), ("writes", mounts(false))]).await?;
    let _worker = rig.worker_with("a", |config, _| {
        let policy = policy(|policy| {
            let containers = policy.containers.as_mut().expect("it has them by default");
            containers.mounts = vec!["/srv:ro".parse::<Allowed>().expect("a mount")];
        });
        config.policies = [(executor(), policy)].into();
    })?;
    let (reads, writes) = (rig.enqueue("reads").await?, rig.enqueue("writes").await?);
    ensure_ended(&rig.finalised(reads).await?, JobState::Succeeded, None)?;
    let detail = rig.finalised(writes).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::StartError))?;
    let message = only(&detail)?.message.clone().unwrap_or_default();
    ensure!(message.contains("read-only"), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sets_no_limit_gets_the_operators_also_from_the_worker_that_adopts_it() -> Result<()> {
    let most = Max {
        cpu: Some(Cpu { millis: 1500 }),
        memory: Some(Memory { bytes: 64 << 20 }),
        timeout: Some(Duration::from_secs(3)),
    };
    let of = move |policy: &mut Policy| policy.max = most;
    let mut greedy = runs(&[]);
    greedy.timeout = None;
    let rig = Rig::new(&[("long", runs(&[])), ("greedy", greedy)]).await?;
    let first = rig.worker_with("a", |config, _| {
        config.policies = [(executor(), policy(of))].into();
    })?;
    let refused = rig.enqueue("greedy").await?;
    let detail = rig.finalised(refused).await?;
    ensure_ended(&detail, JobState::Failed, Some(Reason::StartError))?;
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    let spec = rig.engine.spec(id).expect("it runs");
    ensure!(spec.resources.cpu_at_most() == most.cpu, "{:?}", spec.resources);
    ensure!(spec.resources.memory_at_most() == most.memory, "{:?}", spec.resources);
    // The next one takes it over, and ends it at the same time.
    first.stop().await?;
    let _next = rig.worker_with("b", |config, _| {
        config.policies = [(executor(), policy(of))].into();
    })?;
    let detail = rig.finalised(job).await?;
    ensure!(only(&detail)?.state == AttemptState::TimedOut, "{detail:?}");
    ensure!(rig.engine.starts(attempt(job, 1)) == 1);
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_when_a_policy_is_narrowed_runs_to_its_end() -> Result<()> {
    let mut definition = runs(&[]);
    definition.image = Some("registry.example.com/shop:1".to_owned());
    let rig = Rig::new(&[("shop", definition)]).await?;
    let first = rig.worker("a")?;
    let job = rig.enqueue("shop").await?;
    let id = rig.running(job).await?;
    first.stop().await?;
    let next = rig.worker_with("b", |config, _| {
        config.policies = [(executor(), images(&[]))].into();
    })?;
    rig.eventually("it is followed", || next.faults.calls("engine.observe") > 0)
        .await?;
    rig.engine.end(id, End::Exited(0));
    ensure_ended(&rig.finalised(job).await?, JobState::Succeeded, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_payload_or_a_label_becomes_part_of_a_command_line() -> Result<()> {
    let rig = Rig::new(&[("plain", runs(&[]))]).await?;
    let _worker = rig.worker("a")?;
    let evil =
        br#"{"command": ["evil"], "entrypoint": ["sh"], "image": "evil:1", "x": "$(evil) ; evil --privileged `evil`"}"#;
    let payload = Payload::new(evil.to_vec().into(), 1 << 20, 128)?;
    let job = rig
        .enqueue_with("plain", |new| {
            new.payload = payload.clone();
            new.labels = [("command".to_owned(), "; evil".to_owned())].into();
        })
        .await?;
    let spec = rig.engine.spec(rig.running(job).await?).expect("it runs");
    let defined = runs(&[]);
    ensure!(
        (&spec.command, &spec.entrypoint, &spec.image) == (&defined.command, &defined.entrypoint, &defined.image),
        "{spec:?}"
    );
    ensure!(
        spec.docker == defined.docker && spec.security == defined.security,
        "{spec:?}"
    );
    // It is in its own file, and the variable that repeats that.
    ensure!(spec.payload[..] == evil[..]);
    let holding: Vec<_> = spec.env.iter().filter(|(_, value)| value.contains("evil")).collect();
    ensure!(holding.len() == 1 && holding[0].0 == "ROBATA_PAYLOAD", "{holding:?}");
    Ok(())
}

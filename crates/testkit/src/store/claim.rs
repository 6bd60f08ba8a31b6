//! Claims: once each, within limits, frozen.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use robata_core::{
    ClaimId, ErrorKind, JobId, JobState, Reason,
    attempt::{Claim, Claimed},
    definition::Definition,
    job::{JobRecord, NewJob, OneOff, Reference},
};

use super::world::{World, exited, held, job, keyed, kind, line, next};

fn summary(claimed: &[Claimed]) -> Vec<&'static str> {
    let word = |claimed: &Claimed| match claimed {
        Claimed::Held(_) => "held",
        Claimed::Gone => "gone",
        Claimed::Paused => "paused",
        Claimed::OverLimit => "over",
        Claimed::Ended(_) => "ended",
    };
    claimed.iter().map(word).collect()
}

/// `claim` MUST give each reference to at most one claim, and MUST answer in the order of its references.
pub async fn a_reference_is_claimed_once_however_many_claim_it(world: World) -> Result<()> {
    let jobs = (0..40).map(|_| job("shop", "mail")).collect::<Result<Vec<_>>>()?;
    let jobs = world.enqueue(jobs).await?;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..8 {
        let worker = world.worker().await?;
        let mut references: Vec<_> = jobs.iter().map(next).collect();
        references.rotate_left(n * 5);
        let claim = Claim {
            claim: ClaimId::new(),
            incarnation: worker,
            references,
        };
        let store = world.store();
        calls.spawn(async move { (claim.references.clone(), store.claim(claim).await) });
    }
    let mut given = Vec::new();
    while let Some(done) = calls.join_next().await {
        let (references, claimed) = done?;
        for ((_, reference), claimed) in references.iter().zip(claimed?) {
            if let Claimed::Held(held) = claimed {
                ensure!(held.id.job == reference.job, "the answers are in another order");
                given.push(held.id);
            }
        }
    }
    let unique: BTreeSet<_> = given.iter().collect();
    ensure!(
        given.len() == 40 && unique.len() == 40,
        "{} given, {} of them different",
        given.len(),
        unique.len()
    );
    Ok(())
}

/// What is not there any more, was claimed, or is named with another attempt's number is `Gone`, each alone.
pub async fn claims_answer_in_the_order_of_their_references(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let jobs = world
        .enqueue(vec![job("shop", "mail")?, job("shop", "mail")?, job("shop", "mail")?])
        .await?;
    world.hold(worker, &jobs[1]).await?;
    let (line, _) = next(&jobs[0]);
    let wrong = Reference {
        job: jobs[2].id,
        attempt: 2,
    };
    let unknown = Reference {
        job: JobId::new(),
        attempt: 1,
    };
    let references = vec![
        (line.clone(), unknown),
        next(&jobs[0]),
        next(&jobs[0]),
        next(&jobs[1]),
        (line, wrong),
        next(&jobs[2]),
    ];
    let claimed = world.claim(worker, references).await?;
    ensure!(
        summary(&claimed) == ["gone", "held", "gone", "gone", "gone", "held"],
        "{claimed:?}"
    );
    Ok(())
}

/// A job whose line has changed is `Gone`.
pub async fn a_job_whose_line_has_changed_is_gone(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let before = world.one(job("shop", "mail")?).await?;
    world
        .apply(
            r#"{"apps": {"shop": {"command": ["true"], "executor": "process", "jobs": {"mail": {"queue": "post"}}}}}"#,
        )
        .await?;
    ensure!(summary(&world.claim(worker, vec![next(&before)]).await?) == ["gone"]);
    let after = world.job(before.id).await?;
    ensure!(after.line == line("post", "process")?, "{after:?}");
    world.hold(worker, &after).await?;
    Ok(())
}

async fn limited(world: &World, document: &str, jobs: Vec<NewJob>) -> Result<()> {
    world.apply(document).await?;
    let worker = world.worker().await?;
    let jobs = world.enqueue(jobs).await?;
    let claimed = world.claim(worker, jobs.iter().map(next).collect()).await?;
    ensure!(summary(&claimed) == ["held", "held", "over"], "{claimed:?}");
    // In another claim, too, and until a slot frees.
    let third = || world.claim(worker, vec![next(&jobs[2])]);
    ensure!(summary(&third().await?) == ["over"]);
    let waits = world.job(jobs[2].id).await?;
    let reason = waits.waiting.as_ref().map(|waiting| waiting.reason);
    ensure!(reason == Some(robata_core::WaitingReason::MaxRunning), "{waits:?}");
    let first = held(claimed.into_iter().next().context("first")?)?;
    world.wrote(worker, &first, exited(0)).await?;
    ensure!(summary(&third().await?) == ["held"]);
    Ok(())
}

/// It MUST respect `max_running` of queue …
pub async fn a_claim_respects_max_running_of_a_queue(world: World) -> Result<()> {
    let other = NewJob {
        line: line("shop", "process")?,
        queue_chosen: true,
        ..job("bank", "pay")?
    };
    limited(
        &world,
        r#"{"queues": {"shop": {"max_running": 2}}}"#,
        vec![job("shop", "mail")?, other, job("shop", "rare")?],
    )
    .await
}

/// … app …
pub async fn a_claim_respects_max_running_of_an_app(world: World) -> Result<()> {
    let document = r#"{"apps": {"shop": {"max_running": 2, "command": ["true"], "executor": "process"}}}"#;
    limited(
        &world,
        document,
        vec![job("shop", "mail")?, job("shop", "rare")?, job("shop", "mail")?],
    )
    .await
}

/// … and definition.
pub async fn a_claim_respects_max_running_of_a_definition(world: World) -> Result<()> {
    let document =
        r#"{"apps": {"shop": {"command": ["true"], "executor": "process", "jobs": {"mail": {"max_running": 2}}}}}"#;
    limited(
        &world,
        document,
        vec![job("shop", "mail")?, job("shop", "mail")?, job("shop", "mail")?],
    )
    .await
}

/// Claims at the same time do not share a slot.
pub async fn concurrent_claims_do_not_exceed_max_running(world: World) -> Result<()> {
    world.apply(r#"{"queues": {"shop": {"max_running": 5}}}"#).await?;
    let jobs = (0..40).map(|_| job("shop", "mail")).collect::<Result<Vec<_>>>()?;
    let jobs = world.enqueue(jobs).await?;
    let mut calls = tokio::task::JoinSet::new();
    for some in jobs.chunks(4) {
        let claim = Claim {
            claim: ClaimId::new(),
            incarnation: world.worker().await?,
            references: some.iter().map(next).collect(),
        };
        let store = world.store();
        calls.spawn(async move { store.claim(claim).await });
    }
    let mut given = 0;
    while let Some(claimed) = calls.join_next().await {
        given += claimed??
            .iter()
            .filter(|claimed| matches!(claimed, Claimed::Held(_)))
            .count();
    }
    ensure!(given == 5, "{given} were given");
    Ok(())
}

/// It MUST freeze the definition: an attempt keeps what it was claimed with, the next one gets what stands then.
pub async fn a_claim_freezes_the_definition(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let first = world.one(job("shop", "resize")?).await?;
    let second = world.one(job("shop", "resize")?).await?;
    let before = world.hold(worker, &first).await?;
    world
        .apply(r#"{"apps": {"shop": {"command": ["false"], "executor": "process", "jobs": {"resize": {"command": ["other"]}}}}}"#)
        .await?;
    let after = world.hold(worker, &second).await?;
    ensure!(before.request.definition.command.as_deref() == Some(&["true".to_owned()][..]));
    ensure!(after.request.definition.command.as_deref() == Some(&["other".to_owned()][..]));
    ensure!(before.request.definition_version == Some(1) && after.request.definition_version == Some(2));
    ensure!(before.request.env["ROBATA_JOB_ID"] == first.id.to_string());
    world.store().release(worker).await?;
    let heir = world.worker().await?;
    let adopted = world.adopt(heir).await?;
    let same = adopted
        .iter()
        .find(|adopted| adopted.id == before.id)
        .context("not adopted")?;
    ensure!(
        same.request == before.request,
        "an adopted attempt's request has changed"
    );
    Ok(())
}

/// A one-off runs its own definition.
pub async fn a_one_off_runs_its_own_definition(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let own = Definition {
        command: Some(vec!["echo".into(), "hi".into()]),
        ..Definition::default()
    };
    let new = NewJob {
        definition: Some(Box::new(OneOff {
            definition: own.clone(),
            by: "ann".into(),
        })),
        ..job("shop", "nowhere-defined")?
    };
    let stored = world.one(new).await?;
    let held = world.hold(worker, &stored).await?;
    ensure!(
        held.request.definition == own && held.request.definition_version.is_none(),
        "{:?}",
        held.request
    );
    Ok(())
}

/// Without a definition it ends, with the reason.
pub async fn a_job_without_a_definition_ends_at_its_claim(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let stored = world.one(job("shop", "unheard-of")?).await?;
    let claimed = world.claim(worker, vec![next(&stored)]).await?;
    ensure!(
        matches!(claimed[0], Claimed::Ended(Reason::NoDefinition)),
        "{claimed:?}"
    );
    let ended = world.job(stored.id).await?;
    ensure!(
        ended.state == JobState::Failed && ended.reason == Some(Reason::NoDefinition) && ended.message.is_some(),
        "{ended:?}"
    );
    Ok(())
}

/// What has expired ends, with the reason.
pub async fn an_expired_job_ends_at_its_claim(world: World) -> Result<()> {
    let stored = world
        .one(NewJob {
            expires_in: Some(Duration::from_secs(10)),
            ..job("shop", "mail")?
        })
        .await?;
    world.harness.advance(Duration::from_secs(11));
    let worker = world.worker().await?;
    let claimed = world.claim(worker, vec![next(&stored)]).await?;
    ensure!(matches!(claimed[0], Claimed::Ended(Reason::Expired)), "{claimed:?}");
    let ended = world.job(stored.id).await?;
    ensure!(
        ended.state == JobState::Failed && ended.reason == Some(Reason::Expired),
        "{ended:?}"
    );
    Ok(())
}

/// PROTOCOL H3: `claimed` MUST answer what the claim of this number holds, also where its own answer was lost.
pub async fn a_claim_whose_answer_was_lost_is_fetched_by_its_number(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let jobs = world.enqueue(vec![job("shop", "mail")?, job("shop", "mail")?]).await?;
    let claim = ClaimId::new();
    let request = Claim {
        claim,
        incarnation: worker,
        references: jobs.iter().map(next).collect(),
    };
    let store = world.store();
    // Sent, and given up before the answer.
    let mut call = Box::pin(store.claim(request));
    let _ = futures::poll!(call.as_mut());
    drop(call);
    let found = world.store().claimed(worker, claim).await?;
    let ids: Vec<JobId> = found.iter().map(|held| held.id.job).collect();
    ensure!(ids == [jobs[0].id, jobs[1].id], "{ids:?}");
    ensure!(found.iter().all(|held| held.request.mark == claim && held.epoch == 1));
    ensure!(world.store().claimed(worker, ClaimId::new()).await?.is_empty());
    // The redelivered message loses.
    ensure!(summary(&world.claim(worker, vec![next(&jobs[0])]).await?) == ["gone"]);
    Ok(())
}

/// A claim in the name of an ended lease is `Fenced`, and takes nothing.
pub async fn a_claim_without_a_lease_takes_nothing(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let stored: JobRecord = world.one(keyed("k", 1)?).await?;
    world.store().release(worker).await?;
    let claim = Claim {
        claim: ClaimId::new(),
        incarnation: worker,
        references: vec![next(&stored)],
    };
    ensure!(kind(&world.store().claim(claim).await) == Some(ErrorKind::Fenced));
    ensure!(world.job(stored.id).await?.state == JobState::Queued);
    Ok(())
}

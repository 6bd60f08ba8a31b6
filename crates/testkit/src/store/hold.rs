//! Leases, heartbeats, adoption.

use std::time::Duration;

use anyhow::{Result, ensure};
use robata_core::{
    AttemptId, ClaimId, ErrorKind, IncarnationId, JobId, JobState, Payload,
    attempt::{AttemptChange, Claim, Knowledge},
    executor::{Handle, RealmId},
    job::NewJob,
    store::{Adopt, LEASE, held_hash},
};

use super::world::{World, exited, held, job, kind, name, next, sealed};

/// Every method that takes an incarnation MUST be `Fenced` where its lease has ended. PROTOCOL H3: the zombie's heartbeat.
pub async fn every_call_in_the_name_of_an_ended_lease_is_fenced(mut world: World) -> Result<()> {
    let zombie = world.worker().await?;
    let held = world.running(zombie, "mail").await?;
    world.pass(LEASE * 3, &[]).await?;
    for restarted in [false, true] {
        if restarted {
            world.harness.reopen().await?;
        }
        let store = world.store();
        let fenced = Some(ErrorKind::Fenced);
        ensure!(kind(&store.heartbeat(zombie).await) == fenced, "heartbeat");
        ensure!(kind(&store.held(zombie).await) == fenced, "held");
        let claim = Claim {
            claim: ClaimId::new(),
            incarnation: zombie,
            references: Vec::new(),
        };
        ensure!(kind(&store.claim(claim).await) == fenced, "claim");
        ensure!(kind(&store.claimed(zombie, ClaimId::new()).await) == fenced, "claimed");
        ensure!(kind(&world.write(zombie, &held, exited(0)).await?) == fenced, "record");
        let adopt = Adopt {
            incarnation: zombie,
            realms: [(name("process")?, RealmId("here".into()))].into(),
            only: None,
            max: 9,
            format: robata_core::Format::OWN,
        };
        ensure!(kind(&store.adopt(adopt).await) == fenced, "adopt");
        ensure!(kind(&store.release(zombie).await) == fenced, "release");
    }
    ensure!(world.job(held.id.job).await?.state == JobState::Running);
    Ok(())
}

/// `release` MUST end the lease so that others adopt at once.
pub async fn what_is_released_is_adopted_at_once(world: World) -> Result<()> {
    let (first, second) = (world.worker().await?, world.worker().await?);
    let held = world.running(first, "mail").await?;
    ensure!(
        world.adopt(second).await?.is_empty(),
        "what a live lease holds was given"
    );
    world.store().release(first).await?;
    let adopted = world.adopt(second).await?;
    ensure!(
        adopted.len() == 1 && adopted[0].id == held.id && adopted[0].epoch == held.epoch + 1,
        "{adopted:?}"
    );
    ensure!(world.store().held(second).await? == [(held.id, held.epoch + 1)]);
    Ok(())
}

/// Of each attempt to one adopter.
pub async fn an_attempt_is_adopted_by_one(world: World) -> Result<()> {
    let first = world.worker().await?;
    for _ in 0..20 {
        world.running(first, "mail").await?;
    }
    world.store().release(first).await?;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let incarnation = world.worker().await?;
        let store = world.store();
        let realms = [(name("process")?, RealmId("here".into()))].into();
        calls.spawn(async move {
            store
                .adopt(Adopt {
                    incarnation,
                    realms,
                    only: None,
                    max: 7,
                    format: robata_core::Format::OWN,
                })
                .await
        });
    }
    let mut ids = Vec::new();
    while let Some(adopted) = calls.join_next().await {
        let adopted = adopted??;
        ensure!(adopted.len() <= 7, "more than asked for");
        ids.extend(adopted.into_iter().map(|held| held.id));
    }
    ids.sort_unstable();
    ids.dedup();
    ensure!(ids.len() == 20, "{} of 20", ids.len());
    Ok(())
}

/// Payloads are what starts need: a claim has them, also where it is asked for again; an adopter, who starts nothing, has not.
pub async fn payloads_are_given_to_who_starts_and_not_to_adopters(world: World) -> Result<()> {
    let first = world.worker().await?;
    let payload = Payload::from_stored(format!("\"{}\"", "x".repeat(100_000)).into());
    let new = NewJob {
        payload: payload.clone(),
        ..job("shop", "mail")?
    };
    let stored = world.one(new).await?;
    let claim = Claim {
        claim: ClaimId::new(),
        incarnation: first,
        references: vec![next(&stored)],
    };
    let number = claim.claim;
    for claimed in world.store().claim(claim).await? {
        ensure!(held(claimed)?.payload == payload, "the claim lacks it");
    }
    let again = world.store().claimed(first, number).await?;
    ensure!(
        again.len() == 1 && again[0].payload == payload,
        "lacking where the claim is asked for again"
    );
    world.store().release(first).await?;
    let heir = world.worker().await?;
    let adopted = world.adopt(heir).await?;
    ensure!(adopted.len() == 1 && adopted[0].id.job == stored.id, "{adopted:?}");
    ensure!(adopted[0].payload == Payload::null(), "it was read for an adopter");
    ensure!(adopted[0].request.mark == number, "{adopted:?}");
    // By name, too.
    let request = Adopt {
        incarnation: heir,
        realms: [(name("process")?, RealmId("here".into()))].into(),
        only: Some(vec![adopted[0].id]),
        max: 9,
        format: robata_core::Format::OWN,
    };
    let adopted = world.store().adopt(request).await?;
    ensure!(adopted.len() == 1 && adopted[0].payload == Payload::null());
    ensure!(
        world.store().job(stored.id).await?.payload == payload,
        "the job has lost it"
    );
    Ok(())
}

/// Attempts that ended and are not finalised are given, too; finalised ones are not.
pub async fn what_ended_and_is_not_finalised_is_adopted(world: World) -> Result<()> {
    let first = world.worker().await?;
    let ended = world.failed(first).await?;
    let done = world.failed(first).await?;
    world.wrote(first, &done, sealed()).await?;
    world.store().release(first).await?;
    let heir = world.worker().await?;
    let adopted = world.adopt(heir).await?;
    ensure!(
        adopted.len() == 1 && adopted[0].id == ended.id && !adopted[0].state.is_live(),
        "{adopted:?}"
    );
    world.wrote(heir, &adopted[0], sealed()).await?;
    ensure!(world.store().held(heir).await?.is_empty());
    Ok(())
}

/// Only what is in a realm that the adopter reaches; without a recorded realm, by its executor.
pub async fn adoption_goes_by_realm_and_executor(world: World) -> Result<()> {
    let first = world.worker().await?;
    let there = world.running(first, "mail").await?;
    let prepared = AttemptChange::Prepared {
        realm: RealmId("here".into()),
        handle: Handle("c".into()),
        image_digest: None,
    };
    world.wrote(first, &there, prepared).await?;
    let nowhere = world.running(first, "mail").await?;
    world.store().release(first).await?;
    let stranger = world.worker_with("docker").await?;
    let request = Adopt {
        incarnation: stranger,
        realms: [(name("docker")?, RealmId("here".into()))].into(),
        only: None,
        max: 9,
        format: robata_core::Format::OWN,
    };
    ensure!(world.store().adopt(request).await?.is_empty(), "another executor's");
    let elsewhere = world.worker().await?;
    let adopted = world.adopt_in(elsewhere, "elsewhere").await?;
    ensure!(adopted.len() == 1 && adopted[0].id == nowhere.id, "{adopted:?}");
    let here = world.worker().await?;
    let adopted = world.adopt(here).await?;
    ensure!(
        adopted.len() == 1 && adopted[0].id == there.id && adopted[0].handle == Some(Handle("c".into())),
        "{adopted:?}"
    );
    Ok(())
}

/// `only` names which.
pub async fn adoption_can_name_its_attempts(world: World) -> Result<()> {
    let first = world.worker().await?;
    let wanted = world.running(first, "mail").await?;
    world.running(first, "mail").await?;
    world.store().release(first).await?;
    let incarnation = world.worker().await?;
    let realms = [(name("process")?, RealmId("here".into()))].into();
    let request = Adopt {
        incarnation,
        realms,
        only: Some(vec![wanted.id]),
        max: 9,
        format: robata_core::Format::OWN,
    };
    let adopted = world.store().adopt(request).await?;
    ensure!(adopted.len() == 1 && adopted[0].id == wanted.id, "{adopted:?}");
    Ok(())
}

/// PROTOCOL H3, the net below: what the adopter itself holds is given to it again by name, with a higher epoch.
pub async fn an_adopter_is_given_by_name_what_it_holds_itself(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.running(worker, "mail").await?;
    ensure!(
        world.adopt(worker).await?.is_empty(),
        "not named: its own live lease holds it"
    );
    let request = Adopt {
        incarnation: worker,
        realms: [(name("process")?, RealmId("here".into()))].into(),
        only: Some(vec![held.id]),
        max: 9,
        format: robata_core::Format::OWN,
    };
    let adopted = world.store().adopt(request).await?;
    ensure!(
        adopted.len() == 1 && adopted[0].id == held.id && adopted[0].epoch == held.epoch + 1,
        "{adopted:?}"
    );
    Ok(())
}

/// PROTOCOL H3: a heartbeat answers with count and hash of what is held.
pub async fn a_heartbeat_tells_what_is_held(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let empty = world.store().heartbeat(worker).await?;
    ensure!((empty.held, empty.hash) == (0, 0));
    let mut hash = 0_u64;
    for _ in 0..3 {
        let held = world.running(worker, "mail").await?;
        hash = hash.wrapping_add(held_hash(held.id, held.epoch));
    }
    let beat = world.store().heartbeat(worker).await?;
    ensure!((beat.held, beat.hash) == (3, hash), "{beat:?}");
    let list = world.store().held(worker).await?;
    ensure!(
        list.iter()
            .fold(0_u64, |sum, (id, epoch)| sum.wrapping_add(held_hash(*id, *epoch)))
            == hash
    );
    Ok(())
}

/// PROTOCOL C1: unknown, open, finalised.
pub async fn known_tells_what_may_be_removed(mut world: World) -> Result<()> {
    let worker = world.worker().await?;
    let open = world.running(worker, "mail").await?;
    let ended = world.failed(worker).await?;
    let done = world.failed(worker).await?;
    world.wrote(worker, &done, sealed()).await?;
    let strange = AttemptId {
        job: JobId::new(),
        number: 1,
    };
    let never = AttemptId {
        job: open.id.job,
        number: 2,
    };
    let asked = [done.id, strange, open.id, never, ended.id, done.id];
    use Knowledge::{Finalised, Open, Unknown};
    let expected = [Finalised, Unknown, Open, Unknown, Open, Finalised];
    ensure!(world.store().known(&asked).await? == expected);
    world.harness.reopen().await?;
    ensure!(world.store().known(&asked).await? == expected);
    ensure!(world.store().known(&[]).await?.is_empty());
    Ok(())
}

/// Workers, live ones first, with what they hold.
pub async fn workers_are_told_live_ones_first(world: World) -> Result<()> {
    let gone = world.worker().await?;
    world.store().release(gone).await?;
    let live = world.worker().await?;
    world.running(live, "mail").await?;
    let workers = world.store().workers().await?;
    let told: Vec<_> = workers
        .iter()
        .map(|worker| (worker.incarnation, worker.ended_at.is_some(), worker.held))
        .collect();
    ensure!(told == [(live, false, 1), (gone, true, 0)], "{told:?}");
    ensure!(workers[0].executors["process"].slots == 8);
    Ok(())
}

/// A lease that ended stays so: its incarnation cannot register again.
pub async fn an_ended_incarnation_cannot_register_again(world: World) -> Result<()> {
    let worker = world.worker().await?;
    world.store().release(worker).await?;
    let request = robata_core::store::Register {
        incarnation: worker,
        host: "suite".into(),
        pid: 7,
        executors: [].into(),
        format: robata_core::Format::OWN,
    };
    ensure!(kind(&world.store().register(request).await) == Some(ErrorKind::Fenced));
    ensure!(
        kind(&world.store().heartbeat(IncarnationId::new()).await) == Some(ErrorKind::Fenced),
        "never registered"
    );
    Ok(())
}

/// `judge` MUST end leases that have expired by the store's clock.
pub async fn a_lease_without_heartbeats_ends(world: World) -> Result<()> {
    let (silent, live) = (world.worker().await?, world.worker().await?);
    let held = world.running(silent, "mail").await?;
    let ended = world.pass(LEASE * 3, &[live]).await?;
    ensure!(ended == 1, "{ended} ended");
    ensure!(kind(&world.store().heartbeat(silent).await) == Some(ErrorKind::Fenced));
    world.store().heartbeat(live).await?;
    let adopted = world.adopt(live).await?;
    ensure!(adopted.len() == 1 && adopted[0].id == held.id);
    Ok(())
}

/// PROTOCOL H4: … and MUST move its judgement by a whole lease after a gap in all marks.
pub async fn after_a_gap_in_the_marks_nobody_is_judged_for_a_lease(world: World) -> Result<()> {
    let worker = world.worker().await?;
    world.pass(LEASE * 2, &[worker]).await?;
    // The store was away for a minute: neither marks nor heartbeats.
    world.harness.advance(Duration::from_secs(60));
    ensure!(world.store().judge(super::mark()).await?.ended == 0);
    ensure!(world.pass(LEASE - Duration::from_secs(2), &[]).await? == 0);
    world.store().heartbeat(worker).await?;
    ensure!(world.pass(LEASE * 2, &[]).await? == 1);
    Ok(())
}

/// PROTOCOL T1: leases do not go by the wall clock.
pub async fn a_step_of_the_wall_clock_ends_no_lease(world: World) -> Result<()> {
    let worker = world.worker().await?;
    world.pass(LEASE * 2, &[worker]).await?;
    world.harness.step_wall(86_400_000);
    ensure!(world.store().judge(super::mark()).await?.ended == 0);
    world.store().heartbeat(worker).await?;
    ensure!(world.job(world.one(job("shop", "mail")?).await?.id).await?.state == JobState::Queued);
    Ok(())
}

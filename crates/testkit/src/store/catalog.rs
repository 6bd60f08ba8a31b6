//! The catalog, and the installation's id.

use std::time::Duration;

use anyhow::{Result, ensure};
use robata_core::{
    ErrorKind,
    definition::CatalogWrite,
    job::{NewJob, When},
    queue::BrokerKey,
    store::{Published, Window},
};

use super::world::{World, job, kind, line, name, next};

/// `change_catalog` MUST be `Conflict` where the revision has moved on, and MUST do all writes or none.
pub async fn a_change_planned_on_an_old_revision_is_a_conflict(world: World) -> Result<()> {
    let before = world.store().catalog().await?;
    let write = |app: &str| Ok::<_, anyhow::Error>(CatalogWrite::App(name(app)?, Default::default()));
    let after = world
        .store()
        .change_catalog(before.revision, vec![write("one")?], "suite")
        .await?;
    ensure!(after.revision > before.revision && after == world.store().catalog().await?);
    let late = world
        .store()
        .change_catalog(before.revision, vec![write("two")?, write("three")?], "suite")
        .await;
    ensure!(kind(&late) == Some(ErrorKind::Conflict), "{late:?}");
    ensure!(
        world.store().catalog().await? == after,
        "a refused change changed something"
    );
    Ok(())
}

/// The catalog outlives the store's program, each definition with its version.
pub async fn the_catalog_is_there_after_a_restart(mut world: World) -> Result<()> {
    world
        .apply(
            r#"{"defaults": {"timeout": "5m"}, "queues": {"shop": {"max_running": 3}},
                "apps": {"shop": {"command": ["true"], "executor": "process", "max_running": 7, "description": "Sells.",
                                  "retention": {"jobs": "2d"}, "jobs": {"mail": {"env": {"A": "b"}}}}}}"#,
        )
        .await?;
    let before = world.store().catalog().await?;
    let mail = before.job(&name("shop")?, &name("mail")?).map(|entry| entry.version);
    ensure!(mail == Some(2), "{mail:?}");
    ensure!(before.apps["shop"].description.as_deref() == Some("Sells."));
    world.harness.reopen().await?;
    ensure!(world.store().catalog().await? == before);
    let deletes = vec![
        CatalogWrite::DeleteJob(name("shop")?, name("mail")?),
        CatalogWrite::DeleteApp(name("bank")?),
    ];
    let after = world.store().change_catalog(before.revision, deletes, "suite").await?;
    ensure!(after.job(&name("shop")?, &name("mail")?).is_none() && !after.apps.contains_key("bank"));
    world.harness.reopen().await?;
    ensure!(world.store().catalog().await? == after);
    Ok(())
}

/// It MUST move waiting jobs of changed definitions to their new line, their publication void, but leave a queue that the
/// enqueuer chose.
pub async fn waiting_jobs_of_a_changed_definition_change_their_line(world: World) -> Result<()> {
    let old = line("shop", "process")?;
    let later = When::In(Duration::from_secs(60));
    let chosen = NewJob {
        line: line("vip", "process")?,
        queue_chosen: true,
        ..job("shop", "mail")?
    };
    let one_off = NewJob {
        definition: Some(Box::default()),
        ..job("shop", "mail")?
    };
    let jobs = world
        .enqueue(vec![
            job("shop", "mail")?,
            NewJob {
                when: later,
                ..job("shop", "mail")?
            },
            chosen,
            one_off,
            job("shop", "rare")?,
            job("shop", "mail")?,
        ])
        .await?;
    let worker = world.worker().await?;
    world.hold(worker, &jobs[5]).await?;
    let (_, reference) = next(&jobs[0]);
    let published = Published {
        line: old.clone(),
        broker_key: BrokerKey("b".into()),
        references: vec![reference],
        format: robata_core::Format::PREVIOUS,
    };
    world.store().published(published).await?;
    world
        .apply(
            r#"{"apps": {"shop": {"command": ["true"], "executor": "process",
                                  "jobs": {"mail": {"queue": "post", "executor": "docker"}}}}}"#,
        )
        .await?;
    let lines = [
        line("post", "docker")?,
        line("post", "docker")?,
        line("vip", "docker")?,
        old.clone(),
        old.clone(),
        old.clone(),
    ];
    for (job, line) in jobs.iter().zip(&lines) {
        let now = world.job(job.id).await?;
        ensure!(now.line == *line, "{now:?} is not in {line}");
    }
    let out = world
        .store()
        .references(Window {
            line: line("post", "docker")?,
            size: 10,
        })
        .await?;
    ensure!(out == [reference], "its publication is not void: {out:?}");
    let counts = world.store().queue_counts().await?;
    let told: Vec<_> = counts
        .iter()
        .filter(|counts| counts.scheduled + counts.queued + counts.running > 0)
        .map(|counts| (counts.line.to_string(), counts.scheduled, counts.queued, counts.running))
        .collect();
    let expected = [
        ("post/docker", 1, 1, 0),
        ("shop/process", 0, 2, 1),
        ("vip/docker", 0, 1, 0),
    ];
    ensure!(
        told == expected.map(|(line, scheduled, queued, running)| (line.to_owned(), scheduled, queued, running)),
        "{told:?}"
    );
    Ok(())
}

/// PROTOCOL O1: who enqueues may have looked at a catalog that has changed since; the job must not stay in a line that is not
/// its definition's any more.
pub async fn an_enqueue_by_an_older_catalog_goes_to_the_line_as_it_is_now(world: World) -> Result<()> {
    let old = [
        job("shop", "mail")?,
        NewJob {
            line: line("vip", "process")?,
            queue_chosen: true,
            ..job("shop", "mail")?
        },
        NewJob {
            definition: Some(Box::default()),
            ..job("shop", "mail")?
        },
        NewJob {
            when: When::In(Duration::from_secs(60)),
            ..job("shop", "mail")?
        },
        job("shop", "nowhere-defined")?,
    ];
    world
        .apply(
            r#"{"apps": {"shop": {"command": ["true"], "executor": "process",
                                  "jobs": {"mail": {"queue": "post", "executor": "docker"}}}}}"#,
        )
        .await?;
    let told = world.enqueue(old.to_vec()).await?;
    let lines = [
        line("post", "docker")?,
        line("vip", "docker")?,
        line("shop", "process")?,
        line("post", "docker")?,
        line("shop", "process")?,
    ];
    for (told, line) in told.iter().zip(&lines) {
        ensure!(told.line == *line, "told {}, not {line}", told.line);
        ensure!(world.job(told.id).await?.line == *line, "{told:?} is not in {line}");
    }
    let out = world
        .store()
        .references(Window {
            line: lines[0].clone(),
            size: 10,
        })
        .await?;
    ensure!(out == [next(&told[0]).1], "{out:?}");
    let counts = world.store().queue_counts().await?;
    let told: Vec<_> = counts
        .iter()
        .map(|counts| (counts.line.to_string(), counts.scheduled, counts.queued))
        .collect();
    let expected = [("post/docker", 1, 1), ("shop/process", 0, 2), ("vip/docker", 0, 1)];
    ensure!(
        told == expected.map(|(line, scheduled, queued)| (line.to_owned(), scheduled, queued)),
        "{told:?}"
    );
    Ok(())
}

/// PROTOCOL O1: queue and executor are resolved again at every retry.
pub async fn a_retry_goes_to_the_line_of_its_definition_as_it_is_then(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let held = world.running(worker, "resize").await?;
    world
        .apply(
            r#"{"apps": {"shop": {"command": ["true"], "executor": "process",
                                  "jobs": {"resize": {"queue": "post", "retry": {"max_attempts": 3, "jitter": "none"}}}}}}"#,
        )
        .await?;
    ensure!(
        world.job(held.id.job).await?.line == line("shop", "process")?,
        "a running job stays"
    );
    world.wrote(worker, &held, super::world::exited(1)).await?;
    ensure!(world.job(held.id.job).await?.line == line("post", "process")?);
    Ok(())
}

/// PROTOCOL R2: the installation's id is made once.
pub async fn the_installations_id_stays(mut world: World) -> Result<()> {
    let id = world.store().installation();
    world.harness.reopen().await?;
    ensure!(world.store().installation() == id);
    Ok(())
}

/// Whether it serves: a real write.
pub async fn a_store_that_serves_says_so(world: World) -> Result<()> {
    Ok(world.store().check(Duration::from_secs(10)).await?)
}

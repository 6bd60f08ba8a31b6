//! The format in use (PROTOCOL V1): rises late, falls at once, and nothing newer is left where older daemons are.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use robata_core::{
    Format, IncarnationId,
    attempt::Knowledge,
    executor::RealmId,
    job::Reference,
    queue::BrokerKey,
    store::{Adopt, LEASE, MARK, Mark, Published, Window},
};

use super::world::{World, job, line, name};

/// Announced by daemons of suites alone: the format in use is what they say, whatever this release itself writes.
const NEW: Format = Format::new(9);
const OLD: Format = Format::new(8);

/// A master of a case's own.
struct Master(Mark);

impl Master {
    fn of(format: Format) -> Self {
        Self(Mark {
            master: IncarnationId::new(),
            format,
        })
    }

    async fn judges(&self, world: &World) -> Result<Format> {
        let judged = world.store().judge(self.0).await?;
        ensure!(
            world.store().format() == judged.format,
            "the process has not seen {judged:?}"
        );
        Ok(judged.format)
    }

    /// Marks until this format is in use; answers how long it took.
    async fn until(&self, world: &World, format: Format, live: &[IncarnationId]) -> Result<Duration> {
        let mut took = Duration::ZERO;
        while self.judges(world).await? != format {
            ensure!(took < 4 * LEASE, "the format {format} is not in use after {took:?}");
            world.harness.advance(MARK);
            took += MARK;
            for worker in live {
                world.store().heartbeat(*worker).await?;
            }
        }
        Ok(took)
    }
}

/// What goes out now.
async fn references(world: &World) -> Result<Vec<Reference>> {
    let window = Window {
        line: line("shop", "process")?,
        size: 100,
    };
    Ok(world.store().references(window).await?)
}

async fn published(world: &World, references: Vec<Reference>, format: Format) -> Result<()> {
    let published = Published {
        line: line("shop", "process")?,
        broker_key: BrokerKey("k".into()),
        references,
        format,
    };
    Ok(world.store().published(published).await?)
}

async fn out(world: &World) -> Result<u64> {
    let lines = world.store().lines().await?;
    Ok(lines.iter().map(|line| line.published).sum())
}

/// The format rises only when every live daemon announces a newer one and marks came without a gap for a lease.
pub async fn the_format_in_use_rises_after_a_lease_of_marks_and_falls_at_once(world: World) -> Result<()> {
    let (one, two) = (Master::of(NEW), Master::of(OLD));
    let worker = world.worker_of("process", NEW).await?;
    let before = world.store().format();
    ensure!(before < OLD, "{before}");
    let took = one.until(&world, NEW, &[worker]).await?;
    ensure!(took >= LEASE, "after {took:?}");
    ensure!(two.judges(&world).await? == OLD, "an older master was not heeded");
    let formats = world.store().formats().await?;
    ensure!(formats.in_use == OLD, "{formats:?}");
    for master in [&one, &two] {
        ensure!(formats.masters.iter().any(|told| told.mark == master.0), "{formats:?}");
    }
    ensure!(
        one.judges(&world).await? == OLD,
        "it rose while an older master was there"
    );
    // It says nothing any more: a lease later it is not there.
    let took = one.until(&world, NEW, &[worker]).await?;
    ensure!(took >= LEASE, "after {took:?}");
    let workers = world.store().workers().await?;
    ensure!(workers.iter().any(|told| told.format == NEW), "{workers:?}");
    // A worker counts until its lease has ended.
    let old = world.worker_of("process", OLD).await?;
    for _ in 0..=2 * LEASE.as_secs() / MARK.as_secs() {
        world.harness.advance(MARK);
        world.store().heartbeat(old).await?;
        world.store().heartbeat(worker).await?;
        ensure!(one.judges(&world).await? == OLD, "it rose while an older worker lived");
    }
    world.store().release(old).await?;
    one.until(&world, NEW, &[worker]).await?;
    Ok(())
}

/// In a gap nobody announces anything: who is silent may live all the same.
pub async fn after_a_gap_in_the_marks_no_format_rises_for_a_lease(world: World) -> Result<()> {
    let (one, two) = (Master::of(NEW), Master::of(OLD));
    one.until(&world, NEW, &[]).await?;
    ensure!(two.judges(&world).await? == OLD);
    world.harness.advance(10 * LEASE);
    let took = one.until(&world, NEW, &[]).await?;
    ensure!(took >= LEASE, "after {took:?}");
    Ok(())
}

/// From the answer of an older worker's registration on nothing newer is out.
pub async fn an_older_worker_puts_its_format_in_use_and_what_is_out_goes_out_again(world: World) -> Result<()> {
    let master = Master::of(NEW);
    let worker = world.worker_of("process", NEW).await?;
    master.until(&world, NEW, &[worker]).await?;
    world.one(job("shop", "mail")?).await?;
    let given = references(&world).await?;
    published(&world, given.clone(), NEW).await?;
    ensure!(given.len() == 1 && out(&world).await? == 1);
    ensure!(references(&world).await?.is_empty());
    world.worker_of("process", OLD).await?;
    ensure!(world.store().formats().await?.in_use == OLD);
    ensure!(world.store().format() == OLD);
    ensure!(
        out(&world).await? == 0,
        "it is out in a format that not everybody reads"
    );
    ensure!(references(&world).await? == given, "it does not go out again");
    Ok(())
}

/// When the store was closed nobody announced anything: what it left is told to whoever opens it next.
pub async fn what_is_out_in_a_newer_format_goes_out_again_for_an_older_release_that_opens_the_store(
    mut world: World,
) -> Result<()> {
    Master::of(NEW).until(&world, NEW, &[]).await?;
    world.one(job("shop", "mail")?).await?;
    let given = references(&world).await?;
    published(&world, given.clone(), NEW).await?;
    ensure!(out(&world).await? == 1);
    world.harness.reopen().await?;
    ensure!(Master::of(OLD).judges(&world).await? == OLD);
    ensure!(
        out(&world).await? == 0,
        "it is out in a format that nobody reads any more"
    );
    ensure!(references(&world).await? == given, "it does not go out again");
    Ok(())
}

/// A master that has not yet heard that the format fell.
pub async fn what_was_written_in_a_newer_format_than_the_one_in_use_is_not_noted_as_out(world: World) -> Result<()> {
    Master::of(OLD).until(&world, OLD, &[]).await?;
    world.one(job("shop", "mail")?).await?;
    let given = references(&world).await?;
    published(&world, given.clone(), NEW).await?;
    ensure!(out(&world).await? == 0);
    ensure!(references(&world).await? == given, "it does not go out again");
    published(&world, given, OLD).await?;
    ensure!(out(&world).await? == 1);
    ensure!(references(&world).await?.is_empty());
    Ok(())
}

/// What is frozen is in the format in use, as far as this release knows it.
pub async fn a_claim_freezes_in_the_format_in_use(world: World) -> Result<()> {
    let worker = world.worker_of("process", NEW).await?;
    Master::of(NEW).until(&world, NEW, &[worker]).await?;
    let held = world.running(worker, "mail").await?;
    ensure!(held.request.format == Format::OWN, "{}", held.request.format);
    world.worker_of("process", Format::new(1)).await?;
    let held = world.running(worker, "mail").await?;
    ensure!(held.request.format == Format::PREVIOUS, "{}", held.request.format);
    Ok(())
}

/// An adopter that does not read a request leaves its attempt to another, and takes what it can read.
pub async fn what_is_frozen_in_a_newer_format_is_left_by_its_adopter(world: World) -> Result<()> {
    let first = world.worker_of("process", NEW).await?;
    let before = world.running(first, "mail").await?;
    Master::of(NEW).until(&world, NEW, &[first]).await?;
    let after = world.running(first, "mail").await?;
    world.store().release(first).await?;
    let second = world.worker_of("process", Format::NONE).await?;
    let adopt = |format| {
        let realms = [(name("process")?, RealmId("here".into()))].into();
        anyhow::Ok(Adopt {
            incarnation: second,
            realms,
            only: None,
            max: 9,
            format,
        })
    };
    let given = world.store().adopt(adopt(Format::NONE)?).await?;
    ensure!(given.is_empty(), "{given:?}");
    // It is nobody's stray.
    let known = world.store().known(&[before.id, after.id]).await?;
    ensure!(known == [Knowledge::Open; 2], "{known:?}");
    let mut left = vec![before.id, after.id];
    for format in [Format::PREVIOUS, Format::OWN] {
        let given = world.store().adopt(adopt(format)?).await?;
        ensure!(given.iter().all(|held| held.request.format <= format), "{given:?}");
        for held in given {
            let at = left.iter().position(|id| *id == held.id);
            left.remove(at.context("it was given twice")?);
        }
        ensure!(!left.contains(&before.id), "what it reads was not given");
    }
    ensure!(left.is_empty(), "{left:?} was given to nobody");
    Ok(())
}

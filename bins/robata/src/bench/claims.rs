//! How fast the store gives references out and takes claims, at the store itself: through processes the time of a claim
//! would vanish behind that of a spawn.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use robata_core::{
    ClaimId, ExecutorName, IncarnationId,
    attempt::{Claim, Claimed},
    queue::BrokerKey,
    store::{Published, Register, Store, Void, Window, WorkerExecutor},
};
use robata_settings::Settings;

use super::{front::APP, load::per_second};

/// References in one go: what a worker with eight slots has in its window.
const GROUP: usize = 32;

/// Claims a second in the store of a server that has stopped, over `claims` claims.
pub(super) async fn per_second_in(settings: &Settings, executor: &str, claims: usize) -> anyhow::Result<f64> {
    let store = robata_adapters::store(settings, robata_adapters::Role::All).await?;
    let executor: ExecutorName = executor.parse()?;
    let incarnation = IncarnationId::new();
    store
        .register(Register {
            incarnation,
            host: "bench".to_owned(),
            pid: std::process::id(),
            executors: BTreeMap::from([(executor.clone(), WorkerExecutor { realm: None, slots: 8 })]),
            format: robata_core::Format::OWN,
        })
        .await?;
    let line = robata_core::job::Line {
        queue: APP.parse()?,
        executor,
    };
    let key = BrokerKey("bench".to_owned());
    // What the server had published is out in a broker that is gone.
    store.void(&line, Void::OtherKey(key.clone())).await?;
    let begin = Instant::now();
    let mut heard = begin;
    let mut done = 0;
    while done < claims {
        done += group(&*store, incarnation, &line, &key).await?;
        if heard.elapsed() > Duration::from_secs(3) {
            store.heartbeat(incarnation).await?;
            heard = Instant::now();
        }
    }
    Ok(per_second(u64::try_from(done)?, begin.elapsed()))
}

/// The way of a group of references from the store to a worker's claim.
async fn group(
    store: &dyn Store,
    incarnation: IncarnationId,
    line: &robata_core::job::Line,
    key: &BrokerKey,
) -> anyhow::Result<usize> {
    let references = store
        .references(Window {
            line: line.clone(),
            size: GROUP,
        })
        .await?;
    ensure!(!references.is_empty(), "the store has no more queued jobs");
    let published = Published {
        line: line.clone(),
        broker_key: key.clone(),
        references: references.clone(),
        format: robata_core::Format::PREVIOUS,
    };
    store.published(published).await?;
    let references: Vec<_> = references
        .into_iter()
        .map(|reference| (line.clone(), reference))
        .collect();
    let count = references.len();
    let claimed = store
        .claim(Claim {
            claim: ClaimId::new(),
            incarnation,
            references,
        })
        .await?;
    let held = claimed
        .iter()
        .filter(|claimed| matches!(claimed, Claimed::Held(_)))
        .count();
    ensure!(held == count, "of {count} references {held} could be claimed");
    Some(held).filter(|held| *held > 0).context("nothing was claimed")
}

//! The database does not only grow: free pages go back to the disk, and old audit rows go.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use robata_core::{
    JobId, Payload,
    job::{Cancel, Enqueue, Line, NewJob, When},
    store::{JobStore as _, ScheduleStore as _},
};
use robata_store_sqlite::{
    SqliteConfig, SqliteStore,
    clock::{Clock, OffsetClock},
};
use sqlx::{ConnectOptions as _, SqliteConnection, sqlite::SqliteConnectOptions};

const DAY: Duration = Duration::from_secs(86_400);

fn large() -> Result<NewJob> {
    Ok(NewJob {
        id: JobId::new(),
        app: "shop".parse()?,
        job: "mail".parse()?,
        line: Line {
            queue: "shop".parse()?,
            executor: "process".parse()?,
        },
        queue_chosen: false,
        payload: Payload::from_stored(format!("\"{}\"", "x".repeat(500_000)).into_bytes().into()),
        labels: Default::default(),
        env: Default::default(),
        priority: 0,
        when: When::Now,
        expires_in: None,
        key: None,
        max_attempts: 1,
        definition: None,
        traceparent: None,
    })
}

async fn number(shell: &mut SqliteConnection, text: &'static str) -> Result<i64> {
    Ok(sqlx::query_scalar(text).fetch_one(shell).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pruned_gives_its_room_back() -> Result<()> {
    let (folder, clock) = (tempfile::tempdir()?, Arc::<OffsetClock>::default());
    let mut config = SqliteConfig::new(folder.path());
    config.clock = Arc::<OffsetClock>::clone(&clock) as Arc<dyn Clock>;
    let store = SqliteStore::open(config).await?;
    let mut shell = SqliteConnectOptions::new()
        .filename(folder.path().join("robata.db"))
        .connect()
        .await?;
    let jobs = (0..40).map(|_| large()).collect::<Result<Vec<_>>>()?;
    for answer in store.enqueue(Enqueue { jobs, atomic: false }).await? {
        let by = "test".to_owned();
        store
            .cancel(Cancel {
                job: answer?.job.id,
                by,
            })
            .await?;
    }
    let full = number(&mut shell, "PRAGMA page_count").await?;
    ensure!(full > 4_500, "{full} pages");
    clock.advance(DAY * 31);
    ensure!(store.prune(500).await?.jobs == 40);
    let once = number(&mut shell, "PRAGMA page_count").await?;
    // In steps that are not felt.
    ensure!(
        (1_000..1_010).contains(&(full - once)),
        "{once} of {full} pages are left"
    );
    for _ in 0..8 {
        store.prune(500).await?;
    }
    let (left, free) = (
        number(&mut shell, "PRAGMA page_count").await?,
        number(&mut shell, "PRAGMA freelist_count").await?,
    );
    ensure!(
        left < 1_200 && (1_000..=1_024).contains(&free),
        "{left} of {full} pages are left, {free} of them free"
    );
    ensure!(
        number(&mut shell, "SELECT count(*) FROM audit").await? == 40,
        "audit rows are kept longer"
    );
    clock.advance(DAY * 370);
    store.prune(30).await?;
    ensure!(
        number(&mut shell, "SELECT count(*) FROM audit").await? == 10,
        "no more at once than asked"
    );
    store.prune(30).await?;
    ensure!(number(&mut shell, "SELECT count(*) FROM audit").await? == 0);
    store.close().await;
    Ok(())
}

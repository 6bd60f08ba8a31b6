//! The Store suite on SQLite.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use async_trait::async_trait;
use robata_core::store::Store;
use robata_store_sqlite::{
    SqliteConfig, SqliteStore,
    clock::{Clock, OffsetClock},
};
use robata_testkit::store::Harness;
use tempfile::TempDir;

struct Bed {
    folder: TempDir,
    clock: Arc<OffsetClock>,
    store: SqliteStore,
}

fn config(folder: &TempDir, clock: &Arc<OffsetClock>) -> SqliteConfig {
    let mut config = SqliteConfig::new(folder.path());
    config.clock = Arc::<OffsetClock>::clone(clock) as Arc<dyn Clock>;
    config
}

async fn bed() -> Result<Bed> {
    let (folder, clock) = (tempfile::tempdir()?, Arc::default());
    let store = SqliteStore::open(config(&folder, &clock)).await?;
    Ok(Bed { folder, clock, store })
}

#[async_trait]
impl Harness for Bed {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn reopen(&mut self) -> Result<()> {
        self.store.close().await;
        self.store = SqliteStore::open(config(&self.folder, &self.clock)).await?;
        Ok(())
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn step_wall(&self, millis: i64) {
        self.clock.step_wall(millis);
    }
}

robata_testkit::store_suite!(bed);

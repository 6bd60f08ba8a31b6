//! Which stores can be chosen.

use std::sync::Arc;

use robata_core::{Result, store::Store};
use robata_settings::{Settings, StoreSettings};

/// Opens the store that was chosen.
pub async fn store(settings: &Settings) -> Result<Arc<dyn Store>> {
    match &settings.store {
        #[cfg(feature = "sqlite")]
        StoreSettings::Sqlite(sqlite) => {
            let mut config = robata_store_sqlite::SqliteConfig::new(&sqlite.folder);
            config.default_executor = settings.default_executor();
            Ok(Arc::new(robata_store_sqlite::SqliteStore::open(config).await?))
        }
        #[cfg(not(feature = "sqlite"))]
        StoreSettings::Sqlite(_) => Err(crate::left_out("store.sqlite", "sqlite")),
    }
}

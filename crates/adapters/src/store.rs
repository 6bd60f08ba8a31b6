//! Which stores can be chosen.

use std::sync::Arc;

use robata_core::{Result, store::Store};
use robata_settings::{Settings, StoreSettings};

use crate::role::Role;

/// Opens the store that was chosen, with the connections that this role needs.
pub async fn store(settings: &Settings, role: Role) -> Result<Arc<dyn Store>> {
    #[cfg(not(feature = "postgres"))]
    let _ = role;
    match &settings.store {
        #[cfg(feature = "sqlite")]
        StoreSettings::Sqlite(sqlite) => {
            let mut config = robata_store_sqlite::SqliteConfig::new(&sqlite.folder);
            config.default_executor = settings.default_executor();
            Ok(Arc::new(robata_store_sqlite::SqliteStore::open(config).await?))
        }
        #[cfg(not(feature = "sqlite"))]
        StoreSettings::Sqlite(_) => Err(crate::left_out("store.sqlite", "sqlite")),
        #[cfg(feature = "postgres")]
        StoreSettings::Postgres(postgres) => {
            let config = crate::postgres::config(settings, postgres, role);
            Ok(Arc::new(robata_store_postgres::PostgresStore::connect(config).await?))
        }
        #[cfg(not(feature = "postgres"))]
        StoreSettings::Postgres(_) => Err(crate::left_out("store.postgres", "postgres")),
    }
}

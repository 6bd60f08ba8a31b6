//! From `[store.postgres]` to the adapter's own settings.

use robata_settings::{Migrate, PostgresSettings, Settings};
use robata_store_postgres::{Listen, PostgresConfig};

use crate::role::Role;

/// The adapter's settings for a process of this role.
pub(crate) fn config(settings: &Settings, postgres: &PostgresSettings, role: Role) -> PostgresConfig {
    let mut config = PostgresConfig::new(postgres.url.as_str());
    (config.connections, config.application_name) = match role {
        Role::All => (
            postgres.master_connections.saturating_add(postgres.worker_connections),
            "robata".to_owned(),
        ),
        Role::Master => (postgres.master_connections, "robata-master".to_owned()),
        Role::Worker => (postgres.worker_connections, "robata-worker".to_owned()),
    };
    config.listen = match postgres.listen_url.as_deref() {
        None => Listen::Same,
        Some("off") => Listen::Off,
        Some(url) => Listen::At(url.to_owned()),
    };
    config.migrate = match postgres.migrate {
        Migrate::Automatic => robata_store_postgres::Migrate::Automatic,
        Migrate::Check => robata_store_postgres::Migrate::Check,
    };
    config.default_executor = settings.default_executor();
    config
}

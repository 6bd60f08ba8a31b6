//! The Store suite on PostgreSQL, and again through PgBouncer in transaction mode.

mod support;

mod postgres {
    use super::support::{Bed, Database};

    async fn bed() -> anyhow::Result<Bed> {
        let database = Database::migrated().await?;
        let url = database.url.clone();
        Bed::at(database, url).await
    }

    robata_testkit::store_suite!(bed);
}

mod pgbouncer {
    use super::support::{Bed, Database, at, bouncer_url};

    async fn bed() -> anyhow::Result<Bed> {
        let bouncer = bouncer_url()?;
        let database = Database::migrated().await?;
        let url = at(&bouncer, &database.name)?;
        Bed::at(database, url).await
    }

    robata_testkit::store_suite!(bed);
}

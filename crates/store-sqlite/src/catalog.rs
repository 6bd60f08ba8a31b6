//! The catalog's tables, and what a change of it does to waiting jobs (PROTOCOL O1).

use std::{collections::BTreeMap, sync::Arc};

use robata_core::{
    AppName, ErrorKind, JobName, QueueName,
    definition::{App, Catalog, CatalogWrite, JobEntry},
    job::Line,
    row::{Deed, number},
    store::Hint,
};
use sqlx::SqliteConnection;

use crate::{
    error::{Result, refused},
    sql::Read as _,
    tx::{After, Tx},
};

/// A change of the catalog.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) writes: Vec<CatalogWrite>,
    pub(crate) by: String,
}

pub(crate) async fn load(conn: &mut SqliteConnection) -> Result<Catalog> {
    let mut catalog = Catalog::default();
    for row in sqlx::query("SELECT name, value FROM meta")
        .fetch_all(&mut *conn)
        .await?
    {
        match row.col::<&str>("name")? {
            "catalog_revision" => catalog.revision = row.json("value")?,
            "catalog_defaults" => catalog.defaults = row.json("value")?,
            _ => {}
        }
    }
    for row in sqlx::query("SELECT name, settings FROM catalog_queues")
        .fetch_all(&mut *conn)
        .await?
    {
        catalog
            .queues
            .insert(row.word::<QueueName>("name")?, row.json("settings")?);
    }
    let mut apps: BTreeMap<AppName, App> = BTreeMap::new();
    for row in sqlx::query("SELECT * FROM catalog_apps").fetch_all(&mut *conn).await? {
        let app = App {
            description: row.col("description")?,
            options: row.json("options")?,
            max_running: row
                .col::<Option<i64>>("max_running")?
                .and_then(|n| u32::try_from(n).ok()),
            retention: row.json("retention")?,
            jobs: BTreeMap::new(),
        };
        apps.insert(row.word("name")?, app);
    }
    for row in sqlx::query("SELECT * FROM catalog_definitions")
        .fetch_all(&mut *conn)
        .await?
    {
        let entry = JobEntry {
            options: row.json("options")?,
            definition: Arc::new(row.json("definition")?),
            version: row.number("version")?,
            updated_at: row.time("updated_at")?,
        };
        apps.entry(row.word("app")?)
            .or_default()
            .jobs
            .insert(row.word("job")?, entry);
    }
    catalog.apps = apps.into_iter().map(|(name, app)| (name, Arc::new(app))).collect();
    Ok(catalog)
}

pub(crate) async fn change(tx: &mut Tx, change: &Change) -> Result<Catalog> {
    if tx.catalog.revision != change.revision {
        let message = format!(
            "the catalog has changed meanwhile (it has revision {}, the change was planned on {}); plan again",
            tx.catalog.revision, change.revision
        );
        return Err(refused(ErrorKind::Conflict, "store.change_catalog", message));
    }
    if change.writes.is_empty() {
        return Ok(Catalog::clone(&tx.catalog));
    }
    let mut catalog = Catalog::clone(&tx.catalog);
    for write in &change.writes {
        catalog.write(write.clone(), tx.now);
    }
    catalog.revision += 1;
    tx.catalog = Arc::new(catalog.clone());
    for write in &change.writes {
        store(tx, &catalog, write).await?;
        tx.audit(&change.by, &Deed::catalog(write)).await?;
        if let CatalogWrite::Job(app, job, ..) = write {
            move_waiting(tx, app, job).await?;
        }
    }
    set_meta(&mut tx.conn, "catalog_revision", &catalog.revision.to_string()).await?;
    tx.after(After::Catalog(Arc::clone(&tx.catalog)));
    tx.tally.hint(Hint::Catalog);
    // A limit may have been lifted.
    tx.tally.free_slot();
    Ok(catalog)
}

pub(crate) async fn set_meta(conn: &mut SqliteConnection, name: &str, value: &str) -> Result<()> {
    sqlx::query("INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value")
        .bind(name)
        .bind(value)
        .execute(conn)
        .await?;
    Ok(())
}

async fn store(tx: &mut Tx, catalog: &Catalog, write: &CatalogWrite) -> Result<()> {
    let query = match write {
        CatalogWrite::Defaults(options) => {
            return set_meta(&mut tx.conn, "catalog_defaults", &serde_json::to_string(options)?).await;
        }
        CatalogWrite::Queue(name, settings) => {
            sqlx::query("INSERT OR REPLACE INTO catalog_queues (name, settings) VALUES (?, ?)")
                .bind(name.as_str())
                .bind(serde_json::to_string(settings)?)
        }
        CatalogWrite::App(name, settings) => sqlx::query(
            "INSERT OR REPLACE INTO catalog_apps (name, options, max_running, retention, description) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(name.as_str())
        .bind(serde_json::to_string(&settings.options)?)
        .bind(settings.max_running.map(i64::from))
        .bind(serde_json::to_string(&settings.retention)?)
        .bind(settings.description.as_deref()),
        CatalogWrite::DeleteApp(name) => {
            sqlx::query("DELETE FROM catalog_definitions WHERE app = ?")
                .bind(name.as_str())
                .execute(&mut tx.conn)
                .await?;
            sqlx::query("DELETE FROM catalog_apps WHERE name = ?").bind(name.as_str())
        }
        CatalogWrite::DeleteJob(app, job) => sqlx::query("DELETE FROM catalog_definitions WHERE app = ? AND job = ?")
            .bind(app.as_str())
            .bind(job.as_str()),
        CatalogWrite::Job(app, job, options, definition) => {
            // A later write of the same change may have removed it again.
            let Some(entry) = catalog.job(app, job) else {
                return Ok(());
            };
            sqlx::query(
                "INSERT OR REPLACE INTO catalog_definitions (app, job, options, definition, version, updated_at)
                 VALUES (?, ?, ?, ?, ?, ?)",
            )
            .bind(app.as_str())
            .bind(job.as_str())
            .bind(serde_json::to_string(options)?)
            .bind(serde_json::to_string(definition)?)
            .bind(i64::from(entry.version))
            .bind(entry.updated_at.as_millis())
        }
    };
    query.execute(&mut tx.conn).await?;
    Ok(())
}

/// Moves a definition's waiting jobs to its line as it is now, their publication void; a chosen queue stays, one-offs stay.
async fn move_waiting(tx: &mut Tx, app: &AppName, job: &JobName) -> Result<()> {
    let catalog = Arc::clone(&tx.catalog);
    let Some(entry) = catalog.job(app, job) else {
        return Ok(());
    };
    let queue = Catalog::queue_of(app, &entry.definition);
    let executor = entry
        .definition
        .executor
        .clone()
        .or_else(|| tx.shared.default_executor.clone());
    macro_rules! waiting {
        () => {
            " WHERE app = ?1 AND job = ?2 AND state = ?5
               AND ((queue_chosen = 0 AND queue <> ?3) OR executor <> coalesce(?4, executor))
               AND NOT EXISTS (SELECT 1 FROM job_data d WHERE d.seq = jobs.seq AND d.definition IS NOT NULL) "
        };
    }
    let executor_text = executor.as_ref().map(|name| name.as_str());
    for state in [number::SCHEDULED, number::QUEUED] {
        let moved = sqlx::query(concat!(
            "SELECT queue, executor, queue_chosen, count(*) AS n, count(published_at) AS out FROM jobs INDEXED BY jobs_by_definition",
            waiting!(),
            "GROUP BY queue, executor, queue_chosen"
        ))
        .bind(app.as_str())
        .bind(job.as_str())
        .bind(queue.as_str())
        .bind(executor_text)
        .bind(state)
        .fetch_all(&mut tx.conn)
        .await?;
        if moved.is_empty() {
            continue;
        }
        sqlx::query(concat!(
            "UPDATE jobs INDEXED BY jobs_by_definition SET queue = iif(queue_chosen, queue, ?3), executor = coalesce(?4, executor),
                 published_at = NULL, broker_key = NULL, publications = 0",
            waiting!()
        ))
        .bind(app.as_str())
        .bind(job.as_str())
        .bind(queue.as_str())
        .bind(executor_text)
        .bind(state)
        .execute(&mut tx.conn)
        .await?;
        let state = number::job(state)?;
        for row in moved {
            let from = row.line()?;
            let to = Line {
                queue: if row.col("queue_chosen")? {
                    from.queue.clone()
                } else {
                    queue.clone()
                },
                executor: executor.clone().unwrap_or_else(|| from.executor.clone()),
            };
            let n = row.col("n")?;
            tx.tally.count(&from, Some(state), None, n);
            tx.tally.count_out(&from, -row.col::<i64>("out")?);
            tx.tally.count(&to, None, Some(state), n);
            tx.tally.hint(Hint::Line(to));
        }
    }
    Ok(())
}

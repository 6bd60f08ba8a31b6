//! The catalog's tables, and what a change of it does to waiting jobs (PROTOCOL O1).

use std::{collections::BTreeMap, sync::Arc};

use robata_core::{
    AppName, ErrorKind, JobName, QueueName,
    definition::{App, Catalog, CatalogWrite, JobEntry},
    job::Line,
    row::Deed,
    store::Hint,
};

use crate::{
    conn::Conn,
    error::{Result, refused},
    sql::{Read as _, q, text},
    tx::{After, Tx},
};

/// Whoever puts jobs into lines shares this lock, whoever changes the catalog has it alone: else a job that is stored while
/// its definition changes would stay in a line that nobody moves it from. The key is "robatac" in ASCII.
pub(crate) const SHARE: &str = "SELECT pg_advisory_xact_lock_shared(32210615677509987); ";
const ALONE: &str = "SELECT pg_advisory_xact_lock(32210615677509987)";

/// How often a catalog is read that changes meanwhile.
const READS: u32 = 5;

/// A change of the catalog.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) writes: Vec<CatalogWrite>,
    pub(crate) by: String,
}

/// Reads it whole: again where it was changed between its tables.
pub(crate) async fn load(conn: &mut Conn) -> Result<Catalog> {
    let mut catalog = read(conn).await?;
    for _ in 1..READS {
        let again = q("SELECT value FROM robata.meta WHERE name = 'catalog_revision'")
            .fetch_one(&mut *conn)
            .await?;
        if again.json::<u64>("value")? == catalog.revision {
            break;
        }
        catalog = read(conn).await?;
    }
    Ok(catalog)
}

async fn read(conn: &mut Conn) -> Result<Catalog> {
    let mut catalog = Catalog::default();
    for row in q("SELECT name, value FROM robata.meta").fetch_all(&mut *conn).await? {
        match row.col::<&str>("name")? {
            "catalog_revision" => catalog.revision = row.json("value")?,
            "catalog_defaults" => catalog.defaults = row.json("value")?,
            _ => {}
        }
    }
    for row in q("SELECT name, settings FROM robata.catalog_queues")
        .fetch_all(&mut *conn)
        .await?
    {
        catalog
            .queues
            .insert(row.word::<QueueName>("name")?, row.json("settings")?);
    }
    let mut apps: BTreeMap<AppName, App> = BTreeMap::new();
    for row in q("SELECT * FROM robata.catalog_apps").fetch_all(&mut *conn).await? {
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
    for row in q("SELECT * FROM robata.catalog_definitions")
        .fetch_all(&mut *conn)
        .await?
    {
        let entry = JobEntry {
            options: row.json("options")?,
            definition: Arc::new(row.json("definition")?),
            version: row.long("version")?,
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
    // Changes go one after another.
    q(ALONE).execute(tx.conn()).await?;
    let mut catalog = load(tx.conn()).await?;
    if catalog.revision != change.revision {
        let message = format!(
            "the catalog has changed meanwhile (it has revision {}, the change was planned on {}); plan again",
            catalog.revision, change.revision
        );
        return Err(refused(ErrorKind::Conflict, "store.change_catalog", message));
    }
    if change.writes.is_empty() {
        return Ok(catalog);
    }
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
    set_meta(tx.conn(), "catalog_revision", &catalog.revision.to_string()).await?;
    let shared = Arc::clone(&tx.catalog);
    tx.after(After::Catalog(shared));
    tx.tally.hint(Hint::Catalog);
    // A limit may have been lifted.
    tx.tally.free_slot();
    Ok(catalog)
}

pub(crate) async fn set_meta(conn: &mut Conn, name: &str, value: &str) -> Result<()> {
    q("INSERT INTO robata.meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value")
        .bind(name)
        .bind(value)
        .execute(conn)
        .await?;
    Ok(())
}

/// As `serde_json` writes it, a document has no NUL but escaped.
async fn store(tx: &mut Tx, catalog: &Catalog, write: &CatalogWrite) -> Result<()> {
    let query = match write {
        CatalogWrite::Defaults(options) => {
            return set_meta(tx.conn(), "catalog_defaults", &serde_json::to_string(options)?).await;
        }
        CatalogWrite::Queue(name, settings) => q("INSERT INTO robata.catalog_queues (name, settings) VALUES ($1, $2)
               ON CONFLICT (name) DO UPDATE SET settings = excluded.settings")
        .bind(name.as_str())
        .bind(serde_json::to_string(settings)?),
        CatalogWrite::App(name, settings) => q(
            "INSERT INTO robata.catalog_apps (name, options, max_running, retention, description) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (name) DO UPDATE SET options = excluded.options, max_running = excluded.max_running,
                   retention = excluded.retention, description = excluded.description",
        )
        .bind(name.as_str())
        .bind(serde_json::to_string(&settings.options)?)
        .bind(settings.max_running.map(i64::from))
        .bind(serde_json::to_string(&settings.retention)?)
        .bind(settings.description.as_deref().map(text)),
        CatalogWrite::DeleteApp(name) => {
            q("DELETE FROM robata.catalog_definitions WHERE app = $1")
                .bind(name.as_str())
                .execute(tx.conn())
                .await?;
            q("DELETE FROM robata.catalog_apps WHERE name = $1").bind(name.as_str())
        }
        CatalogWrite::DeleteJob(app, job) => q("DELETE FROM robata.catalog_definitions WHERE app = $1 AND job = $2")
            .bind(app.as_str())
            .bind(job.as_str()),
        CatalogWrite::Job(app, job, options, definition) => {
            // A later write of the same change may have removed it again.
            let Some(entry) = catalog.job(app, job) else {
                return Ok(());
            };
            q(
                "INSERT INTO robata.catalog_definitions (app, job, options, definition, version, updated_at)
               VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT (app, job) DO UPDATE SET options = excluded.options, definition = excluded.definition,
                   version = excluded.version, updated_at = excluded.updated_at",
            )
            .bind(app.as_str())
            .bind(job.as_str())
            .bind(serde_json::to_string(options)?)
            .bind(serde_json::to_string(definition)?)
            .bind(i64::from(entry.version))
            .bind(entry.updated_at.as_millis())
        }
    };
    query.execute(tx.conn()).await?;
    Ok(())
}

macro_rules! waiting {
    () => {
        " WHERE app = $1 AND job = $2 AND state < 2 AND NOT one_off
            AND ((NOT queue_chosen AND queue <> $3) OR executor <> coalesce($4, executor)) "
    };
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
    let executor_text = executor.as_ref().map(|name| name.as_str());
    // Locked first, jobs before their places in the outbox: what is counted below is what is moved.
    for lock in [
        concat!(
            "SELECT count(*) FROM (SELECT 1 FROM robata.jobs",
            waiting!(),
            "ORDER BY id FOR UPDATE) AS l"
        ),
        concat!(
            "SELECT count(*) FROM (SELECT 1 FROM robata.queued z WHERE id IN (SELECT id FROM robata.jobs",
            waiting!(),
            ") ORDER BY id FOR UPDATE) AS l"
        ),
    ] {
        q(lock)
            .bind(app.as_str())
            .bind(job.as_str())
            .bind(queue.as_str())
            .bind(executor_text)
            .fetch_one(tx.conn())
            .await?;
    }
    let moved = q(concat!(
        "WITH l AS MATERIALIZED (SELECT seq, id, queue, executor, queue_chosen, state FROM robata.jobs",
        waiting!(),
        "), u AS (
             UPDATE robata.jobs j SET queue = CASE WHEN l.queue_chosen THEN l.queue ELSE $3 END,
                 executor = coalesce($4, l.executor) FROM l WHERE j.seq = l.seq),
         z AS (
             UPDATE robata.queued z SET queue = CASE WHEN l.queue_chosen THEN l.queue ELSE $3 END,
                 executor = coalesce($4, l.executor), published_at = NULL, broker_key = NULL, publications = 0,
                 given_to = NULL, given_until = NULL FROM l WHERE z.id = l.id)
         SELECT l.queue, l.executor, l.queue_chosen, l.state, count(*) AS n, count(o.published_at) AS out
         FROM l LEFT JOIN robata.queued o ON o.id = l.id GROUP BY 1, 2, 3, 4"
    ))
    .bind(app.as_str())
    .bind(job.as_str())
    .bind(queue.as_str())
    .bind(executor_text)
    .fetch_all(tx.conn())
    .await?;
    for row in moved {
        let state = row.job_state("state")?;
        let from: Line = row.line()?;
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
    Ok(())
}

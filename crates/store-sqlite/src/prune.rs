//! Retention: ended jobs and logs that are past it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use robata_core::{AppName, AttemptId, definition::Retention, store::Pruned};
use sqlx::SqliteConnection;

use crate::{
    error::Result,
    hold::attempts_json,
    sql::{Read as _, numbers},
    tx::Tx,
    word::{CANCELLED, FAILED, SUCCEEDED},
};

/// Idempotency keys are kept at least this long after their job's end (PROTOCOL I3), and the job with its key: a replay
/// answers with it.
const KEYS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Ended workers are shown this long.
const WORKERS_SHOWN: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn run(tx: &mut Tx, max: &usize) -> Result<Pruned> {
    let mut left = i64::try_from(*max).unwrap_or(i64::MAX);
    let mut pruned = Pruned::default();
    let catalog = Arc::clone(&tx.catalog);
    let mut apps: BTreeSet<AppName> = catalog.apps.keys().cloned().collect();
    apps.extend(apps_with_history(&mut tx.conn).await?);
    for app in apps {
        let retention = catalog
            .apps
            .get(&app)
            .map_or_else(Retention::default, |app| app.retention);
        for (state, kept) in [
            (SUCCEEDED, retention.jobs),
            (CANCELLED, retention.jobs),
            (FAILED, retention.failed),
        ] {
            if left > 0 {
                let n = prune_jobs(tx, &app, state, kept, left).await?;
                pruned.jobs += n;
                left -= i64::try_from(n).unwrap_or(i64::MAX);
            }
        }
        prune_logs(tx, &app, retention.logs, i64::try_from(*max).unwrap_or(i64::MAX)).await?;
    }
    sqlx::query(
        "DELETE FROM workers WHERE ended_at < ? AND NOT EXISTS (
             SELECT 1 FROM attempts INDEXED BY attempts_open WHERE holder = workers.incarnation AND finalised_at IS NULL)",
    )
    .bind(tx.now.minus(WORKERS_SHOWN).as_millis())
    .execute(&mut tx.conn)
    .await?;
    let rows = sqlx::query("SELECT job_id, number FROM logs_to_remove LIMIT ?")
        .bind(i64::try_from(*max).unwrap_or(i64::MAX))
        .fetch_all(&mut tx.conn)
        .await?;
    pruned.logs = rows
        .iter()
        .map(|row| {
            Ok(AttemptId {
                job: row.job_id("job_id")?,
                number: row.number("number")?,
            })
        })
        .collect::<Result<_>>()?;
    Ok(pruned)
}

/// Apps of ended jobs, those deleted from the catalog included; a loose walk over the index.
async fn apps_with_history(conn: &mut SqliteConnection) -> Result<Vec<AppName>> {
    let mut apps: Vec<AppName> = Vec::new();
    loop {
        let last = apps.last().map_or("", AppName::as_str);
        let row =
            sqlx::query("SELECT app FROM jobs INDEXED BY jobs_ended WHERE state > 2 AND app > ? ORDER BY app LIMIT 1")
                .bind(last)
                .fetch_optional(&mut *conn)
                .await?;
        match row {
            Some(row) => apps.push(row.word("app")?),
            None => return Ok(apps),
        }
    }
}

async fn prune_jobs(tx: &mut Tx, app: &AppName, state: i64, kept: Duration, max: i64) -> Result<usize> {
    let rows = sqlx::query(
        "SELECT j.seq FROM jobs j INDEXED BY jobs_ended
         WHERE j.app = ?1 AND j.state = ?2 AND j.state > 2 AND j.finished_at <= ?3
           AND (j.idempotency_key IS NULL OR j.finished_at <= ?4)
           AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.job_id = j.id AND a.finalised_at IS NULL)
         ORDER BY j.finished_at LIMIT ?5",
    )
    .bind(app.as_str())
    .bind(state)
    .bind(tx.now.minus(kept).as_millis())
    .bind(tx.now.minus(kept.max(KEYS_KEPT)).as_millis())
    .bind(max)
    .fetch_all(&mut tx.conn)
    .await?;
    let seqs = rows.iter().map(|row| row.col("seq")).collect::<Result<Vec<i64>>>()?;
    if seqs.is_empty() {
        return Ok(0);
    }
    let seqs_json = numbers(seqs.iter().copied());
    for text in [
        "INSERT OR IGNORE INTO logs_to_remove (job_id, number)
         SELECT a.job_id, a.number FROM json_each(?) v CROSS JOIN jobs j ON j.seq = v.value
         CROSS JOIN attempts a ON a.job_id = j.id WHERE a.log_removed_at IS NULL",
        "DELETE FROM labels WHERE (key, value, seq) IN (
             SELECT l.key, l.value, j.seq FROM json_each(?) v CROSS JOIN jobs j ON j.seq = v.value CROSS JOIN json_each(j.labels) l)",
        "DELETE FROM keys WHERE (app, key) IN (
             SELECT j.app, j.idempotency_key FROM json_each(?) v CROSS JOIN jobs j ON j.seq = v.value
             WHERE j.idempotency_key IS NOT NULL)",
        // Its data, attempts and their requests go with it.
        "DELETE FROM jobs WHERE seq IN (SELECT value FROM json_each(?))",
    ] {
        sqlx::query(text).bind(seqs_json.as_str()).execute(&mut tx.conn).await?;
    }
    Ok(seqs.len())
}

/// Logs whose own retention is shorter than their job's.
async fn prune_logs(tx: &mut Tx, app: &AppName, kept: Duration, max: i64) -> Result<()> {
    let rows = sqlx::query(
        "UPDATE attempts SET log_removed_at = ?1, log_state = 2, log_reason = 'removed after its retention', log_bytes = 0
         WHERE seq IN (SELECT seq FROM attempts INDEXED BY attempts_logs
                       WHERE app = ?2 AND finalised_at IS NOT NULL AND log_removed_at IS NULL AND finalised_at <= ?3
                       ORDER BY finalised_at LIMIT ?4)
         RETURNING job_id, number",
    )
    .bind(tx.now.as_millis())
    .bind(app.as_str())
    .bind(tx.now.minus(kept).as_millis())
    .bind(max)
    .fetch_all(&mut tx.conn)
    .await?;
    let attempts = rows
        .iter()
        .map(|row| {
            Ok(AttemptId {
                job: row.job_id("job_id")?,
                number: row.number("number")?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    if !attempts.is_empty() {
        sqlx::query("INSERT OR IGNORE INTO logs_to_remove (job_id, number) SELECT unhex(value ->> 0), value ->> 1 FROM json_each(?)")
            .bind(attempts_json(&attempts))
            .execute(&mut tx.conn)
            .await?;
    }
    Ok(())
}

pub(crate) async fn logs_removed(tx: &mut Tx, attempts: &[AttemptId]) -> Result<()> {
    sqlx::query("DELETE FROM logs_to_remove WHERE (job_id, number) IN (SELECT unhex(value ->> 0), value ->> 1 FROM json_each(?))")
        .bind(attempts_json(attempts))
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

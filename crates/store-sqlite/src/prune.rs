//! Retention: ended jobs and logs that are past it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use robata_core::{
    AppName, AttemptId,
    definition::Retention,
    row::number::{CANCELLED, FAILED, SUCCEEDED},
    store::{Pruned, REALM_AWAITED},
};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection, sqlite::SqliteRow};

use crate::{
    accept,
    error::Result,
    hold::{attempts_json, incarnations_json},
    shared::Shared,
    sql::{Read as _, numbers},
    tx::Tx,
};

/// Idempotency keys are kept at least this long after their job's end (PROTOCOL I3), and the job with its key: a replay
/// answers with it.
const KEYS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Ended workers are shown this long.
const WORKERS_SHOWN: Duration = Duration::from_secs(24 * 3600);
/// A token that was revoked or has expired is kept this long.
const TOKENS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Who did what is kept this long.
const AUDIT_KEPT: Duration = Duration::from_secs(400 * 24 * 3600);
/// Free pages (4 KiB each) that the file keeps for what comes next; the others are given back to the disk, at most so many
/// at once.
const FREE_PAGES: i64 = 1_024;
const GIVEN_BACK: i64 = 1_000;

pub(crate) async fn run(tx: &mut Tx, max: &usize) -> Result<Pruned> {
    let mut left = i64::try_from(*max).unwrap_or(i64::MAX);
    let mut pruned = Pruned::default();
    let catalog = Arc::clone(&tx.catalog);
    let mut apps: BTreeSet<AppName> = catalog.apps.keys().cloned().collect();
    let shared = Arc::clone(&tx.shared);
    apps.extend(apps_with_history(&mut tx.conn, &shared).await?);
    for app in apps {
        let retention = catalog
            .apps
            .get(&app)
            .map_or_else(Retention::default, |app| app.retention);
        for (state, kept, keyed) in [
            (SUCCEEDED, retention.jobs, false),
            (SUCCEEDED, retention.jobs, true),
            (CANCELLED, retention.jobs, false),
            (CANCELLED, retention.jobs, true),
            (FAILED, retention.failed, false),
            (FAILED, retention.failed, true),
        ] {
            if left > 0 {
                let n = prune_jobs(tx, &app, state, kept, keyed, left).await?;
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
    pruned.logs = logs_to_remove(tx, *max).await?;
    accept::prune(tx, *max).await?;
    prune_audit(tx, *max).await?;
    prune_tokens(tx).await?;
    give_back(tx).await?;
    Ok(pruned)
}

/// Those told least often first: some that cannot be removed do not hide the others.
async fn logs_to_remove(tx: &mut Tx, max: usize) -> Result<Vec<AttemptId>> {
    let rows = sqlx::query(
        "UPDATE logs_to_remove SET told = told + 1 WHERE (job_id, number) IN (
             SELECT job_id, number FROM logs_to_remove INDEXED BY logs_to_remove_in_turn ORDER BY told, job_id, number LIMIT ?)
         RETURNING job_id, number",
    )
    .bind(i64::try_from(max).unwrap_or(i64::MAX))
    .fetch_all(&mut tx.conn)
    .await?;
    rows.iter().map(attempt).collect()
}

fn attempt(row: &SqliteRow) -> Result<AttemptId> {
    Ok(AttemptId {
        job: row.job_id("job_id")?,
        number: row.number("number")?,
    })
}

/// Rows stand in the order of their times, but where the wall clock was set back: those wait for the ones before them.
async fn prune_audit(tx: &mut Tx, max: usize) -> Result<()> {
    sqlx::query(
        "DELETE FROM audit WHERE seq IN (SELECT seq FROM (SELECT seq, at FROM audit ORDER BY seq LIMIT ?) WHERE at < ?)",
    )
    .bind(i64::try_from(max).unwrap_or(i64::MAX))
    .bind(tx.now.minus(AUDIT_KEPT).as_millis())
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}

/// The very first one stays: from it on there ever was one.
async fn prune_tokens(tx: &mut Tx) -> Result<()> {
    sqlx::query(
        "DELETE FROM tokens WHERE (revoked_at < ?1 OR expires_at < ?1)
             AND hash <> (SELECT hash FROM tokens ORDER BY created_at, hash LIMIT 1)",
    )
    .bind(tx.now.minus(TOKENS_KEPT).as_millis())
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}

/// Gives pages that are free back to the disk, some at a time: the file does not stay as large as it once was.
async fn give_back(tx: &mut Tx) -> Result<()> {
    let free = sqlx::query("PRAGMA freelist_count")
        .fetch_one(&mut tx.conn)
        .await?
        .try_get::<i64, _>(0)?;
    let n = (free - FREE_PAGES).min(GIVEN_BACK);
    if n > 0 {
        sqlx::query(AssertSqlSafe(format!("PRAGMA incremental_vacuum({n})")))
            .fetch_all(&mut tx.conn)
            .await?;
    }
    Ok(())
}

/// Apps of ended jobs, those deleted from the catalog included; a loose walk over the index.
async fn apps_with_history(conn: &mut SqliteConnection, shared: &Shared) -> Result<Vec<AppName>> {
    let mut apps: Vec<AppName> = Vec::new();
    for text in [
        "SELECT seq, app FROM jobs INDEXED BY jobs_ended
         WHERE state > 2 AND idempotency_key IS NULL AND app > ? ORDER BY app LIMIT 1",
        "SELECT seq, app FROM jobs INDEXED BY jobs_ended_keyed
         WHERE state > 2 AND idempotency_key IS NOT NULL AND app > ? ORDER BY app LIMIT 1",
    ] {
        let mut last = String::new();
        while let Some(row) = sqlx::query(text).bind(last.as_str()).fetch_optional(&mut *conn).await? {
            apps.extend(shared.readable(&row, row.word("app"))?);
            last = row.col("app")?;
        }
    }
    Ok(apps)
}

/// Those with a key and those without have an index each: the former are kept longer, and are not walked over meanwhile.
/// What is not finalised stays while somebody holds it, or may yet come for it.
async fn prune_jobs(tx: &mut Tx, app: &AppName, state: i16, kept: Duration, keyed: bool, max: i64) -> Result<usize> {
    macro_rules! ended {
        ($index:literal, $key:literal) => {
            concat!(
                "SELECT j.seq FROM jobs j INDEXED BY ",
                $index,
                " WHERE j.app = ?1 AND j.state = ?2 AND j.state > 2 AND j.finished_at <= ?3 AND j.idempotency_key ",
                $key,
                " AND NOT EXISTS (
                     SELECT 1 FROM attempts a WHERE a.job_id = j.id AND a.finalised_at IS NULL
                       AND (a.state < 3 OR a.moved_at > ?5 OR a.holder IN (SELECT unhex(value) FROM json_each(?6))))
                 ORDER BY j.finished_at LIMIT ?4"
            )
        };
    }
    let (text, kept) = if keyed {
        (ended!("jobs_ended_keyed", "IS NOT NULL"), kept.max(KEYS_KEPT))
    } else {
        (ended!("jobs_ended", "IS NULL"), kept)
    };
    let live = incarnations_json(tx.shared.leases().live())?;
    let rows = sqlx::query(text)
        .bind(app.as_str())
        .bind(state)
        .bind(tx.now.minus(kept).as_millis())
        .bind(max)
        .bind(tx.now.minus(REALM_AWAITED).as_millis())
        .bind(live)
        .fetch_all(&mut tx.conn)
        .await?;
    let seqs = rows.iter().map(|row| row.col("seq")).collect::<Result<Vec<i64>>>()?;
    if seqs.is_empty() {
        return Ok(0);
    }
    let seqs_json = numbers(seqs.iter().copied());
    accept::bury(tx, &seqs_json).await?;
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
    let attempts = rows.iter().map(attempt).collect::<Result<Vec<_>>>()?;
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use robata_core::{
        job::{Cancel, Enqueue},
        store::JobStore as _,
    };

    use super::{CANCELLED, prune_jobs};
    use crate::{
        SqliteConfig, SqliteStore,
        clock::{Clock, OffsetClock},
        steps::{Steps, job},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn keyed_jobs_that_are_kept_for_their_keys_are_not_walked_over() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::<OffsetClock>::default());
        let mut config = SqliteConfig::new(folder.path());
        config.clock = Arc::<OffsetClock>::clone(&clock) as Arc<dyn Clock>;
        let store = SqliteStore::open(config).await.unwrap();
        let mut costs = Vec::new();
        for n in [10, 1_000] {
            let jobs = (0..n)
                .map(|at| job("shop", "mail", "shop", Some(format!("{n} {at}"))))
                .collect();
            for answer in store.enqueue(Enqueue { jobs, atomic: false }).await.unwrap() {
                let by = "test".to_owned();
                store
                    .cancel(Cancel {
                        job: answer.unwrap().job.id,
                        by,
                    })
                    .await
                    .unwrap();
            }
            // Past the retention of their app, within that of their keys.
            clock.advance(Duration::from_secs(2 * 3_600));
            let writer = &store.opened().writer;
            let cost = writer.run("test.prune", (), |tx, ()| {
                Box::pin(async move {
                    let (app, hour) = ("shop".parse()?, Duration::from_secs(3_600));
                    let steps = Steps::begin(&mut tx.conn).await;
                    for keyed in [false, true] {
                        assert_eq!(prune_jobs(tx, &app, CANCELLED, hour, keyed, 500).await?, 0);
                    }
                    Ok(steps.end(&mut tx.conn).await)
                })
            });
            costs.push(cost.await.unwrap());
        }
        assert!(costs[1] <= costs[0] + 20, "{costs:?} tens of steps");
        store.close().await;
    }
}

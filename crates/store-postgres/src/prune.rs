//! Retention: ended jobs and logs that are past it, in batches of bounded size; masters side by side skip each other's.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use robata_core::{
    AppName, AttemptId,
    definition::Retention,
    row::number::{CANCELLED, FAILED, SUCCEEDED},
    store::{Pruned, REALM_AWAITED},
};
use sqlx::postgres::PgRow;

use crate::{
    accept,
    error::Result,
    sql::{Read as _, limit, q},
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
/// Jobs, and logs, in one transaction at most.
const BATCH: usize = 2_000;

fn id(row: &PgRow) -> Result<AttemptId> {
    Ok(AttemptId {
        job: row.job_id("job_id")?,
        number: row.number("number")?,
    })
}

pub(crate) async fn run(tx: &mut Tx, max: &usize) -> Result<Pruned> {
    let max = limit((*max).min(BATCH));
    let mut left = max;
    let mut pruned = Pruned::default();
    let catalog = Arc::clone(&tx.catalog);
    let mut apps: BTreeSet<AppName> = catalog.apps.keys().cloned().collect();
    apps.extend(apps_with_history(tx).await?);
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
                let n = prune_jobs(tx, &app, (state, kept, keyed), left).await?;
                pruned.jobs += n;
                left -= limit(n);
            }
        }
        prune_logs(tx, &app, retention.logs, max).await?;
    }
    q("DELETE FROM robata.workers w WHERE ended_at < $1 AND NOT EXISTS (
           SELECT 1 FROM robata.attempts a WHERE a.holder = w.incarnation AND a.finalised_at IS NULL)")
    .bind(tx.now.minus(WORKERS_SHOWN).as_millis())
    .execute(tx.conn())
    .await?;
    pruned.logs = logs_to_remove(tx, max).await?;
    accept::prune(tx, max).await?;
    prune_audit(tx, max).await?;
    prune_tokens(tx).await?;
    Ok(pruned)
}

/// Those told least often first: some that cannot be removed do not hide the others.
async fn logs_to_remove(tx: &mut Tx, max: i64) -> Result<Vec<AttemptId>> {
    let rows = q("WITH l AS (
                      SELECT job_id, number FROM robata.logs_to_remove ORDER BY told, job_id, number LIMIT $1
                      FOR UPDATE SKIP LOCKED)
                  UPDATE robata.logs_to_remove r SET told = r.told + 1 FROM l
                  WHERE r.job_id = l.job_id AND r.number = l.number RETURNING r.job_id, r.number")
    .bind(max)
    .fetch_all(tx.conn())
    .await?;
    rows.iter().map(id).collect()
}

/// Rows stand in the order of their times, but where the clock was set back: those wait for the ones before them.
async fn prune_audit(tx: &mut Tx, max: i64) -> Result<()> {
    q("DELETE FROM robata.audit WHERE seq = ANY(ARRAY(
           SELECT seq FROM (SELECT seq, at FROM robata.audit ORDER BY seq LIMIT $1) AS v WHERE at < $2))")
    .bind(max)
    .bind(tx.now.minus(AUDIT_KEPT).as_millis())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The very first one stays: from it on there ever was one.
async fn prune_tokens(tx: &mut Tx) -> Result<()> {
    q("DELETE FROM robata.tokens WHERE (revoked_at < $1 OR expires_at < $1)
           AND hash <> (SELECT hash FROM robata.tokens ORDER BY created_at, hash LIMIT 1)")
    .bind(tx.now.minus(TOKENS_KEPT).as_millis())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Apps of ended jobs, those deleted from the catalog included; a loose walk over each index.
async fn apps_with_history(tx: &mut Tx) -> Result<Vec<AppName>> {
    macro_rules! apps {
        ($key:literal) => {
            concat!(
                "WITH RECURSIVE a AS (
                     (SELECT seq, app FROM robata.jobs WHERE state > 2 AND idempotency_key ",
                $key,
                " ORDER BY app LIMIT 1)
                     UNION ALL
                     SELECT n.seq, n.app FROM a CROSS JOIN LATERAL (
                         SELECT seq, app FROM robata.jobs WHERE state > 2 AND idempotency_key ",
                $key,
                " AND app > a.app ORDER BY app LIMIT 1) n)
                 SELECT seq, app FROM a"
            )
        };
    }
    let mut apps = Vec::new();
    for text in [apps!("IS NULL"), apps!("IS NOT NULL")] {
        for row in q(text).fetch_all(tx.conn()).await? {
            apps.extend(tx.shared.readable(&row, row.word("app"))?);
        }
    }
    Ok(apps)
}

/// Those with a key and those without have an index each: the former are kept longer, and are not walked over meanwhile.
/// What is not finalised stays while somebody holds it, or may yet come for it.
async fn prune_jobs(
    tx: &mut Tx,
    app: &AppName,
    (state, kept, keyed): (i16, Duration, bool),
    max: i64,
) -> Result<usize> {
    macro_rules! ended {
        ($key:literal) => {
            concat!(
                "SELECT j.seq FROM robata.jobs j WHERE j.app = $1 AND j.state = $2 AND j.state > 2 AND j.finished_at <= $3
                   AND j.idempotency_key ",
                $key,
                " AND NOT EXISTS (
                     SELECT 1 FROM robata.attempts a WHERE a.job_id = j.id AND a.finalised_at IS NULL
                       AND (a.state < 3 OR a.moved_at > $5 OR EXISTS (
                           SELECT 1 FROM robata.workers w WHERE w.incarnation = a.holder AND w.ended_at IS NULL)))
                 ORDER BY j.finished_at LIMIT $4 FOR UPDATE OF j SKIP LOCKED"
            )
        };
    }
    let (text, kept) = if keyed {
        (ended!("IS NOT NULL"), kept.max(KEYS_KEPT))
    } else {
        (ended!("IS NULL"), kept)
    };
    let rows = q(text)
        .bind(app.as_str())
        .bind(state)
        .bind(tx.now.minus(kept).as_millis())
        .bind(max)
        .bind(tx.now.minus(REALM_AWAITED).as_millis())
        .fetch_all(tx.conn())
        .await?;
    let seqs = rows.iter().map(|row| row.col("seq")).collect::<Result<Vec<i64>>>()?;
    if seqs.is_empty() {
        return Ok(0);
    }
    accept::bury(tx, &seqs).await?;
    for text in [
        "INSERT INTO robata.logs_to_remove (job_id, number)
         SELECT a.job_id, a.number FROM robata.jobs j JOIN robata.attempts a ON a.job_id = j.id
         WHERE j.seq = ANY($1) AND a.log_removed_at IS NULL ON CONFLICT DO NOTHING",
        "DELETE FROM robata.labels l USING robata.jobs j CROSS JOIN LATERAL json_each_text(j.labels::json) v
         WHERE j.seq = ANY($1) AND l.key = v.key AND l.value = v.value AND l.seq = j.seq",
        "DELETE FROM robata.keys k USING robata.jobs j
         WHERE j.seq = ANY($1) AND k.app = j.app AND k.key = j.idempotency_key",
        // Of what was finalised it is gone already.
        "DELETE FROM robata.start_requests r USING robata.jobs j JOIN robata.attempts a ON a.job_id = j.id
         WHERE j.seq = ANY($1) AND a.finalised_at IS NULL AND r.attempt = a.seq",
        "DELETE FROM robata.attempts a USING robata.jobs j WHERE j.seq = ANY($1) AND a.job_id = j.id",
        "DELETE FROM robata.job_data WHERE seq = ANY($1)",
        "DELETE FROM robata.jobs WHERE seq = ANY($1)",
    ] {
        q(text).bind(seqs.as_slice()).execute(tx.conn()).await?;
    }
    Ok(seqs.len())
}

/// Logs whose own retention is shorter than their job's.
async fn prune_logs(tx: &mut Tx, app: &AppName, kept: Duration, max: i64) -> Result<()> {
    q("WITH l AS (
           SELECT seq FROM robata.attempts
           WHERE app = $2 AND finalised_at IS NOT NULL AND log_removed_at IS NULL AND finalised_at <= $3
           ORDER BY finalised_at LIMIT $4 FOR UPDATE SKIP LOCKED),
       u AS (
           UPDATE robata.attempts a SET log_removed_at = $1, log_state = 2, log_reason = 'removed after its retention',
               log_bytes = 0
           FROM l WHERE a.seq = l.seq
           RETURNING a.job_id, a.number)
       INSERT INTO robata.logs_to_remove (job_id, number) SELECT job_id, number FROM u ON CONFLICT DO NOTHING")
    .bind(tx.now.as_millis())
    .bind(app.as_str())
    .bind(tx.now.minus(kept).as_millis())
    .bind(max)
    .execute(tx.conn())
    .await?;
    Ok(())
}

pub(crate) async fn logs_removed(tx: &mut Tx, attempts: &[AttemptId]) -> Result<()> {
    q(
        "DELETE FROM robata.logs_to_remove l USING unnest($1::uuid[], $2::integer[]) AS v (job_id, number)
       WHERE l.job_id = v.job_id AND l.number = v.number",
    )
    .bind(attempts.iter().map(|id| id.job.uuid()).collect::<Vec<_>>())
    .bind(
        attempts
            .iter()
            .map(|id| i32::try_from(id.number).unwrap_or(i32::MAX))
            .collect::<Vec<_>>(),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

//! A long history, written by hand: through the API it would take hours.

use anyhow::Context as _;
use sqlx::PgPool;

/// Jobs in one transaction.
const AT_ONCE: i64 = 100_000;

/// Succeeded jobs with an attempt each, in the bench's own line, as a worker leaves them; their ids grow as real ones do.
const JOBS: &str = "
    WITH s AS MATERIALIZED (SELECT nextval('robata.job_seq') AS seq FROM generate_series(1, $1)),
         v AS MATERIALIZED (
             SELECT seq, ('01900000-0000-7000-8000-' || lpad(to_hex(seq), 12, '0'))::uuid AS id FROM s),
         d AS (INSERT INTO robata.job_data (seq, payload) SELECT seq, '{}'::bytea FROM v),
         a AS (INSERT INTO robata.attempts (seq, job_id, number, app, holder, epoch, claim, worker, state, exit_code, executor,
                   realm, handle, counted, created_at, moved_at, started_at, finished_at, finalised_at, log_state)
               SELECT nextval('robata.attempt_seq'), id, 1, $2, '00000000-0000-0000-0000-000000000000', 1,
                   '00000000-0000-0000-0000-000000000000', 'history', $3, 0, $4, 'history', id::text, true,
                   n.now, n.now, n.now, n.now, n.now, 1
               FROM v, (SELECT robata.millis() AS now) n)
    INSERT INTO robata.jobs (seq, id, app, job, queue, executor, queue_chosen, one_off, state, rank, attempt, max_attempts,
        counted, created_at, run_at, moved_at, first_claimed_at, started_at, finished_at)
    SELECT seq, id, $2, 'true', $2, $4, false, false, 3, 0, 1, 1, 1, n.now, n.now, n.now, n.now, n.now, n.now
    FROM v, (SELECT robata.millis() AS now) n";

pub(super) async fn write(pool: &PgPool, jobs: u64) -> anyhow::Result<()> {
    let mut left = i64::try_from(jobs).context("so many jobs fit into no history")?;
    while left > 0 {
        let some = left.min(AT_ONCE);
        sqlx::query(JOBS)
            .bind(some)
            .bind(crate::bench::front::APP)
            .bind(SUCCEEDED)
            .bind("noop")
            .execute(pool)
            .await?;
        left -= some;
    }
    // The statistics that autovacuum would bring in time.
    sqlx::query("ANALYZE").execute(pool).await?;
    Ok(())
}

/// The store's number of an attempt that succeeded.
const SUCCEEDED: i16 = 3;

//! Judging leases, and ending as lost what nobody came for (PROTOCOL H4, H6).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use robata_core::{
    AttemptId, ExecutorName,
    finish::{End, Outcome},
    store::Hint,
};

use crate::{
    attempt_row::{AttemptRow, attempt_columns},
    ending::end_attempt,
    error::Result,
    hold::{orphan_holders, write_ends},
    job_row::{JobRow, job_columns},
    sql::Read as _,
    tx::{After, Tx},
};

/// Attempts ended as lost in one transaction.
const BATCH: i64 = 500;

/// After how long nobody's coming means lost.
#[derive(Clone, Debug)]
pub(crate) struct LostAfter {
    pub(crate) by_executor: BTreeMap<ExecutorName, Option<Duration>>,
    pub(crate) default: Duration,
}

pub(crate) async fn judge(tx: &mut Tx, (): &()) -> Result<usize> {
    // There is one master process where a folder is locked; the row is its mark.
    sqlx::query("INSERT INTO marks (master, at) VALUES (?, ?) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)")
        .bind(&tx.shared.installation.as_bytes()[..])
        .bind(tx.now.as_millis())
        .execute(&mut tx.conn)
        .await?;
    // Only once the mark is committed does it count: a disk that takes no mark makes a gap.
    tx.after(After::Marked);
    let boot = tx.boot;
    let expired = tx.shared.leases().judge(boot);
    let ended = write_ends(tx).await?;
    if !expired.is_empty() || ended > 0 {
        tx.hint(Hint::Orphans);
    }
    Ok(ended)
}

pub(crate) async fn settle(tx: &mut Tx, after: &LostAfter) -> Result<Vec<AttemptId>> {
    let shared = Arc::clone(&tx.shared);
    let mut settled = Vec::new();
    for holder in orphan_holders(&mut tx.conn, &shared).await? {
        let since = shared.leases().ended_for(holder, tx.boot);
        let rows = sqlx::query(concat!(
            "SELECT ",
            attempt_columns!(),
            ", ",
            job_columns!(),
            ", a.executor AS t_executor FROM attempts a INDEXED BY attempts_open CROSS JOIN jobs j ON j.id = a.job_id
             WHERE a.holder = ? AND a.finalised_at IS NULL AND a.state < 3 ORDER BY a.seq LIMIT ?"
        ))
        .bind(&holder.as_bytes()[..])
        .bind(BATCH)
        .fetch_all(&mut tx.conn)
        .await?;
        for row in rows {
            let executor: ExecutorName = row.word("t_executor")?;
            let bound = after.by_executor.get(&executor).copied().unwrap_or(Some(after.default));
            if bound.is_none_or(|bound| since < bound) {
                continue;
            }
            let (attempt, job) = (AttemptRow::read(&row)?, JobRow::read(&row)?);
            let words = format!("nobody who reaches its realm has come for it in {} s", since.as_secs());
            let outcome = Outcome::new(End::Lost).with_message(words);
            end_attempt(tx, &attempt, &job, &outcome).await?;
            settled.push(attempt.id);
        }
    }
    Ok(settled)
}

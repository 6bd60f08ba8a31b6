//! Judging leases, and ending as lost what nobody came for, or what a person says is gone (PROTOCOL H4, H6).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use robata_core::{
    AttemptId, ErrorKind, ExecutorName, IncarnationId,
    executor::RealmId,
    finish::{End, Outcome},
    row::{self, Deed},
    store::{Hint, Judged, Mark},
};

use sqlx::sqlite::SqliteRow;

use crate::{
    attempt_row::{self, attempt_columns},
    catalog::set_meta,
    error::{Result, refused},
    format,
    hold::{unsettled_holders, write_ends},
    job_row::{self, job_columns},
    record::terms,
    save,
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

pub(crate) async fn judge(tx: &mut Tx, mark: &Mark) -> Result<Judged> {
    // One process holds the folder, and its memory has the marks; what is written is only that the disk took one. So it
    // counts only once it is committed: a disk that takes no mark makes a gap.
    let now = tx.now.to_string();
    set_meta(&mut tx.conn, "marked_at", &now).await?;
    tx.after(After::Marked);
    let boot = tx.boot;
    let may_rise = tx.shared.leases().may_judge(boot);
    let format = format::judge(tx, *mark, may_rise).await?;
    let expired = tx.shared.leases().judge(boot);
    let ended = write_ends(tx).await?;
    if !expired.is_empty() || ended > 0 {
        tx.tally.hint(Hint::Orphans);
    }
    Ok(Judged { ended, format })
}

macro_rules! lost_columns {
    () => {
        concat!(
            "SELECT ",
            attempt_columns!(),
            ", ",
            job_columns!(),
            ", a.executor AS t_executor, a.holder AS t_holder"
        )
    };
}

async fn end_lost(tx: &mut Tx, read: &SqliteRow, words: String) -> Result<AttemptId> {
    let (mut attempt, mut job) = (attempt_row::read(read)?, job_row::read(read)?);
    let terms = terms(&mut tx.conn, attempt.seq).await?;
    let outcome = Outcome::new(End::Lost).with_message(words);
    row::end(&mut attempt, &mut job, terms.terms(), &outcome, tx)?;
    save::attempt(tx, &attempt).await?;
    save::job(tx, &job).await?;
    Ok(attempt.id)
}

/// Ends as lost what ran in a realm that is gone, by the word of a person.
pub(crate) async fn lose(tx: &mut Tx, (realm, by): &(RealmId, String)) -> Result<Vec<AttemptId>> {
    let reaching = tx
        .shared
        .leases()
        .reaching(realm)
        .map(|(id, host, seen)| format!("{id} on {host}, last seen at {seen}"));
    if let Some(worker) = reaching {
        let message =
            format!("a live worker reaches the realm {realm}: {worker}; stop it, or wait until its lease has ended");
        return Err(refused(ErrorKind::Conflict, "store.lose", message));
    }
    let rows = sqlx::query(concat!(
        lost_columns!(),
        " FROM attempts a INDEXED BY attempts_in_realm CROSS JOIN jobs j ON j.id = a.job_id
         WHERE a.realm = ? AND a.finalised_at IS NULL AND a.state < 3 ORDER BY a.seq"
    ))
    .bind(realm.0.as_str())
    .fetch_all(&mut tx.conn)
    .await?;
    let live = tx.shared.leases().live();
    for row in &rows {
        let holder = IncarnationId::from_bytes(row.id_bytes("t_holder")?);
        if live.contains(&holder) {
            // It registered again without the realm: its engine does not answer now, and may yet.
            let message = format!("the live worker {holder} holds attempts in the realm {realm}; stop it first");
            return Err(refused(ErrorKind::Conflict, "store.lose", message));
        }
    }
    let mut lost = Vec::with_capacity(rows.len());
    for row in &rows {
        let words = format!("{by} said that its realm is gone for good");
        let shared = Arc::clone(&tx.shared);
        lost.extend(shared.readable(row, end_lost(tx, row, words).await)?);
    }
    if !lost.is_empty() {
        tx.audit(by, &Deed::lose(realm)).await?;
    }
    Ok(lost)
}

pub(crate) async fn settle(tx: &mut Tx, after: &LostAfter) -> Result<Vec<AttemptId>> {
    let shared = Arc::clone(&tx.shared);
    let mut settled = Vec::new();
    for holder in unsettled_holders(&mut tx.conn, &shared).await? {
        let since = shared.leases().ended_for(holder, tx.boot);
        // Those that the settings name are judged by name, the others all alike.
        let others = since >= after.default;
        let named: Vec<&str> = after
            .by_executor
            .iter()
            .filter(|(_, bound)| bound.is_some_and(|bound| since >= bound) != others)
            .map(|(name, _)| name.as_str())
            .collect();
        if !others && named.is_empty() {
            continue;
        }
        let named = serde_json::to_string(&named)?;
        let words = format!("nobody who reaches its realm has come for it in {} s", since.as_secs());
        let mut last = 0;
        loop {
            let rows = sqlx::query(concat!(
                lost_columns!(),
                " FROM attempts a INDEXED BY attempts_open CROSS JOIN jobs j ON j.id = a.job_id
                 WHERE a.holder = ?1 AND a.finalised_at IS NULL AND a.state < 3 AND a.seq > ?2
                   AND (a.executor IN (SELECT value FROM json_each(?3))) <> ?4 ORDER BY a.seq LIMIT ?5"
            ))
            .bind(&holder.as_bytes()[..])
            .bind(last)
            .bind(named.as_str())
            .bind(others)
            .bind(BATCH - i64::try_from(settled.len()).unwrap_or(BATCH))
            .fetch_all(&mut tx.conn)
            .await?;
            let Some(row) = rows.last() else { break };
            last = row.col("t_seq")?;
            for row in &rows {
                settled.extend(shared.readable(row, end_lost(tx, row, words.clone()).await)?);
            }
            if i64::try_from(settled.len()).is_ok_and(|settled| settled >= BATCH) {
                return Ok(settled);
            }
        }
    }
    Ok(settled)
}

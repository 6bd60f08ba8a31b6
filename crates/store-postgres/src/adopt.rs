//! What is held, fetched again after a lost answer, and taken over (PROTOCOL H1, H3, H5, C1).

use robata_core::{
    AttemptId, ExecutorName, IncarnationId,
    attempt::{HeldAttempt, Knowledge},
    id::ClaimId,
    store::Adopt,
};
use uuid::Uuid;

use crate::{
    attempt_row::{adopted as read_adopted, attempt_columns, held as read_held},
    conn::Conn,
    error::Result,
    job_row::{job_columns, job_joins},
    lease,
    sql::{Read as _, limit, q},
    tx::Tx,
};

/// What is held; `$data` is the payload and where it comes from: hundreds are adopted at once, and payloads may be large.
macro_rules! held_query {
    ($data:literal, $from:literal) => {
        concat!(
            "SELECT ",
            attempt_columns!(),
            ", ",
            job_columns!(),
            $data,
            ", r.request FROM robata.attempts a JOIN robata.jobs j ON j.id = a.job_id",
            $from,
            " JOIN robata.start_requests r ON r.attempt = a.seq",
            job_joins!()
        )
    };
}

/// What a claim holds. The lease's row is locked alone for a moment: a claim of this incarnation whose connection was lost,
/// and whose commit may yet come, is waited for.
pub(crate) async fn claimed(tx: &mut Tx, (incarnation, claim): &(IncarnationId, ClaimId)) -> Result<Vec<HeldAttempt>> {
    let lease = q("SELECT 1 AS one FROM robata.workers WHERE incarnation = $1 AND ended_at IS NULL FOR UPDATE")
        .bind(incarnation.uuid())
        .fetch_optional(tx.conn())
        .await?;
    if lease.is_none() {
        return Err(lease::has_ended(*incarnation, "store.claimed"));
    }
    let rows = q(concat!(
        held_query!(", d.payload", " JOIN robata.job_data d ON d.seq = j.seq"),
        "WHERE a.claim = $1 AND a.finalised_at IS NULL AND a.holder = $2 ORDER BY a.seq"
    ))
    .bind(claim.uuid())
    .bind(incarnation.uuid())
    .fetch_all(tx.conn())
    .await?;
    let now = tx.now;
    let mut claimed = Vec::with_capacity(rows.len());
    for row in &rows {
        claimed.extend(tx.shared.readable(row, read_held(row, now))?);
    }
    Ok(claimed)
}

/// Holders of open attempts whose lease has ended.
async fn orphan_holders(conn: &mut Conn) -> Result<Vec<Uuid>> {
    let rows = q(
        "SELECT w.incarnation FROM robata.workers w WHERE w.ended_at IS NOT NULL AND EXISTS (
                      SELECT 1 FROM robata.attempts a WHERE a.holder = w.incarnation AND a.finalised_at IS NULL)
                  ORDER BY w.incarnation",
    )
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| row.col("incarnation")).collect()
}

pub(crate) async fn adopt(tx: &mut Tx, request: &Adopt) -> Result<Vec<HeldAttempt>> {
    let worker = lease::fence(tx, request.incarnation, "store.adopt").await?;
    let mut holders = orphan_holders(tx.conn()).await?;
    if request.only.is_some() {
        // The net below: what the adopter holds itself and does not know of.
        holders.push(request.incarnation.uuid());
    }
    if holders.is_empty() || request.max == 0 {
        return Ok(Vec::new());
    }
    if request.only.is_none() {
        tell_newer(tx, request, &holders).await?;
    }
    let (executors, realms): (Vec<_>, Vec<_>) = request
        .realms
        .iter()
        .map(|(executor, realm)| (executor.as_str(), realm.0.as_str()))
        .unzip();
    let only = |of: fn(&AttemptId) -> Uuid| {
        request
            .only
            .as_ref()
            .map(|only| only.iter().map(of).collect::<Vec<_>>())
    };
    let numbers = request.only.as_ref().map(|only| {
        only.iter()
            .map(|id| i32::try_from(id.number).unwrap_or(i32::MAX))
            .collect::<Vec<_>>()
    });
    let mut adopted = Vec::new();
    let mut seqs: Vec<i64> = Vec::new();
    let mut last = 0_i64;
    loop {
        let room = request.max - adopted.len();
        // What another adopter is taking is skipped: it is given to one.
        let rows = q(concat!(
            held_query!("", ""),
            "WHERE a.finalised_at IS NULL AND a.holder = ANY($1) AND a.seq > $7 AND r.format <= $8
               AND EXISTS (SELECT 1 FROM unnest($2::text[], $3::text[]) AS v (executor, realm)
                           WHERE v.executor = a.executor AND (a.realm IS NULL OR a.realm = v.realm))
               AND ($4::uuid[] IS NULL OR (a.job_id, a.number) IN (SELECT * FROM unnest($4::uuid[], $5::integer[])))
             ORDER BY a.seq LIMIT $6 FOR UPDATE OF a SKIP LOCKED"
        ))
        .bind(&holders)
        .bind(&executors)
        .bind(&realms)
        .bind(only(|id| id.job.uuid()))
        .bind(numbers.as_deref())
        .bind(limit(room))
        .bind(last)
        .bind(i16::from(request.format.number()))
        .fetch_all(tx.conn())
        .await?;
        for row in &rows {
            last = row.col("t_seq")?;
            // One that cannot be read stays whose it is; the others are not kept waiting for it.
            if let Some(mut attempt) = tx.shared.readable(row, read_adopted(row, tx.now))? {
                attempt.epoch += 1;
                seqs.push(last);
                adopted.push(attempt);
            }
        }
        if rows.len() < room || adopted.len() >= request.max {
            break;
        }
    }
    if !seqs.is_empty() {
        q("UPDATE robata.attempts SET holder = $1, worker = $2, epoch = epoch + 1 WHERE seq = ANY($3)")
            .bind(request.incarnation.uuid())
            .bind(worker)
            .bind(seqs)
            .execute(tx.conn())
            .await?;
    }
    Ok(adopted)
}

/// Warns of what is frozen in a newer format than the adopter reads: it is left for a worker of that release (PROTOCOL V1).
async fn tell_newer(tx: &mut Tx, request: &Adopt, holders: &[Uuid]) -> Result<()> {
    let executors: Vec<_> = request.realms.keys().map(ExecutorName::as_str).collect();
    let row = q(
        "SELECT count(*) AS n FROM robata.attempts a JOIN robata.start_requests r ON r.attempt = a.seq
         WHERE a.finalised_at IS NULL AND a.holder = ANY($1) AND r.format > $2 AND a.executor = ANY($3)",
    )
    .bind(holders)
    .bind(i16::from(request.format.number()))
    .bind(executors)
    .fetch_one(tx.conn())
    .await?;
    let attempts: i64 = row.col("n")?;
    if attempts > 0 {
        tracing::warn!(attempts, reads = %request.format, "attempts of a later release are left for its workers");
    }
    Ok(())
}

pub(crate) async fn known(tx: &mut Tx, attempts: &[AttemptId]) -> Result<Vec<Knowledge>> {
    let rows = q(
        "SELECT v.place, a.finalised_at FROM unnest($1::uuid[], $2::integer[]) WITH ORDINALITY
                      AS v (job_id, number, place)
                  JOIN robata.attempts a ON a.job_id = v.job_id AND a.number = v.number",
    )
    .bind(attempts.iter().map(|id| id.job.uuid()).collect::<Vec<_>>())
    .bind(
        attempts
            .iter()
            .map(|id| i32::try_from(id.number).unwrap_or(i32::MAX))
            .collect::<Vec<_>>(),
    )
    .fetch_all(tx.conn())
    .await?;
    let mut known = vec![Knowledge::Unknown; attempts.len()];
    for row in rows {
        let place = usize::try_from(row.col::<i64>("place")? - 1).unwrap_or(usize::MAX);
        if let Some(known) = known.get_mut(place) {
            *known = match row.time_or_none("finalised_at")? {
                Some(_) => Knowledge::Finalised,
                None => Knowledge::Open,
            };
        }
    }
    Ok(known)
}

//! Tokens, and the lists of who did what.

use robata_core::{
    ErrorKind, JobId, Role, TokenName,
    access::{AuditRecord, ListAudit, NewToken, Token, TokenHash, Tokens},
    row::Deed,
    store::Hint,
};
use sqlx::{QueryBuilder, postgres::PgRow};
use uuid::Uuid;

use crate::{
    error::{Fault, Result, refused},
    sql::{Read as _, limit, q, text},
    tx::Tx,
};

/// A page has at most so many.
const MAX_PAGE: usize = 500;

pub(crate) async fn tokens(tx: &mut Tx, (): &()) -> Result<Tokens> {
    // One statement, so that both answers are of one moment.
    let rows = q(
        "SELECT e.ever, t.* FROM (SELECT EXISTS (SELECT 1 FROM robata.tokens) AS ever) e
                  LEFT JOIN robata.tokens t ON t.revoked_at IS NULL ORDER BY t.name COLLATE \"C\"",
    )
    .fetch_all(tx.conn())
    .await?;
    let mut told = Tokens {
        now: tx.now,
        ..Tokens::default()
    };
    for row in &rows {
        told.ever = row.col("ever")?;
        if row.col::<Option<&str>>("name")?.is_some() {
            // A role of a later release is left out: its bearer may do nothing here.
            told.tokens.extend(tx.shared.readable(row, token(row))?);
        }
    }
    Ok(told)
}

fn token(row: &PgRow) -> Result<Token> {
    let (hash, role): (&[u8], &str) = (row.col("hash")?, row.col("role")?);
    let hash = hash
        .try_into()
        .map_err(|_| Fault::BadRow("a token's hash has not 32 bytes".to_owned()))?;
    Ok(Token {
        name: row.word("name")?,
        role: Role::of(role).ok_or_else(|| Fault::BadRow(format!("{role:?} is no role")))?,
        app: row.word_or_none("app")?,
        hash: TokenHash(hash),
        created_at: row.time("created_at")?,
        created_by: row.col("created_by")?,
        expires_at: row.time_or_none("expires_at")?,
    })
}

pub(crate) async fn create(tx: &mut Tx, (new, by): &(NewToken, String)) -> Result<Token> {
    // Waits for whoever makes one of this name right now.
    let made = q(
        "INSERT INTO robata.tokens (hash, name, role, app, created_at, created_by, expires_at)
                  VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING *",
    )
    .bind(&new.hash.0[..])
    .bind(new.name.as_str())
    .bind(new.role.as_str())
    .bind(new.app.as_ref().map(|app| app.as_str()))
    .bind(tx.now.as_millis())
    .bind(text(by))
    .bind(new.lasts.map(|lasts| tx.now.plus(lasts).as_millis()))
    .fetch_optional(tx.conn())
    .await?;
    if let Some(row) = made {
        tx.audit(by, &Deed::create_token(&new.name)).await?;
        tx.tally.hint(Hint::Tokens);
        return token(&row);
    }
    let known = q("SELECT * FROM robata.tokens WHERE hash = $1")
        .bind(&new.hash.0[..])
        .fetch_optional(tx.conn())
        .await?;
    match known {
        // An earlier try's commit took place after all.
        Some(row) if tx.maybe_done && row.col::<&str>("name")? == new.name.as_str() => {
            tx.tally.hint(Hint::Tokens);
            token(&row)
        }
        Some(row) if row.col::<&str>("name")? != new.name.as_str() || row.time_or_none("revoked_at")?.is_some() => {
            let message = "another token has this secret";
            Err(refused(ErrorKind::Conflict, "store.create_token", message))
        }
        _ => {
            let message = format!("there is a token {:?} already; revoke it first", new.name.as_str());
            Err(refused(ErrorKind::Conflict, "store.create_token", message))
        }
    }
}

pub(crate) async fn revoke(tx: &mut Tx, (name, by): &(TokenName, String)) -> Result<()> {
    let done = q("UPDATE robata.tokens SET revoked_at = $1 WHERE name = $2 AND revoked_at IS NULL")
        .bind(tx.now.as_millis())
        .bind(name.as_str())
        .execute(tx.conn())
        .await?;
    tx.tally.hint(Hint::Tokens);
    if done.rows_affected() > 0 {
        return tx.audit(by, &Deed::revoke_token(name)).await;
    }
    // An earlier try's commit may have taken place: then it is as it was asked for.
    let revoked = tx.maybe_done
        && q("SELECT 1 FROM robata.tokens WHERE name = $1 LIMIT 1")
            .bind(name.as_str())
            .fetch_optional(tx.conn())
            .await?
            .is_some();
    if revoked {
        return Ok(());
    }
    let message = format!("there is no token {:?}", name.as_str());
    Err(refused(ErrorKind::NotFound, "store.revoke_token", message))
}

/// A walk down the one index that has the list's filters and its order; what a job had done to it is little.
pub(crate) async fn audit(tx: &mut Tx, list: &ListAudit) -> Result<Vec<AuditRecord>> {
    let before = list
        .before
        .map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX));
    let most = limit(list.limit.clamp(1, MAX_PAGE));
    let mut query = QueryBuilder::new("SELECT seq, at, by, action, app, name, job_id FROM robata.audit WHERE ");
    if let Some(job) = &list.job {
        query.push("job_id = ").push_bind(job.uuid()).push(" AND ");
    }
    if let Some(app) = &list.app {
        query.push("app = ").push_bind(app.as_str()).push(" AND ");
    }
    if let Some(by) = &list.by {
        query.push("by = ").push_bind(text(by)).push(" AND ");
    }
    if list.job.is_none() && list.app.is_none() && list.by.is_none() {
        query.push("seq < ").push_bind(before).push(" ORDER BY seq DESC LIMIT ");
    } else {
        query.push("-seq > ").push_bind(-before).push(" ORDER BY -seq LIMIT ");
    }
    let rows = query
        .push_bind(most)
        .build()
        .persistent(false)
        .fetch_all(tx.conn())
        .await?;
    rows.iter()
        .map(|row| {
            Ok(AuditRecord {
                seq: u64::try_from(row.col::<i64>("seq")?).unwrap_or_default(),
                at: row.time("at")?,
                by: row.col("by")?,
                action: row.col("action")?,
                app: row.word_or_none("app")?,
                name: row.col("name")?,
                job: row
                    .col::<Option<Uuid>>("job_id")?
                    .map(|id| JobId::from_bytes(*id.as_bytes())),
            })
        })
        .collect()
}

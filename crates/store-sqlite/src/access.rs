//! Tokens, and the lists of who did what.

use robata_core::{
    ErrorKind, Role, TokenName,
    access::{AuditRecord, ListAudit, NewToken, Token, TokenHash, Tokens},
    row::Deed,
    store::Hint,
};
use sqlx::{AssertSqlSafe, SqliteConnection, sqlite::SqliteRow};

use crate::{
    error::{Fault, Result, refused},
    shared::Shared,
    sql::{Read as _, Values},
    tx::Tx,
};

/// A page has at most so many.
const MAX_PAGE: usize = 500;

pub(crate) async fn tokens(conn: &mut SqliteConnection, shared: &Shared) -> Result<Tokens> {
    // One statement, so that both answers are of one moment.
    let rows = sqlx::query(
        "SELECT e.ever, t.* FROM (SELECT EXISTS (SELECT 1 FROM tokens) AS ever) e
         LEFT JOIN tokens t INDEXED BY tokens_in_force ON t.revoked_at IS NULL ORDER BY t.name",
    )
    .fetch_all(conn)
    .await?;
    let mut told = Tokens {
        now: shared.wall(),
        ..Tokens::default()
    };
    for row in &rows {
        told.ever = row.col("ever")?;
        if row.col::<Option<&str>>("name")?.is_some() {
            // A role of a later release is left out: its bearer may do nothing here.
            told.tokens.extend(shared.readable(row, token(row))?);
        }
    }
    Ok(told)
}

fn token(row: &SqliteRow) -> Result<Token> {
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
    let there = sqlx::query(
        "SELECT EXISTS (SELECT 1 FROM tokens INDEXED BY tokens_in_force WHERE name = ?1 AND revoked_at IS NULL) AS named,
                EXISTS (SELECT 1 FROM tokens WHERE hash = ?2) AS known",
    )
    .bind(new.name.as_str())
    .bind(&new.hash.0[..])
    .fetch_one(&mut tx.conn)
    .await?;
    if there.col("named")? {
        let message = format!("there is a token {:?} already; revoke it first", new.name.as_str());
        return Err(refused(ErrorKind::Conflict, "store.create_token", message));
    }
    if there.col("known")? {
        let message = "another token has this secret";
        return Err(refused(ErrorKind::Conflict, "store.create_token", message));
    }
    let token = Token {
        name: new.name.clone(),
        role: new.role,
        app: new.app.clone(),
        hash: new.hash,
        created_at: tx.now,
        created_by: by.clone(),
        expires_at: new.lasts.map(|lasts| tx.now.plus(lasts)),
    };
    sqlx::query(
        "INSERT INTO tokens (hash, name, role, app, created_at, created_by, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&token.hash.0[..])
    .bind(token.name.as_str())
    .bind(token.role.as_str())
    .bind(token.app.as_ref().map(|app| app.as_str()))
    .bind(token.created_at.as_millis())
    .bind(by.as_str())
    .bind(token.expires_at.map(robata_core::Timestamp::as_millis))
    .execute(&mut tx.conn)
    .await?;
    tx.audit(by, &Deed::create_token(&token.name)).await?;
    tx.tally.hint(Hint::Tokens);
    Ok(token)
}

pub(crate) async fn revoke(tx: &mut Tx, (name, by): &(TokenName, String)) -> Result<()> {
    let done = sqlx::query(
        "UPDATE tokens INDEXED BY tokens_in_force SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL",
    )
    .bind(tx.now.as_millis())
    .bind(name.as_str())
    .execute(&mut tx.conn)
    .await?;
    if done.rows_affected() == 0 {
        let message = format!("there is no token {:?}", name.as_str());
        return Err(refused(ErrorKind::NotFound, "store.revoke_token", message));
    }
    tx.audit(by, &Deed::revoke_token(name)).await?;
    tx.tally.hint(Hint::Tokens);
    Ok(())
}

/// A walk down one index, which the list names; what a job had done to it is little, and looked at row by row.
pub(crate) async fn audit(conn: &mut SqliteConnection, list: &ListAudit) -> Result<Vec<AuditRecord>> {
    let mut sql = String::from("SELECT seq, at, by, action, app, name, job_id FROM audit ");
    sql.push_str(match (&list.job, &list.app, &list.by) {
        (Some(_), ..) => "INDEXED BY audit_by_job",
        (None, Some(_), Some(_)) => "INDEXED BY audit_by_app_and_whom",
        (None, Some(_), None) => "INDEXED BY audit_by_app",
        (None, None, Some(_)) => "INDEXED BY audit_by_whom",
        (None, None, None) => "NOT INDEXED",
    });
    sql.push_str(" WHERE seq < ?");
    let mut values = Values::default();
    let before = list
        .before
        .map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX));
    values.add(before);
    if let Some(job) = &list.job {
        sql.push_str(" AND job_id = ?");
        values.add(&job.as_bytes()[..]);
    }
    if let Some(app) = &list.app {
        sql.push_str(" AND app = ?");
        values.add(app.as_str());
    }
    if let Some(by) = &list.by {
        sql.push_str(" AND by = ?");
        values.add(by.as_str());
    }
    sql.push_str(" ORDER BY seq DESC LIMIT ?");
    values.add(i64::try_from(list.limit.clamp(1, MAX_PAGE)).unwrap_or(i64::MAX));
    let rows = sqlx::query_with(AssertSqlSafe(sql), values.finish()?)
        .fetch_all(conn)
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
                job: match row.col::<Option<&[u8]>>("job_id")? {
                    Some(_) => Some(row.job_id("job_id")?),
                    None => None,
                },
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use robata_core::access::ListAudit;

    use crate::{SqliteConfig, SqliteStore, steps::Steps};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_audit_walks_over_nothing_that_it_does_not_give() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(SqliteConfig::new(folder.path())).await.unwrap();
        let job = robata_core::JobId::new();
        let lists = [
            ("app", Some("shop"), None, None),
            ("by", None, Some("ann"), None),
            ("app and by", Some("shop"), Some("ann"), None),
            ("job", Some("shop"), Some("ann"), Some(job)),
        ];
        let mut costs: Vec<Vec<u64>> = Vec::new();
        for others in [100, 20_000] {
            let writer = &store.opened().writer;
            let add = writer.run("test.audit", (others, job), |tx, (others, job)| {
                Box::pin(async move {
                    let rows: [(&str, &str, Option<&[u8]>, i64); 4] = [
                        ("shop", "ann", Some(&job.as_bytes()[..]), 1),
                        ("shop", "bob", None, *others),
                        ("bank", "ann", None, *others),
                        ("zoo", "cid", None, *others),
                    ];
                    sqlx::query("DELETE FROM audit").execute(&mut tx.conn).await?;
                    for (app, by, job, n) in rows {
                        sqlx::query(
                            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?4)
                             INSERT INTO audit (at, by, action, app, job_id) SELECT 1, ?2, 'cancel', ?1, ?3 FROM n",
                        )
                        .bind(app)
                        .bind(by)
                        .bind(job)
                        .bind(n)
                        .execute(&mut tx.conn)
                        .await?;
                    }
                    Ok(())
                })
            });
            add.await.unwrap();
            let mut conn = store.opened().readers.acquire().await.unwrap();
            let mut of_n = Vec::new();
            for (what, app, by, job) in lists {
                let mut list = ListAudit::default();
                list.limit = 20;
                list.app = app.map(|app| app.parse().unwrap());
                (list.by, list.job) = (by.map(str::to_owned), job);
                let steps = Steps::begin(&mut conn).await;
                let given = super::audit(&mut conn, &list).await.unwrap();
                of_n.push(steps.end(&mut conn).await);
                assert_eq!(
                    given.len(),
                    if what.contains("and") || job.is_some() { 1 } else { 20 },
                    "{what}"
                );
            }
            costs.push(of_n);
        }
        assert!(
            costs[0].iter().zip(&costs[1]).all(|(few, many)| *many <= few + 20),
            "{costs:?} tens of steps"
        );
        store.close().await;
    }
}

//! Lists of jobs, newest first: a walk down one index, of each state or app where its rows come after those, merged. No
//! OFFSET, nothing sorted but the merged pages.

use robata_core::{
    AppName, JobId, Timestamp,
    job::JobRecord,
    row::{JobRow, number},
    store::ListJobs,
};
use sqlx::{
    Arguments as _, AssertSqlSafe, Row as _,
    postgres::{PgArguments, PgRow},
};

use crate::{
    conn::Conn,
    error::{Fault, Result},
    job_row::{self, job_columns, job_joins},
    sql::{Read as _, limit, q},
    tx::Tx,
    waiting,
};

/// A page has at most so many.
const MAX_PAGE: usize = 500;
/// Writers side by side store in an order that differs from that of their times by no more than this.
const SIDE_BY_SIDE_MILLIS: i64 = 60_000;

/// The index that a list walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    Label,
    Definition,
    AppQueue,
    AppReason,
    App,
    Queue,
    Reason,
    State,
    Newest,
}

pub(crate) async fn jobs(tx: &mut Tx, list: &ListJobs) -> Result<Vec<JobRecord>> {
    let most = list.limit.clamp(1, MAX_PAGE);
    let mut states: Vec<i16> = list.states.iter().map(|state| number::of_job(*state)).collect();
    if states.is_empty() && list.reason.is_some() {
        // What succeeded has no reason.
        states = number::ALL
            .into_iter()
            .filter(|state| *state != number::SUCCEEDED)
            .collect();
    }
    states.sort_unstable();
    states.dedup();
    let walk = match list {
        _ if !list.labels.is_empty() => Walk::Label,
        ListJobs { job: Some(_), .. } => Walk::Definition,
        ListJobs {
            app: Some(_),
            queue: Some(_),
            ..
        } => Walk::AppQueue,
        ListJobs {
            app: Some(_),
            reason: Some(_),
            ..
        } => Walk::AppReason,
        ListJobs { app: Some(_), .. } => Walk::App,
        ListJobs { queue: Some(_), .. } => Walk::Queue,
        ListJobs { reason: Some(_), .. } => Walk::Reason,
        _ if !list.states.is_empty() => Walk::State,
        _ => Walk::Newest,
    };
    let bounds = bounds(tx.conn(), list).await?;
    let mut rows = Vec::new();
    if matches!(walk, Walk::Label | Walk::Newest) {
        rows = page(tx, list, walk, &states, bounds, most).await?;
    } else {
        // In these indexes a job's place comes after its state: a page of each state, then the newest of all. A definition's
        // comes after its app, too: where that is not named, a page of each app that has one.
        let each = if states.is_empty() {
            number::ALL.to_vec()
        } else {
            states
        };
        let mut lists = vec![list.clone()];
        if let (None, Some(job)) = (&list.app, &list.job) {
            lists.clear();
            for app in apps_with(tx, job.as_str()).await? {
                let mut of_app = list.clone();
                of_app.app = Some(app);
                lists.push(of_app);
            }
        }
        for list in &lists {
            for state in &each {
                rows.extend(page(tx, list, walk, &[*state], bounds, most).await?);
            }
            rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.seq));
            rows.truncate(most);
        }
    }
    waiting::tell_all(tx, rows).await
}

/// A statement's text with its values.
struct Statement {
    sql: String,
    values: PgArguments,
    count: usize,
}

impl Statement {
    /// Adds `text` with its one `?` as the next parameter.
    fn add<'t, T>(&mut self, text: &str, value: T) -> Result<()>
    where
        T: sqlx::Encode<'t, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        self.count += 1;
        self.sql.push_str(&text.replace('?', &format!("${}", self.count)));
        self.values
            .add(value)
            .map_err(|error| Fault::Sql(sqlx::Error::Encode(error)))
    }
}

/// The apps that have jobs of this name; a loose walk over the index, as long as there are apps.
async fn apps_with(tx: &mut Tx, job: &str) -> Result<Vec<AppName>> {
    let rows = q("WITH RECURSIVE a AS (
                      (SELECT seq, app FROM robata.jobs ORDER BY app LIMIT 1)
                      UNION ALL
                      SELECT n.seq, n.app FROM a CROSS JOIN LATERAL (
                          SELECT seq, app FROM robata.jobs WHERE app > a.app ORDER BY app LIMIT 1) n)
                  SELECT seq, app FROM a
                  WHERE EXISTS (SELECT 1 FROM robata.jobs j WHERE j.app = a.app AND j.job = $1)")
    .bind(job)
    .fetch_all(tx.conn())
    .await?;
    let mut apps = Vec::with_capacity(rows.len());
    for row in &rows {
        apps.extend(tx.shared.readable(row, row.word("app"))?);
    }
    Ok(apps)
}

/// A page, read on where rows that cannot be read are left out of it: a page that is not full is the last one.
async fn page(
    tx: &mut Tx,
    list: &ListJobs,
    walk: Walk,
    states: &[i16],
    (from, mut to): (i64, i64),
    most: usize,
) -> Result<Vec<JobRow>> {
    let mut read = Vec::new();
    loop {
        let want = most - read.len();
        let rows = stretch(tx.conn(), list, walk, states, (from, to), want).await?;
        for row in &rows {
            to = row.col("seq")?;
            read.extend(tx.shared.readable(row, job_row::read(row))?);
        }
        if rows.len() < want || read.len() >= most {
            return Ok(read);
        }
    }
}

async fn stretch(
    conn: &mut Conn,
    list: &ListJobs,
    walk: Walk,
    states: &[i16],
    (from, to): (i64, i64),
    most: usize,
) -> Result<Vec<PgRow>> {
    let mut statement = Statement {
        sql: String::from(concat!("SELECT ", job_columns!(), " FROM ")),
        values: PgArguments::default(),
        count: 0,
    };
    statement.sql.push_str(match walk {
        Walk::Label => "robata.labels l JOIN robata.jobs j ON j.seq = l.seq",
        _ => "robata.jobs j",
    });
    statement.sql.push_str(job_joins!());
    let place = if walk == Walk::Label { "l.seq" } else { "j.seq" };
    statement.add(&format!("WHERE {place} >= ?"), from)?;
    statement.add(&format!(" AND {place} < ?"), to)?;
    let mut labels = list.labels.iter();
    if walk == Walk::Label
        && let Some((key, value)) = labels.next()
    {
        statement.add(" AND l.key = ?", key.as_str())?;
        statement.add(" AND l.value = ?", value.as_str())?;
    }
    for (key, value) in labels {
        statement.add(
            " AND EXISTS (SELECT 1 FROM robata.labels m WHERE m.key = ?",
            key.as_str(),
        )?;
        statement.add(" AND m.value = ? AND m.seq = j.seq)", value.as_str())?;
    }
    for (column, value) in [
        ("app", list.app.as_ref().map(|app| app.as_str())),
        ("job", list.job.as_ref().map(|job| job.as_str())),
        ("queue", list.queue.as_ref().map(|queue| queue.as_str())),
        ("reason", list.reason.map(|reason| reason.as_str())),
    ] {
        if let Some(value) = value {
            statement.add(&format!(" AND j.{column} = ?"), value)?;
        }
    }
    match states {
        [] => {}
        [one] => statement.add(" AND j.state = ?", *one)?,
        // Filtered row by row: the sum keeps the planner on the walk's own index.
        many => statement.add(" AND j.state + 0 = ANY(?)", many)?,
    }
    if let Some(since) = list.since {
        statement.add(" AND j.created_at >= ?", since.as_millis())?;
    }
    if let Some(until) = list.until {
        statement.add(" AND j.created_at < ?", until.as_millis())?;
    }
    statement.add(&format!(" ORDER BY {place} DESC LIMIT ?"), limit(most))?;
    let query = sqlx::query_with(AssertSqlSafe(statement.sql), statement.values).persistent(false);
    Ok(query.fetch_all(conn).await?)
}

/// The part of the order of storing that can match: from, and up to before.
async fn bounds(conn: &mut Conn, list: &ListJobs) -> Result<(i64, i64)> {
    let mut to = match list.after {
        Some(job) => place_of(conn, job).await?,
        None => i64::MAX,
    };
    let near = std::time::Duration::from_millis(SIDE_BY_SIDE_MILLIS.unsigned_abs());
    let from = match list.since {
        Some(since) => first_at(conn, since.minus(near)).await?,
        None => 0,
    };
    if let Some(until) = list.until {
        to = to.min(first_at(conn, until.plus(near)).await?);
    }
    Ok((from, to))
}

/// A job's place; of one that was pruned meanwhile, the place after the newest older id.
async fn place_of(conn: &mut Conn, job: JobId) -> Result<i64> {
    let row = q("SELECT id, seq FROM robata.jobs WHERE id <= $1 ORDER BY id DESC LIMIT 1")
        .bind(job.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(match row {
        Some(row) if row.job_id("id")? == job => row.col("seq")?,
        Some(row) => row.col::<i64>("seq")? + 1,
        None => 0,
    })
}

/// The place of the first job stored at or after this time, found by halving: times grow with places, but where the clock was
/// set back between.
async fn first_at(conn: &mut Conn, time: Timestamp) -> Result<i64> {
    let row = q("WITH RECURSIVE b (low, high) AS (
             SELECT coalesce((SELECT min(seq) FROM robata.jobs), 0), coalesce((SELECT max(seq) FROM robata.jobs), -1) + 1
             UNION ALL
             SELECT CASE WHEN p.created_at < $1 THEN p.seq + 1 ELSE b.low END,
                    CASE WHEN p.created_at < $1 THEN b.high ELSE b.low + (b.high - b.low) / 2 END
             FROM b LEFT JOIN LATERAL (
                 SELECT seq, created_at FROM robata.jobs WHERE seq >= b.low + (b.high - b.low) / 2 ORDER BY seq LIMIT 1) p
                 ON true
             WHERE b.low < b.high)
         SELECT max(low) AS low FROM b")
    .bind(time.as_millis())
    .fetch_one(conn)
    .await?;
    Ok(row.try_get("low")?)
}

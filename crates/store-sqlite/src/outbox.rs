//! What goes out to the broker, and what is void there (PROTOCOL O2 to O4).

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use robata_core::{
    AppName, JobName, QueueName,
    job::{Line, Reference},
    store::{Hint, LineRecord, Published, Void, Window},
};
use sqlx::{Row as _, SqliteConnection};

use crate::{
    error::Result,
    limit::{Rooms, Scope, limits},
    shared::Shared,
    sql::{Read as _, push_hex},
    tx::{self, Tx},
};

pub(crate) async fn lines(conn: &mut SqliteConnection, shared: &Shared) -> Result<Vec<LineRecord>> {
    let rows = sqlx::query(
        "SELECT c.queue, c.executor, c.queued, c.out,
                (SELECT min(published_at) FROM jobs INDEXED BY jobs_out
                 WHERE queue = c.queue AND executor = c.executor AND state = 1 AND published_at IS NOT NULL) AS oldest
         FROM counters c WHERE c.queued > 0",
    )
    .fetch_all(conn)
    .await?;
    let now = shared.wall();
    rows.iter()
        .map(|row| {
            Ok(LineRecord {
                line: tx::line(row)?,
                queued: u64::try_from(row.col::<i64>("queued")?).unwrap_or_default(),
                published: u64::try_from(row.col::<i64>("out")?).unwrap_or_default(),
                oldest_publication: row.time_or_none("oldest")?.map(|at| now.since(at)),
            })
        })
        .collect()
}

/// What goes next: by priority, then the apps in turn, then age.
pub(crate) async fn references(
    conn: &mut SqliteConnection,
    shared: &Shared,
    window: &Window,
) -> Result<Vec<Reference>> {
    let mut room = room(conn, window).await?;
    let catalog = shared.catalog();
    let mut rooms = Rooms::default();
    let mut out: Option<HashMap<Scope, i64>> = None;
    let mut chosen = Vec::new();
    let mut rank = None;
    while room > 0 {
        let Some(next) = next_rank(conn, &window.line, rank).await? else {
            break;
        };
        rank = Some(next);
        let mut apps: BTreeMap<AppName, VecDeque<(i64, Reference)>> = BTreeMap::new();
        for (app, job) in groups(conn, &window.line, next).await? {
            let limits = limits(&catalog, &window.line.queue, &app, &job);
            let mut at_most = room;
            if let Some(left) = rooms.of(conn, &limits).await? {
                if out.is_none() {
                    out = Some(out_by_scope(conn, &window.line).await?);
                }
                let mine = |(scope, _): &(Scope, u32)| out.as_ref().and_then(|out| out.get(scope)).copied();
                let waiting = limits.iter().filter_map(mine).max().unwrap_or(0);
                at_most = at_most.min(left - waiting);
            }
            if at_most <= 0 {
                continue;
            }
            let found = oldest(conn, &window.line, next, (&app, &job), at_most).await?;
            rooms.take(&limits, i64::try_from(found.len()).unwrap_or(i64::MAX));
            apps.entry(app).or_default().extend(found);
        }
        for references in apps.values_mut() {
            references.make_contiguous().sort_unstable_by_key(|(seq, _)| *seq);
        }
        let mut turns = in_turn(shared, &window.line, next, apps);
        while room > 0 {
            let Some((app, reference)) = turns.next() else { break };
            chosen.push(reference);
            shared.turns().insert((window.line.clone(), next), app);
            room -= 1;
        }
    }
    Ok(chosen)
}

/// What the window leaves.
async fn room(conn: &mut SqliteConnection, window: &Window) -> Result<i64> {
    let row = sqlx::query("SELECT out FROM counters WHERE queue = ? AND executor = ?")
        .bind(window.line.queue.as_str())
        .bind(window.line.executor.as_str())
        .fetch_optional(conn)
        .await?;
    let out = row.map_or(Ok(0), |row| row.col::<i64>("out"))?;
    Ok(i64::try_from(window.size).unwrap_or(i64::MAX) - out)
}

macro_rules! to_go {
    () => {
        " FROM jobs INDEXED BY jobs_to_go WHERE queue = ?1 AND executor = ?2 AND state = 1 AND published_at IS NULL "
    };
}

async fn next_rank(conn: &mut SqliteConnection, line: &Line, after: Option<i64>) -> Result<Option<i64>> {
    let row = sqlx::query(concat!("SELECT rank", to_go!(), "AND rank > ?3 ORDER BY rank LIMIT 1"))
        .bind(line.queue.as_str())
        .bind(line.executor.as_str())
        .bind(after.unwrap_or(i64::MIN))
        .fetch_optional(conn)
        .await?;
    row.map(|row| row.col("rank")).transpose()
}

/// The apps and definitions that have something of this rank; a loose walk over the index.
async fn groups(conn: &mut SqliteConnection, line: &Line, rank: i64) -> Result<Vec<(AppName, JobName)>> {
    let mut groups: Vec<(AppName, JobName)> = Vec::new();
    loop {
        let (app, job) = groups
            .last()
            .map_or(("", ""), |(app, job)| (app.as_str(), job.as_str()));
        // In two parts: of `(app, job) > (?4, ?5)` SQLite seeks only to the equal ones, and walks over each of them.
        let row = sqlx::query(concat!(
            "SELECT app, job FROM (SELECT app, job",
            to_go!(),
            "AND rank = ?3 AND app = ?4 AND job > ?5 ORDER BY job LIMIT 1) \
             UNION ALL SELECT app, job FROM (SELECT app, job",
            to_go!(),
            "AND rank = ?3 AND app > ?4 ORDER BY app, job LIMIT 1) ORDER BY app, job LIMIT 1"
        ))
        .bind(line.queue.as_str())
        .bind(line.executor.as_str())
        .bind(rank)
        .bind(app)
        .bind(job)
        .fetch_optional(&mut *conn)
        .await?;
        match row {
            Some(row) => groups.push((row.word("app")?, row.word("job")?)),
            None => return Ok(groups),
        }
    }
}

async fn oldest(
    conn: &mut SqliteConnection,
    line: &Line,
    rank: i64,
    (app, job): (&AppName, &JobName),
    n: i64,
) -> Result<Vec<(i64, Reference)>> {
    let rows = sqlx::query(concat!(
        "SELECT seq, id, attempt",
        to_go!(),
        "AND rank = ?3 AND app = ?4 AND job = ?5 ORDER BY seq LIMIT ?6"
    ))
    .bind(line.queue.as_str())
    .bind(line.executor.as_str())
    .bind(rank)
    .bind(app.as_str())
    .bind(job.as_str())
    .bind(n)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let reference = Reference {
                job: row.job_id("id")?,
                attempt: row.number("attempt")? + 1,
            };
            Ok((row.col("seq")?, reference))
        })
        .collect()
}

/// What is out already, by everything that it could come under: it will need room, too.
async fn out_by_scope(conn: &mut SqliteConnection, line: &Line) -> Result<HashMap<Scope, i64>> {
    // All lines: an app's limit spans them. As long as the windows.
    let rows = sqlx::query(
        "SELECT queue, app, job, count(*) AS n FROM jobs INDEXED BY jobs_out
         WHERE state = 1 AND published_at IS NOT NULL GROUP BY queue, app, job",
    )
    .fetch_all(conn)
    .await?;
    let mut out = HashMap::new();
    for row in rows {
        let (queue, app, job): (QueueName, AppName, JobName) = (row.word("queue")?, row.word("app")?, row.word("job")?);
        let n: i64 = row.try_get("n")?;
        if queue == line.queue {
            *out.entry(Scope::Queue(queue)).or_default() += n;
        }
        *out.entry(Scope::App(app.clone())).or_default() += n;
        *out.entry(Scope::Definition(app, job)).or_default() += n;
    }
    Ok(out)
}

/// One of each app after another, beginning after the app that had the last turn.
fn in_turn(
    shared: &Shared,
    line: &Line,
    rank: i64,
    apps: BTreeMap<AppName, VecDeque<(i64, Reference)>>,
) -> impl Iterator<Item = (AppName, Reference)> + use<> {
    let last = shared.turns().get(&(line.clone(), rank)).cloned();
    let (mut first, mut later) = (VecDeque::new(), VecDeque::new());
    for (app, references) in apps {
        match &last {
            Some(last) if app <= *last => later.push_back((app, references)),
            _ => first.push_back((app, references)),
        }
    }
    first.append(&mut later);
    std::iter::from_fn(move || {
        loop {
            let (app, mut references) = first.pop_front()?;
            if let Some((_, reference)) = references.pop_front() {
                first.push_back((app.clone(), references));
                return Some((app, reference));
            }
        }
    })
}

/// A compare-and-set on (job, attempt, `queued`) and line.
pub(crate) async fn published(tx: &mut Tx, published: &Published) -> Result<()> {
    let mut references = "[".to_owned();
    for (at, reference) in published.references.iter().enumerate() {
        references.push_str(if at == 0 { "[\"" } else { ",[\"" });
        push_hex(&mut references, reference.job.as_bytes());
        references.push_str(&format!("\",{}]", reference.attempt));
    }
    references.push(']');
    // The `+` keeps these columns out of the choice of an index: else every queued job is compared with every reference.
    let done = sqlx::query(
        "UPDATE jobs SET published_at = max(?1, created_at), broker_key = ?2, publications = publications + 1
         FROM (SELECT unhex(value ->> 0) AS id, value ->> 1 AS number FROM json_each(?3)) v
         WHERE jobs.id = v.id AND jobs.attempt = v.number - 1 AND +jobs.state = 1 AND jobs.published_at IS NULL
           AND +jobs.queue = ?4 AND +jobs.executor = ?5",
    )
    .bind(tx.now.as_millis())
    .bind(published.broker_key.0.as_str())
    .bind(references)
    .bind(published.line.queue.as_str())
    .bind(published.line.executor.as_str())
    .execute(&mut tx.conn)
    .await?;
    tx.count_out(&published.line, i64::try_from(done.rows_affected()).unwrap_or(i64::MAX));
    Ok(())
}

pub(crate) async fn void(tx: &mut Tx, request: &(Line, Void)) -> Result<usize> {
    let (line, what) = request;
    let query = match what {
        // Gone with their broker: how often they went out before says nothing about the new one.
        Void::OtherKey(key) => sqlx::query(
            "UPDATE jobs INDEXED BY jobs_out SET published_at = NULL, broker_key = NULL, publications = 0
             WHERE queue = ?1 AND executor = ?2 AND state = 1 AND published_at IS NOT NULL AND broker_key IS NOT ?3",
        )
        .bind(line.queue.as_str())
        .bind(line.executor.as_str())
        .bind(key.0.clone()),
        Void::OlderThan { age, max } => sqlx::query(
            "UPDATE jobs SET published_at = NULL, broker_key = NULL WHERE seq IN (
                 SELECT seq FROM jobs INDEXED BY jobs_out
                 WHERE queue = ?1 AND executor = ?2 AND state = 1 AND published_at IS NOT NULL AND published_at <= ?3 - ?4
                   AND published_at <= ?3 - (?4 << min(max(publications - 1, 0), 20))
                 ORDER BY published_at LIMIT ?5)",
        )
        .bind(line.queue.as_str())
        .bind(line.executor.as_str())
        .bind(tx.now.as_millis())
        .bind(millis(*age))
        .bind(i64::try_from(*max).unwrap_or(i64::MAX)),
    };
    let done = query.execute(&mut tx.conn).await?.rows_affected();
    let n = i64::try_from(done).unwrap_or(i64::MAX);
    tx.count_out(line, -n);
    if n > 0 {
        tx.hint(Hint::Line(line.clone()));
    }
    Ok(usize::try_from(done).unwrap_or(usize::MAX))
}

/// Bounded so that it can be doubled without overflow.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(1 << 40)
}

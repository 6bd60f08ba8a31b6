//! Lists of jobs, newest first: a walk down one index, of each state or app where its rows come after those, merged. No
//! OFFSET, nothing sorted but the merged pages.

use robata_core::{
    AppName, JobId, Timestamp,
    job::JobRecord,
    row::{JobRow, number},
    store::ListJobs,
};
use sqlx::{AssertSqlSafe, SqliteConnection, sqlite::SqliteRow};

use crate::{
    error::Result,
    job_row::{self, job_attempt, job_columns},
    shared::Shared,
    sql::{Read as _, Values},
    waiting,
};

/// A page has at most so many.
const MAX_PAGE: usize = 500;

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

pub(crate) async fn jobs(conn: &mut SqliteConnection, shared: &Shared, list: &ListJobs) -> Result<Vec<JobRecord>> {
    let limit = list.limit.clamp(1, MAX_PAGE);
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
    let place = bounds(conn, list).await?;
    let mut rows = Vec::new();
    if matches!(walk, Walk::Label | Walk::Newest) {
        rows = page(conn, shared, list, walk, &states, place, limit).await?;
    } else {
        // In these indexes a job's place comes after its state: a page of each state, then the newest of all. A definition's
        // comes after its app, too: where that is not named, a page of each app that has one.
        let each = if states.is_empty() {
            number::ALL.to_vec()
        } else {
            states
        };
        let mut lists = vec![(walk, list.clone())];
        if let (None, Some(job)) = (&list.app, &list.job) {
            lists.clear();
            for app in apps_with(conn, shared, job.as_str()).await? {
                let mut of_app = list.clone();
                of_app.app = Some(app);
                lists.push((Walk::Definition, of_app));
            }
        }
        for (walk, list) in &lists {
            for state in &each {
                rows.extend(page(conn, shared, list, *walk, &[*state], place, limit).await?);
            }
            rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.seq));
            rows.truncate(limit);
        }
    }
    waiting::tell_all(conn, shared, rows).await
}

/// The apps that have jobs of this name; a loose walk over the index, as long as there are apps.
async fn apps_with(conn: &mut SqliteConnection, shared: &Shared, job: &str) -> Result<Vec<AppName>> {
    let mut apps = Vec::new();
    let mut last = String::new();
    loop {
        let row = sqlx::query("SELECT seq, app FROM jobs INDEXED BY jobs_by_app WHERE app > ? ORDER BY app LIMIT 1")
            .bind(last.as_str())
            .fetch_optional(&mut *conn)
            .await?;
        let Some(row) = row else { return Ok(apps) };
        last = row.col("app")?;
        let one = sqlx::query("SELECT 1 FROM jobs INDEXED BY jobs_by_definition WHERE app = ? AND job = ? LIMIT 1")
            .bind(last.as_str())
            .bind(job)
            .fetch_optional(&mut *conn)
            .await?;
        if one.is_some() {
            apps.extend(shared.readable(&row, row.word("app"))?);
        }
    }
}

/// A page, read on where rows that cannot be read are left out of it: a page that is not full is the last one.
async fn page(
    conn: &mut SqliteConnection,
    shared: &Shared,
    list: &ListJobs,
    walk: Walk,
    states: &[i16],
    (from, mut to): (i64, i64),
    limit: usize,
) -> Result<Vec<JobRow>> {
    let mut read = Vec::new();
    loop {
        let want = limit - read.len();
        let rows = stretch(conn, list, walk, states, (from, to), want).await?;
        for row in &rows {
            to = row.col("seq")?;
            read.extend(shared.readable(row, job_row::read(row))?);
        }
        if rows.len() < want || read.len() >= limit {
            return Ok(read);
        }
    }
}

async fn stretch(
    conn: &mut SqliteConnection,
    list: &ListJobs,
    walk: Walk,
    states: &[i16],
    (from, to): (i64, i64),
    limit: usize,
) -> Result<Vec<SqliteRow>> {
    let mut sql = String::from(concat!("SELECT ", job_columns!(), " FROM "));
    let mut values = Values::default();
    sql.push_str(match walk {
        Walk::Label => "labels l CROSS JOIN jobs j ON j.seq = l.seq",
        Walk::Definition => "jobs j INDEXED BY jobs_by_definition",
        Walk::AppQueue => "jobs j INDEXED BY jobs_by_app_queue",
        Walk::AppReason => "jobs j INDEXED BY jobs_by_app_reason",
        Walk::App => "jobs j INDEXED BY jobs_by_app",
        Walk::Queue => "jobs j INDEXED BY jobs_by_queue",
        Walk::Reason => "jobs j INDEXED BY jobs_by_reason",
        Walk::State => "jobs j INDEXED BY jobs_by_state",
        Walk::Newest => "jobs j NOT INDEXED",
    });
    sql.push_str(job_attempt!());
    let place = if walk == Walk::Label { "l.seq" } else { "j.seq" };
    sql.push_str(&format!("WHERE {place} >= ? AND {place} < ?"));
    values.add(from).add(to);
    let mut labels = list.labels.iter();
    if walk == Walk::Label
        && let Some((key, value)) = labels.next()
    {
        sql.push_str(" AND l.key = ? AND l.value = ?");
        values.add(key.as_str()).add(value.as_str());
    }
    for (key, value) in labels {
        sql.push_str(" AND EXISTS (SELECT 1 FROM labels m WHERE m.key = ? AND m.value = ? AND m.seq = j.seq)");
        values.add(key.as_str()).add(value.as_str());
    }
    let mut equal = |column: &str, value: Option<&str>| {
        if let Some(value) = value {
            sql.push_str(&format!(" AND j.{column} = ?"));
            values.add(value);
        }
    };
    equal("app", list.app.as_ref().map(|app| app.as_str()));
    equal("job", list.job.as_ref().map(|job| job.as_str()));
    equal("queue", list.queue.as_ref().map(|queue| queue.as_str()));
    equal("reason", list.reason.map(|reason| reason.as_str()));
    match states {
        [] => {}
        [one] => sql.push_str(&format!(" AND j.state = {one}")),
        many => {
            let many: Vec<_> = many.iter().map(i16::to_string).collect();
            // Filtered row by row: the unary plus keeps the planner on the walk's own index.
            sql.push_str(&format!(" AND +j.state IN ({})", many.join(",")));
        }
    }
    if let Some(since) = list.since {
        sql.push_str(" AND j.created_at >= ?");
        values.add(since.as_millis());
    }
    if let Some(until) = list.until {
        sql.push_str(" AND j.created_at < ?");
        values.add(until.as_millis());
    }
    sql.push_str(&format!(" ORDER BY {place} DESC LIMIT ?"));
    values.add(i64::try_from(limit).unwrap_or(i64::MAX));
    let rows = sqlx::query_with(AssertSqlSafe(sql), values.finish()?);
    Ok(rows.fetch_all(conn).await?)
}

/// The part of the order of storing that can match: from, and up to before.
async fn bounds(conn: &mut SqliteConnection, list: &ListJobs) -> Result<(i64, i64)> {
    let mut to = match list.after {
        Some(job) => place_of(conn, job).await?,
        None => i64::MAX,
    };
    let from = match list.since {
        Some(since) => first_at(conn, since).await?,
        None => 0,
    };
    if let Some(until) = list.until {
        to = to.min(first_at(conn, until).await?);
    }
    Ok((from, to))
}

/// A job's place; of one that was pruned meanwhile, the place after the newest older id.
async fn place_of(conn: &mut SqliteConnection, job: JobId) -> Result<i64> {
    let row = sqlx::query("SELECT id, seq FROM jobs WHERE id <= ? ORDER BY id DESC LIMIT 1")
        .bind(&job.as_bytes()[..])
        .fetch_optional(conn)
        .await?;
    Ok(match row {
        Some(row) if row.job_id("id")? == job => row.col("seq")?,
        Some(row) => row.col::<i64>("seq")? + 1,
        None => 0,
    })
}

/// The place of the first job stored at or after this time, found by halving: times grow with places, but where the wall
/// clock was set back between.
async fn first_at(conn: &mut SqliteConnection, time: Timestamp) -> Result<i64> {
    let edge = |row: &SqliteRow| {
        Ok::<_, crate::error::Fault>((row.col::<Option<i64>>("low")?, row.col::<Option<i64>>("high")?))
    };
    let row = sqlx::query("SELECT (SELECT min(seq) FROM jobs) AS low, (SELECT max(seq) FROM jobs) AS high")
        .fetch_one(&mut *conn)
        .await?;
    let (Some(mut low), Some(high)) = edge(&row)? else {
        return Ok(0);
    };
    let mut high = high + 1;
    while low < high {
        let middle = low + (high - low) / 2;
        let row = sqlx::query("SELECT seq, created_at FROM jobs WHERE seq >= ? ORDER BY seq LIMIT 1")
            .bind(middle)
            .fetch_optional(&mut *conn)
            .await?;
        match row {
            Some(row) if row.time("created_at")? < time => low = row.col::<i64>("seq")? + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use robata_core::{
        JobId, Reason,
        job::{Cancel, Enqueue, NewJob},
        store::{JobStore as _, ListJobs},
    };

    use crate::{
        SqliteConfig, SqliteStore,
        steps::{Steps, job},
    };

    async fn enqueue(store: &SqliteStore, jobs: Vec<NewJob>) -> Vec<JobId> {
        let answers = store.enqueue(Enqueue { jobs, atomic: false }).await.unwrap();
        answers.into_iter().map(|answer| answer.unwrap().job.id).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_list_walks_over_nothing_that_it_does_not_give() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(SqliteConfig::new(folder.path())).await.unwrap();
        // A few that are asked for, then more and more that are not.
        for cancelled in enqueue(
            &store,
            vec![job("shop", "mail", "shop", None), job("zoo", "feed", "vip", None)],
        )
        .await
        {
            let by = "test".to_owned();
            store.cancel(Cancel { job: cancelled, by }).await.unwrap();
        }
        enqueue(
            &store,
            vec![job("shop", "mail", "vip", None), job("bank", "rare", "bank", None)],
        )
        .await;
        let mut lists: Vec<(&str, ListJobs)> = Vec::new();
        let mut add = |what, change: fn(&mut ListJobs)| {
            let mut list = ListJobs::default();
            list.limit = 50;
            change(&mut list);
            lists.push((what, list));
        };
        add("app and queue", |list| {
            (list.app, list.queue) = ("shop".parse().ok(), "vip".parse().ok());
        });
        add("app and reason", |list| {
            (list.app, list.reason) = ("shop".parse().ok(), Some(Reason::Cancelled));
        });
        add("reason and state", |list| {
            (list.reason, list.states) = (Some(Reason::Cancelled), vec![robata_core::JobState::Failed]);
        });
        add("job", |list| list.job = "rare".parse().ok());
        let mut costs: Vec<Vec<u64>> = Vec::new();
        for n in [100, 2_000] {
            let more = (0..n).flat_map(|_| [job("shop", "many", "shop", None), job("zoo", "many", "vip", None)]);
            for cancelled in enqueue(&store, more.collect()).await.chunks(2) {
                // Of another app than the one whose cancelled jobs are listed.
                let by = "test".to_owned();
                store.cancel(Cancel { job: cancelled[1], by }).await.unwrap();
            }
            let mut conn = store.opened().readers.acquire().await.unwrap();
            let mut of_n = Vec::new();
            for (what, list) in &lists {
                let steps = Steps::begin(&mut conn).await;
                let given = super::jobs(&mut conn, &store.opened().shared, list).await.unwrap();
                of_n.push(steps.end(&mut conn).await);
                assert_eq!(given.len(), usize::from(*what != "reason and state"), "{what}");
            }
            costs.push(of_n);
        }
        for (at, (what, _)) in lists.iter().enumerate() {
            let (few, many) = (costs[0][at], costs[1][at]);
            assert!(
                many <= few + 20,
                "{what}: {few}0 steps with few others, {many}0 with many"
            );
        }
        store.close().await;
    }
}

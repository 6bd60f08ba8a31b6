//! What goes out next: by priority, then the apps in turn, then age, within what the window and the limits leave
//! (PROTOCOL O2).

use std::collections::{HashMap, VecDeque};

use robata_core::{
    AppName, JobName,
    job::{Line, Reference},
    row::{Scope, limits},
    store::Window,
};
use sqlx::{Row as _, SqliteConnection};

use crate::{error::Result, limit::Rooms, shared::Shared, sql::Read as _};

/// References of a group that are read at once, at least: many groups share a window.
const PAGE: i64 = 16;

/// One definition's waiting jobs of one priority, the oldest ones read so far.
struct Group {
    app: AppName,
    job: JobName,
    limits: Vec<(Scope, u32)>,
    read: VecDeque<(i64, Reference)>,
    last: i64,
    more: bool,
}

pub(crate) async fn references(
    conn: &mut SqliteConnection,
    shared: &Shared,
    window: &Window,
) -> Result<Vec<Reference>> {
    let line = &window.line;
    if shared.paused().contains_key(&line.queue) {
        return Ok(Vec::new());
    }
    let mut room = room(conn, window).await?;
    let catalog = shared.catalog();
    let mut rooms: Option<Rooms> = None;
    let mut chosen = Vec::new();
    let mut rank = None;
    while room > 0 {
        let Some(next) = next_rank(conn, line, rank).await? else {
            break;
        };
        rank = Some(next);
        let mut of_rank = groups(conn, shared, line, next).await?;
        for group in &mut of_rank {
            group.limits = limits(&catalog, &line.queue, &group.app, &group.job);
            if rooms.is_none() && !group.limits.is_empty() {
                rooms = Some(Rooms::beside(out_by_scope(conn, shared, line).await?));
            }
        }
        let page = (room / i64::try_from(of_rank.len().max(1)).unwrap_or(room)).max(PAGE.min(room));
        let mut apps = in_turn(shared, line, next, of_rank);
        while room > 0
            && let Some((app, mut of_app)) = apps.pop_front()
        {
            // Room is taken one reference at a time, so that the first app does not take all that a limit leaves.
            let found = oldest(conn, shared, (line, next, page), &mut of_app, rooms.as_mut()).await?;
            if let Some(reference) = found {
                chosen.push(reference);
                shared.turns().insert((line.clone(), next), app.clone());
                room -= 1;
                apps.push_back((app, of_app));
            }
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
async fn groups(conn: &mut SqliteConnection, shared: &Shared, line: &Line, rank: i64) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    let (mut app, mut job) = (String::new(), String::new());
    loop {
        // In two parts: of `(app, job) > (?4, ?5)` SQLite seeks only to the equal ones, and walks over each of them.
        let row = sqlx::query(concat!(
            "SELECT seq, app, job FROM (SELECT seq, app, job",
            to_go!(),
            "AND rank = ?3 AND app = ?4 AND job > ?5 ORDER BY job LIMIT 1) \
             UNION ALL SELECT seq, app, job FROM (SELECT seq, app, job",
            to_go!(),
            "AND rank = ?3 AND app > ?4 ORDER BY app, job LIMIT 1) ORDER BY app, job LIMIT 1"
        ))
        .bind(line.queue.as_str())
        .bind(line.executor.as_str())
        .bind(rank)
        .bind(app.as_str())
        .bind(job.as_str())
        .fetch_optional(&mut *conn)
        .await?;
        let Some(row) = row else { return Ok(groups) };
        (app, job) = (row.col("app")?, row.col("job")?);
        let read = || {
            Ok(Group {
                app: row.word("app")?,
                job: row.word("job")?,
                limits: Vec::new(),
                read: VecDeque::new(),
                last: 0,
                more: true,
            })
        };
        groups.extend(shared.readable(&row, read())?);
    }
}

/// The apps with their groups, beginning after the app that had the last turn.
fn in_turn(shared: &Shared, line: &Line, rank: i64, groups: Vec<Group>) -> VecDeque<(AppName, Vec<Group>)> {
    let mut apps: VecDeque<(AppName, Vec<Group>)> = VecDeque::new();
    for group in groups {
        match apps.back_mut() {
            Some((app, of_app)) if *app == group.app => of_app.push(group),
            _ => apps.push_back((group.app.clone(), vec![group])),
        }
    }
    if let Some(last) = shared.turns().get(&(line.clone(), rank)) {
        let before = apps.iter().take_while(|(app, _)| app <= last).count();
        apps.rotate_left(before);
    }
    apps
}

/// Takes the oldest reference of an app's groups that have room; `None` where there is none, now and for the rest of this
/// call: room only becomes less.
async fn oldest(
    conn: &mut SqliteConnection,
    shared: &Shared,
    (line, rank, page): (&Line, i64, i64),
    groups: &mut Vec<Group>,
    mut rooms: Option<&mut Rooms>,
) -> Result<Option<Reference>> {
    let mut first: Option<(i64, usize)> = None;
    let mut at = 0;
    while at < groups.len() {
        let group = &mut groups[at];
        let room = match &mut rooms {
            Some(rooms) => rooms.of(conn, &group.limits).await?,
            None => None,
        };
        let has_room = room.is_none_or(|room| room > 0);
        while has_room && group.read.is_empty() && group.more {
            read_on(
                conn,
                shared,
                line,
                rank,
                group,
                room.map_or(page, |room| room.min(page)),
            )
            .await?;
        }
        match group.read.front() {
            Some((seq, _)) if has_room => {
                if first.is_none_or(|(first, _)| *seq < first) {
                    first = Some((*seq, at));
                }
                at += 1;
            }
            _ => {
                groups.remove(at);
            }
        }
    }
    let Some((_, at)) = first else { return Ok(None) };
    if let Some(rooms) = rooms {
        rooms.take(&groups[at].limits, 1);
    }
    Ok(groups[at].read.pop_front().map(|(_, reference)| reference))
}

async fn read_on(
    conn: &mut SqliteConnection,
    shared: &Shared,
    line: &Line,
    rank: i64,
    group: &mut Group,
    n: i64,
) -> Result<()> {
    let rows = sqlx::query(concat!(
        "SELECT seq, id, attempt",
        to_go!(),
        "AND rank = ?3 AND app = ?4 AND job = ?5 AND seq > ?6 ORDER BY seq LIMIT ?7"
    ))
    .bind(line.queue.as_str())
    .bind(line.executor.as_str())
    .bind(rank)
    .bind(group.app.as_str())
    .bind(group.job.as_str())
    .bind(group.last)
    .bind(n)
    .fetch_all(conn)
    .await?;
    group.more = i64::try_from(rows.len()).is_ok_and(|read| read >= n);
    for row in &rows {
        group.last = row.col("seq")?;
        let read = || {
            Ok(Reference {
                job: row.job_id("id")?,
                attempt: row.number("attempt")? + 1,
            })
        };
        if let Some(reference) = shared.readable(row, read())? {
            group.read.push_back((group.last, reference));
        }
    }
    Ok(())
}

/// What is out already, by everything that it could come under: it will need room, too. Not in lines from which nobody
/// receives: that comes to nothing for as long, and must not hold back what could run.
async fn out_by_scope(conn: &mut SqliteConnection, shared: &Shared, own: &Line) -> Result<HashMap<Scope, i64>> {
    // All lines: an app's limit spans them. As long as the windows.
    let rows = sqlx::query(
        "SELECT min(seq) AS seq, queue, executor, app, job, count(*) AS n FROM jobs INDEXED BY jobs_out
         WHERE state = 1 AND published_at IS NOT NULL GROUP BY queue, executor, app, job",
    )
    .fetch_all(conn)
    .await?;
    let (live, paused) = (shared.live_executors(), shared.paused());
    let mut out = HashMap::new();
    for row in &rows {
        let read = || Ok((row.line()?, row.word::<AppName>("app")?, row.word::<JobName>("job")?));
        let Some((line, app, job)) = shared.readable(row, read())? else {
            continue;
        };
        let received = live.contains(&line.executor) && !paused.contains_key(&line.queue);
        if !received && line != *own {
            continue;
        }
        let n: i64 = row.try_get("n")?;
        for scope in [
            Scope::Queue(line.queue),
            Scope::App(app.clone()),
            Scope::Definition(app, job),
        ] {
            *out.entry(scope).or_default() += n;
        }
    }
    Ok(out)
}

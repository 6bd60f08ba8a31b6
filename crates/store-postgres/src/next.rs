//! What goes out next: by priority, then the apps in turn, then age, within what the window and the limits leave
//! (PROTOCOL O2).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use robata_core::{
    AppName, JobId, JobName,
    job::{Line, Reference},
    row::{Scope, limits},
    store::Window,
};

use crate::{
    error::Result,
    limit::Rooms,
    shared::{Colours, Shared},
    sql::{Read as _, limit, q},
    tx::Tx,
    waiting,
};

/// How long a reference that was given to one master is not given to another: as long as rows wait for the outbox (O4).
const GIVEN: Duration = Duration::from_secs(2);
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

pub(crate) async fn references(tx: &mut Tx, window: &Window) -> Result<Vec<Reference>> {
    let line = &window.line;
    let mut room = room(tx, window).await?;
    let mut rooms: Option<Rooms> = None;
    let mut chosen = Vec::new();
    let mut after = None;
    while room > 0 {
        let Some((next, is_last, mut of_rank)) = next_groups(tx, line, after).await? else {
            break;
        };
        for group in &mut of_rank {
            group.limits = limits(&tx.catalog, &line.queue, &group.app, &group.job);
            if rooms.is_none() && !group.limits.is_empty() {
                rooms = Some(Rooms::beside(out_by_scope(tx, line).await?));
            }
        }
        let page = (room / limit(of_rank.len().max(1))).max(PAGE.min(room));
        let mut apps = in_turn(&tx.shared, line, next, of_rank);
        while room > 0
            && let Some((app, mut of_app)) = apps.pop_front()
        {
            // Room is taken one reference at a time, so that the first app does not take all that a limit leaves.
            if let Some(reference) = oldest(tx, (line, next, page), &mut of_app, rooms.as_mut()).await? {
                chosen.push(reference);
                tx.shared.turns().insert((line.clone(), next), app.clone());
                room -= 1;
                apps.push_back((app, of_app));
            }
        }
        if is_last {
            break;
        }
        after = Some(next);
    }
    give(tx, chosen).await
}

/// Keeps what was chosen from other masters for a moment, so that each reference goes out once however many masters look at
/// the line; what another has meanwhile is left to it.
async fn give(tx: &mut Tx, chosen: Vec<Reference>) -> Result<Vec<Reference>> {
    if chosen.is_empty() {
        return Ok(chosen);
    }
    // By their ids, and in no way that a planner could mistake (see `db::PLANS`).
    let rows = q("WITH l AS (
                      SELECT id FROM robata.queued WHERE id = ANY($1)
                          AND CASE WHEN published_at IS NULL THEN given_to IS NULL OR given_to = $2 OR given_until <= $4
                                       OR given_until > $5 ELSE false END
                      FOR UPDATE SKIP LOCKED)
                  UPDATE robata.queued z SET given_to = $2, given_until = $3
                  WHERE z.id = ANY(ARRAY(SELECT id FROM l)) RETURNING z.id")
    .bind(chosen.iter().map(|reference| reference.job.uuid()).collect::<Vec<_>>())
    .bind(tx.shared.process)
    .bind(tx.now.plus(GIVEN).as_millis())
    .bind(tx.now.as_millis())
    .bind(tx.now.plus(GIVEN * 2).as_millis())
    .fetch_all(tx.conn())
    .await?;
    let given: HashSet<JobId> = rows.iter().map(|row| row.job_id("id")).collect::<Result<_>>()?;
    Ok(chosen
        .into_iter()
        .filter(|reference| given.contains(&reference.job))
        .collect())
}

/// What the window leaves; nothing while the queue is paused.
async fn room(tx: &mut Tx, window: &Window) -> Result<i64> {
    let row = q("SELECT coalesce(sum(out), 0)::bigint AS out,
                     EXISTS (SELECT FROM robata.pauses WHERE queue = $1) AS paused
                 FROM robata.counters WHERE queue = $1 AND executor = $2")
    .bind(window.line.queue.as_str())
    .bind(window.line.executor.as_str())
    .fetch_one(tx.conn())
    .await?;
    Ok(match row.col("paused")? {
        true => 0,
        false => limit(window.size) - row.col::<i64>("out")?,
    })
}

macro_rules! to_go {
    () => {
        " FROM robata.queued WHERE queue = $1 AND executor = $2 AND published_at IS NULL "
    };
}

/// The next rank that has something to go, whether it is the last one, and its apps and definitions; a loose walk over the
/// index. In one statement: each more is a way to the server and back before a waiting worker hears of its job.
async fn next_groups(tx: &mut Tx, line: &Line, after: Option<i16>) -> Result<Option<(i16, bool, Vec<Group>)>> {
    let rows = q(concat!(
        "WITH RECURSIVE r AS MATERIALIZED (SELECT rank",
        to_go!(),
        "AND rank > $3 ORDER BY rank LIMIT 1),
         g AS (
             (SELECT seq, app, job",
        to_go!(),
        "AND rank = (SELECT rank FROM r) ORDER BY app, job LIMIT 1)
             UNION ALL
             SELECT n.seq, n.app, n.job FROM g CROSS JOIN LATERAL (SELECT seq, app, job",
        to_go!(),
        "AND rank = (SELECT rank FROM r) AND (app, job) > (g.app, g.job) ORDER BY app, job LIMIT 1) n)
         SELECT r.rank, NOT EXISTS (SELECT",
        to_go!(),
        "AND rank > r.rank) AS is_last, g.seq, g.app, g.job FROM r CROSS JOIN g"
    ))
    .bind(line.queue.as_str())
    .bind(line.executor.as_str())
    .bind(after.unwrap_or(i16::MIN))
    .fetch_all(tx.conn())
    .await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let (rank, is_last) = (first.col("rank")?, first.col("is_last")?);
    let mut groups = Vec::with_capacity(rows.len());
    for row in &rows {
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
        groups.extend(tx.shared.readable(row, read())?);
    }
    Ok(Some((rank, is_last, groups)))
}

/// The apps with their groups, beginning after the app that had the last turn.
fn in_turn(shared: &Shared, line: &Line, rank: i16, groups: Vec<Group>) -> VecDeque<(AppName, Vec<Group>)> {
    let mut groups = groups;
    // By our own order of names, not the database's.
    groups.sort_by(|a, b| a.app.cmp(&b.app));
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
    tx: &mut Tx,
    (line, rank, page): (&Line, i16, i64),
    groups: &mut Vec<Group>,
    mut rooms: Option<&mut Rooms>,
) -> Result<Option<Reference>> {
    let mut first: Option<(i64, usize)> = None;
    let mut at = 0;
    while at < groups.len() {
        let group = &mut groups[at];
        let room = match &mut rooms {
            Some(rooms) => rooms.of(tx.conn(), &group.limits).await?,
            None => None,
        };
        let has_room = room.is_none_or(|room| room > 0);
        while has_room && group.read.is_empty() && group.more {
            read_on(tx, line, rank, group, room.map_or(page, |room| room.min(page))).await?;
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

/// What other masters were given is passed over: at most their windows.
async fn read_on(tx: &mut Tx, line: &Line, rank: i16, group: &mut Group, n: i64) -> Result<()> {
    let rows = q(concat!(
        "SELECT seq, id, attempt",
        to_go!(),
        "AND rank = $3 AND app = $4 AND job = $5 AND seq > $6
         AND (given_to IS NULL OR given_to = $8 OR given_until <= $9 OR given_until > $10) ORDER BY seq LIMIT $7"
    ))
    .bind(line.queue.as_str())
    .bind(line.executor.as_str())
    .bind(rank)
    .bind(group.app.as_str())
    .bind(group.job.as_str())
    .bind(group.last)
    .bind(n)
    .bind(tx.shared.process)
    .bind(tx.now.as_millis())
    // Given for far longer than it can be: the clock was set back. (Transactions side by side differ by their length.)
    .bind(tx.now.plus(GIVEN * 2).as_millis())
    .fetch_all(tx.conn())
    .await?;
    group.more = limit(rows.len()) >= n;
    for row in &rows {
        group.last = row.col("seq")?;
        let read = || {
            Ok(Reference {
                job: row.job_id("id")?,
                attempt: row.number("attempt")?,
            })
        };
        if let Some(reference) = tx.shared.readable(row, read())? {
            group.read.push_back((group.last, reference));
        }
    }
    Ok(())
}

/// What is out already, by everything that it could come under: it will need room, too. Not in lines from which nobody
/// receives: that comes to nothing for as long, and must not hold back what could run.
async fn out_by_scope(tx: &mut Tx, own: &Line) -> Result<HashMap<Scope, i64>> {
    // All lines: an app's limit spans them. As long as the windows.
    let rows = q(
        "SELECT min(seq) AS seq, queue, executor, app, job, count(*) AS n FROM robata.queued
                  WHERE published_at IS NOT NULL GROUP BY queue, executor, app, job",
    )
    .fetch_all(tx.conn())
    .await?;
    let Colours { executors, paused } = waiting::read_colours(tx.conn()).await?;
    let mut out = HashMap::new();
    for row in &rows {
        let read = || Ok((row.line()?, row.word::<AppName>("app")?, row.word::<JobName>("job")?));
        let Some((line, app, job)) = tx.shared.readable(row, read())? else {
            continue;
        };
        let received = executors.contains(&line.executor) && !paused.contains_key(&line.queue);
        if !received && line != *own {
            continue;
        }
        let n: i64 = row.col("n")?;
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

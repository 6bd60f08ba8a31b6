//! `max_running` of queue, app and definition: what has a limit, and how much of it is used.

use std::collections::{BTreeSet, HashMap};

use robata_core::row::Scope;
use sqlx::Row as _;

use crate::{conn::Conn, error::Result, sql::q};

/// The key of a limit's row; a slash stands in no name of an app or queue.
fn key(scope: &Scope) -> String {
    match scope {
        Scope::Queue(queue) => format!("queue/{queue}"),
        Scope::App(app) => format!("app/{app}"),
        Scope::Definition(app, job) => format!("definition/{app}/{job}"),
    }
}

/// Locks the rows of these limits, in the order of their keys (PROTOCOL O6): until the transaction's end nobody else takes
/// of them.
pub(crate) async fn lock(conn: &mut Conn, scopes: BTreeSet<Scope>) -> Result<()> {
    if scopes.is_empty() {
        return Ok(());
    }
    let mut keys: Vec<_> = scopes.iter().map(key).collect();
    keys.sort_unstable();
    let locked = q("SELECT scope FROM robata.limits WHERE scope = ANY($1) ORDER BY scope FOR UPDATE")
        .bind(&keys)
        .fetch_all(&mut *conn)
        .await?;
    if locked.len() < keys.len() {
        // Made for the first time: locked by the insert, or by whoever was faster, for whom the next statement waits.
        q("INSERT INTO robata.limits (scope) SELECT * FROM unnest($1::text[]) ORDER BY 1 ON CONFLICT DO NOTHING")
            .bind(&keys)
            .execute(&mut *conn)
            .await?;
        q("SELECT scope FROM robata.limits WHERE scope = ANY($1) ORDER BY scope FOR UPDATE")
            .bind(&keys)
            .fetch_all(conn)
            .await?;
    }
    Ok(())
}

/// How much room limits leave, asked for once and then counted down.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    left: HashMap<Scope, i64>,
    /// What needs room beside the jobs that run.
    beside: HashMap<Scope, i64>,
}

impl Rooms {
    /// Rooms of which so much is spoken for, beside what runs.
    pub(crate) fn beside(beside: HashMap<Scope, i64>) -> Self {
        Self {
            left: HashMap::new(),
            beside,
        }
    }

    /// The room that a job has; `None`: unlimited.
    pub(crate) async fn of(&mut self, conn: &mut Conn, limits: &[(Scope, u32)]) -> Result<Option<i64>> {
        let mut least = None;
        for (scope, limit) in limits {
            let room = match self.left.get(scope) {
                Some(room) => *room,
                None => {
                    let room =
                        i64::from(*limit) - running(conn, scope).await? - self.beside.get(scope).copied().unwrap_or(0);
                    self.left.insert(scope.clone(), room);
                    room
                }
            };
            least = Some(least.map_or(room, |least: i64| least.min(room)));
        }
        Ok(least)
    }

    /// Uses up room.
    pub(crate) fn take(&mut self, limits: &[(Scope, u32)], n: i64) {
        for (scope, _) in limits {
            if let Some(room) = self.left.get_mut(scope) {
                *room -= n;
            }
        }
    }
}

/// Jobs with a live attempt; an index's range, as long as the limit.
async fn running(conn: &mut Conn, scope: &Scope) -> Result<i64> {
    let query = match scope {
        Scope::Queue(queue) => {
            q("SELECT count(*) FROM robata.jobs WHERE queue = $1 AND state = 2").bind(queue.as_str())
        }
        Scope::App(app) => q("SELECT count(*) FROM robata.jobs WHERE app = $1 AND state = 2").bind(app.as_str()),
        Scope::Definition(app, job) => q("SELECT count(*) FROM robata.jobs WHERE app = $1 AND job = $2 AND state = 2")
            .bind(app.as_str())
            .bind(job.as_str()),
    };
    Ok(query.fetch_one(conn).await?.try_get(0)?)
}

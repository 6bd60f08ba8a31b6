//! `max_running` of queue, app and definition: what has a limit, and how much of it is used.

use std::collections::HashMap;

use robata_core::row::Scope;
use sqlx::{Row as _, SqliteConnection};

use crate::error::Result;

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
    pub(crate) async fn of(&mut self, conn: &mut SqliteConnection, limits: &[(Scope, u32)]) -> Result<Option<i64>> {
        let mut least = None;
        for (scope, limit) in limits {
            let room = match self.left.get(scope) {
                Some(room) => *room,
                None => {
                    let beside = self.beside.get(scope).copied().unwrap_or(0);
                    let room = i64::from(*limit) - running(conn, scope).await? - beside;
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
async fn running(conn: &mut SqliteConnection, scope: &Scope) -> Result<i64> {
    let query = match scope {
        Scope::Queue(queue) => {
            sqlx::query("SELECT count(*) FROM jobs INDEXED BY jobs_by_queue WHERE queue = ? AND state = 2")
                .bind(queue.as_str())
        }
        Scope::App(app) => sqlx::query("SELECT count(*) FROM jobs INDEXED BY jobs_by_app WHERE app = ? AND state = 2")
            .bind(app.as_str()),
        Scope::Definition(app, job) => sqlx::query(
            "SELECT count(*) FROM jobs INDEXED BY jobs_by_definition WHERE app = ? AND job = ? AND state = 2",
        )
        .bind(app.as_str())
        .bind(job.as_str()),
    };
    Ok(query.fetch_one(conn).await?.try_get(0)?)
}
